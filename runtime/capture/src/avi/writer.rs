//! Writing AVI.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{CaptureError, CaptureErrorKind as Kind};

/// The most bytes of a file: players take a plain AVI's offsets as signed.
const MAX_BYTES: u64 = (1 << 31) - (1 << 20);

/// The bytes of the headers, up to and with the `movi` list's own.
const HEAD: usize = 224;

/// Where the `movi` list's type lies, from which the index counts.
const MOVI: u64 = HEAD as u64 - 4;

/// How many frames are written between two updates of the headers.
const UPDATE_EVERY: u32 = 30;

/// Writes Motion-JPEG frames to an AVI file.
///
/// The headers are brought up to date every second or so, so that a file whose writer died can
/// be played up to there, only without an index. [`finish`](Self::finish) writes the index (read
/// back from the file, so that none is held in memory: writing a frame allocates nothing).
/// Without it the file is finished when the writer is dropped, and errors are only logged.
///
/// A file ends at 2 GiB, which plain AVI cannot pass.
pub struct Writer {
    file: File,
    name: String,
    width: u32,
    height: u32,
    rate: f64,
    frames: u32,
    /// Where the next chunk goes.
    end: u64,
    largest: u32,
    max_bytes: u64,
    /// Whether the index is written, or an error made it pointless to.
    finished: bool,
}

impl Writer {
    /// Makes or replaces the file at `path`, for frames of this size (pixels) and rate (frames a
    /// second).
    pub fn create(path: &Path, width: u32, height: u32, rate: f64) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        if width == 0 || height == 0 || width > crate::MAX_SIDE || height > crate::MAX_SIDE {
            let reason = format!("frames of {width}x{height} pixels cannot be written");
            return Err(CaptureError::new(Kind::Usage, name, reason));
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(|error| CaptureError::io(&name, "create", error))?;
        let rate = if rate.is_finite() { rate.clamp(0.01, 10_000.0) } else { 30.0 };
        let mut writer = Self {
            file,
            name,
            width,
            height,
            rate,
            frames: 0,
            end: HEAD as u64,
            largest: 0,
            max_bytes: MAX_BYTES,
            finished: false,
        };
        writer.update(HEAD as u64)?;
        Ok(writer)
    }

    /// Makes the file end before `bytes`, index included, instead of at 2 GiB.
    pub fn set_max_bytes(&mut self, bytes: u64) {
        self.max_bytes = bytes.min(MAX_BYTES);
    }

    /// The frames written so far.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Writes one frame, a whole JPEG.
    ///
    /// Fails with [`Unsupported`](Kind::Unsupported) when the file would pass its largest size
    /// with its index; what was written stays whole.
    pub fn write(&mut self, jpeg: &[u8]) -> Result<(), CaptureError> {
        let padded = jpeg.len() as u64 + jpeg.len() as u64 % 2;
        let index = (u64::from(self.frames) + 1) * 16 + 8;
        if self.end + 8 + padded + index > self.max_bytes {
            let reason = match self.max_bytes {
                MAX_BYTES => "the file would pass 2 GiB, which AVI players cannot read".to_owned(),
                bytes => format!("the file would pass the {bytes} bytes it may have"),
            };
            return Err(CaptureError::new(Kind::Unsupported, &self.name, reason)
                .at(format!("frame {}", self.frames))
                .remedy("start another file, or lower --quality or the frame rate"));
        }
        let mut head = *b"00dc\0\0\0\0";
        head[4..].copy_from_slice(&(jpeg.len() as u32).to_le_bytes());
        let at = self.end;
        let written = self
            .file
            .write_all_at(&head, at)
            .and_then(|()| self.file.write_all_at(jpeg, at + 8))
            .and_then(|()| match jpeg.len() % 2 {
                0 => Ok(()),
                _ => self.file.write_all_at(&[0], at + 8 + jpeg.len() as u64),
            });
        written.map_err(|error| self.failed(error))?;
        self.end += 8 + padded;
        self.frames += 1;
        self.largest = self.largest.max(jpeg.len() as u32);
        if self.frames.is_multiple_of(UPDATE_EVERY) {
            self.update(self.end)?;
        }
        Ok(())
    }

