//! One tile of the convolutions on tensor cores as a candidate: its shared memory, source and predicted time.

use super::tiles::{Join, Tile};
use super::{ConvLayer, OWN_SHARED, planes};
use crate::defines::ceil_div;
use crate::numbers::{EXACT, NUMBERS};
use crate::{Argument, Candidate, Target};
use tobiuo_tensor::DType;

pub(super) const MMA: &str = include_str!("../../cuda/mma_f16.cuh");
pub(super) const MMA_INTEGER: &str = include_str!("../../cuda/mma_i8.cuh");
pub(super) const FRAGMENTS: &str = include_str!("../../cuda/fragments.cuh");
const TILE: &str = include_str!("../../cuda/conv_tile.cuh");
pub(super) const POOLED: &str = include_str!("../../cuda/pooled.cuh");
const EPILOGUE: &str = include_str!("../../cuda/conv_epilogue.cuh");
const IM2COL: &str = include_str!("../../cuda/conv_im2col.cu");
const HALO: &str = include_str!("../../cuda/conv_halo.cu");

/// How else a tile is computed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Variant {
    /// The loops in front of the products are not unrolled.
    pub rolled: bool,
    /// A warp of its own brings the weights.
    pub producer: bool,
}

impl ConvLayer {
    /// A stage's weights follow one another in memory: one copy brings them.
    pub(super) fn bulk_weights(&self, t: &Tile, split: usize, target: &Target) -> bool {
        let whole = t.halo.is_none() || self.channels.is_multiple_of(self.row(t));
        let rows = t.row() == 128 || (t.wgmma && t.row() < 128 && self.in_one_round(t, split));
        target.sm >= 90 && rows && whole
    }

    /// The stages of a patch's tile hold the weights of all taps, and there is only one patch.
    fn in_one_round(&self, t: &Tile, split: usize) -> bool {
        let taps = self.kernel[0] * self.kernel[1];
        t.halo.is_some() && split == 1 && self.channels <= self.row(t) && t.stages >= taps
    }

