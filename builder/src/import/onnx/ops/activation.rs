//! Activations, and Softmax.

use tobiuo_ops::{Activation, Binary, Op, Unary};
use tobiuo_tensor::DType;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::arithmetic::emit_binary;
use super::one;
use crate::graph::ValueId;

fn simple(c: &mut Context<'_, '_>, activation: Activation) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let y = c.emit(Op::Activation(activation), &[c.input(0)?])?;
    one(y)
}

fn activate(c: &mut Context<'_, '_>, activation: Activation, x: ValueId) -> Res<ValueId> {
    c.emit(Op::Activation(activation), &[x])
}

/// Relu; of integers (opset 14) by `max(x, 0)`.
pub fn relu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let dtype = c.dtype(x);
    if dtype.is_float() {
        return simple(c, Activation::Relu);
    }
    let Some(zero) = c.scalar_of(dtype, 0.0) else {
        return unsupported(format!("Relu of {dtype}"), "");
    };
    let y = emit_binary(c, Binary::Max, x, zero)?;
    one(y)
}

/// LeakyRelu.
pub fn leaky_relu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let alpha = c.attributes.float_or("alpha", 0.01)?;
    simple(c, Activation::LeakyRelu { alpha })
}

/// PRelu. Up to opset 6 the slopes are one number, or one for each channel.
pub fn prelu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let mut inputs = c.all_inputs()?;
    let (x, slopes) = (c.shape(inputs[0]), c.shape(inputs[1]));
    if c.opset < 7 && slopes.len() == 1 && slopes[0] != 1 && x.len() > 2 {
        let mut beside = vec![1; x.len() - 1];
        beside[0] = slopes[0];
        inputs[1] = c.reshape(inputs[1], beside)?;
    }
    let y = c.emit(Op::PRelu, &inputs)?;
    one(y)
}

/// Clip: limits are attributes up to opset 10, operands from 11 on, possibly not constant and
/// possibly integers.
pub fn clip(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    if c.opset < 11 {
        c.expect_inputs(1, 1)?;
        let min = c.attributes.float_or("min", f32::MIN)?;
        let max = c.attributes.float_or("max", f32::MAX)?;
        let y = clip_between(c, x, min, max)?;
        return one(y);
    }
    c.expect_inputs(1, 3)?;
    let (min, max) = (c.optional(1), c.optional(2));
    for limit in [min, max].into_iter().flatten() {
        if c.shape(limit).iter().product::<usize>() != 1 {
            return invalid("a limit must be one number");
        }
    }
    let number = |v: Option<ValueId>, default: f32| match v {
        None => Some(default),
        Some(v) => c.constant(v).and_then(|t| t.as_f32().map(|v| v[0])),
    };
    if let (DType::F32, Some(min), Some(max)) =
        (c.dtype(x), number(min, f32::MIN), number(max, f32::MAX))
    {
        let y = clip_between(c, x, min, max)?;
        return one(y);
    }
    let mut y = x;
    for (kind, limit) in [(Binary::Max, min), (Binary::Min, max)] {
        if let Some(limit) = limit {
            let limit = c.reshape(limit, Vec::new())?;
            y = emit_binary(c, kind, y, limit)?;
        }
    }
    one(y)
}

/// Clip of f32 between constants: an activation, where the limits are in order.
fn clip_between(c: &mut Context<'_, '_>, x: ValueId, min: f32, max: f32) -> Res<ValueId> {
    if min <= max {
        return activate(c, Activation::Clip { min, max }, x);
    }
    if min.is_nan() || max.is_nan() {
        return invalid("a limit is not a number");
    }
    let (min, max) = (c.scalar(min), c.scalar(max));
    let y = emit_binary(c, Binary::Max, x, min)?;
    emit_binary(c, Binary::Min, y, max)
}

/// Sigmoid.
pub fn sigmoid(c: &mut Context<'_, '_>) -> Res<Outputs> {
    simple(c, Activation::Sigmoid)
}

/// HardSigmoid.
pub fn hard_sigmoid(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let alpha = c.attributes.float_or("alpha", 0.2)?;
    let beta = c.attributes.float_or("beta", 0.5)?;
    simple(c, Activation::HardSigmoid { alpha, beta })
}

/// HardSwish.
pub fn hard_swish(c: &mut Context<'_, '_>) -> Res<Outputs> {
    simple(c, Activation::HardSwish)
}

/// `x * sigmoid(alpha * x)`.
fn swish_by(c: &mut Context<'_, '_>, alpha: f32) -> Res<Outputs> {
    if alpha == 1.0 {
        return simple(c, Activation::Silu);
    }
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let factor = c.scalar(alpha);
    let scaled = emit_binary(c, Binary::Mul, x, factor)?;
    let gate = activate(c, Activation::Sigmoid, scaled)?;
    let y = emit_binary(c, Binary::Mul, x, gate)?;
    one(y)
}

/// Swish (opset 24).
pub fn swish(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let alpha = c.attributes.float_or("alpha", 1.0)?;
    swish_by(c, alpha)
}

/// com.microsoft QuickGelu.
pub fn quick_gelu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let alpha = c.attributes.float_or("alpha", 1.702)?;
    swish_by(c, alpha)
}

/// Mish.
pub fn mish(c: &mut Context<'_, '_>) -> Res<Outputs> {
    simple(c, Activation::Mish)
}

/// Tanh.
pub fn tanh(c: &mut Context<'_, '_>) -> Res<Outputs> {
    simple(c, Activation::Tanh)
}