    /// Writes the index and the last headers.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        self.close()
    }

    fn close(&mut self) -> Result<(), CaptureError> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let length = self.write_index().map_err(|error| self.failed(error))?;
        self.file.set_len(length).map_err(|error| self.failed(error))?;
        self.update(length)
    }

    /// Writes `idx1` behind the frames by walking over their chunks; gives the file's length.
    fn write_index(&mut self) -> io::Result<u64> {
        let mut out = BufWriter::new(At { file: &self.file, at: self.end });
        out.write_all(b"idx1")?;
        out.write_all(&(self.frames * 16).to_le_bytes())?;
        let mut at = HEAD as u64;
        for _ in 0..self.frames {
            let mut head = [0; 8];
            self.file.read_exact_at(&mut head, at)?;
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            const KEY_FRAME: u32 = 0x10;
            out.write_all(b"00dc")?;
            for field in [KEY_FRAME, (at - MOVI) as u32, length] {
                out.write_all(&field.to_le_bytes())?;
            }
            at += 8 + u64::from(length) + u64::from(length % 2);
        }
        out.flush()?;
        Ok(self.end + 8 + u64::from(self.frames) * 16)
    }

    /// Writes the headers of a file of `length` bytes.
    fn update(&mut self, length: u64) -> Result<(), CaptureError> {
        let head = self.head(length);
        self.file.write_all_at(&head, 0).map_err(|error| self.failed(error))
    }

    fn head(&self, length: u64) -> [u8; HEAD] {
        const HAS_INDEX: u32 = 0x10;
        let (scale, rate) = (1000, (self.rate * 1000.0).round() as u32);
        let microseconds = (1e6 / self.rate).round() as u32;
        let per_second = (f64::from(self.largest) * self.rate).min(f64::from(u32::MAX)) as u32;
        let (w, h, frames) = (self.width, self.height, self.frames);
        let frame_bytes = w.wrapping_mul(h).wrapping_mul(3);
        let flags = if self.finished { HAS_INDEX } else { 0 };
        let mut head = Head { bytes: [0; HEAD], at: 0 };
        head.text(b"RIFF").number(length as u32 - 8).text(b"AVI ");
        head.text(b"LIST").number(192).text(b"hdrl");
        head.text(b"avih").number(56).number(microseconds).number(per_second).number(0);
        head.number(flags).number(frames).number(0).number(1).number(self.largest);
        head.number(w).number(h).number(0).number(0).number(0).number(0);
        head.text(b"LIST").number(116).text(b"strl");
        head.text(b"strh").number(56).text(b"vids").text(b"MJPG").number(0).number(0).number(0);
        head.number(scale).number(rate).number(0).number(frames).number(self.largest);
        head.number(u32::MAX).number(0).number(0).number((h << 16) | w);
        head.text(b"strf").number(40).number(40).number(w).number(h);
        head.number((24 << 16) | 1).text(b"MJPG").number(frame_bytes);
        head.number(0).number(0).number(0).number(0);
        head.text(b"LIST").number((self.end - MOVI) as u32).text(b"movi");
        debug_assert_eq!(head.at, HEAD);
        head.bytes
    }

    fn failed(&mut self, error: io::Error) -> CaptureError {
        let made = CaptureError::io(&self.name, "write", error).at(format!("byte {}", self.end));
        self.finished = true;
        made
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::warn!("{error}; the file may have no index");
        }
    }
}

/// Header fields, one behind the other.
struct Head {
    bytes: [u8; HEAD],
    at: usize,
}

impl Head {
    fn text(&mut self, name: &[u8; 4]) -> &mut Self {
        self.bytes[self.at..self.at + 4].copy_from_slice(name);
        self.at += 4;
        self
    }

    fn number(&mut self, value: u32) -> &mut Self {
        self.text(&value.to_le_bytes())
    }
}

/// Writes to a file from a place on, leaving its cursor alone.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
