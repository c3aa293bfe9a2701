//! What is known at import: constants, shapes, ranges.

use tobiuo_ops::{MAX_RANK, Op};
use tobiuo_tensor::{DType, Tensor, TensorData, checked_numel};

use super::super::context::{Context, Outputs, scalar_data};
use super::super::stop::{Res, invalid, unsupported};
use super::super::tensor;
use super::one;

/// Constant, in every attribute form that holds numbers.
pub fn constant(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(0, 0)?;
    let a = &c.attributes;
    let value = if let Some(t) = a.tensor("value")? {
        tensor::decode(&t, c.importer.folder)?
    } else if let Some(v) = a.float("value_float")? {
        Tensor::f32(Vec::new(), vec![v])
    } else if let Some(v) = a.floats("value_floats")? {
        Tensor::f32([v.len()], v.to_vec())
    } else if let Some(v) = a.int("value_int")? {
        Tensor::i64(Vec::new(), vec![v])
    } else if let Some(v) = a.ints("value_ints")? {
        Tensor::i64([v.len()], v.to_vec())
    } else {
        for name in ["sparse_value", "value_string", "value_strings"] {
            if a.has(name) {
                return unsupported(format!("a constant given as {name}"), "");
            }
        }
        return invalid("it has no value");
    };
    let y = c.add_constant(value);
    one(y)
}

/// ConstantOfShape.
pub fn constant_of_shape(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let dims = c.int_input(0, "the shape")?.unwrap_or_default();
    let shape = tensor::shape(&dims)?;
    let value = match c.attributes.tensor("value")? {
        Some(t) => tensor::decode(&t, c.importer.folder)?,
        None => Tensor::f32([1], vec![0.0]),
    };
    if value.numel() != 1 {
        return invalid(format!("the value has {} elements, one is expected", value.numel()));
    }
    let Some(value) = value.reshaped(Vec::new()) else { return invalid("the value has no shape") };
    let v = c.add_constant(value);
    let y = c.emit(Op::Expand { shape }, &[v])?;
    one(y)
}

/// Shape, from `start` to `end` (opset 15).
pub fn shape(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let shape = c.shape(c.input(0)?);
    let rank = shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let start = clamp(c.attributes.int_or("start", 0)?);
    let end = clamp(c.attributes.int_or("end", rank)?);
    let dims: Vec<i64> =
        shape.get(start..end).unwrap_or_default().iter().map(|&d| d as i64).collect();
    let y = c.add_constant(Tensor::i64([dims.len()], dims));
    one(y)
}

/// Size.
pub fn size(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let n: usize = c.shape(c.input(0)?).iter().product();
    let y = c.add_constant(Tensor::i64(Vec::new(), vec![n as i64]));
    one(y)
}

/// Takes elements from what folding may make.
fn charge(c: &mut Context<'_, '_>, n: usize) -> Res<()> {
    match c.importer.fold_budget.checked_sub(n) {
        Some(left) => {
            c.importer.fold_budget = left;
            Ok(())
        }
        None => unsupported(format!("a constant of {n} elements from so small a file"), ""),
    }
}

/// Range of constants.
pub fn range(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    // The type that 16-bit floats are summed in; here it is f32.
    c.attributes.ignore("stash_type");
    let mut values = [0.0; 3];
    for (i, name) in ["start", "limit", "delta"].iter().enumerate() {
        match c.number(i, name)? {
            Some(v) if v.is_finite() => values[i] = v,
            _ => return invalid(format!("{name} is not a number")),
        }
    }
    let dtype = c.dtype(c.input(0)?);
    if (1..3).any(|i| c.input(i).is_ok_and(|v| c.dtype(v) != dtype)) {
        return invalid("start, limit and delta differ in type");
    }
    let [start, limit, delta] = values;
    if delta == 0.0 {
        return invalid("delta is 0");
    }
    let n = ((limit - start) / delta).ceil().max(0.0);
    if n > 1e12 {
        return invalid(format!("a range of {n} elements"));
    }
    let n = n as usize;
    charge(c, n)?;
    let data = match dtype {
        DType::F32 => {
            let (start, delta) = (start as f32, delta as f32);
            TensorData::F32((0..n).map(|i| start + i as f32 * delta).collect())
        }
        // Elements lie between start and limit, which the type holds.
        DType::I64 => {
            TensorData::I64((0..n).map(|i| start as i64 + i as i64 * delta as i64).collect())
        }
        DType::I32 => TensorData::I32(
            (0..n).map(|i| (start as i64 + i as i64 * delta as i64) as i32).collect(),
        ),
        other => {
            return unsupported(format!("a range of {other}"), "f32, i64 and i32 are supported");
        }
    };
    let y = c.add_constant(Tensor::new([n], data));
    one(y)
}

