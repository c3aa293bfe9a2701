//! The block tiles of `cuda/tile.cuh`: which there are, what they take, how long they may need.

use tobiuo_tensor::DType;

use super::Target;
use super::defines::{Defines, ceil_div};

pub(super) const SOURCE: &str = include_str!("../cuda/tile.cuh");

/// Which units multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// f32 multiply-adds.
    Ffma,
    /// Tensor cores on TF32.
    Tf32,
    /// Tensor cores on f16.
    F16,
}

impl Mode {
    /// The units for a layer of a type on a device, or `None` where it has none.
    pub fn of(dtype: DType, tf32: bool, target: &Target) -> Option<Mode> {
        match dtype {
            DType::F16 if target.sm >= 80 => Some(Mode::F16),
            DType::F32 if tf32 => (target.sm >= 80).then_some(Mode::Tf32),
            _ => Some(Mode::Ffma),
        }
    }

    /// Bytes of an element in shared memory.
    fn size(self) -> usize {
        if self == Mode::F16 { 2 } else { 4 }
    }
}

/// How an operand's tile lies in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layouts {
    /// a as `[BK][BM]`.
    pub a_by_k: bool,
    /// b as `[BN][BK]`.
    pub b_by_n: bool,
}

/// A block's tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub mode: Mode,
    pub bm: usize,
    pub bn: usize,
    pub bk: usize,
    pub stages: usize,
    /// Threads down and across with FFMA, warps with tensor cores.
    pub split: [usize; 2],
}

type Row = (usize, usize, usize, usize, usize, usize);

const FFMA: &[Row] = &[
    (128, 128, 16, 3, 16, 16),
    (128, 128, 8, 4, 16, 16),
    (128, 64, 16, 3, 16, 8),
    (128, 64, 16, 3, 16, 16),
    (64, 128, 16, 3, 8, 16),
    (64, 64, 16, 4, 8, 8),
    (64, 64, 16, 4, 16, 8),
    (64, 64, 32, 3, 16, 16),
    (128, 32, 16, 4, 16, 8),
    (32, 128, 16, 4, 8, 16),
    (64, 32, 32, 3, 16, 8),
    (64, 32, 16, 4, 8, 8),
    (32, 64, 32, 3, 8, 16),
    (32, 64, 32, 3, 8, 8),
    (32, 32, 32, 4, 8, 8),
    (32, 32, 32, 4, 16, 8),
    (16, 64, 32, 4, 8, 16),
    (16, 32, 32, 4, 4, 8),
    (16, 32, 32, 4, 8, 8),
    (128, 16, 16, 4, 32, 4),
    (64, 16, 32, 4, 16, 4),
    (32, 16, 32, 4, 16, 4),
    (16, 16, 32, 4, 8, 4),
    (16, 16, 16, 4, 8, 4),
];

const TENSOR: &[Row] = &[
    (128, 128, 32, 3, 2, 4),
    (128, 64, 32, 3, 4, 2),
    (64, 128, 32, 3, 2, 4),
    (64, 64, 32, 4, 2, 2),
    (64, 64, 32, 4, 2, 4),
    (64, 64, 64, 3, 2, 4),
    (128, 32, 32, 3, 4, 1),
    (64, 32, 32, 4, 4, 1),
    (64, 32, 64, 3, 2, 2),
    (32, 64, 32, 4, 2, 2),
    (32, 64, 64, 3, 1, 4),
    (32, 32, 32, 4, 2, 2),
    (32, 32, 64, 4, 2, 2),
    (16, 64, 64, 3, 1, 4),
    (16, 32, 64, 4, 1, 2),
    (128, 16, 32, 4, 4, 1),
    (64, 16, 32, 4, 4, 1),
    (32, 16, 64, 4, 2, 1),
    (16, 16, 64, 4, 1, 1),
    (16, 16, 32, 4, 1, 1),
];

const SPLITS: &[usize] = &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/// A product, or several of one size: what a layer is to the cost model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    /// Independent products.
    pub products: usize,
    /// Tiles arrive by cp.async.
    pub through_async: bool,
    /// Elements loaded at once of either operand.
    pub vectors: [usize; 2],
}

/// Pieces of a tile that a thread may have to load: more need more registers than there are.
const MOST_PIECES: usize = 16;

impl Tile {
    /// The tiles worth a look for a product, each with the ways to share its depth.
    pub fn choices(mode: Mode, work: &Work) -> Vec<(Tile, usize)> {
        let rows = if mode == Mode::Ffma { FFMA } else { TENSOR };
        let mut out = Vec::new();
        for &(bm, bn, bk, stages, down, across) in rows {
            let stages = if work.through_async { stages } else { 2 };
            let tile = Tile { mode, bm, bn, bk, stages, split: [down, across] };
            // A tile twice as large as the product wastes what a smaller one does not.
            let wide = bn > 16 && bn / 2 >= work.columns.next_multiple_of(8);
            let tall = bm > 16 && bm / 2 >= work.rows;
            let pieces = [bm * bk / work.vectors[0], bn * bk / work.vectors[1]];
            let many = pieces.iter().any(|&p| ceil_div(p, tile.threads()) > MOST_PIECES);
            if wide || tall || many || out.iter().any(|&(t, _)| t == tile) {
                continue;
            }
            let steps = ceil_div(work.depth, bk);
            for &split in SPLITS {
                let empty = (split - 1) * ceil_div(steps, split) >= steps;
                if split == 1 || (steps / split >= 2 && !empty) {
                    out.push((tile, split));
                }
            }
        }
        out
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        let [down, across] = self.split;
        if self.mode == Mode::Ffma { down * across } else { down * across * 32 }
    }

