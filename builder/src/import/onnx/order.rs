//! Nodes in topological order.
//!
//! The standard asks for sorted nodes and nearly every file has them; others are sorted here.

use super::proto::{Decode, GraphProto, NodeProto};
use super::stop::{Res, invalid};
use super::wire::{Message, WireError};
use crate::import::order::{self, Item};

/// Calls `each` with every name that a subgraph's nodes, and those of the subgraphs inside
/// it, use.
pub fn captured<'a>(
    graph: Message<'a>,
    depth: usize,
    each: &mut dyn FnMut(&'a str),
) -> Result<(), WireError> {
    let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
    let graph = GraphProto::decode(graph)?;
    graph.outputs.iter().for_each(|o| each(o.name));
    for node in &graph.nodes {
        node.inputs.iter().copied().for_each(&mut *each);
        for sub in node.attributes.iter().filter_map(|a| a.g) {
            captured(sub, depth, each)?;
        }
    }
    Ok(())
}

/// The nodes' indices so that each comes after the nodes whose outputs it uses; the file's
/// order where that is one. `is_known` tells names defined outside these nodes.
pub fn topological<'a>(
    nodes: &[NodeProto<'a>],
    depth: usize,
    is_known: impl Fn(&str) -> bool,
) -> Res<Vec<usize>> {
    let item = |node: &NodeProto<'a>| {
        let named = |names: &[&'a str]| names.iter().copied().filter(|n| !n.is_empty()).collect();
        let mut item = Item { inputs: named(&node.inputs), outputs: named(&node.outputs) };
        for sub in node.attributes.iter().filter_map(|a| a.g) {
            // A name of the subgraph's own that a later node out here has too would be
            // shadowing, which the standard forbids. A damaged subgraph is reported later.
            let _ = captured(sub, depth, &mut |name| item.inputs.push(name));
        }
        item
    };
    let items: Vec<Item<'a>> = nodes.iter().map(item).collect();
    order::topological(&items, &|i| title(&nodes[i], i), is_known).or_else(invalid)
}

fn title(node: &NodeProto<'_>, i: usize) -> String {
    if node.name.is_empty() {
        format!("{} (node {i})", node.op_type)
    } else {
        format!("'{}' ({})", node.name, node.op_type)
    }
}
