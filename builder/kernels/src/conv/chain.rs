//! Three convolutions in one kernel, the second and third of 1x1, what lies between them in shared
//! memory: `cuda/conv_chain.cu`.

use serde::{Deserialize, Serialize};

use super::ConvLayer;
use super::candidate::{FRAGMENTS, MMA, MMA_INTEGER, clustered};
use super::pair::{ConvPairLayer, JOINED};
use crate::defines::{ceil_div, float};
use crate::numbers::{EXACT, NUMBERS};
use crate::{Argument, Candidate, Extents, Family, Target, activation_code};

const CHAIN: &str = include_str!("../../cuda/conv_chain.cu");

/// A convolution, a 1x1 convolution of what it leaves, which may add a residual, and a 1x1
/// convolution of what that leaves.
///
/// Inputs: the first's x, and the second's residual where there is one. Constants: weights and
/// ends of each, as [`ConvLayer`] has them. Outputs: the third's y, and what the second leaves
/// where that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvChainLayer {
    /// The first, without residual.
    pub first: ConvLayer,
    /// The second: 1x1.
    pub second: ConvLayer,
    /// The third: 1x1, without residual.
    pub third: ConvLayer,
    /// Other layers read what the second leaves.
    pub keep: bool,
}

/// How a tile is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ChainTile {
    /// Rows of the products; the tile's pixels are as many or somewhat fewer.
    bm: usize,
    /// Pixels down and across.
    pixels: [usize; 2],
    /// Blocks of a cluster.
    split: usize,
    /// Warps down and across.
    warps: [usize; 2],
}

/// How a block computes its part, and where things lie in shared memory, in bytes. Sums of warps
/// and what is sent lie over the first one's weights, what arrives over the pixels.
struct Places {
    /// Warps side by side in the first and second product; the others share k.
    across: [usize; 2],
    w2: usize,
    w3: usize,
    x: usize,
    mid: [usize; 2],
    residual: usize,
    ends: usize,
    all: usize,
}

const SPLITS: &[usize] = &[1, 2, 4, 8, 16];
const HEIGHTS: &[(usize, &[[usize; 2]])] = &[
    (16, &[[1, 8], [1, 16]]),
    (32, &[[1, 8], [1, 16], [2, 4], [2, 8]]),
    (64, &[[1, 8], [2, 4], [2, 8], [4, 2], [4, 4]]),
    (128, &[[2, 4], [2, 8], [4, 4]]),
];
/// Products of a warp that the compiler unrolls at most.
const MOST_STEPS: usize = 40;

/// 16-byte pieces of a row that can be swizzled: two, four or whole blocks of 128 bytes.
fn swizzles(bytes: usize) -> bool {
    matches!(bytes, 32 | 64) || (bytes.is_multiple_of(128) && bytes > 0)
}

impl ConvChainLayer {
    /// Three layers as one, where a kernel can compute them so; `keep`: others read what the
    /// second leaves too. Whether there is a candidate depends on the device.
    pub fn new(
        first: &ConvLayer,
        second: &ConvLayer,
        third: &ConvLayer,
        keep: bool,
    ) -> Option<ConvChainLayer> {
        let plain = ConvLayer { residual_pitch: None, ..second.clone() };
        ConvPairLayer::new(first, &plain, false)?;
        ConvPairLayer::new(second, third, keep)?;
        let channels = swizzles(first.channels * first.x.size());
        (first.residual_pitch.is_none() && third.y_planes.is_none() && channels).then(|| {
            ConvChainLayer {
                first: first.clone(),
                second: second.clone(),
                third: third.clone(),
                keep,
            }
        })
    }

    /// Bytes of an element that is multiplied.
    fn size(&self) -> usize {
        self.first.x.size()
    }

    /// A block's filters of each layer.
    fn own(&self, split: usize) -> [usize; 3] {
        [&self.first, &self.second, &self.third].map(|l| l.filters_stored / split)
    }

