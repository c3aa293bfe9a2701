//! Convolution of integers.
//!
//! The input is brought into a padded NHWC copy in i16. A tile of pixels' patches is gathered, a
//! row for each pixel, and every filter is multiplied with every row; a filter's sums for the
//! tile are finished together. Parts of the output channels run side by side.

use rten_simd::{Isa, SimdOp};
use tobiuo_ops::{Conv, Fact, QuantConv};
use tobiuo_tensor::{DType, TensorView, TensorViewMut};

use super::depthwise::Depthwise;
use super::epilogue::{Cell, Finish, Source};
use super::{Bytes, dot, dot4, shorts};
use crate::ops::f32s::{GRAIN, f32s, par_parts};
use crate::ops::patches::Geometry;
use crate::ops::walk::{slice, slice_mut};
use crate::{CpuError, Inputs, Kernel};

/// Most pixels of a tile.
const TILE: usize = 64;
/// i16 elements of a tile's patches, about: they stay in the first cache.
const PATCHES: usize = 12 << 10;

struct ConvKernel {
    g: Geometry,
    bytes: Bytes,
    finish: Finish,
    out: DType,
    /// Filters as `[O, kh, kw, C / groups]`, when they are constant.
    weights: Option<Vec<i16>>,
    /// Rows and columns of the padded copy.
    rows: usize,
    columns: usize,
    tile: usize,
    parts: usize,
}

/// The geometry of a convolution of integers.
pub(super) fn geometry(a: &QuantConv, inputs: &[Fact]) -> Result<Geometry, CpuError> {
    let conv = Conv {
        kernel: a.kernel.clone(),
        strides: a.strides.clone(),
        pads: a.pads.clone(),
        dilations: a.dilations.clone(),
        groups: a.groups,
        activation: None,
        residual: false,
    };
    Geometry::new(&conv, &inputs[0].shape, &inputs[1].shape)
}

pub(in crate::ops) fn prepare(
    a: &QuantConv,
    inputs: &[Fact],
    out: &Fact,
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    let g = geometry(a, inputs)?;
    let bytes = Bytes::new(&inputs[0], a.x_zero_point);
    let finish = Finish::new(&a.epilogue, inputs);
    if g.in_c == 1 && g.groups > 1 {
        return Ok(Box::new(Depthwise::new(g, bytes, finish, out.dtype)));
    }
    let reach = |i: usize, n: usize, k: usize| {
        n.saturating_sub(1) * g.stride[i] + (k - 1) * g.dilation[i] + 1
    };
    let work = g.batch * g.groups * g.out_c * g.columns() * g.depth() / 16;
    let mut kernel = ConvKernel {
        rows: reach(0, g.oh, g.kh).max(g.pad[0] + g.h),
        columns: reach(1, g.ow, g.kw).max(g.pad[1] + g.w),
        tile: (PATCHES / g.depth()).clamp(4, TILE),
        parts: if work < GRAIN { 1 } else { rayon::current_num_threads() },
        bytes,
        finish,
        out: out.dtype,
        weights: None,
        g,
    };
    if let Some(w) = constants.get(1).copied().flatten() {
        let mut packed = vec![0; kernel.weights_len()];
        kernel.pack(slice(w), &mut packed);
        kernel.weights = Some(packed);
    }
    Ok(Box::new(kernel))
}

impl ConvKernel {
    fn weights_len(&self) -> usize {
        self.g.groups * self.g.out_c * self.g.depth()
    }

    /// Channels last, as patches have them.
    fn pack(&self, from: &[u8], to: &mut [i16]) {
        let (depth, taps) = (self.g.depth(), self.g.kh * self.g.kw);
        for (from, to) in from.chunks_exact(depth).zip(to.chunks_exact_mut(depth)) {
            for (c, channel) in from.chunks_exact(taps).enumerate() {
                for (tap, &b) in channel.iter().enumerate() {
                    to[tap * self.g.in_c + c] = i16::from(b as i8);
                }
            }
        }
    }

    fn copy_len(&self) -> usize {
        self.rows * self.columns * self.g.in_c * self.g.groups
    }

    /// The padded copy of one picture.
    fn copy(&self, x: &[u8], to: &mut [i16]) {
        let g = &self.g;
        let channels = g.in_c * g.groups;
        let row = self.columns * channels;
        to.fill(0);
        let rows = &mut to[g.pad[0] * row..(g.pad[0] + g.h) * row];
        let (zero, signed) = (self.bytes.zero_point as i16, self.bytes.signed);
        for (y, to) in rows.chunks_exact_mut(row).enumerate() {
            let to = &mut to[g.pad[1] * channels..(g.pad[1] + g.w) * channels];
            for c in 0..channels {
                let from = &x[(c * g.h + y) * g.w..][..g.w];
                let to = to[c..].iter_mut().step_by(channels);
                if signed {
                    to.zip(from).for_each(|(t, &b)| *t = i16::from(b as i8) - zero);
                } else {
                    to.zip(from).for_each(|(t, &b)| *t = i16::from(b) - zero);
                }
            }
        }
    }

    /// Elements of one part's patches.
    fn patches_len(&self) -> usize {
        self.tile * self.g.depth()
    }

    fn dynamic_len(&self) -> usize {
        if self.weights.is_none() { self.weights_len() } else { 0 }
    }

