//! Activations that models spell out in several nodes: `x * sigmoid(x)` is Silu, and so on.

use tobiuo_ops::{Activation, Binary, Op, Unary};
use tobiuo_tensor::DType;

use crate::graph::{Editor, Graph, GraphError, Node, ValueId};

/// The one number that a constant holds in every element, when it broadcasts into `shape`
/// without changing it.
pub(super) fn scalar(edit: &Editor, v: ValueId) -> Option<f64> {
    let t = edit.graph().constant(v)?;
    let values = t.to_f64();
    (values.len() == 1).then(|| values[0])
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * b.abs()
}

/// The operand of a binary node that is a number, and the other one.
pub(super) fn with_scalar(edit: &Editor, node: &Node, kind: Binary) -> Option<(ValueId, f64)> {
    if node.op != (Op::Binary { kind, activation: None }) {
        return None;
    }
    let [a, b] = node.inputs[..] else { return None };
    let commutes = matches!(kind, Binary::Add | Binary::Mul);
    match (scalar(edit, a), scalar(edit, b)) {
        (None, Some(k)) => Some((a, k)),
        (Some(k), None) if commutes => Some((b, k)),
        _ => None,
    }
}

/// `v` made by an activation that only `v`'s one user sees: the activation and its operand.
fn gate(edit: &mut Editor, v: ValueId) -> Option<(Activation, ValueId)> {
    if !edit.used_once(v) {
        return None;
    }
    let (_, node) = edit.made_by(v)?;
    match node.op {
        Op::Activation(a) => Some((a, node.inputs[0])),
        _ => None,
    }
}

/// The activation that `x * y` is, when `y` is a gate of `x`.
fn gated(edit: &mut Editor, x: ValueId, y: ValueId) -> Option<Activation> {
    let (activation, from) = gate(edit, y)?;
    match activation {
        Activation::Sigmoid if from == x => Some(Activation::Silu),
        Activation::HardSigmoid { alpha, beta }
            if from == x && close(alpha.into(), 1.0 / 6.0) && beta == 0.5 =>
        {
            Some(Activation::HardSwish)
        }
        Activation::Tanh => match gate(edit, from)? {
            (Activation::Softplus, inner) if inner == x => Some(Activation::Mish),
            _ => None,
        },
        _ => None,
    }
}

/// `x * clip(x + 3, 0, 6)` that node `i` divides by 6: the `x`.
fn hard_swish(edit: &mut Editor, node: &Node) -> Option<ValueId> {
    let (product, k) = match with_scalar(edit, node, Binary::Div) {
        Some((v, k)) => (v, 1.0 / k),
        None => with_scalar(edit, node, Binary::Mul)?,
    };
    if !close(k, 1.0 / 6.0) || !edit.used_once(product) {
        return None;
    }
    let (_, mul) = edit.made_by(product)?;
    let Op::Binary { kind: Binary::Mul, activation: None } = mul.op else { return None };
    let [a, b] = mul.inputs[..] else { return None };
    [(a, b), (b, a)].into_iter().find_map(|(x, y)| clipped_plus_3(edit, x, y).then_some(x))
}

/// True when `y` is `clip(x + 3, 0, 6)`.
fn clipped_plus_3(edit: &mut Editor, x: ValueId, y: ValueId) -> bool {
    let Some((Activation::Clip { min, max }, sum)) = gate(edit, y) else { return false };
    if min != 0.0 || max != 6.0 || !edit.used_once(sum) {
        return false;
    }
    let Some((_, add)) = edit.made_by(sum) else { return false };
    with_scalar(edit, &add, Binary::Add).is_some_and(|(from, k)| from == x && k == 3.0)
}

/// Factors of a product of up to three values and its numbers' product, seen through
/// multiplications whose results nobody else uses.
fn factors(edit: &mut Editor, node: &Node, depth: usize) -> Option<(Vec<ValueId>, f64)> {
    let Op::Binary { kind: Binary::Mul, activation: None } = node.op else { return None };
    let mut values = Vec::new();
    let mut number = 1.0;
    for &v in &node.inputs {
        if let Some(k) = scalar(edit, v) {
            number *= k;
            continue;
        }
        let inner = if depth > 0 && edit.used_once(v) { edit.made_by(v) } else { None };
        match inner.and_then(|(_, n)| factors(edit, &n, depth - 1)) {
            Some((more, k)) => {
                values.extend(more);
                number *= k;
            }
            None => values.push(v),
        }
    }
    Some((values, number))
}

