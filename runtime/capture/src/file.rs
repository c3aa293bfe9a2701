//! A file read at any place, through a small window for headers.
//!
//! Files are read and not mapped: a mapped file that another program shortens kills the process,
//! and a frame is copied or decoded only once either way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{CaptureError, CaptureErrorKind as Kind};

const WINDOW: usize = 16 << 10;

/// A regular file with a window on it.
pub(crate) struct FileWindow {
    file: File,
    name: String,
    length: u64,
    window: Box<[u8]>,
    /// Where the window lies, and how much of it is filled.
    start: u64,
    filled: usize,
}

impl FileWindow {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| CaptureError::io(&name, "open", error))?;
        let metadata = file.metadata().map_err(|error| CaptureError::io(&name, "open", error))?;
        if !metadata.is_file() {
            return Err(CaptureError::new(Kind::Unsupported, &name, "not a regular file"));
        }
        let window = vec![0; WINDOW].into_boxed_slice();
        Ok(Self { file, name, length: metadata.len(), window, start: 0, filled: 0 })
    }

    /// The name that errors give.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The bytes of the file when it was opened.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The bytes at `offset`: `wanted` of them (at most 16 KiB), or fewer at the end of the file,
    /// and more when they are at hand.
    pub(crate) fn at(&mut self, offset: u64, wanted: usize) -> Result<&[u8], CaptureError> {
        let end = offset.saturating_add(wanted as u64).min(self.length);
        if offset < self.start || end > self.start + self.filled as u64 {
            self.start = offset;
            self.filled = 0;
            while self.filled < self.window.len() {
                let at = offset.saturating_add(self.filled as u64);
                match self.file.read_at(&mut self.window[self.filled..], at) {
                    Ok(0) => break,
                    Ok(count) => self.filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(self.failed(offset, error)),
                }
            }
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.filled);
        Ok(&self.window[from..self.filled])
    }

    /// Reads exactly `into.len()` bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), CaptureError> {
        self.file.read_exact_at(into, offset).map_err(|error| self.failed(offset, error))
    }

    fn failed(&self, offset: u64, error: io::Error) -> CaptureError {
        CaptureError::io(&self.name, "read", error).at(format!("byte {offset}"))
    }

    /// An error about what lies at `offset`.
    pub(crate) fn damaged(&self, offset: u64, reason: impl Into<String>) -> CaptureError {
        CaptureError::new(Kind::Damaged, &self.name, reason).at(format!("byte {offset}"))
    }
}
