//! The builder's side: engine files, written as they go and never left half done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tobiuo_tensor::file;

use crate::format::{Hash, Head, MAX_MANIFEST, MAX_SECTIONS, SectionKind, check_kinds};
use crate::{EngineError, EngineErrorKind, Manifest, validate};

/// A section to be written: its kind and exact length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionSpec {
    /// What it holds.
    pub kind: SectionKind,
    /// Its length, bytes.
    pub len: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file's length, bytes.
    pub len: u64,
    /// Its identity, as [`EngineFile::hash`](crate::EngineFile::hash) gives it.
    pub hash: Hash,
}

/// Writes an engine file: the manifest first, then the sections' bytes as they come, under a
/// temporary name in the same directory. [`finish`](EngineWriter::finish) syncs it and gives
/// it its name, replacing what had that name. When anything fails, or the writer is dropped
/// before, the temporary file is removed and nothing else has changed.
///
/// The same manifest and sections give the same bytes.
#[derive(Debug)]
pub struct EngineWriter {
    encoder: Encoder<BufWriter<sink::Sink>>,
    temporary: Temporary,
    path: PathBuf,
}

impl EngineWriter {
    /// Begins a file for sections of these lengths, in this order. Refuses, before anything
    /// is written, a manifest that the reader would refuse, and a disk too full for it.
    pub fn create(
        path: impl AsRef<Path>,
        manifest: &Manifest,
        sections: &[SectionSpec],
    ) -> Result<EngineWriter, EngineError> {
        let path = path.as_ref();
        let json = checked_json(manifest, sections).map_err(|e| e.in_file(path))?;
        let head = head(json.len(), sections).map_err(|e| e.in_file(path))?;
        let (file, temporary) = Temporary::create(path)
            .map_err(|e| EngineError::io("cannot create it", e).in_file(path))?;
        let size = head.file_len;
        // On a device that is nearly full, better now than after minutes of writing. The
        // system's figure may lag, so only a clear lack counts; the write itself decides.
        if let Some(free) = free_bytes(path)
            && free < size
        {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(write_error(full, path, size));
        }
        let encoder =
            Encoder::new(BufWriter::with_capacity(1 << 20, sink::Sink(file)), head, &json)
                .map_err(|e| write_error(e, path, size))?;
        Ok(EngineWriter { encoder, temporary, path: path.into() })
    }

    /// Appends bytes to the sections, filling one after the other.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let size = self.encoder.head.file_len;
        self.encoder.write(bytes).map_err(|e| write_error(e, &self.path, size))
    }

    /// Appends zeros up to a position in the current section.
    pub fn pad_to(&mut self, position: u64) -> Result<(), EngineError> {
        let zeros = [0; 4096];
        let mut lack = position.checked_sub(self.position()).ok_or_else(|| {
            EngineError::new(
                EngineErrorKind::Inconsistent,
                format!("cannot pad to byte {position}: already at {}", self.position()),
            )
            .in_file(&self.path)
        })?;
        while lack > 0 {
            let n = lack.min(zeros.len() as u64);
            self.write(&zeros[..n as usize])?;
            lack -= n;
        }
        Ok(())
    }

    /// Bytes written to the current section.
    pub fn position(&self) -> u64 {
        self.encoder.position
    }

    /// Completes the file and gives it its name.
    pub fn finish(self) -> Result<Written, EngineError> {
        let EngineWriter { encoder, temporary, path } = self;
        let size = encoder.head.file_len;
        let end = || {
            let (out, hash) = encoder.finish()?;
            let sink::Sink(file) = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            drop(file);
            temporary.publish(&path)?;
            Ok(hash)
        };
        let hash = end().map_err(|e| write_error(e, &path, size))?;
        Ok(Written { len: size, hash })
    }
}

/// Writes an engine of the CPU device whose weights are in memory; see [`EngineWriter`].
pub fn write_engine(
    path: impl AsRef<Path>,
    manifest: &Manifest,
    weights: &[u8],
) -> Result<Written, EngineError> {
    write_sections(path, manifest, &[(SectionKind::Weights, weights)])
}

