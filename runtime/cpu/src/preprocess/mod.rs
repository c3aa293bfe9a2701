//! Camera frames into a network's input: colours, resizing, normalisation in one pass.
//!
//! Every frame row that is needed is converted once to the network's channels as f32; two of
//! them are mixed for each row of the input; that row's columns are interpolated, scaled and
//! shifted on their way out. Interpolation is bilinear with pixel centres at halves and
//! without antialiasing, as OpenCV's `INTER_LINEAR`, in float rather than fixed point.

mod colour;

use rten_simd::{Isa, SimdOp};
use tobiuo_engine::manifest::{ChannelOrder, Preprocess};
use tobiuo_engine::picture::{Fitted, Tap};
pub use tobiuo_engine::picture::{PixelFormat, Placement};

use crate::CpuError;

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
        let fitted = Fitted::new(width, height, input, settings).map_err(CpuError)?;
        Ok(Preprocessor {
            format,
            frame: [width, height],
            frame_bytes,
            order: settings.channels,
            channels,
            size: [in_w, in_h],
            begin: fitted.begin,
            placement: fitted.placement,
            columns: fitted.columns,
            rows: fitted.rows,
            scales: fitted.scales,
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
