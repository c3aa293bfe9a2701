//! Nodes in topological order.
//!
//! The standard asks for sorted nodes and nearly every file has them; others are sorted here.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::proto::{Decode, GraphProto, NodeProto};
use super::stop::{Res, invalid};
use super::wire::{Message, WireError};

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
    let mut maker: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for &output in node.outputs.iter().filter(|o| !o.is_empty()) {
            if is_known(output) || maker.insert(output, i).is_some() {
                return invalid(format!(
                    "'{output}', an output of {}, is defined twice",
                    title(node, i)
                ));
            }
        }
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut waits: Vec<usize> = vec![0; nodes.len()];
    let mut sorted = true;
    for (i, node) in nodes.iter().enumerate() {
        let mut needs = |name: &str| {
            if let Some(&m) = maker.get(name) {
                users[m].push(i);
                waits[i] += 1;
                sorted &= m < i;
            }
        };
        node.inputs.iter().for_each(|n| needs(n));
        for sub in node.attributes.iter().filter_map(|a| a.g) {
            // A name of the subgraph's own that a later node out here has too would be
            // shadowing, which the standard forbids. A damaged subgraph is reported later.
            let _ = captured(sub, depth, &mut needs);
        }
    }
    if sorted {
        return Ok((0..nodes.len()).collect());
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &user in &users[i] {
            waits[user] -= 1;
            if waits[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    if order.len() < nodes.len() {
        return invalid(format!(
            "these nodes wait for each other in a cycle: {}",
            cycle(nodes, &maker, &waits).join(" -> ")
        ));
    }
    Ok(order)
}

fn title(node: &NodeProto<'_>, i: usize) -> String {
    if node.name.is_empty() {
        format!("{} (node {i})", node.op_type)
    } else {
        format!("'{}' ({})", node.name, node.op_type)
    }
}

/// One cycle among the nodes that still wait, at most ten of its nodes named.
fn cycle(nodes: &[NodeProto<'_>], maker: &HashMap<&str, usize>, waits: &[usize]) -> Vec<String> {
    let mut at = waits.iter().position(|&w| w > 0).expect("some node waits");
    let mut visited: Vec<usize> = Vec::new();
    loop {
        if let Some(start) = visited.iter().position(|&v| v == at) {
            let mut names: Vec<String> =
                visited[start..].iter().rev().take(10).map(|&i| title(&nodes[i], i)).collect();
            names.push(if visited.len() - start > 10 { "...".into() } else { names[0].clone() });
            return names;
        }
        visited.push(at);
        // A node that waits through a subgraph ends the walk: what was walked is named.
        let next = nodes[at].inputs.iter().filter_map(|i| maker.get(i)).find(|&&m| waits[m] > 0);
        match next {
            Some(&m) if visited.len() < 10_000 => at = m,
            _ => return visited.iter().rev().take(10).map(|&i| title(&nodes[i], i)).collect(),
        }
    }
}
