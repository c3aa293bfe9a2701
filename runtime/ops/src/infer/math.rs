//! Operators that compute element-wise, along axes, or matrix products.

use tobiuo_tensor::DType;

use super::{
    Fact, Facts, axis_in, broadcast_of, broadcast_to, epsilon_of, exactly, finite, float,
    per_channel, same_type,
};
use crate::{Activation, Binary, Gemm, Reduce, Unary};

/// An activation's constants must be numbers (a limit may be infinite).
pub(super) fn check_activation(a: Option<Activation>) -> Result<(), String> {
    let constants = match a {
        Some(Activation::LeakyRelu { alpha } | Activation::Elu { alpha }) => [alpha, 0.0],
        Some(Activation::Clip { min, max }) => [min, max],
        Some(Activation::HardSigmoid { alpha, beta }) => [alpha, beta],
        _ => return Ok(()),
    };
    if constants.iter().any(|c| c.is_nan()) {
        return Err(format!("activation {a:?} has a constant that is not a number"));
    }
    Ok(())
}

fn same(fact: &Fact) -> Facts {
    Ok(vec![fact.clone()])
}

pub(super) fn gemm(g: &Gemm, inputs: &[Fact]) -> Facts {
    let (a, b, c) = match inputs {
        [a, b] => (a, b, None),
        [a, b, c] => (a, b, Some(c)),
        _ => return Err(format!("takes 2 or 3 inputs (a, b, c), {} are given", inputs.len())),
    };
    float("a", a)?;
    same_type("b", b, "a", a)?;
    check_activation(g.activation)?;
    finite("alpha", g.alpha)?;
    finite("beta", g.beta)?;
    let (&[a0, a1], &[b0, b1]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return Err(format!("a {:?} and b {:?} must be matrices", a.shape, b.shape));
    };
    let (m, ka) = if g.trans_a { (a1, a0) } else { (a0, a1) };
    let (kb, n) = if g.trans_b { (b1, b0) } else { (b0, b1) };
    if ka != kb {
        let t = |t: bool| if t { " transposed" } else { "" };
        return Err(format!(
            "a {:?}{} has {ka} columns, b {:?}{} has {kb} rows: they must agree",
            a.shape,
            t(g.trans_a),
            b.shape,
            t(g.trans_b)
        ));
    }
    if let Some(c) = c {
        same_type("c", c, "a", a)?;
        broadcast_to("c", &c.shape, &[m, n])?;
    }
    Ok(vec![Fact::new(a.dtype, [m, n])])
}

pub(super) fn matmul(inputs: &[Fact]) -> Facts {
    let [a, b] = exactly(inputs, "a, b")?;
    float("a", a)?;
    same_type("b", b, "a", a)?;
    if a.shape.is_empty() || b.shape.is_empty() {
        return Err(format!("a {:?} and b {:?} need at least one axis each", a.shape, b.shape));
    }
    // As numpy: a vector is a row on the left, a column on the right, and its axis goes again.
    let (a_batch, m, ka) = match a.shape.as_slice() {
        [k] => (&[][..], None, *k),
        [batch @ .., m, k] => (batch, Some(*m), *k),
        [] => unreachable!("checked above"),
    };
    let (b_batch, kb, n) = match b.shape.as_slice() {
        [k] => (&[][..], *k, None),
        [batch @ .., k, n] => (batch, *k, Some(*n)),
        [] => unreachable!("checked above"),
    };
    if ka != kb {
        return Err(format!(
            "a {:?} has {ka} columns, b {:?} has {kb} rows: they must agree",
            a.shape, b.shape
        ));
    }
    let mut shape = broadcast_of(a_batch, b_batch).map_err(|_| {
        format!("the batch axes of {:?} and {:?} do not broadcast", a.shape, b.shape)
    })?;
    shape.extend(m);
    shape.extend(n);
    Ok(vec![Fact { dtype: a.dtype, shape }])
}

fn channels(x: &Fact, min_rank: usize) -> Result<usize, String> {
    if x.shape.len() < min_rank {
        return Err(format!("x {:?} must have at least {min_rank} axes: [N, C, ...]", x.shape));
    }
    Ok(x.shape[1])
}

pub(super) fn batch_norm(epsilon: f32, inputs: &[Fact]) -> Facts {
    let [x, scale, bias, mean, variance] = exactly(inputs, "x, scale, bias, mean, variance")?;
    float("x", x)?;
    epsilon_of(epsilon)?;
    let c = channels(x, 2)?;
    for (name, fact) in [("scale", scale), ("bias", bias), ("mean", mean), ("variance", variance)] {
        per_channel(name, fact, x, c)?;
    }
    same(x)
}

pub(super) fn lrn(size: usize, constants: [f32; 3], inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    float("x", x)?;
    channels(x, 2)?;
    if size == 0 {
        return Err("size is 0, the window needs at least one channel".into());
    }
    for (name, value) in ["alpha", "beta", "bias"].iter().zip(constants) {
        finite(name, value)?;
    }
    same(x)
}

pub(super) fn activation(a: Activation, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    float("x", x)?;
    check_activation(Some(a))?;
    same(x)
}

