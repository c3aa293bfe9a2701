//! `test://`: frames of our own making, the same on every machine.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::{Pacer, monotonic_ns};
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::format::{FrameFormat, FrameMeta, PixelFormat, Read};
use crate::scene::{grain, objects, spans};
use crate::uri::TestAddress;
use crate::{Source, SourceConfig};

/// What the frames show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// The desk of [`scene`](crate::scene).
    Scene,
    /// Eight colour bars, and a white line that moves one pixel a frame.
    Bars,
    /// Black.
    Black,
}

/// The synthetic source.
pub(crate) struct Synthetic {
    uri: String,
    pattern: Pattern,
    format: FrameFormat,
    rate: Option<f64>,
    pacer: Option<Pacer>,
    frames: Option<u64>,
    sequence: u64,
    /// What does not move, in the frames' own format.
    background: Vec<u8>,
}

impl Synthetic {
    /// Opens what a `test://` URI describes; its options go before those of `cfg`.
    pub(crate) fn open(address: &TestAddress, cfg: &SourceConfig) -> Result<Self, CaptureError> {
        let usage = |reason: String| CaptureError::new(Kind::Usage, &address.uri, reason);
        let pattern = match address.pattern.as_str() {
            "" | "scene" => Pattern::Scene,
            "bars" => Pattern::Bars,
            "black" => Pattern::Black,
            other => return Err(usage(format!("no pattern `{other}`: scene, bars or black"))),
        };
        let mut width = cfg.width.unwrap_or(640);
        let mut height = cfg.height.unwrap_or(480);
        let (mut rate, mut frames, mut pixel) = (cfg.rate, None, PixelFormat::Rgb8);
        for (key, value) in &address.options {
            let bad = |_| usage(format!("{key}={value} is not a number"));
            match key.as_str() {
                "width" => width = value.parse().map_err(bad)?,
                "height" => height = value.parse().map_err(bad)?,
                "frames" => frames = Some(value.parse().map_err(bad)?),
                "rate" => {
                    let number: f64 = value
                        .parse()
                        .map_err(|_| usage(format!("rate={value} is not a number")))?;
                    rate = Some(number);
                }
                "format" => pixel = value.parse().map_err(usage)?,
                _ => {
                    return Err(usage(format!("unknown option `{key}`"))
                        .remedy("known: width, height, rate, frames, format"));
                }
            }
        }
        if rate.is_some_and(|rate| !(0.001..=1e6).contains(&rate)) {
            return Err(usage("the rate is not between 0.001 and 1000000 frames/s".into()));
        }
        let format = FrameFormat::new(pixel, width, height);
        let Some(bytes) = format.frame_bytes() else {
            return Err(usage(format!("frames of {format} are not possible"))
                .remedy("sides are 1 to 16384, even across for yuyv and uyvy, 256 MiB at most"));
        };
        let mut background = vec![0; bytes];
        let mut canvas = Canvas { format, bytes: &mut background };
        for y in 0..height as i32 {
            for x in 0..width as i32 {
                canvas.span(y, x, x + 1, pattern.background(x as u32, y as u32, width));
            }
        }
        let pacer = rate.filter(|_| cfg.realtime).map(Pacer::new);
        let uri = address.uri.clone();
        Ok(Self { uri, pattern, format, rate, pacer, frames, sequence: 0, background })
    }

    fn draw(&self, slot: &mut [u8]) {
        let bytes = self.background.len();
        slot[..bytes].copy_from_slice(&self.background);
        let mut canvas = Canvas { format: self.format, bytes: &mut slot[..bytes] };
        let (width, height) = (self.format.width, self.format.height);
        match self.pattern {
            Pattern::Scene => {
                for object in objects(width, height, self.sequence) {
                    for y in object.top..object.bottom {
                        for (from, to, color) in spans(&object, y - object.top) {
                            canvas.span(y, from, to, color);
                        }
                    }
                }
            }
            Pattern::Bars => {
                let x = (self.sequence % u64::from(width)) as i32;
                for y in 0..height as i32 {
                    canvas.span(y, x, x + 1, [255; 3]);
                }
            }
            Pattern::Black => {}
        }
    }
}

impl Pattern {
    fn background(self, x: u32, y: u32, width: u32) -> [u8; 3] {
        match self {
            Self::Scene => {
                let level = grain(x, y);
                [150, 112, 78].map(|base: i32| (base + level).clamp(0, 255) as u8)
            }
            Self::Bars => {
                let bar = u64::from(x) * 8 / u64::from(width);
                [bar & 2, bar & 4, bar & 1].map(|off| if off == 0 { 191 } else { 0 })
            }
            Self::Black => [0; 3],
        }
    }
}

