//! Two convolutions in one kernel, the second of 1x1, what lies between them in shared memory:
//! `cuda/conv_pair.cu`.

use serde::{Deserialize, Serialize};

use super::candidate::{FRAGMENTS, MMA, MMA_INTEGER, clustered};
use super::{ConvLayer, planes};
use crate::defines::{ceil_div, float};
use crate::numbers::{EXACT, NUMBERS};
use crate::{Argument, Candidate, Extents, Family, Target, activation_code};

pub(super) const JOINED: &str = include_str!("../../cuda/conv_joined.cuh");
const PAIR: &str = include_str!("../../cuda/conv_pair.cu");

/// A convolution and a 1x1 convolution of what it leaves.
///
/// Inputs: the first's x, and its residual where there is one. Constants: weights and ends of the
/// first, weights and ends of the second, as [`ConvLayer`] has them. Outputs: the second's y, and
/// what the first leaves where that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvPairLayer {
    /// The first; its y is what lies between.
    pub first: ConvLayer,
    /// The second: 1x1, without residual.
    pub second: ConvLayer,
    /// Other layers read what the first leaves.
    pub keep: bool,
}

/// How a tile is computed.
#[derive(Clone, Copy)]
struct PairTile {
    /// Pixels.
    bm: usize,
    /// Blocks of a cluster, each with a slice of what lies between.
    split: usize,
    /// Warps down and across.
    warps: [usize; 2],
}

/// Where things lie in shared memory, in bytes.
struct Places {
    w2: usize,
    x: usize,
    between: usize,
    residual: usize,
    ends: usize,
    all: usize,
}

const SPLITS: &[usize] = &[1, 2, 4, 8];
const HEIGHTS: &[(usize, &[[usize; 2]])] = &[
    (16, &[[1, 4], [1, 8], [1, 16]]),
    (32, &[[1, 8], [2, 4], [2, 8]]),
    (64, &[[2, 4], [4, 2], [4, 4]]),
];

impl ConvPairLayer {
    /// Two layers as one, where a kernel can compute them so; `keep`: others read what the first
    /// leaves too. Whether there is a candidate depends on the device.
    pub fn new(first: &ConvLayer, second: &ConvLayer, keep: bool) -> Option<ConvPairLayer> {
        let pointwise = second.kernel == [1, 1]
            && second.strides == [1, 1]
            && second.pads == [0, 0]
            && second.input == second.output;
        let between = second.x == first.y.dtype
            && second.channels == first.filters_stored
            && second.input == first.output
            && second.batch == first.batch
            && second.x_pitch == first.y_pitch;
        let piece = 16 / first.x.size();
        let kind = first.integer() == second.integer()
            && first.x_zero_point == 0
            && second.x_zero_point == 0
            && !first.pooled
            && !second.pooled
            && first.planes.is_none()
            && second.planes.is_none()
            && first.channels.is_multiple_of(piece)
            && first.filters_stored.is_multiple_of(if first.integer() { 16 } else { 8 });
        (pointwise && between && kind && second.residual_pitch.is_none()).then(|| ConvPairLayer {
            first: first.clone(),
            second: second.clone(),
            keep,
        })
    }

    /// Bytes of an element that is multiplied.
    fn size(&self) -> usize {
        self.first.x.size()
    }

    fn end_bytes(&self) -> usize {
        if self.first.integer() { 8 } else { 4 }
    }

    fn tiles(&self, t: &PairTile) -> usize {
        ceil_div(self.first.pixels(), t.bm)
    }

    /// Filters of the first that a block computes.
    fn slice(&self, t: &PairTile) -> usize {
        self.first.filters_stored / t.split
    }

    /// Where things lie; `None` where the layer cannot be cut so.
    fn places(&self, t: &PairTile) -> Option<Places> {
        let (slice, size) = (self.slice(t), self.size());
        let filters = self.second.filters_stored;
        let residual = self.first.residual_pitch.is_some();
        let residual_size = self.first.residual.dtype.size();
        // Slices end where blocks of 128 bytes of the second's k do, and each warp has its part of k.
        let whole = t.split == 1
            || (self.first.filters_stored.is_multiple_of(t.split)
                && (slice * size).is_multiple_of(128)
                && (slice * t.split * size / 32).is_multiple_of(t.warps[1])
                && filters.is_multiple_of(8 * t.split));
        let pieces = (slice * size).is_multiple_of(16)
            && (!residual || (slice * residual_size).is_multiple_of(16));
        // A warp's columns must not be mostly none.
        let across = |filters: usize| 4 * filters / 8 >= 3 * t.warps[1];
        if !whole || !pieces || !across(slice) || (t.split == 1 && !across(filters)) {
            return None;
        }
        let blocks = |k: usize| ceil_div(k * size, 128);
        let (all_between, own) = (slice * t.split, filters / t.split);
        let w1 = blocks(self.first.depth()) * slice * 128;
        let w2 = blocks(all_between) * own * 128;
        // Over the first one's weights: results, or in a cluster each warp's sums.
        let results = match t.split {
            1 => t.bm * (filters * self.second.y.dtype.size() + 16),
            _ => t.warps[1] * t.bm * (own + 4) * 4,
        };
        let w2_at = w1.max(results).next_multiple_of(128);
        let x = w2_at + w2;
        let between = x + blocks(self.first.depth()) * t.bm * 128;
        let residual_at = between + blocks(all_between) * t.bm * 128;
        let residual_bytes = if residual { t.bm * (slice * residual_size + 16) } else { 0 };
        let ends = (residual_at + residual_bytes).next_multiple_of(16);
        let all = ends + (slice + own) * self.end_bytes();
        Some(Places { w2: w2_at, x, between, residual: residual_at, ends, all })
    }

