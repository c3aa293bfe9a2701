//! The kernels, one family a file.

mod activation;
mod affine;
mod arg;
mod binary;
mod cast;
mod conv;
mod conv_transpose;
mod copy;
mod depthwise;
mod f32s;
mod gemv;
mod mapped;
mod matmul;
mod normalize;
mod patches;
mod pool;
mod product;
mod quant;
mod reduce;
mod resize;
mod scalar;
mod softmax;
mod strided;
pub mod tables;
mod tiles;
mod unary;
mod walk;

use tobiuo_ops::{Fact, Op, infer};
use tobiuo_tensor::TensorView;

use crate::{CpuError, Kernel};

/// The kernel of an op; inputs are what [`tobiuo_ops::infer`] accepts.
pub(crate) fn prepare(
    op: &Op,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    let outputs = infer(op, inputs).map_err(CpuError)?;
    match (op, outputs.as_slice()) {
        (Op::Conv(c), _) => conv::prepare(c, inputs, constants),
        (Op::ConvTranspose(c), [out]) => conv_transpose::prepare(c, inputs, out, constants),
        (Op::Gemm(g), _) => matmul::prepare_gemm(g, inputs, constants),
        (Op::MatMul, [out]) => matmul::prepare(inputs, out, constants),
        (Op::Pool(p), [out]) if inputs[0].dtype.size() == 1 => quant::max(p, &inputs[0], out),
        (Op::QuantConv(a), [out]) => quant::conv(a, inputs, out, constants),
        (Op::QuantGemm(a), [out]) => quant::gemm(a, inputs, out, constants),
        (Op::QuantBinary(a), [out]) => quant::binary(a, inputs, out),
        (Op::QuantPool(a), [out]) => quant::average(a, &inputs[0], out),
        (Op::Pool(p), [out]) => pool::prepare(p, inputs, out),
        (Op::Activation(a), _) => activation::prepare(*a, inputs),
        (Op::BatchNorm { epsilon }, _) => affine::batch_norm(*epsilon, inputs),
        (Op::PRelu, _) => affine::prelu(inputs),
        _ => prepare_general(op, inputs, constants),
    }
}

/// The ops that are no neural network's arithmetic of their own: element-wise functions,
/// movement, reductions, normalisations.
fn prepare_general(
    op: &Op,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    let outputs = infer(op, inputs).map_err(CpuError)?;
    let (Some(x), Some(out)) = (inputs.first(), outputs.first()) else {
        return Err(CpuError(format!("{} has no operand", op.name())));
    };
    match op {
        Op::Unary(u) => unary::prepare(*u, x),
        Op::Binary { kind, activation } => binary::prepare(*kind, *activation, inputs, out),
        Op::Where => Ok(binary::select(inputs, out)),
        Op::Softmax { axis, log } => softmax::prepare(*axis, *log, x),
        Op::Concat { axis } => Ok(copy::concat(*axis, inputs, out)),
        Op::Gather { axis } => copy::gather(*axis, inputs, constants),
        Op::Reshape { .. } => Ok(copy::reshape()),
        Op::Slice(_) | Op::Transpose { .. } | Op::Expand { .. } | Op::Tile { .. } => {
            strided::prepare(op, x, out)
        }
        Op::Pad(a) => mapped::pad(a, x, out),
        Op::Resize(a) => resize::prepare(a, x, out),
        Op::Reduce { kind, axes, .. } => reduce::prepare(*kind, axes, x, out),
        Op::ArgReduce { .. } => arg::arg_reduce(op, x),
        Op::TopK { .. } => arg::top_k(op, x),
        Op::Cast { to } => Ok(cast::prepare(x, *to)),
        Op::LayerNorm { axis, epsilon } => normalize::layer(*axis, *epsilon, x),
        Op::InstanceNorm { epsilon } => normalize::instance(*epsilon, x),
        Op::Lrn { .. } => normalize::lrn(op, x),
        Op::Quantize { axis, to } => Ok(quant::quantize(*axis, *to, x)),
        Op::Dequantize { axis } => Ok(quant::dequantize(*axis, x)),
        Op::Lookup => Ok(quant::lookup(x, out)),
        _ => Err(CpuError(format!("{} has no CPU kernel", op.name()))),
    }
}

/// The CPU device computes in f32; f16 is a type of weights here, cast when they are loaded.
fn no_f16(name: &str) -> CpuError {
    CpuError(format!("{name} has no CPU kernel for this element type: cast to f32 before it"))
}