    fn tiles(&self, t: &ChainTile) -> usize {
        let [h, w] = self.first.output;
        self.first.batch * ceil_div(h, t.pixels[0]) * ceil_div(w, t.pixels[1])
    }

    /// Rows of a tile's patch of x.
    fn patch(&self, t: &ChainTile) -> usize {
        let l = &self.first;
        let side =
            |i: usize| (t.pixels[i] - 1) * l.strides[i] + (l.kernel[i] - 1) * l.dilations[i] + 1;
        side(0) * side(1)
    }

    /// How many warps lie side by side in a product of `rows` of `depth` bytes with `filters`: as
    /// few bytes through shared memory as can be.
    fn across(&self, t: &ChainTile, depth: usize, filters: usize) -> Option<usize> {
        let steps = depth / 32;
        (0..5)
            .map(|i| 1 << i)
            .filter(|&wn| wn <= t.warps[1] && 4 * filters / 8 >= 3 * wn)
            .filter(|&wn| {
                let (wk, units) = (t.warps[1] / wn, ceil_div(filters / 8, wn));
                // Sums stay in registers.
                let sums = t.bm / t.warps[0] / 16 * units;
                wk <= steps && ceil_div(steps, wk) <= MOST_STEPS && sums <= 16
            })
            .min_by_key(|wn| {
                let sums = 2 * (t.warps[1] / wn) * t.bm * filters * 4;
                t.bm * depth * wn + filters * depth * t.warps[0] + sums
            })
    }

    /// Where things lie; `None` where the layer cannot be cut so.
    fn places(&self, t: &ChainTile) -> Option<Places> {
        let size = self.size();
        let layers = [&self.first, &self.second, &self.third];
        let own = self.own(t.split);
        let cut = layers.iter().all(|l| l.filters_stored.is_multiple_of(8 * t.split));
        let residual = self.second.residual_pitch.is_some();
        let residual_row = own[1] * self.second.residual.dtype.size();
        let slice = own[0] * size;
        let pieces = (slice == 16 || swizzles(slice))
            && (self.first.filters_stored * size).is_multiple_of(32)
            && swizzles(own[1] * size)
            && (!residual || residual_row.is_multiple_of(16));
        let third_units = ceil_div(self.third.filters_stored / 8, t.warps[1]);
        let third = 4 * self.third.filters_stored / 8 >= 3 * t.warps[1]
            && t.bm / t.warps[0] / 16 * third_units <= 16
            && own[1] * size / 32 <= MOST_STEPS;
        if !cut || !pieces || !third {
            return None;
        }
        let depths = [self.first.depth() * size, self.first.filters_stored * size];
        let across = [self.across(t, depths[0], own[0])?, self.across(t, depths[1], own[1])?];
        let blocks = |depth: usize| ceil_div(depth, 128) * 128;
        let w1 = blocks(depths[0]) * own[0];
        let parts = |i: usize| t.warps[1] / across[i] * t.bm * own[i] * 4;
        let sums = t.bm * self.third.filters_stored * 4;
        let w2 = w1.max(parts(0)).max(parts(1)).max(sums).next_multiple_of(128);
        let w3 = w2 + blocks(depths[1]) * own[1];
        // Without clusters the third's weights come in whole blocks too.
        let x = w3 + (own[1] * size * self.third.filters_stored).next_multiple_of(128);
        let arrives = if t.split > 1 { sums } else { 0 };
        let pixels = self.patch(t) * self.first.channels * size;
        let mid1 = x + pixels.max(arrives).next_multiple_of(128);
        let mid2 = mid1 + (t.bm * depths[1]).next_multiple_of(128);
        let residual_at = mid2 + t.bm * own[1] * size;
        let residual_bytes = if residual { t.bm * (residual_row + 16) } else { 0 };
        let ends = residual_at + residual_bytes;
        let end = if self.first.integer() { 8 } else { 4 };
        let all = ends + own.iter().sum::<usize>() * end;
        Some(Places { across, w2, w3, x, mid: [mid1, mid2], residual: residual_at, ends, all })
    }

