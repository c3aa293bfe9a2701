//! Calibrated scales become Quantize and Dequantize in a graph of floats.

use std::collections::{BTreeMap, HashMap, HashSet};

use tobiuo_ops::{Activation, Binary, Op, PoolKind};
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::select::{Kind, Selection, groups, kind};
use crate::graph::{Graph, GraphError, Node, ValueId};

/// What calibration knows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Magnitudes beyond it are cut off.
    pub clip: f32,
    /// No element was below 0.
    pub positive: bool,
}

/// Ranges by tensor name.
pub type Ranges = BTreeMap<String, Range>;

/// A tensor's scale.
#[derive(Clone, Copy, Debug)]
struct Scale {
    scale: f32,
    dtype: DType,
}

impl Range {
    /// Symmetric: `clip / 127` for i8, `clip / 255` for u8 where no element can be below 0. A
    /// tensor of zeros has scale 1.
    fn scale(self, unsigned: bool) -> Scale {
        let steps = if unsigned { 255.0 } else { 127.0 };
        let scale = self.clip / steps;
        let fine = scale.is_normal() && (1.0 / scale).is_normal() && scale > 0.0;
        Scale {
            scale: if fine { scale } else { 1.0 },
            dtype: if unsigned { DType::U8 } else { DType::I8 },
        }
    }
}

/// True for activations that give nothing below 0.
fn gives_positive(a: Activation) -> bool {
    match a {
        Activation::Relu | Activation::Sigmoid | Activation::HardSigmoid { .. } => true,
        Activation::Clip { min, .. } => min >= 0.0,
        _ => false,
    }
}

/// The values that cannot be below 0, whatever the input.
fn positive_values(graph: &Graph, ranges: &Ranges) -> HashSet<ValueId> {
    let mut known: HashSet<ValueId> = graph
        .inputs
        .iter()
        .copied()
        // Pictures that are not shifted: their elements are 0 to 1.
        .filter(|&v| ranges.get(&graph.value(v).name).is_some_and(|r| r.positive))
        .collect();
    for node in &graph.nodes {
        let all = |known: &HashSet<ValueId>, n: usize| {
            node.inputs.iter().take(n).all(|v| known.contains(v))
        };
        let is = match &node.op {
            Op::Activation(a) => gives_positive(*a),
            Op::Softmax { log: false, .. } => true,
            Op::Conv(_) | Op::Gemm(_) => node.op.fused_activation().is_some_and(gives_positive),
            Op::Binary { kind, activation } => match activation {
                Some(a) => gives_positive(*a),
                None => {
                    use Binary::*;
                    matches!(kind, Add | Mul | Min | Max) && all(&known, 2)
                }
            },
            Op::Pool(p) => {
                matches!(p.kind, PoolKind::Max | PoolKind::Average { .. }) && all(&known, 1)
            }
            Op::Concat { .. } => all(&known, usize::MAX),
            Op::Reduce { .. } => all(&known, 1) && kind(graph, node) == Kind::Light,
            op if crate::passes::integers::moved(op) => all(&known, 1),
            _ => false,
        };
        if is {
            known.extend(&node.outputs);
        }
    }
    known
}

/// The graph with a Quantize and a Dequantize on every tensor that a selected node reads, and on
/// its weights. Tensors without a range stay floats.
pub fn insert(graph: &Graph, selection: &Selection, ranges: &Ranges) -> Result<Graph, GraphError> {
    let scales = scales(graph, selection, ranges);
    let mut insert = Insert {
        old: graph,
        new: Graph::new(),
        plain: HashMap::new(),
        dequantised: HashMap::new(),
        scales,
        selection,
        producers: graph.producers(),
        users: graph.users(),
    };
    insert.new.metadata = graph.metadata.clone();
    for &v in &graph.inputs {
        let value = graph.value(v);
        let input = insert.new.add_input(&value.name, value.fact.dtype, value.fact.shape.clone());
        insert.plain.insert(v, input);
    }
    for i in 0..graph.nodes.len() {
        insert.node(i)?;
    }
    for (name, v) in &graph.outputs {
        let value = insert.plain(*v);
        insert.new.outputs.push((name.clone(), value));
    }
    Ok(insert.new)
}

