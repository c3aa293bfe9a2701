//! Quantised tensors: QuantizeLinear, DequantizeLinear, and the operators that are written with
//! their scales (QLinearConv, QLinearMatMul), which become the same between the two.

use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::super::tensor;
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
    let mut all = vec![x, s];
    if let Some(z) = z {
        let shape = c.shape(s);
        let same = c.shape(z).iter().product::<usize>() == shape.iter().product::<usize>();
        all.push(if same { c.reshape(z, shape)? } else { z });
    }
    Ok(all)
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
    let y = c.emit(Op::Quantize { axis, to }, &inputs)?;
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
    let y = c.emit(Op::Dequantize { axis }, &inputs)?;
    one(y)
}

/// Operand `i` with its scale and zero point behind it, as floats; scales go along `axis`.
fn real(c: &mut Context<'_, '_>, i: usize, along: i64) -> Res<ValueId> {
    let (x, s, z) = (c.input(i)?, c.input(i + 1)?, c.input(i + 2)?);
    let axis = axis(c, x, s, along)?;
    let inputs = operands(c, x, s, Some(z))?;
    c.emit(Op::Dequantize { axis }, &inputs)
}

/// A result stored with the scale and zero point of operands `i` and `i + 1`.
fn stored(c: &mut Context<'_, '_>, y: ValueId, i: usize) -> Res<Outputs> {
    let (s, z) = (c.input(i)?, c.input(i + 1)?);
    let to = eight_bits(c.dtype(z))?;
    let axis = axis(c, y, s, 1)?;
    let inputs = operands(c, y, s, Some(z))?;
    let y = c.emit(Op::Quantize { axis, to }, &inputs)?;
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
