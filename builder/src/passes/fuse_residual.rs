//! `conv(x) + y` of equal shapes: the convolution adds `y` before its activation.

use tobiuo_ops::{Binary, Conv, Op};
use tobiuo_tensor::DType;

use crate::graph::{Editor, Graph, GraphError, Node, ValueId};

/// A convolution, with its number, whose result `v` only one node reads, and which can add to it.
fn adder(edit: &mut Editor, v: ValueId) -> Option<(usize, Node, Conv)> {
    if !edit.used_once(v) {
        return None;
    }
    let (p, node) = edit.made_by(v)?;
    let Op::Conv(conv) = &node.op else { return None };
    let conv = conv.clone();
    (!conv.residual && conv.activation.is_none()).then_some((p, node, conv))
}

/// A 1x1 convolution of what another convolution makes for it alone: on a GPU both, and what comes
/// behind the sum, can be one kernel.
fn widens(edit: &mut Editor, conv: &Conv, x: ValueId) -> bool {
    let ones = |list: &[usize]| list.iter().all(|&n| n == 1);
    if !ones(&conv.kernel) || !ones(&conv.strides) || conv.groups != 1 || !edit.used_once(x) {
        return false;
    }
    let Some((_, mut before)) = edit.made_by(x) else { return false };
    if let (Op::Activation(_), x) = (&before.op, before.inputs[0])
        && edit.used_once(x)
        && let Some((_, node)) = edit.made_by(x)
    {
        before = node;
    }
    matches!(before.op, Op::Conv(_))
}

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        if !matches!(node.op, Op::Binary { kind: Binary::Add, activation: None }) {
            continue;
        }
        let [a, b] = node.inputs[..] else { continue };
        let same = edit.graph().fact(a) == edit.graph().fact(b);
        if a == b || !same || edit.graph().fact(a).dtype != DType::F32 {
            continue;
        }
        // The operand made last adds the other, which is there by then; or, in the sum's own place,
        // a convolution that gains by it.
        let made = |v| edit.producer(v).map_or(-1, |p| p as isize);
        let (last, first) = if made(a) > made(b) { (a, b) } else { (b, a) };
        let Some((p, before, mut conv)) = adder(&mut edit, last) else { continue };
        conv.residual = true;
        let earlier = adder(&mut edit, first);
        if !widens(&mut edit, &conv, before.inputs[0])
            && let Some((q, node, mut conv)) = earlier
            && widens(&mut edit, &conv, node.inputs[0])
        {
            conv.residual = true;
            let inputs = [&node.inputs[..], &[last]].concat();
            edit.rewrite(i, Op::Conv(conv), &inputs)?;
            edit.stand_for(i, q);
            continue;
        }
        let inputs = [&before.inputs[..], &[first]].concat();
        edit.rewrite(p, Op::Conv(conv), &inputs)?;
        edit.absorb(p, i);
    }
    Ok(edit.finish())
}
