//! Pictures: one file, a folder, a glob. Each is one frame.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use crate::clock::{Pacer, monotonic_ns};
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::file::FileWindow;
use crate::format::{FrameFormat, FrameMeta, MAX_FRAME_BYTES, MAX_SIDE, PixelFormat, Read};
use crate::mjpeg::find;
use crate::{Source, SourceConfig};

/// Pictures as a source of RGB frames, each of its own size.
pub(crate) struct Pictures {
    uri: String,
    files: Vec<PathBuf>,
    max_bytes: usize,
    next: usize,
    shown: Option<usize>,
    sequence: u64,
    dropped: u32,
    fruitful: bool,
    rate: Option<f64>,
    pacer: Option<Pacer>,
    loop_: bool,
    skip_damaged: bool,
}

impl Pictures {
    /// Opens these files. Their headers are read now, to know the largest.
    pub(crate) fn open(
        uri: &str,
        files: Vec<PathBuf>,
        cfg: &SourceConfig,
    ) -> Result<Self, CaptureError> {
        let mut max_bytes = 0;
        for file in &files {
            match header_bytes(file) {
                Ok(bytes) => max_bytes = max_bytes.max(bytes),
                // Said again, with its place in the order, when it is its turn.
                Err(error) if cfg.skip_damaged => log::debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
        if max_bytes == 0 {
            return Err(CaptureError::new(Kind::Damaged, uri, "no picture here can be read"));
        }
        let pacer = cfg.realtime.then(|| Pacer::new(cfg.rate.unwrap_or(30.0)));
        Ok(Self {
            uri: uri.to_owned(),
            files,
            max_bytes,
            next: 0,
            shown: None,
            sequence: 0,
            dropped: 0,
            fruitful: false,
            rate: cfg.rate.filter(|_| pacer.is_some()),
            pacer,
            loop_: cfg.loop_,
            skip_damaged: cfg.skip_damaged,
        })
    }

    fn load(&self, file: &Path, slot: &mut [u8]) -> Result<FrameFormat, CaptureError> {
        let failed = |error| picture_error(file, error);
        let decoder = decoder(file)?;
        is_whole(file)?;
        let picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
        // No copy when it is RGB already, and no alpha blending: the network saw none either.
        let rgb = picture.into_rgb8();
        let format = FrameFormat::new(PixelFormat::Rgb8, rgb.width(), rgb.height());
        match slot.get_mut(..rgb.as_raw().len()) {
            Some(slot) => slot.copy_from_slice(rgb.as_raw()),
            None => {
                let reason = "the picture has grown since it was opened";
                return Err(CaptureError::new(Kind::Damaged, file.display().to_string(), reason));
            }
        }
        Ok(format)
    }
}

/// A decoder with its header read and the limits set.
fn decoder(file: &Path) -> Result<impl ImageDecoder, CaptureError> {
    let name = file.display().to_string();
    let opened = File::open(file).map_err(|error| CaptureError::io(&name, "open", error))?;
    let mut reader = ImageReader::new(BufReader::new(opened))
        .with_guessed_format()
        .map_err(|error| CaptureError::io(&name, "read", error))?;
    if reader.format().is_none() {
        let reason = "damaged picture: its bytes are neither JPEG nor PNG";
        return Err(CaptureError::new(Kind::Damaged, name, reason));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(2 * MAX_FRAME_BYTES as u64);
    reader.limits(limits);
    reader.into_decoder().map_err(|error| picture_error(file, error))
}

/// An error for a JPEG without an end marker: the decoder paints what is missing grey. A PNG that
/// is cut short is an error of its decoder.
fn is_whole(file: &Path) -> Result<(), CaptureError> {
    let mut window = FileWindow::open(file)?;
    if !window.at(0, 2)?.starts_with(b"\xff\xd8") {
        return Ok(());
    }
    let mut at = 2;
    // Segments by their lengths up to the first scan: a thumbnail in one has an end of its own.
    while let Some(marker) = find(&mut window, at, |marker| marker != 0)? {
        at = marker + 2;
        match window.at(marker + 1, 3)? {
            [0xd9, ..] => return Ok(()),
            [0x01 | 0xd0..=0xd8, ..] => {}
            [kind, high, low, ..] => {
                at += u64::from(u16::from_be_bytes([*high, *low])).max(2);
                if *kind == 0xda && find(&mut window, at, |marker| marker == 0xd9)?.is_some() {
                    return Ok(());
                }
            }
            _ => break,
        }
    }
    let reason = format!("damaged picture: cut short, {} bytes without its end", window.length());
    Err(CaptureError::new(Kind::Damaged, window.name(), reason).remedy("copy the file again"))
}

/// The bytes of a picture as an RGB frame, by its header.
fn header_bytes(file: &Path) -> Result<usize, CaptureError> {
    let (width, height) = decoder(file)?.dimensions();
    PixelFormat::Rgb8.frame_bytes(width, height).ok_or_else(|| {
        let reason = format!("{width}x{height} pixels: empty, or over 256 MiB as RGB");
        CaptureError::new(Kind::Unsupported, file.display().to_string(), reason)
    })
}

fn picture_error(file: &Path, error: ImageError) -> CaptureError {
    let name = file.display().to_string();
    // Some decoders' words have line ends.
    let said = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match error {
        ImageError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            match error.raw_os_error() {
                Some(_) => CaptureError::io(name, "read", error),
                None => CaptureError::new(Kind::Damaged, name, said),
            }
        }
        ImageError::Unsupported(_) | ImageError::Limits(_) => {
            CaptureError::new(Kind::Unsupported, name, said)
        }
        _ => CaptureError::new(Kind::Damaged, name, format!("damaged picture: {said}")),
    }
}

impl Source for Pictures {
    fn describe(&self) -> String {
        let count = self.files.len();
        format!("{}: {count} picture{}", self.uri, if count == 1 { "" } else { "s" })
    }

    fn max_frame_bytes(&self) -> usize {
        self.max_bytes
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn is_live(&self) -> bool {
        false
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        if slot.len() < self.max_bytes {
            return Err(CaptureError::small_slot(&self.uri, slot.len(), self.max_bytes));
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(CaptureError::stopped(&self.uri));
            }
            let Some(file) = self.files.get(self.next) else {
                if !(self.loop_ && self.fruitful) {
                    return Ok(Read::End);
                }
                self.next = 0;
                self.fruitful = false;
                continue;
            };
            let loaded = self.load(file, slot);
            let sequence = self.sequence;
            self.sequence += 1;
            self.next += 1;
            let format = match loaded {
                Ok(format) => format,
                Err(error) => {
                    self.dropped = self.dropped.saturating_add(1);
                    if !self.skip_damaged {
                        return Err(error);
                    }
                    log::warn!("{error}; skipped");
                    continue;
                }
            };
            self.fruitful = true;
            self.shown = Some(self.next - 1);
            let timestamp_ns = match &mut self.pacer {
                Some(pacer) => match pacer.wait(stop) {
                    Some(due) => due,
                    None => return Err(CaptureError::stopped(&self.uri)),
                },
                None => monotonic_ns(),
            };
            let dropped_before = std::mem::take(&mut self.dropped);
            return Ok(Read::Frame(FrameMeta { format, sequence, timestamp_ns, dropped_before }));
        }
    }

    fn frame_name(&self) -> Option<&str> {
        self.files[self.shown?].file_name()?.to_str()
    }
}
