//! BatchNormalization, LRN, LayerNormalization, InstanceNormalization and others composed of
//! simpler ops.

use tobiuo_ops::{Binary, Op, Reduce, Unary};
use tobiuo_tensor::Tensor;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::arithmetic::emit_binary;
use super::one;
use crate::graph::ValueId;

/// BatchNormalization in its inference form.
pub fn batch(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(5, 5)?;
    c.attributes.ignore("momentum");
    let training = match c.opset {
        ..7 => !c.attributes.flag("is_test", false)?,
        _ => c.attributes.flag("training_mode", false)?,
    };
    if training {
        return unsupported("training mode is not supported", "export the model in inference mode");
    }
    if !c.attributes.flag("spatial", true)? {
        return unsupported("spatial is 0 (statistics per element)", "");
    }
    let epsilon = c.attributes.float_or("epsilon", 1e-5)?;
    let inputs = c.all_inputs()?;
    let y = c.emit(Op::BatchNorm { epsilon }, &inputs)?;
    one(y)
}

/// LRN.
pub fn lrn(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let size = match c.attributes.int("size")? {
        Some(n) if n > 0 => n as usize,
        other => return invalid(format!("size is {other:?}, it must be at least 1")),
    };
    let op = Op::Lrn {
        size,
        alpha: c.attributes.float_or("alpha", 1e-4)?,
        beta: c.attributes.float_or("beta", 0.75)?,
        bias: c.attributes.float_or("bias", 1.0)?,
    };
    let y = c.emit(op, &[c.input(0)?])?;
    one(y)
}

/// A scale or bias broadcast to the shape it is applied with.
fn broadcast(c: &mut Context<'_, '_>, v: ValueId, shape: &[usize]) -> Res<ValueId> {
    if c.shape(v) == shape {
        return Ok(v);
    }
    c.emit(Op::Expand { shape: shape.to_vec() }, &[v])
}

/// LayerNormalization. Its other outputs, mean and inverse deviation, are computed where they
/// are used.
pub fn layer(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 3)?;
    c.attributes.ignore("stash_type");
    let x = c.input(0)?;
    let shape = c.shape(x);
    let axis = c.axis(c.attributes.int_or("axis", -1)?, shape.len())?;
    let epsilon = c.attributes.float_or("epsilon", 1e-5)?;
    let scale = c.input(1)?;
    let scale = broadcast(c, scale, &shape[axis..])?;
    let bias = match c.optional(2) {
        Some(b) => b,
        None => c.scalar(0.0),
    };
    let bias = broadcast(c, bias, &shape[axis..])?;
    let y = c.emit(Op::LayerNorm { axis, epsilon }, &[x, scale, bias])?;
    if c.node.outputs[1.min(c.node.outputs.len())..].iter().all(|o| !c.importer.is_used(o)) {
        return one(y);
    }
    let axes = (axis..shape.len()).collect();
    let mean = Op::Reduce { kind: Reduce::Mean, axes, keep_dims: true };
    let m = c.emit(mean.clone(), &[x])?;
    let centred = emit_binary(c, Binary::Sub, x, m)?;
    let square = emit_binary(c, Binary::Mul, centred, centred)?;
    let variance = c.emit(mean, &[square])?;
    let epsilon = c.scalar(epsilon);
    let variance = emit_binary(c, Binary::Add, variance, epsilon)?;
    let deviation = c.emit(Op::Unary(Unary::Sqrt), &[variance])?;
    let inverse = c.emit(Op::Unary(Unary::Reciprocal), &[deviation])?;
    Ok(vec![Some(y), Some(m), Some(inverse)])
}

/// InstanceNormalization.
pub fn instance(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    let epsilon = c.attributes.float_or("epsilon", 1e-5)?;
    let inputs = c.all_inputs()?;
    let y = c.emit(Op::InstanceNorm { epsilon }, &inputs)?;
    one(y)
}

