//! What each part of a network costs in both precisions, and the cheapest mixture.

use std::collections::{HashMap, HashSet};

use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use super::cut::Division;
use crate::graph::{Graph, Node, ValueId};
use crate::quantize::select::{Kind, kind};

/// A layer's microseconds, by its name in a lowering.
pub type Times = [(String, f64)];

/// Nodes that are on integers, or in floats, together: a lowering fuses them.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Ascending.
    pub nodes: Vec<usize>,
    /// Microseconds on integers.
    pub int8: f64,
    /// Microseconds in floats.
    pub float: f64,
    /// There is a choice.
    pub free: bool,
}

/// A network's parts.
#[derive(Clone, Debug)]
pub struct Units {
    /// In the order of their first nodes.
    pub units: Vec<Unit>,
    /// Of each node.
    pub of_node: Vec<usize>,
}

/// The nodes that a lowered layer's name speaks of: one, or several that were fused and whose
/// names are joined by " + ".
pub fn nodes_of(name: &str, known: &HashMap<&str, usize>) -> Option<Vec<usize>> {
    if let Some(&node) = known.get(name) {
        return Some(vec![node]);
    }
    name.match_indices(" + ").find_map(|(at, plus)| {
        let left = nodes_of(&name[..at], known)?;
        let right = nodes_of(&name[at + plus.len()..], known)?;
        Some([left, right].concat())
    })
}

/// The nodes by the names of their layers: copies are called after the values that they copy.
pub fn by_name(graph: &Graph) -> HashMap<&str, usize> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for &o in &node.outputs {
            known.entry(&graph.value(o).name).or_insert(i);
        }
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        known.insert(&node.name, i);
    }
    known
}

fn root(parent: &[usize], mut node: usize) -> usize {
    while parent[node] != node {
        node = parent[node];
    }
    node
}

impl Units {
    /// `selected` are the nodes that can be on integers; the times are those of the network with
    /// all of them there, and of the network in floats.
    pub fn new(graph: &Graph, selected: &HashSet<usize>, int8: &Times, float: &Times) -> Units {
        let n = graph.nodes.len();
        let known = by_name(graph);
        let mut parent: Vec<usize> = (0..n).collect();
        let mut own = [vec![0.0; n], vec![0.0; n]];
        for (own, times) in own.iter_mut().zip([int8, float]) {
            for (name, us) in times {
                let Some(nodes) = nodes_of(name, &known) else { continue };
                own[nodes[0]] += us;
                for pair in nodes.windows(2) {
                    let (a, b) = (root(&parent, pair[0]), root(&parent, pair[1]));
                    parent[a.max(b)] = a.min(b);
                }
            }
        }
        let mut at: HashMap<usize, usize> = HashMap::new();
        let mut units: Vec<Unit> = Vec::new();
        let mut of_node = Vec::with_capacity(n);
        for (node, (int8, float)) in own[0].iter().zip(&own[1]).enumerate() {
            let unit = *at.entry(root(&parent, node)).or_insert_with(|| {
                units.push(Unit { nodes: Vec::new(), int8: 0.0, float: 0.0, free: false });
                units.len() - 1
            });
            let u = &mut units[unit];
            u.nodes.push(node);
            u.int8 += int8;
            u.float += float;
            // A sum with something in floats can be fused into a layer of integers.
            u.free |= selected.contains(&node);
            of_node.push(unit);
        }
        Units { units, of_node }
    }

    /// The units that are to be in floats where that is cheapest in all, when a tensor that is
    /// wanted both ways costs `conversion` microseconds; true: in floats.
    pub fn in_floats(&self, graph: &Graph, conversion: &dyn Fn(&[usize]) -> f64) -> Vec<bool> {
        let mut d = Division::new(self.units.len());
        for (i, unit) in self.units.iter().enumerate() {
            match unit.free {
                true => d.costs(i, unit.float, unit.int8),
                false => d.costs(i, 0.0, f64::INFINITY),
            }
        }
        let producers = graph.producers();
        let users = graph.users();
        let mut values: Vec<ValueId> = users.keys().copied().collect();
        values.sort_unstable();
        for v in values {
            let fact = graph.fact(v);
            if fact.dtype != DType::F32 || graph.constant(v).is_some() {
                continue;
            }
            let unit = |node: usize| self.of_node[node];
            let producer = producers.get(&v).copied();
            let readers: Vec<usize> = (users[&v].iter())
                .copied()
                .filter(|&u| producer.is_none_or(|p| unit(p) != unit(u)))
                .collect();
            if readers.iter().all(|&u| !self.units[unit(u)].free) {
                continue;
            }
            // On the second side: it is there as integers; no one wants it as floats.
            let (integers, no_floats) = (d.add(), d.add());
            d.apart(no_floats, integers, conversion(&fact.shape));
            for &u in &readers {
                d.apart(integers, unit(u), f64::INFINITY);
                d.apart(unit(u), no_floats, f64::INFINITY);
            }
            if graph.is_output(v) {
                d.costs(no_floats, 0.0, f64::INFINITY);
            }
            let Some(p) = producer else {
                d.costs(no_floats, 0.0, f64::INFINITY);
                continue;
            };
            let made_by = &self.units[unit(p)].nodes;
            let stores = made_by.iter().any(|&n| stores_integers(graph, &graph.nodes[n]));
            if !stores || readers.iter().any(|&u| self.adds(graph, u, v)) {
                d.apart(unit(p), no_floats, f64::INFINITY);
            }
            if made_by.len() == 1 && only_integers(graph, &graph.nodes[p]) {
                d.apart(integers, unit(p), f64::INFINITY);
            }
        }
        d.first_side().into_iter().take(self.units.len()).collect()
    }

    /// True where a layer adds a value as it is to its own sums.
    fn adds(&self, graph: &Graph, user: usize, v: ValueId) -> bool {
        let node = &graph.nodes[user];
        match &node.op {
            Op::Conv(c) => c.residual && node.inputs[3] == v,
            Op::Binary { .. } => self.units[self.of_node[user]].nodes.len() > 1,
            _ => false,
        }
    }
}

/// True for layers in floats that can store integers themselves.
fn stores_integers(graph: &Graph, node: &Node) -> bool {
    let Op::Conv(conv) = &node.op else { return false };
    let channels = graph.shape(node.inputs[0]).get(1);
    kind(graph, node) == Kind::Product
        && (conv.groups == 1 || channels.is_some_and(|&c| c == conv.groups))
}

/// True for layers that, on integers, give nothing else.
fn only_integers(graph: &Graph, node: &Node) -> bool {
    kind(graph, node) == Kind::Move || matches!(node.op, Op::Activation(_) | Op::Unary(_))
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
