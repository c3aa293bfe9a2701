//! Camera frames into a network's input: colours, resizing, normalisation in one pass.
//!
//! Every frame row that is needed is converted once to the network's channels as f32; two of
//! them are mixed for each row of the input; that row's columns are interpolated, scaled and
//! shifted on their way out. Interpolation is bilinear with pixel centres at halves and
//! without antialiasing, as OpenCV's `INTER_LINEAR`, in float rather than fixed point.

mod colour;

use rten_simd::{Isa, SimdOp};
use tobiuo_engine::manifest::{ChannelOrder, Fit, Preprocess};

use crate::CpuError;

/// How a frame's bytes are laid out: rows tightly packed, top row first.
///
/// The YCbCr formats carry BT.601 colours in video range (luma 16..=235, chroma 16..=240),
/// which is what cameras send. Colours beyond the RGB cube are clamped to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// R, G, B bytes.
    Rgb8,
    /// B, G, R bytes.
    Bgr8,
    /// One byte a pixel, full range.
    Gray8,
    /// 4:2:2 packed as Y0 Cb Y1 Cr, even width.
    Yuyv,
    /// 4:2:2 packed as Cb Y0 Cr Y1, even width.
    Uyvy,
    /// 4:2:0: a luma plane, a plane of interleaved Cb Cr (sides rounded up).
    Nv12,
    /// 4:2:0: a luma plane, a Cb plane, a Cr plane (sides rounded up).
    I420,
}

impl PixelFormat {
    /// Bytes of a frame; `None` where a side is 0, an odd width does not go, or the number
    /// does not fit.
    pub fn frame_bytes(self, width: usize, height: usize) -> Option<usize> {
        let pixels = width.checked_mul(height).filter(|&n| n > 0)?;
        match self {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => pixels.checked_mul(3),
            PixelFormat::Gray8 => Some(pixels),
            PixelFormat::Yuyv | PixelFormat::Uyvy if width % 2 == 1 => None,
            PixelFormat::Yuyv | PixelFormat::Uyvy => pixels.checked_mul(2),
            PixelFormat::Nv12 | PixelFormat::I420 => {
                let chroma = width.div_ceil(2).checked_mul(height.div_ceil(2))?;
                pixels.checked_add(chroma.checked_mul(2)?)
            }
        }
    }
}

/// Where a frame lies on the network's input: input = frame * scale + offset, in pixels,
/// with pixel edges (not centres) at whole numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Input pixels per frame pixel.
    pub scale_x: f32,
    /// Input rows per frame row.
    pub scale_y: f32,
    /// Input column of the frame's left edge; negative where it is cut off.
    pub offset_x: f32,
    /// Input row of the frame's top edge; negative where it is cut off.
    pub offset_y: f32,
}

/// Two neighbouring samples and the second one's weight.
#[derive(Clone, Copy)]
struct Tap {
    first: u32,
    second: u32,
    weight: f32,
}

/// Turns frames of one format and size into a network's input. Allocates only when made.
pub struct Preprocessor {
    format: PixelFormat,
    /// Frame width and height.
    frame: [usize; 2],
    frame_bytes: usize,
    order: ChannelOrder,
    channels: usize,
    /// Input width and height.
    size: [usize; 2],
    /// First column and row of the input that the frame covers.
    begin: [usize; 2],
    /// Which pixels each covered column and row is mixed of.
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    /// Per channel: factor, addend, border.
    scales: Vec<[f32; 3]>,
    placement: Placement,
    /// Two converted frame rows, then their mixture: per row all channels.
    lines: Vec<f32>,
}

fn err<T>(what: String) -> Result<T, CpuError> {
    Err(CpuError(what))
}