/// The scale of each value that has one: of its group, if it has one.
fn scales(graph: &Graph, selection: &Selection, ranges: &Ranges) -> HashMap<ValueId, Scale> {
    let groups = groups(graph, selection);
    let positive = positive_values(graph, ranges);
    let mut wanted: HashMap<ValueId, (f32, bool)> = HashMap::new();
    for (v, value) in graph.values() {
        let Some(range) = ranges.get(&value.name) else { continue };
        let entry = wanted.entry(groups[&v]).or_insert((0.0, true));
        entry.0 = entry.0.max(range.clip);
    }
    for (v, group) in &groups {
        if let Some(entry) = wanted.get_mut(group) {
            entry.1 &= positive.contains(v);
        }
    }
    let scale = |group: &ValueId| {
        let (clip, unsigned) = *wanted.get(group)?;
        Some(Range { clip, positive: unsigned }.scale(unsigned))
    };
    groups.iter().filter_map(|(v, group)| Some((*v, scale(group)?))).collect()
}

struct Insert<'a> {
    old: &'a Graph,
    new: Graph,
    plain: HashMap<ValueId, ValueId>,
    dequantised: HashMap<ValueId, ValueId>,
    scales: HashMap<ValueId, Scale>,
    selection: &'a Selection,
    producers: HashMap<ValueId, usize>,
    users: HashMap<ValueId, Vec<usize>>,
}

