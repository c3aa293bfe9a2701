//! Convolution as implicit GEMM on tensor cores: `cuda/conv_f16.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::general_conv::{GeneralConvLayer, WeightOrder};
use super::reference::{activate, load, load_at, reach, store};
use super::window::Windows;
use super::{Argument, Candidate, Extents, Family, Target};

const TILE: &str = include_str!("../cuda/conv_tile.cuh");
const EPILOGUE: &str = include_str!("../cuda/conv_epilogue.cuh");
const IM2COL: &str = include_str!("../cuda/conv_f16.cu");
const HALO: &str = include_str!("../cuda/conv_halo.cu");
const FIRST: &str = include_str!("../cuda/conv_first.cu");

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

#[derive(Clone, Copy)]
struct Tile {
    bm: usize,
    bn: usize,
    bk: usize,
    stages: usize,
    warps: [usize; 2],
    /// Warpgroup products (compute capability 9.0a).
    wgmma: bool,
    /// All taps read one patch: pixels of the tile down and across; `[0, 0]`: rows of the padded
    /// picture. `None`: every tap's pixels are copied.
    halo: Option<[usize; 2]>,
}

const fn tile(bm: usize, bn: usize, bk: usize, stages: usize, wr: usize, wc: usize) -> Tile {
    Tile { bm, bn, bk, stages, warps: [wr, wc], wgmma: false, halo: None }
}

const fn warpgroups(bm: usize, bn: usize, stages: usize) -> Tile {
    Tile { bm, bn, bk: 64, stages, warps: [bm / 16, 1], wgmma: true, halo: None }
}

impl Tile {
    /// The same over patches of `[height, width]` pixels.
    const fn over(self, pixels: [usize; 2]) -> Tile {
        Tile { halo: Some(pixels), ..self }
    }
}

/// Rows of the padded picture.
const ROWS: [usize; 2] = [0, 0];

/// Small and deep tiles for batch 1, larger ones for large maps.
const TILES: &[Tile] = &[
    tile(16, 16, 64, 8, 1, 1),
    tile(16, 32, 64, 8, 1, 2),
    tile(32, 16, 64, 8, 2, 1),
    tile(16, 64, 64, 6, 1, 4),
    tile(64, 16, 64, 6, 4, 1),
    tile(32, 32, 64, 6, 2, 2),
    tile(32, 32, 64, 10, 2, 2),
    tile(32, 32, 64, 3, 2, 2),
    tile(32, 32, 128, 4, 2, 2),
    tile(32, 64, 64, 4, 1, 4),
    tile(32, 64, 64, 8, 2, 4),
    tile(64, 32, 64, 4, 4, 1),
    tile(64, 32, 64, 6, 4, 2),
    tile(64, 32, 32, 4, 4, 1),
    tile(64, 64, 64, 3, 2, 2),
    tile(64, 64, 64, 4, 2, 2),
    tile(64, 64, 64, 6, 2, 4),
    tile(128, 32, 64, 3, 8, 1),
    tile(128, 32, 32, 4, 4, 1),
    tile(128, 64, 64, 3, 4, 2),
    tile(64, 128, 64, 3, 2, 4),
    tile(128, 128, 32, 4, 2, 4),
    tile(128, 128, 64, 3, 2, 4),
];

/// For compute capability 9.0a: each group of four warps multiplies 64 rows.
const WARPGROUP_TILES: &[Tile] = &[
    warpgroups(64, 16, 6),
    warpgroups(64, 16, 10),
    warpgroups(64, 32, 5),
    warpgroups(64, 32, 8),
    warpgroups(64, 64, 4),
    warpgroups(64, 64, 6),
    warpgroups(64, 64, 8),
    warpgroups(64, 128, 4),
    warpgroups(64, 128, 6),
    warpgroups(64, 256, 4),
    warpgroups(128, 32, 5),
    warpgroups(128, 64, 4),
    warpgroups(128, 64, 6),
    warpgroups(128, 128, 4),
    warpgroups(128, 128, 6),
    warpgroups(128, 256, 4),
    warpgroups(192, 64, 4),
    warpgroups(192, 128, 4),
    warpgroups(256, 64, 4),
    warpgroups(256, 128, 4),
];