    /// A way to compute the layer, where it finds room in shared memory.
    pub(super) fn candidate(
        &self,
        t: &Tile,
        split: usize,
        join: Join,
        variant: Variant,
        target: &Target,
    ) -> Option<Candidate> {
        let Variant { rolled, producer } = variant;
        let cluster = join.in_cluster();
        let (bm, bn, bk) = (t.bm, t.bn, self.row(t));
        let tiles = [ceil_div(self.filters_stored, bn), self.tiles_down(t)];
        let threads = t.threads();
        let (patch_rows, patches) = self.patch(t);
        let bulk_weights = self.bulk_weights(t, split, target);
        let stages = match t.halo {
            None => t.stages * (bm + bn) * t.row(),
            Some(_) => {
                let weights = match bulk_weights && t.row() < 128 {
                    true => ceil_div(self.kernel[0] * self.kernel[1] * t.row(), 128) * 128,
                    false => t.stages * t.row(),
                };
                weights * bn + patches * (patch_rows * t.row()).next_multiple_of(1024)
            }
        };
        let own_rows = if cluster { bm / split } else { bm };
        let prefetch = self.residual_pitch.is_some() && (split == 1 || cluster);
        let residual_row = bn * self.residual.dtype.size() + 16;
        let residual_bytes = if prefetch { own_rows * residual_row } else { 0 };
        let inbox_pitch = if bn.is_multiple_of(16) { bn + 8 } else { bn };
        let inbox = if cluster { bm * inbox_pitch * 4 } else { 0 };
        // Before bulk copies a block's own sums lie over its stages.
        let sums = if join == Join::Copies { inbox } else { 0 };
        let stages = stages.max(sums);
        // Warpgroup products and patches want tiles at multiples of 1024 bytes.
        let slack = if t.wgmma || t.halo.is_some() { 1024 } else { 0 };
        // The kernel's own ends and barriers take shared memory too.
        let own = bn * self.end_bytes() + OWN_SHARED;
        let limit = target.shared_per_block as usize - slack - own;
        // The inbox lies behind the stages where there is room.
        let apart = stages + residual_bytes + 16 + inbox;
        // Or over them where that lets a second block onto each multiprocessor and all clusters
        // run at once.
        let half = target.shared_per_sm as usize / 2 - slack - own - 1024;
        let over = (stages.max(sums + inbox) + residual_bytes <= half && apart > half)
            && tiles[0] * tiles[1] * split > clustered(split, target);
        let apart = cluster && apart <= limit && !over;
        let residual_at = if apart { stages } else { stages.max(sums + inbox) };
        let end = residual_at + residual_bytes.next_multiple_of(16);
        let inbox_at = if apart { end } else { sums };
        let shared = slack + if apart { inbox_at + inbox } else { end };
        if shared + own > target.shared_per_block as usize {
            return None;
        }
        let mut d = self.defines(target);
        d.all(&[
            ("VEC", if self.channels.is_multiple_of(8) { 16 / self.x.size() } else { 4 }),
            ("BM", bm),
            ("BN", bn),
            ("BK", bk),
            ("ST", t.stages),
            ("WR", t.warps[0]),
            ("WC", t.warps[1]),
            ("SLICES", t.slices),
            ("SPLIT", split),
            ("CLUSTER", usize::from(cluster)),
            ("HALO", usize::from(t.halo.is_some())),
            ("TILE_H", t.halo.map_or(0, |h| h[0])),
            ("TILE_W", t.halo.map_or(0, |h| h[1])),
            ("RESIDUAL_AT", residual_at),
            ("INBOX_AT", inbox_at),
            ("INBOX_APART", usize::from(apart)),
            ("BULK", usize::from(join == Join::Copies)),
            ("WGMMA", usize::from(t.wgmma)),
            ("BULK_WEIGHTS", usize::from(bulk_weights)),
            ("ROLLED", usize::from(rolled)),
            ("PRODUCER", usize::from(producer)),
        ]);
        let count = tiles[0] * tiles[1];
        let through_memory = join == Join::Memory;
        let tickets = if through_memory { (count * 4).next_multiple_of(256) } else { 0 };
        let partial = if through_memory { count * split * bm * bn * 4 } else { 0 };
        let residual =
            if self.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        let mut arguments = vec![
            Argument::Input(0),
            Argument::Constant(0),
            Argument::Constant(1),
            Argument::Output(0),
            residual,
            if through_memory { Argument::Scratch(tickets) } else { Argument::Null },
            if through_memory { Argument::Scratch(0) } else { Argument::Null },
        ];
        if self.x_zero_point != 0 {
            arguments.push(Argument::Constant(2));
        }
        Some(Candidate {
            label: format!(
                "{}{bm}x{bn}x{bk}{} s{} w{}x{}{} {}{split}{}{}",
                if t.wgmma { "g" } else { "" },
                match t.halo {
                    None => String::new(),
                    Some([0, _]) => " rows".into(),
                    Some([h, w]) => format!(" {h}x{w}"),
                },
                t.stages,
                t.warps[0],
                t.warps[1],
                if t.slices > 1 { format!("x{}", t.slices) } else { String::new() },
                join.mark(),
                if rolled { " r" } else { "" },
                if producer { " p" } else { "" },
            ),
            source: {
                let product = if t.wgmma { warpgroup_mma(bn, self.x) } else { String::new() };
                let body = if t.halo.is_some() { HALO } else { IM2COL };
                let (mma, exact) = if self.integer() { (MMA_INTEGER, EXACT) } else { (MMA, "") };
                let common = [NUMBERS, planes::STORE, exact, POOLED].concat();
                d.source(&[&common, &product, mma, FRAGMENTS, TILE, EPILOGUE, body])
            },
            grid: [tiles[0] as u32, tiles[1] as u32, split as u32],
            block: if producer { threads + 32 } else { threads } as u32,
            shared: shared as u32,
            specific: t.wgmma,
            arguments,
            scratch: tickets + partial,
            zeroed: tickets,
            predicted_us: self.predict(t, (split, join, producer), count, shared, threads, target)
                + if rolled { 0.08 } else { 0.0 },
        })
    }

