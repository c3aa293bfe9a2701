//! Mean or maximum over all pixels: `cuda/global_pool.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{INPUT, OUTPUT, define_mean, is_f16};
use crate::defines::{Defines, ceil_div};
use crate::depthwise::VECTOR;
use crate::memory::{each_index, rows, upper};
use crate::numbers::NUMBERS;
use crate::reference::{load_at, store};
use crate::{Candidate, Extents, Family, Mean, Target};

const SOURCE: &str = include_str!("../../cuda/global_pool.cu");

/// Mean or maximum over all pixels. Input: x `[batch, pixels, channels]`. Output: y
/// `[batch, channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalPoolLayer {
    /// f16, f32, i8 or u8.
    pub dtype: DType,
    /// Pictures.
    pub batch: usize,
    /// Pixels of one picture.
    pub pixels: usize,
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Elements from one output row to the next.
    pub y_pitch: usize,
    /// Maximum rather than mean.
    pub max: bool,
    /// For means of integers, whose arithmetic is `tobiuo_ops::QuantPool`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Mean>,
}

impl Family for GlobalPoolLayer {
    fn name(&self) -> &'static str {
        if self.dtype.is_float() { "global_pool" } else { "global_pool_i8" }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let chunks = self.channels / 8;
        let bytes = self.dtype.size() * self.channels * self.batch * self.pixels;
        let candidate = |(together, lanes): (usize, usize)| {
            let mut d = Defines::new(target, true);
            d.all(&[
                ("T_F16", is_f16(self.dtype)),
                ("BATCH", self.batch),
                ("PIXELS", self.pixels),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("CHUNKS_PER_BLOCK", together),
                ("LANES", lanes),
                ("MAX", usize::from(self.max)),
            ]);
            define_mean(&mut d, self.mean, self.dtype, Some(self.pixels));
            let blocks = self.batch * ceil_div(chunks, together);
            Candidate {
                label: format!("chunks {together} lanes {lanes}"),
                source: d.source(&[NUMBERS, VECTOR, SOURCE]),
                grid: [blocks as u32, 1, 1],
                block: (together * lanes) as u32,
                shared: 0,
                specific: false,
                arguments: vec![INPUT, OUTPUT],
                scratch: 0,
                zeroed: 0,
                predicted_us: 1.8
                    + bytes as f64 / (target.bandwidth_gbs * 1e3)
                    + ceil_div(self.pixels, lanes) as f64 * 0.15
                    + lanes as f64 * 0.02,
            }
        };
        [(4, 16), (4, 32), (8, 16), (8, 32), (16, 8), (2, 49)].into_iter().map(candidate).collect()
    }
    fn extents(&self) -> Extents {
        let bytes = |dtype, count, pitch| rows(dtype, count, pitch, self.channels);
        let y = self.mean.map_or(self.dtype, |m| m.y.dtype);
        Extents {
            inputs: vec![bytes(self.dtype, self.batch * self.pixels, self.x_pitch)],
            constants: vec![],
            outputs: vec![bytes(y, self.batch, self.y_pitch)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&[self.batch, self.channels], |i| {
            let (n, c) = (i[0], i[1]);
            let pixels = (0..self.pixels)
                .map(|p| load_at(inputs[0], self.dtype, (n * self.pixels + p) * self.x_pitch + c));
            if let Some(mean) = self.mean {
                let sum = pixels.sum::<f64>() as i32;
                let v = mean.of(sum, self.pixels, self.pixels);
                return mean.y.store(&mut outputs[0], n * self.y_pitch + c, v);
            }
            let result = if self.max {
                pixels.fold(f64::NEG_INFINITY, upper)
            } else {
                pixels.sum::<f64>() / self.pixels as f64
            };
            store(&mut outputs[0], self.dtype, n * self.y_pitch + c, result);
        });
    }
}