/// For kernels of several taps and stride 1.
const HALO_TILES: &[Tile] = &[
    tile(16, 64, 64, 6, 1, 4).over(ROWS),
    tile(32, 32, 64, 6, 2, 2).over(ROWS),
    tile(32, 64, 64, 4, 1, 4).over(ROWS),
    tile(32, 64, 64, 6, 2, 4).over(ROWS),
    tile(64, 16, 64, 6, 4, 1).over(ROWS),
    tile(64, 32, 64, 6, 4, 2).over(ROWS),
    tile(64, 64, 64, 4, 2, 2).over(ROWS),
    tile(64, 64, 64, 6, 2, 4).over(ROWS),
    tile(64, 16, 64, 6, 4, 1).over([8, 8]),
    tile(64, 32, 64, 6, 4, 2).over([8, 8]),
    tile(64, 64, 64, 4, 2, 2).over([8, 8]),
    tile(64, 64, 64, 6, 2, 4).over([8, 8]),
    tile(128, 64, 64, 4, 4, 2).over([8, 16]),
    tile(128, 32, 64, 4, 4, 1).over([8, 16]),
    tile(64, 128, 64, 3, 2, 4).over([8, 8]),
];

/// The same with warpgroup products.
const HALO_WARPGROUP_TILES: &[Tile] = &[
    warpgroups(64, 16, 6).over(ROWS),
    warpgroups(64, 32, 6).over(ROWS),
    warpgroups(64, 32, 9).over(ROWS),
    warpgroups(64, 64, 4).over(ROWS),
    warpgroups(64, 64, 6).over(ROWS),
    warpgroups(64, 64, 9).over(ROWS),
    warpgroups(64, 128, 4).over(ROWS),
    warpgroups(64, 128, 6).over(ROWS),
    warpgroups(64, 256, 4).over(ROWS),
    warpgroups(128, 32, 6).over(ROWS),
    warpgroups(128, 64, 4).over(ROWS),
    warpgroups(128, 64, 6).over(ROWS),
    warpgroups(128, 128, 4).over(ROWS),
    warpgroups(128, 128, 6).over(ROWS),
    warpgroups(128, 256, 4).over(ROWS),
    warpgroups(192, 64, 4).over(ROWS),
    warpgroups(192, 64, 6).over(ROWS),
    warpgroups(192, 128, 4).over(ROWS),
    warpgroups(192, 128, 6).over(ROWS),
    warpgroups(256, 64, 4).over(ROWS),
    warpgroups(256, 64, 6).over(ROWS),
    warpgroups(256, 128, 4).over(ROWS),
    warpgroups(64, 16, 6).over([8, 8]),
    warpgroups(64, 32, 5).over([8, 8]),
    warpgroups(64, 32, 8).over([8, 8]),
    warpgroups(64, 64, 4).over([8, 8]),
    warpgroups(64, 64, 6).over([8, 8]),
    warpgroups(64, 64, 9).over([8, 8]),
    warpgroups(64, 128, 4).over([8, 8]),
    warpgroups(64, 128, 6).over([8, 8]),
    warpgroups(64, 256, 4).over([8, 8]),
    warpgroups(128, 32, 5).over([8, 16]),
    warpgroups(128, 64, 4).over([8, 16]),
    warpgroups(128, 64, 6).over([8, 16]),
    warpgroups(128, 64, 4).over([16, 8]),
    warpgroups(128, 128, 4).over([8, 16]),
    warpgroups(128, 128, 6).over([8, 16]),
    warpgroups(128, 128, 4).over([16, 8]),
    warpgroups(128, 256, 4).over([8, 16]),
    warpgroups(192, 64, 4).over([24, 8]),
    warpgroups(192, 128, 4).over([24, 8]),
    warpgroups(256, 32, 4).over([16, 16]),
    warpgroups(256, 64, 4).over([16, 16]),
    warpgroups(256, 128, 4).over([16, 16]),
];

