//! Tiles of the convolutions on tensor cores, and how blocks that share K bring their sums together.

use super::candidate::clustered;
use crate::Target;

#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub bm: usize,
    pub bn: usize,
    /// Elements of f16 in a row, half the row's bytes: of integers there are twice as many.
    pub bk: usize,
    pub stages: usize,
    pub warps: [usize; 2],
    /// Groups of so many warps multiply the same tile, each its own k of a step.
    pub slices: usize,
    /// Warpgroup products (compute capability 9.0a).
    pub wgmma: bool,
    /// All taps read one patch: pixels of the tile down and across; `[0, 0]`: rows of the padded
    /// picture. `None`: every tap's pixels are copied.
    pub halo: Option<[usize; 2]>,
}

const fn tile(bm: usize, bn: usize, bk: usize, stages: usize, wr: usize, wc: usize) -> Tile {
    Tile { bm, bn, bk, stages, warps: [wr, wc], slices: 1, wgmma: false, halo: None }
}

const fn warpgroups(bm: usize, bn: usize, stages: usize) -> Tile {
    Tile { bm, bn, bk: 64, stages, warps: [bm / 16, 1], slices: 1, wgmma: true, halo: None }
}

/// A tile that warpgroups multiply.
const fn fitted(bm: usize, bn: usize, stages: usize, halo: Option<[usize; 2]>) -> Tile {
    Tile { halo, ..warpgroups(bm, bn, stages) }
}

/// Tiles of warpgroups, each with the number of blocks that share its k, whose width is such that
/// all of a layer's clusters run at once: rounds of them count, not tiles. `down`: how many of a
/// tile lie over all pixels; `filters` go by `granule`.
pub(super) fn fitted_tiles(
    filters: usize,
    granule: usize,
    down: impl Fn(&Tile) -> usize,
    target: &Target,
) -> Vec<(Tile, usize)> {
    let mut out = Vec::new();
    for halo in [None, Some(ROWS)] {
        let mut before = 0;
        for (bm, widest) in [(64, 256), (128, 256), (192, 160), (256, 128)] {
            let tall = down(&fitted(bm, granule, 4, halo));
            // Taller ones are only worth it where they are fewer.
            if tall == before {
                continue;
            }
            before = tall;
            for split in [1, 2, 4, 8] {
                let clusters = clustered(split, target) / split;
                let across = clusters / tall;
                if across == 0 {
                    continue;
                }
                let bn = filters.div_ceil(across).next_multiple_of(granule);
                // Powers of two are there already.
                if bn < 16 || bn > widest || bn.is_power_of_two() {
                    continue;
                }
                let stages: &[usize] = if bn > 128 { &[4] } else { &[4, 6, 9] };
                out.extend(stages.iter().map(|&s| (fitted(bm, bn, s, halo), split)));
            }
        }
    }
    out
}

impl Tile {
    /// The same by `slices` groups of warps.
    const fn sliced(self, slices: usize) -> Tile {
        Tile { slices, ..self }
    }

    /// Bytes of a row.
    pub const fn row(&self) -> usize {
        self.bk * 2
    }

    pub const fn threads(&self) -> usize {
        self.warps[0] * self.warps[1] * self.slices * 32
    }

    /// The same with rows of `bytes`.
    const fn rows_of(self, bytes: usize) -> Tile {
        Tile { bk: bytes / 2, ..self }
    }

    /// The same over patches of `[height, width]` pixels.
    const fn over(self, pixels: [usize; 2]) -> Tile {
        Tile { halo: Some(pixels), ..self }
    }
}

/// Rows of the padded picture.
const ROWS: [usize; 2] = [0, 0];

/// Small and deep tiles for batch 1, larger ones for large maps.
pub(super) const TILES: &[Tile] = &[
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
    tile(16, 16, 64, 8, 1, 1).sliced(4),
    tile(16, 16, 128, 4, 1, 1).sliced(4),
    tile(16, 16, 128, 4, 1, 1).sliced(8),
    tile(16, 16, 256, 3, 1, 1).sliced(8),
    tile(16, 32, 64, 8, 1, 2).sliced(4),
    tile(16, 32, 128, 4, 1, 2).sliced(4),
    tile(16, 32, 256, 3, 1, 1).sliced(8),
    tile(32, 16, 128, 4, 2, 1).sliced(4),
    tile(32, 32, 64, 6, 1, 2).sliced(4),
    tile(32, 32, 64, 6, 2, 2).sliced(2),
    tile(32, 32, 128, 4, 2, 1).sliced(4),
    tile(32, 32, 128, 4, 1, 1).sliced(8),
    tile(16, 64, 128, 4, 1, 2).sliced(4),
    tile(32, 64, 64, 6, 1, 2).sliced(4),
    tile(32, 64, 128, 3, 1, 2).sliced(4),
    tile(64, 32, 128, 3, 2, 1).sliced(4),
    tile(64, 64, 64, 6, 2, 2).sliced(2),
    tile(64, 64, 128, 3, 2, 2).sliced(2),
];