/// GroupNormalization: an InstanceNorm over groups of channels. Scale and bias are per group
/// up to opset 20, per channel from 21 on.
pub fn group(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    c.attributes.ignore("stash_type");
    let (x, scale, bias) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let shape = c.shape(x);
    let epsilon = c.attributes.float_or("epsilon", 1e-5)?;
    let groups = c.attributes.int("num_groups")?.and_then(|g| usize::try_from(g).ok());
    let (Some(groups), true) = (groups.filter(|&g| g > 0), shape.len() >= 2) else {
        return invalid("num_groups is missing or below 1, or x has fewer than 2 axes");
    };
    if !shape[1].is_multiple_of(groups) || shape.contains(&0) {
        return invalid(format!("{groups} groups do not divide the channels of x {shape:?}"));
    }
    let numel: usize = shape.iter().product();
    let grouped = c.reshape(x, vec![shape[0], groups, numel / shape[0] / groups])?;
    let per_group = c.opset < 21;
    let (s, b) = if per_group {
        (scale, bias)
    } else {
        let ones = c.add_constant(Tensor::f32([groups], vec![1.0; groups]));
        let zeros = c.add_constant(Tensor::f32([groups], vec![0.0; groups]));
        (ones, zeros)
    };
    let y = c.emit(Op::InstanceNorm { epsilon }, &[grouped, s, b])?;
    let mut y = c.reshape(y, shape.clone())?;
    if !per_group {
        let mut per_channel = vec![1; shape.len() - 1];
        per_channel[0] = shape[1];
        let scale = c.reshape(scale, per_channel.clone())?;
        let bias = c.reshape(bias, per_channel)?;
        y = emit_binary(c, Binary::Mul, y, scale)?;
        y = emit_binary(c, Binary::Add, y, bias)?;
    }
    one(y)
}

/// MeanVarianceNormalization: `(x - mean) / (sqrt(mean((x - mean)^2)) + 1e-9)`.
pub fn mean_variance(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let axes = c.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let mut axes = c.axes(axes, c.rank(x))?;
    axes.sort_unstable();
    let mean = Op::Reduce { kind: Reduce::Mean, axes, keep_dims: true };
    let m = c.emit(mean.clone(), &[x])?;
    let centred = emit_binary(c, Binary::Sub, x, m)?;
    let square = emit_binary(c, Binary::Mul, centred, centred)?;
    let variance = c.emit(mean, &[square])?;
    let deviation = c.emit(Op::Unary(Unary::Sqrt), &[variance])?;
    let tiny = c.scalar(1e-9);
    let deviation = emit_binary(c, Binary::Add, deviation, tiny)?;
    let y = emit_binary(c, Binary::Div, centred, deviation)?;
    one(y)
}

/// LpNormalization: x over its norm along an axis; 0 where the norm is 0.
pub fn lp(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let axis = c.axis(c.attributes.int_or("axis", -1)?, c.rank(x))?;
    let kind = match c.attributes.int_or("p", 2)? {
        1 => Reduce::L1,
        2 => Reduce::L2,
        p => return invalid(format!("p is {p}, it must be 1 or 2")),
    };
    let norm = c.emit(Op::Reduce { kind, axes: vec![axis], keep_dims: true }, &[x])?;
    let zero = c.scalar(0.0);
    let y = emit_binary(c, Binary::Div, x, norm)?;
    let empty = emit_binary(c, Binary::Equal, norm, zero)?;
    let y = c.emit(Op::Where, &[empty, zero, y])?;
    one(y)
}

/// RMSNormalization: `x / sqrt(mean(x^2) + epsilon) * scale` over the axes from `axis` on.
pub fn rms(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    c.attributes.ignore("stash_type");
    let (x, scale) = (c.input(0)?, c.input(1)?);
    let rank = c.rank(x);
    let axis = c.axis(c.attributes.int_or("axis", -1)?, rank)?;
    let epsilon = c.attributes.float_or("epsilon", 1e-5)?;
    let square = emit_binary(c, Binary::Mul, x, x)?;
    let axes = (axis..rank).collect();
    let mean = c.emit(Op::Reduce { kind: Reduce::Mean, axes, keep_dims: true }, &[square])?;
    let epsilon = c.scalar(epsilon);
    let mean = emit_binary(c, Binary::Add, mean, epsilon)?;
    let root = c.emit(Op::Unary(Unary::Sqrt), &[mean])?;
    let y = emit_binary(c, Binary::Div, x, root)?;
    let y = emit_binary(c, Binary::Mul, y, scale)?;
    one(y)
}
