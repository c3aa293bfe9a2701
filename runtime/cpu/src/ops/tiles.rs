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

/// Where [`PackedRows::pack`] finds a matrix. Depth `o * inner count + i` of row `r` is
/// `data[r * row + o * outer step + i * inner step]`.
pub(crate) struct Rows<'a> {
    pub data: &'a [f32],
    /// Step between rows.
    pub row: usize,
    /// Count and step.
    pub outer: [usize; 2],
    /// Count and step.
    pub inner: [usize; 2],
    /// Factor of all elements.
    pub scale: f32,
}

impl<'a> PackedRows<'a> {
    /// Elements of a packed matrix.
    pub fn len(rows: usize, depth: usize, lanes: usize) -> usize {
        rows.next_multiple_of(tile_rows(lanes)) * depth
    }

    /// Packs a matrix into `data`, [`PackedRows::len`] elements.
    pub fn pack(rows: usize, lanes: usize, data: &mut [f32], from: &Rows<'_>) {
        let panel = tile_rows(lanes);
        let depth = from.outer[0] * from.inner[0];
        for (p, block) in data.chunks_exact_mut(panel * depth).enumerate() {
            let first = p * panel;
            let count = panel.min(rows - first);
            if count < panel {
                block.fill(0.0);
            }
            let blocks = block.chunks_exact_mut(panel * from.inner[0]);
            for (t, block) in blocks.enumerate() {
                let base = first * from.row + t * from.outer[1];
                for (k, group) in block.chunks_exact_mut(panel).enumerate() {
                    let at = base + k * from.inner[1];
                    for (r, to) in group[..count].iter_mut().enumerate() {
                        *to = from.scale * from.data[at + r * from.row];
                    }
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
    /// Where these columns are in the output's rows as they are given.
    pub begin: usize,
    pub len: usize,
    /// Column of the whole output at which those rows begin.
    pub first_column: usize,
}

/// One panel of rows times packed columns, for `depths` of the product. `out[r]` gets row
/// `r`'s columns, at their place.
///
/// The last tile of the whole output, where it is not full, ends with the last column and
/// begins in the tile before (see [`Patches`](super::patches::Patches)).
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
    let mut bias = [0.0; ROWS];
    if let Some(b) = finish.bias {
        bias[..out.len()].copy_from_slice(&b[..out.len()]);
    }
    let first = columns.first_column;
    let end = columns.begin + columns.len;
    let part =
        (depths.start - columns.first_depth) * width..(depths.end - columns.first_depth) * width;
    let tiles = columns.data.chunks_exact(columns.depth * width);
    for (block, at) in tiles.zip((columns.begin..end).step_by(width)) {
        let tile = product::<I, ROWS>(isa, panel, &block[part.clone()]);
        if at + width <= end {
            store(isa, tile, &bias, out, at, first, finish);
            continue;
        }
        let skip = if finish.row_len < width { 0 } else { width - (end - at) };
        if at >= skip && skip > 0 {
            store_last(isa, tile, &bias, out, (at - skip, skip), first, finish);
        } else {
            store_part(isa, tile, &bias, out, (at..end, skip), first, finish);
        }
    }
    match finish.activation {
        None | Some(Activation::Relu | Activation::Clip { .. }) => {}
        // The rows are in the first or second cache now.
        Some(act) => {
            out.iter_mut().for_each(|row| apply(act, &mut row[columns.begin..end]));
        }
    }
}

/// Weights are asked for so many elements before they are used.
const AHEAD: usize = 512;

/// A tile's accumulators.
type Tile<I, const ROWS: usize> = [[<I as Isa>::F32; VECTORS]; ROWS];

#[inline(always)]
fn product<I: Isa, const ROWS: usize>(isa: I, a: &[f32], b: &[f32]) -> Tile<I, ROWS> {
    let ops = isa.f32();
    let mut sums = [[ops.zero(); VECTORS]; ROWS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(VECTORS * ops.len())) {
        // Weights come from memory when the layer is large.
        ops.prefetch(a.as_ptr().wrapping_add(AHEAD));
        let mut x = [ops.zero(); VECTORS];
        for (v, x) in x.iter_mut().enumerate() {
            *x = ops.load(&b[v * ops.len()..(v + 1) * ops.len()]);
        }
        for r in 0..ROWS {
            let a = ops.splat(a[r]);
            for v in 0..VECTORS {
                sums[r][v] = ops.mul_add(a, x[v], sums[r][v]);
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
        let add: Option<&[f32]> = match finish.residual {
            Residual::None => None,
            Residual::InPlace => Some(row),
            Residual::From(x) => Some(&x[r * finish.row_len + first_column + at..][..width]),
        };
        if let Some(add) = add {
            for v in 0..VECTORS {
                sums[v] = ops.add(sums[v], ops.load(&add[v * ops.len()..]));
            }
        }
        for v in 0..VECTORS {
            // The sum second: it stays when it is NaN.
            let x = ops.min(hi, ops.max(lo, sums[v]));
            ops.store(x, &mut row[v * ops.len()..]);
        }
    }
}

/// [`store`] for a tile whose first `skip` columns are there already.
#[inline(always)]
fn store_last<I: Isa, const ROWS: usize>(
    isa: I,
    tile: Tile<I, ROWS>,
    bias: &[f32; ROWS],
    out: &mut [&mut [f32]],
    (at, skip): (usize, usize),
    first_column: usize,
    finish: &Finish<'_>,
) {
    let (ops, ints) = (isa.f32(), isa.i32());
    let (lo, hi) = bounds(finish.activation);
    let (lo, hi) = (ops.splat(lo), ops.splat(hi));
    for v in 0..VECTORS {
        let at = at + v * ops.len();
        let new = ints.ge(ints.load(&COUNT[v * ops.len()..]), ints.splat(skip as i32));
        for r in 0..ROWS {
            let Some(row) = out.get_mut(r) else { break };
            let row = &mut row[at..at + ops.len()];
            let old = ops.load(row);
            let mut x = ops.add(tile[r][v], ops.splat(bias[r]));
            match finish.residual {
                Residual::None => {}
                Residual::InPlace => x = ops.add(x, old),
                Residual::From(add) => {
                    x = ops.add(x, ops.load(&add[r * finish.row_len + first_column + at..]));
                }
            }
            let x = ops.min(hi, ops.max(lo, x));
            ops.store(ops.select(x, old, new), row);
        }
    }
}

/// 0, 1, 2, ...
pub(crate) const COUNT: [i32; 32] = {
    let mut count = [0; 32];
    let mut i = 0;
    while i < 32 {
        count[i] = i as i32;
        i += 1;
    }
    count
};

/// [`store`] of the columns `columns` of a tile, which begin at its column `skip`.
#[inline(always)]
fn store_part<I: Isa, const ROWS: usize>(
    isa: I,
    tile: Tile<I, ROWS>,
    bias: &[f32; ROWS],
    out: &mut [&mut [f32]],
    (columns, skip): (Range<usize>, usize),
    first_column: usize,
    finish: &Finish<'_>,
) {
    let lanes = isa.f32().len();
    let (lo, hi) = bounds(finish.activation);
    for (r, row) in out.iter_mut().enumerate() {
        let values: [_; VECTORS] = [tile[r][0].to_array(), tile[r][1].to_array()];
        for (c, i) in columns.clone().enumerate() {
            let mut x = values[(skip + c) / lanes][(skip + c) % lanes] + bias[r];
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
