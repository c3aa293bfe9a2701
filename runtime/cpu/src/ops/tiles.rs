//! The matrix product inside a convolution: `rows x depth` weights, packed once, times
//! `depth x columns` patches, packed block by block, with everything that follows (bias,
//! residual, activation) done on a tile of the result while it is in registers.
//!
//! The blocking is Goto and van de Geijn's ("Anatomy of High-Performance Matrix
//! Multiplication", 2008) without the split along the depth: a tile's accumulators stay in
//! registers from the first product to the activation.

use std::ops::Range;

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, Simd};
use tobiuo_ops::Activation;

use super::activation::apply;

/// Vectors across a tile.
pub(crate) const VECTORS: usize = 2;

/// Rows of a tile: accumulators, operands and one broadcast value fill the registers (32 with
/// 16 lanes or with 4, else 16).
pub(crate) const fn tile_rows(lanes: usize) -> usize {
    if lanes == 8 { 6 } else { 8 }
}

/// A matrix packed in panels of [`tile_rows`] rows: panel by panel, for each depth the rows'
/// elements. The last panel is filled up with zeros.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows<'a> {
    depth: usize,
    panel: usize,
    data: &'a [f32],
}

impl<'a> PackedRows<'a> {
    /// Elements of a packed matrix.
    pub fn len(rows: usize, depth: usize, lanes: usize) -> usize {
        rows.next_multiple_of(tile_rows(lanes)) * depth
    }

    /// Packs `get(row, depth)` into `data`, [`PackedRows::len`] elements.
    pub fn pack(
        rows: usize,
        depth: usize,
        lanes: usize,
        data: &mut [f32],
        get: impl Fn(usize, usize) -> f32,
    ) {
        let panel = tile_rows(lanes);
        for (p, block) in data.chunks_exact_mut(panel * depth).enumerate() {
            let first = p * panel;
            for r in 0..panel {
                let groups = block.chunks_exact_mut(panel).enumerate();
                if first + r < rows {
                    groups.for_each(|(k, group)| group[r] = get(first + r, k));
                } else {
                    groups.for_each(|(_, group)| group[r] = 0.0);
                }
            }
        }
    }

    /// A packed matrix.
    pub fn new(depth: usize, lanes: usize, data: &'a [f32]) -> PackedRows<'a> {
        PackedRows { depth, panel: tile_rows(lanes), data }
    }

    /// A part of panel `p`: for each depth in `depths` its [`tile_rows`] elements.
    fn panel(&self, p: usize, depths: Range<usize>) -> &'a [f32] {
        let base = p * self.depth;
        &self.data[(base + depths.start) * self.panel..(base + depths.end) * self.panel]
    }
}

/// What is added before the activation.
#[derive(Clone, Copy)]
pub(crate) enum Residual<'a> {
    None,
    /// What the output holds.
    InPlace,
    /// Rows of the whole output's length.
    From(&'a [f32]),
}

/// What happens to the product.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// One per row; none where a later part of the depth adds them.
    pub bias: Option<&'a [f32]>,
    /// Row length of the whole output, for the residual's rows.
    pub row_len: usize,
    pub residual: Residual<'a>,
    pub activation: Option<Activation>,
}

impl<'a> Finish<'a> {
    /// The same for rows from `first` on.
    pub fn rows_from(&self, first: usize) -> Finish<'a> {
        let residual = match self.residual {
            Residual::From(r) => Residual::From(&r[first * self.row_len..]),
            other => other,
        };
        Finish { bias: self.bias.map(|b| &b[first..]), residual, ..*self }
    }

    /// What of it happens when only a part of the depth is multiplied.
    pub fn part(&self, first: bool, last: bool) -> Finish<'a> {
        Finish {
            bias: self.bias.filter(|_| last),
            residual: if first { self.residual } else { Residual::InPlace },
            activation: self.activation.filter(|_| last),
            ..*self
        }
    }
}

/// The columns that [`multiply`] is given.
#[derive(Clone, Copy)]
pub(crate) struct PackedColumns<'a> {
    /// Tile by tile, for each depth a tile's columns. All tiles but the last are full.
    pub data: &'a [f32],
    /// Depths of a tile in `data`.
    pub depth: usize,
    /// Depth of the product at which `data` begins.
    pub first_depth: usize,
    /// Column of the whole output at which `data` begins.
    pub first_column: usize,
}

