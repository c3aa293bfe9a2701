//! Convolution of f16 or 8-bit integers as implicit GEMM on tensor cores: every tap's pixels
//! copied (`cuda/conv_im2col.cu`), all taps out of one patch (`cuda/conv_halo.cu`), and first
//! layers (`cuda/conv_first.cu`). Two and three in one kernel:
//! `cuda/conv_pair.cu`, `cuda/conv_chain.cu`.

mod candidate;
mod chain;
mod first;
mod geometry;
mod pair;
pub(crate) mod planes;
mod tiles;

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use crate::defines::{Defines, ceil_div};
use crate::general_conv::{GeneralConvLayer, WeightOrder};
use crate::numbers::{Numbers, define_exact, kind};
use crate::reference::{activate, load, reach, store};
use crate::window::Windows;
use crate::{Candidate, Extents, Family, IntegerConvLayer, PoolLayer, Target, general_conv};
use candidate::Variant;
pub use chain::ConvChainLayer;
pub use pair::ConvPairLayer;
pub use planes::Planes;
use tiles::{
    HALO_TILES, HALO_WARPGROUP_TILES, Join, NARROW_HALO_TILES, NARROW_HALO_WARPGROUP_TILES, SPLITS,
    TILES, Tile, WARPGROUP_TILES, fitted_tiles,
};

/// A convolution between NHWC tensors, one group: of f16 with sums in f32, or of integers with
/// sums in i32, whose arithmetic is `tobiuo_ops::QuantConv`'s.
///
/// Inputs: x, and the residual where there is one. Constants: weights (f16, or i8 for integers) in
/// blocks ([`ConvLayer::weight_at`]), zeros where there are none; bias `[oc]` f32, or for integers
/// multiplier and bias `[oc, 2]` f32; where x has a zero point, the sums of each filter's weights
/// `[oc]` i32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvLayer {
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Input channels as stored: 4, or a multiple of 8; of integers a multiple of 16.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Output channels.
    pub filters: usize,
    /// Output channels written: a multiple of 8 from `filters` on; where results or residual are
    /// integers, pixels are a multiple of 16 bytes apart.
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
    /// Of each 2 x 2 results, side by side, only the largest is stored: y has half the rows and
    /// columns of `output`, rounded down. Not with a residual, and only where
    /// [`pools`](ConvLayer::pools) says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pooled: bool,
    /// What is read instead of f16 pixels; `channels` and `x_pitch` are 4 then. Rounded to f16,
    /// in which x counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planes: Option<Box<Planes>>,
    /// x's elements: `F16`, `I8` or `U8`.
    #[serde(default = "f16", skip_serializing_if = "is_f16")]
    pub x: DType,
    /// The integer of x that stands for 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub x_zero_point: i32,
    /// How results are stored: f16 or integers; in planes f32 too.
    #[serde(default = "Numbers::f16", skip_serializing_if = "Numbers::is_f16")]
    pub y: Numbers,
    /// Results do not lie in pixels, but so many elements apart from picture to picture, filter to
    /// filter and pixel to pixel, f32 or f16; not pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y_planes: Option<[usize; 3]>,
    /// How the residual is: f16 or integers.
    #[serde(default = "Numbers::f16", skip_serializing_if = "Numbers::is_f16")]
    pub residual: Numbers,
}

fn f16() -> DType {
    DType::F16
}

fn is_f16(dtype: &DType) -> bool {
    *dtype == DType::F16
}

fn is_zero(integer: &i32) -> bool {
    *integer == 0
}

/// A tile is computed in several ways, which differ by a few percent, unless the cost model says that
/// it takes this many times as long as the best.
const VARIED: f64 = 1.2;

/// Bytes of a kernel's barriers and flags in shared memory.
const OWN_SHARED: usize = 192;

/// Where weight `k` of a filter lies in blocks of `rows`, in elements of `size` bytes.
pub(crate) fn weight_at(filter: usize, k: usize, rows: usize, size: usize) -> usize {
    let (block, piece) = (128 / size, 16 / size);
    let swizzled = (k % block / piece) ^ (filter % 8);
    (k / block * rows + filter) * block + swizzled * piece + k % piece
}