/// `0.5 * x * (1 + erf(x / sqrt 2))`: the `x`. Or the tanh form with
/// `tanh(sqrt(2 / pi) * (x + 0.044715 x^3))`.
fn gelu(edit: &mut Editor, node: &Node) -> Option<(ValueId, Activation)> {
    let (values, number) = factors(edit, node, 2)?;
    if !close(number, 0.5) || values.len() != 2 {
        return None;
    }
    for (x, sum) in [(values[0], values[1]), (values[1], values[0])] {
        if !edit.used_once(sum) {
            continue;
        }
        let Some((_, add)) = edit.made_by(sum) else { continue };
        let Some((inner, one)) = with_scalar(edit, &add, Binary::Add) else { continue };
        if one != 1.0 {
            continue;
        }
        match gate(edit, inner) {
            Some((Activation::Erf, arg)) if scaled_by(edit, arg, 0.5f64.sqrt()) == Some(x) => {
                return Some((x, Activation::Gelu { tanh: false }));
            }
            Some((Activation::Tanh, arg)) if tanh_argument(edit, arg, x) => {
                return Some((x, Activation::Gelu { tanh: true }));
            }
            _ => {}
        }
    }
    None
}

/// `v = x * k` or `x / (1 / k)`: the `x`.
fn scaled_by(edit: &mut Editor, v: ValueId, k: f64) -> Option<ValueId> {
    let (_, node) = edit.made_by(v)?;
    let (x, by) = match with_scalar(edit, &node, Binary::Div) {
        Some((x, by)) => (x, 1.0 / by),
        None => with_scalar(edit, &node, Binary::Mul)?,
    };
    close(by, k).then_some(x)
}

/// `v = sqrt(2 / pi) * (x + 0.044715 * x^3)`.
fn tanh_argument(edit: &mut Editor, v: ValueId, x: ValueId) -> bool {
    let Some(sum) = scaled_by(edit, v, (2.0 / std::f64::consts::PI).sqrt()) else { return false };
    let Some((_, add)) = edit.made_by(sum) else { return false };
    let Op::Binary { kind: Binary::Add, activation: None } = add.op else { return false };
    let cubic = |edit: &mut Editor, v: ValueId| {
        let Some(power) = scaled_by(edit, v, 0.044715) else { return false };
        let Some((_, pow)) = edit.made_by(power) else { return false };
        with_scalar(edit, &pow, Binary::Pow) == Some((x, 3.0))
    };
    let [a, b] = add.inputs[..] else { return false };
    (a == x && cubic(edit, b)) || (b == x && cubic(edit, a))
}

/// The activation that node `i` completes, and its operand.
fn pattern(edit: &mut Editor, node: &Node) -> Option<(ValueId, Activation)> {
    match &node.op {
        Op::Binary { kind: Binary::Mul, activation: None } => {
            let [a, b] = node.inputs[..] else { return None };
            if let Some(activation) = gated(edit, a, b) {
                return Some((a, activation));
            }
            if let Some(activation) = gated(edit, b, a) {
                return Some((b, activation));
            }
            hard_swish(edit, node).map(|x| (x, Activation::HardSwish)).or_else(|| gelu(edit, node))
        }
        Op::Binary { kind: Binary::Div, activation: None } => {
            hard_swish(edit, node).map(|x| (x, Activation::HardSwish))
        }
        Op::Binary { kind, activation: None } => one_sided(edit, node, *kind),
        // ln(1 + exp x)
        Op::Unary(Unary::Log) => {
            let (_, add) = edit.made_by(node.inputs[0])?;
            let (power, one) = with_scalar(edit, &add, Binary::Add)?;
            let (_, exp) = edit.made_by(power)?;
            (one == 1.0 && exp.op == Op::Unary(Unary::Exp))
                .then(|| (exp.inputs[0], Activation::Softplus))
        }
        _ => None,
    }
}

/// `max(x, 0)`, and `min(max(x, lo), hi)`.
fn one_sided(edit: &mut Editor, node: &Node, kind: Binary) -> Option<(ValueId, Activation)> {
    let [a, b] = node.inputs[..] else { return None };
    let (x, k) = match (scalar(edit, a), scalar(edit, b)) {
        (None, Some(k)) => (a, k as f32),
        (Some(k), None) => (b, k as f32),
        _ => return None,
    };
    if k.is_nan() {
        return None;
    }
    match kind {
        Binary::Max if k == 0.0 => Some((x, Activation::Relu)),
        Binary::Min if k >= 0.0 && edit.used_once(x) => {
            let (_, before) = edit.made_by(x)?;
            match before.op {
                Op::Activation(Activation::Relu) => {
                    Some((before.inputs[0], Activation::Clip { min: 0.0, max: k }))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The pass. What a pattern no longer uses goes when the graph is compacted.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        let Some(&out) = node.outputs.first() else { continue };
        if edit.graph().fact(out).dtype != DType::F32 {
            continue;
        }
        if let Some((x, activation)) = pattern(&mut edit, &node)
            && edit.graph().fact(x) == edit.graph().fact(out)
        {
            edit.rewrite(i, Op::Activation(activation), &[x])?;
        }
    }
    Ok(edit.finish())
}
