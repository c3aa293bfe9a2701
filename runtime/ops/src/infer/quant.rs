//! Operators on 8-bit integers.

use tobiuo_tensor::DType;

use super::math::check_activation;
use super::window::{conv_shape, pool_shape};
use super::{Fact, Facts, axis_in, broadcast_of, exactly};
use crate::{
    Activation, Binary, Epilogue, PoolKind, QuantBinary, QuantConv, QuantGemm, QuantPool,
    Quantization, Requantization,
};

fn byte(name: &str, fact: &Fact) -> Result<(), String> {
    typed(name, fact, &[DType::I8, DType::U8])
}

fn typed(name: &str, fact: &Fact, types: &[DType]) -> Result<(), String> {
    if types.contains(&fact.dtype) {
        return Ok(());
    }
    let names: Vec<String> = types.iter().map(ToString::to_string).collect();
    Err(format!("{name} is {}, it must be {}", fact.dtype, names.join(" or ")))
}

/// An integer of type `dtype` that stands for 0.
fn zero_point(value: i32, dtype: DType) -> Result<(), String> {
    let (low, high) = if dtype == DType::U8 { (0, 255) } else { (-128, 127) };
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("zero point {value} is no {dtype}"))
    }
}

fn scale(value: f32) -> Result<(), String> {
    if value.is_normal() && value > 0.0 && (1.0 / value).is_normal() {
        Ok(())
    } else {
        Err(format!("scale {value} must be above 0 and finite, its reciprocal too"))
    }
}

/// How an operand is to be read: integers with a quantisation, f32 without.
fn operand(name: &str, fact: &Fact, q: Option<Quantization>) -> Result<(), String> {
    match q {
        None => typed(name, fact, &[DType::F32]),
        Some(q) => {
            byte(name, fact)?;
            scale(q.scale)?;
            zero_point(q.zero_point, fact.dtype)
        }
    }
}

fn stored(output: Option<Requantization>) -> Result<DType, String> {
    let Some(r) = output else { return Ok(DType::F32) };
    if !matches!(r.to, DType::I8 | DType::U8) {
        return Err(format!("a result cannot be stored as {}, only as i8 or u8", r.to));
    }
    scale(r.scale)?;
    zero_point(r.zero_point, r.to)?;
    Ok(r.to)
}

fn exact(activation: Option<Activation>) -> Result<(), String> {
    check_activation(activation)?;
    match activation {
        Some(a) if !a.is_exact() => {
            Err(format!("{} cannot follow integers: not every device gives its bits", a.name()))
        }
        _ => Ok(()),
    }
}

/// A scale of x, and its zero point.
fn scales(axis: Option<usize>, x: &Fact, scale: &Fact, zero: Option<&Fact>) -> Result<(), String> {
    typed("scale", scale, &[DType::F32])?;
    let fits = match axis {
        None => matches!(scale.shape[..], [] | [1]),
        Some(axis) => {
            axis_in(axis, x)?;
            scale.shape == [x.shape[axis]]
        }
    };
    if !fits {
        let wanted = match axis {
            None => "a scalar".into(),
            Some(axis) => format!("[{}]: one for each index of axis {axis}", x.shape[axis]),
        };
        return Err(format!("scale {:?} must be {wanted}", scale.shape));
    }
    match zero {
        Some(zero) if zero.shape != scale.shape => Err(format!(
            "zero point {:?} must have the shape {:?} of the scale",
            zero.shape, scale.shape
        )),
        _ => Ok(()),
    }
}

fn two_or_three(inputs: &[Fact]) -> Result<(&Fact, &Fact, Option<&Fact>), String> {
    match inputs {
        [x, scale] => Ok((x, scale, None)),
        [x, scale, zero] => Ok((x, scale, Some(zero))),
        _ => Err(format!("takes 2 or 3 inputs (x, scale, zero point), {} are given", inputs.len())),
    }
}

pub(super) fn quantize(axis: Option<usize>, to: DType, inputs: &[Fact]) -> Facts {
    let (x, scale, zero) = two_or_three(inputs)?;
    typed("x", x, &[DType::F32])?;
    if !matches!(to, DType::I8 | DType::U8) {
        return Err(format!("cannot quantise to {to}, only to i8 or u8"));
    }
    scales(axis, x, scale, zero)?;
    if let Some(zero) = zero {
        typed("zero point", zero, &[to])?;
    }
    Ok(vec![Fact::new(to, x.shape.as_slice())])
}

pub(super) fn dequantize(axis: Option<usize>, inputs: &[Fact]) -> Facts {
    let (x, scale, zero) = two_or_three(inputs)?;
    typed("x", x, &[DType::I8, DType::U8, DType::I32])?;
    scales(axis, x, scale, zero)?;
    if let Some(zero) = zero {
        typed("zero point", zero, &[x.dtype])?;
    }
    Ok(vec![Fact::new(DType::F32, x.shape.as_slice())])
}