    /// Dynamic shared memory, bytes.
    pub fn shared(&self, layouts: Layouts) -> usize {
        let size = self.mode.size();
        let a = match layouts.a_by_k {
            true => self.bk * (self.bm + 8),
            false => self.bm * (self.bk + 16 / size),
        };
        let b = match (layouts.b_by_n, self.mode) {
            (true, _) => self.bn * (self.bk + 8),
            (false, Mode::Ffma) => self.bk * (self.bn + 4),
            (false, _) => self.bk * (self.bn + 8),
        };
        self.stages * (a + b) * size
    }

    /// Scratch memory, bytes: of the tickets, and of all.
    pub fn scratch(&self, tiles: usize, split: usize) -> (usize, usize) {
        if split == 1 {
            return (0, 0);
        }
        let tickets = (tiles * 4).next_multiple_of(256);
        (tickets, tickets + tiles * split * self.bm * self.bn * 4)
    }

    /// What `tile.cuh` wants to know.
    pub fn define(&self, d: &mut Defines, layouts: Layouts, split: usize, through_async: bool) {
        let [down, across] = self.split;
        d.all(&[
            ("MODE", self.mode as usize),
            ("ASYNC", usize::from(through_async)),
            ("A_BY_K", usize::from(layouts.a_by_k)),
            ("B_BY_N", usize::from(layouts.b_by_n)),
            ("BM", self.bm),
            ("BN", self.bn),
            ("BK", self.bk),
            ("ST", self.stages),
            ("SPLIT", split),
        ]);
        match self.mode {
            Mode::Ffma => d.all(&[("TR", down), ("TC", across)]),
            _ => d.all(&[("WR", down), ("WC", across)]),
        };
    }

    /// As reports print it.
    pub fn label(&self, split: usize) -> String {
        let Tile { bm, bn, bk, stages, split: [down, across], mode } = self;
        let kind = match mode {
            Mode::Ffma => "t",
            Mode::Tf32 => "tf32 w",
            Mode::F16 => "w",
        };
        format!("{bm}x{bn}x{bk} s{stages} {kind}{down}x{across} k{split}")
    }

    /// Rough time, microseconds: a fixed start and end, then per step of the depth the slowest
    /// of arithmetic, shared memory and latency; or the traffic.
    pub fn predict(&self, work: &Work, split: usize, shared: usize, target: &Target) -> f64 {
        let threads = self.threads();
        let tiles = ceil_div(work.rows, self.bm) * ceil_div(work.columns, self.bn) * work.products;
        let resident = (target.shared_per_sm as usize / (shared + 1024)).min(1536 / threads).max(1);
        let per_sm = ((tiles * split) as f64 / f64::from(target.sm_count)).ceil().max(1.0);
        let waves = (per_sm / resident as f64).ceil();
        let together = per_sm.min(resident as f64);
        let steps = ceil_div(ceil_div(work.depth, self.bk), split) as f64;
        let macs = (self.bm * self.bn * self.bk) as f64;
        // Multiply-adds per clock of one multiprocessor, as far as such kernels reach them.
        let rate = match self.mode {
            Mode::Ffma if target.sm < 80 => 48.0,
            Mode::Ffma => 96.0,
            Mode::Tf32 => 400.0,
            Mode::F16 => 800.0,
        };
        // Clocks of shared-memory reads, 128 bytes each.
        let [down, across] = self.split;
        let reads = match self.mode {
            Mode::Ffma => {
                let per_thread = (self.bm / down + self.bn / across) as f64 * self.bk as f64 / 4.0;
                per_thread * threads as f64 / 32.0 * 1.6
            }
            _ => {
                let (wm, wn) = (self.bm / down, self.bn / across);
                let bytes = ((wm + wn) * self.bk * self.mode.size() * threads / 32) as f64;
                bytes / 100.0
            }
        };
        let latency = match self.mode {
            Mode::Ffma => 90.0 + 5.0 * self.bk as f64,
            _ => 110.0 + (self.bm + self.bn) as f64 * self.bk as f64 / threads as f64 * 0.6,
        } + if work.through_async { 0.0 } else { 400.0 };
        let clocks = (macs / rate * together).max(reads * together).max(latency);
        let clock = target.clock_ghz * 1e3; // per microsecond
        let bytes = tiles as f64
            * (self.bm + self.bn) as f64
            * (work.depth.next_multiple_of(self.bk) * self.mode.size()) as f64;
        let weights = (work.depth * work.columns * work.products * self.mode.size()) as f64;
        let memory =
            (bytes / (target.bandwidth_gbs * 2.5e3)).max(weights / (target.bandwidth_gbs * 1e3));
        let fix_up = if split == 1 { 0.0 } else { 1.8 + 0.12 * split as f64 };
        1.4 + fix_up + (waves * (0.6 + steps * clocks / clock)).max(memory)
    }
}
