//! Convolutions of one input with the same attributes become one with all their outputs,
//! which are then slices of its output.
//!
//! One larger matrix product uses a device better than several small ones, but the slices
//! are free only at batch 1, and parts of a concatenation that are slices of different outputs
//! must be copied. So the pass is optional: on the CPU device, Inception blocks of 192 and 224
//! channels gained 2 % at most.

use std::collections::HashMap;

use tobiuo_ops::{Op, Slice};
use tobiuo_tensor::{DType, Tensor};

use crate::graph::{Editor, Graph, GraphError, ValueId};

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    let mut families: HashMap<(ValueId, String), Vec<usize>> = HashMap::new();
    let mut order = Vec::new();
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        let Op::Conv(c) = &node.op else { continue };
        let constants = node.inputs[1..]
            .iter()
            .all(|&v| edit.constant(v).is_some_and(|t| t.dtype() == DType::F32));
        if c.groups != 1 || c.residual || !constants {
            continue;
        }
        let key = (node.inputs[0], format!("{c:?}"));
        let family = families.entry(key.clone()).or_default();
        if family.is_empty() {
            order.push(key);
        }
        family.push(i);
    }
    for key in order {
        let family = &families[&key];
        if family.len() > 1 {
            merge(&mut edit, family)?;
        }
    }
    Ok(edit.finish())
}

/// Puts one convolution and its slices where the first sibling was.
fn merge(edit: &mut Editor, family: &[usize]) -> Result<(), GraphError> {
    let nodes: Vec<_> = family.iter().filter_map(|&i| edit.node(i)).collect();
    let Some(Op::Conv(attributes)) = nodes.first().map(|n| n.op.clone()) else { return Ok(()) };
    let gather = |k: usize| -> Vec<f32> {
        let parts = nodes.iter().filter_map(|n| edit.graph().constant(n.inputs[k]));
        parts.flat_map(|t| t.as_f32().unwrap_or_default().to_vec()).collect()
    };
    let mut shape = edit.graph().shape(nodes[0].inputs[1]).to_vec();
    let channels: Vec<usize> = nodes.iter().map(|n| edit.graph().shape(n.inputs[1])[0]).collect();
    shape[0] = channels.iter().sum();
    let (weight, bias) =
        (Tensor::f32(shape.clone(), gather(1)), Tensor::f32([shape[0]], gather(2)));
    let name = nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(" | ");
    let weight = edit.add_constant(&format!("{name}.weight"), weight);
    let bias = edit.add_constant(&format!("{name}.bias"), bias);
    let conv = Op::Conv(attributes);
    let all = edit.add_after(family[0], &name, conv, &[nodes[0].inputs[0], weight, bias])?;
    let out_shape = edit.graph().shape(all).to_vec();
    let mut start = 0;
    for ((node, &i), &len) in nodes.iter().zip(family).zip(&channels) {
        let mut slice = Slice {
            starts: vec![0; out_shape.len()],
            steps: vec![1; out_shape.len()],
            lens: out_shape.clone(),
        };
        (slice.starts[1], slice.lens[1]) = (start, len);
        start += len;
        let part = edit.add_after(family[0], &node.name, Op::Slice(slice), &[all])?;
        edit.swap_names(node.outputs[0], part);
        edit.replace(node.outputs[0], part);
        edit.remove(i);
    }
    Ok(())
}
