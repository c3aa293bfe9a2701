use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::{Hash, Head, Section, SectionKind};
use crate::hash::{Reading, hash};
use crate::map::Map;
use crate::{EngineError, EngineErrorKind, Manifest, ThisDevice, device, validate};

/// An engine file, mapped, verified and validated. Cheap to clone and to share: clones are
/// of one map.
#[derive(Clone)]
pub struct EngineFile {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    map: Map,
    manifest: Manifest,
    sections: Vec<Section>,
    weights: Range<usize>,
    code: Range<usize>,
    hash: Hash,
}

/// How a file is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Keep the pages that verification read in this process's memory. Without it they are
    /// given back as it goes, so that peak memory stays small; they stay in the system's
    /// page cache either way.
    pub keep_resident: bool,
    /// Threads that hash; `None` takes the machine's, at most 8.
    pub threads: Option<usize>,
}

impl OpenOptions {
    /// Opens a file; see [`EngineFile::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<EngineFile, EngineError> {
        let path = path.as_ref();
        self.open_file(path).map_err(|e| e.in_file(path))
    }

    fn open_file(&self, path: &Path) -> Result<EngineFile, EngineError> {
        // Asked before opening: opening a FIFO would wait for its writer.
        let metadata = fs::metadata(path).map_err(|e| EngineError::io("cannot open it", e))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            return Err(EngineError::new(
                EngineErrorKind::NotAnEngine,
                format!("not an engine file: it is {what}"),
            ));
        }
        let file = File::open(path).map_err(|e| EngineError::io("cannot open it", e))?;
        let len = file.metadata().map_err(|e| EngineError::io("cannot read it", e))?.len();
        if len == 0 {
            return Err(Head::parse(&[]).expect_err("no engine is empty"));
        }
        let map = Map::of_file(&file).map_err(|e| EngineError::io("cannot map it", e))?;
        self.load(path, map)
    }

    /// Takes a whole file's bytes (a copy of them is made); see [`EngineFile::from_bytes`].
    pub fn from_bytes(&self, bytes: &[u8]) -> Result<EngineFile, EngineError> {
        if bytes.is_empty() {
            return Err(Head::parse(&[]).expect_err("no engine is empty"));
        }
        // Cheap checks first: what is no engine is not worth a copy.
        Head::parse(bytes)?;
        let map = Map::of_bytes(bytes).map_err(|e| EngineError::io("no memory for it", e))?;
        self.load(Path::new(""), map)
    }

    fn load(&self, path: &Path, map: Map) -> Result<EngineFile, EngineError> {
        let (head, hash) = Head::parse(map.bytes())?;
        self.verify(&head, &map)?;
        let manifest = parse_manifest(&map.bytes()[range(&head, Part::Manifest)], &head)?;
        let find = |kind| head.sections.iter().position(|s| s.kind == kind);
        let weights = find(SectionKind::Weights).expect("the head was checked to have weights");
        let code = find(SectionKind::Code);
        validate(&manifest, head.sections[weights].len, code.map(|c| head.sections[c].len))?;
        let weights = range(&head, Part::Section(weights));
        let code = code.map_or(0..0, |code| range(&head, Part::Section(code)));
        let path = path.into();
        let inner = Inner { path, map, manifest, sections: head.sections, weights, code, hash };
        Ok(EngineFile { inner: Arc::new(inner) })
    }

    /// Every byte behind the head: hashed, or zero. The manifest first, it is the smallest.
    fn verify(&self, head: &Head, map: &Map) -> Result<(), EngineError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let reading =
            Reading { threads: self.threads.unwrap_or_else(cores), keep: self.keep_resident };
        let damaged = |place: String, offset: u64, reason: &str| {
            Err(EngineError::new(EngineErrorKind::Damaged, reason).at(place).at_byte(offset))
        };
        let mismatch = "the bytes do not match their hash";
        if hash(map, range(head, Part::Manifest), Reading { keep: true, ..reading })
            != head.manifest_hash
        {
            return damaged("manifest".into(), head.manifest_offset, mismatch);
        }
        for (i, gap) in head.paddings().enumerate() {
            let bytes = &map.bytes()[gap.start as usize..gap.end as usize];
            if let Some(at) = bytes.iter().position(|&b| b != 0) {
                let place = format!("padding before section {i}");
                return damaged(place, gap.start + at as u64, "a byte is not zero");
            }
        }
        for (i, section) in head.sections.iter().enumerate() {
            if hash(map, range(head, Part::Section(i)), reading) != section.hash {
                return damaged(
                    format!("{} (section {i}, {} bytes)", section.kind.name(), section.len),
                    section.offset,
                    mismatch,
                );
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Part {
    Manifest,
    Section(usize),
}

/// A part's bytes; in bounds of the map because the head was checked against its length.
fn range(head: &Head, part: Part) -> Range<usize> {
    let (offset, len) = match part {
        Part::Manifest => (head.manifest_offset, head.manifest_len),
        Part::Section(i) => (head.sections[i].offset, head.sections[i].len),
    };
    offset as usize..(offset + len) as usize
}

fn parse_manifest(json: &[u8], head: &Head) -> Result<Manifest, EngineError> {
    serde_json::from_slice(json).map_err(|e| {
        let at = json_offset(json, e.line(), e.column());
        EngineError::new(EngineErrorKind::Inconsistent, e.to_string())
            .at("manifest")
            .at_byte(head.manifest_offset + at)
    })
}

/// The byte of a 1-based line and column.
fn json_offset(json: &[u8], line: usize, column: usize) -> u64 {
    let start: usize =
        json.split_inclusive(|&b| b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (start + column.saturating_sub(1)) as u64
}

impl EngineFile {
    /// Maps a file, checks its head, verifies every byte of it, and validates its manifest.
    ///
    /// An error names the file, the place and the reason; see [`EngineError`]. On success
    /// nothing in the file needs another check, except that it suits
    /// [this device](EngineFile::check_device).
    pub fn open(path: impl AsRef<Path>) -> Result<EngineFile, EngineError> {
        OpenOptions::default().open(path)
    }

    /// The same for a whole file's bytes in memory, of which a copy is made.
    pub fn from_bytes(bytes: &[u8]) -> Result<EngineFile, EngineError> {
        OpenOptions::default().from_bytes(bytes)
    }

    /// What the engine is.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The weights section; begins at a multiple of the page size. Every
    /// [`Place::Weights`](crate::Place) range is inside.
    pub fn weights(&self) -> &[u8] {
        &self.inner.map.bytes()[self.inner.weights.clone()]
    }

    /// The code section; empty where the engine has none. Every
    /// [`CudaModule`](crate::CudaModule) is inside.
    pub fn code(&self) -> &[u8] {
        &self.inner.map.bytes()[self.inner.code.clone()]
    }

    /// Gives the pages of a range of the weights back to the system, for example after a
    /// kernel took its own copy. Reading them again is allowed and reads the file.
    pub fn release(&self, weights: Range<usize>) {
        let within = &self.inner.weights;
        let start = within.start + weights.start.min(within.len());
        let end = within.start + weights.end.min(within.len());
        self.inner.map.release(start..end);
    }

    /// The file's identity: a blake3 hash that covers, through the hashes of the parts, every
    /// byte of the file.
    pub fn hash(&self) -> Hash {
        self.inner.hash
    }

    /// The identity in hex.
    pub fn hash_hex(&self) -> String {
        blake3::Hash::from_bytes(self.inner.hash).to_hex().to_string()
    }

    /// Where it was opened; empty for bytes in memory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The file's length, bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.inner.map.bytes().len() as u64
    }

    /// The sections, in file order.
    pub fn sections(&self) -> &[Section] {
        &self.inner.sections
    }

    /// `Ok` when the engine is made for this device. The error (exit status 3) shows field by
    /// field what it is built for and what is here, and the command that rebuilds it.
    pub fn check_device(&self, here: &ThisDevice) -> Result<(), EngineError> {
        let path = match self.inner.path.to_string_lossy() {
            p if p.is_empty() => "ENGINE".into(),
            p => p,
        };
        device::check(&self.inner.manifest, here, &path).map_err(|e| e.in_file(&self.inner.path))
    }
}

impl std::fmt::Debug for EngineFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineFile")
            .field("path", &self.inner.path)
            .field("len", &self.len())
            .field("hash", &self.hash_hex())
            .finish_non_exhaustive()
    }
}
