//! Transposed convolution: a product of the weights with the input's channels gives each
//! input element's contributions to its window; then every output element sums those that
//! fall on it.

use rayon::prelude::*;
use tobiuo_ops::{Activation, ConvTranspose, Fact};
use tobiuo_tensor::{DType, TensorView, TensorViewMut};

use super::activation::apply;
use super::f32s::{f32s, f32s_mut, lanes, scratch_f32};
use super::patches::Patches;
use super::product::{Job, Product, Right};
use super::tiles::{Finish, Residual, Rows, VECTORS};
use crate::{CpuError, Inputs, Kernel};

struct ConvTransposeKernel {
    groups: usize,
    in_c: usize,
    out_c: usize,
    size: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    activation: Option<Activation>,
    /// Contributions: `out_c * taps` rows, the input's elements as columns.
    product: Product,
    weights: Option<Vec<f32>>,
}

pub(crate) fn prepare(
    conv: &ConvTranspose,
    inputs: &[Fact],
    out: &Fact,
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    if let Some(i) = inputs.iter().find(|i| i.dtype != DType::F32) {
        let dtype = i.dtype;
        return Err(CpuError(format!("ConvTranspose of {dtype} is not supported, only of f32")));
    }
    let (x, w) = (&inputs[0].shape, &inputs[1].shape);
    let axes = x.len() - 2;
    let two = |v: &[usize], one: usize| if axes == 2 { [v[0], v[1]] } else { [one, v[0]] };
    let size = two(&x[2..], 1);
    let kernel = two(&conv.kernel, 1);
    let (in_c, out_c) = (x[1] / conv.groups, w[1]);
    if in_c == 0 {
        return Err(CpuError("ConvTranspose over no channels is not supported".into()));
    }
    let patches = Patches::matrix(in_c, size[0] * size[1], false, lanes() * VECTORS);
    let mut kernel = ConvTransposeKernel {
        groups: conv.groups,
        in_c,
        out_c,
        size,
        out: two(&out.shape[2..], 1),
        product: Product::new(out_c * kernel[0] * kernel[1], patches, 1),
        kernel,
        stride: two(&conv.strides, 1),
        dilation: two(&conv.dilations, 1),
        pad: two(&conv.pads, 0),
        activation: conv.activation,
        weights: None,
    };
    if let Some(w) = constants.get(1).copied().flatten() {
        let mut packed = vec![0.0; kernel.packed_len()];
        kernel.pack_weights(f32s(w), &mut packed);
        kernel.weights = Some(packed);
    }
    Ok(Box::new(kernel))
}

impl ConvTransposeKernel {
    fn packed_len(&self) -> usize {
        self.groups * self.product.left_len()
    }

    fn pack_weights(&self, weights: &[f32], packed: &mut [f32]) {
        let rows = self.out_c * self.kernel[0] * self.kernel[1];
        let groups = packed.chunks_exact_mut(self.product.left_len().max(1));
        for (packed, w) in groups.zip(weights.chunks_exact((rows * self.in_c).max(1))) {
            let (outer, inner) = ([1, 0], [self.in_c, rows]);
            let from = Rows { data: w, row: 1, outer, inner, scale: 1.0 };
            self.product.pack_left(packed, &from);
        }
    }

    /// Floats of scratch memory: weights that are not constant, contributions, the product's.
    fn scratch_parts(&self) -> [usize; 3] {
        let dynamic = if self.weights.is_none() { self.packed_len() } else { 0 };
        let rows = self.out_c * self.kernel[0] * self.kernel[1];
        [dynamic, rows * self.size[0] * self.size[1], self.product.scratch_len()]
    }

    /// One output channel from its taps' contributions.
    fn collect(&self, parts: &[f32], bias: f32, out: &mut [f32]) {
        let [h, w] = self.size;
        out.fill(bias);
        for (t, part) in parts.chunks_exact(h * w).enumerate() {
            let (ky, kx) = (t / self.kernel[1], t % self.kernel[1]);
            // Input (y, x) falls on output (y * stride + k * dilation - pad).
            let (oy, ox) = (ky * self.dilation[0], kx * self.dilation[1]);
            for (y, row) in part.chunks_exact(w).enumerate() {
                let Some(y) = (y * self.stride[0] + oy).checked_sub(self.pad[0]) else { continue };
                if y >= self.out[0] {
                    break;
                }
                let out = &mut out[y * self.out[1]..(y + 1) * self.out[1]];
                let first = self.pad[1].saturating_sub(ox).div_ceil(self.stride[1]);
                if first >= w {
                    continue;
                }
                let at = (first * self.stride[1] + ox - self.pad[1]).min(out.len());
                let targets = out[at..].iter_mut().step_by(self.stride[1]);
                targets.zip(&row[first..]).for_each(|(o, v)| *o += v);
            }
        }
        if let Some(act) = self.activation {
            apply(act, out);
        }
    }
}

impl Kernel for ConvTransposeKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let [dynamic, parts, _] = self.scratch_parts();
        let (packed, rest) = scratch_f32(scratch).split_at_mut(dynamic);
        let (parts, scratch) = rest.split_at_mut(parts);
        let x = f32s(inputs.get(0).expect("ConvTranspose does not run in place"));
        let weights: &[f32] = match &self.weights {
            Some(w) => w,
            None => {
                self.pack_weights(f32s(inputs.get(1).expect("a weight")), packed);
                packed
            }
        };
        let bias = f32s(inputs.get(2).expect("a bias"));
        let out = f32s_mut(&mut outputs[0]);
        let (plane, out_plane) = (self.size[0] * self.size[1], self.out[0] * self.out[1]);
        let (left, taps) = (self.product.left_len(), self.kernel[0] * self.kernel[1]);
        if out.is_empty() || plane == 0 {
            for (o, out) in out.chunks_exact_mut(out_plane.max(1)).enumerate() {
                self.collect(&[], bias[o % bias.len()], out);
            }
            return;
        }
        for (i, out) in out.chunks_exact_mut(self.out_c * out_plane).enumerate() {
            let group = i % self.groups;
            let job = |_| Job {
                right: Right::Image(&x[i * self.in_c * plane..(i + 1) * self.in_c * plane]),
                left: &weights[group * left..(group + 1) * left],
                finish: Finish {
                    bias: None,
                    row_len: plane,
                    residual: Residual::None,
                    activation: None,
                },
            };
            self.product.run(&job, parts, scratch);
            let bias = &bias[group * self.out_c..(group + 1) * self.out_c];
            out.par_chunks_exact_mut(out_plane)
                .zip(parts.par_chunks_exact(taps * plane))
                .zip(bias)
                .for_each(|((out, parts), &bias)| self.collect(parts, bias, out));
        }
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch_parts().iter().sum::<usize>() * 4
    }

    fn reads(&self, operand: usize) -> bool {
        !(operand == 1 && self.weights.is_some())
    }
}
