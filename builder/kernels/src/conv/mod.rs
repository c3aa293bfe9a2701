//! f16 convolution as implicit GEMM on tensor cores: every tap's pixels copied
//! (`cuda/conv_f16.cu`), all taps out of one patch (`cuda/conv_halo.cu`), and first layers
//! (`cuda/conv_first.cu`).

mod candidate;
mod first;
mod tiles;

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use crate::defines::{Defines, ceil_div};
use crate::general_conv::{GeneralConvLayer, WeightOrder};
use crate::reference::{activate, load, load_at, reach, store};
use crate::window::Windows;
use crate::{Candidate, Extents, Family, Target};
use tiles::{HALO_TILES, HALO_WARPGROUP_TILES, Join, SPLITS, TILES, Tile, WARPGROUP_TILES};

/// A convolution between NHWC tensors of f16, one group.
///
/// Inputs: x, and the residual where there is one. Constants: weights `[oc, k]` f16 with k
/// ordered (kh, kw, c) and rows padded to a multiple of 64, then [`ConvLayer::WEIGHT_TAIL`]
/// zero bytes; bias `[oc]` f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvLayer {
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Input channels as stored: 4, or a multiple of 8.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Output channels.
    pub filters: usize,
    /// Output channels written: the multiple of 8 above `filters`.
    pub filters_stored: usize,
    /// Elements from one output pixel to the next.
    pub y_pitch: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps down and across.
    pub strides: [usize; 2],
    /// Padding above and to the left.
    pub pads: [usize; 2],
    /// Dilation down and across.
    pub dilations: [usize; 2],
    /// Elements from one residual pixel to the next, where there is a residual.
    pub residual_pitch: Option<usize>,
    /// Applied to the sum of product, bias and residual.
    pub activation: Option<Activation>,
    /// The residual is added behind the activation instead.
    pub residual_last: bool,
}