/// EyeLike: ones on a diagonal, zeros elsewhere.
pub fn eye_like(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let shape = c.shape(x);
    let &[rows, columns] = shape.as_slice() else {
        return invalid(format!("x {shape:?} must be a matrix"));
    };
    let dtype = match c.attributes.int("dtype")? {
        Some(t) => tensor::dtype(t)?,
        None => c.dtype(x),
    };
    let k = c.attributes.int_or("k", 0)?;
    let Some(n) = checked_numel(&shape) else { return invalid("the matrix is too large") };
    charge(c, n)?;
    let Some(unit) = scalar_data(dtype, 1.0) else {
        return unsupported(format!("a matrix of {dtype}"), "");
    };
    let on = |i: usize| {
        let row = (i / columns) as i64;
        row.checked_add(k) == Some((i % columns) as i64)
    };
    let data = match unit {
        TensorData::F32(_) => TensorData::F32((0..n).map(|i| f32::from(u8::from(on(i)))).collect()),
        TensorData::I64(_) => TensorData::I64((0..n).map(|i| i64::from(on(i))).collect()),
        TensorData::I32(_) => TensorData::I32((0..n).map(|i| i32::from(on(i))).collect()),
        TensorData::I8(_) => TensorData::I8((0..n).map(|i| i8::from(on(i))).collect()),
        TensorData::U8(_) => TensorData::U8((0..n).map(|i| u8::from(on(i))).collect()),
        _ => TensorData::Bool((0..n).map(|i| u8::from(on(i))).collect()),
    };
    let y = c.add_constant(Tensor::new([rows, columns], data));
    one(y)
}

/// Trilu: a triangle of each matrix, zeros elsewhere. Which, is known from the shape.
pub fn trilu(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 2)?;
    let x = c.input(0)?;
    let shape = c.shape(x);
    let &[.., rows, columns] = shape.as_slice() else {
        return invalid(format!("x {shape:?} must have at least 2 axes"));
    };
    let k = c.int_scalar(1, "k")?.unwrap_or(0);
    let upper = c.attributes.flag("upper", true)?;
    let Some(n) = rows.checked_mul(columns) else { return invalid("the matrix is too large") };
    charge(c, n)?;
    let kept = (0..n).map(|i| {
        let beyond = (i % columns) as i128 - (i / columns) as i128;
        u8::from(if upper { beyond >= i128::from(k) } else { beyond <= i128::from(k) })
    });
    let mask = Tensor::new([rows, columns], TensorData::Bool(kept.collect()));
    let mask = c.add_constant(mask);
    let Some(zero) = c.scalar_of(c.dtype(x), 0.0) else {
        return unsupported(format!("Trilu of {}", c.dtype(x)), "");
    };
    let y = c.emit(Op::Where, &[mask, x, zero])?;
    one(y)
}

/// NonZero of a constant: the indices `[rank, count]`.
pub fn non_zero(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let Some(x) = c.constant_input(0, "x, whose values decide the output's shape")? else {
        return invalid("operand 0 is missing");
    };
    let rank = x.shape().len().min(MAX_RANK);
    let values = x.to_f64();
    let at: Vec<usize> = (0..values.len()).filter(|&i| values[i] != 0.0).collect();
    // A scalar counts as a vector of one element, but has no axis to give an index of.
    charge(c, rank.saturating_mul(at.len()).saturating_add(values.len()))?;
    let strides = tobiuo_tensor::strides(x.shape());
    let mut out = Vec::with_capacity(rank * at.len());
    for (axis, &stride) in strides.iter().enumerate() {
        out.extend(at.iter().map(|&i| (i / stride % x.shape()[axis]) as i64));
    }
    let y = c.add_constant(Tensor::i64([rank, at.len()], out));
    one(y)
}
