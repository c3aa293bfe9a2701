//! How a camera's frame meets a network's picture: formats, placement, interpolation. What every
//! device's preprocessing shares, so that they all compute the same.
//!
//! Interpolation is bilinear with pixel centres at halves and without antialiasing, as OpenCV's
//! `INTER_LINEAR`, in float rather than fixed point.

use crate::manifest::{ChannelOrder, Fit, Preprocess};

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
    /// All of them.
    pub const ALL: [PixelFormat; 7] = [
        PixelFormat::Rgb8,
        PixelFormat::Bgr8,
        PixelFormat::Gray8,
        PixelFormat::Yuyv,
        PixelFormat::Uyvy,
        PixelFormat::Nv12,
        PixelFormat::I420,
    ];

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

    /// First byte and bytes per row of each plane of a frame whose rows are tightly packed;
    /// zeros for planes that it does not have.
    pub fn planes(self, width: usize, height: usize) -> [[usize; 2]; 3] {
        let (half, luma) = (width.div_ceil(2), width * height);
        match self {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => [[0, 3 * width], [0; 2], [0; 2]],
            PixelFormat::Gray8 => [[0, width], [0; 2], [0; 2]],
            PixelFormat::Yuyv | PixelFormat::Uyvy => [[0, 2 * width], [0; 2], [0; 2]],
            PixelFormat::Nv12 => [[0, width], [luma, 2 * half], [0; 2]],
            PixelFormat::I420 => {
                [[0, width], [luma, half], [luma + half * height.div_ceil(2), half]]
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap {
    /// The first sample.
    pub first: u32,
    /// The one behind it, or the last there is.
    pub second: u32,
    /// The second one's weight; the first one has the rest.
    pub weight: f32,
}

/// Everything about preprocessing frames of one size for one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// First column and row of the input that the frame covers.
    pub begin: [usize; 2],
    /// Which pixels each covered column is mixed of.
    pub columns: Vec<Tap>,
    /// Which pixels each covered row is mixed of.
    pub rows: Vec<Tap>,
    /// Per channel: factor, addend, and the border's value after them.
    pub scales: Vec<[f32; 3]>,
    /// Where the frame lies.
    pub placement: Placement,
}

impl Fitted {
    /// For frames of `width` x `height` pixels and an input `[channels, height, width]`; the
    /// error says what does not go.
    pub fn new(
        width: usize,
        height: usize,
        input: [usize; 3],
        settings: &Preprocess,
    ) -> Result<Fitted, String> {
        let [channels, in_h, in_w] = input;
        let wanted = if settings.channels == ChannelOrder::Gray { 1 } else { 3 };
        if channels != wanted || settings.mean.len() != wanted || settings.std.len() != wanted {
            return Err(format!(
                "the input has {channels} channels; preprocessing to {:?} with {} means and {} \
                 deviations needs {wanted} of each",
                settings.channels,
                settings.mean.len(),
                settings.std.len()
            ));
        }
        let side = 1..=1usize << 20;
        if ![in_w, in_h, width, height].iter().all(|n| side.contains(n)) {
            return Err(format!("an input of {in_w} x {in_h} from {width} x {height} pixels"));
        }
        let scales: Vec<[f32; 3]> = (0..channels)
            .map(|c| {
                let (factor, add) =
                    (1.0 / (255.0 * settings.std[c]), -settings.mean[c] / settings.std[c]);
                [factor, add, f32::from(settings.pad_value) * factor + add]
            })
            .collect();
        if scales.iter().flatten().any(|v| !v.is_finite()) {
            return Err("preprocessing with a deviation of 0 or numbers that are none".into());
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
        Ok(Fitted {
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
        })
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

/// Words of a geometry block in front of its tables.
pub const GEOMETRY_WORDS: usize = 32;

/// Bytes of the geometry block of an input of this size.
pub fn geometry_bytes(in_width: usize, in_height: usize) -> usize {
    4 * (GEOMETRY_WORDS + 2 * (in_width + in_height))
}

/// What a CUDA engine's preprocess kernel is told of a frame, as 32-bit little-endian words: the
/// format's number (in the order of [`PixelFormat::ALL`]), width, height, the bytes per row of
/// plane 0, first byte and bytes per row of plane 1 and of plane 2, the first covered column of
/// the input and the one behind the last, the same of the rows, three words per channel as in
/// [`Fitted::scales`]; zeros up to [`GEOMETRY_WORDS`]; then for each column and each row of the
/// input the first pixel that it is mixed of and the second one's weight.
pub fn geometry(
    fitted: &Fitted,
    format: PixelFormat,
    [width, height]: [usize; 2],
    [in_width, in_height]: [usize; 2],
) -> Vec<u8> {
    let mut words = vec![0u32; geometry_bytes(in_width, in_height) / 4];
    let [[_, pitch], second, third] = format.planes(width, height);
    let number = PixelFormat::ALL.iter().position(|&f| f == format).expect("all are there");
    let [left, top] = fitted.begin;
    let head = [number, width, height, pitch, second[0], second[1], third[0], third[1]];
    let covered = [left, left + fitted.columns.len(), top, top + fitted.rows.len()];
    for (to, from) in words.iter_mut().zip(head.into_iter().chain(covered)) {
        *to = u32::try_from(from).expect("a frame's bytes fit 32 bits");
    }
    for (to, from) in words[12..].iter_mut().zip(fitted.scales.iter().flatten()) {
        *to = from.to_bits();
    }
    let rows_at = GEOMETRY_WORDS + 2 * in_width;
    for (taps, at) in
        [(&fitted.columns, GEOMETRY_WORDS + 2 * left), (&fitted.rows, rows_at + 2 * top)]
    {
        for (to, tap) in words[at..].as_chunks_mut::<2>().0.iter_mut().zip(taps) {
            *to = [tap.first, tap.weight.to_bits()];
        }
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
