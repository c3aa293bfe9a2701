//! Motion-JPEG files: what AVI and raw streams have in common once their pictures are found.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::{Pacer, monotonic_ns};
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::file::FileWindow;
use crate::format::{FrameFormat, FrameMeta, PixelFormat, Read};
use crate::jpeg::{Decoder, JpegErrorKind, dimensions};
use crate::{Source, SourceConfig};

/// Where one coded picture lies in its file. An empty one stands for a frame that the recorder
/// lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Finds the coded pictures of a file, one after the other.
pub(crate) trait Splitter: Send {
    /// The next picture, or `None` at the end. After an error it goes on behind the damage, or
    /// gives `None`.
    fn next(&mut self, file: &mut FileWindow) -> Result<Option<Piece>, CaptureError>;
    /// Starts again at the first picture.
    fn rewind(&mut self);
}

/// A Motion-JPEG file as a source of RGB frames.
pub(crate) struct MotionFile<S> {
    file: FileWindow,
    splitter: S,
    container: &'static str,
    format: FrameFormat,
    rate: Option<f64>,
    pacer: Option<Pacer>,
    decoder: Decoder,
    coded: Vec<u8>,
    sequence: u64,
    dropped: u32,
    /// Whether this pass through the file gave a frame.
    fruitful: bool,
    loop_: bool,
    skip_damaged: bool,
}

impl<S: Splitter> MotionFile<S> {
    /// Opens a file whose pictures `splitter` finds; the first whole one tells the size.
    pub(crate) fn new(
        mut file: FileWindow,
        mut splitter: S,
        container: &'static str,
        rate: Option<f64>,
        cfg: &SourceConfig,
    ) -> Result<Self, CaptureError> {
        let (width, height) = first_size(&mut file, &mut splitter)?;
        splitter.rewind();
        let format = FrameFormat::new(PixelFormat::Rgb8, width, height);
        let Some(bytes) = format.frame_bytes() else {
            let reason = format!("pictures of {width}x{height} pixels are empty or too large");
            return Err(CaptureError::new(Kind::Damaged, file.name(), reason));
        };
        let rate = cfg.rate.or(rate);
        let pacer = cfg.realtime.then(|| Pacer::new(rate.unwrap_or(30.0)));
        Ok(Self {
            file,
            splitter,
            container,
            format,
            rate,
            pacer,
            decoder: Decoder::new(),
            // No sane picture takes more coded than raw.
            coded: vec![0; bytes + (64 << 10)],
            sequence: 0,
            dropped: 0,
            fruitful: false,
            loop_: cfg.loop_,
            skip_damaged: cfg.skip_damaged,
        })
    }

    /// Decodes the picture at `piece` into `slot`.
    fn decode(&mut self, piece: Piece, slot: &mut [u8]) -> Result<(), CaptureError> {
        let Some(coded) = usize::try_from(piece.length).ok().and_then(|n| self.coded.get_mut(..n))
        else {
            let reason = format!("a picture of {} bytes is larger than it can be", piece.length);
            return Err(self.file.damaged(piece.offset, reason));
        };
        self.file.read(piece.offset, coded)?;
        let size = match self.decoder.decode(coded, slot) {
            Ok(size) => size,
            Err(error) => {
                let sequence = self.sequence;
                let place = format!("frame {sequence} (byte {})", piece.offset);
                let made = CaptureError::new(Kind::Damaged, self.file.name(), error.to_string());
                return Err(match error.kind {
                    JpegErrorKind::Unsupported(_) => made.of_kind(Kind::Unsupported),
                    _ => made,
                }
                .at(place));
            }
        };
        let wanted = (self.format.width, self.format.height);
        if size != wanted {
            let reason = format!(
                "a picture of {}x{} pixels in a stream of {}x{}",
                size.0, size.1, wanted.0, wanted.1
            );
            return Err(self.file.damaged(piece.offset, reason));
        }
        Ok(())
    }
}

/// The size of the first picture that tells one.
fn first_size(
    file: &mut FileWindow,
    splitter: &mut impl Splitter,
) -> Result<(u32, u32), CaptureError> {
    // A header with large tables and a comment or thumbnail fits in this; more need not be read.
    let mut head = vec![0; 256 << 10];
    let mut tries = 0;
    while let Some(piece) = splitter.next(file)? {
        let length = piece.length.min(head.len() as u64) as usize;
        file.read(piece.offset, &mut head[..length])?;
        match dimensions(&head[..length]) {
            Ok(size) => return Ok(size),
            Err(error) if tries >= 100 => {
                return Err(file.damaged(piece.offset, format!("no picture is whole: {error}")));
            }
            Err(_) => tries += 1,
        }
    }
    Err(CaptureError::new(Kind::Damaged, file.name(), "there is no picture in this file"))
}

impl<S: Splitter> Source for MotionFile<S> {
    fn describe(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate:.3} frames/s"));
        format!("{}: {}, {}{rate}", self.file.name(), self.container, self.format)
    }

    fn max_frame_bytes(&self) -> usize {
        self.format.frame_bytes().expect("checked when it was opened")
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn is_live(&self) -> bool {
        false
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        let need = self.max_frame_bytes();
        if slot.len() < need {
            return Err(CaptureError::small_slot(self.file.name(), slot.len(), need));
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(CaptureError::stopped(self.file.name()));
            }
            let piece = match self.splitter.next(&mut self.file) {
                Ok(Some(piece)) => piece,
                Ok(None) if self.loop_ && self.fruitful => {
                    self.splitter.rewind();
                    self.fruitful = false;
                    continue;
                }
                Ok(None) => return Ok(Read::End),
                Err(error) if self.skip_damaged => {
                    log::warn!("{error}; skipped");
                    self.dropped = self.dropped.saturating_add(1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if piece.length == 0 {
                self.sequence += 1;
                self.dropped = self.dropped.saturating_add(1);
                continue;
            }
            let decoded = self.decode(piece, slot);
            let sequence = self.sequence;
            self.sequence += 1;
            if let Err(error) = decoded {
                self.dropped = self.dropped.saturating_add(1);
                if !self.skip_damaged {
                    return Err(error);
                }
                log::warn!("{error}; skipped");
                continue;
            }
            self.fruitful = true;
            let timestamp_ns = match &mut self.pacer {
                Some(pacer) => match pacer.wait(stop) {
                    Some(due) => due,
                    None => return Err(CaptureError::stopped(self.file.name())),
                },
                None => monotonic_ns(),
            };
            let dropped_before = std::mem::take(&mut self.dropped);
            let format = self.format;
            return Ok(Read::Frame(FrameMeta { format, sequence, timestamp_ns, dropped_before }));
        }
    }
}
