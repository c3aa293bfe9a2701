//! Convolution with one input channel per group (depthwise).
//!
//! Each channel's plane is copied into a padded one whose border is zero for good, so that no
//! tap needs a check. A row of the output is computed at stride 1, where a tap's elements for
//! neighbouring outputs are neighbours too, and thinned out when the stride is larger.

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};
use tobiuo_ops::Activation;
use tobiuo_tensor::TensorViewMut;

use super::activation::apply;
use super::f32s::{GRAIN, f32s, f32s_mut, par_parts, scratch_f32};
use super::patches::{Geometry, spread};
use super::tiles::{COUNT, bounds};
use crate::{Inputs, Kernel};

/// Elements behind a padded plane that vectors may touch: the most that are computed at once,
/// four of 16 lanes, and the rest of a row of taps before them.
const SLACK: usize = 64;

pub(crate) struct DepthwiseKernel {
    g: Geometry,
    activation: Option<Activation>,
    residual: bool,
    /// Rows of a padded plane and elements of one.
    rows: usize,
    row: usize,
    /// Elements of an output row at stride 1.
    len: usize,
    parts: usize,
}

impl DepthwiseKernel {
    /// For a geometry with one input channel per group.
    pub fn new(g: Geometry, activation: Option<Activation>, residual: bool) -> DepthwiseKernel {
        let len = g.ow.saturating_sub(1) * g.stride[1] + 1;
        let below = g.oh.saturating_sub(1) * g.stride[0] + 1;
        let reach = |axis: usize, k: usize| (k - 1) * g.dilation[axis];
        let work = g.batch * g.groups * g.out_c * g.columns() * g.kh * g.kw / 4;
        let parts = if work < GRAIN { 1 } else { 4 * rayon::current_num_threads() };
        DepthwiseKernel {
            rows: (below + reach(0, g.kh)).max(g.pad[0] + g.h),
            row: (len + reach(1, g.kw)).max(g.pad[1] + g.w),
            len,
            parts,
            activation,
            residual,
            g,
        }
    }

    /// Elements of a padded plane.
    fn plane(&self) -> usize {
        self.rows * self.row + SLACK
    }

    /// Elements of a row at stride 1 with what fills up its last vector.
    fn line(&self) -> usize {
        self.len + SLACK
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
    scratch: &'a mut [f32],
}

impl SimdOp for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let k = self.kernel;
        let g = &k.g;
        let taps = g.kh * g.kw;
        let (padded, lines) = self.scratch.split_at_mut(k.plane());
        // The border: what is copied in later covers the same places every time.
        padded.fill(0.0);
        for (i, out) in self.out.chunks_exact_mut(g.columns()).enumerate() {
            let o = self.first + i;
            if i == 0 || o.is_multiple_of(g.out_c) {
                copy_plane(isa, k, &self.x[o / g.out_c * g.h * g.w..], padded);
            }
            let channel = o % (g.groups * g.out_c);
            let filter = Filter {
                k,
                padded,
                weights: &self.weights[channel * taps..][..taps],
                bias: self.bias[channel],
            };
            match (g.kh, g.kw, g.dilation, g.stride[0]) {
                // Two rows at once share what they read.
                (3, 3, [1, 1], 1) => filter.plane::<I, 3, 2>(isa, out, lines),
                (3, 3, [1, 1], _) => filter.plane::<I, 3, 1>(isa, out, lines),
                (5, 5, [1, 1], _) => filter.plane::<I, 5, 1>(isa, out, lines),
                _ => filter.plane::<I, 0, 1>(isa, out, lines),
            }
            if let Some(other) = self.residual {
                // The product has not been written to `out` yet, see `Filter::row_out`.
                let other = other.map(|r| &r[o * g.columns()..][..g.columns()]);
                let (lo, hi) = bounds(k.activation);
                let sums = lines[2 * k.line()..].iter();
                for (j, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                    let sum = sum + other.map_or(*out, |r| r[j]);
                    *out = if sum < lo {
                        lo
                    } else if sum > hi {
                        hi
                    } else {
                        sum
                    };
                }
            }
            match k.activation {
                None | Some(Activation::Relu | Activation::Clip { .. }) => {}
                Some(act) => apply(act, out),
            }
        }
    }
}

/// Copies the plane at the begin of `x` into its place in the padded one.
#[inline(always)]
fn copy_plane<I: Isa>(isa: I, k: &DepthwiseKernel, x: &[f32], padded: &mut [f32]) {
    let (ops, ints) = (isa.f32(), isa.i32());
    let (g, lanes) = (&k.g, ops.len());
    let whole = g.w / lanes * lanes;
    let rest = g.w - whole;
    let inside = ints.lt(ints.load(&COUNT), ints.splat(rest as i32));
    for y in 0..g.h {
        let from = &x[y * g.w..];
        let to = &mut padded[(y + g.pad[0]) * k.row + g.pad[1]..];
        for (to, from) in to[..whole].chunks_exact_mut(lanes).zip(from.chunks_exact(lanes)) {
            ops.store(ops.load(from), to);
        }
        // The row's end, with zeros up to a whole vector: those fall on the border, or on the
        // next row before that is copied.
        let (from, to) = (&from[whole..], &mut to[whole..]);
        if rest > 0 && from.len() >= lanes {
            ops.store(ops.select(ops.load(from), ops.zero(), inside), to);
        } else {
            to[..rest].copy_from_slice(&from[..rest]);
        }
    }
}

/// One output channel under computation.
struct Filter<'a> {
    k: &'a DepthwiseKernel,
    padded: &'a [f32],
    weights: &'a [f32],
    bias: f32,
}

