//! Convolution: products of weights with patches of the input ([`Product`]), with bias,
//! residual and activation.

use tobiuo_ops::{Activation, Conv, Fact};
use tobiuo_tensor::{DType, TensorView, TensorViewMut};

use super::depthwise::DepthwiseKernel;
use super::f32s::{f32s, f32s_mut, lanes, scratch_f32};
use super::patches::{Geometry, Patches};
use super::product::{Job, Product, Right};
use super::tiles::{Finish, Residual, Rows, VECTORS};
use crate::{CpuError, Inputs, Kernel};

struct ConvKernel {
    geometry: Geometry,
    product: Product,
    activation: Option<Activation>,
    residual: bool,
    /// All groups' packed weights, when they are constant.
    weights: Option<Vec<f32>>,
}

pub(crate) fn prepare(
    conv: &Conv,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    if let Some(i) = inputs.iter().find(|i| i.dtype != DType::F32) {
        return Err(CpuError(format!("Conv of {} is not supported, only of f32", i.dtype)));
    }
    let geometry = Geometry::new(conv, &inputs[0].shape, &inputs[1].shape)?;
    if geometry.in_c == 1 && geometry.groups > 1 {
        return Ok(Box::new(DepthwiseKernel::new(geometry, conv.activation, conv.residual)));
    }
    let patches = Patches::new(&geometry, lanes() * VECTORS);
    let product = Product::new(geometry.out_c, patches, geometry.batch * geometry.groups);
    let (activation, residual) = (conv.activation, conv.residual);
    let mut kernel = ConvKernel { geometry, product, activation, residual, weights: None };
    if let Some(w) = constants.get(1).copied().flatten() {
        let mut packed = vec![0.0; kernel.packed_len()];
        kernel.pack_weights(f32s(w), &mut packed);
        kernel.weights = Some(packed);
    }
    Ok(Box::new(kernel))
}

impl ConvKernel {
    fn packed_len(&self) -> usize {
        self.geometry.groups * self.product.left_len()
    }

    fn pack_weights(&self, weights: &[f32], packed: &mut [f32]) {
        let g = &self.geometry;
        let (taps, depth) = (g.kh * g.kw, g.depth());
        let groups = packed.chunks_exact_mut(self.product.left_len());
        for (packed, w) in groups.zip(weights.chunks_exact(g.out_c * depth)) {
            // The model has channel before tap, patches have tap before channel.
            let (outer, inner) = ([taps, 1], [g.in_c, taps]);
            let from = Rows { data: w, row: depth, outer, inner, scale: 1.0 };
            self.product.pack_left(packed, &from);
        }
    }

    /// Floats of scratch memory for weights that are not constant.
    fn dynamic_len(&self) -> usize {
        if self.weights.is_none() { self.packed_len() } else { 0 }
    }
}

impl Kernel for ConvKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let g = &self.geometry;
        let (dynamic, scratch) = scratch_f32(scratch).split_at_mut(self.dynamic_len());
        let x = f32s(inputs.get(0).expect("Conv does not run in place"));
        let weights: &[f32] = match &self.weights {
            Some(w) => w,
            None => {
                self.pack_weights(f32s(inputs.get(1).expect("a weight")), dynamic);
                dynamic
            }
        };
        let bias = f32s(inputs.get(2).expect("a bias"));
        let residual = self.residual.then(|| inputs.get(3).map(f32s));
        let (size_in, size_out) = (g.in_c * g.h * g.w, g.out_c * g.columns());
        let left = self.product.left_len();
        let job = |i: usize| {
            let group = i % g.groups;
            Job {
                right: Right::Image(&x[i * size_in..(i + 1) * size_in]),
                left: &weights[group * left..(group + 1) * left],
                finish: Finish {
                    bias: Some(&bias[group * g.out_c..(group + 1) * g.out_c]),
                    row_len: g.columns(),
                    residual: match residual {
                        None => Residual::None,
                        Some(None) => Residual::InPlace,
                        Some(Some(r)) => Residual::From(&r[i * size_out..(i + 1) * size_out]),
                    },
                    activation: self.activation,
                },
            }
        };
        self.product.run(&job, f32s_mut(&mut outputs[0]), scratch);
    }

    fn scratch_bytes(&self) -> usize {
        (self.dynamic_len() + self.product.scratch_len()) * 4
    }

    fn reads(&self, operand: usize) -> bool {
        !(operand == 1 && self.weights.is_some())
    }
}
