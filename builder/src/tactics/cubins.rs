//! Compiled kernels of earlier builds, a file each, named by everything that decides its bytes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tobiuo_nvrtc::Compiled;

use super::files;

/// Bytes that all files together may have; the ones longest not used go first.
const MOST_BYTES: u64 = 128 << 20;

const MAGIC: &[u8; 8] = b"tobiuoK1";
/// Magic, hash of the rest, registers, spilled bytes, shared memory.
const HEAD: usize = 8 + 32 + 3 * 4;

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct CubinStore {
    folder: PathBuf,
    most_bytes: u64,
}

/// What decides a kernel's code.
#[derive(Clone, Copy, Debug)]
pub struct CubinKey<'a> {
    /// The complete source.
    pub source: &'a str,
    /// The compiler's version.
    pub nvrtc: (u32, u32),
    /// Compute capability, 87 for 8.7.
    pub sm: u32,
    /// For the architecture's own features.
    pub specific: bool,
}

impl CubinKey<'_> {
    fn file(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let CubinKey { nvrtc: (major, minor), sm, specific, source } = self;
        hash.update(format!("{major}.{minor} sm_{sm} {specific}\n").as_bytes());
        hash.update(source.as_bytes());
        format!("{}.cubin", hash.finalize().to_hex())
    }
}

impl CubinStore {
    /// A store in a folder, which is made where it is not there.
    pub fn open(folder: &Path) -> io::Result<CubinStore> {
        fs::create_dir_all(folder)?;
        Ok(CubinStore { folder: folder.into(), most_bytes: MOST_BYTES })
    }

    /// The code of a kernel compiled before. A damaged file is removed.
    pub fn get(&self, key: &CubinKey) -> Option<Compiled> {
        let path = self.folder.join(key.file());
        let bytes = fs::read(&path).ok()?;
        let compiled = decode(&bytes);
        if compiled.is_none() {
            log::warn!("{}: damaged, compiled again", path.display());
            let _ = fs::remove_file(&path);
        } else if let Ok(file) = File::options().append(true).open(&path) {
            // Used now: the last to go.
            let _ = file.set_modified(SystemTime::now());
        }
        compiled
    }

    /// Keeps a kernel's code. What cannot be kept is compiled again next time.
    pub fn put(&self, key: &CubinKey, code: &Compiled) {
        let path = self.folder.join(key.file());
        if let Err(e) = tobiuo_tensor::file::replace(&path, &encode(code)) {
            log::debug!("{}: {e}", path.display());
        }
    }

    /// Removes what was not used for longest until the rest is small enough.
    pub fn trim(&self) {
        let _lock = files::lock(&self.folder);
        let mut all: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let path = entry.path();
                let meta = entry.metadata().ok()?;
                let ours = path.extension().is_some_and(|e| e == "cubin");
                ours.then(|| (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path))
            })
            .collect();
        all.sort();
        let mut total: u64 = all.iter().map(|f| f.1).sum();
        for (_, len, path) in all {
            if total <= self.most_bytes {
                return;
            }
            if fs::remove_file(&path).is_ok() {
                total -= len;
            }
        }
    }
}

fn encode(code: &Compiled) -> Vec<u8> {
    let mut rest = Vec::with_capacity(12 + code.cubin.len());
    for n in [code.registers, code.spill_bytes, code.shared_bytes] {
        rest.extend(n.to_le_bytes());
    }
    rest.extend(&code.cubin);
    [&MAGIC[..], blake3::hash(&rest).as_bytes(), &rest].concat()
}

fn decode(bytes: &[u8]) -> Option<Compiled> {
    let rest = bytes.get(40..)?;
    if &bytes[..8] != MAGIC || blake3::hash(rest).as_bytes()[..] != bytes[8..40] {
        return None;
    }
    let cubin = bytes.get(HEAD..)?.to_vec();
    let number = |i: usize| Some(u32::from_le_bytes(rest.get(4 * i..4 * i + 4)?.try_into().ok()?));
    Some(Compiled {
        registers: number(0)?,
        spill_bytes: number(1)?,
        shared_bytes: number(2)?,
        cubin,
        log: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: usize) -> Compiled {
        Compiled {
            cubin: (0..bytes).map(|i| i as u8).collect(),
            registers: 40,
            spill_bytes: 8,
            shared_bytes: 1024,
            log: String::new(),
        }
    }

    fn key(source: &str) -> CubinKey<'_> {
        CubinKey { source, nvrtc: (12, 6), sm: 87, specific: false }
    }

    #[test]
    fn code_comes_back_for_the_same_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = CubinStore::open(&folder.path().join("k")).unwrap();
        store.put(&key("a"), &code(100));
        assert_eq!(store.get(&key("a")), Some(code(100)));
        for other in [
            key("b"),
            CubinKey { nvrtc: (12, 8), ..key("a") },
            CubinKey { sm: 90, ..key("a") },
            CubinKey { specific: true, ..key("a") },
        ] {
            assert_eq!(store.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn damaged_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = CubinStore::open(folder.path()).unwrap();
        let file = folder.path().join(key("a").file());
        let whole = encode(&code(60));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
            assert_eq!(decode(&whole[..at]), None);
        }
        fs::write(&file, &whole[..50]).unwrap();
        assert_eq!(store.get(&key("a")), None);
        assert!(!file.exists());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let store = CubinStore { folder: folder.path().into(), most_bytes: 3 * 1100 };
        for (age, name) in ["a", "b", "c", "d"].iter().enumerate() {
            store.put(&key(name), &code(1000));
            let file = File::options().append(true).open(folder.path().join(key(name).file()));
            let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            file.unwrap().set_modified(long_ago).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "kept").unwrap();
        assert!(store.get(&key("a")).is_some(), "used again, so it is the newest");
        store.trim();
        let there: Vec<bool> =
            ["a", "b", "c", "d"].iter().map(|n| store.get(&key(n)).is_some()).collect();
        assert_eq!(there, [true, false, true, true]);
        assert!(folder.path().join("notes.txt").exists());
    }
}