    /// Rough time of a candidate, microseconds. Its constants, in cycles of a multiprocessor,
    /// are fitted to 9,300 measured candidates of three networks on an H200 (docs/notes/cuda.md).
    fn predict(
        &self,
        t: &Tile,
        (split, join, producer): (usize, Join, bool),
        tiles: usize,
        shared: usize,
        threads: usize,
        target: &Target,
    ) -> f64 {
        let clock = target.clock_ghz * 1e3;
        let resident = (target.shared_per_sm as usize / (shared + 2048)).min(2048 / threads).max(1);
        let blocks = (tiles * split) as f64;
        let places =
            if join.in_cluster() { clustered(split, target) as u32 } else { target.sm_count };
        let per_sm = (blocks / f64::from(places)).ceil().max(1.0);
        let waves = (per_sm / resident as f64).ceil();
        let together = per_sm.min(resident as f64);
        let steps = ceil_div(self.steps(t), split) as f64;
        // What a block brings into shared memory per step.
        let row = t.row() as f64;
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
            // Half of it the copies' barrier, half the products one after another.
            false => (450.0, 175.0 + 175.0 / t.slices as f64 * t.bk as f64 / 64.0),
        };
        // Operands of warpgroup products come out of shared memory: narrow ones wait for the pixels'.
        let across = if t.wgmma { t.bn.max(32 + t.bn / 2) } else { t.bn };
        // By bytes: twice as many integers, twice as fast.
        let product = (t.bm * across * t.bk) as f64 / rate * together;
        // Bytes per cycle into one multiprocessor.
        let fill = step_bytes / 34.0 * together;
        let issue = start + step_bytes / 16.0 / threads as f64 * 13.0;
        let step = product.max(fill).max(issue * (1.0 + 0.04 * (together - 1.0))) / clock;
        let l2_rate = f64::from(target.sm_count) * 24.0 * clock;
        let traffic = blocks * steps * step_bytes / l2_rate;
        let joined = match join {
            Join::Nothing => 0.0,
            Join::Stores | Join::Copies => 0.5 + 0.15 * split as f64,
            Join::Memory => 1.6 + 0.68 * split as f64,
        };
        // More warps begin later, and so does a warp's own ring of weights.
        let tall = if t.wgmma { 0.2 * (t.bm / 64 - 1) as f64 } else { 0.0 };
        let begin = 1.65 + tall + if producer { 0.3 } else { 0.0 };
        0.4 + joined + (waves * (begin + steps * step)).max(traffic + 1.65)
    }
}

/// Blocks in clusters of so many that run at once where a multiprocessor takes one of them: the
/// multiprocessors of a group must hold whole clusters. Measured on an H200 (132 multiprocessors):
/// 66 clusters of 2, 30 of 4, 15 of 8.
pub(super) fn clustered(size: usize, target: &Target) -> usize {
    let sms = target.sm_count as usize;
    if size < 4 { sms } else { sms * 10 / 11 / size * size }
}

/// The product of one warpgroup as a device function: `d += a * b` for a tile of 64 rows of 32
/// bytes at descriptor `a` and one of `bn` such rows at `b` (PTX ISA, `wgmma.mma_async`).
fn warpgroup_mma(bn: usize, x: DType) -> String {
    let registers = bn / 2;
    let list: Vec<String> = (0..registers).map(|i| format!("%{i}")).collect();
    let (sum, constraint, types, depth, turns) = match x {
        DType::F16 => ("float", "f", "f32.f16.f16", 16, ", 1, 1, 0, 0"),
        DType::U8 => ("int", "r", "s32.u8.s8", 32, ""),
        _ => ("int", "r", "s32.s8.s8", 32, ""),
    };
    let sums: Vec<String> =
        (0..registers).map(|i| format!("\"+{constraint}\"(s[{}][{}])", i / 4, i % 4)).collect();
    format!(
        "__device__ __forceinline__ void warpgroup_mma({sum} (&d)[1][{}][4], u64 a, u64 b) {{\n\
         {sum}(&s)[{}][4] = d[0];\n\
         asm volatile(\"{{.reg .pred p; setp.eq.u32 p, 0, 0; \"\n\
         \"wgmma.mma_async.sync.aligned.m64n{bn}k{depth}.{types} {{{}}}, %{registers}, %{}, p{turns};}}\"\n\
         : {} : \"l\"(a), \"l\"(b));\n}}\n",
        bn / 8,
        bn / 8,
        list.join(", "),
        registers + 1,
        sums.join(", "),
    )
}