impl Family for ConvLayer {
    fn name(&self) -> &'static str {
        match (self.integer(), self.planes.is_some() || self.y_planes.is_some()) {
            (false, false) => "conv",
            (false, true) => "conv_planes",
            (true, false) => "conv_i8",
            (true, true) => "conv_planes_i8",
        }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        self.candidates_varied(VARIED, target)
    }

    fn every_candidate(&self, target: &Target) -> Vec<Candidate> {
        self.candidates_varied(f64::INFINITY, target)
    }

    fn extents(&self) -> Extents {
        let pixels = self.batch * self.input[0] * self.input[1];
        let last = self.stored_pixels() - 1;
        let mut inputs = vec![match &self.planes {
            Some(planes) => planes.bytes(self),
            None => reach((pixels - 1) * self.x_pitch, self.channels, self.x),
        }];
        // The residual is read in pieces of 16 bytes.
        let piece = 16 / self.residual.dtype.size();
        let added = self.filters_stored.next_multiple_of(piece);
        inputs.extend(self.residual_pitch.map(|p| reach(last * p, added, self.residual.dtype)));
        let end = if self.integer() { 8 } else { 4 };
        let mut constants = vec![self.weights() * self.x.size(), self.filters * end];
        if self.x_zero_point != 0 {
            constants.push(self.filters * 4);
        }
        Extents {
            inputs,
            constants,
            outputs: vec![match self.y_planes {
                Some(steps) => self.y_planes_bytes(steps),
                None => reach(last * self.y_pitch, self.filters_stored, self.y.dtype),
            }],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        if self.pooled {
            return self.pooled_reference(inputs, constants, outputs);
        }
        if let Some(steps) = self.y_planes {
            return self.y_planes_reference((inputs, constants), steps, &mut outputs[0]);
        }
        if self.integer() {
            return self.without_tensor_cores().reference(inputs, constants, outputs);
        }
        let x = match &self.planes {
            Some(planes) => load(&planes.pixels(self, inputs[0]), DType::F16),
            None => load(inputs[0], DType::F16),
        };
        let w = load(constants[0], DType::F16);
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
                        let k = tap * self.channels;
                        let w = |c| w[self.weight_at(f, k + c)];
                        sum += x.iter().enumerate().map(|(c, x)| x * w(c)).sum::<f64>();
                    }
                }
                let add = self.residual_pitch.map_or(0.0, |pitch| {
                    f64::from(self.residual.real(inputs[1], pixel * pitch + f))
                });
                let value = if self.residual_last {
                    activate(self.activation, sum) + add
                } else {
                    activate(self.activation, sum + add)
                };
                let at = pixel * self.y_pitch + f;
                match self.y.is_integer() {
                    true => self.y.store(&mut outputs[0], at, value as f32),
                    false => store(&mut outputs[0], self.y.dtype, at, value),
                }
            }
        }
    }
}

