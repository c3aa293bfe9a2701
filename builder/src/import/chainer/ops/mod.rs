//! One function for each type of layer. What they compute is Chainer's definition, in
//! inference, of the function whose name the type is.

mod arithmetic;
mod directed;
mod general;
mod linear;
mod movement;
mod normalization;
mod resample;
mod shift;
mod window;

use tobiuo_ops::{Activation, Op};

use super::context::Context;
use crate::graph::ValueId;
use crate::import::stop::{Res, unsupported};

/// Translates one layer into ops; gives a value for each tensor that it makes.
pub type Translator = fn(&mut Context<'_, '_>) -> Res<Vec<ValueId>>;

/// The translator of a type of layer.
pub fn find(kind: &str) -> Res<Translator> {
    Ok(match kind {
        "ConstantInput" => general::constant_input,
        "Copy" => general::identity,
        "Dropout" => general::dropout,
        "TobiuoOp" => general::any_op,
        "ReLU" => |c| activation(c, Activation::Relu),
        "Sigmoid" => |c| activation(c, Activation::Sigmoid),
        "Tanh" => |c| activation(c, Activation::Tanh),
        "LeakyReLU" => |c| {
            let alpha = c.fields.need_float("slope")?;
            activation(c, Activation::LeakyRelu { alpha })
        },
        "Add" | "Sub" | "Mul" | "Div" | "Maximum" | "Minimum" => arithmetic::binary,
        "AddConstant" | "MulConstant" | "SubFromConstant" | "DivFromConstant" => {
            arithmetic::with_constant
        }
        "Unary" => arithmetic::unary,
        "LinearInterpolate" => arithmetic::linear_interpolate,
        "Where" => arithmetic::select,
        "Sum" => arithmetic::sum,
        "ArgMax" => arithmetic::arg_max,
        "Convolution2DFunction" => window::convolution,
        "Deconvolution2DFunction" => window::deconvolution,
        "MaxPooling2D" => window::max_pooling,
        "AveragePooling2D" => window::average_pooling,
        "DirectedPooling" | "CornerPooling" => directed::pooling,
        "LinearFunction" => linear::linear,
        "MatMul" => linear::matmul,
        "BatchNormalizationFunction" | "FixedBatchNormalization" | "BatchNormalization" => {
            normalization::batch_normalization
        }
        "LocalResponseNormalization" => normalization::local_response,
        "Softmax" => normalization::softmax,
        "Concat" => movement::concat,
        "Reshape" => movement::reshape,
        "Transpose" => movement::transpose,
        "BroadcastTo" => movement::broadcast_to,
        "GetItem" => movement::get_item,
        "SplitAxis" => movement::split_axis,
        "ResizeImages" => resample::resize_images,
        "ResizeArgmax" => resample::resize_argmax,
        "Shift" => shift::shift,
        "input" => return unsupported("an input among the layers", ""),
        other => {
            return unsupported(
                format!("layers of type '{other}' are not known"),
                "a dump function of its own can write it as layers that are known, or as \
                 TobiuoOp",
            );
        }
    })
}

/// A value that is a layer's only tensor.
fn one(v: ValueId) -> Res<Vec<ValueId>> {
    Ok(vec![v])
}

fn activation(c: &mut Context<'_, '_>, a: Activation) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    one(c.emit(Op::Activation(a), &[x])?)
}

/// The index of an axis of a value from the dump's number of it, which leaves out the batch:
/// Chainer's number less 1, also where Chainer counts from the end.
fn axis_of(c: &Context<'_, '_>, v: ValueId, dumped: i64) -> Res<usize> {
    let rank = c.shape(v).len();
    let axis = dumped.saturating_add(1);
    let index = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    match usize::try_from(index) {
        Ok(0) => unsupported(
            format!("axis {dumped} is the batch"),
            "every picture of a batch must be computed by itself",
        ),
        Ok(i) if i < rank => Ok(i),
        _ => Err(format!("axis {dumped} is not in {:?}", c.shape(v)).into()),
    }
}
