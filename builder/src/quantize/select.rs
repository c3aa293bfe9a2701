//! Which nodes compute on integers.

use std::collections::{HashMap, HashSet};

use tobiuo_ops::{Binary, Op, PoolKind, Reduce, flops};
use tobiuo_tensor::DType;

use crate::graph::{Graph, Node, ValueId};
use crate::passes::integers::moved;

/// Share of a network's multiply-adds up to which the layers next to its input stay in floats.
const FIRST: f64 = 0.04;
/// The same of the layers behind which only outputs are.
const LAST: f64 = 0.06;

/// Channels up to which a first convolution gains nothing by integers, whatever its share: their
/// products are of 16 channels at the least.
const COLOURS: usize = 4;

/// What a node is to calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A convolution or fully connected layer with constant weights.
    Product,
    /// Element-wise functions and averages, worth it between other layers of integers.
    Light,
    /// Elements are moved: operands and result have one scale.
    Move,
    /// Floats only.
    Float,
}

/// What a node is.
pub fn kind(graph: &Graph, node: &Node) -> Kind {
    let f32s = node
        .inputs
        .iter()
        .chain(&node.outputs)
        .all(|&v| graph.fact(v).dtype == DType::F32 || matches!(node.op, Op::Gather { .. }));
    let constant = |k: usize| node.inputs.get(k).is_some_and(|&v| graph.constant(v).is_some());
    let dynamic = node.inputs.first().is_some_and(|&v| graph.constant(v).is_none());
    if !f32s || !dynamic {
        return Kind::Float;
    }
    match &node.op {
        Op::Conv(_) if constant(1) && constant(2) => Kind::Product,
        Op::Gemm(g) if !g.trans_a && constant(1) && gemm_bias(graph, node) => Kind::Product,
        Op::Binary { kind, activation } => {
            use Binary::*;
            let known = matches!(kind, Add | Sub | Mul | Min | Max);
            let exact = activation.is_none_or(|a| a.is_exact());
            if known && exact && !constant(1) { Kind::Light } else { Kind::Float }
        }
        Op::Activation(_) => Kind::Light,
        Op::Pool(p) if p.kind != PoolKind::Max && p.kernel.len() <= 2 => Kind::Light,
        Op::Reduce { kind: Reduce::Mean, axes, .. } => {
            let rank = graph.shape(node.inputs[0]).len();
            let spatial = (3..=4).contains(&rank) && axes.iter().copied().eq(2..rank);
            if spatial { Kind::Light } else { Kind::Float }
        }
        Op::Concat { .. } if node.inputs.iter().all(|&v| graph.constant(v).is_none()) => Kind::Move,
        op if moved(op) => Kind::Move,
        _ => Kind::Float,
    }
}

/// True when a fully connected layer's third operand is one bias for each output.
fn gemm_bias(graph: &Graph, node: &Node) -> bool {
    let Some(&c) = node.inputs.get(2) else { return true };
    let n = graph.shape(node.outputs[0])[1];
    let shape = graph.shape(c);
    let many: usize = shape.iter().product();
    graph.constant(c).is_some() && (many == 1 || (many == n && shape.last() == Some(&n)))
}

/// The values whose elements calibration counts: inputs, and what nodes compute in floats. What
/// only moves elements has its source's range, so that graphs that differ in their moves, as
/// those for a GPU and for the CPU do, share one calibration.
pub fn observed(graph: &Graph) -> Vec<ValueId> {
    let float = |v: &ValueId| graph.fact(*v).dtype == DType::F32;
    let computed = graph.nodes.iter().filter(|n| !only_moves(&n.op)).flat_map(|n| &n.outputs);
    graph.inputs.iter().chain(computed).copied().filter(float).collect()
}

/// Heavy layers in floats, which reports name one by one.
pub fn is_heavy(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::ConvTranspose(_) | Op::Gemm(_) | Op::MatMul)
}

/// True for what takes its elements as they come; a maximum pool chooses.
pub fn only_moves(op: &Op) -> bool {
    matches!(op, Op::Concat { .. }) || (moved(op) && !matches!(op, Op::Pool(_)))
}

/// What is decided for a graph.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Nodes that compute on integers.
    pub nodes: HashSet<usize>,
}

/// Multiply-adds of each node, doubled.
fn work(graph: &Graph, node: &Node) -> f64 {
    let facts = |list: &[ValueId]| list.iter().map(|&v| graph.fact(v).clone()).collect::<Vec<_>>();
    flops(&node.op, &facts(&node.inputs), &facts(&node.outputs)) as f64
}

