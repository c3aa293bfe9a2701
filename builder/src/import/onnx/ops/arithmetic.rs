//! Element-wise functions, comparisons, casts, and what passes a tensor on.

use tobiuo_ops::{Binary, Op, Unary};
use tobiuo_tensor::{DType, Tensor, TensorData, f16};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::super::{proto, tensor};
use super::one;
use crate::graph::ValueId;

/// A function of two values.
pub fn emit_binary(c: &mut Context<'_, '_>, kind: Binary, a: ValueId, b: ValueId) -> Res<ValueId> {
    c.emit(Op::Binary { kind, activation: None }, &[a, b])
}

/// Functions of one tensor that are one op.
pub fn unary(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let kind = match c.node.op_type {
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Sqrt" => Unary::Sqrt,
        "Abs" => Unary::Abs,
        "Neg" => Unary::Neg,
        "Reciprocal" => Unary::Reciprocal,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "Round" => Unary::Round,
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Not" => Unary::Not,
        other => return unsupported(format!("the function {other}"), ""),
    };
    let y = c.emit(Op::Unary(kind), &[c.input(0)?])?;
    one(y)
}

/// Tan: sine over cosine.
pub fn tan(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let sine = c.emit(Op::Unary(Unary::Sin), &[x])?;
    let cosine = c.emit(Op::Unary(Unary::Cos), &[x])?;
    let y = emit_binary(c, Binary::Div, sine, cosine)?;
    one(y)
}

/// IsNaN: only what is not a number differs from itself.
pub fn is_nan(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let same = emit_binary(c, Binary::Equal, x, x)?;
    let y = c.emit(Op::Unary(Unary::Not), &[same])?;
    one(y)
}

/// IsInf: of one sign or both.
pub fn is_inf(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let mut x = c.input(0)?;
    let positive = c.attributes.flag("detect_positive", true)?;
    let negative = c.attributes.flag("detect_negative", true)?;
    if positive && negative {
        x = c.emit(Op::Unary(Unary::Abs), &[x])?;
    }
    // Equal to not-a-number is nothing.
    let which = match (positive, negative) {
        (true, _) => f32::INFINITY,
        (false, true) => f32::NEG_INFINITY,
        (false, false) => f32::NAN,
    };
    let which = c.scalar(which);
    let y = emit_binary(c, Binary::Equal, x, which)?;
    one(y)
}

/// The operands of a function of two tensors. Up to opset 6 the second is only broadcast where
/// the node says so, its axes beside those of the first from `axis` on.
fn two(c: &mut Context<'_, '_>) -> Res<(ValueId, ValueId)> {
    c.expect_inputs(2, 2)?;
    let (a, b) = (c.input(0)?, c.input(1)?);
    if c.opset >= 7 {
        return Ok((a, b));
    }
    let (sa, sb) = (c.shape(a), c.shape(b));
    let axis = c.attributes.int("axis")?;
    if !c.attributes.flag("broadcast", false)? {
        if sa != sb {
            return invalid(format!("operands {sa:?} and {sb:?} differ, broadcast is not set"));
        }
        return Ok((a, b));
    }
    let axis = match axis {
        Some(axis) => c.axis(axis, sa.len())?,
        None => sa.len().saturating_sub(sb.len()),
    };
    if axis + sb.len() > sa.len() {
        return invalid(format!("operand {sb:?} does not fit {sa:?} from axis {axis} on"));
    }
    let mut shape = sb;
    shape.resize(sa.len() - axis, 1);
    let b = c.reshape(b, shape)?;
    Ok((a, b))
}

/// Functions of two tensors that are one op, broadcast as in numpy (opset 7 on).
pub fn binary(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let (a, b) = two(c)?;
    let kind = match c.node.op_type {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Equal" => Binary::Equal,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        "And" => Binary::And,
        "Or" => Binary::Or,
        "Xor" => Binary::Xor,
        other => return unsupported(format!("the function {other}"), ""),
    };
    let y = emit_binary(c, kind, a, b)?;
    one(y)
}

/// Pow: the exponent may have another type (opset 12); the result has the base's.
pub fn pow(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let (mut base, mut exponent) = two(c)?;
    let (to, from) = (c.dtype(base), c.dtype(exponent));
    if from.is_float() && !to.is_float() {
        // An integer to a fractional power, rounded towards zero.
        base = c.emit(Op::Cast { to: DType::F32 }, &[base])?;
        let y = emit_binary(c, Binary::Pow, base, exponent)?;
        let y = c.emit(Op::Cast { to }, &[y])?;
        return one(y);
    }
    if from != to {
        exponent = c.emit(Op::Cast { to }, &[exponent])?;
    }
    let y = emit_binary(c, Binary::Pow, base, exponent)?;
    one(y)
}

