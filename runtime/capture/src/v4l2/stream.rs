//! Taking frames from a camera, the newest first.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::device::{Agreed, Camera, Filled};
use super::mode::Coding;
use crate::clock::{SLICE, monotonic_ns};
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::format::{FrameFormat, FrameMeta, PixelFormat};
use crate::jpeg::Decoder;

/// Gaps of more frames than this are a counter that started anew.
const MAX_GAP: u32 = 1 << 16;

/// Frames that claim to be older than this have a wrong time: drivers' clocks wrap and jump.
const MAX_AGE_NS: u64 = 10_000_000_000;

/// A camera that streams.
pub(super) struct Stream<C> {
    name: String,
    camera: C,
    coding: Coding,
    format: FrameFormat,
    stride: usize,
    timeout: Duration,
    decoder: Decoder,
    /// The driver's number of the last frame seen, and the one behind ours of it.
    last: Option<u32>,
    sequence: u64,
    /// The number behind that of the last frame handed out.
    expected: u64,
    /// How many frames were damaged.
    damaged: u64,
}

impl<C: Camera> Stream<C> {
    /// Takes over a camera that was started in this format.
    pub(super) fn new(
        name: &str,
        camera: C,
        agreed: &Agreed,
        coding: Coding,
        timeout: Duration,
    ) -> Result<Self, CaptureError> {
        let pixel = match coding {
            Coding::Raw(pixel) => pixel,
            Coding::Jpeg => PixelFormat::Rgb8,
        };
        let format = FrameFormat::new(pixel, agreed.width, agreed.height);
        let stride = (agreed.stride as usize).max(row_bytes(format));
        if format.frame_bytes().is_none() || stride > 1 << 20 {
            let reason = format!("the camera gives frames of {format}, which cannot be taken");
            return Err(CaptureError::new(Kind::Unsupported, name, reason));
        }
        Ok(Self {
            name: name.to_owned(),
            camera,
            coding,
            format,
            stride,
            timeout,
            decoder: Decoder::new(),
            last: None,
            sequence: 0,
            expected: 0,
            damaged: 0,
        })
    }

    /// The format of its frames.
    pub(super) fn format(&self) -> FrameFormat {
        self.format
    }