impl Insert<'_> {
    fn plain(&mut self, v: ValueId) -> ValueId {
        if let Some(&value) = self.plain.get(&v) {
            return value;
        }
        let value = self.old.value(v);
        let Some(tensor) = &value.constant else {
            unreachable!("operands are made before their users")
        };
        let made = self.new.add_constant(&value.name, tensor.clone());
        self.plain.insert(v, made);
        made
    }

    /// The value through a Quantize and a Dequantize; itself where it has no scale.
    fn through(&mut self, v: ValueId) -> Result<ValueId, GraphError> {
        if let Some(&made) = self.dequantised.get(&v) {
            return Ok(made);
        }
        let plain = self.plain(v);
        let Some(&Scale { scale, dtype }) = self.scales.get(&v) else { return Ok(plain) };
        let name = self.old.value(v).name.clone();
        let scale = Tensor::f32(Vec::new(), vec![scale]);
        let scale = self.new.add_constant(&format!("{name}.scale"), scale);
        let zero = Tensor::zeros(dtype, Vec::new());
        let zero = self.new.add_constant(&format!("{name}.zero_point"), zero);
        let quantize = Op::Quantize { axis: None, to: dtype };
        let (q_name, d_name) = (format!("{name} (Quantize)"), format!("{name} (Dequantize)"));
        let q = self.new.push1(&q_name, quantize, &[plain, scale, zero])?;
        let made = self.new.push1(&d_name, Op::Dequantize { axis: None }, &[q, scale, zero])?;
        self.dequantised.insert(v, made);
        Ok(made)
    }

    fn node(&mut self, i: usize) -> Result<(), GraphError> {
        let node = self.old.nodes[i].clone();
        let mut inputs = Vec::new();
        let selected = self.selection.nodes.contains(&i);
        let fused = if selected { self.fused_operand(&node) } else { None };
        for (k, &v) in node.inputs.iter().enumerate() {
            let integer = selected && fused != Some(k) && self.is_integer_operand(&node, k);
            inputs.push(match (integer, &node.op) {
                (true, Op::Conv(_)) if k == 1 => self.weight(&node.name, v, 0)?,
                (true, Op::Gemm(g)) if k == 1 => {
                    self.weight(&node.name, v, usize::from(!g.trans_b))?
                }
                (true, _) => self.through(v)?,
                (false, _) => self.plain(v),
            });
        }
        let names: Vec<&str> =
            node.outputs.iter().map(|&o| self.old.value(o).name.as_str()).collect();
        let made = self.new.push(&node.name, node.op.clone(), &inputs, &names)?;
        self.plain.extend(node.outputs.iter().copied().zip(made));
        Ok(())
    }

    /// True when operand `k` of a selected node is read as integers.
    fn is_integer_operand(&self, node: &Node, k: usize) -> bool {
        match (kind(self.old, node), &node.op) {
            (Kind::Product, Op::Conv(_)) => match k {
                0 | 1 => true,
                // A residual in floats is added as it is.
                3 => self.made_of_integers(node.inputs[3]),
                _ => false,
            },
            (Kind::Product, _) => k < 2,
            (Kind::Move, Op::Concat { .. }) => true,
            (Kind::Move, _) => k == 0,
            _ => self.old.constant(node.inputs[k]).is_none(),
        }
    }

    fn made_of_integers(&self, v: ValueId) -> bool {
        self.producers.get(&v).is_some_and(|p| self.selection.nodes.contains(p))
    }

    /// Of a selected addition, the operand whose layer will do the addition: the one made last.
    fn fused_operand(&self, node: &Node) -> Option<usize> {
        let Op::Binary { kind: Binary::Add, activation } = node.op else { return None };
        let same = node.inputs.iter().all(|&v| self.old.fact(v) == self.old.fact(node.outputs[0]));
        if !same || node.inputs[0] == node.inputs[1] {
            return None;
        }
        let can = |k: &usize| {
            let v = node.inputs[*k];
            let Some(&p) = self.producers.get(&v) else { return false };
            let layer = &self.old.nodes[p];
            let own = layer.op.fused_activation();
            let free = match &layer.op {
                Op::Conv(c) => !c.residual,
                Op::Gemm(_) => true,
                _ => false,
            };
            free && self.selection.nodes.contains(&p)
                && self.users.get(&v).is_some_and(|u| u.len() == 1)
                && !self.old.is_output(v)
                && own.is_none_or(Activation::is_exact)
                && (own.is_none() || activation.is_none())
        };
        (0..2).filter(can).max_by_key(|&k| self.producers.get(&node.inputs[k]))
    }

    /// Constant weights as integers, one scale for each index of `axis`: largest magnitude over
    /// 127. A channel of zeros has scale 1.
    fn weight(&mut self, layer: &str, v: ValueId, axis: usize) -> Result<ValueId, GraphError> {
        let Some(tensor) = self.old.constant(v).cloned() else {
            unreachable!("selected layers have constant weights")
        };
        let shape = tensor.shape().to_vec();
        let data = tensor.as_f32().unwrap_or_default();
        let inner: usize = shape[axis + 1..].iter().product();
        let channel = |i: usize| i / inner.max(1) % shape[axis].max(1);
        let mut largest = vec![0.0f32; shape[axis]];
        for (i, x) in data.iter().enumerate() {
            let c = channel(i);
            largest[c] = largest[c].max(x.abs());
        }
        let scales: Vec<f32> = largest
            .iter()
            .map(|&m| Range { clip: m, positive: false }.scale(false).scale)
            .collect();
        let integer = |(i, x): (usize, &f32)| {
            (x / scales[channel(i)]).round_ties_even().clamp(-127.0, 127.0) as i8
        };
        let values: Vec<i8> = data.iter().enumerate().map(integer).collect();
        let integers = Tensor::new(tensor.shape(), TensorData::I8(values));
        let integers = self.new.add_constant(&format!("{layer}.weight"), integers);
        let scales = Tensor::f32([scales.len()], scales);
        let scales = self.new.add_constant(&format!("{layer}.weight.scale"), scales);
        let name = format!("{layer}.weight (Dequantize)");
        self.new.push1(&name, Op::Dequantize { axis: Some(axis) }, &[integers, scales])
    }
}
