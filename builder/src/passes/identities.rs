//! Ops that change nothing disappear; moves in a row become one; a move that moves no byte
//! becomes a Reshape, which the planner makes free.

use tobiuo_ops::{Binary, Coordinates, Op, Pool, Reduce, Resize, Slice};

use crate::graph::{Editor, Graph, GraphError, Node, ValueId};

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        let node = simplify(&mut edit, i, node)?;
        if let Some(x) = same_as(&edit, &node) {
            // An output of the graph under a name of its own stays a tensor of its own where
            // the operand is an input or an output too; the planner copies there.
            edit.replace(node.outputs[0], x);
            edit.remove(i);
        }
    }
    Ok(edit.finish())
}

/// The operand that a node's only output equals.
fn same_as(edit: &Editor, node: &Node) -> Option<ValueId> {
    let &x = node.inputs.first()?;
    let &[out] = &node.outputs[..] else { return None };
    let graph = edit.graph();
    if let Op::Binary { kind, activation: None } = &node.op {
        return neutral(edit, node, *kind);
    }
    if graph.fact(x) != graph.fact(out) {
        return None;
    }
    let same = match &node.op {
        // Same shape and type: every element is where it was.
        Op::Reshape { .. } | Op::Expand { .. } | Op::Tile { .. } | Op::Cast { .. } => true,
        Op::Transpose { perm } => perm.iter().enumerate().all(|(i, &p)| i == p),
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Slice(s) => s.steps.iter().zip(&s.lens).all(|(&step, &len)| step == 1 || len <= 1),
        Op::Pad(p) => p.begins.iter().chain(&p.ends).all(|&n| n == 0),
        Op::Resize(r) => identical_resize(r),
        Op::Pool(Pool { kernel, strides, pads, .. }) => {
            kernel.iter().chain(strides).all(|&k| k == 1) && pads.iter().all(|&p| p == 0)
        }
        _ => false,
    };
    same.then_some(x)
}

/// Resampling to the same size with scale 1 whose coordinates fall on the elements.
fn identical_resize(r: &Resize) -> bool {
    let exact = match r.coordinates {
        Coordinates::HalfPixel
        | Coordinates::HalfPixelSymmetric
        | Coordinates::PytorchHalfPixel
        | Coordinates::AlignCorners
        | Coordinates::Asymmetric => true,
        // Coordinates are half an element off.
        Coordinates::TfHalfPixelForNn | Coordinates::TfCropAndResize { .. } => false,
    };
    exact && r.scales.iter().all(|&s| s == 1.0)
}

/// `x + 0`, `x - 0`, `x * 1`, `x / 1`, `x ^ 1` where the shape stays.
fn neutral(edit: &Editor, node: &Node, kind: Binary) -> Option<ValueId> {
    let [a, b] = node.inputs[..] else { return None };
    let graph = edit.graph();
    let out = graph.fact(node.outputs[0]);
    let all = |v: ValueId, wanted: f64| {
        let constant = graph.constant(v);
        constant.is_some_and(|t| t.to_f64().iter().all(|&x| x == wanted))
    };
    let (x, k) = if graph.constant(b).is_some() { (a, b) } else { (b, a) };
    if graph.fact(x) != out {
        return None;
    }
    let neutral = match kind {
        Binary::Add => all(k, 0.0),
        Binary::Mul => all(k, 1.0),
        Binary::Sub => k == b && all(k, 0.0),
        Binary::Div | Binary::Pow => k == b && all(k, 1.0),
        _ => false,
    };
    neutral.then_some(x)
}

/// Rewrites the node into simpler ones as long as there is one; the node as it then is.
fn simplify(edit: &mut Editor, i: usize, mut node: Node) -> Result<Node, GraphError> {
    while let Some((op, inputs)) = simpler(edit, &node) {
        edit.rewrite(i, op, &inputs)?;
        match edit.node(i) {
            Some(rewritten) => node = rewritten,
            None => break,
        }
    }
    Ok(node)
}

/// A simpler op on operands that are made earlier, if there is one.
fn simpler(edit: &mut Editor, node: &Node) -> Option<(Op, Vec<ValueId>)> {
    let &x = node.inputs.first()?;
    let before = edit.made_by(x).map(|(_, n)| n);
    let in_shape = edit.graph().shape(x).to_vec();
    let out_shape = node.outputs.first().map(|&o| edit.graph().shape(o).to_vec());
    let out_shape = out_shape.unwrap_or_default();
    match (&node.op, before.as_ref().map(|n| &n.op)) {
        (Op::Reshape { shape }, Some(Op::Reshape { .. })) => {
            before.as_ref().map(|b| (Op::Reshape { shape: shape.clone() }, vec![b.inputs[0]]))
        }
        (Op::Transpose { perm }, Some(Op::Transpose { perm: first })) => {
            let joined = perm.iter().map(|&p| first[p]).collect();
            before.as_ref().map(|b| (Op::Transpose { perm: joined }, vec![b.inputs[0]]))
        }
        (Op::Transpose { perm }, _) if moves_no_byte(perm, &in_shape) => {
            Some((Op::Reshape { shape: out_shape }, vec![x]))
        }
        (Op::Reduce { kind, axes, .. }, _)
            if axes.iter().all(|&a| in_shape.get(a) == Some(&1))
                && matches!(
                    kind,
                    Reduce::Mean | Reduce::Sum | Reduce::Max | Reduce::Min | Reduce::Prod
                ) =>
        {
            Some((Op::Reshape { shape: out_shape }, vec![x]))
        }
        (Op::Slice(s), Some(Op::Slice(first))) => join_slices(first, s)
            .and_then(|joined| Some((Op::Slice(joined), vec![before.as_ref()?.inputs[0]]))),
        (Op::Concat { axis }, _) => flatten_concat(edit, node, *axis),
        _ => None,
    }
}

/// True when only axes of size 1 change places.
fn moves_no_byte(perm: &[usize], shape: &[usize]) -> bool {
    let kept: Vec<usize> = perm.iter().copied().filter(|&p| shape[p] != 1).collect();
    kept.is_sorted()
}

/// Two slices in a row as one.
fn join_slices(first: &Slice, second: &Slice) -> Option<Slice> {
    let mut starts = Vec::new();
    let mut steps = Vec::new();
    for (axis, &start) in second.starts.iter().enumerate() {
        let at = i64::try_from(start).ok()?.checked_mul(*first.steps.get(axis)?)?;
        let at = i64::try_from(first.starts[axis]).ok()?.checked_add(at)?;
        starts.push(usize::try_from(at).ok()?);
        steps.push(first.steps[axis].checked_mul(second.steps[axis])?);
    }
    Some(Slice { starts, steps, lens: second.lens.clone() })
}

/// A concatenation of concatenations along the same axis, used nowhere else, as one; empty
/// parts are left out.
fn flatten_concat(edit: &mut Editor, node: &Node, axis: usize) -> Option<(Op, Vec<ValueId>)> {
    let mut parts = Vec::new();
    let mut changed = false;
    for &v in &node.inputs {
        let inner = edit.made_by(v).map(|(_, n)| n);
        match inner {
            Some(n) if n.op == (Op::Concat { axis }) && edit.used_once(v) => {
                parts.extend(n.inputs);
                changed = true;
            }
            _ if edit.graph().shape(v)[axis] == 0 && node.inputs.len() > 1 => changed = true,
            _ => parts.push(v),
        }
    }
    (changed && !parts.is_empty()).then_some((Op::Concat { axis }, parts))
}
