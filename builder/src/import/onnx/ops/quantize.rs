//! Quantised tensors: QuantizeLinear, DequantizeLinear, the operators that are written with their
//! scales (QLinearConv, QLinearMatMul), which become the same between the two, and those of models
//! that are quantised while they run (DynamicQuantizeLinear, ConvInteger, MatMulInteger), which
//! become arithmetic on floats.

use tobiuo_ops::{Activation, Binary, Op, Reduce, Unary};
use tobiuo_tensor::DType;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::super::tensor;
use super::arithmetic::emit_binary;
use super::{convolution, one};
use crate::graph::ValueId;

/// The axis of a scale: none where it is one number.
fn axis(c: &Context<'_, '_>, x: ValueId, scale: ValueId, given: i64) -> Res<Option<usize>> {
    let shape = c.shape(scale);
    match shape[..] {
        [] | [1] => Ok(None),
        [_] => Ok(Some(c.axis(given, c.rank(x))?)),
        _ => unsupported(
            format!("a scale of shape {shape:?} (blocks of a tensor)"),
            "one scale a tensor, or one for each index of an axis, is supported",
        ),
    }
}

fn attributes(c: &Context<'_, '_>) -> Res<i64> {
    // For 8-bit floats; integers saturate in any case.
    c.attributes.ignore("saturate");
    c.attributes.ignore("precision");
    if c.attributes.int_or("block_size", 0)? != 0 {
        return unsupported("block_size is set", "one scale a tensor or an axis is supported");
    }
    c.attributes.int_or("axis", 1)
}

/// Operands of one Quantize or Dequantize: the zero point has the scale's shape.
fn operands(
    c: &mut Context<'_, '_>,
    x: ValueId,
    s: ValueId,
    z: Option<ValueId>,
) -> Res<Vec<ValueId>> {
    let constant = c.constant(s);
    let scales = constant.as_ref().and_then(|t| t.as_f32()).unwrap_or_default();
    if let Some(bad) = scales.iter().find(|v| !(v.is_finite() && **v > 0.0)) {
        return invalid(format!("its scale is {bad}; finite numbers above 0 are wanted"));
    }
    let mut all = vec![x, s];
    if let Some(z) = z {
        let shape = c.shape(s);
        let same = c.shape(z).iter().product::<usize>() == shape.iter().product::<usize>();
        all.push(if same { c.reshape(z, shape)? } else { z });
    }
    Ok(all)
}

/// Whether engines take it as one operator: by constants, one number each for a value that is
/// computed. Otherwise it is written out.
fn is_one_op(c: &Context<'_, '_>, inputs: &[ValueId], axis: Option<usize>) -> bool {
    let constants = inputs[1..].iter().all(|&v| c.constant(v).is_some());
    let of_constant = c.constant(inputs[0]).is_some();
    constants && (of_constant || (axis.is_none() && c.dtype(inputs[0]) != DType::I32))
}

/// A scale or zero point, as f32, of a shape that goes along an axis of a tensor of `rank` axes.
fn along(c: &mut Context<'_, '_>, v: ValueId, axis: Option<usize>, rank: usize) -> Res<ValueId> {
    let v = floats(c, v)?;
    let Some(axis) = axis else { return Ok(v) };
    let mut shape = vec![1; rank];
    shape[axis] = c.shape(v).iter().product();
    c.reshape(v, shape)
}

fn floats(c: &mut Context<'_, '_>, v: ValueId) -> Res<ValueId> {
    if c.dtype(v) == DType::F32 {
        return Ok(v);
    }
    c.emit(Op::Cast { to: DType::F32 }, &[v])
}

fn emit_quantize(
    c: &mut Context<'_, '_>,
    inputs: &[ValueId],
    axis: Option<usize>,
    to: DType,
) -> Res<ValueId> {
    if is_one_op(c, inputs, axis) {
        return c.emit(Op::Quantize { axis, to }, inputs);
    }
    let rank = c.rank(inputs[0]);
    let scale = along(c, inputs[1], axis, rank)?;
    let zero = match inputs.get(2) {
        Some(&z) => Some(along(c, z, axis, rank)?),
        None => None,
    };
    written_out(c, inputs[0], scale, zero, to)
}

