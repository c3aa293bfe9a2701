//! The one place of `unsafe` in this crate: the file's memory map.
//!
//! A map is memory that another program can change by writing to the file, or take away by
//! truncating it (the next access then ends the process with SIGBUS). No reader of mapped
//! files can rule that out. Tobiuo's own writer never does either: it writes a new file and
//! renames it over the old one, which leaves maps of the old one whole. docs/security.md
//! says what this means for who may write to an engine's file.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};

/// Read-only, page-aligned memory: a file's, or a copy.
#[derive(Debug)]
pub(crate) struct Map {
    map: Mmap,
    of_file: bool,
}

impl Map {
    /// Maps a whole file, which must not be empty.
    pub(crate) fn of_file(file: &File) -> io::Result<Map> {
        // SAFETY: `Mmap::map` asks that the file is not changed while it is mapped. That is a
        // demand on this machine's other programs, stated in docs/security.md; within this
        // process nothing writes to an engine in place. The bytes are only ever read as `u8`
        // and as plain numbers, for which every bit pattern is valid, and all offsets into
        // them are checked against the length of this very map: a file that changes gives
        // wrong numbers, not an out-of-bounds access.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Map { map, of_file: true })
    }

    /// Copies bytes, which must not be empty, to page-aligned memory.
    pub(crate) fn of_bytes(bytes: &[u8]) -> io::Result<Map> {
        let mut map = MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        Ok(Map { map: map.make_read_only()?, of_file: false })
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that a range will be read soon. Only a hint: failure changes nothing.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        let range = self.clamp(range);
        if !range.is_empty() {
            let _ = self.map.advise_range(Advice::WillNeed, range.start, range.len());
        }
    }

    /// Gives the pages of a range back to the system; reading them again reads the file.
    /// Does nothing to a copy, whose bytes exist nowhere else.
    pub(crate) fn release(&self, range: Range<usize>) {
        let range = self.clamp(range);
        if !self.of_file || range.is_empty() {
            return;
        }
        // SAFETY: `MADV_DONTNEED` is dangerous where it drops bytes that exist nowhere else.
        // This map is of a file and read-only, so no page of it was ever modified: the next
        // access of a dropped page reads the same bytes from the file again, and references
        // into the map stay valid because the mapping itself stays.
        let _ = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }

    fn clamp(&self, range: Range<usize>) -> Range<usize> {
        range.start.min(self.map.len())..range.end.min(self.map.len())
    }
}
