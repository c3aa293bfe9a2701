//! Max and average pooling, f32, over one or two axes.
//!
//! For each output row the window's rows are reduced first, element by element, into one
//! padded row; then the window's columns of that row. That is `kh + kw` operations an
//! element rather than `kh * kw`.

use rten_simd::{Isa, SimdOp};
use tobiuo_ops::{Fact, Pool, PoolKind};
use tobiuo_tensor::{DType, TensorViewMut};

use super::f32s::{GRAIN, f32s, f32s_mut, par_parts, scratch_f32};
use crate::{CpuError, Inputs, Kernel};

struct PoolKernel {
    max: bool,
    /// Elements of the input's axes.
    size: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    /// Per output row and column: 1 / elements that count there (average).
    share: [Vec<f32>; 2],
    parts: usize,
}

pub(crate) fn prepare(
    pool: &Pool,
    inputs: &[Fact],
    out: &Fact,
) -> Result<Box<dyn Kernel>, CpuError> {
    let x = &inputs[0];
    let axes = x.shape.len().saturating_sub(2);
    if x.dtype != DType::F32 || !(1..=2).contains(&axes) {
        return Err(CpuError(format!(
            "pooling of {} {:?} is not supported, only of f32 over 1 or 2 axes",
            x.dtype, x.shape
        )));
    }
    let two = |v: &[usize], one: usize| if axes == 2 { [v[0], v[1]] } else { [one, v[0]] };
    let mut kernel = PoolKernel {
        max: pool.kind == PoolKind::Max,
        size: two(&x.shape[2..], 1),
        out: two(&out.shape[2..], 1),
        kernel: two(&pool.kernel, 1),
        stride: two(&pool.strides, 1),
        dilation: two(&pool.dilations, 1),
        pad: two(&pool.pads, 0),
        share: [Vec::new(), Vec::new()],
        parts: 1,
    };
    let end = two(&pool.pads[axes..], 0);
    if let PoolKind::Average { count_include_pad } = pool.kind {
        kernel.share = [0, 1].map(|a| {
            // Coordinates with the leading pad at 0: those from `from` to `to` count.
            let from = if count_include_pad { 0 } else { kernel.pad[a] };
            let to = kernel.pad[a] + kernel.size[a] + if count_include_pad { end[a] } else { 0 };
            let count = |o: usize| {
                let at = |k| o * kernel.stride[a] + k * kernel.dilation[a];
                (0..kernel.kernel[a]).filter(|&k| (from..to).contains(&at(k))).count()
            };
            (0..kernel.out[a]).map(|o| 1.0 / count(o).max(1) as f32).collect()
        });
    }
    let planes: usize = x.shape[..2].iter().product();
    let work = planes.saturating_mul(kernel.size[0] * kernel.size[1]);
    kernel.parts = if work < 2 * GRAIN { 1 } else { 4 * rayon::current_num_threads() };
    Ok(Box::new(kernel))
}

impl PoolKernel {
    /// The padded row that every window of an output row lies in.
    fn row_len(&self) -> usize {
        let span =
            (self.out[1].max(1) - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1;
        span.max(self.pad[1] + self.size[1])
    }

    /// One window, the whole plane.
    fn is_global(&self) -> bool {
        self.out == [1, 1]
            && self.kernel == self.size
            && self.dilation == [1, 1]
            && self.pad == [0, 0]
    }

    #[inline(always)]
    fn combine(&self, a: f32, b: f32) -> f32 {
        if self.max {
            // NaN, as a, stays.
            if b > a || b.is_nan() { b } else { a }
        } else {
            a + b
        }
    }
}

/// Pools whole planes.
struct Planes<'a> {
    pool: &'a PoolKernel,
    x: &'a [f32],
    out: &'a mut [f32],
    row: &'a mut [f32],
}

impl SimdOp for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let p = self.pool;
        let planes = self.x.chunks_exact(p.size[0] * p.size[1]);
        let outs = self.out.chunks_exact_mut(p.out[0] * p.out[1]);
        for (x, out) in planes.zip(outs) {
            // The loops are vectorised by the compiler, for this instruction set.
            if p.is_global() {
                let mut lanes = [x[0]; 16];
                if !p.max {
                    lanes = [0.0; 16];
                }
                let blocks = x.chunks_exact(16);
                let rest = blocks.remainder();
                for block in blocks {
                    for (l, &v) in lanes.iter_mut().zip(block) {
                        *l = p.combine(*l, v);
                    }
                }
                let first = if p.max { x[0] } else { 0.0 };
                let all = lanes.iter().chain(rest).fold(first, |a, &b| p.combine(a, b));
                out[0] = if p.max { all } else { all * p.share[0][0] * p.share[1][0] };
                continue;
            }
            for (oy, out) in out.chunks_exact_mut(p.out[1]).enumerate() {
                if p.max {
                    pool_row::<true>(p, x, oy, self.row, out);
                } else {
                    pool_row::<false>(p, x, oy, self.row, out);
                }
            }
        }
    }
}

#[inline(always)]
fn pool_row<const MAX: bool>(
    p: &PoolKernel,
    x: &[f32],
    oy: usize,
    row: &mut [f32],
    out: &mut [f32],
) {
    let ([h, w], pad) = (p.size, p.pad);
    let empty = if MAX { f32::NEG_INFINITY } else { 0.0 };
    let combine = |a: f32, b: f32| {
        if MAX { if b > a || b.is_nan() { b } else { a } } else { a + b }
    };
    row.fill(empty);
    let middle = &mut row[pad[1]..pad[1] + w];
    for ky in 0..p.kernel[0] {
        let y = (oy * p.stride[0] + ky * p.dilation[0]).wrapping_sub(pad[0]);
        if y < h {
            for (a, &b) in middle.iter_mut().zip(&x[y * w..(y + 1) * w]) {
                *a = combine(*a, b);
            }
        }
    }
    out.fill(empty);
    for kx in 0..p.kernel[1] {
        let from = &row[kx * p.dilation[1]..];
        match p.stride[1] {
            1 => {
                for (a, &b) in out.iter_mut().zip(from) {
                    *a = combine(*a, b);
                }
            }
            2 => {
                let (last, most) = out.split_last_mut().expect("rows are not empty");
                for (a, b) in most.iter_mut().zip(from.chunks_exact(2)) {
                    *a = combine(*a, b[0]);
                }
                *last = combine(*last, from[2 * most.len()]);
            }
            s => {
                for (a, &b) in out.iter_mut().zip(from.iter().step_by(s)) {
                    *a = combine(*a, b);
                }
            }
        }
    }
    if !MAX {
        let share = p.share[0][oy];
        for (a, &s) in out.iter_mut().zip(&p.share[1]) {
            *a *= share * s;
        }
    }
}

impl Kernel for PoolKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let x = f32s(inputs.get(0).expect("pooling does not run in place"));
        let out = f32s_mut(&mut outputs[0]);
        let (plane, out_plane) = (self.size[0] * self.size[1], self.out[0] * self.out[1]);
        if out.is_empty() {
            return;
        }
        let row = self.row_len();
        let scratch = &mut scratch_f32(scratch)[..self.parts * row];
        par_parts(out, out_plane, self.parts, scratch, &|first, out, row| {
            let n = out.len() / out_plane;
            let x = &x[first * plane..(first + n) * plane];
            Planes { pool: self, x, out, row }.dispatch();
        });
    }

    fn scratch_bytes(&self) -> usize {
        self.parts * self.row_len() * 4
    }
}
