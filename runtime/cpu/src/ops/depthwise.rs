//! Convolution with one input channel per group (depthwise).
//!
//! Each channel's plane is copied with its padding, its columns sorted by their place within
//! a stride, so that a tap's elements for neighbouring outputs are neighbours too.

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};
use tobiuo_ops::Activation;
use tobiuo_tensor::TensorViewMut;

use super::activation::apply;
use super::f32s::{GRAIN, f32s, f32s_mut, par_parts, scratch_f32};
use super::patches::{Geometry, spread};
use super::tiles::bounds;
use crate::{Inputs, Kernel};

/// Floats behind a padded plane that a vector load may touch.
const SLACK: usize = 64;

pub(crate) struct DepthwiseKernel {
    g: Geometry,
    activation: Option<Activation>,
    residual: bool,
    /// Rows of a padded plane, floats of one row, floats of one phase of a row.
    rows: usize,
    row: usize,
    phase: usize,
    /// Where a tap's elements begin.
    taps: Vec<usize>,
    parts: usize,
}

impl DepthwiseKernel {
    /// For a geometry with one input channel per group.
    pub fn new(g: Geometry, activation: Option<Activation>, residual: bool) -> DepthwiseKernel {
        let span = |a: usize, out: usize, k: usize| {
            out.saturating_sub(1) * g.stride[a] + (k - 1) * g.dilation[a] + 1
        };
        let phase = span(1, g.ow, g.kw).div_ceil(g.stride[1]);
        let row = phase * g.stride[1];
        let taps = (0..g.kh * g.kw)
            .map(|t| {
                let (y, x) = (t / g.kw * g.dilation[0], t % g.kw * g.dilation[1]);
                y * row + x % g.stride[1] * phase + x / g.stride[1]
            })
            .collect();
        let work = g.batch * g.groups * g.out_c * g.columns() * g.kh * g.kw / 4;
        let parts = if work < 2 * GRAIN { 1 } else { 4 * rayon::current_num_threads() };
        DepthwiseKernel {
            rows: span(0, g.oh, g.kh),
            row,
            phase,
            taps,
            parts,
            activation,
            residual,
            g,
        }
    }

    fn plane(&self) -> usize {
        self.rows * self.row + SLACK
    }

    /// Copies a plane of the input with its padding.
    #[inline(always)]
    fn pad(&self, x: &[f32], padded: &mut [f32]) {
        let g = &self.g;
        for (r, row) in padded.chunks_exact_mut(self.row).take(self.rows).enumerate() {
            let y = r.wrapping_sub(g.pad[0]);
            if y >= g.h {
                row.fill(0.0);
                continue;
            }
            let from = &x[y * g.w..(y + 1) * g.w];
            for (p, row) in row.chunks_exact_mut(self.phase).enumerate() {
                // Element j is the input's at j * stride + p - pad.
                let (pad, step) = (g.pad[1], g.stride[1]);
                let lo = pad.saturating_sub(p).div_ceil(step).min(row.len());
                let hi = (pad + g.w).saturating_sub(p).div_ceil(step).clamp(lo, row.len());
                row[..lo].fill(0.0);
                if lo < hi {
                    spread(&mut row[lo..hi], &from[lo * step + p - pad..], step);
                }
                row[hi..].fill(0.0);
            }
        }
    }
}

/// Some (item, group) pairs.
struct Part<'a> {
    kernel: &'a DepthwiseKernel,
    first: usize,
    x: &'a [f32],
    weights: &'a [f32],
    bias: &'a [f32],
    /// Outer: there is one; inner: it is not the output itself.
    residual: Option<Option<&'a [f32]>>,
    out: &'a mut [f32],
    padded: &'a mut [f32],
}

