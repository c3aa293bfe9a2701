//! Convolution as implicit GEMM on tensor cores: `cuda/conv_f16.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::general_conv::{GeneralConvLayer, WeightOrder};
use super::reference::{activate, load, load_at, reach, store};
use super::window::Windows;
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/conv_f16.cu");

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
    /// Applied last.
    pub activation: Option<Activation>,
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
}

const fn tile(bm: usize, bn: usize, bk: usize, stages: usize, wr: usize, wc: usize) -> Tile {
    Tile { bm, bn, bk, stages, warps: [wr, wc], wgmma: false }
}

const fn warpgroups(bm: usize, bn: usize, stages: usize) -> Tile {
    Tile { bm, bn, bk: 64, stages, warps: [bm / 16, 1], wgmma: true }
}

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
        let depth = self.kernel[0] * self.kernel[1] * self.channels;
        let mut out = Vec::new();
        let specific = if target.sm == 90 { WARPGROUP_TILES } else { &[] };
        for t in TILES.iter().chain(specific) {
            // A tile twice as wide as the layer wastes what a smaller one does not.
            let wide = t.bn > 16 && t.bn / 2 >= self.filters.next_multiple_of(8);
            let least = if t.wgmma { 64 } else { 16 };
            let tall = t.bm > least && t.bm / 2 >= self.pixels();
            let tall = tall || (t.wgmma && self.pixels() < 24);
            if wide || tall {
                continue;
            }
            let steps = ceil_div(depth, t.bk);
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
                    out.push(self.candidate(t, split, cluster, rolled, steps, target));
                }
            }
        }
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
                if let Some(pitch) = self.residual_pitch {
                    sum += load_at(inputs[1], DType::F16, pixel * pitch + f);
                }
                let value = activate(self.activation, sum);
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

    fn candidate(
        &self,
        t: &Tile,
        split: usize,
        cluster: bool,
        rolled: bool,
        steps: usize,
        target: &Target,
    ) -> Candidate {
        let (bm, bn, bk) = (t.bm, t.bn, t.bk);
        let tiles = [ceil_div(self.filters_stored, bn), ceil_div(self.pixels(), bm)];
        let threads = t.warps[0] * t.warps[1] * 32;
        let stages = t.stages * (bm + bn) * bk * 2;
        let shared = if cluster { stages.max(bm * (bn + 8) * 4) } else { stages };
        // Warpgroup products want tiles at multiples of 1024 bytes.
        let shared = if t.wgmma { shared + 1024 } else { shared };
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
            ("VEC", if self.channels.is_multiple_of(8) { 8 } else { 4 }),
            ("BM", bm),
            ("BN", bn),
            ("BK", bk),
            ("ST", t.stages),
            ("WR", t.warps[0]),
            ("WC", t.warps[1]),
            ("SPLIT", split),
            ("CLUSTER", usize::from(cluster)),
            ("WGMMA", usize::from(t.wgmma)),
            ("ROLLED", usize::from(rolled)),
        ])
        .activation(self.activation);
        let count = tiles[0] * tiles[1];
        let through_memory = split > 1 && !cluster;
        let tickets = if through_memory { (count * 4).next_multiple_of(256) } else { 0 };
        let partial = if through_memory { count * split * bm * bn * 4 } else { 0 };
        let residual =
            if self.residual_pitch.is_some() { Argument::Input(1) } else { Argument::Null };
        Candidate {
            label: format!(
                "{}{bm}x{bn}x{bk} s{} w{}x{} {}{split}{}",
                if t.wgmma { "g" } else { "" },
                t.stages,
                t.warps[0],
                t.warps[1],
                if cluster { 'c' } else { 'k' },
                if rolled { " r" } else { "" },
            ),
            source: if t.wgmma {
                d.source(&[&warpgroup_mma(bn), SOURCE])
            } else {
                d.source(&[SOURCE])
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
            predicted_us: self.predict(t, (split, cluster), steps, count, shared, threads, target),
        }
    }

    /// Rough time of a candidate, calibrated on an H200: a fixed start and end, a latency per
    /// K step that deep pipelines hide in part, tensor-core time, and memory traffic.
    #[allow(clippy::too_many_arguments)]
    fn predict(
        &self,
        t: &Tile,
        (split, cluster): (usize, bool),
        steps: usize,
        tiles: usize,
        shared: usize,
        threads: usize,
        target: &Target,
    ) -> f64 {
        let resident = (target.shared_per_sm as usize / (shared + 1024)).min(1536 / threads).max(1);
        let blocks = (tiles * split) as f64;
        let sms = f64::from(target.sm_count);
        let per_sm = (blocks / sms).ceil().max(1.0);
        let waves = (per_sm / resident as f64).ceil();
        let together = per_sm.min(resident as f64);
        let own_steps = ceil_div(steps, split) as f64;
        let clock = target.clock_ghz * 1e3; // cycles per microsecond
        // Dense f16: 1024 multiply-adds per cycle and SM from Ampere on, 2048 on Hopper.
        let rate = match target.sm {
            _ if t.wgmma => 1900.0,
            90.. => 1300.0,
            _ => 1024.0,
        };
        let compute = (t.bm * t.bn * t.bk) as f64 / rate * together;
        let start = if t.wgmma { 60.0 } else { 90.0 };
        let issue = start + (t.bm + t.bn) as f64 * t.bk as f64 / (threads as f64) * 0.6;
        let step_us = compute.max(issue * (1.0 + 0.15 * (together - 1.0))) / clock;
        let traffic = (tiles * (t.bm + t.bn)) as f64 * (steps * t.bk * 2) as f64;
        let l2_rate = target.bandwidth_gbs * 2.5e3; // bytes per microsecond
        let fix_up = match (split, cluster) {
            (1, _) => 0.0,
            (_, true) => 0.7,
            _ => 1.8 + 0.12 * split as f64,
        };
        1.4 + fix_up + (waves * (0.5 + own_steps * step_us)).max(traffic / l2_rate)
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
