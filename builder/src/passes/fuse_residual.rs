//! `conv(x) + y` of equal shapes: the convolution adds `y` before its activation.

use tobiuo_ops::{Binary, Op};
use tobiuo_tensor::DType;

use crate::graph::{Editor, Graph, GraphError};

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
        // The operand made last can add the other: that one is there by then.
        let made = |v| edit.producer(v).map_or(-1, |p| p as isize);
        let (conv_out, residual) = if made(a) > made(b) { (a, b) } else { (b, a) };
        if !edit.used_once(conv_out) {
            continue;
        }
        let Some((p, conv)) = edit.made_by(conv_out) else { continue };
        let Op::Conv(attributes) = &conv.op else { continue };
        if attributes.residual || attributes.activation.is_some() {
            continue;
        }
        let mut attributes = attributes.clone();
        attributes.residual = true;
        let mut inputs = conv.inputs.clone();
        inputs.push(residual);
        edit.rewrite(p, Op::Conv(attributes), &inputs)?;
        edit.absorb(p, i);
    }
    Ok(edit.finish())
}