    /// Waits for the newest frame and copies or decodes it into `slot`.
    pub(super) fn read(
        &mut self,
        slot: &mut [u8],
        stop: &AtomicBool,
    ) -> Result<FrameMeta, CaptureError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(CaptureError::stopped(&self.name));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!("the camera gave no frame for {:?}", self.timeout);
                let damaged = match self.damaged {
                    0 => String::new(),
                    count => format!(", but {count} damaged ones"),
                };
                return Err(CaptureError::new(Kind::Timeout, &self.name, reason + &damaged)
                    .at(format!("frame {}", self.sequence))
                    .remedy("check its cable and its light; another size or rate may work"));
            }
            let ready =
                self.camera.wait(left.min(SLICE)).map_err(|error| self.failed("poll", error))?;
            if !ready {
                continue;
            }
            let Some((newest, sequence)) = self.newest()? else { continue };
            let taken = self.take(newest, slot);
            self.requeue(newest.index)?;
            if !taken {
                continue;
            }
            let now = monotonic_ns();
            let timestamp_ns = newest.timestamp_ns.unwrap_or(now);
            let plausible = timestamp_ns <= now && now - timestamp_ns <= MAX_AGE_NS;
            let timestamp_ns = if plausible { timestamp_ns } else { now };
            let dropped_before = u32::try_from(sequence - self.expected).unwrap_or(u32::MAX);
            self.expected = sequence + 1;
            let format = self.format;
            return Ok(FrameMeta { format, sequence, timestamp_ns, dropped_before });
        }
    }

    /// Takes every filled buffer and keeps the newest good one, with its number.
    fn newest(&mut self) -> Result<Option<(Filled, u64)>, CaptureError> {
        let mut newest = None;
        while let Some(filled) =
            self.camera.dequeue().map_err(|error| self.failed("VIDIOC_DQBUF", error))?
        {
            let gap =
                self.last.map_or(0, |last| filled.sequence.wrapping_sub(last).wrapping_sub(1));
            let gap = if gap < MAX_GAP { gap } else { 0 };
            self.last = Some(filled.sequence);
            let sequence = self.sequence + u64::from(gap);
            self.sequence = sequence + 1;
            let older = if filled.flawed {
                self.damaged_frame("marked as damaged by the driver");
                Some(filled)
            } else {
                newest.replace((filled, sequence)).map(|(older, _)| older)
            };
            if let Some(older) = older {
                self.requeue(older.index)?;
            }
        }
        Ok(newest)
    }

    fn requeue(&mut self, index: usize) -> Result<(), CaptureError> {
        self.camera.queue(index).map_err(|error| self.failed("VIDIOC_QBUF", error))
    }

    /// Copies or decodes a buffer; false when its frame is damaged.
    fn take(&mut self, filled: Filled, slot: &mut [u8]) -> bool {
        let bytes = self.camera.bytes(filled.index);
        let bytes = &bytes[..filled.bytes.min(bytes.len())];
        match self.coding {
            Coding::Raw(_) => {
                let whole = unpad(bytes, self.format, self.stride, slot);
                if !whole {
                    self.damaged_frame("shorter than its format says");
                }
                whole
            }
            Coding::Jpeg => match self.decoder.decode(bytes, slot) {
                Ok(size) if size == (self.format.width, self.format.height) => true,
                Ok(_) => {
                    self.damaged_frame("JPEG of another size than agreed");
                    false
                }
                Err(error) => {
                    if self.damaged == 0 {
                        log::warn!("{}: frame {}: {error}", self.name, self.sequence);
                    }
                    self.damaged += 1;
                    false
                }
            },
        }
    }

    /// Counts a damaged frame. The first is warned of; a bad cable would fill the disk with the
    /// rest, and they are seen as dropped.
    fn damaged_frame(&mut self, how: &str) {
        if self.damaged == 0 {
            log::warn!("{}: frame {}: {how}; counted as dropped", self.name, self.sequence);
        }
        self.damaged += 1;
    }

    /// A failed call on a camera that streams.
    fn failed(&self, call: &str, error: io::Error) -> CaptureError {
        const LOST: [i32; 4] = [5, 6, 19, 32]; // EIO, ENXIO, ENODEV, EPIPE
        let lost = error.raw_os_error().is_some_and(|number| LOST.contains(&number));
        let made = CaptureError::io(&self.name, call, error).at(format!("frame {}", self.sequence));
        match lost {
            true => made.of_kind(Kind::Lost).remedy("the camera was unplugged or stopped"),
            false => made,
        }
    }
}

/// The bytes of a row of the first plane.
fn row_bytes(format: FrameFormat) -> usize {
    let width = format.width as usize;
    match format.pixel {
        PixelFormat::Rgb8 | PixelFormat::Bgr8 => width * 3,
        PixelFormat::Yuyv | PixelFormat::Uyvy => width * 2,
        PixelFormat::Gray8 | PixelFormat::Nv12 | PixelFormat::I420 => width,
    }
}

/// Copies a frame whose first plane's rows are `stride` bytes apart without its padding; false
/// when `from` is too short.
fn unpad(from: &[u8], format: FrameFormat, stride: usize, slot: &mut [u8]) -> bool {
    let (width, height) = (format.width as usize, format.height as usize);
    let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
    let row = row_bytes(format);
    // By the V4L2 documents: interleaved chroma has the stride of luma, planar chroma half of it.
    let planes = match format.pixel {
        PixelFormat::Nv12 => [(row, stride, height), (half_w * 2, stride, half_h), (0, 0, 0)],
        PixelFormat::I420 => {
            let chroma = (half_w, stride.div_ceil(2), half_h);
            [(row, stride, height), chroma, chroma]
        }
        _ => [(row, stride, height), (0, 0, 0), (0, 0, 0)],
    };
    let (mut source, mut target) = (0, 0);
    for (row, stride, rows) in planes {
        for _ in 0..rows {
            let Some(bytes) = from.get(source..source + row) else { return false };
            slot[target..target + row].copy_from_slice(bytes);
            source += stride;
            target += row;
        }
    }
    true
}
