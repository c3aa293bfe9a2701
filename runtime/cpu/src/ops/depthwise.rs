//! Convolution with one input channel per group (depthwise).
//!
//! A row of the output is computed at stride 1, where a tap's elements for neighbouring
//! outputs are neighbours too, and thinned out when the stride is larger. Columns outside the
//! input are masked, rows outside are skipped; nothing is copied.

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};
use tobiuo_ops::Activation;
use tobiuo_tensor::TensorViewMut;

use super::activation::apply;
use super::f32s::{GRAIN, f32s, f32s_mut, par_parts, scratch_f32};
use super::patches::{Geometry, spread};
use super::tiles::bounds;
use crate::{Inputs, Kernel};

/// Most vectors computed at once.
const BLOCK: usize = 4;
/// Most lanes of a vector.
const MAX_LANES: usize = 16;

pub(crate) struct DepthwiseKernel {
    g: Geometry,
    activation: Option<Activation>,
    residual: bool,
    /// Elements of an output row at stride 1, filled up to whole blocks.
    row: usize,
    /// Columns of that row under which some tap lies outside the input are below `inner.0` or
    /// from `inner.1` on.
    inner: (usize, usize),
    /// Per horizontal tap and column of the row: all bits set where the tap lies inside.
    masks: Vec<f32>,
    parts: usize,
}

impl DepthwiseKernel {
    /// For a geometry with one input channel per group.
    pub fn new(g: Geometry, activation: Option<Activation>, residual: bool) -> DepthwiseKernel {
        let len = g.ow.saturating_sub(1) * g.stride[1] + 1;
        let row = len.next_multiple_of(BLOCK * MAX_LANES);
        let inside =
            |kx: usize, x: usize| (g.pad[1]..g.pad[1] + g.w).contains(&(x + kx * g.dilation[1]));
        let mask = |i: usize| f32::from_bits(if inside(i / row, i % row) { !0 } else { 0 });
        let reach = (g.kw - 1) * g.dilation[1];
        let work = g.batch * g.groups * g.out_c * g.columns() * g.kh * g.kw / 4;
        let parts = if work < GRAIN { 1 } else { 4 * rayon::current_num_threads() };
        DepthwiseKernel {
            masks: (0..g.kw * row).map(mask).collect(),
            inner: (g.pad[1], (g.pad[1] + g.w).saturating_sub(reach)),
            row,
            parts,
            activation,
            residual,
            g,
        }
    }
}

/// Some output channels of all items, one behind the other.
struct Part<'a> {
    kernel: &'a DepthwiseKernel,
    first: usize,
    x: &'a [f32],
    weights: &'a [f32],
    bias: &'a [f32],
    /// Outer: there is one; inner: it is not the output itself.
    residual: Option<Option<&'a [f32]>>,
    out: &'a mut [f32],
    /// A row at stride 1.
    row: &'a mut [f32],
}

impl SimdOp for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let k = self.kernel;
        let g = &k.g;
        let (plane, taps) = (g.h * g.w, g.kh * g.kw);
        let (lo, hi) = bounds(k.activation);
        for (i, out) in self.out.chunks_exact_mut(g.columns()).enumerate() {
            let o = self.first + i;
            let channel = o % (g.groups * g.out_c);
            let weights = &self.weights[channel * taps..][..taps];
            let bias = self.bias[channel];
            let plane = o / g.out_c * plane;
            for oy in 0..g.oh {
                let at = oy * g.ow;
                let len = (g.ow - 1) * g.stride[1] + 1;
                let reach = len.next_multiple_of(ops.len());
                let taps = Taps { k, x: self.x, plane, weights, bias };
                let y = oy * g.stride[0];
                // Straight into the output where that is possible. A vector may then reach
                // into the next row, which is computed after this one.
                if g.stride[1] == 1 && self.residual.is_none() && at + reach <= out.len() {
                    taps.row(isa, y, len, lo, hi, &mut out[at..at + reach]);
                    continue;
                }
                taps.row(isa, y, len, lo, hi, self.row);
                let row = &*self.row;
                let out = &mut out[at..at + g.ow];
                match self.residual {
                    None => spread(out, &row[..len], g.stride[1]),
                    Some(other) => {
                        let other = other.map(|r| &r[o * g.columns() + at..]);
                        let sums = row.iter().step_by(g.stride[1]);
                        for (x, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                            let sum = sum + other.map_or(*out, |r| r[x]);
                            *out = if sum < lo {
                                lo
                            } else if sum > hi {
                                hi
                            } else {
                                sum
                            };
                        }
                    }
                }
            }
            match k.activation {
                None | Some(Activation::Relu | Activation::Clip { .. }) => {}
                Some(act) => apply(act, out),
            }
        }
    }
}

struct Taps<'a> {
    k: &'a DepthwiseKernel,
    x: &'a [f32],
    /// Where the channel's plane begins in `x`.
    plane: usize,
    weights: &'a [f32],
    bias: f32,
}