impl ConvLayer {
    /// The candidates, with the variants of tiles that take up to `varied` times as long as the best.
    fn candidates_varied(&self, varied: f64, target: &Target) -> Vec<Candidate> {
        if target.sm < 80 {
            // Neither cp.async nor products of this depth: products in f32, or four integers at
            // a time, of the same weights.
            if self.integer() {
                let ends = (self.pooled, self.y_planes);
                return self.without_tensor_cores().candidates_of(ends, target);
            }
            let order = WeightOrder::Blocks { rows: self.filters_stored };
            let ends = general_conv::Stored {
                y: self.y,
                residual: self.residual,
                pooled: self.pooled,
                y_planes: self.y_planes,
            };
            let given = self.planes.as_deref();
            return self.as_general().ordered_candidates(order, (given, ends), target);
        }
        if self.planes.is_some() {
            return self.first_layer(target);
        }
        let mut out = Vec::new();
        let hopper = target.sm == 90;
        let all = TILES
            .iter()
            .chain(HALO_TILES)
            .chain(WARPGROUP_TILES.iter().filter(|_| hopper))
            .chain(HALO_WARPGROUP_TILES.iter().filter(|_| hopper))
            .chain(NARROW_HALO_TILES)
            .chain(NARROW_HALO_WARPGROUP_TILES.iter().filter(|_| hopper));
        let mut tiles: Vec<(Tile, usize)> =
            all.flat_map(|&t| SPLITS.iter().map(move |&split| (t, split))).collect();
        if hopper {
            let granule = if self.f16_only() { 8 } else { 16 };
            let down = |t: &Tile| self.tiles_down(t);
            tiles.extend(fitted_tiles(self.filters_stored, granule, down, target));
        }
        let plain = |(t, split): &(Tile, usize)| {
            let join = *self.joins(t, *split, target).first()?;
            let candidate = self.candidate(t, *split, join, Variant::default(), target)?;
            Some((*t, *split, join, candidate))
        };
        let plain: Vec<(Tile, usize, Join, Candidate)> = tiles.iter().filter_map(plain).collect();
        let best = plain.iter().map(|c| c.3.predicted_us).fold(f64::INFINITY, f64::min);
        for (t, split, first, candidate) in plain {
            let near = candidate.predicted_us <= varied * best;
            out.push(candidate);
            if !near {
                continue;
            }
            let variants = self.variants(&t, split, target);
            let joins = self.joins(&t, split, target).iter();
            let ways = joins.flat_map(|&join| variants.iter().map(move |&v| (join, v)));
            let others = ways.filter(|&way| way != (first, Variant::default()));
            out.extend(others.filter_map(|(join, v)| self.candidate(&t, split, join, v, target)));
        }
        out.extend(self.first_layer(target));
        out
    }

    /// Whether results behind this activation can be pooled: kernels look for the largest sum
    /// before what follows it, which must not turn the order around.
    pub fn pools(activation: Option<Activation>) -> bool {
        activation.is_none_or(Activation::never_falls)
    }

    /// Products of integers.
    pub(crate) fn integer(&self) -> bool {
        self.x != DType::F16
    }

