//! Which values are made inside a concatenation's buffer.

use std::collections::{HashMap, HashSet};

use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use crate::cuda::view::granule;
use crate::graph::{Graph, Node, ValueId};

/// For each value that lies in another's buffer: that value and the first channel there.
#[derive(Default)]
pub(super) struct Places(HashMap<ValueId, (ValueId, usize)>);

impl Places {
    /// Decides for every channel concatenation of pictures.
    pub fn of(graph: &Graph) -> Places {
        let mut places = Places::default();
        let producers = graph.producers();
        let graph_inputs: HashSet<ValueId> = graph.inputs.iter().copied().collect();
        for node in &graph.nodes {
            if !matches!(node.op, Op::Concat { axis: 1 }) || graph.shape(node.outputs[0]).len() != 4
            {
                continue;
            }
            let dtype = graph.fact(node.outputs[0]).dtype;
            if !matches!(dtype, DType::F32 | DType::I8 | DType::U8) {
                continue;
            }
            places.concat(graph, node, &producers, &graph_inputs);
        }
        places
    }

    /// The value in whose buffer this one lies, and its first channel there.
    pub fn parent(&self, value: ValueId) -> Option<(ValueId, usize)> {
        self.0.get(&value).copied()
    }

    fn concat(
        &mut self,
        graph: &Graph,
        node: &Node,
        producers: &HashMap<ValueId, usize>,
        graph_inputs: &HashSet<ValueId>,
    ) {
        let out = node.outputs[0];
        let granule = granule(graph.fact(out).dtype);
        // Each operand as (the value that is made, first channel of it, channel in the result).
        let mut parts = Vec::new();
        let mut at = 0;
        for &operand in &node.inputs {
            let channels = graph.shape(operand)[1];
            let (made, start) = channel_slice(graph, producers, operand).unwrap_or((operand, 0));
            parts.push((made, start, at, channels));
            at += channels;
        }
        let total = at;
        for &(made, start, at, _) in &parts {
            let Some(first) = at.checked_sub(start) else { continue };
            let end = first + graph.shape(made)[1];
            let free = !self.0.contains_key(&made)
                && !graph_inputs.contains(&made)
                && graph.constant(made).is_none()
                && made != out
                && makes_picture(graph, producers, made);
            let aligned =
                first.is_multiple_of(granule) && (end.is_multiple_of(granule) || end == total);
            // Every operand inside the range is the right part of this value.
            let consistent = end <= total
                && parts.iter().all(|&(other, other_start, other_at, channels)| {
                    let apart = other_at >= end || other_at + channels <= first;
                    apart || (other == made && other_at.checked_sub(other_start) == Some(first))
                });
            if free && aligned && consistent {
                self.0.insert(made, (out, first));
            }
        }
    }
}

/// The value and first channel that a value is a channel slice of.
fn channel_slice(
    graph: &Graph,
    producers: &HashMap<ValueId, usize>,
    value: ValueId,
) -> Option<(ValueId, usize)> {
    let node = &graph.nodes[*producers.get(&value)?];
    let Op::Slice(slice) = &node.op else { return None };
    let whole = graph.shape(node.inputs[0]);
    let channels_only = whole.len() == 4
        && slice.steps.iter().all(|&s| s == 1)
        && (0..4).all(|i| i == 1 || slice.lens[i] == whole[i]);
    channels_only.then_some((node.inputs[0], slice.starts[1]))
}

/// True when the node that makes a value writes a picture to wherever it is told, or is a view that
/// has to be copied there.
fn makes_picture(graph: &Graph, producers: &HashMap<ValueId, usize>, value: ValueId) -> bool {
    let Some(&p) = producers.get(&value) else { return false };
    matches!(
        graph.nodes[p].op,
        Op::Conv(_)
            | Op::ConvTranspose(_)
            | Op::Pool(_)
            | Op::Activation(_)
            | Op::Binary { .. }
            | Op::Resize(_)
            | Op::Reshape { .. }
            | Op::Concat { axis: 1 }
            | Op::QuantConv(_)
            | Op::QuantBinary(_)
            | Op::QuantPool(_)
            | Op::Lookup
            | Op::Quantize { .. }
    )
}
