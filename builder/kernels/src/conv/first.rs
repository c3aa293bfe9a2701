//! A first convolution over few channels: `cuda/conv_first.cu`.

use super::ConvLayer;
use super::candidate::{MMA, POOLED};
use crate::defines::ceil_div;
use crate::numbers::NUMBERS;
use crate::{Argument, Candidate, Target};

const FIRST: &str = include_str!("../../cuda/conv_first.cu");

impl ConvLayer {
    /// Candidates of `cuda/conv_first.cu`, where it can compute the layer.
    pub(super) fn first_layer(&self, target: &Target) -> Vec<Candidate> {
        let fits = self.channels == 4
            && self.x_pitch == 4
            && self.kernel[0] <= 4
            && self.kernel[1] <= 4
            && self.dilations[1] == 1
            && self.filters_stored <= 64
            && self.residual_pitch.is_none()
            && !self.integer();
        if !fits {
            return Vec::new();
        }
        let [oh, ow] = self.output;
        let bytes = 8 * self.batch * self.input[0] * self.input[1]
            + self.y.dtype.size() * self.filters_stored * self.stored_pixels();
        let candidate = |(h, w, threads): (usize, usize, usize)| {
            let mut d = self.defines(target);
            d.all(&[("TILE_H", h), ("TILE_W", w), ("THREADS", threads)]);
            let grid = [ceil_div(ow, w) as u32, ceil_div(oh, h) as u32, self.batch as u32];
            Candidate {
                label: format!("first {h}x{w} t{threads}"),
                source: d.source(&[NUMBERS, POOLED, MMA, FIRST]),
                grid,
                block: threads as u32,
                shared: 0,
                specific: false,
                arguments: vec![
                    Argument::Input(0),
                    Argument::Constant(0),
                    Argument::Constant(1),
                    Argument::Output(0),
                ],
                scratch: 0,
                zeroed: 0,
                predicted_us: 1.8 + 1.5 * bytes as f64 / (target.bandwidth_gbs * 1e3),
            }
        };
        let shapes = [
            (2, 64, 128),
            (4, 32, 128),
            (4, 64, 128),
            (4, 64, 256),
            (8, 32, 128),
            (8, 32, 256),
            (8, 16, 128),
            (2, 128, 128),
            (2, 32, 64),
        ];
        let shared = |&(h, w, t): &(usize, usize, usize)| {
            let rows = (h - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilations[0] + 1;
            let columns = (w - 1) * self.strides[1] + 4;
            rows * columns * 8 + t / 32 * 16 * (self.filters_stored * self.y.dtype.size() + 16)
        };
        shapes.into_iter().filter(|s| shared(s) <= 48 * 1024).map(candidate).collect()
    }
}