const SPLITS: &[usize] = &[1, 2, 3, 4, 6, 8, 12, 16];

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
                let cluster = target.sm >= 90 && matches!(split, 2 | 4 | 8);
                for rolled in [false, true] {
                    out.push(self.candidate(t, split, cluster, rolled, target));
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

    /// Candidates of `cuda/conv_first.cu`, where it can compute the layer.
    fn first_layer(&self, target: &Target) -> Vec<Candidate> {
        let fits = self.channels == 4
            && self.x_pitch == 4
            && self.kernel[0] <= 4
            && self.kernel[1] <= 4
            && self.dilations[1] == 1
            && self.filters_stored <= 64
            && self.residual_pitch.is_none();
        if !fits {
            return Vec::new();
        }
        let [oh, ow] = self.output;
        let bytes = 8 * self.batch * self.input[0] * self.input[1]
            + 2 * self.filters_stored * self.pixels();
        let candidate = |(h, w, threads): (usize, usize, usize)| {
            let mut d = self.defines(target);
            d.all(&[("TILE_H", h), ("TILE_W", w), ("THREADS", threads)]);
            let grid = [ceil_div(ow, w) as u32, ceil_div(oh, h) as u32, self.batch as u32];
            Candidate {
                label: format!("first {h}x{w} t{threads}"),
                source: d.source(&[FIRST]),
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
            rows * columns * 8 + t / 32 * 16 * (self.filters_stored + 8) * 2
        };
        shapes.into_iter().filter(|s| shared(s) <= 48 * 1024).map(candidate).collect()
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
            Some([0, _]) => t.bm + reach(0) * (self.output[1] + reach(1)) + reach(1),
            Some([h, w]) => (h + reach(0)) * (w + reach(1)),
        };
        (rows, if self.channels > 64 { 2 } else { 1 })
    }

    /// Tiles over all pixels.
    fn tiles_down(&self, t: &Tile) -> usize {
        let [oh, ow] = self.output;
        let reach = |i: usize| (self.kernel[i] - 1) * self.dilations[i];
        match t.halo {
            None => ceil_div(self.pixels(), t.bm),
            Some([0, _]) => {
                let width = ow + reach(1);
                let rows = (self.batch - 1) * (oh + reach(0)) * width + (oh - 1) * width + ow;
                ceil_div(rows, t.bm)
            }
            Some([h, w]) => self.batch * ceil_div(oh, h) * ceil_div(ow, w),
        }
    }

    fn candidate(
        &self,
        t: &Tile,
        split: usize,
        cluster: bool,
        rolled: bool,
        target: &Target,
    ) -> Candidate {
        let (bm, bn, bk) = (t.bm, t.bn, t.bk);
        let tiles = [ceil_div(self.filters_stored, bn), self.tiles_down(t)];
        let threads = t.warps[0] * t.warps[1] * 32;
        let (patch_rows, patches) = self.patch(t);
        let stages = match t.halo {
            None => t.stages * (bm + bn) * bk * 2,
            Some(_) => t.stages * bn * 128 + patches * (patch_rows * 128).next_multiple_of(1024),
        };
        let own_rows = if cluster { bm / split } else { bm };
        let prefetch = self.residual_pitch.is_some() && (split == 1 || cluster);
        let residual_bytes = if prefetch { own_rows * (bn + 8) * 2 } else { 0 };
        let inbox = if cluster { bm * (bn + 4) * 4 } else { 0 };
        // Warpgroup products and patches want tiles at multiples of 1024 bytes.
        let slack = if t.wgmma || t.halo.is_some() { 1024 } else { 0 };
        let limit = target.shared_per_block as usize - slack - bn * 4 - 64;
        let apart = cluster && stages + residual_bytes + inbox <= limit;
        let residual_at = if apart { stages } else { stages.max(inbox) };
        let inbox_at = if apart { stages + residual_bytes.next_multiple_of(16) } else { 0 };
        let end = residual_at + residual_bytes.next_multiple_of(16);
        let shared = slack + if apart { inbox_at + inbox } else { end };
        let mut d = self.defines(target);
        d.all(&[
            ("VEC", if self.channels.is_multiple_of(8) { 8 } else { 4 }),
            ("BM", bm),
            ("BN", bn),
            ("BK", bk),
            ("ST", t.stages),
            ("WR", t.warps[0]),
            ("WC", t.warps[1]),
            ("SPLIT", split),
            ("CLUSTER", usize::from(cluster)),
            ("HALO", usize::from(t.halo.is_some())),
            ("TILE_H", t.halo.map_or(0, |h| h[0])),
            ("TILE_W", t.halo.map_or(0, |h| h[1])),
            ("RESIDUAL_AT", residual_at),
            ("INBOX_AT", inbox_at),
            ("INBOX_APART", usize::from(apart)),
            ("WGMMA", usize::from(t.wgmma)),
            ("ROLLED", usize::from(rolled)),
        ]);
        let count = tiles[0] * tiles[1];
        let through_memory = split > 1 && !cluster;
        let tickets = if through_memory { (count * 4).next_multiple_of(256) } else { 0 };
        let partial = if through_memory { count * split * bm * bn * 4 } else { 0 };
        let residual =
            if self.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        Candidate {
            label: format!(
                "{}{bm}x{bn}x{bk}{} s{} w{}x{} {}{split}{}",
                if t.wgmma { "g" } else { "" },
                match t.halo {
                    None => String::new(),
                    Some([0, _]) => " rows".into(),
                    Some([h, w]) => format!(" {h}x{w}"),
                },
                t.stages,
                t.warps[0],
                t.warps[1],
                if cluster { 'c' } else { 'k' },
                if rolled { " r" } else { "" },
            ),
            source: {
                let product = if t.wgmma { warpgroup_mma(bn) } else { String::new() };
                let body = if t.halo.is_some() { HALO } else { IM2COL };
                d.source(&[&product, TILE, EPILOGUE, body])
            },
            grid: [tiles[0] as u32, tiles[1] as u32, split as u32],
            block: threads as u32,
            shared: shared as u32,
            specific: t.wgmma,
            arguments: vec![
                Argument::Input(0),
                Argument::Constant(0),
                Argument::Constant(1),
                Argument::Output(0),
                residual,
                if through_memory { Argument::Scratch(tickets) } else { Argument::Null },
                if through_memory { Argument::Scratch(0) } else { Argument::Null },
            ],
            scratch: tickets + partial,
            zeroed: tickets,
            predicted_us: self.predict(t, (split, cluster), count, shared, threads, target)
                + if rolled { 0.08 } else { 0.0 },
        }
    }

    /// Rough time of a candidate, microseconds. Its constants, in cycles of a multiprocessor,
    /// are fitted to 6,700 measured candidates of two networks on an H200 (docs/notes/cuda.md).
    fn predict(
        &self,
        t: &Tile,
        (split, cluster): (usize, bool),
        tiles: usize,
        shared: usize,
        threads: usize,
        target: &Target,
    ) -> f64 {
        let clock = target.clock_ghz * 1e3;
        let resident = (target.shared_per_sm as usize / (shared + 2048)).min(2048 / threads).max(1);
        let blocks = (tiles * split) as f64;
        let per_sm = (blocks / f64::from(target.sm_count)).ceil().max(1.0);
        let waves = (per_sm / resident as f64).ceil();
        let together = per_sm.min(resident as f64);
        let steps = ceil_div(self.steps(t), split) as f64;
        // What a block brings into shared memory per step.
        let row = (t.bk * 2) as f64;
        let step_bytes = match t.halo {
            None => (t.bm + t.bn) as f64 * row,
            Some(_) => {
                let taps = (self.kernel[0] * self.kernel[1]) as f64;
                let patches = (steps / taps).ceil();
                t.bn as f64 * row + patches / steps * self.patch(t).0 as f64 * row
            }
        };
        // Multiply-adds per cycle that small tiles reach, and the cycles of a step's start.
        let (rate, start) = match t.wgmma {
            true => (830.0, 60.0),
            false => (450.0, 350.0),
        };
        let product = (t.bm * t.bn * t.bk) as f64 / rate * together;
        // Bytes per cycle into one multiprocessor.
        let fill = step_bytes / 34.0 * together;
        let issue = start + step_bytes / 16.0 / threads as f64 * 13.0;
        let step = product.max(fill).max(issue * (1.0 + 0.04 * (together - 1.0))) / clock;
        let l2_rate = f64::from(target.sm_count) * 24.0 * clock;
        let traffic = blocks * steps * step_bytes / l2_rate;
        let joined = match (split, cluster) {
            (1, _) => 0.0,
            (_, true) => 0.5 + 0.12 * split as f64,
            _ => 1.6 + 0.68 * split as f64,
        };
        0.4 + joined + (waves * (1.65 + steps * step)).max(traffic + 1.65)
    }
}

/// The product of one warpgroup as a device function: `d += a * b` for a 64 x 16 tile at
/// descriptor `a` and a `bn` x 16 tile at `b` (PTX ISA, `wgmma.mma_async`).
fn warpgroup_mma(bn: usize) -> String {
    let registers = bn / 2;
    let list: Vec<String> = (0..registers).map(|i| format!("%{i}")).collect();
    let sums: Vec<String> =
        (0..registers).map(|i| format!("\"+f\"(d[{}][{}])", i / 4, i % 4)).collect();
    format!(
        "__device__ __forceinline__ void warpgroup_mma(float (&d)[1][{}][4], u64 a, u64 b) {{\n\
         float(&s)[{}][4] = d[0];\n\
         asm volatile(\"{{.reg .pred p; setp.eq.u32 p, 0, 0; \"\n\
         \"wgmma.mma_async.sync.aligned.m64n{bn}k16.f32.f16.f16 {{{}}}, %{registers}, %{}, p, 1, 1, 0, 0;}}\"\n\
         : {} : \"l\"(a), \"l\"(b));\n}}\n",
        bn / 8,
        bn / 8,
        list.join(", "),
        registers + 1,
        sums.join(", ").replace("(d[", "(s["),
    )
}