/// Writes an engine whose sections are in memory; see [`EngineWriter`].
pub fn write_sections(
    path: impl AsRef<Path>,
    manifest: &Manifest,
    sections: &[(SectionKind, &[u8])],
) -> Result<Written, EngineError> {
    let mut writer = EngineWriter::create(path, manifest, &specs(sections))?;
    sections.iter().try_for_each(|(_, bytes)| writer.write(bytes))?;
    writer.finish()
}

/// The bytes of an engine file of the CPU device.
pub fn encode(manifest: &Manifest, weights: &[u8]) -> Result<Vec<u8>, EngineError> {
    encode_sections(manifest, &[(SectionKind::Weights, weights)])
}

/// The bytes of an engine file.
pub fn encode_sections(
    manifest: &Manifest,
    sections: &[(SectionKind, &[u8])],
) -> Result<Vec<u8>, EngineError> {
    let json = checked_json(manifest, &specs(sections))?;
    Ok(assemble(&json, sections))
}

fn specs(sections: &[(SectionKind, &[u8])]) -> Vec<SectionSpec> {
    let spec =
        |&(kind, bytes): &(SectionKind, &[u8])| SectionSpec { kind, len: bytes.len() as u64 };
    sections.iter().map(spec).collect()
}

/// The bytes of a file around a manifest's text, unchecked, with right hashes: what an
/// attacker can make. For tests of readers.
///
/// Panics with more than [`MAX_SECTIONS`] sections.
pub fn assemble(json: &[u8], sections: &[(SectionKind, &[u8])]) -> Vec<u8> {
    let head = head(json.len(), &specs(sections)).expect("sections that fit a file");
    let written = Encoder::new(Cursor::new(Vec::new()), head, json).and_then(|mut encoder| {
        sections.iter().try_for_each(|(_, bytes)| encoder.write(bytes))?;
        encoder.finish()
    });
    written.expect("memory can be written").0.into_inner()
}

/// The manifest as text, when the reader would take it.
fn checked_json(manifest: &Manifest, sections: &[SectionSpec]) -> Result<Vec<u8>, EngineError> {
    let kinds: Vec<SectionKind> = sections.iter().map(|s| s.kind).collect();
    check_kinds(&kinds)
        .map_err(|reason| EngineError::new(EngineErrorKind::Inconsistent, reason))?;
    let len = |kind| sections.iter().find(|s| s.kind == kind).map(|s| s.len);
    validate(manifest, len(SectionKind::Weights).unwrap_or(0), len(SectionKind::Code))?;
    let json = serde_json::to_vec(manifest).map_err(|e| EngineError::io("manifest", e.into()))?;
    if json.len() as u64 > MAX_MANIFEST {
        return Err(EngineError::new(
            EngineErrorKind::Limit,
            format!("a manifest of {} bytes; at most {MAX_MANIFEST}", json.len()),
        ));
    }
    Ok(json)
}

fn head(json_len: usize, sections: &[SectionSpec]) -> Result<Head, EngineError> {
    let lens: Vec<_> = sections.iter().map(|s| (s.kind, s.len)).collect();
    if lens.len() > MAX_SECTIONS {
        return Err(EngineError::new(
            EngineErrorKind::Limit,
            format!("{} sections; at most {MAX_SECTIONS}", lens.len()),
        ));
    }
    Head::layout(json_len as u64, &lens)
        .ok_or_else(|| EngineError::new(EngineErrorKind::Limit, "sections of more than 64 bits"))
}

/// The file as the encoder writes it; in tests, on a disk that fills.
mod sink {
    use std::fs::File;
    use std::io::{self, Seek, SeekFrom, Write};

    #[cfg(test)]
    thread_local! {
        /// Bytes that this thread may still write to files, if there is a limit.
        pub(super) static ROOM: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    }