/// x / scale, rounded, plus the zero point, saturated.
fn written_out(
    c: &mut Context<'_, '_>,
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    to: DType,
) -> Res<ValueId> {
    let y = emit_binary(c, Binary::Div, x, scale)?;
    let mut y = c.emit(Op::Unary(Unary::Round), &[y])?;
    if let Some(zero) = zero {
        y = emit_binary(c, Binary::Add, y, zero)?;
    }
    let (min, max) = if to == DType::U8 { (0.0, 255.0) } else { (-128.0, 127.0) };
    let y = c.emit(Op::Activation(Activation::Clip { min, max }), &[y])?;
    c.emit(Op::Cast { to }, &[y])
}

fn emit_dequantize(
    c: &mut Context<'_, '_>,
    inputs: &[ValueId],
    axis: Option<usize>,
) -> Res<ValueId> {
    if is_one_op(c, inputs, axis) {
        return c.emit(Op::Dequantize { axis }, inputs);
    }
    let rank = c.rank(inputs[0]);
    let mut x = floats(c, inputs[0])?;
    if let Some(&z) = inputs.get(2) {
        let zero = along(c, z, axis, rank)?;
        x = emit_binary(c, Binary::Sub, x, zero)?;
    }
    let scale = along(c, inputs[1], axis, rank)?;
    emit_binary(c, Binary::Mul, x, scale)
}

fn eight_bits(dtype: DType) -> Res<DType> {
    match dtype {
        DType::I8 | DType::U8 => Ok(dtype),
        other => unsupported(format!("quantisation to {other}"), "i8 and u8 are supported"),
    }
}

/// QuantizeLinear.
pub fn quantize(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 3)?;
    let given = attributes(c)?;
    let (x, scale, zero) = (c.input(0)?, c.input(1)?, c.optional(2));
    let to = match (zero, c.attributes.int_or("output_dtype", 0)?) {
        (Some(z), _) => c.dtype(z),
        (None, 0) => DType::U8,
        (None, t) => tensor::dtype(t)?,
    };
    let to = eight_bits(to)?;
    let axis = axis(c, x, scale, given)?;
    let inputs = operands(c, x, scale, zero)?;
    let y = emit_quantize(c, &inputs, axis, to)?;
    one(y)
}

/// DequantizeLinear.
pub fn dequantize(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 3)?;
    c.attributes.ignore("output_dtype");
    let given = attributes(c)?;
    let (x, scale, zero) = (c.input(0)?, c.input(1)?, c.optional(2));
    let axis = axis(c, x, scale, given)?;
    let inputs = operands(c, x, scale, zero)?;
    let y = emit_dequantize(c, &inputs, axis)?;
    one(y)
}

/// Operand `i` with its scale and zero point behind it, as floats; scales go along `axis`.
fn real(c: &mut Context<'_, '_>, i: usize, along: i64) -> Res<ValueId> {
    let (x, s, z) = (c.input(i)?, c.input(i + 1)?, c.input(i + 2)?);
    let axis = axis(c, x, s, along)?;
    let inputs = operands(c, x, s, Some(z))?;
    emit_dequantize(c, &inputs, axis)
}

/// A result stored with the scale and zero point of operands `i` and `i + 1`.
fn stored(c: &mut Context<'_, '_>, y: ValueId, i: usize) -> Res<Outputs> {
    let (s, z) = (c.input(i)?, c.input(i + 1)?);
    let to = eight_bits(c.dtype(z))?;
    let axis = axis(c, y, s, 1)?;
    let inputs = operands(c, y, s, Some(z))?;
    let y = emit_quantize(c, &inputs, axis, to)?;
    one(y)
}

/// QLinearConv: x, its scale and zero point, the same of w and y, and a bias whose scale is the
/// product of x's and w's.
pub fn conv(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(8, 9)?;
    let x = real(c, 0, 1)?;
    let w = real(c, 3, 0)?;
    let bias = match c.optional(8) {
        None => None,
        Some(b) => {
            let (Some(sx), Some(sw)) =
                (c.constant_input(1, "x's scale")?, c.constant_input(4, "w's scale")?)
            else {
                return invalid("a scale is missing");
            };
            let (Some(&[sx]), Some(sw)) = (sx.as_f32(), sw.as_f32()) else {
                return invalid("scales must be f32, x's one number");
            };
            let filters = c.shape(b).first().copied().unwrap_or(0);
            let scales: Vec<f32> = match sw {
                [one] => vec![sx * one; filters],
                many => many.iter().map(|s| sx * s).collect(),
            };
            let scale = c.add_constant(tobiuo_tensor::Tensor::f32([scales.len()], scales));
            Some(c.emit(Op::Dequantize { axis: Some(0) }, &[b, scale])?)
        }
    };
    let y = convolution::emit(c, [x, w], bias, None, None)?;
    stored(c, y, 6)
}