/// Mod: with the divisor's sign, or the dividend's where `fmod` is set.
pub fn modulo(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let fmod = c.attributes.flag("fmod", false)?;
    let kind = if fmod { Binary::FMod } else { Binary::Mod };
    let y = emit_binary(c, kind, c.input(0)?, c.input(1)?)?;
    one(y)
}

/// Min, Max, Sum, Mean of any number of tensors, pair by pair.
pub fn variadic(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let inputs = c.all_inputs()?;
    let kind = match c.node.op_type {
        "Min" => Binary::Min,
        "Max" => Binary::Max,
        _ => Binary::Add,
    };
    let Some((&first, rest)) = inputs.split_first() else {
        return invalid("it takes at least one operand, none is given");
    };
    let mut y = first;
    for &v in rest {
        y = emit_binary(c, kind, y, v)?;
    }
    if c.node.op_type == "Mean" && !rest.is_empty() {
        let n = c.scalar(inputs.len() as f32);
        y = emit_binary(c, Binary::Div, y, n)?;
    }
    one(y)
}

/// Where.
pub fn select(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    let inputs = c.all_inputs()?;
    let y = c.emit(Op::Where, &inputs)?;
    one(y)
}

/// A value as another type; `data_type` is the file's.
fn cast_to(c: &mut Context<'_, '_>, x: ValueId, data_type: i64) -> Res<Outputs> {
    let to = tensor::dtype(data_type)?;
    if data_type == 10 || data_type == 16 {
        // Constants lose the digits that they have no room for; values that are computed
        // keep them.
        if let Some(t) = c.constant(x) {
            return one(narrowed(c, x, &t, data_type == 10));
        }
        let name = proto::type_name(data_type);
        c.importer.note(format!("values of type {name} are computed as f32"));
    }
    if c.dtype(x) == to {
        return one(x);
    }
    let y = c.emit(Op::Cast { to }, &[x])?;
    one(y)
}

/// A constant rounded to f16 or bf16, as f32.
fn narrowed(c: &mut Context<'_, '_>, x: ValueId, t: &Tensor, half: bool) -> ValueId {
    let values = t.to_f64();
    let round = |v: f64| {
        if half { f16::from_f64(v).to_f32() } else { to_bf16(v as f32) }
    };
    let rounded: Vec<f32> = values.iter().map(|&v| round(v)).collect();
    let same = t
        .as_f32()
        .is_some_and(|old| old.iter().zip(&rounded).all(|(a, b)| a.to_bits() == b.to_bits()));
    if same {
        return x;
    }
    c.add_constant(Tensor::new(t.shape().to_vec(), TensorData::F32(rounded)))
}

/// Rounded to bfloat16, half to even.
fn to_bf16(v: f32) -> f32 {
    if v.is_nan() {
        return v;
    }
    let bits = v.to_bits();
    let odd = (bits >> 16) & 1;
    f32::from_bits(bits.wrapping_add(0x7fff + odd) & 0xffff_0000)
}

/// Cast.
pub fn cast(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    // These rule conversions to 8-bit floats only, which `to` cannot name.
    c.attributes.ignore("saturate");
    c.attributes.ignore("round_mode");
    match c.attributes.int("to")? {
        Some(to) => cast_to(c, c.input(0)?, to),
        None => invalid("attribute 'to' is missing"),
    }
}

/// CastLike: to the second operand's type.
pub fn cast_like(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    c.attributes.ignore("saturate");
    c.attributes.ignore("round_mode");
    let (x, to) = (c.input(0)?, c.dtype(c.input(1)?));
    if c.dtype(x) == to {
        return one(x);
    }
    let y = c.emit(Op::Cast { to }, &[x])?;
    one(y)
}

/// Identity.
pub fn identity(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    one(c.input(0)?)
}

/// Dropout in inference: nothing is dropped, the mask is all true (all ones, in x's type,
/// before opset 10).
pub fn dropout(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.attributes.ignore("ratio");
    c.attributes.ignore("seed");
    c.expect_inputs(1, if c.opset >= 12 { 3 } else { 1 })?;
    let training = match c.opset {
        ..7 => !c.attributes.flag("is_test", false)?,
        _ => c.number(2, "training_mode")?.is_some_and(|t| t != 0.0),
    };
    if training {
        return unsupported("training mode is not supported", "export the model in inference mode");
    }
    let x = c.input(0)?;
    let mask_name = c.node.outputs.get(1).copied().unwrap_or_default();
    if mask_name.is_empty() || !c.importer.is_used(mask_name) {
        return one(x);
    }
    let dtype = if c.opset < 10 { c.dtype(x) } else { DType::Bool };
    let Some(unit) = c.scalar_of(dtype, 1.0) else {
        return unsupported(format!("a mask of {dtype}"), "");
    };
    let mask = c.emit(Op::Expand { shape: c.shape(x) }, &[unit])?;
    Ok(vec![Some(x), Some(mask)])
}