    fn go<T: Cell>(&self, inputs: Inputs<'_>, out: &mut [T], scratch: &mut [u8]) {
        let g = &self.g;
        let x: &[u8] = slice(inputs.get(0).expect("not in place"));
        let (dynamic, rest) = shorts(scratch).split_at_mut(self.dynamic_len());
        let (copy, rest) = rest.split_at_mut(self.copy_len());
        let patches = &mut rest[..self.parts * self.patches_len()];
        let weights: &[i16] = match &self.weights {
            Some(w) => w,
            None => {
                self.pack(slice(inputs.get(1).expect("not in place")), dynamic);
                dynamic
            }
        };
        let multiplier = f32s(inputs.get(2).expect("not in place"));
        let bias = f32s(inputs.get(3).expect("not in place"));
        let residual = Source::new(&self.finish.residual, inputs.get(4));
        let (pixels, filters) = (g.columns(), g.groups * g.out_c);
        if out.is_empty() {
            return;
        }
        let size = g.in_c * g.groups * g.h * g.w;
        for (n, out) in out.chunks_exact_mut(filters * pixels).enumerate() {
            self.copy(&x[n * size..(n + 1) * size], copy);
            let copy = &*copy;
            par_parts(out, pixels, self.parts, patches, &|first, out, patches| {
                let at = (n * filters + first) * pixels;
                let residual = residual.part(at, out.len());
                let kernel = self;
                Part { kernel, first, copy, weights, multiplier, bias, residual, out, patches }
                    .dispatch();
            });
        }
    }
}

/// Some output channels of one picture.
struct Part<'a, T> {
    kernel: &'a ConvKernel,
    first: usize,
    copy: &'a [i16],
    weights: &'a [i16],
    multiplier: &'a [f32],
    bias: &'a [f32],
    residual: Source<'a>,
    out: &'a mut [T],
    patches: &'a mut [i16],
}

impl<T: Cell> SimdOp for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Part { kernel, first, copy, weights, multiplier, bias, residual, out, patches } = self;
        let g = &kernel.g;
        let (pixels, depth) = (g.columns(), g.depth());
        let filters = out.len() / pixels;
        // A part may begin and end inside a group.
        let mut done = 0;
        while done < filters {
            let group = (first + done) / g.out_c;
            let here = filters.min((group + 1) * g.out_c - first) - done;
            for from in (0..pixels).step_by(kernel.tile) {
                let n = kernel.tile.min(pixels - from);
                let patches = &mut patches[..n * depth];
                for (row, pixel) in patches.chunks_exact_mut(depth).zip(from..) {
                    kernel.patch(copy, group, pixel, row);
                }
                let mut k = 0;
                while k < here {
                    let many = (here - k).min(4);
                    let filter = |i: usize| {
                        let o = first + done + k + i.min(many - 1);
                        &weights[o * depth..(o + 1) * depth]
                    };
                    let mut sums = [[0i32; TILE]; 4];
                    if many == 1 {
                        for (p, row) in patches.chunks_exact(depth).enumerate() {
                            sums[0][p] = dot(filter(0), row);
                        }
                    } else {
                        let rows = [filter(0), filter(1), filter(2), filter(3)];
                        for (p, row) in patches.chunks_exact(depth).enumerate() {
                            let four = dot4(rows, row);
                            for (sums, sum) in sums.iter_mut().zip(four) {
                                sums[p] = sum;
                            }
                        }
                    }
                    for (i, sums) in sums[..many].iter().enumerate() {
                        let o = first + done + k + i;
                        let (m, b) = (multiplier[o], bias[o]);
                        let mut values = [0.0f32; TILE];
                        for (v, &s) in values[..n].iter_mut().zip(sums) {
                            *v = (s as f32).mul_add(m, b);
                        }
                        let at = (done + k + i) * pixels + from;
                        let out = &mut out[at..at + n];
                        kernel.finish.run(&mut values[..n], residual.part(at, n), out);
                    }
                    k += many;
                }
            }
            done += here;
        }
    }
}

impl ConvKernel {
    /// The patch under the window of one output pixel, `[kh, kw, C / groups]`.
    #[inline(always)]
    fn patch(&self, copy: &[i16], group: usize, pixel: usize, to: &mut [i16]) {
        let g = &self.g;
        let channels = g.in_c * g.groups;
        let (y, x) = (pixel / g.ow * g.stride[0], pixel % g.ow * g.stride[1]);
        let mut taps = to.chunks_exact_mut(g.kw * g.in_c);
        for ky in 0..g.kh {
            let Some(to) = taps.next() else { return };
            let row = ((y + ky * g.dilation[0]) * self.columns + x) * channels + group * g.in_c;
            if g.groups == 1 && g.dilation[1] == 1 {
                to.copy_from_slice(&copy[row..row + to.len()]);
            } else {
                for (kx, to) in to.chunks_exact_mut(g.in_c).enumerate() {
                    let at = row + kx * g.dilation[1] * channels;
                    to.copy_from_slice(&copy[at..at + g.in_c]);
                }
            }
        }
    }
}

impl Kernel for ConvKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        match self.out {
            DType::F32 => self.go::<f32>(inputs, slice_mut(&mut outputs[0]), scratch),
            _ => self.go::<u8>(inputs, slice_mut(&mut outputs[0]), scratch),
        }
    }

    fn scratch_bytes(&self) -> usize {
        2 * (self.dynamic_len() + self.copy_len() + self.parts * self.patches_len())
    }

    fn reads(&self, operand: usize) -> bool {
        !(operand == 1 && self.weights.is_some())
    }
}
