//! `MatMul(a, constant)` of matrices becomes Gemm, and an addition of a bias its `c`.

use tobiuo_ops::{Binary, Gemm, Op};
use tobiuo_tensor::DType;

use crate::graph::{Editor, Graph, GraphError, ValueId};

/// True for constant integers as floats.
fn is_dequantised(edit: &mut Editor, v: ValueId) -> bool {
    let Some((_, node)) = edit.made_by(v) else { return false };
    matches!(node.op, Op::Dequantize { .. }) && edit.constant(node.inputs[0]).is_some()
}

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        match &node.op {
            Op::MatMul => {
                let [a, b] = node.inputs[..] else { continue };
                let ranks = [a, b].map(|v| edit.graph().shape(v).len());
                let f32s = [a, b].iter().all(|&v| edit.graph().fact(v).dtype == DType::F32);
                let weights = edit.constant(b).is_some() || is_dequantised(&mut edit, b);
                if ranks == [2, 2] && f32s && weights {
                    let gemm = Gemm {
                        trans_a: false,
                        trans_b: false,
                        alpha: 1.0,
                        beta: 1.0,
                        activation: None,
                    };
                    edit.rewrite(i, Op::Gemm(gemm), &[a, b])?;
                }
            }
            Op::Binary { kind: Binary::Add, activation: None } => {
                let [a, b] = node.inputs[..] else { continue };
                let (product, bias) = if edit.constant(b).is_some() { (a, b) } else { (b, a) };
                let (Some(c), true) = (edit.constant(bias), edit.used_once(product)) else {
                    continue;
                };
                let shape = edit.graph().shape(product).to_vec();
                let same = edit.graph().fact(product) == edit.graph().fact(node.outputs[0]);
                let Some((p, gemm)) = edit.made_by(product) else { continue };
                let Op::Gemm(g) = &gemm.op else { continue };
                let free = gemm.inputs.len() == 2 && g.activation.is_none();
                if !same || !free || c.shape().len() > shape.len() {
                    continue;
                }
                let op = Op::Gemm(Gemm { beta: 1.0, ..g.clone() });
                edit.rewrite(p, op, &[gemm.inputs[0], gemm.inputs[1], bias])?;
                edit.absorb(p, i);
            }
            _ => {}
        }
    }
    Ok(edit.finish())
}
