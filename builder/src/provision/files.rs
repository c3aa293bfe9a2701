//! The files of a provisioned engine, changed so that a good engine is there at every moment.
//!
//! Beside `NAME` there are `NAME.previous` (the engine before), `.NAME.candidate` (one that is
//! being made and tested) and `.NAME.lock`. Whatever is interrupted, by a signal or by a power
//! cut, `NAME` is the old engine or the new one, whole: bytes are synced before a name is given
//! to them, and a name changes by `rename`, which is atomic.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::BuildError;

/// The names around one engine.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub engine: PathBuf,
    pub previous: PathBuf,
    pub candidate: PathBuf,
    lock: PathBuf,
}

impl Places {
    pub fn of(engine: &Path) -> Result<Places, BuildError> {
        let Some(name) = engine.file_name() else {
            return Err(BuildError::Usage(format!("{}: not a file's name", engine.display())));
        };
        let beside = |before: &str, behind: &str| {
            let mut file = OsString::from(before);
            file.push(name);
            file.push(behind);
            engine.with_file_name(file)
        };
        Ok(Places {
            engine: engine.into(),
            previous: beside("", ".previous"),
            candidate: beside(".", ".candidate"),
            lock: beside(".", ".lock"),
        })
    }

    /// The folder of them all.
    pub fn folder(&self) -> &Path {
        tobiuo_tensor::file::folder(&self.engine)
    }

    /// Makes the folder and waits until no other process provisions this engine. The lock is
    /// the kernel's and ends with the process, however that ends.
    pub fn lock(&self) -> Result<File, BuildError> {
        fs::create_dir_all(self.folder()).map_err(|e| self.refused("make this folder", e))?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.lock);
        let file = file.map_err(|e| self.refused("write here", e))?;
        if file.try_lock().is_err() {
            log::warn!("{}: another process provisions it; waiting", self.engine.display());
            file.lock().map_err(|e| self.refused("lock it", e))?;
        }
        Ok(file)
    }

    /// An error about the folder.
    fn refused(&self, what: &str, error: io::Error) -> BuildError {
        let folder = self.folder().display();
        let remedy = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                "engines are files of the device itself: give a folder on a writable file system \
                 (--cache /var/cache/tobiuo)"
            }
            io::ErrorKind::PermissionDenied => {
                "run it as the user whose folder this is (sudo -u tobiuo), or give another one"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
            _ => "see that it is a folder and can be written to",
        };
        BuildError::Provision(format!("{folder}: cannot {what}: {error}; {remedy}"))
    }

    /// Removes what a run that was killed has left. Only under the lock.
    pub fn sweep(&self) {
        let name = self.engine.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let build = format!(".{name}.");
        let ours = [format!("..{name}.candidate."), format!(".{name}.previous.")];
        let _ = fs::remove_file(&self.candidate);
        for entry in fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(stem) = file.strip_suffix(".tmp") else { continue };
            // `.NAME.PID-N.tmp` may belong to a build that takes no lock.
            let dead = |of: &str| {
                let pid = of.split('-').next().unwrap_or("");
                pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
            };
            let unfinished = ours.iter().any(|prefix| stem.starts_with(prefix))
                || stem.strip_prefix(&build).is_some_and(dead);
            if unfinished {
                log::info!("{file}: removed, a run that was interrupted left it");
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Gives the engine that is there a second name, the one before it goes.
    pub fn keep(&self) -> io::Result<()> {
        duplicate(&self.engine, &self.previous)
    }

    /// The candidate becomes the engine.
    pub fn publish(&self) -> io::Result<()> {
        fs::rename(&self.candidate, &self.engine)?;
        sync_folder(self.folder())
    }

    /// The engine becomes what another file is, which stays.
    pub fn adopt(&self, from: &Path) -> io::Result<()> {
        // Not a link to a file that somebody else may write to.
        if from == self.previous { duplicate(from, &self.engine) } else { copy(from, &self.engine) }
    }
}

/// `to` becomes a second name of `from`, or a copy where the file system has no links.
fn duplicate(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = temporary(to);
    match fs::hard_link(from, &temporary) {
        Ok(()) => {
            fs::rename(&temporary, to)?;
            // Of two names of one file `rename` leaves both.
            let _ = fs::remove_file(&temporary);
            sync_folder(to.parent().unwrap_or(Path::new(".")))
        }
        Err(_) => copy(from, to),
    }
}

/// Copies under a temporary name, syncs, renames.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let temporary = temporary(to);
    let done = (|| {
        let mut source = File::open(from)?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        io::copy(&mut source, &mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, to)?;
        sync_folder(to.parent().unwrap_or(Path::new(".")))
    })();
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// `.NAME.PID-p.tmp`, a form that [`Places::sweep`] knows.
fn temporary(of: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(of.file_name().unwrap_or_default());
    name.push(format!(".{}-p.tmp", std::process::id()));
    let temporary = of.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    temporary
}

/// Makes new names durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        // A folder that may be written to but not read cannot be synced.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let gone = [
            ".a.tobiuo.candidate",
            "..a.tobiuo.candidate.12-0.tmp",
            ".a.tobiuo.4294967295-0.tmp",
            ".a.tobiuo.4294967295-p.tmp",
            ".a.tobiuo.previous.7-p.tmp",
        ];
        let mine = format!(".a.tobiuo.{}-0.tmp", std::process::id());
        let kept = ["a.tobiuo", "a.tobiuo.previous", ".b.tobiuo.9-0.tmp", "x.tmp", &mine];
        for name in gone.iter().chain(&kept) {
            fs::write(at(name), "x").unwrap();
        }
        Places::of(&at("a.tobiuo")).unwrap().sweep();
        assert!(gone.iter().all(|name| !at(name).exists()));
        assert!(kept.iter().all(|name| at(name).exists()));
    }

    #[test]
    fn engines_change_names_without_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::of(&folder.path().join("a.tobiuo")).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        fs::write(&places.engine, "one").unwrap();
        places.keep().unwrap();
        // Again: both names are of one file now.
        places.keep().unwrap();
        fs::write(&places.candidate, "two").unwrap();
        places.publish().unwrap();
        assert_eq!((read(&places.engine), read(&places.previous)), ("two".into(), "one".into()));
        places.adopt(&places.previous).unwrap();
        assert_eq!(read(&places.engine), "one");
        let seed = folder.path().join("seed");
        fs::write(&seed, "three").unwrap();
        places.adopt(&seed).unwrap();
        fs::write(&seed, "changed").unwrap();
        assert_eq!(read(&places.engine), "three");
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 3, "engine, previous, seed");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = Places::of(Path::new("/proc/none/a.tobiuo")).unwrap().lock().unwrap_err();
        assert!(error.to_string().starts_with("/proc/none: cannot make this folder"), "{error}");
        assert_eq!(error.exit_status(), 1);
    }
}
