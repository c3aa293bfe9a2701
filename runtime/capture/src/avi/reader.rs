//! Reading AVI.
//!
//! An AVI is a tree of RIFF chunks, but its lists can be walked flat: a list is entered by
//! stepping over its twelve bytes, a leaf is passed by its length. So the lengths of lists, which
//! an interrupted recorder leaves 0, do not matter; nor does the index, which it leaves out; and
//! the second and later `RIFF AVIX` of a long (OpenDML) file are entered like anything else.

use std::path::Path;

use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::file::FileWindow;
use crate::motion::{MotionFile, Piece, Splitter};
use crate::{Source, SourceConfig};

/// Opens an AVI. Its video stream being of another codec than Motion-JPEG is an
/// [`Unsupported`](Kind::Unsupported) error.
pub(crate) fn open(path: &Path, cfg: &SourceConfig) -> Result<Box<dyn Source>, CaptureError> {
    let mut file = FileWindow::open(path)?;
    let header = Header::read(&mut file)?;
    let rate = header.rate();
    let splitter = Chunks {
        at: header.movi,
        first: header.movi,
        tag: [b'0' + header.stream / 10, b'0' + header.stream % 10],
    };
    Ok(Box::new(MotionFile::new(file, splitter, "AVI, Motion-JPEG", rate, cfg)?))
}

/// One step of the flat walk.
enum Step {
    /// A list, or a whole RIFF, of this type was entered.
    Entered([u8; 4]),
    /// A leaf: its name, and where its data lie.
    Leaf([u8; 4], Piece),
}

/// Takes one step from `at`, which it moves; `None` at the end of the file. Lists that hold
/// nothing of use are leaves.
fn step(file: &mut FileWindow, at: &mut u64) -> Result<Option<Step>, CaptureError> {
    let start = *at;
    let Some(&[a, b, c, d, s0, s1, s2, s3, ref rest @ ..]) = Some(file.at(start, 12)?) else {
        if start < file.length() {
            log::warn!("{}: ends within a chunk header, at byte {start}", file.name());
        }
        return Ok(None);
    };
    let name = [a, b, c, d];
    let length = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
    if matches!(&name, b"RIFF" | b"LIST") {
        let Some(&kind) = rest.first_chunk::<4>() else { return Ok(None) };
        if matches!(&kind, b"AVI " | b"AVIX" | b"hdrl" | b"strl" | b"movi" | b"rec ") {
            *at = start + 12;
            return Ok(Some(Step::Entered(kind)));
        }
    }
    if name == [0; 4] && length == 0 {
        *at = start + 8; // Zeros between chunks, as some recorders leave them.
        return Ok(Some(Step::Leaf(name, Piece { offset: start + 8, length: 0 })));
    }
    if !name.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        *at = file.length();
        return Err(file.damaged(start, "no chunk where one should start"));
    }
    let end = start + 8 + length;
    if end > file.length() {
        *at = file.length();
        return Err(file
            .damaged(
                start,
                format!(
                    "chunk `{}` of {length} bytes passes the end of the file",
                    String::from_utf8_lossy(&name)
                ),
            )
            .remedy("the recording was cut short; frames before this one are whole"));
    }
    *at = end + length % 2;
    Ok(Some(Step::Leaf(name, Piece { offset: start + 8, length })))
}

/// What the headers tell.
#[derive(Debug, Default)]
struct Header {
    /// The number of the first Motion-JPEG stream.
    stream: u8,
    /// Its rate as a fraction.
    rate: u32,
    scale: u32,
    /// The main header's rate, when the stream has none.
    microseconds: u32,
    /// Where the frames start.
    movi: u64,
}

impl Header {
    fn read(file: &mut FileWindow) -> Result<Self, CaptureError> {
        let magic = file.at(0, 12)?;
        if magic.len() < 12 || &magic[..4] != b"RIFF" || &magic[8..12] != b"AVI " {
            return Err(file.damaged(0, "not an AVI file (no RIFF AVI header)"));
        }
        let mut header = Self::default();
        let mut streams = 0u8;
        let (mut found, mut other) = (false, None);
        let mut at = 0;
        while let Some(step) = step(file, &mut at)? {
            let (name, piece) = match step {
                Step::Entered(kind) if &kind == b"movi" => {
                    header.movi = at;
                    break;
                }
                Step::Entered(_) => continue,
                Step::Leaf(name, piece) => (name, piece),
            };
            let mut data = [0; 40];
            let length = piece.length.min(40) as usize;
            file.read(piece.offset, &mut data[..length])?;
            let field = |offset: usize| {
                u32::from_le_bytes(data[offset..offset + 4].try_into().expect("4 bytes"))
            };
            match &name {
                b"avih" => header.microseconds = field(0),
                b"strh" => {
                    if streams == 99 {
                        return Err(file.damaged(piece.offset, "over 99 streams"));
                    }
                    streams += 1;
                    if &data[..4] == b"vids" && !found {
                        (header.stream, header.scale, header.rate) =
                            (streams - 1, field(20), field(24));
                    }
                }
                // Behind the header of its stream: the codec decides.
                b"strf" if streams > 0 && header.stream == streams - 1 && !found => {
                    let codec: [u8; 4] = data[16..20].try_into().expect("4 bytes");
                    let is_video = header.scale != 0 || header.rate != 0;
                    match &codec.map(|byte| byte.to_ascii_uppercase()) {
                        b"MJPG" | b"AVRN" | b"JPEG" => found = true,
                        _ if is_video => other = Some(codec),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        match (found, other) {
            (true, _) if header.movi > 0 => Ok(header),
            (true, _) => Err(file.damaged(at, "no list of frames (movi)")),
            (false, Some(codec)) => Err(CaptureError::new(
                Kind::Unsupported,
                file.name(),
                format!("video coded as `{}`, not Motion-JPEG", codec.escape_ascii()),
            )),
            (false, None) => Err(file.damaged(at, "no video stream is described")),
        }
    }

    fn rate(&self) -> Option<f64> {
        let rate = match (self.rate, self.scale, self.microseconds) {
            (0, _, 0) | (_, 0, 0) => return None,
            (0, _, time) | (_, 0, time) => 1e6 / f64::from(time),
            (rate, scale, _) => f64::from(rate) / f64::from(scale),
        };
        (0.001..=10_000.0).contains(&rate).then_some(rate)
    }
}

/// Finds the frames' chunks.
struct Chunks {
    at: u64,
    first: u64,
    /// The two digits that the names of the stream's chunks start with.
    tag: [u8; 2],
}

impl Splitter for Chunks {
    fn next(&mut self, file: &mut FileWindow) -> Result<Option<Piece>, CaptureError> {
        while let Some(step) = step(file, &mut self.at)? {
            match step {
                Step::Leaf([a, b, b'd', b'b' | b'c'], piece) if [a, b] == self.tag => {
                    return Ok(Some(piece));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn rewind(&mut self) {
        self.at = self.first;
    }
}