    fn candidate(&self, t: &PairTile, at: &Places, target: &Target) -> Candidate {
        let (first, second) = (&self.first, &self.second);
        let mut d = first.sum_defines(target);
        d.all(&[
            ("BM", t.bm),
            ("SPLIT", t.split),
            ("WR", t.warps[0]),
            ("WC", t.warps[1]),
            ("SLICE", self.slice(t)),
            ("MID", first.filters),
            ("MID_STORED", first.filters_stored),
            ("LDM", first.y_pitch),
            ("KEEP", usize::from(self.keep)),
            ("W1_AT", 0),
            ("W2_AT", at.w2),
            ("X_AT", at.x),
            ("MID_AT", at.between),
            ("RESIDUAL_AT", at.residual),
            ("ENDS_AT", at.ends),
            ("BARRIERS", if t.split > 1 { 2 + t.split } else { 2 }),
            ("BULK_WEIGHTS", usize::from(target.sm >= 90)),
        ]);
        let (act, a, b) = activation_code(second.activation);
        d.set("ACT2", act).set("ACT2_A", float(a)).set("ACT2_B", float(b));
        first.y.define("M", &mut d);
        second.define_results(&mut d);
        let tiles = self.tiles(t);
        let mid = if self.keep { Argument::Output(1) } else { Argument::Null };
        let residual =
            if first.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        let (mma, exact) = if first.integer() { (MMA_INTEGER, EXACT) } else { (MMA, "") };
        Candidate {
            label: format!("pair {}px c{} w{}x{}", t.bm, t.split, t.warps[0], t.warps[1]),
            source: d.source(&[NUMBERS, planes::STORE, exact, mma, FRAGMENTS, JOINED, PAIR]),
            grid: [t.split as u32, tiles as u32, 1],
            block: (t.warps[0] * t.warps[1] * 32) as u32,
            shared: at.all as u32,
            specific: false,
            arguments: vec![
                Argument::Input(0),
                Argument::Constant(0),
                Argument::Constant(1),
                Argument::Constant(2),
                Argument::Constant(3),
                Argument::Output(0),
                mid,
                residual,
            ],
            scratch: 0,
            zeroed: 0,
            predicted_us: self.predict(t, at, target),
        }
    }

    /// Rough time, microseconds: rounds of blocks, each bringing its weights and pixels.
    fn predict(&self, t: &PairTile, at: &Places, target: &Target) -> f64 {
        let threads = t.warps[0] * t.warps[1] * 32;
        let resident = (target.shared_per_sm as usize / (at.all + 1024)).min(2048 / threads).max(1);
        let places = match t.split {
            1 => target.sm_count as usize,
            split => clustered(split, target),
        };
        let blocks = self.tiles(t) * t.split;
        let rounds = ceil_div(blocks, places * resident) as f64;
        let together = (blocks as f64 / places as f64).ceil().min(resident as f64);
        let clock = target.clock_ghz * 1e3;
        // 34 bytes a cycle into a multiprocessor, as the single convolutions' constants.
        let bring = at.all as f64 / 34.0 / clock * together;
        // Of both products.
        let macs = t.bm * self.slice(t) * (self.first.depth() + self.second.filters_stored);
        let product = macs as f64 * self.size() as f64 / 2.0 / 450.0 / clock * together;
        let joined = if t.split > 1 { 0.5 + 0.05 * t.split as f64 } else { 0.0 };
        2.0 + joined + rounds * (0.6 * bring + product)
    }
}

impl Family for ConvPairLayer {
    fn name(&self) -> &'static str {
        if self.first.integer() { "conv_pair_i8" } else { "conv_pair" }
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        if target.sm < 80 {
            return Vec::new();
        }
        let mut out = Vec::new();
        for &split in SPLITS.iter().filter(|&&s| s == 1 || target.sm >= 90) {
            for &(bm, warps) in HEIGHTS {
                for &warps in warps {
                    let t = PairTile { bm, split, warps };
                    let tall = bm > 16 && bm / 2 >= self.first.pixels();
                    let Some(at) = self.places(&t).filter(|_| !tall) else { continue };
                    // The kernel's barriers take shared memory too.
                    if at.all + 128 <= target.shared_per_block as usize {
                        out.push(self.candidate(&t, &at, target));
                    }
                }
            }
        }
        out
    }

    fn extents(&self) -> Extents {
        let (first, second) = (self.first.extents(), self.second.extents());
        let mut outputs = second.outputs;
        if self.keep {
            outputs.extend(first.outputs);
        }
        let constants = first.constants.into_iter().chain(second.constants).collect();
        Extents { inputs: first.inputs, constants, outputs }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let (y, kept) = outputs.split_at_mut(1);
        let mut own = [vec![0; self.first.extents().outputs[0]]];
        let mid = if self.keep { kept } else { &mut own };
        self.first.reference(inputs, &constants[..2], mid);
        // The first stores up to its last channel, which the second reads.
        self.second.reference(&[&mid[0]], &constants[2..], y);
    }
}
