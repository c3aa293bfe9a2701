//! `.mjpeg`, `.mjpg`: JPEGs one behind the other, with nothing between them.

use std::path::Path;

use crate::error::CaptureError;
use crate::file::FileWindow;
use crate::motion::{MotionFile, Piece, Splitter};
use crate::{Source, SourceConfig};

/// Opens a raw Motion-JPEG file.
pub(crate) fn open(path: &Path, cfg: &SourceConfig) -> Result<Box<dyn Source>, CaptureError> {
    let file = FileWindow::open(path)?;
    let splitter = Concatenated { at: 0 };
    Ok(Box::new(MotionFile::new(file, splitter, "raw Motion-JPEG", None, cfg)?))
}

/// Finds each picture by its markers.
struct Concatenated {
    at: u64,
}

impl Splitter for Concatenated {
    fn next(&mut self, file: &mut FileWindow) -> Result<Option<Piece>, CaptureError> {
        let Some(start) = find(file, self.at, |marker| marker == 0xd8)? else {
            return Ok(None);
        };
        self.at = start + 2;
        // Segments by their lengths: a thumbnail within one has markers of its own.
        loop {
            let Some(marker) = find(file, self.at, |marker| marker != 0)? else {
                self.at = file.length();
                return Ok(Some(Piece { offset: start, length: self.at - start }));
            };
            self.at = marker + 2;
            match file.at(marker + 1, 3)? {
                // The next picture starts: this one has no end of its own.
                [0xd8, ..] => {
                    self.at = marker;
                    return Ok(Some(Piece { offset: start, length: marker - start }));
                }
                [0xd9, ..] => return Ok(Some(Piece { offset: start, length: self.at - start })),
                [0x01 | 0xd0..=0xd7, ..] => {}
                [_, high, low, ..] => {
                    self.at = marker + 2 + u64::from(u16::from_be_bytes([*high, *low])).max(2);
                }
                _ => self.at = file.length(),
            }
        }
    }

    fn rewind(&mut self) {
        self.at = 0;
    }
}

/// Where the next `ff` with a `wanted` byte behind it lies, from `at` on. Fill bytes (`ff ff`)
/// are no marker.
pub(crate) fn find(
    file: &mut FileWindow,
    mut at: u64,
    wanted: impl Fn(u8) -> bool,
) -> Result<Option<u64>, CaptureError> {
    loop {
        let bytes = file.at(at, 2)?;
        if bytes.len() < 2 {
            return Ok(None);
        }
        let hit =
            bytes.windows(2).position(|two| two[0] == 0xff && two[1] != 0xff && wanted(two[1]));
        match hit {
            Some(offset) => return Ok(Some(at + offset as u64)),
            None => at += bytes.len() as u64 - 1,
        }
    }
}
