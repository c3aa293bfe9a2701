//! Element by element, and reductions over an axis.

use tobiuo_ops::{Binary, Op, Reduce, Unary};
use tobiuo_tensor::DType;

use super::super::context::Context;
use super::{axis_of, one};
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

fn emit_binary(c: &mut Context<'_, '_>, kind: Binary, a: ValueId, b: ValueId) -> Res<ValueId> {
    let operands = c.aligned(&[a, b])?;
    c.emit(Op::Binary { kind, activation: None }, &operands)
}

/// Add, Sub, Mul, Div, Maximum, Minimum of two tensors, broadcast.
pub fn binary(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let [a, b] = c.take()?;
    let kind = match c.layer.kind.as_str() {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Maximum" => Binary::Max,
        _ => Binary::Min,
    };
    one(emit_binary(c, kind, a, b)?)
}

/// A tensor and a constant: `x + c`, `x * c`, `c - x`, `c / x`. The constant is one number or an
/// array that broadcasts to the tensor's shape.
pub fn with_constant(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let constant = c.weight("constant")?;
    let shape = constant.shape().to_vec();
    let k = if constant.numel() == 1 {
        c.number("constant", constant.as_f32().map_or(0.0, |v| v[0]))
    } else {
        c.constant("constant", constant)
    };
    let y = match c.layer.kind.as_str() {
        "AddConstant" => emit_binary(c, Binary::Add, x, k)?,
        "MulConstant" => emit_binary(c, Binary::Mul, x, k)?,
        "SubFromConstant" => emit_binary(c, Binary::Sub, k, x)?,
        _ => emit_binary(c, Binary::Div, k, x)?,
    };
    if c.shape(y) != c.shape(x) {
        return invalid(format!(
            "the constant {shape:?} does not fit its source {:?}: one number or an array that \
             broadcasts to it is needed",
            c.shape(x)
        ));
    }
    one(y)
}

/// Unary: a function named by `operation`.
pub fn unary(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let kind = match c.fields.text("operation")? {
        Some("exp") => Unary::Exp,
        Some("log") => Unary::Log,
        Some("sqrt") => Unary::Sqrt,
        Some("abs") => Unary::Abs,
        Some("neg") => Unary::Neg,
        Some("recip") => Unary::Reciprocal,
        Some(other) => {
            return unsupported(
                format!("operation '{other}' is not known"),
                "one of exp, log, sqrt, abs, neg, recip is needed",
            );
        }
        None => return invalid("operation is missing"),
    };
    one(c.emit(Op::Unary(kind), &[x])?)
}

/// LinearInterpolate: `p * x + (1 - p) * y` of sources p, x, y.
pub fn linear_interpolate(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let [p, x, y] = c.take()?;
    let ones = c.number("one", 1.0);
    let rest = emit_binary(c, Binary::Sub, ones, p)?;
    let first = emit_binary(c, Binary::Mul, p, x)?;
    let second = emit_binary(c, Binary::Mul, rest, y)?;
    one(emit_binary(c, Binary::Add, first, second)?)
}

/// Where: `condition ? x : y` of sources condition, x, y; true is any number but 0.
pub fn select(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let [condition, x, y] = c.take()?;
    let condition = c.emit(Op::Cast { to: DType::Bool }, &[condition])?;
    let operands = c.aligned(&[condition, x, y])?;
    one(c.emit(Op::Where, &operands)?)
}

/// Sum over the channels, or over `axis`.
pub fn sum(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    c.expect_shape("shape", x)?;
    let mut axes = Vec::new();
    for axis in c.fields.ints("axis")?.unwrap_or_else(|| vec![0]) {
        axes.push(axis_of(c, x, axis)?);
    }
    axes.sort_unstable();
    let keep_dims = c.fields.flag("keepdims")?;
    one(c.emit(Op::Reduce { kind: Reduce::Sum, axes, keep_dims }, &[x])?)
}

/// ArgMax over the channels, or over `axis`: the index of the first largest element, as f32.
pub fn arg_max(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    c.expect_shape("shape", x)?;
    let axis = c.fields.int("axis")?.unwrap_or(0);
    let axis = axis_of(c, x, axis)?;
    one(index_of_max(c, x, axis)?)
}

/// The index of the first largest element along an axis, as f32.
pub fn index_of_max(c: &mut Context<'_, '_>, x: ValueId, axis: usize) -> Res<ValueId> {
    let op = Op::ArgReduce { axis, min: false, keep_dims: false, select_last: false };
    let index = c.emit(op, &[x])?;
    c.emit(Op::Cast { to: DType::F32 }, &[index])
}
