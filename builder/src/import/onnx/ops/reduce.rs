//! Reductions, ArgMax, ArgMin, TopK, Hardmax, CumSum.

use tobiuo_ops::{Binary, Op, Pad, PadMode, Reduce, Unary};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::arithmetic::emit_binary;
use super::one;
use super::places::places_along;

/// Reduce*: axes are an attribute up to opset 17 (ReduceSum: 12), an operand afterwards.
pub fn reduce(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let kind = match c.node.op_type {
        "ReduceMean" => Reduce::Mean,
        "ReduceSum" => Reduce::Sum,
        "ReduceMax" => Reduce::Max,
        "ReduceMin" => Reduce::Min,
        "ReduceProd" => Reduce::Prod,
        "ReduceL1" => Reduce::L1,
        "ReduceL2" => Reduce::L2,
        "ReduceSumSquare" => Reduce::SumSquare,
        "ReduceLogSum" => Reduce::LogSum,
        "ReduceLogSumExp" => Reduce::LogSumExp,
        other => return unsupported(format!("the reduction {other}"), ""),
    };
    let x = c.input(0)?;
    let rank = c.rank(x);
    let keep_dims = c.attributes.flag("keepdims", true)?;
    let as_operand = c.opset >= if kind == Reduce::Sum { 13 } else { 18 };
    let (axes, no_axes_no_op) = if as_operand {
        c.expect_inputs(1, 2)?;
        (c.int_input(1, "axes")?, c.attributes.flag("noop_with_empty_axes", false)?)
    } else {
        c.expect_inputs(1, 1)?;
        (c.attributes.ints("axes")?.map(<[i64]>::to_vec), false)
    };
    let axes = match axes.filter(|a| !a.is_empty()) {
        Some(axes) => {
            let mut axes = c.axes(&axes, rank)?;
            axes.sort_unstable();
            axes
        }
        None if no_axes_no_op => {
            // Nothing is summed, but what is applied to each element still is.
            let y = match kind {
                Reduce::L1 | Reduce::L2 => c.emit(Op::Unary(Unary::Abs), &[x])?,
                Reduce::SumSquare => emit_binary(c, Binary::Mul, x, x)?,
                Reduce::LogSum => c.emit(Op::Unary(Unary::Log), &[x])?,
                _ => x,
            };
            return one(y);
        }
        None => (0..rank).collect(),
    };
    let y = c.emit(Op::Reduce { kind, axes, keep_dims }, &[x])?;
    one(y)
}

/// ArgMax, ArgMin.
pub fn arg_reduce(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let op = Op::ArgReduce {
        axis: c.axis(c.attributes.int_or("axis", 0)?, c.rank(x))?,
        min: c.node.op_type == "ArgMin",
        keep_dims: c.attributes.flag("keepdims", true)?,
        select_last: c.attributes.flag("select_last_index", false)?,
    };
    let y = c.emit(op, &[x])?;
    one(y)
}

/// TopK: k is an attribute up to opset 9, an operand afterwards.
pub fn top_k(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let shape = c.shape(x);
    let k = if c.opset < 10 {
        c.expect_inputs(1, 1)?;
        c.attributes.int("k")?
    } else {
        c.expect_inputs(2, 2)?;
        c.int_scalar(1, "k")?
    };
    let axis = c.axis(c.attributes.int_or("axis", -1)?, shape.len())?;
    let Some(k) = k.and_then(|k| usize::try_from(k).ok()) else {
        return invalid(format!("k is {k:?}"));
    };
    let op = Op::TopK {
        k,
        axis,
        largest: c.attributes.flag("largest", true)?,
        sorted: c.attributes.flag("sorted", true)?,
    };
    Ok(c.emit_all(op, &[x])?.into_iter().map(Some).collect())
}

/// Hardmax: 1 at the first maximum, else 0. Up to opset 12 over all axes from `axis` on, taken
/// as one.
pub fn hardmax(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let mut x = c.input(0)?;
    let shape = c.shape(x);
    let joined = c.opset < 13;
    let mut axis =
        c.axis(c.attributes.int_or("axis", if joined { 1 } else { -1 })?, shape.len())?;
    if joined {
        let (rows, columns) = (shape[..axis].iter().product(), shape[axis..].iter().product());
        x = c.reshape(x, vec![rows, columns])?;
        axis = 1;
    }
    let flat = c.shape(x);
    let largest = Op::ArgReduce { axis, min: false, keep_dims: true, select_last: false };
    let largest = c.emit(largest, &[x])?;
    let places = places_along(c, flat[axis], axis, flat.len())?;
    let here = emit_binary(c, Binary::Equal, largest, places)?;
    let y = c.emit(Op::Cast { to: c.dtype(x) }, &[here])?;
    let y = c.reshape(y, shape)?;
    one(y)
}

/// CumSum along a constant axis, each step adding what lies twice as far away (Hillis and
/// Steele, "Data parallel algorithms", 1986).
pub fn cum_sum(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let mut y = c.input(0)?;
    let shape = c.shape(y);
    let Some(axis) = c.int_scalar(1, "the axis")? else { return invalid("the axis is missing") };
    let axis = c.axis(axis, shape.len())?;
    let reverse = c.attributes.flag("reverse", false)?;
    let moved = |c: &mut Context<'_, '_>, x, by: usize| {
        let (mut begins, mut ends) = (vec![0; shape.len()], vec![0; shape.len()]);
        let by = if reverse { -(by as i64) } else { by as i64 };
        (begins[axis], ends[axis]) = (by, -by);
        c.emit(Op::Pad(Pad { begins, ends, mode: PadMode::Constant { value: 0.0 } }), &[x])
    };
    if c.attributes.flag("exclusive", false)? && shape[axis] > 0 {
        y = moved(c, y, 1)?;
    }
    let mut by = 1;
    while by < shape[axis] {
        let other = moved(c, y, by)?;
        y = emit_binary(c, Binary::Add, y, other)?;
        by *= 2;
    }
    one(y)
}