impl Preprocessor {
    /// For frames of `width` x `height` pixels and an input `[channels, height, width]`
    /// (one item).
    pub fn new(
        format: PixelFormat,
        width: usize,
        height: usize,
        input: [usize; 3],
        settings: &Preprocess,
    ) -> Result<Preprocessor, CpuError> {
        let [channels, in_h, in_w] = input;
        let Some(frame_bytes) = format.frame_bytes(width, height) else {
            return err(format!("there is no {format:?} frame of {width} x {height} pixels"));
        };
        let wanted = if settings.channels == ChannelOrder::Gray { 1 } else { 3 };
        if channels != wanted || settings.mean.len() != wanted || settings.std.len() != wanted {
            return err(format!(
                "the input has {channels} channels; preprocessing to {:?} with {} means and {} \
                 deviations needs {wanted} of each",
                settings.channels,
                settings.mean.len(),
                settings.std.len()
            ));
        }
        let side = 1..=1usize << 20;
        if !side.contains(&in_w) || !side.contains(&in_h) || width.max(height) > 1 << 20 {
            return err(format!("an input of {in_w} x {in_h} from {width} x {height} pixels"));
        }
        let scales: Vec<[f32; 3]> = (0..channels)
            .map(|c| {
                let (factor, add) =
                    (1.0 / (255.0 * settings.std[c]), -settings.mean[c] / settings.std[c]);
                [factor, add, f32::from(settings.pad_value) * factor + add]
            })
            .collect();
        if scales.iter().flatten().any(|v| !v.is_finite()) {
            return err("preprocessing with a deviation of 0 or numbers that are none".into());
        }
        let fit = |net: usize, frame: usize| net as f64 / frame as f64;
        let (sx, sy) = (fit(in_w, width), fit(in_h, height));
        let (sx, sy) = match settings.fit {
            Fit::Letterbox => (sx.min(sy), sx.min(sy)),
            Fit::Stretch => (sx, sy),
            Fit::CenterCrop => (sx.max(sy), sx.max(sy)),
        };
        let x = Axis::new(in_w, width, sx);
        let y = Axis::new(in_h, height, sy);
        Ok(Preprocessor {
            format,
            frame: [width, height],
            frame_bytes,
            order: settings.channels,
            channels,
            size: [in_w, in_h],
            begin: [x.begin, y.begin],
            placement: Placement {
                scale_x: x.scale,
                scale_y: y.scale,
                offset_x: x.offset,
                offset_y: y.offset,
            },
            columns: x.taps,
            rows: y.taps,
            scales,
            lines: vec![0.0; 3 * channels * width],
        })
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Elements of the input: channels x height x width.
    pub fn input_len(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    /// Where frames lie on the input.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Fills the input `[channels, height, width]` from a frame. Allocates nothing.
    pub fn run(&mut self, frame: &[u8], input: &mut [f32]) -> Result<(), CpuError> {
        if frame.len() != self.frame_bytes || input.len() != self.input_len() {
            return err(format!(
                "a {:?} frame of {} x {} pixels has {} bytes and goes into {} numbers, not {} \
                 into {}",
                self.format,
                self.frame[0],
                self.frame[1],
                self.frame_bytes,
                self.input_len(),
                frame.len(),
                input.len()
            ));
        }
        Run { frame, input, p: self }.dispatch();
        Ok(())
    }
}

/// One axis of a fit.
struct Axis {
    begin: usize,
    taps: Vec<Tap>,
    scale: f32,
    offset: f32,
}

impl Axis {
    fn new(net: usize, frame: usize, scale: f64) -> Axis {
        let scaled = (frame as f64 * scale).round().max(1.0);
        // Ultralytics rounds half a pixel of border towards the top left.
        let offset = ((net as f64 - scaled) / 2.0 - 0.1).round();
        let begin = offset.max(0.0) as usize;
        let end = (offset + scaled).min(net as f64) as usize;
        let step = frame as f64 / scaled;
        let last = frame - 1;
        let taps = (begin..end.max(begin))
            .map(|i| {
                let at = (i as f64 - offset + 0.5) * step - 0.5;
                let at = at.clamp(0.0, last as f64);
                let first = (at as usize).min(last);
                Tap {
                    first: first as u32,
                    second: (first + 1).min(last) as u32,
                    weight: (at - first as f64) as f32,
                }
            })
            .collect();
        Axis { begin, taps, scale: (scaled / frame as f64) as f32, offset: offset as f32 }
    }
}

struct Run<'a> {
    p: &'a mut Preprocessor,
    frame: &'a [u8],
    input: &'a mut [f32],
}

impl SimdOp for Run<'_> {
    type Output = ();

    /// The loops are vectorised by the compiler, for this instruction set.
    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let p = self.p;
        let [w, h] = p.size;
        let [left, top] = p.begin;
        let (covered, rows) = (left..left + p.columns.len(), top..top + p.rows.len());
        for (plane, [_, _, border]) in self.input.chunks_exact_mut(w * h).zip(&p.scales) {
            plane[..rows.start * w].fill(*border);
            plane[rows.end * w..].fill(*border);
            if p.columns.len() < w {
                for row in plane[rows.start * w..rows.end * w].chunks_exact_mut(w) {
                    row[..covered.start].fill(*border);
                    row[covered.end..].fill(*border);
                }
            }
        }
        let line = p.channels * p.frame[0];
        let (even, rest) = p.lines.split_at_mut(line);
        let (odd, mixed) = rest.split_at_mut(line);
        // Frame row r is converted into line r % 2; which rows the lines hold.
        let mut held = [usize::MAX; 2];
        for (y, tap) in rows.zip(&p.rows) {
            for row in [tap.first as usize, tap.second as usize] {
                if held[row % 2] != row {
                    held[row % 2] = row;
                    let to = if row % 2 == 0 { &mut *even } else { &mut *odd };
                    colour::row(p.format, p.order, self.frame, p.frame, row, to);
                }
            }
            let by_parity = |row: u32| if row.is_multiple_of(2) { &*even } else { &*odd };
            let (a, b) = (by_parity(tap.first), by_parity(tap.second));
            for ((m, &a), &b) in mixed.iter_mut().zip(a).zip(b) {
                *m = a + (b - a) * tap.weight;
            }
            let planes = self.input.chunks_exact_mut(w * h);
            let channels = mixed.chunks_exact(p.frame[0]).zip(&p.scales);
            for (plane, (mixed, [factor, add, _])) in planes.zip(channels) {
                let out = &mut plane[y * w..(y + 1) * w][covered.clone()];
                for (out, tap) in out.iter_mut().zip(&p.columns) {
                    let (a, b) = (mixed[tap.first as usize], mixed[tap.second as usize]);
                    *out = (a + (b - a) * tap.weight) * factor + add;
                }
            }
        }
    }
}