    #[derive(Debug)]
    pub(super) struct Sink(pub(super) File);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            #[cfg(test)]
            if let Some(room) = ROOM.get() {
                let n = room.min(bytes.len() as u64) as usize;
                if n == 0 && !bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                ROOM.set(Some(room - n as u64));
                return self.0.write_all(&bytes[..n]).map(|()| n);
            }
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    impl Seek for Sink {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
}

/// Writes a file's parts in order, hashing as it goes, and its head last.
#[derive(Debug)]
struct Encoder<W> {
    out: W,
    head: Head,
    /// The section being written, and how much of it is.
    current: usize,
    position: u64,
    hasher: blake3::Hasher,
}

impl<W: Write + Seek> Encoder<W> {
    fn new(mut out: W, mut head: Head, json: &[u8]) -> io::Result<Encoder<W>> {
        head.manifest_hash = *blake3::hash(json).as_bytes();
        // Zeros where the head will be: a file that was cut off here is no engine.
        out.write_all(&vec![0; head.manifest_offset as usize])?;
        out.write_all(json)?;
        let mut encoder =
            Encoder { out, head, current: 0, position: 0, hasher: blake3::Hasher::new() };
        encoder.pad()?;
        encoder.end_full_sections()?;
        Ok(encoder)
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some(section) = self.head.sections.get(self.current) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} bytes more than the sections' lengths", bytes.len()),
                ));
            };
            let room = section.len - self.position;
            let (now, later) = bytes.split_at(room.min(bytes.len() as u64) as usize);
            self.out.write_all(now)?;
            self.hasher.update(now);
            self.position += now.len() as u64;
            bytes = later;
            self.end_full_sections()?;
        }
        Ok(())
    }

    /// Moves on while the current section has all its bytes.
    fn end_full_sections(&mut self) -> io::Result<()> {
        while let Some(section) = self.head.sections.get_mut(self.current)
            && section.len == self.position
        {
            section.hash = *self.hasher.finalize().as_bytes();
            self.hasher.reset();
            self.current += 1;
            self.position = 0;
            self.pad()?;
        }
        Ok(())
    }

    /// The zeros before the current section.
    fn pad(&mut self) -> io::Result<()> {
        match self.head.paddings().nth(self.current) {
            Some(gap) => self.out.write_all(&vec![0; (gap.end - gap.start) as usize]),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<(W, Hash)> {
        if let Some(section) = self.head.sections.get(self.current) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the {} has {} of its {} bytes",
                    section.kind.name(),
                    self.position,
                    section.len
                ),
            ));
        }
        let (bytes, hash) = self.head.encode();
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        Ok((self.out, hash))
    }
}

/// A file beside the one to be made, removed when dropped.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    published: bool,
}

impl Temporary {
    fn create(beside: &Path) -> io::Result<(File, Temporary)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(name) = beside.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file's name"));
        };
        if beside.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{count}.tmp", std::process::id()));
            let path = beside.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Temporary { path, published: false })),
                // Left by a killed process that had this one's number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
        }
    }

    /// Renames the file and makes the name durable.
    fn publish(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.published = true;
        match File::open(file::folder(path)) {
            Ok(directory) => directory.sync_all(),
            // A directory that may be written to but not read cannot be synced; the file is
            // there all the same.
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Bytes that an unprivileged process may still write beside a path, where the system tells.
fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(file::folder(path)).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

fn write_error(error: io::Error, path: &Path, needed: u64) -> EngineError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let wrong_use = error.kind() == io::ErrorKind::InvalidInput;
    let mut e = EngineError::io("cannot write it", error);
    if wrong_use {
        e = e.help("nothing was left behind");
    } else if full {
        let free = free_bytes(path).map_or(String::new(), |n| format!(", {n} are free"));
        e = e.help(format!(
            "it needs {needed} bytes{free}; make room and build again (nothing was left behind)"
        ));
    } else {
        e = e.help("nothing was left behind");
    }
    e.in_file(path)
}

#[cfg(test)]
mod tests;
