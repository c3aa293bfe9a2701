//! Nearest and bilinear resampling of pictures: `cuda/resize.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{INPUT, OUTPUT, per_thread};
use crate::memory::{each_index, read_integer, rows};
use crate::reference::{load_at, store};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/resize.cu");

/// Nearest or bilinear resampling. Input: x. Output: y. Constants: source rows, source columns
/// (i32; two per output for linear), and for linear the weights of the second (f32).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeLayer {
    /// f16 or f32; for nearest also i8 or u8.
    pub dtype: DType,
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Elements from one output pixel to the next.
    pub y_pitch: usize,
    /// Bilinear rather than nearest.
    pub linear: bool,
}

impl Family for ResizeLayer {
    fn name(&self) -> &'static str {
        if self.dtype.is_float() { "resize" } else { "resize_i8" }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let bytes = self.dtype.size() * self.channels * self.batch * (ih * iw + oh * ow);
        let weights = |i| if self.linear { Argument::Constant(i) } else { Argument::Null };
        let arguments =
            [INPUT, OUTPUT, Argument::Constant(0), Argument::Constant(1), weights(2), weights(3)];
        let work = self.batch * oh * ow * (self.channels / 8);
        per_thread(work, bytes, target, self.dtype, SOURCE, &arguments, |d| {
            d.all(&[
                ("BATCH", self.batch),
                ("IH", ih),
                ("IW", iw),
                ("OH", oh),
                ("OW", ow),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("LINEAR", usize::from(self.linear)),
            ]);
        })
    }
    fn extents(&self) -> Extents {
        let bytes =
            |[h, w]: [usize; 2], pitch| rows(self.dtype, self.batch * h * w, pitch, self.channels);
        let [oh, ow] = self.output;
        let constants =
            if self.linear { vec![8 * oh, 8 * ow, 4 * oh, 4 * ow] } else { vec![4 * oh, 4 * ow] };
        Extents {
            inputs: vec![bytes(self.input, self.x_pitch)],
            constants,
            outputs: vec![bytes(self.output, self.y_pitch)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let source = |axis: usize, i: usize| read_integer(constants[axis], DType::I32, i) as usize;
        // Source coordinates with their shares.
        let sources = |axis: usize, o: usize| {
            if !self.linear {
                return [(source(axis, o), 1.0), (0, 0.0)];
            }
            let second = load_at(constants[2 + axis], DType::F32, o);
            [(source(axis, 2 * o), 1.0 - second), (source(axis, 2 * o + 1), second)]
        };
        each_index(&[self.batch, oh, ow, self.channels], |i| {
            let [n, y, x, c] = [i[0], i[1], i[2], i[3]];
            let mut sum = 0.0;
            for (row, a) in sources(0, y) {
                for (column, b) in sources(1, x) {
                    if a * b != 0.0 {
                        let pixel = (n * ih + row) * iw + column;
                        sum += a * b * load_at(inputs[0], self.dtype, pixel * self.x_pitch + c);
                    }
                }
            }
            let pixel = (n * oh + y) * ow + x;
            store(&mut outputs[0], self.dtype, pixel * self.y_pitch + c, sum);
        });
    }
}
