//! The tactic cache: times measured by earlier builds, one JSON object a line.
//!
//! A time belongs to a device (its name, compute capability, multiprocessors, highest clock and
//! driver, and the compiler's version) and to a kernel's source, which says everything about the
//! layer and the candidate. So nothing in it ever has to be thrown away because something
//! changed: what changed has another key.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tobiuo_tensor::file;

use super::files;

/// Entries kept at most, the newest ones: about 40 MB.
const MOST: usize = 200_000;
/// While a build goes on, what it measured is saved this often, so that one that is interrupted
/// goes on from there.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    device: String,
    /// What was measured: the hash of a kernel's source, or the name of something else.
    of: String,
    /// Family and candidate, for people; of a network, what was settled.
    what: String,
    /// Microseconds, or the unit that `what` says; `None`: it does not run on this device.
    value: Option<f64>,
}

impl Line {
    fn sound(&self) -> bool {
        self.value.is_none_or(|v| v.is_finite() && v > 0.0)
    }
}

/// True for a line of another version of the cache.
fn alike(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(text)
        .is_ok_and(|line| line.get("device").is_some() && line.get("of").is_some())
}

/// Measured times, in a file or, without one, for this process only.
#[derive(Debug, Default)]
pub struct TacticCache {
    path: Option<PathBuf>,
    lines: Vec<Line>,
    index: HashMap<(String, String), usize>,
    changed: Vec<usize>,
    saved: Option<Instant>,
    /// Lines of the file that could not be understood.
    pub corrupt: usize,
}

impl TacticCache {
    /// Nothing measured yet, nothing kept.
    pub fn in_memory() -> TacticCache {
        TacticCache::default()
    }

    /// Reads a cache file. One that is not there is empty; lines that make no sense are skipped
    /// and gone when the file is written again.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read, is no regular file ([`ErrorKind::InvalidInput`]) or
    /// something else than a tactic cache ([`ErrorKind::InvalidData`]), or its folder cannot be
    /// made.
    pub fn open(path: &Path) -> io::Result<TacticCache> {
        fs::create_dir_all(file::folder(path))?;
        let mut cache = TacticCache::default();
        cache.corrupt = cache.read(path)?;
        cache.path = Some(path.into());
        if cache.corrupt > 0 {
            log::warn!(
                "{}: {} lines make no sense and are ignored; their kernels are timed again",
                path.display(),
                cache.corrupt
            );
        }
        Ok(cache)
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Number of entries, of all devices.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// True when nothing is known.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Adds the file's lines that are not known yet; the number of corrupt ones.
    fn read(&mut self, path: &Path) -> io::Result<usize> {
        // A device or a pipe may have no end.
        match fs::metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(e),
            Ok(found) if !found.is_file() => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(path)?;
        let (mut corrupt, mut known) = (0, 0);
        for text in bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
            match serde_json::from_slice::<Line>(text).ok().filter(Line::sound) {
                Some(line) => {
                    known += 1;
                    let key = (line.device.clone(), line.of.clone());
                    let at = self.lines.len();
                    if let std::collections::hash_map::Entry::Vacant(entry) = self.index.entry(key)
                    {
                        entry.insert(at);
                        self.lines.push(line);
                    }
                }
                None => corrupt += 1,
            }
        }
        // It would be overwritten when the cache is saved.
        if known == 0 && corrupt > 0 && !bytes.split(|&b| b == b'\n').any(alike) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "not one of its lines is a tactic, so it is something else and is left as it is",
            ));
        }
        Ok(corrupt)
    }

    /// A value measured before: `Some(None)` for what is known not to run.
    pub fn get(&self, device: &str, of: &str) -> Option<Option<f64>> {
        let at = *self.index.get(&(device.to_string(), of.to_string()))?;
        Some(self.lines[at].value)
    }

    /// What was said of a value.
    pub fn note(&self, device: &str, of: &str) -> Option<&str> {
        let at = *self.index.get(&(device.to_string(), of.to_string()))?;
        Some(&self.lines[at].what)
    }

    /// Notes a value; one that is not finite means that it does not run.
    pub fn put(&mut self, device: &str, of: &str, what: &str, value: f64) {
        let value = Some(value).filter(|v| v.is_finite() && *v > 0.0);
        let line = Line { device: device.into(), of: of.into(), what: what.into(), value };
        let at = *self.index.entry((device.into(), of.into())).or_insert(self.lines.len());
        if at == self.lines.len() {
            self.lines.push(line);
        } else {
            self.lines[at] = line;
        }
        self.changed.push(at);
    }

    /// Saves if the last time was a while ago.
    pub fn save_now_and_then(&mut self) {
        let begun = *self.saved.get_or_insert_with(Instant::now);
        if begun.elapsed() >= SAVE_EVERY {
            self.save();
        }
    }

    /// Writes the file anew, with what other builds added meanwhile. A cache that cannot be
    /// written costs the next build its time, so it is a warning.
    pub fn save(&mut self) {
        self.saved = Some(Instant::now());
        let (Some(path), false) = (self.path.clone(), self.changed.is_empty()) else { return };
        let _lock = files::lock(file::folder(&path));
        let mut merged = TacticCache::in_memory();
        let written = merged.read(&path).and_then(|_| {
            for &at in &self.changed {
                let l = &self.lines[at];
                merged.put(&l.device, &l.of, &l.what, l.value.unwrap_or(f64::INFINITY));
            }
            let mut text = Vec::new();
            for line in &merged.lines[merged.lines.len().saturating_sub(MOST)..] {
                serde_json::to_writer(&mut text, line)?;
                text.push(b'\n');
            }
            file::replace(&path, &text)
        });
        match written {
            Ok(()) => self.changed.clear(),
            Err(e) => log::warn!("{}: the tactic cache is not kept: {e}", path.display()),
        }
    }
}

