//! ONNX operators, one function each, by group.
//!
//! A function reads the node's attributes and operands as the model's opset defines them and
//! emits [`tobiuo_ops::Op`]s. What it does not read is reported, so nothing is dropped.

mod activation;
mod arithmetic;
mod constant;
mod control;
mod convolution;
mod index;
mod linear;
mod movement;
mod normalization;
mod pad;
mod places;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod window;

use super::context::{Context, Outputs};
use super::importer::Importer;
use super::proto::NodeProto;
use super::stop::{Res, unsupported};
use crate::graph::ValueId;

/// Translates one node.
pub type Translator = for<'x, 'c, 'a> fn(&'x mut Context<'c, 'a>) -> Res<Outputs>;

/// One output.
fn one(v: ValueId) -> Res<Outputs> {
    Ok(vec![Some(v)])
}

/// The translator of a node's operator, or why there is none.
pub fn find(importer: &Importer<'_>, node: &NodeProto<'_>) -> Res<Translator> {
    let found = match node.domain {
        "" | "ai.onnx" => standard(node.op_type),
        "com.microsoft" => contributed(node.op_type),
        _ => None,
    };
    if let Some(translator) = found {
        return Ok(translator);
    }
    let is_this = |(domain, name): &(String, String)| domain == node.domain && name == node.op_type;
    if importer.functions.iter().any(is_this) {
        return unsupported(
            "it is one of the model's own functions",
            "inline them with onnx.inliner.inline_local_functions",
        );
    }
    match node.op_type {
        "" => unsupported("the node has no operator", ""),
        "Loop" | "Scan" => unsupported(
            "loops are not supported",
            "export the model with its loop unrolled (torch.jit.trace does that)",
        ),
        "NonMaxSuppression" => unsupported(
            "it is not supported: its output's size depends on the data",
            "export the model without NMS: the pipeline does it",
        ),
        "SequenceConstruct" | "SequenceAt" | "SequenceEmpty" | "SequenceInsert"
        | "SplitToSequence" | "ConcatFromSequence" | "SequenceLength" => {
            unsupported("sequences are not supported", "only tensors are")
        }
        "LSTM" | "GRU" | "RNN" => unsupported("recurrent layers are not supported", ""),
        _ if !matches!(node.domain, "" | "ai.onnx") => unsupported(
            format!("the operator domain '{}' is not supported", node.domain),
            "only ONNX's own operators are, and a few of com.microsoft",
        ),
        _ => unsupported("the operator is not supported", ""),
    }
}

/// Operators that ONNX Runtime's optimiser writes.
fn contributed(op: &str) -> Option<Translator> {
    Some(match op {
        "FusedConv" => convolution::fused_conv,
        "QuantizeLinear" => quantize::quantize,
        "DequantizeLinear" => quantize::dequantize,
        "FusedGemm" => linear::fused_gemm,
        "FusedMatMul" => linear::fused_matmul,
        "Gelu" => activation::gelu,
        "FastGelu" => activation::fast_gelu,
        "QuickGelu" => activation::quick_gelu,
        _ => return None,
    })
}

fn standard(op: &str) -> Option<Translator> {
    Some(match op {
        "Conv" => convolution::conv,
        "QLinearConv" => quantize::conv,
        "DynamicQuantizeLinear" => quantize::dynamic,
        "ConvInteger" => quantize::conv_integer,
        "MatMulInteger" => quantize::matmul_integer,
        "QLinearMatMul" => quantize::matmul,
        "QuantizeLinear" => quantize::quantize,
        "DequantizeLinear" => quantize::dequantize,
        "ConvTranspose" => convolution::conv_transpose,
        "Gemm" => linear::gemm,
        "MatMul" => linear::matmul,

        "MaxPool" => pool::max_pool,
        "AveragePool" => pool::average_pool,
        "GlobalMaxPool" => pool::global_max_pool,
        "GlobalAveragePool" => pool::global_average_pool,
        "LpPool" => pool::lp_pool,
        "GlobalLpPool" => pool::global_lp_pool,

        "BatchNormalization" => normalization::batch,
        "LRN" => normalization::lrn,
        "LayerNormalization" => normalization::layer,
        "InstanceNormalization" => normalization::instance,
        "GroupNormalization" => normalization::group,
        "MeanVarianceNormalization" => normalization::mean_variance,
        "LpNormalization" => normalization::lp,
        "RMSNormalization" => normalization::rms,

        "Relu" => activation::relu,
        "LeakyRelu" => activation::leaky_relu,
        "PRelu" => activation::prelu,
        "Clip" => activation::clip,
        "Sigmoid" => activation::sigmoid,
        "HardSigmoid" => activation::hard_sigmoid,
        "HardSwish" => activation::hard_swish,
        "Swish" => activation::swish,
        "Mish" => activation::mish,
        "Tanh" => activation::tanh,
        "Elu" => activation::elu,
        "Selu" => activation::selu,
        "Celu" => activation::celu,
        "Softplus" => activation::softplus,
        "Softsign" => activation::softsign,
        "ThresholdedRelu" => activation::thresholded_relu,
        "Shrink" => activation::shrink,
        "Erf" => activation::erf,
        "Gelu" => activation::gelu,
        "Softmax" => activation::softmax,
        "LogSoftmax" => activation::log_softmax,

        "Exp" | "Log" | "Sqrt" | "Abs" | "Neg" | "Reciprocal" | "Floor" | "Ceil" | "Round"
        | "Sign" | "Sin" | "Cos" | "Not" => arithmetic::unary,
        "Tan" => arithmetic::tan,
        "Add" | "Sub" | "Mul" | "Div" => arithmetic::binary,
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" => {
            arithmetic::binary
        }
        "Pow" => arithmetic::pow,
        "Mod" => arithmetic::modulo,
        "Min" | "Max" | "Sum" | "Mean" => arithmetic::variadic,
        "IsNaN" => arithmetic::is_nan,
        "IsInf" => arithmetic::is_inf,
        "Where" => arithmetic::select,
        "Cast" => arithmetic::cast,
        "CastLike" => arithmetic::cast_like,
        "Identity" => arithmetic::identity,
        "Dropout" => arithmetic::dropout,

        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => reduce::reduce,
        "ArgMax" | "ArgMin" => reduce::arg_reduce,
        "TopK" => reduce::top_k,
        "CumSum" => reduce::cum_sum,
        "Hardmax" => reduce::hardmax,

        "Concat" => index::concat,
        "Split" => index::split,
        "Slice" => index::slice,
        "Gather" => index::gather,
        "GatherElements" => places::gather_elements,
        "GatherND" => places::gather_nd,
        "ScatterElements" | "Scatter" => places::scatter_elements,
        "ScatterND" => places::scatter_nd,
        "OneHot" => places::one_hot,

        "Reshape" => movement::reshape,
        "Flatten" => movement::flatten,
        "Transpose" => movement::transpose,
        "Squeeze" => movement::squeeze,
        "Unsqueeze" => movement::unsqueeze,
        "Expand" => movement::expand,
        "Tile" => movement::tile,
        "DepthToSpace" => movement::depth_to_space,
        "SpaceToDepth" => movement::space_to_depth,
        "Pad" => pad::pad,
        "Resize" => resize::resize,
        "Upsample" => resize::upsample,

        "Constant" => constant::constant,
        "ConstantOfShape" => constant::constant_of_shape,
        "Shape" => constant::shape,
        "Size" => constant::size,
        "Range" => constant::range,
        "Trilu" => constant::trilu,
        "EyeLike" => constant::eye_like,
        "NonZero" => constant::non_zero,

        "If" => control::branch,
        _ => return None,
    })
}