impl Filter<'_> {
    /// All rows, `ROWS` at a time, for windows of `K` x `K` (0: any).
    #[inline(always)]
    fn plane<I: Isa, const K: usize, const ROWS: usize>(
        &self,
        isa: I,
        out: &mut [f32],
        lines: &mut [f32],
    ) {
        let k = self.k;
        let (lines, sums) = lines.split_at_mut(2 * k.line());
        let out = if k.residual { &mut sums[..out.len()] } else { out };
        let mut y = 0;
        while y + ROWS <= k.g.oh {
            self.rows::<I, K, ROWS>(isa, y, out, lines);
            y += ROWS;
        }
        while y < k.g.oh {
            self.rows::<I, K, 1>(isa, y, out, lines);
            y += 1;
        }
    }

    /// `ROWS` rows of the output from row `y` on.
    #[inline(always)]
    fn rows<I: Isa, const K: usize, const ROWS: usize>(
        &self,
        isa: I,
        y: usize,
        out: &mut [f32],
        lines: &mut [f32],
    ) {
        let k = self.k;
        let (ow, lanes) = (k.g.ow, isa.f32().len());
        let reach = k.len.next_multiple_of(lanes);
        // Straight into the output where that is possible. A vector may then reach into the
        // next row, which is computed after this one.
        if k.g.stride[1] == 1 && (y + ROWS - 1) * ow + reach <= out.len() {
            self.lines::<I, K, ROWS>(isa, y, &mut out[y * ow..], ow);
            return;
        }
        self.lines::<I, K, ROWS>(isa, y, lines, k.line());
        for r in 0..ROWS {
            let line = &lines[r * k.line()..][..k.len];
            spread(&mut out[(y + r) * ow..(y + r + 1) * ow], line, k.g.stride[1]);
        }
    }

    /// `ROWS` rows at stride 1, written `step` elements apart.
    #[inline(always)]
    fn lines<I: Isa, const K: usize, const ROWS: usize>(
        &self,
        isa: I,
        y: usize,
        to: &mut [f32],
        step: usize,
    ) {
        let lanes = isa.f32().len();
        let mut left = self.k.len.div_ceil(lanes);
        // From the right: what the last vector writes beyond its row is the next row's begin.
        while left > 0 {
            let n = if left % 4 == 0 { 4 } else { left % 4 };
            left -= n;
            let at = (y, left * lanes);
            match n {
                1 => self.block::<I, K, ROWS, 1>(isa, at, to, step),
                2 => self.block::<I, K, ROWS, 2>(isa, at, to, step),
                3 => self.block::<I, K, ROWS, 3>(isa, at, to, step),
                _ => self.block::<I, K, ROWS, 4>(isa, at, to, step),
            }
        }
    }

    /// `N` vectors of `ROWS` rows.
    #[inline(always)]
    fn block<I: Isa, const K: usize, const ROWS: usize, const N: usize>(
        &self,
        isa: I,
        (y, x): (usize, usize),
        to: &mut [f32],
        step: usize,
    ) {
        let ops = isa.f32();
        let (k, g, lanes) = (self.k, &self.k.g, ops.len());
        let mut sums = [[ops.splat(self.bias); N]; ROWS];
        let first = y * g.stride[0] * k.row + x;
        if K == 0 {
            for ky in 0..g.kh {
                for kx in 0..g.kw {
                    let w = ops.splat(self.weights[ky * g.kw + kx]);
                    let at = first + ky * g.dilation[0] * k.row + kx * g.dilation[1];
                    let from = &self.padded[at..at + N * lanes];
                    for v in 0..N {
                        sums[0][v] = ops.mul_add(w, ops.load(&from[v * lanes..]), sums[0][v]);
                    }
                }
            }
        } else {
            // ROWS > 1 only at vertical stride 1: input row i is output row r's tap i - r.
            for i in 0..K + ROWS - 1 {
                let at = first + i * k.row;
                let from = &self.padded[at..at + N * lanes + K - 1];
                for kx in 0..K {
                    let mut values = [ops.zero(); N];
                    for (v, value) in values.iter_mut().enumerate() {
                        *value = ops.load(&from[kx + v * lanes..kx + (v + 1) * lanes]);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        if i < r || i - r >= K {
                            continue;
                        }
                        let w = ops.splat(self.weights[(i - r) * K + kx]);
                        for v in 0..N {
                            sums[v] = ops.mul_add(w, values[v], sums[v]);
                        }
                    }
                }
            }
        }
        let (lo, hi) = bounds(k.activation.filter(|_| !k.residual));
        for (r, sums) in sums.into_iter().enumerate() {
            let to = &mut to[r * step + x..r * step + x + N * lanes];
            for (v, sum) in sums.into_iter().enumerate() {
                // The sum second: it stays when it is NaN.
                let x = ops.min(ops.splat(hi), ops.max(ops.splat(lo), sum));
                ops.store(x, &mut to[v * lanes..]);
            }
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
        let scratch = &mut scratch_f32(scratch)[..self.scratch_bytes() / 4];
        par_parts(out, self.g.columns(), self.parts, scratch, &|first, out, scratch| {
            Part { kernel: self, first, x, weights, bias, residual, out, scratch }.dispatch();
        });
    }

    fn scratch_bytes(&self) -> usize {
        // A padded plane, two rows at stride 1, and the product before its residual.
        let sums = if self.residual { self.g.columns() } else { 0 };
        self.parts * (self.plane() + 2 * self.line() + sums) * 4
    }
}