/// A frame in any format, to be drawn on.
struct Canvas<'a> {
    format: FrameFormat,
    bytes: &'a mut [u8],
}

/// An RGB colour in BT.601 video range.
fn ycbcr([r, g, b]: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = [i32::from(r), i32::from(g), i32::from(b)];
    let y = (16829 * r + 33039 * g + 6416 * b + (16 << 16) + 32768) >> 16;
    let cb = (-9714 * r - 19070 * g + 28784 * b + (128 << 16) + 32768) >> 16;
    let cr = (28784 * r - 24103 * g - 4681 * b + (128 << 16) + 32768) >> 16;
    [y as u8, cb as u8, cr as u8]
}

impl Canvas<'_> {
    /// Fills the pixels `from..to` of row `y`; nothing when there are none. A chroma sample that
    /// several pixels share takes the colour of the last one drawn whose place is even.
    fn span(&mut self, y: i32, from: i32, to: i32, color: [u8; 3]) {
        if from >= to {
            return;
        }
        let (w, h) = (self.format.width as usize, self.format.height as usize);
        let (y, from, to) = (y as usize, from as usize, to as usize);
        // Of an even row and an even pixel, as cameras site it.
        let (half_from, half_to) = (from.div_ceil(2), to.div_ceil(2));
        match self.format.pixel {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => {
                let [r, g, b] = color;
                let bytes = if self.format.pixel == PixelFormat::Rgb8 { color } else { [b, g, r] };
                let row = &mut self.bytes[(y * w + from) * 3..(y * w + to) * 3];
                row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&bytes));
            }
            PixelFormat::Gray8 => self.bytes[y * w + from..y * w + to].fill(ycbcr(color)[0]),
            PixelFormat::Yuyv | PixelFormat::Uyvy => {
                let [luma, cb, cr] = ycbcr(color);
                let luma_first = self.format.pixel == PixelFormat::Yuyv;
                let row = &mut self.bytes[y * w * 2..(y + 1) * w * 2];
                for x in from..to {
                    row[x * 2 + usize::from(!luma_first)] = luma;
                }
                for pair in half_from..half_to {
                    row[pair * 4 + usize::from(luma_first)] = cb;
                    row[pair * 4 + 2 + usize::from(luma_first)] = cr;
                }
            }
            PixelFormat::Nv12 | PixelFormat::I420 => {
                let [luma, cb, cr] = ycbcr(color);
                let (planes, chroma) = self.bytes.split_at_mut(w * h);
                planes[y * w + from..y * w + to].fill(luma);
                if y % 2 == 1 || half_from >= half_to {
                    return;
                }
                let half = w.div_ceil(2);
                let start = y / 2 * half;
                if self.format.pixel == PixelFormat::Nv12 {
                    let row = &mut chroma[(start + half_from) * 2..(start + half_to) * 2];
                    row.chunks_exact_mut(2).for_each(|pair| pair.copy_from_slice(&[cb, cr]));
                } else {
                    let (blue, red) = chroma.split_at_mut(half * h.div_ceil(2));
                    blue[start + half_from..start + half_to].fill(cb);
                    red[start + half_from..start + half_to].fill(cr);
                }
            }
        }
    }
}

impl Source for Synthetic {
    fn describe(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate} frames/s"));
        format!("{}: synthetic, {}{rate}", self.uri, self.format)
    }

    fn max_frame_bytes(&self) -> usize {
        self.background.len()
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn is_live(&self) -> bool {
        self.pacer.is_some()
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        let need = self.background.len();
        if slot.len() < need {
            return Err(CaptureError::small_slot(&self.uri, slot.len(), need));
        }
        if stop.load(Ordering::Relaxed) {
            return Err(CaptureError::stopped(&self.uri));
        }
        let ended = |sequence| self.frames.is_some_and(|frames| sequence >= frames);
        if ended(self.sequence) {
            return Ok(Read::End);
        }
        let (timestamp_ns, dropped_before) = match &mut self.pacer {
            Some(pacer) => match pacer.wait_live(stop) {
                Some(shown) => shown,
                None => return Err(CaptureError::stopped(&self.uri)),
            },
            None => (monotonic_ns(), 0),
        };
        self.sequence += u64::from(dropped_before);
        if ended(self.sequence) {
            return Ok(Read::End);
        }
        self.draw(slot);
        let (format, sequence) = (self.format, self.sequence);
        self.sequence += 1;
        Ok(Read::Frame(FrameMeta { format, sequence, timestamp_ns, dropped_before }))
    }
}