/// One panel of rows times packed columns, for `depths` of the product. `out[r]` gets row
/// `r`'s columns.
#[inline(always)]
pub(crate) fn multiply<I: Isa>(
    isa: I,
    (rows, p): (PackedRows<'_>, usize),
    columns: PackedColumns<'_>,
    depths: Range<usize>,
    out: &mut [&mut [f32]],
    finish: &Finish<'_>,
) {
    // `len` is a constant of `I`: one of the arms remains.
    match isa.f32().len() {
        8 => {
            multiply_sized::<I, 6>(isa, rows.panel(p, depths.clone()), columns, depths, out, finish)
        }
        _ => {
            multiply_sized::<I, 8>(isa, rows.panel(p, depths.clone()), columns, depths, out, finish)
        }
    }
}

#[inline(always)]
fn multiply_sized<I: Isa, const ROWS: usize>(
    isa: I,
    panel: &[f32],
    columns: PackedColumns<'_>,
    depths: Range<usize>,
    out: &mut [&mut [f32]],
    finish: &Finish<'_>,
) {
    let width = VECTORS * isa.f32().len();
    let Some(len) = out.first().map(|row| row.len()) else { return };
    let mut bias = [0.0; ROWS];
    if let Some(b) = finish.bias {
        bias[..out.len()].copy_from_slice(&b[..out.len()]);
    }
    let first_column = columns.first_column;
    let part =
        (depths.start - columns.first_depth) * width..(depths.end - columns.first_depth) * width;
    let tiles = columns.data.chunks_exact(columns.depth * width);
    for (block, at) in tiles.zip((0..len).step_by(width)) {
        let tile = product::<I, ROWS>(isa, panel, &block[part.clone()]);
        let here = at..(at + width).min(len);
        if here.len() == width {
            store(isa, tile, &bias, out, at, first_column, finish);
        } else {
            store_part(isa, tile, &bias, out, at, first_column, finish);
        }
    }
    match finish.activation {
        None | Some(Activation::Relu | Activation::Clip { .. }) => {}
        // The rows are in the first or second cache now.
        Some(act) => out.iter_mut().for_each(|row| apply(act, row)),
    }
}

/// A tile's accumulators.
type Tile<I, const ROWS: usize> = [[<I as Isa>::F32; VECTORS]; ROWS];

#[inline(always)]
fn product<I: Isa, const ROWS: usize>(isa: I, a: &[f32], b: &[f32]) -> Tile<I, ROWS> {
    let ops = isa.f32();
    let mut sums = [[ops.zero(); VECTORS]; ROWS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(VECTORS * ops.len())) {
        let b: [I::F32; VECTORS] = ops.load_many(b);
        for r in 0..ROWS {
            let a = ops.splat(a[r]);
            for v in 0..VECTORS {
                sums[r][v] = ops.mul_add(a, b[v], sums[r][v]);
            }
        }
    }
    sums
}

/// The bounds of the activation where it is a clamp.
pub(crate) fn bounds(activation: Option<Activation>) -> (f32, f32) {
    match activation {
        Some(Activation::Relu) => (0.0, f32::INFINITY),
        Some(Activation::Clip { min, max }) => (min, max),
        _ => (f32::NEG_INFINITY, f32::INFINITY),
    }
}

#[inline(always)]
fn store<I: Isa, const ROWS: usize>(
    isa: I,
    tile: Tile<I, ROWS>,
    bias: &[f32; ROWS],
    out: &mut [&mut [f32]],
    at: usize,
    first_column: usize,
    finish: &Finish<'_>,
) {
    let ops = isa.f32();
    let (lo, hi) = bounds(finish.activation);
    let (lo, hi) = (ops.splat(lo), ops.splat(hi));
    let width = VECTORS * ops.len();
    for r in 0..ROWS {
        let Some(row) = out.get_mut(r) else { break };
        let row = &mut row[at..at + width];
        let bias = ops.splat(bias[r]);
        let mut sums = [ops.zero(); VECTORS];
        for v in 0..VECTORS {
            sums[v] = ops.add(tile[r][v], bias);
        }
        let add: Option<[I::F32; VECTORS]> = match finish.residual {
            Residual::None => None,
            Residual::InPlace => Some(ops.load_many(row)),
            Residual::From(x) => {
                Some(ops.load_many(&x[r * finish.row_len + first_column + at..][..width]))
            }
        };
        for v in 0..VECTORS {
            let x = add.map_or(sums[v], |add| ops.add(sums[v], add[v]));
            // x second: it stays when it is NaN.
            let x = ops.min(hi, ops.max(lo, x));
            ops.store(x, &mut row[v * ops.len()..]);
        }
    }
}

/// [`store`] for a tile whose last columns lie outside the output.
#[inline(never)]
fn store_part<I: Isa, const ROWS: usize>(
    isa: I,
    tile: Tile<I, ROWS>,
    bias: &[f32; ROWS],
    out: &mut [&mut [f32]],
    at: usize,
    first_column: usize,
    finish: &Finish<'_>,
) {
    let (lo, hi) = bounds(finish.activation);
    let lanes = isa.f32().len();
    for (r, row) in out.iter_mut().enumerate() {
        for v in 0..VECTORS {
            let values = tile[r][v].to_array();
            let begin = at + v * lanes;
            for (lane, i) in (begin..row.len().min(begin + lanes)).enumerate() {
                let mut x = values[lane] + bias[r];
                match finish.residual {
                    Residual::None => {}
                    Residual::InPlace => x += row[i],
                    Residual::From(add) => x += add[r * finish.row_len + first_column + i],
                }
                row[i] = if x < lo {
                    lo
                } else if x > hi {
                    hi
                } else {
                    x
                };
            }
        }
    }
}
