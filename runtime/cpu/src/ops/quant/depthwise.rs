//! Convolution of integers with one input channel per group (depthwise): each channel's plane
//! is copied into a padded one in i16, and a row of the output is summed tap by tap.

use rten_simd::{Isa, SimdOp};
use tobiuo_tensor::{DType, TensorViewMut};

use super::epilogue::{Cell, Finish, Source};
use super::{Bytes, shorts, widen};
use crate::ops::f32s::{GRAIN, f32s, par_parts};
use crate::ops::patches::Geometry;
use crate::ops::walk::{slice, slice_mut};
use crate::{Inputs, Kernel};

/// Outputs of a row summed together.
const BLOCK: usize = 64;

pub(super) struct Depthwise {
    g: Geometry,
    bytes: Bytes,
    finish: Finish,
    out: DType,
    /// Rows and columns of a padded plane.
    rows: usize,
    columns: usize,
    parts: usize,
}

impl Depthwise {
    pub fn new(g: Geometry, bytes: Bytes, finish: Finish, out: DType) -> Depthwise {
        let reach = |i: usize, n: usize, k: usize| {
            n.saturating_sub(1) * g.stride[i] + (k - 1) * g.dilation[i] + 1
        };
        let work = g.batch * g.groups * g.out_c * g.columns() * g.kh * g.kw / 4;
        Depthwise {
            rows: reach(0, g.oh, g.kh).max(g.pad[0] + g.h),
            columns: reach(1, g.ow, g.kw).max(g.pad[1] + g.w),
            parts: if work < GRAIN { 1 } else { 4 * rayon::current_num_threads() },
            g,
            bytes,
            finish,
            out,
        }
    }

    fn plane(&self) -> usize {
        self.rows * self.columns
    }

    fn go<T: Cell>(&self, inputs: Inputs<'_>, out: &mut [T], scratch: &mut [u8]) {
        let pixels = self.g.columns();
        if out.is_empty() {
            return;
        }
        let x: &[u8] = slice(inputs.get(0).expect("not in place"));
        let weights: &[u8] = slice(inputs.get(1).expect("not in place"));
        let multiplier = f32s(inputs.get(2).expect("not in place"));
        let bias = f32s(inputs.get(3).expect("not in place"));
        let residual = Source::new(&self.finish.residual, inputs.get(4));
        let planes = &mut shorts(scratch)[..self.parts * self.plane()];
        par_parts(out, pixels, self.parts, planes, &|first, out, plane| {
            let residual = residual.part(first * pixels, out.len());
            let kernel = self;
            Part { kernel, first, x, weights, multiplier, bias, residual, out, plane }.dispatch();
        });
    }
}

/// Some output channels of all pictures, one behind the other.
struct Part<'a, T> {
    kernel: &'a Depthwise,
    first: usize,
    x: &'a [u8],
    weights: &'a [u8],
    multiplier: &'a [f32],
    bias: &'a [f32],
    residual: Source<'a>,
    out: &'a mut [T],
    plane: &'a mut [i16],
}

impl<T: Cell> SimdOp for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Depthwise { g, columns, bytes, finish, .. } = self.kernel;
        let (pixels, columns) = (g.columns(), *columns);
        let plane = &mut self.plane[..self.kernel.plane()];
        plane.fill(0);
        let mut in_plane = None;
        for (i, out) in self.out.chunks_exact_mut(pixels).enumerate() {
            let channel = self.first + i;
            let (item, filter) = (channel / (g.groups * g.out_c), channel % (g.groups * g.out_c));
            let source = item * g.groups + filter / g.out_c;
            if in_plane != Some(source) {
                let from = &self.x[source * g.h * g.w..(source + 1) * g.h * g.w];
                for (y, row) in from.chunks_exact(g.w).enumerate() {
                    let at = (g.pad[0] + y) * columns + g.pad[1];
                    widen(*bytes, row, &mut plane[at..at + g.w]);
                }
                in_plane = Some(source);
            }
            let taps = &self.weights[filter * g.kh * g.kw..(filter + 1) * g.kh * g.kw];
            let (m, b) = (self.multiplier[filter], self.bias[filter]);
            for (oy, out) in out.chunks_exact_mut(g.ow).enumerate() {
                for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                    let n = out.len();
                    let mut sums = [0i32; BLOCK];
                    for (tap, &w) in taps.iter().enumerate() {
                        let (ky, kx) = (tap / g.kw, tap % g.kw);
                        let y = oy * g.stride[0] + ky * g.dilation[0];
                        let x = block * BLOCK * g.stride[1] + kx * g.dilation[1];
                        let row = &plane[y * columns + x..(y + 1) * columns];
                        let w = i32::from(w as i8);
                        let sums = &mut sums[..n];
                        match g.stride[1] {
                            1 => {
                                for (s, &v) in sums.iter_mut().zip(row) {
                                    *s += w * i32::from(v);
                                }
                            }
                            step => {
                                for (s, &v) in sums.iter_mut().zip(row.iter().step_by(step)) {
                                    *s += w * i32::from(v);
                                }
                            }
                        }
                    }
                    let mut values = [0.0f32; BLOCK];
                    for (v, &s) in values[..n].iter_mut().zip(&sums) {
                        *v = (s as f32).mul_add(m, b);
                    }
                    let at = i * pixels + oy * g.ow + block * BLOCK;
                    finish.run(&mut values[..n], self.residual.part(at, n), out);
                }
            }
        }
    }
}

impl Kernel for Depthwise {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        match self.out {
            DType::F32 => self.go::<f32>(inputs, slice_mut(&mut outputs[0]), scratch),
            _ => self.go::<u8>(inputs, slice_mut(&mut outputs[0]), scratch),
        }
    }

    fn scratch_bytes(&self) -> usize {
        2 * self.parts * self.plane()
    }
}