pub(super) fn prelu(inputs: &[Fact]) -> Facts {
    let [x, slope] = exactly(inputs, "x, slope")?;
    float("x", x)?;
    same_type("slope", slope, "x", x)?;
    broadcast_to("slope", &slope.shape, &x.shape)?;
    same(x)
}

pub(super) fn unary(u: Unary, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let fits = match u {
        Unary::Not => x.dtype == DType::Bool,
        Unary::Abs | Unary::Sign => x.dtype != DType::Bool,
        Unary::Neg => !matches!(x.dtype, DType::Bool | DType::U8),
        _ => x.dtype.is_float(),
    };
    if fits { same(x) } else { Err(format!("{} is not defined for {}", u.name(), x.dtype)) }
}

pub(super) fn binary(kind: Binary, activation: Option<Activation>, inputs: &[Fact]) -> Facts {
    let [a, b] = exactly(inputs, "a, b")?;
    same_type("b", b, "a", a)?;
    let is_bool = a.dtype == DType::Bool;
    let fits = match kind {
        Binary::And | Binary::Or | Binary::Xor => is_bool,
        Binary::Equal => true,
        _ => !is_bool,
    };
    if !fits {
        return Err(format!("{} is not defined for {}", kind.name(), a.dtype));
    }
    let dtype = if kind.is_comparison() || kind.is_logical() { DType::Bool } else { a.dtype };
    if activation.is_some() && !dtype.is_float() {
        return Err(format!("an activation cannot follow a result of type {dtype}"));
    }
    check_activation(activation)?;
    Ok(vec![Fact { dtype, shape: broadcast_of(&a.shape, &b.shape)? }])
}

pub(super) fn softmax(axis: usize, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    float("x", x)?;
    axis_in(axis, x)?;
    same(x)
}

pub(super) fn reduce(kind: Reduce, axes: &[usize], keep_dims: bool, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let fits = match kind {
        Reduce::Max | Reduce::Min => true,
        Reduce::L2 | Reduce::LogSum | Reduce::LogSumExp => x.dtype.is_float(),
        _ => x.dtype.is_float() || matches!(x.dtype, DType::I64 | DType::I32),
    };
    if !fits {
        return Err(format!("{} is not defined for {}", kind.name(), x.dtype));
    }
    if axes.windows(2).any(|w| w[0] >= w[1]) {
        return Err(format!("axes {axes:?} must ascend"));
    }
    for &axis in axes {
        axis_in(axis, x)?;
    }
    let mut shape = Vec::with_capacity(x.shape.len());
    for (axis, &size) in x.shape.iter().enumerate() {
        match axes.contains(&axis) {
            false => shape.push(size),
            true if keep_dims => shape.push(1),
            true => {}
        }
    }
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn arg_reduce(axis: usize, keep_dims: bool, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    axis_in(axis, x)?;
    if x.shape[axis] == 0 {
        return Err(format!("axis {axis} of x {:?} has no element to choose", x.shape));
    }
    let mut shape = x.shape.clone();
    if keep_dims {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    Ok(vec![Fact { dtype: DType::I64, shape }])
}

pub(super) fn top_k(k: usize, axis: usize, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    axis_in(axis, x)?;
    if x.dtype == DType::Bool {
        return Err("TopK is not defined for bool".into());
    }
    if k > x.shape[axis] {
        return Err(format!("k is {k}, axis {axis} of x {:?} has only {}", x.shape, x.shape[axis]));
    }
    let mut shape = x.shape.clone();
    shape[axis] = k;
    Ok(vec![Fact { dtype: x.dtype, shape: shape.clone() }, Fact { dtype: DType::I64, shape }])
}

pub(super) fn select(inputs: &[Fact]) -> Facts {
    let [condition, x, y] = exactly(inputs, "condition, x, y")?;
    if condition.dtype != DType::Bool {
        return Err(format!("the condition is {}, it must be bool", condition.dtype));
    }
    same_type("y", y, "x", x)?;
    let shape = broadcast_of(&condition.shape, &broadcast_of(&x.shape, &y.shape)?)?;
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn layer_norm(axis: usize, epsilon: f32, inputs: &[Fact]) -> Facts {
    let [x, scale, bias] = exactly(inputs, "x, scale, bias")?;
    float("x", x)?;
    axis_in(axis, x)?;
    epsilon_of(epsilon)?;
    for (name, fact) in [("scale", scale), ("bias", bias)] {
        same_type(name, fact, "x", x)?;
        if fact.shape != x.shape[axis..] {
            return Err(format!(
                "{name} {:?} must have the shape {:?} of x's normalised axes",
                fact.shape,
                &x.shape[axis..]
            ));
        }
    }
    same(x)
}

pub(super) fn instance_norm(epsilon: f32, inputs: &[Fact]) -> Facts {
    let [x, scale, bias] = exactly(inputs, "x, scale, bias")?;
    float("x", x)?;
    epsilon_of(epsilon)?;
    let c = channels(x, 3)?;
    per_channel("scale", scale, x, c)?;
    per_channel("bias", bias, x, c)?;
    same(x)
}