impl Taps<'_> {
    /// The first `len` elements of the row at stride 1 whose windows begin at row `y`, and
    /// what fills up the last vector.
    #[inline(always)]
    fn row<I: Isa>(&self, isa: I, y: usize, len: usize, lo: f32, hi: f32, row: &mut [f32]) {
        let lanes = isa.f32().len();
        let mut x = 0;
        while x < len {
            let left = (len - x).div_ceil(lanes);
            x += lanes
                * match left {
                    1 => self.block::<I, 1>(isa, y, x, lo, hi, row),
                    2 => self.block::<I, 2>(isa, y, x, lo, hi, row),
                    3 => self.block::<I, 3>(isa, y, x, lo, hi, row),
                    _ => self.block::<I, 4>(isa, y, x, lo, hi, row),
                };
        }
    }

    /// `N` vectors of the row at stride 1 whose windows begin at row `y`; returns `N`.
    #[inline(always)]
    fn block<I: Isa, const N: usize>(
        &self,
        isa: I,
        y: usize,
        at: usize,
        lo: f32,
        hi: f32,
        row: &mut [f32],
    ) -> usize {
        let k = self.k;
        let width = N * isa.f32().len();
        let inner = at >= k.inner.0 && at + width <= k.inner.1;
        let done = match (k.g.kh, k.g.kw, inner) {
            (3, 3, true) => self.fixed::<I, N, false, 3>(isa, y, at, lo, hi, row),
            (3, 3, false) => self.fixed::<I, N, true, 3>(isa, y, at, lo, hi, row),
            (5, 5, true) => self.fixed::<I, N, false, 5>(isa, y, at, lo, hi, row),
            (5, 5, false) => self.fixed::<I, N, true, 5>(isa, y, at, lo, hi, row),
            _ => false,
        };
        if !done {
            self.any::<I, N>(isa, y, at, lo, hi, row);
        }
        N
    }

    /// [`Taps::block`] for a square window of a known size; false when a vector would begin
    /// before the input's first element or end behind its last.
    #[inline(always)]
    fn fixed<I: Isa, const N: usize, const MASKED: bool, const K: usize>(
        &self,
        isa: I,
        y: usize,
        at: usize,
        lo: f32,
        hi: f32,
        row: &mut [f32],
    ) -> bool {
        let ops = isa.f32();
        let (k, g, lanes) = (self.k, &self.k.g, ops.len());
        let step = g.dilation[1];
        let reach = N * lanes + (K - 1) * step;
        let mut sums = [ops.splat(self.bias); N];
        for (ky, weights) in self.weights.as_chunks::<K>().0.iter().enumerate() {
            let y = (y + ky * g.dilation[0]).wrapping_sub(g.pad[0]);
            if y >= g.h {
                continue;
            }
            let begin = (self.plane + y * g.w + at).wrapping_sub(g.pad[1]);
            let end = begin.wrapping_add(reach);
            let Some(from) = self.x.get(begin..end) else { return false };
            for kx in 0..K {
                let w = ops.splat(weights[kx]);
                for v in 0..N {
                    let mut x = ops.load(&from[kx * step + v * lanes..]);
                    if MASKED {
                        x = ops.and(x, ops.load(&k.masks[kx * k.row + at + v * lanes..]));
                    }
                    sums[v] = ops.mul_add(w, x, sums[v]);
                }
            }
        }
        self.finish::<I, N>(isa, sums, at, lo, hi, row);
        true
    }

    /// [`Taps::block`] for any window, anywhere.
    #[inline(always)]
    fn any<I: Isa, const N: usize>(
        &self,
        isa: I,
        y: usize,
        at: usize,
        lo: f32,
        hi: f32,
        row: &mut [f32],
    ) {
        let ops = isa.f32();
        let (k, g, width) = (self.k, &self.k.g, N * ops.len());
        let mut sums = [ops.splat(self.bias); N];
        let mut edge = [0.0; BLOCK * MAX_LANES];
        for ky in 0..g.kh {
            let y = (y + ky * g.dilation[0]).wrapping_sub(g.pad[0]);
            if y >= g.h {
                continue;
            }
            for kx in 0..g.kw {
                let w = ops.splat(self.weights[ky * g.kw + kx]);
                let begin = self.plane + y * g.w + at + kx * g.dilation[1];
                let begin = begin.wrapping_sub(g.pad[1]);
                let from = match begin.checked_add(width).and_then(|end| self.x.get(begin..end)) {
                    Some(from) => from,
                    // Partly before the input's first element or behind its last.
                    None => {
                        for (l, e) in edge[..width].iter_mut().enumerate() {
                            *e = self.x.get(begin.wrapping_add(l)).copied().unwrap_or(0.0);
                        }
                        &edge[..width]
                    }
                };
                for v in 0..N {
                    let x = ops.load(&from[v * ops.len()..]);
                    let x = ops.and(x, ops.load(&k.masks[kx * k.row + at + v * ops.len()..]));
                    sums[v] = ops.mul_add(w, x, sums[v]);
                }
            }
        }
        self.finish::<I, N>(isa, sums, at, lo, hi, row);
    }

    /// Writes the row's part, clamped unless a residual is to be added.
    #[inline(always)]
    fn finish<I: Isa, const N: usize>(
        &self,
        isa: I,
        sums: [I::F32; N],
        at: usize,
        lo: f32,
        hi: f32,
        row: &mut [f32],
    ) {
        let ops = isa.f32();
        for (v, sum) in sums.into_iter().enumerate() {
            let clamped = ops.min(ops.splat(hi), ops.max(ops.splat(lo), sum));
            let x = if self.k.residual { sum } else { clamped };
            ops.store(x, &mut row[at + v * ops.len()..]);
        }
    }
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
        let scratch = &mut scratch_f32(scratch)[..self.parts * self.row];
        par_parts(out, self.g.columns(), self.parts, scratch, &|first, out, row| {
            Part { kernel: self, first, x, weights, bias, residual, out, row }.dispatch();
        });
    }

    fn scratch_bytes(&self) -> usize {
        self.parts * self.row * 4
    }
}
