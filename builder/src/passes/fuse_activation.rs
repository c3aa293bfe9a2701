//! An activation behind Conv, ConvTranspose, Gemm or a binary op becomes its epilogue.

use tobiuo_ops::{Activation, Op};
use tobiuo_tensor::DType;

use crate::graph::{Editor, Graph, GraphError};

/// The op with the activation as its epilogue, where it can take one.
fn with(op: &Op, activation: Activation) -> Option<Op> {
    if op.fused_activation().is_some() {
        return None;
    }
    let mut op = op.clone();
    match &mut op {
        Op::Conv(c) => c.activation = Some(activation),
        Op::ConvTranspose(c) => c.activation = Some(activation),
        Op::Gemm(g) => g.activation = Some(activation),
        Op::Binary { kind, activation: a } if !kind.is_comparison() && !kind.is_logical() => {
            *a = Some(activation);
        }
        _ => return None,
    }
    Some(op)
}

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        let Op::Activation(activation) = node.op else { continue };
        let x = node.inputs[0];
        if !edit.used_once(x) || edit.graph().fact(x).dtype != DType::F32 {
            continue;
        }
        let Some((p, before)) = edit.made_by(x) else { continue };
        if let Some(op) = with(&before.op, activation) {
            edit.rewrite(p, op, &before.inputs)?;
            edit.absorb(p, i);
        }
    }
    Ok(edit.finish())
}