    /// All results, then the largest of each window.
    fn pooled_reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let all = ConvLayer { pooled: false, ..self.clone() };
        let mut results: Vec<Vec<u8>> =
            all.extents().outputs.iter().map(|&bytes| vec![0; bytes]).collect();
        all.reference(inputs, constants, &mut results);
        let pool = PoolLayer {
            dtype: self.y.dtype,
            batch: self.batch,
            input: self.output,
            output: self.output.map(|n| n / 2),
            channels: self.filters_stored,
            x_pitch: self.y_pitch,
            y_pitch: self.y_pitch,
            kernel: [2, 2],
            strides: [2, 2],
            pads: [0; 4],
            dilations: [1, 1],
            average: None,
            mean: None,
        };
        pool.reference(&[&results[0]], &[], outputs);
    }

    /// Neither operands nor results are integers.
    fn f16_only(&self) -> bool {
        !self.integer() && !self.y.is_integer() && !self.residual.is_integer()
    }

    /// How blocks of a tile whose k is shared by `split` of them may come together; none where the
    /// layer cannot take the tile.
    fn joins(&self, t: &Tile, split: usize, target: &Target) -> &'static [Join] {
        let steps = self.steps(t);
        // Every block must have work.
        let shared =
            split == 1 || (steps / split >= 2 && (split - 1) * ceil_div(steps, split) < steps);
        if !shared || !self.fits(t) {
            return &[];
        }
        // And within the rows that a block finishes.
        let window = if t.halo.is_some() { 16 } else { 4 };
        if self.pooled && split > 1 && !(t.bm / split).is_multiple_of(window) {
            return &[];
        }
        // Clusters of a power of two where there are clusters.
        match split {
            1 => &[Join::Nothing],
            2 | 4 | 8 if target.sm >= 90 => &[Join::Copies, Join::Stores],
            _ => &[Join::Memory],
        }
    }

    /// The ways in which a tile can be computed.
    fn variants(&self, t: &Tile, split: usize, target: &Target) -> Vec<Variant> {
        let plain = Variant::default();
        let mut variants = vec![plain, Variant { rolled: true, ..plain }];
        let whole_rows = t.wgmma && t.halo.is_some() && t.row() == 128;
        if whole_rows && self.bulk_weights(t, split, target) {
            variants.push(Variant { producer: true, ..plain });
        }
        variants
    }

    /// Bytes of what a filter's sum meets: its bias, of integers its multiplier too, and the sum
    /// of its weights where x has a zero point.
    fn end_bytes(&self) -> usize {
        match (self.integer(), self.x_zero_point) {
            (false, _) => 4,
            (true, 0) => 8,
            (true, _) => 16,
        }
    }

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

    fn without_tensor_cores(&self) -> IntegerConvLayer {
        IntegerConvLayer {
            x: self.x,
            x_zero_point: self.x_zero_point,
            batch: self.batch,
            input: self.input,
            output: self.output,
            groups: 1,
            channels: self.channels,
            x_pitch: self.x_pitch,
            filters: self.filters,
            filters_stored: self.filters_stored,
            y_pitch: self.y_pitch,
            weight_pitch: self.filters_stored,
            blocks: true,
            kernel: self.kernel,
            strides: self.strides,
            pads: self.pads,
            dilations: self.dilations,
            residual_pitch: self.residual_pitch,
            residual: self.residual,
            residual_last: self.residual_last,
            activation: self.activation,
            y: self.y,
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

    /// The depth of the product: taps times channels.
    fn depth(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels
    }

    /// Elements of the packed weights.
    pub fn weights(&self) -> usize {
        self.depth().next_multiple_of(128 / self.x.size()) * self.filters_stored
    }

    /// Where weight `k` (ordered kh, kw, c) of a filter lies among the packed weights: blocks of
    /// 128 bytes of k, in each a row for each of `filters_stored`, so that a tile's rows follow
    /// one another in memory; a row's 16-byte pieces are swizzled as in shared memory.
    pub fn weight_at(&self, filter: usize, k: usize) -> usize {
        weight_at(filter, k, self.filters_stored, self.x.size())
    }

    /// Elements of a tile's row.
    fn row(&self, t: &Tile) -> usize {
        t.row() / self.x.size()
    }

    /// Pixels that are computed.
    fn pixels(&self) -> usize {
        self.stored_pixels() * if self.pooled { 4 } else { 1 }
    }

    fn stored_pixels(&self) -> usize {
        let [oh, ow] = self.output.map(|n| if self.pooled { n / 2 } else { n });
        self.batch * oh * ow
    }

    /// The layer's own `#define`s.
    fn defines(&self, target: &Target) -> Defines {
        let mut d = self.sum_defines(target);
        self.define_results(&mut d);
        d
    }

    /// Of them those that say where results go.
    fn define_results(&self, d: &mut Defines) {
        d.all(&[("OC", self.filters), ("OC_STORED", self.filters_stored), ("LDY", self.y_pitch)]);
        self.y.define("Y", d);
        planes::define_results(self.y_planes, d);
    }

    /// The others.
    fn sum_defines(&self, target: &Target) -> Defines {
        let mut d = Defines::new(target, true);
        d.all(&[
            ("BATCH", self.batch),
            ("IH", self.input[0]),
            ("IW", self.input[1]),
            ("OH", self.output[0]),
            ("OW", self.output[1]),
            ("IC", self.channels),
            ("LDX", self.x_pitch),
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
            ("POOLED", usize::from(self.pooled)),
            ("INTEGER", usize::from(self.integer())),
            ("X_KIND", kind(self.x)),
        ])
        .activation(self.activation);
        d.set("X_ZERO", format!("({})", self.x_zero_point));
        self.residual.define("R", &mut d);
        if self.integer() {
            define_exact(&mut d);
        }
        d
    }
}
