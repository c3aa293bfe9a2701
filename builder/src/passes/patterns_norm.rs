//! LayerNorm spelled out: `(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias`.

use tobiuo_ops::{Binary, Op, Reduce, Unary};
use tobiuo_tensor::{DType, Tensor};

use super::patterns::with_scalar;
use crate::graph::{Editor, Graph, GraphError, Node, ValueId};

/// The mean over the last axes of a value, kept: the value and the first of those axes.
fn mean_over_last(edit: &mut Editor, v: ValueId) -> Option<(ValueId, usize)> {
    let (_, node) = edit.made_by(v)?;
    let Op::Reduce { kind: Reduce::Mean, axes, keep_dims: true } = &node.op else { return None };
    let rank = edit.graph().shape(node.inputs[0]).len();
    let first = *axes.first()?;
    axes.iter().copied().eq(first..rank).then_some((node.inputs[0], first))
}

/// `v = d * d` or `d ^ 2`: the `d`.
fn square(edit: &mut Editor, v: ValueId) -> Option<ValueId> {
    let (_, node) = edit.made_by(v)?;
    match &node.op {
        Op::Binary { kind: Binary::Mul, activation: None } if node.inputs[0] == node.inputs[1] => {
            Some(node.inputs[0])
        }
        _ => with_scalar(edit, &node, Binary::Pow).and_then(|(d, k)| (k == 2.0).then_some(d)),
    }
}

/// The normalised value that a Div makes: `x`, first axis, epsilon.
fn normalised(edit: &mut Editor, div: &Node) -> Option<(ValueId, usize, f32)> {
    if div.op != (Op::Binary { kind: Binary::Div, activation: None }) {
        return None;
    }
    let [centred, deviation] = div.inputs[..] else { return None };
    let (_, sqrt) = edit.made_by(deviation)?;
    if sqrt.op != Op::Unary(Unary::Sqrt) {
        return None;
    }
    let (_, add) = edit.made_by(sqrt.inputs[0])?;
    let (variance, epsilon) = with_scalar(edit, &add, Binary::Add)?;
    let (squared, axis) = mean_over_last(edit, variance)?;
    let d = square(edit, squared)?;
    // Exporters may compute x - mean twice.
    for v in [centred, d] {
        let (_, sub) = edit.made_by(v)?;
        if sub.op != (Op::Binary { kind: Binary::Sub, activation: None }) {
            return None;
        }
        let (x, first) = mean_over_last(edit, sub.inputs[1])?;
        if x != sub.inputs[0] || first != axis {
            return None;
        }
    }
    let x_of = |edit: &mut Editor, v| edit.made_by(v).map(|(_, n)| n.inputs[0]);
    let x = x_of(edit, centred)?;
    (x_of(edit, d)? == x && epsilon >= 0.0).then_some((x, axis, epsilon as f32))
}

/// The constant operand of a commutative binary node, spread to the normalised shape, and the
/// other operand.
fn parameter(
    edit: &Editor,
    node: &Node,
    kind: Binary,
    shape: &[usize],
) -> Option<(ValueId, Tensor)> {
    if node.op != (Op::Binary { kind, activation: None }) {
        return None;
    }
    let [a, b] = node.inputs[..] else { return None };
    let (x, k) = if edit.constant(b).is_some() { (a, b) } else { (b, a) };
    let k = edit.constant(k)?;
    let extra = k.shape().len().saturating_sub(shape.len());
    let fits = k.shape()[..extra].iter().all(|&d| d == 1) && k.shape()[extra..] == *shape;
    let tensor = fits.then(|| (*k).clone().reshaped(shape)).flatten()?;
    (tensor.dtype() == DType::F32).then_some((x, tensor))
}

/// Replaces the last node of the pattern, if `i` is one.
fn find(edit: &mut Editor, i: usize, node: &Node) -> Result<(), GraphError> {
    let Some(&out) = node.outputs.first() else { return Ok(()) };
    let out_shape = edit.graph().shape(out).to_vec();
    // The longest form first: from the bias, through the scale, to the division.
    for from in 0..out_shape.len() {
        let shape = &out_shape[from..];
        let Some((product, bias)) = parameter(edit, node, Binary::Add, shape) else { continue };
        let Some((_, mul)) = edit.made_by(product) else { continue };
        let Some((ratio, scale)) = parameter(edit, &mul, Binary::Mul, shape) else { continue };
        let Some((_, div)) = edit.made_by(ratio) else { continue };
        let Some((x, axis, epsilon)) = normalised(edit, &div) else { continue };
        let alone = edit.used_once(product) && edit.used_once(ratio);
        if axis == from && alone && edit.graph().fact(x) == edit.graph().fact(out) {
            let scale = edit.add_constant(&format!("{}.scale", node.name), scale);
            let bias = edit.add_constant(&format!("{}.bias", node.name), bias);
            return edit.rewrite(i, Op::LayerNorm { axis, epsilon }, &[x, scale, bias]);
        }
    }
    Ok(())
}

/// The pass. What the pattern no longer uses goes when the graph is compacted.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        if matches!(node.op, Op::Binary { kind: Binary::Add, activation: None }) {
            find(&mut edit, i, &node)?;
        }
    }
    Ok(edit.finish())
}
