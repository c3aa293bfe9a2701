//! Max and average pooling over windows: `cuda/pool.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{INPUT, OUTPUT, define_mean, per_thread};
use crate::memory::{each_index, rows, upper};
use crate::reference::{load_at, store};
use crate::{Candidate, Extents, Family, Mean, Target};

const SOURCE: &str = include_str!("../../cuda/pool.cu");

/// Max or average pooling. Input: x. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolLayer {
    /// f16, f32, i8 or u8.
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
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Steps down and across.
    pub strides: [usize; 2],
    /// Padding above, left, below, right.
    pub pads: [usize; 4],
    /// Dilation down and across.
    pub dilations: [usize; 2],
    /// `None`: maximum; `Some(include_pad)`: mean.
    pub average: Option<bool>,
    /// For means of integers, whose arithmetic is `tobiuo_ops::QuantPool`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Mean>,
}

impl PoolLayer {
    /// Every window has an element of the picture.
    fn windows_meet(&self) -> bool {
        (0..2).all(|i| {
            let last = (self.output[i] - 1) * self.strides[i];
            self.pads[i] < self.kernel[i] && last < self.pads[i] + self.input[i]
        })
    }
}

impl Family for PoolLayer {
    fn name(&self) -> &'static str {
        if self.dtype.is_float() { "pool" } else { "pool_i8" }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let work = self.batch * oh * ow * (self.channels / 8);
        let bytes = self.dtype.size() * self.channels * self.batch * (ih * iw + oh * ow);
        let average = match self.average {
            None => 0,
            Some(false) => 1,
            Some(true) => 2,
        };
        per_thread(work, bytes, target, self.dtype, SOURCE, &[INPUT, OUTPUT], |d| {
            d.all(&[
                ("BATCH", self.batch),
                ("IH", ih),
                ("IW", iw),
                ("OH", oh),
                ("OW", ow),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("KH", self.kernel[0]),
                ("KW", self.kernel[1]),
                ("SH", self.strides[0]),
                ("SW", self.strides[1]),
                ("PT", self.pads[0]),
                ("PL", self.pads[1]),
                ("PB", self.pads[2]),
                ("PR", self.pads[3]),
                ("DH", self.dilations[0]),
                ("DW", self.dilations[1]),
                ("AVERAGE", average),
                ("WINDOWS_MEET", usize::from(self.windows_meet())),
            ]);
            define_mean(d, self.mean, self.dtype, None);
        })
    }
    fn extents(&self) -> Extents {
        let bytes = |dtype, [h, w]: [usize; 2], pitch| {
            rows(dtype, self.batch * h * w, pitch, self.channels)
        };
        let y = self.mean.map_or(self.dtype, |m| m.y.dtype);
        Extents {
            inputs: vec![bytes(self.dtype, self.input, self.x_pitch)],
            constants: vec![],
            outputs: vec![bytes(y, self.output, self.y_pitch)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        // The input coordinate of each tap of a window, counted with the padding.
        let taps = |axis: usize, o: usize| {
            let (step, dilation) = (self.strides[axis], self.dilations[axis]);
            (0..self.kernel[axis]).map(move |k| o * step + k * dilation)
        };
        each_index(&[self.batch, oh, ow, self.channels], |i| {
            let [n, y, x, c] = [i[0], i[1], i[2], i[3]];
            let (mut sum, mut largest, mut count, mut met) = (0.0, f64::NEG_INFINITY, 0, 0);
            for row in taps(0, y) {
                for column in taps(1, x) {
                    let counts = row < self.pads[0] + ih + self.pads[2]
                        && column < self.pads[1] + iw + self.pads[3];
                    let (row, column) =
                        (row.wrapping_sub(self.pads[0]), column.wrapping_sub(self.pads[1]));
                    let inside = row < ih && column < iw;
                    count += usize::from(if self.average == Some(true) { counts } else { inside });
                    if inside {
                        let pixel = (n * ih + row) * iw + column;
                        let v = load_at(inputs[0], self.dtype, pixel * self.x_pitch + c);
                        met += 1;
                        sum += v;
                        largest = upper(largest, v);
                    }
                }
            }
            let result = match self.average {
                None => largest,
                Some(_) => sum / count.max(1) as f64,
            };
            let pixel = (n * oh + y) * ow + x;
            if let Some(mean) = self.mean {
                let v = mean.of(sum as i32, met, count);
                return mean.y.store(&mut outputs[0], pixel * self.y_pitch + c, v);
            }
            store(&mut outputs[0], self.dtype, pixel * self.y_pitch + c, result);
        });
    }
}