/// Products next to the input, and those behind which no product is, where they cost little.
pub fn ends(graph: &Graph) -> Vec<(usize, &'static str)> {
    let kinds: Vec<Kind> = graph.nodes.iter().map(|n| kind(graph, n)).collect();
    let products: Vec<usize> = (0..kinds.len()).filter(|&i| kinds[i] == Kind::Product).collect();
    let all: f64 = products.iter().map(|&i| work(graph, &graph.nodes[i])).sum();
    let mut seen_product: HashSet<ValueId> = HashSet::new();
    let mut first = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let behind = node.inputs.iter().any(|v| seen_product.contains(v));
        if kinds[i] == Kind::Product && !behind {
            first.push(i);
        }
        if behind || kinds[i] == Kind::Product {
            seen_product.extend(&node.outputs);
        }
    }
    let cost = |list: &[usize]| list.iter().map(|&i| work(graph, &graph.nodes[i])).sum::<f64>();
    // A single filter is arithmetic in the form of a convolution, such as the mean over the bins
    // of a box's side in YOLOv8's head: what is in front of it makes the outputs.
    let lone = |i: usize| {
        let node = &graph.nodes[i];
        matches!(node.op, Op::Conv(_))
            && graph.shape(node.inputs[1])[0] == 1
            && cost(&[i]) <= LAST * all
    };
    let mut feeds_product: HashSet<ValueId> = HashSet::new();
    let (mut last, mut lonely) = (Vec::new(), Vec::new());
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        let before = node.outputs.iter().any(|v| feeds_product.contains(v));
        let product = kinds[i] == Kind::Product;
        if product && !before {
            if lone(i) { lonely.push(i) } else { last.push(i) }
        }
        if before || (product && !lone(i)) {
            feeds_product.extend(&node.inputs);
        }
    }
    // A network of one or two layers has no ends.
    if products.len() < first.len() + last.len() + 1 {
        return Vec::new();
    }
    let mut kept: Vec<(usize, &'static str)> =
        lonely.iter().map(|&i| (i, "a single filter behind the last layers")).collect();
    if cost(&first) <= FIRST * all {
        kept.extend(first.iter().map(|&i| (i, "next to the input, and cheap")));
    } else {
        let few = |i: usize| {
            let node = &graph.nodes[i];
            let channels = graph.shape(node.inputs[0]).get(1);
            matches!(node.op, Op::Conv(_)) && channels.is_some_and(|&c| c <= COLOURS)
        };
        let colours = first.iter().filter(|&&i| few(i));
        kept.extend(colours.map(|&i| (i, "reads colours, of which integers' products pad 16")));
    }
    if cost(&last) <= LAST * all {
        kept.extend(last.iter().map(|&i| (i, "makes the outputs, and cheap")));
    }
    kept.sort_unstable();
    kept
}

/// The nodes that compute on integers, when those named in `floats` do not.
pub fn select(graph: &Graph, floats: &HashSet<String>) -> Selection {
    let kinds: Vec<Kind> = graph.nodes.iter().map(|n| kind(graph, n)).collect();
    let mut chosen: HashSet<usize> = (0..kinds.len())
        .filter(|&i| kinds[i] != Kind::Float && !floats.contains(&graph.nodes[i].name))
        .collect();
    let producers = graph.producers();
    let users = graph.users();
    // Light nodes and moves need integers on both sides.
    loop {
        let idle: Vec<usize> = chosen
            .iter()
            .copied()
            .filter(|&i| kinds[i] != Kind::Product)
            .filter(|&i| {
                let node = &graph.nodes[i];
                let mut dynamic = node.inputs.iter().filter(|&&v| graph.constant(v).is_none());
                let from = dynamic.all(|v| producers.get(v).is_some_and(|p| chosen.contains(p)));
                let to = node
                    .outputs
                    .iter()
                    .any(|o| users.get(o).is_some_and(|u| u.iter().any(|n| chosen.contains(n))));
                !(from && to)
            })
            .collect();
        if idle.is_empty() {
            break;
        }
        idle.iter().for_each(|i| {
            chosen.remove(i);
        });
    }
    Selection { nodes: chosen }
}

/// Values that must have one scale, because a selected node moves elements between them: for
/// each, the group's representative.
pub fn groups(graph: &Graph, selection: &Selection) -> HashMap<ValueId, ValueId> {
    let mut parent: HashMap<ValueId, ValueId> = HashMap::new();
    fn root(parent: &mut HashMap<ValueId, ValueId>, v: ValueId) -> ValueId {
        let mut v = v;
        while let Some(&p) = parent.get(&v) {
            if p == v {
                break;
            }
            v = p;
        }
        v
    }
    for &i in &selection.nodes {
        let node = &graph.nodes[i];
        if kind(graph, node) != Kind::Move {
            continue;
        }
        let operands = if matches!(node.op, Op::Concat { .. }) {
            node.inputs.as_slice()
        } else {
            &node.inputs[..1]
        };
        let to = root(&mut parent, node.outputs[0]);
        for &v in operands {
            let from = root(&mut parent, v);
            // The smaller number represents, so that the order of nodes does not matter.
            let (a, b) = (root(&mut parent, to).min(from), root(&mut parent, to).max(from));
            parent.insert(b, a);
        }
    }
    (0..graph.value_count() as u32)
        .map(ValueId)
        .map(|v| {
            let r = root(&mut parent, v);
            (v, r)
        })
        .collect()
}