impl Drop for TacticCache {
    fn drop(&mut self) {
        self.save();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_put_is_there_for_the_next_build() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/tactics.jsonl");
        let mut a = TacticCache::open(&path).unwrap();
        let mut b = TacticCache::open(&path).unwrap();
        assert!(a.is_empty());
        a.put("gpu", "k1", "conv 64x64", 2.5);
        b.put("gpu", "k2", "conv 32x32", f64::INFINITY);
        b.put("other", "k1", "conv 64x64", 7.0);
        b.put("gpu", "k1", "conv 64x64", 3.5);
        drop(a);
        drop(b);
        let c = TacticCache::open(&path).unwrap();
        assert_eq!((c.len(), c.corrupt), (3, 0));
        assert_eq!(c.get("gpu", "k1"), Some(Some(3.5)));
        assert_eq!(c.get("gpu", "k2"), Some(None));
        assert_eq!(c.get("other", "k1"), Some(Some(7.0)));
        assert_eq!(c.get("other", "k2"), None);
        let left: Vec<_> = fs::read_dir(file::folder(&path)).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/tactics.jsonl");
        let mut cache = TacticCache::open(&path).unwrap();
        fs::remove_dir(folder.path().join("gone")).unwrap();
        cache.put("gpu", "k", "x", 1.0);
        cache.save();
        assert_eq!(cache.get("gpu", "k"), Some(Some(1.0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Bytes changed anywhere: what is still read is what was written, or was changed to
        /// another sound line; the rest is counted.
        #[test]
        fn damage_is_skipped(damage in prop::collection::vec((0usize..4000, any::<u8>()), 1..20)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("t.jsonl");
            let mut cache = TacticCache::open(&path).unwrap();
            for i in 0..30 {
                cache.put("gpu", &format!("kernel {i}"), "x", 1.0 + f64::from(i));
            }
            cache.save();
            let mut bytes = fs::read(&path).unwrap();
            let n = bytes.len();
            for &(at, value) in &damage {
                bytes[at % n] = value;
            }
            fs::write(&path, &bytes).unwrap();
            let read = TacticCache::open(&path).unwrap();
            prop_assert!(read.len() + damage.len() * 2 >= 30);
            prop_assert!(read.lines.iter().all(Line::sound));
            let whole = |i: &u32| {
                read.get("gpu", &format!("kernel {i}")) == Some(Some(1.0 + f64::from(*i)))
            };
            prop_assert!((0..30).filter(whole).count() + damage.len() * 2 >= 30);
        }
    }

    #[test]
    fn nonsense_is_ignored_with_a_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let good = r#"{"device":"g","of":"k","what":"w","value":2.0}"#;
        let text = format!(
            "\u{1}\n{good}\n{{\"device\":1}}\n{}\n{}\n[]\n",
            good.replace("2.0", "-1"),
            good.replace("2.0", "1e999")
        );
        fs::write(&path, text).unwrap();
        let cache = TacticCache::open(&path).unwrap();
        assert_eq!((cache.len(), cache.corrupt), (1, 5));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(TacticCache::open(&path).is_err());
    }
}