impl SimdOp for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let k = self.kernel;
        let g = &k.g;
        let (plane, taps) = (g.h * g.w, g.kh * g.kw);
        k.pad_slack(self.padded);
        for (i, out) in self.out.chunks_exact_mut(g.columns()).enumerate() {
            // Output channel among all items' channels.
            let o = self.first + i;
            let channel = o % (g.groups * g.out_c);
            if channel % g.out_c == 0 || i == 0 {
                k.pad(&self.x[o / g.out_c * plane..][..plane], self.padded);
            }
            let weights = &self.weights[channel * taps..][..taps];
            let residual = match self.residual {
                None => None,
                Some(None) => Some(None),
                Some(Some(r)) => Some(Some(&r[o * g.columns()..][..g.columns()])),
            };
            channel_out(isa, k, self.padded, weights, self.bias[channel], residual, out);
            match k.activation {
                None | Some(Activation::Relu | Activation::Clip { .. }) => {}
                Some(act) => apply(act, out),
            }
        }
    }
}

impl DepthwiseKernel {
    /// What vector loads may touch behind the plane must be numbers, of whatever value.
    fn pad_slack(&self, padded: &mut [f32]) {
        padded[self.rows * self.row..].fill(0.0);
    }
}

#[inline(always)]
fn channel_out<I: Isa>(
    isa: I,
    k: &DepthwiseKernel,
    padded: &[f32],
    weights: &[f32],
    bias: f32,
    residual: Option<Option<&[f32]>>,
    out: &mut [f32],
) {
    let lanes = isa.f32().len();
    let g = &k.g;
    for oy in 0..g.oh {
        let from = &padded[oy * g.stride[0] * k.row..];
        let mut ox = 0;
        while ox < g.ow {
            let left = (g.ow - ox).div_ceil(lanes);
            let at = (oy, ox);
            ox += lanes
                * match left {
                    1 => block::<I, 1>(isa, k, from, weights, bias, residual, out, at),
                    2 => block::<I, 2>(isa, k, from, weights, bias, residual, out, at),
                    _ => block::<I, 4>(isa, k, from, weights, bias, residual, out, at),
                };
        }
    }
}

/// `N` vectors of one output row; returns `N`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn block<I: Isa, const N: usize>(
    isa: I,
    k: &DepthwiseKernel,
    from: &[f32],
    weights: &[f32],
    bias: f32,
    residual: Option<Option<&[f32]>>,
    out: &mut [f32],
    (oy, ox): (usize, usize),
) -> usize {
    let ops = isa.f32();
    let lanes = ops.len();
    let mut sums = [ops.splat(bias); N];
    for (&tap, &w) in k.taps.iter().zip(weights) {
        let x: [I::F32; N] = ops.load_many(&from[tap + ox..]);
        let w = ops.splat(w);
        for v in 0..N {
            sums[v] = ops.mul_add(w, x[v], sums[v]);
        }
    }
    let (lo, hi) = bounds(k.activation);
    let begin = oy * k.g.ow + ox;
    let n = (k.g.ow - ox).min(N * lanes);
    let whole = begin + N * lanes <= out.len();
    match residual {
        // A vector may reach into the next row, which is computed after this one.
        None if whole => {
            for v in 0..N {
                let x = ops.min(ops.splat(hi), ops.max(ops.splat(lo), sums[v]));
                ops.store(x, &mut out[begin + v * lanes..]);
            }
        }
        _ => {
            for v in 0..N {
                let values = sums[v].to_array();
                for l in 0..lanes.min(n.saturating_sub(v * lanes)) {
                    let i = begin + v * lanes + l;
                    let add = match residual {
                        None => 0.0,
                        Some(None) => out[i],
                        Some(Some(r)) => r[i],
                    };
                    let x = values[l] + add;
                    out[i] = if x < lo {
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
    N
}

impl Kernel for DepthwiseKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let x = f32s(inputs.get(0).expect("Conv does not run in place"));
        let weights = f32s(inputs.get(1).expect("a weight"));
        let bias = f32s(inputs.get(2).expect("a bias"));
        let residual = self.residual.then(|| inputs.get(3).map(f32s));
        let out = f32s_mut(&mut outputs[0]);
        if out.is_empty() {
            return;
        }
        let scratch = &mut scratch_f32(scratch)[..self.parts * self.plane()];
        par_parts(out, self.g.columns(), self.parts, scratch, &|first, out, padded| {
            Part { kernel: self, first, x, weights, bias, residual, out, padded }.dispatch();
        });
    }

    fn scratch_bytes(&self) -> usize {
        self.parts * self.plane() * 4
    }
}