impl Family for ConvLayer {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        if target.sm < 80 {
            // Neither cp.async nor f16 products of depth 16: f32 products of the same weights.
            let order = WeightOrder::FilterFirst { pitch: self.weight_pitch() };
            return self.as_general().ordered_candidates(order, target);
        }
        let mut out = Vec::new();
        let hopper = target.sm == 90;
        let all = TILES
            .iter()
            .chain(HALO_TILES)
            .chain(WARPGROUP_TILES.iter().filter(|_| hopper))
            .chain(HALO_WARPGROUP_TILES.iter().filter(|_| hopper));
        for t in all.filter(|t| self.fits(t)) {
            let steps = self.steps(t);
            for &split in SPLITS {
                if split > 1 && (split > steps || steps / split < 2) {
                    continue;
                }
                // Every split must have work.
                if split > 1 && (split - 1) * ceil_div(steps, split) >= steps {
                    continue;
                }
                // Clusters of a power of two where there are clusters.
                let joins: &[Join] = match split {
                    1 => &[Join::Nothing],
                    2 | 4 | 8 if target.sm >= 90 => &[Join::Stores, Join::Copies],
                    _ => &[Join::Memory],
                };
                for &join in joins {
                    for rolled in [false, true] {
                        let candidate = self.candidate(t, split, join, rolled, target);
                        // The kernel's own bias and barrier take shared memory too.
                        let own = t.bn as u32 * 4 + 64;
                        if candidate.shared + own <= target.shared_per_block {
                            out.push(candidate);
                        }
                    }
                }
            }
        }
        out.extend(self.first_layer(target));
        out
    }

    fn extents(&self) -> Extents {
        let (size, pixels) = (DType::F16, self.batch * self.input[0] * self.input[1]);
        let last = self.pixels() - 1;
        let mut inputs = vec![reach((pixels - 1) * self.x_pitch, self.channels, size)];
        inputs.extend(self.residual_pitch.map(|p| reach(last * p, self.filters_stored, size)));
        Extents {
            inputs,
            constants: vec![
                self.filters * self.weight_pitch() * 2 + Self::WEIGHT_TAIL,
                self.filters * 4,
            ],
            outputs: vec![reach(last * self.y_pitch, self.filters_stored, size)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let (x, w) = (load(inputs[0], DType::F16), load(constants[0], DType::F16));
        let bias = load(constants[1], DType::F32);
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let windows = self.windows();
        for pixel in 0..self.pixels() {
            let (image, row, column) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let taps = windows.taps(row, column);
            for f in 0..self.filters_stored {
                let mut sum = 0.0;
                if f < self.filters {
                    sum = bias[f];
                    for &(tap, at) in &taps {
                        let x = &x[(image * ih * iw + at) * self.x_pitch..][..self.channels];
                        let w = &w[f * self.weight_pitch() + tap * self.channels..];
                        sum += x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                    }
                }
                let add = self
                    .residual_pitch
                    .map_or(0.0, |pitch| load_at(inputs[1], DType::F16, pixel * pitch + f));
                let value = if self.residual_last {
                    activate(self.activation, sum) + add
                } else {
                    activate(self.activation, sum + add)
                };
                store(&mut outputs[0], DType::F16, pixel * self.y_pitch + f, value);
            }
        }
    }
}

impl ConvLayer {
    fn as_general(&self) -> GeneralConvLayer {
        GeneralConvLayer {
            dtype: DType::F16,
            tf32: false,
            transposed: false,
            batch: self.batch,
            input: self.input,
            output: self.output,
            groups: 1,
            channels: self.channels,
            x_pitch: self.x_pitch,
            filters: self.filters,
            filters_stored: self.filters_stored,
            y_pitch: self.y_pitch,
            kernel: self.kernel,
            strides: self.strides,
            pads: self.pads,
            dilations: self.dilations,
            weights_given: false,
            bias_given: false,
            residual_pitch: self.residual_pitch,
            activation: self.activation,
            residual_last: self.residual_last,
        }
    }

    fn windows(&self) -> Windows {
        Windows {
            input: self.input,
            kernel: self.kernel,
            strides: self.strides,
            pads: self.pads,
            dilations: self.dilations,
            transposed: false,
        }
    }

    /// Zero bytes behind the packed weights: tiles with long rows read past the last one.
    pub const WEIGHT_TAIL: usize = 256;

    /// Elements of one packed weight row.
    pub fn weight_pitch(&self) -> usize {
        (self.kernel[0] * self.kernel[1] * self.channels).next_multiple_of(64)
    }

    fn pixels(&self) -> usize {
        self.batch * self.output[0] * self.output[1]
    }

    /// The layer's own `#define`s.
    fn defines(&self, target: &Target) -> Defines {
        let mut d = Defines::new(target, true);
        d.all(&[
            ("BATCH", self.batch),
            ("IH", self.input[0]),
            ("IW", self.input[1]),
            ("OH", self.output[0]),
            ("OW", self.output[1]),
            ("IC", self.channels),
            ("LDX", self.x_pitch),
            ("OC", self.filters),
            ("OC_STORED", self.filters_stored),
            ("LDY", self.y_pitch),
            ("KH", self.kernel[0]),
            ("KW", self.kernel[1]),
            ("SH", self.strides[0]),
            ("SW", self.strides[1]),
            ("PT", self.pads[0]),
            ("PL", self.pads[1]),
            ("DH", self.dilations[0]),
            ("DW", self.dilations[1]),
            ("RESIDUAL", usize::from(self.residual_pitch.is_some())),
            ("LDR", self.residual_pitch.unwrap_or(0)),
            ("RESIDUAL_LAST", usize::from(self.residual_last)),
        ])
        .activation(self.activation);
        d
    }

    /// False for a tile that wastes what a smaller one does not, or that the layer cannot use.
    fn fits(&self, t: &Tile) -> bool {
        let wide = t.bn > 16 && t.bn / 2 >= self.filters.next_multiple_of(8);
        let least = if t.wgmma { 64 } else { 16 };
        let tall = t.bm > least && t.bm / 2 >= self.pixels();
        let short = t.wgmma && self.pixels() < 24;
        if wide || tall || short {
            return false;
        }
        let Some([height, width]) = t.halo else { return true };
        let taps = self.kernel[0] * self.kernel[1];
        // A patch is overwritten a whole round of taps after its last use.
        let ahead = t.stages - if t.wgmma { 2 } else { 1 };
        let [oh, ow] = self.output;
        let tiled = (height == 0 || 2 * oh > height) && (width == 0 || 2 * ow > width);
        self.strides == [1, 1]
            && self.channels.is_multiple_of(8)
            && self.channels >= 16
            && taps > ahead
            && tiled
            && self.patch(t).0 <= 4 * t.bm
    }

    /// Steps through K.
    fn steps(&self, t: &Tile) -> usize {
        let taps = self.kernel[0] * self.kernel[1];
        match t.halo {
            Some(_) => ceil_div(self.channels, 64) * taps,
            None => ceil_div(taps * self.channels, t.bk),
        }
    }

    /// Rows of a patch, and how many patches there are.
    fn patch(&self, t: &Tile) -> (usize, usize) {
        let reach = |i: usize| (self.kernel[i] - 1) * self.dilations[i];
        let rows = match t.halo {
            None => return (0, 0),
            Some([0, _]) => t.bm + reach(0) * self.padded_width() + reach(1),
            Some([h, w]) => (h + reach(0)) * (w + reach(1)),
        };
        (rows, if self.channels > 64 { 2 } else { 1 })
    }

    /// Pixels from one row of the padded picture to the next: rows share their padding.
    fn padded_width(&self) -> usize {
        let ([_, width], [_, left]) = (self.input, self.pads);
        let reach = (self.kernel[1] - 1) * self.dilations[1];
        let right = (self.output[1] + reach).saturating_sub(width + left);
        (width + left.max(right)).max(self.output[1])
    }

    /// Tiles over all pixels.
    fn tiles_down(&self, t: &Tile) -> usize {
        let [oh, ow] = self.output;
        let reach = |i: usize| (self.kernel[i] - 1) * self.dilations[i];
        match t.halo {
            None => ceil_div(self.pixels(), t.bm),
            Some([0, _]) => {
                let width = self.padded_width();
                let rows = (self.batch - 1) * (oh + reach(0)) * width + (oh - 1) * width + ow;
                ceil_div(rows, t.bm)
            }
            Some([h, w]) => self.batch * ceil_div(oh, h) * ceil_div(ow, w),
        }
    }
}