/// For compute capability 9.0a: each group of four warps multiplies 64 rows.
pub(super) const WARPGROUP_TILES: &[Tile] = &[
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
pub(super) const HALO_TILES: &[Tile] = &[
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
    tile(16, 16, 64, 8, 1, 1).sliced(4).over(ROWS),
    tile(16, 32, 64, 8, 1, 2).sliced(4).over(ROWS),
    tile(32, 16, 64, 8, 2, 1).sliced(4).over(ROWS),
    tile(32, 32, 64, 8, 1, 2).sliced(4).over(ROWS),
    tile(32, 64, 64, 6, 1, 2).sliced(4).over(ROWS),
    tile(64, 32, 64, 6, 2, 1).sliced(4).over(ROWS),
    tile(64, 64, 64, 6, 2, 2).sliced(2).over(ROWS),
];

/// The same with warpgroup products.
pub(super) const HALO_WARPGROUP_TILES: &[Tile] = &[
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
    warpgroups(192, 32, 6).over(ROWS),
    warpgroups(192, 32, 9).over(ROWS),
    warpgroups(192, 64, 4).over(ROWS),
    warpgroups(192, 64, 6).over(ROWS),
    warpgroups(192, 64, 9).over(ROWS),
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
    warpgroups(64, 128, 9).over([8, 8]),
    warpgroups(64, 128, 6).over([8, 8]),
    warpgroups(64, 256, 4).over([8, 8]),
    warpgroups(128, 32, 5).over([8, 16]),
    warpgroups(128, 64, 4).over([8, 16]),
    warpgroups(128, 64, 6).over([8, 16]),
    warpgroups(128, 64, 9).over([8, 16]),
    warpgroups(128, 64, 4).over([16, 8]),
    warpgroups(128, 128, 4).over([8, 16]),
    warpgroups(128, 128, 6).over([8, 16]),
    warpgroups(128, 128, 9).over([8, 16]),
    warpgroups(128, 128, 4).over([16, 8]),
    warpgroups(128, 256, 4).over([8, 16]),
    warpgroups(192, 64, 4).over([24, 8]),
    warpgroups(192, 128, 4).over([24, 8]),
    warpgroups(256, 32, 4).over([16, 16]),
    warpgroups(256, 64, 4).over([16, 16]),
    warpgroups(256, 64, 9).over([16, 16]),
    warpgroups(256, 128, 4).over([16, 16]),
];

/// Patches of so few channels that rows of 128 bytes would be half empty: the weights of all taps
/// of a 3x3 layer at once.
pub(super) const NARROW_HALO_TILES: &[Tile] = &[
    tile(32, 32, 32, 9, 2, 2).over(ROWS),
    tile(64, 32, 32, 9, 4, 2).over(ROWS),
    tile(64, 64, 32, 9, 2, 2).over(ROWS),
    tile(64, 32, 32, 9, 4, 2).over([8, 8]),
    tile(64, 64, 32, 9, 2, 2).over([8, 8]),
    tile(128, 32, 32, 9, 4, 1).over([8, 16]),
    tile(128, 64, 32, 9, 4, 2).over([8, 16]),
    tile(32, 16, 16, 9, 2, 1).over(ROWS),
    tile(64, 16, 16, 9, 4, 1).over(ROWS),
    tile(64, 32, 16, 9, 4, 1).over([8, 8]),
    tile(64, 64, 16, 9, 4, 1).over([8, 8]),
    tile(128, 16, 16, 9, 4, 1).over([8, 16]),
    tile(128, 32, 16, 9, 4, 1).over([8, 16]),
    tile(128, 64, 16, 9, 4, 2).over([8, 16]),
];

/// The same with warpgroup products.
pub(super) const NARROW_HALO_WARPGROUP_TILES: &[Tile] = &[
    warpgroups(64, 32, 9).rows_of(64).over(ROWS),
    warpgroups(64, 64, 9).rows_of(64).over(ROWS),
    warpgroups(128, 32, 9).rows_of(64).over(ROWS),
    warpgroups(128, 64, 9).rows_of(64).over(ROWS),
    warpgroups(192, 64, 9).rows_of(64).over(ROWS),
    warpgroups(256, 64, 9).rows_of(64).over(ROWS),
    warpgroups(64, 32, 9).rows_of(64).over([8, 8]),
    warpgroups(64, 64, 9).rows_of(64).over([8, 8]),
    warpgroups(64, 128, 9).rows_of(64).over([8, 8]),
    warpgroups(128, 32, 9).rows_of(64).over([8, 16]),
    warpgroups(128, 64, 9).rows_of(64).over([8, 16]),
    warpgroups(128, 128, 9).rows_of(64).over([8, 16]),
    warpgroups(256, 32, 9).rows_of(64).over([16, 16]),
    warpgroups(256, 64, 9).rows_of(64).over([16, 16]),
    warpgroups(256, 128, 9).rows_of(64).over([16, 16]),
    warpgroups(128, 16, 9).rows_of(32).over(ROWS),
    warpgroups(64, 32, 9).rows_of(32).over([8, 8]),
    warpgroups(64, 64, 9).rows_of(32).over([8, 8]),
    warpgroups(128, 32, 9).rows_of(32).over([8, 16]),
    warpgroups(128, 64, 9).rows_of(32).over([8, 16]),
    warpgroups(256, 16, 9).rows_of(32).over([16, 16]),
    warpgroups(256, 32, 9).rows_of(32).over([16, 16]),
    warpgroups(256, 64, 9).rows_of(32).over([16, 16]),
];

/// How blocks that share K bring their sums together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// They do not share.
    Nothing,
    /// Through device memory; the last block adds up.
    Memory,
    /// Within a cluster, by stores into each other's shared memory.
    Stores,
    /// Within a cluster, by bulk copies.
    Copies,
}

impl Join {
    pub fn in_cluster(self) -> bool {
        matches!(self, Join::Stores | Join::Copies)
    }

    pub fn mark(self) -> char {
        match self {
            Join::Nothing | Join::Memory => 'k',
            Join::Stores => 'c',
            Join::Copies => 'b',
        }
    }
}

pub(super) const SPLITS: &[usize] = &[1, 2, 3, 4, 6, 8, 12, 16];
