//! A first convolution over few channels: `cuda/conv_first.cu`.

use super::candidate::{FRAGMENTS, MMA, POOLED};
use super::{ConvLayer, planes};
use crate::defines::ceil_div;
use crate::numbers::NUMBERS;
use crate::{Argument, Candidate, Target};

const FIRST: &str = include_str!("../../cuda/conv_first.cu");

/// Bytes that a block may take without asking for more.
const STATIC_SHARED: usize = 48 * 1024;

/// Rows and columns of a tile of pixels, and threads.
const SHAPES: &[(usize, usize, usize)] = &[
    (2, 64, 128),
    (4, 32, 128),
    (4, 64, 128),
    (4, 64, 256),
    (8, 32, 128),
    (8, 32, 256),
    (8, 16, 128),
    (8, 48, 128),
    (8, 64, 128),
    (12, 32, 128),
    (16, 32, 128),
    (16, 32, 256),
    (16, 48, 256),
    (16, 64, 256),
    (2, 128, 128),
    (2, 32, 64),
];

impl ConvLayer {
    /// True where `cuda/conv_first.cu` can compute the layer.
    pub(super) fn is_first(&self) -> bool {
        self.channels == 4
            && self.x_pitch == 4
            && self.kernel[0] <= 4
            && self.kernel[1] <= 4
            && self.dilations[1] == 1
            && self.filters_stored <= 64
            && self.residual_pitch.is_none()
            && self.y_planes.is_none()
            && !self.integer()
            && SHAPES.iter().any(|shape| self.shared_of(shape) <= STATIC_SHARED)
    }

    /// Bytes of shared memory that a tile takes.
    fn shared_of(&self, &(h, w, threads): &(usize, usize, usize)) -> usize {
        let rows = (h - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilations[0] + 1;
        let columns = (w - 1) * self.strides[1] + 4;
        let row = self.filters_stored * self.y.dtype.size() + 16;
        rows * columns * 8 + threads / 32 * 16 * row
    }

    /// Candidates of `cuda/conv_first.cu`, where it can compute the layer.
    pub(super) fn first_layer(&self, target: &Target) -> Vec<Candidate> {
        if !self.is_first() {
            return Vec::new();
        }
        let [oh, ow] = self.output;
        let pixel = self.planes.as_ref().map_or(8, |p| p.channels * p.x.dtype.size());
        let bytes = pixel * self.batch * self.input[0] * self.input[1]
            + self.y.dtype.size() * self.filters_stored * self.stored_pixels();
        let given = if self.planes.is_some() { " planes" } else { "" };
        let candidate = |&(h, w, threads): &(usize, usize, usize)| {
            let mut d = self.defines(target);
            d.all(&[("TILE_H", h), ("TILE_W", w), ("THREADS", threads)]);
            planes::define(self.planes.as_deref(), (self.input, self.x_pitch), &mut d);
            let grid = [ceil_div(ow, w) as u32, ceil_div(oh, h) as u32, self.batch as u32];
            Candidate {
                label: format!("first {h}x{w} t{threads}{given}"),
                source: d.source(&[NUMBERS, POOLED, MMA, FRAGMENTS, FIRST]),
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
        let fits = |shape: &&_| self.shared_of(shape) <= STATIC_SHARED;
        SHAPES.iter().filter(fits).map(candidate).collect()
    }
}