/// QLinearMatMul.
pub fn matmul(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(8, 8)?;
    let a = real(c, 0, -2)?;
    let b = real(c, 3, -1)?;
    let y = c.emit(Op::MatMul, &[a, b])?;
    stored(c, y, 6)
}

/// DynamicQuantizeLinear: to u8, by a scale from the least and the greatest element, of which one is
/// at least 0. Outputs: integers, scale, zero point.
pub fn dynamic(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let (nothing, levels, unit) = (c.scalar(0.0), c.scalar(255.0), c.scalar(1.0));
    let axes: Vec<usize> = (0..c.rank(x)).collect();
    let end = |c: &mut Context<'_, '_>, kind, with| {
        let reduce = Op::Reduce { kind, axes: axes.clone(), keep_dims: false };
        let end = c.emit(reduce, &[x])?;
        emit_binary(c, with, end, nothing)
    };
    let least = end(c, Reduce::Min, Binary::Min)?;
    let greatest = end(c, Reduce::Max, Binary::Max)?;
    let range = emit_binary(c, Binary::Sub, greatest, least)?;
    let scale = emit_binary(c, Binary::Div, range, levels)?;
    // All elements are 0: any scale is right.
    let none = emit_binary(c, Binary::Equal, scale, nothing)?;
    let scale = c.emit(Op::Where, &[none, unit, scale])?;
    let least = emit_binary(c, Binary::Div, least, scale)?;
    let zero = emit_binary(c, Binary::Sub, nothing, least)?;
    let zero = c.emit(Op::Unary(Unary::Round), &[zero])?;
    let zero = c.emit(Op::Activation(Activation::Clip { min: 0.0, max: 255.0 }), &[zero])?;
    let y = written_out(c, x, scale, Some(zero), DType::U8)?;
    let zero = c.emit(Op::Cast { to: DType::U8 }, &[zero])?;
    Ok(vec![Some(y), Some(scale), Some(zero)])
}

/// Integers less their zero point (operand `i`), as floats. Several zero points go along `axis`, the
/// last axes where it is `None`.
fn shifted(c: &mut Context<'_, '_>, x: ValueId, i: usize, axis: Option<usize>) -> Res<ValueId> {
    let rank = c.rank(x);
    let x = floats(c, x)?;
    let Some(zero) = c.optional(i) else { return Ok(x) };
    let zero = match c.shape(zero)[..] {
        [n] if n != 1 => along(c, zero, axis, rank)?,
        _ => floats(c, zero)?,
    };
    emit_binary(c, Binary::Sub, x, zero)
}

/// Sums of products of integers, which are computed as floats.
fn summed(c: &mut Context<'_, '_>, y: ValueId) -> Res<Outputs> {
    c.importer.note(
        "products of ConvInteger and MatMulInteger are summed as f32; a model with QuantizeLinear \
         and DequantizeLinear, or the floating-point model, is faster",
    );
    let y = c.emit(Op::Cast { to: DType::I32 }, &[y])?;
    one(y)
}

/// ConvInteger: x, weight, and the zero points of both, the weight's one for each filter.
pub fn conv_integer(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 4)?;
    let (x, w) = (c.input(0)?, c.input(1)?);
    let x = shifted(c, x, 2, None)?;
    let w = shifted(c, w, 3, Some(0))?;
    let y = convolution::emit(c, [x, w], None, None, None)?;
    summed(c, y)
}

/// MatMulInteger: a, b, and the zero points of both, one for each of a's rows and b's columns.
pub fn matmul_integer(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 4)?;
    let (a, b) = (c.input(0)?, c.input(1)?);
    let rows = c.rank(a).checked_sub(2);
    let a = shifted(c, a, 2, rows)?;
    let b = shifted(c, b, 3, None)?;
    let y = c.emit(Op::MatMul, &[a, b])?;
    summed(c, y)
}