/// Elu.
pub fn elu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let alpha = c.attributes.float_or("alpha", 1.0)?;
    simple(c, Activation::Elu { alpha })
}

/// Selu: `gamma * elu(x)`.
pub fn selu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let alpha = c.attributes.float_or("alpha", 1.673_263_2)?;
    let gamma = c.attributes.float_or("gamma", 1.050_701)?;
    let y = activate(c, Activation::Elu { alpha }, c.input(0)?)?;
    let gamma = c.scalar(gamma);
    let y = emit_binary(c, Binary::Mul, y, gamma)?;
    one(y)
}

/// Celu: `alpha * elu(x / alpha)`.
pub fn celu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let alpha = c.attributes.float_or("alpha", 1.0)?;
    if alpha == 0.0 || !alpha.is_finite() {
        return invalid(format!("alpha is {alpha}"));
    }
    let alpha = c.scalar(alpha);
    let x = emit_binary(c, Binary::Div, c.input(0)?, alpha)?;
    let y = activate(c, Activation::Elu { alpha: 1.0 }, x)?;
    let y = emit_binary(c, Binary::Mul, y, alpha)?;
    one(y)
}

/// Softplus.
pub fn softplus(c: &mut Context<'_, '_>) -> Res<Outputs> {
    simple(c, Activation::Softplus)
}

/// Softsign: `x / (1 + |x|)`.
pub fn softsign(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let abs = c.emit(Op::Unary(Unary::Abs), &[x])?;
    let unit = c.scalar(1.0);
    let divisor = emit_binary(c, Binary::Add, abs, unit)?;
    let y = emit_binary(c, Binary::Div, x, divisor)?;
    one(y)
}

/// ThresholdedRelu: `x > alpha ? x : 0`.
pub fn thresholded_relu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let alpha = c.attributes.float_or("alpha", 1.0)?;
    let (alpha, zero) = (c.scalar(alpha), c.scalar(0.0));
    let above = emit_binary(c, Binary::Greater, x, alpha)?;
    let y = c.emit(Op::Where, &[above, x, zero])?;
    one(y)
}

/// Shrink: `x < -lambd ? x + bias : x > lambd ? x - bias : 0`.
pub fn shrink(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let lambd = c.attributes.float_or("lambd", 0.5)?;
    let bias = c.attributes.float_or("bias", 0.0)?;
    if c.dtype(x) != DType::F32 {
        return unsupported(format!("Shrink of {}", c.dtype(x)), "f32 is supported");
    }
    let (low, high) = (c.scalar(-lambd), c.scalar(lambd));
    let (bias, zero) = (c.scalar(bias), c.scalar(0.0));
    let is_low = emit_binary(c, Binary::Less, x, low)?;
    let is_high = emit_binary(c, Binary::Greater, x, high)?;
    let raised = emit_binary(c, Binary::Add, x, bias)?;
    let lowered = emit_binary(c, Binary::Sub, x, bias)?;
    let y = c.emit(Op::Where, &[is_high, lowered, zero])?;
    let y = c.emit(Op::Where, &[is_low, raised, y])?;
    one(y)
}

/// Erf.
pub fn erf(c: &mut Context<'_, '_>) -> Res<Outputs> {
    simple(c, Activation::Erf)
}

/// Gelu (opset 20, and com.microsoft's).
pub fn gelu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    match c.attributes.string_or("approximate", "none")? {
        "none" => simple(c, Activation::Gelu { tanh: false }),
        "tanh" => simple(c, Activation::Gelu { tanh: true }),
        other => invalid(format!("approximate '{other}' is not in the standard")),
    }
}

/// com.microsoft FastGelu: the tanh form of `x + bias`.
pub fn fast_gelu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 2)?;
    let mut x = c.input(0)?;
    if let Some(bias) = c.optional(1) {
        x = emit_binary(c, Binary::Add, x, bias)?;
    }
    let y = activate(c, Activation::Gelu { tanh: true }, x)?;
    one(y)
}

/// Softmax.
pub fn softmax(c: &mut Context<'_, '_>) -> Res<Outputs> {
    emit_softmax(c, false)
}

/// LogSoftmax.
pub fn log_softmax(c: &mut Context<'_, '_>) -> Res<Outputs> {
    emit_softmax(c, true)
}

/// Over one axis from opset 13 on; before, over all axes from `axis` on, taken as one.
fn emit_softmax(c: &mut Context<'_, '_>, log: bool) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let shape = c.shape(x);
    let rank = shape.len();
    let joined = c.opset < 13;
    let axis = c.attributes.int_or("axis", if joined { 1 } else { -1 })?;
    if joined && axis == rank as i64 {
        // Nothing is left to normalise over: every element is its own row.
        let columns = c.reshape(x, vec![shape.iter().product(), 1])?;
        let y = c.emit(Op::Softmax { axis: 1, log }, &[columns])?;
        let y = c.reshape(y, shape)?;
        return one(y);
    }
    let axis = c.axis(axis, rank)?;
    let y = if joined && shape[axis + 1..].iter().any(|&d| d != 1) {
        let rows = shape[..axis].iter().product();
        let columns = shape[axis..].iter().product();
        let flat = c.reshape(x, vec![rows, columns])?;
        let y = c.emit(Op::Softmax { axis: 1, log }, &[flat])?;
        c.reshape(y, shape)?
    } else {
        c.emit(Op::Softmax { axis, log }, &[x])?
    };
    one(y)
}
