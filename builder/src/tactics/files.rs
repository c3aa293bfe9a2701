//! Files that several builds may use at once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder of a file.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Keeps other builds out of a folder for as long as it lives. Where the file system has no
/// locks the work goes on without: every file is replaced whole, so the worst is that another
/// build's entries are lost.
pub(super) fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).and_then(|f| f.lock().map(|()| f));
    file.inspect_err(|e| log::debug!("{}: no lock: {e}", folder.display())).ok()
}

/// Gives a file new contents all at once: readers see the old ones or the new ones.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder(path).join(format!(".{name}.{}-{count}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
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
