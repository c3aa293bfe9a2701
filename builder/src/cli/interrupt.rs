//! Ctrl-C and SIGTERM during a build: unfinished files are removed, the old ones stay.

use std::fs;
use std::path::{Path, PathBuf};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tobiuo::console;

/// Ends the process on SIGINT or SIGTERM, with the status that shells give it (128 + the
/// signal), after removing what a build has begun to write under temporary names beside these
/// files. What was measured and compiled so far stays in the tactic cache.
///
/// A build can be anywhere when the signal comes, also deep in a computation; so a thread of
/// its own waits for it.
pub(super) fn clean_up_on_signals(written: Vec<PathBuf>) {
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(e) => return log::warn!("cannot handle signals: {e}"),
    };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            written.iter().for_each(|file| remove_unfinished(file));
            console::say("\ninterrupted: no engine was written");
            std::process::exit(128 + signal);
        }
    });
}

/// Removes this process's temporary files beside a file: `.NAME.PID-N.tmp`.
fn remove_unfinished(engine: &Path) {
    let Some(name) = engine.file_name() else { return };
    let prefix = format!(".{}.{}-", name.to_string_lossy(), std::process::id());
    let folder = tobiuo_tensor::file::folder(engine);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.starts_with(&prefix) && file.ends_with(".tmp") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_build_s_unfinished_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mine = at(&format!(".a.tobiuo.{}-3.tmp", std::process::id()));
        let kept = [at("a.tobiuo"), at(".a.tobiuo.1-0.tmp"), at(".b.tobiuo.1-0.tmp"), at("x.tmp")];
        for file in kept.iter().chain([&mine]) {
            fs::write(file, "x").unwrap();
        }
        remove_unfinished(&at("a.tobiuo"));
        assert!(!mine.exists());
        assert!(kept.iter().all(|f| f.exists()));
    }
}