/// Multiplier, bias and residual of a product with `filters` outputs, of this shape.
fn epilogue(
    e: &Epilogue,
    x_zero_point: i32,
    inputs: &[Fact],
    shape: Vec<usize>,
    filters: usize,
) -> Facts {
    zero_point(x_zero_point, inputs[0].dtype)?;
    exact(e.activation)?;
    for (name, fact) in [("multiplier", &inputs[2]), ("bias", &inputs[3])] {
        typed(name, fact, &[DType::F32])?;
        if fact.shape != [filters] {
            return Err(format!(
                "{name} {:?} must be [{filters}]: one for each output",
                fact.shape
            ));
        }
    }
    if let (Some(r), Some(residual)) = (e.residual, inputs.get(4)) {
        operand("residual", residual, r.quantization)?;
        if residual.shape != shape {
            return Err(format!(
                "residual {:?} must have the output's shape {shape:?}",
                residual.shape
            ));
        }
    }
    Ok(vec![Fact { dtype: stored(e.output)?, shape }])
}

fn operands(e: &Epilogue, inputs: &[Fact]) -> Result<(), String> {
    let (needed, names) = match e.residual {
        None => (4, "x, weight, multiplier, bias"),
        Some(_) => (5, "x, weight, multiplier, bias, residual"),
    };
    if inputs.len() != needed {
        return Err(format!("takes {needed} inputs ({names}), {} are given", inputs.len()));
    }
    byte("x", &inputs[0])?;
    typed("weight", &inputs[1], &[DType::I8])
}

/// Products that one i32 may hold the sum of: each is at most 255 * 128 in size.
const MAX_DEPTH: usize = i32::MAX as usize / (255 * 128);

fn depth(weight: &Fact) -> Result<(), String> {
    let depth = weight.shape[1..].iter().fold(1usize, |n, &d| n.saturating_mul(d));
    if depth > MAX_DEPTH {
        return Err(format!(
            "weight {:?}: a sum of {depth} products does not fit 32 bits, {MAX_DEPTH} do",
            weight.shape
        ));
    }
    Ok(())
}

pub(super) fn conv(a: &QuantConv, inputs: &[Fact]) -> Facts {
    operands(&a.epilogue, inputs)?;
    let shape = conv_shape(a.window(), a.groups, &inputs[0], &inputs[1])?;
    depth(&inputs[1])?;
    let filters = inputs[1].shape[0];
    epilogue(&a.epilogue, a.x_zero_point, inputs, shape, filters)
}

pub(super) fn gemm(a: &QuantGemm, inputs: &[Fact]) -> Facts {
    operands(&a.epilogue, inputs)?;
    let (&[m, k], &[n, kw]) = (inputs[0].shape.as_slice(), inputs[1].shape.as_slice()) else {
        return Err(format!(
            "x {:?} and weight {:?} must be matrices",
            inputs[0].shape, inputs[1].shape
        ));
    };
    if k != kw {
        return Err(format!(
            "x {:?} has {k} columns, weight {:?} has {kw}: they must agree",
            inputs[0].shape, inputs[1].shape
        ));
    }
    depth(&inputs[1])?;
    epilogue(&a.epilogue, a.x_zero_point, inputs, vec![m, n], n)
}

pub(super) fn binary(a: &QuantBinary, inputs: &[Fact]) -> Facts {
    let [x, y] = exactly(inputs, "a, b")?;
    use Binary::*;
    if !matches!(a.kind, Add | Sub | Mul | Min | Max) {
        return Err(format!("{} is not defined for quantised tensors", a.kind.name()));
    }
    if a.a.is_none() && a.b.is_none() {
        return Err("one operand at least must be of integers".into());
    }
    operand("a", x, a.a)?;
    operand("b", y, a.b)?;
    exact(a.activation)?;
    Ok(vec![Fact { dtype: stored(a.output)?, shape: broadcast_of(&x.shape, &y.shape)? }])
}

pub(super) fn pool(a: &QuantPool, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    operand("x", x, Some(a.x))?;
    if a.pool.kind == PoolKind::Max {
        return Err("a maximum is Pool's".into());
    }
    let shape = pool_shape(&a.pool, x)?;
    let window = a.pool.kernel.iter().fold(1usize, |n, &k| n.saturating_mul(k));
    if window > i32::MAX as usize / 255 {
        return Err(format!("a sum over the window {:?} does not fit 32 bits", a.pool.kernel));
    }
    Ok(vec![Fact { dtype: stored(a.output)?, shape }])
}

pub(super) fn lookup(inputs: &[Fact]) -> Facts {
    let [x, table] = exactly(inputs, "x, table")?;
    byte("x", x)?;
    typed("table", table, &[DType::I8, DType::U8, DType::F32])?;
    if table.shape != [256] {
        return Err(format!("table {:?} must be [256]", table.shape));
    }
    Ok(vec![Fact::new(table.dtype, x.shape.as_slice())])
}