    /// Blocks of a multiprocessor for which registers are kept.
    fn resident(t: &ChainTile, at: &Places, target: &Target) -> usize {
        let fits = 2 * (at.all + 1024 + 128) <= target.shared_per_sm as usize;
        if fits && t.warps[0] * t.warps[1] <= 8 { 2 } else { 1 }
    }

    fn candidate(&self, t: &ChainTile, at: &Places, target: &Target) -> Candidate {
        let (first, second, third) = (&self.first, &self.second, &self.third);
        // The residual is the second's.
        let head = ConvLayer {
            residual_pitch: second.residual_pitch,
            residual: second.residual,
            residual_last: second.residual_last,
            ..first.clone()
        };
        let mut d = head.sum_defines(target);
        d.all(&[
            ("BM", t.bm),
            ("TILE_H", t.pixels[0]),
            ("TILE_W", t.pixels[1]),
            ("SPLIT", t.split),
            ("WR", t.warps[0]),
            ("WC", t.warps[1]),
            ("WN1", at.across[0]),
            ("WN2", at.across[1]),
            ("FILTERS1", first.filters_stored),
            ("VALID1", first.filters),
            ("FILTERS2", second.filters_stored),
            ("VALID2", second.filters),
            ("LDM", second.y_pitch),
            ("KEEP", usize::from(self.keep)),
            ("W1_AT", 0),
            ("PARTS_AT", 0),
            ("OUT_AT", 0),
            ("W2_AT", at.w2),
            ("W3_AT", at.w3),
            ("X_AT", at.x),
            ("IN_AT", at.x),
            ("MID1_AT", at.mid[0]),
            ("MID2_AT", at.mid[1]),
            ("RESIDUAL_AT", at.residual),
            ("ENDS_AT", at.ends),
            ("RESIDENT", Self::resident(t, at, target)),
            ("BARRIERS", if t.split > 1 { 4 } else { 2 }),
            ("BULK_WEIGHTS", usize::from(target.sm >= 90)),
        ]);
        for (name, layer) in [("ACT2", second), ("ACT3", third)] {
            let (act, a, b) = activation_code(layer.activation);
            d.set(name, act).set(&format!("{name}_A"), float(a));
            d.set(&format!("{name}_B"), float(b));
        }
        first.y.define("M1", &mut d);
        second.y.define("M2", &mut d);
        third.define_results(&mut d);
        let mid = if self.keep { Argument::Output(1) } else { Argument::Null };
        let residual =
            if second.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        let (mma, exact) = if first.integer() { (MMA_INTEGER, EXACT) } else { (MMA, "") };
        let mut arguments = vec![Argument::Input(0)];
        arguments.extend((0..6).map(Argument::Constant));
        arguments.extend([Argument::Output(0), mid, residual]);
        let ([h, w], [wr, wc]) = (t.pixels, t.warps);
        Candidate {
            label: format!("chain {h}x{w}px {} c{} w{wr}x{wc}", t.bm, t.split),
            source: d.source(&[NUMBERS, exact, mma, FRAGMENTS, JOINED, CHAIN]),
            grid: [t.split as u32, self.tiles(t) as u32, 1],
            // And the warp that asks for weights.
            block: ((wr * wc + usize::from(target.sm >= 90)) * 32) as u32,
            shared: at.all as u32,
            specific: false,
            arguments,
            scratch: 0,
            zeroed: 0,
            predicted_us: self.predict(t, at, target),
        }
    }

