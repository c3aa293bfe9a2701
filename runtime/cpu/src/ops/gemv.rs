//! A matrix times a vector: bound by reading the matrix, which is read where it lies.

use rayon::prelude::*;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

/// Elements of the matrix that one core handles before a second is asked.
const GRAIN: usize = 1 << 16;

/// `out[n] += alpha * sum over k of matrix[k][n] * vector[k]`, where `matrix` is given row by
/// row (`k` outer), or column by column when `transposed`.
pub(crate) fn gemv(alpha: f32, vector: &[f32], matrix: &[f32], transposed: bool, out: &mut [f32]) {
    let (depth, columns) = (vector.len(), out.len());
    if depth == 0 || columns == 0 {
        return;
    }
    let parts = (matrix.len() / GRAIN).clamp(1, 4 * rayon::current_num_threads());
    let each = columns.div_ceil(parts).next_multiple_of(16);
    let run = |(i, out): (usize, &mut [f32])| {
        let first = i * each;
        if transposed {
            let matrix = &matrix[first * depth..(first + out.len()) * depth];
            Dots { alpha, vector, matrix, out }.dispatch();
        } else {
            Sums { alpha, vector, matrix, columns, first, out }.dispatch();
        }
    };
    if parts == 1 {
        out.chunks_mut(each).enumerate().for_each(run);
    } else {
        out.par_chunks_mut(each).enumerate().for_each(run);
    }
}

struct Dots<'a> {
    alpha: f32,
    vector: &'a [f32],
    matrix: &'a [f32],
    out: &'a mut [f32],
}

impl SimdOp for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let depth = self.vector.len();
        let mut four = self.matrix.chunks_exact(4 * depth);
        let mut outs = self.out.chunks_exact_mut(4);
        for (rows, out) in four.by_ref().zip(outs.by_ref()) {
            let sums = dots::<I, 4>(isa, self.vector, rows);
            out.iter_mut().zip(sums).for_each(|(o, s)| *o += self.alpha * s);
        }
        for (row, o) in four.remainder().chunks_exact(depth).zip(outs.into_remainder()) {
            *o += self.alpha * dots::<I, 1>(isa, self.vector, row)[0];
        }
    }
}

/// Dot products of a vector with `N` rows of its length.
#[inline(always)]
fn dots<I: Isa, const N: usize>(isa: I, vector: &[f32], rows: &[f32]) -> [f32; N] {
    let ops = isa.f32();
    let (lanes, depth) = (ops.len(), vector.len());
    let rows: [&[f32]; N] = std::array::from_fn(|r| &rows[r * depth..(r + 1) * depth]);
    let mut sums = [[ops.zero(); 2]; N];
    let whole = depth / (2 * lanes) * 2 * lanes;
    for at in (0..whole).step_by(2 * lanes) {
        let v: [I::F32; 2] = ops.load_many(&vector[at..]);
        for r in 0..N {
            let m: [I::F32; 2] = ops.load_many(&rows[r][at..]);
            for i in 0..2 {
                sums[r][i] = ops.mul_add(v[i], m[i], sums[r][i]);
            }
        }
    }
    std::array::from_fn(|r| {
        let rest = vector[whole..].iter().zip(&rows[r][whole..]).map(|(a, b)| a * b);
        ops.sum(ops.add(sums[r][0], sums[r][1])) + rest.sum::<f32>()
    })
}

struct Sums<'a> {
    alpha: f32,
    vector: &'a [f32],
    matrix: &'a [f32],
    columns: usize,
    first: usize,
    out: &'a mut [f32],
}

impl SimdOp for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let width = 4 * ops.len();
        let mut first = self.first;
        let rows = || self.vector.iter().zip(self.matrix.chunks_exact(self.columns));
        for out in self.out.chunks_mut(width) {
            if out.len() == width {
                let mut sums = [ops.zero(); 4];
                for (&v, row) in rows() {
                    let m: [I::F32; 4] = ops.load_many(&row[first..]);
                    for i in 0..4 {
                        sums[i] = ops.mul_add(ops.splat(v), m[i], sums[i]);
                    }
                }
                for (i, out) in out.chunks_exact_mut(ops.len()).enumerate() {
                    ops.store(ops.mul_add(ops.splat(self.alpha), sums[i], ops.load(out)), out);
                }
            } else {
                for (i, o) in out.iter_mut().enumerate() {
                    let sum: f32 = rows().map(|(&v, row)| v * row[first + i]).sum();
                    *o += self.alpha * sum;
                }
            }
            first += width;
        }
    }
}
