//! Files that several builds may use at once.

use std::fs::File;
use std::path::{Path, PathBuf};

/// Keeps other builds out of a folder for as long as it lives. Where the file system has no
/// locks the work goes on without: every file is replaced whole, so the worst is that another
/// build's entries are lost.
pub(super) fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).and_then(|f| f.lock().map(|()| f));
    file.inspect_err(|e| log::debug!("{}: no lock: {e}", folder.display())).ok()
}

/// The folder in which the user's programs keep what they can make again:
/// `$XDG_CACHE_HOME/tobiuo`, else `~/.cache/tobiuo`.
pub(super) fn user_cache() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name).map(PathBuf::from).filter(|p: &PathBuf| p.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("tobiuo"))
}