    /// Rough time, microseconds: rounds of blocks, each bringing its weights and pixels and moving
    /// its operands through shared memory.
    fn predict(&self, t: &ChainTile, at: &Places, target: &Target) -> f64 {
        let threads = t.warps[0] * t.warps[1] * 32;
        let resident = (target.shared_per_sm as usize / (at.all + 1024)).min(2048 / threads).max(1);
        let places = clustered(t.split, target);
        let blocks = self.tiles(t) * t.split;
        let rounds = ceil_div(blocks, places * resident) as f64;
        let together = (blocks as f64 / places as f64).ceil().min(resident as f64);
        let clock = target.clock_ghz * 1e3;
        let size = self.size();
        let own = self.own(t.split);
        let bring = at.all as f64 / 34.0 / clock * together;
        // Bytes through shared memory, 128 a cycle.
        let depths = [self.first.depth() * size, self.first.filters_stored * size, own[1] * size];
        let filters = [own[0], own[1], self.third.filters_stored];
        let across = [at.across[0], at.across[1], t.warps[1]];
        let moved: usize = (0..3)
            .map(|i| {
                let sums = 2 * (t.warps[1] / across[i]) * t.bm * filters[i] * 4;
                t.bm * depths[i] * across[i] + filters[i] * depths[i] * t.warps[0] + sums
            })
            .sum();
        let product = moved as f64 / 128.0 / clock * together;
        // What is exchanged, at 27 bytes a cycle.
        let sent = t.bm * (depths[1] + self.third.filters_stored * 4);
        let joined = match t.split {
            1 => 0.0,
            _ => 0.6 + sent as f64 / 27.0 / clock * together,
        };
        2.0 + rounds * (0.6 * bring + product + joined)
    }

    /// Tiles of about `bm` pixels: whole rows, or parts of some.
    fn shapes(&self, bm: usize) -> Vec<[usize; 2]> {
        let [oh, ow] = self.first.output;
        let mut out: Vec<[usize; 2]> = Vec::new();
        for w in [ow, ceil_div(ow, 2), ceil_div(ow, 4), 8].into_iter().filter(|&w| w <= ow.min(bm))
        {
            let h = (bm / w).min(oh);
            // Rows are used where there are pixels for them.
            let shape = [h, w];
            if 4 * h * w >= 3 * bm && !out.contains(&shape) {
                out.push(shape);
            }
        }
        // A picture smaller than any tile.
        if out.is_empty() && bm == 16 && oh * ow < 16 {
            out.push([oh, ow]);
        }
        out
    }
}

impl Family for ConvChainLayer {
    fn name(&self) -> &'static str {
        if self.first.integer() { "conv_chain_i8" } else { "conv_chain" }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        if target.sm < 80 {
            return Vec::new();
        }
        // Clusters of 16 are Hopper's; others take 8 at most.
        let most = match target.sm {
            90 => 16,
            91.. => 8,
            _ => 1,
        };
        let mut out = Vec::new();
        for &split in SPLITS.iter().filter(|&&s| s <= most) {
            for &(bm, warps) in HEIGHTS {
                for pixels in self.shapes(bm) {
                    for &warps in warps {
                        let t = ChainTile { bm, pixels, split, warps };
                        let Some(at) = self.places(&t) else { continue };
                        // The kernel's barriers take shared memory too.
                        if at.all + 128 <= target.shared_per_block as usize {
                            out.push(self.candidate(&t, &at, target));
                        }
                    }
                }
            }
        }
        out
    }

    fn extents(&self) -> Extents {
        let [first, second, third] = [&self.first, &self.second, &self.third].map(Family::extents);
        let [x, residual] = [first.inputs, second.inputs];
        let mut outputs = third.outputs;
        if self.keep {
            outputs.extend(second.outputs);
        }
        let constants = [first.constants, second.constants, third.constants].concat();
        Extents {
            inputs: x.into_iter().chain(residual.into_iter().skip(1)).collect(),
            constants,
            outputs,
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let (y, kept) = outputs.split_at_mut(1);
        let mut between = [vec![0; self.first.extents().outputs[0]]];
        self.first.reference(&inputs[..1], &constants[..2], &mut between);
        let mut own = [vec![0; self.second.extents().outputs[0]]];
        let mid = if self.keep { kept } else { &mut own };
        let x: Vec<&[u8]> =
            std::iter::once(&between[0][..]).chain(inputs[1..].iter().copied()).collect();
        self.second.reference(&x, &constants[2..4], mid);
        self.third.reference(&[&mid[0]], &constants[4..], y);
    }
}
