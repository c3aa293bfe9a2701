//! Calibrated scales become Quantize and Dequantize in a graph of floats.

use std::collections::{BTreeMap, HashMap, HashSet};

use tobiuo_ops::{Activation, Binary, Op, PoolKind};
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::select::{Kind, Selection, groups, kind, only_moves};
use crate::graph::{Graph, GraphError, Node, ValueId};

/// What calibration knows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Magnitudes beyond it are cut off.
    pub clip: f32,
    /// The smallest element, `-clip` at least; 0 where none was below.
    pub low: f32,
}

/// Ranges by tensor name.
pub type Ranges = BTreeMap<String, Range>;

/// A tensor's scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    scale: f32,
    zero_point: u8,
    dtype: DType,
}

/// Elements below 0 reach at most this share of the others' range where 256 levels from the
/// smallest one on are used: a step is then two thirds of a symmetric one or less.
const ONE_SIDED: f32 = 1.0 / 3.0;

/// True when the levels begin at a tensor's smallest element rather than lie evenly around 0:
/// behind SiLU, say, of which 127 levels below 0 would be 120 too many.
pub fn one_sided(clip: f32, low: f32) -> bool {
    low >= -clip * ONE_SIDED
}

impl Range {
    /// What holds both.
    fn union(self, other: Range) -> Range {
        Range { clip: self.clip.max(other.clip), low: self.low.min(other.low) }
    }

    /// One-sided: u8, `(clip - low) / 255`, with the integer that stands for 0 where `low` is.
    /// Else i8, symmetric, `clip / 127`. A tensor of zeros has scale 1.
    fn scale(self) -> Scale {
        let one_sided = one_sided(self.clip, self.low);
        let (dtype, scale) = match one_sided {
            true => (DType::U8, (self.clip - self.low) / 255.0),
            false => (DType::I8, self.clip / 127.0),
        };
        let fine = scale.is_normal() && (1.0 / scale).is_normal() && scale > 0.0;
        let scale = if fine { scale } else { 1.0 };
        let zero_point = match one_sided {
            true => (-self.low / scale).round_ties_even() as u8,
            false => 0,
        };
        Scale { scale, zero_point, dtype }
    }
}

/// The elements that follow one another and have one index of `axis`, with that index.
pub fn runs<'a, T>(
    values: &'a [T],
    shape: &[usize],
    axis: usize,
) -> impl Iterator<Item = (usize, &'a [T])> {
    let inner = shape[axis + 1..].iter().product::<usize>().max(1);
    let all = values.chunks(inner * shape[axis].max(1));
    all.flat_map(move |part| part.chunks(inner).enumerate())
}

/// The scales of weights, one for each index of `axis`: largest magnitude over 127. A channel of
/// zeros has scale 1.
pub fn weight_scales(weights: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
    let mut largest = vec![0.0f32; shape[axis]];
    for (c, run) in runs(weights, shape, axis) {
        largest[c] = run.iter().fold(largest[c], |m, x| m.max(x.abs()));
    }
    largest.iter().map(|&m| Range { clip: m, low: -m }.scale().scale).collect()
}

/// The nearest of the levels -127 to 127, of two the even one. Sums with this number have no bits
/// behind the point, whatever the processor has for rounding.
pub fn level(x: f32) -> i8 {
    const WHOLE: f32 = (3 << 22) as f32;
    ((x + WHOLE) - WHOLE).clamp(-127.0, 127.0) as i8
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
        .filter(|&v| ranges.get(&graph.value(v).name).is_some_and(|r| r.low >= 0.0))
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

/// The range of each value: its own, or of what was moved, its source's.
pub fn ranges_of_values(graph: &Graph, ranges: &Ranges) -> HashMap<ValueId, Range> {
    let mut known: HashMap<ValueId, Range> = HashMap::new();
    for (v, value) in graph.values() {
        known.extend(ranges.get(&value.name).map(|range| (v, *range)));
    }
    for node in graph.nodes.iter().filter(|n| only_moves(&n.op)) {
        let from = match &node.op {
            Op::Concat { .. } => node.inputs.as_slice(),
            _ => &node.inputs[..1],
        };
        let all: Option<Vec<Range>> = from.iter().map(|v| known.get(v).copied()).collect();
        let Some(range) = all.and_then(|all| all.into_iter().reduce(Range::union)) else {
            continue;
        };
        for &output in &node.outputs {
            known.entry(output).or_insert(range);
        }
    }
    known
}

/// The scale of each value that has one: of its group, if it has one.
fn scales(graph: &Graph, selection: &Selection, ranges: &Ranges) -> HashMap<ValueId, Scale> {
    let groups = groups(graph, selection);
    let positive = positive_values(graph, ranges);
    let mut wanted: HashMap<ValueId, Range> = HashMap::new();
    for (v, range) in ranges_of_values(graph, ranges) {
        let low = if positive.contains(&v) { 0.0 } else { range.low };
        let range = Range { low, ..range };
        wanted.entry(groups[&v]).and_modify(|r| *r = r.union(range)).or_insert(range);
    }
    // A fully connected layer of few rows has no kernel for shifted integers on a GPU.
    for node in &graph.nodes {
        if let (Op::Gemm(_), Some(range)) = (&node.op, wanted.get_mut(&groups[&node.inputs[0]])) {
            range.low = if range.low < 0.0 { -range.clip } else { 0.0 };
        }
    }
    let scale = |group: &ValueId| wanted.get(group).map(|range| range.scale());
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
        let Some(&Scale { scale, zero_point, dtype }) = self.scales.get(&v) else {
            return Ok(plain);
        };
        let name = self.old.value(v).name.clone();
        let scale = Tensor::f32(Vec::new(), vec![scale]);
        let scale = self.new.add_constant(&format!("{name}.scale"), scale);
        let zero = match dtype {
            DType::U8 => Tensor::new(Vec::new(), TensorData::U8(vec![zero_point])),
            _ => Tensor::zeros(dtype, Vec::new()),
        };
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

    /// Constant weights as integers.
    fn weight(&mut self, layer: &str, v: ValueId, axis: usize) -> Result<ValueId, GraphError> {
        let Some(tensor) = self.old.constant(v).cloned() else {
            unreachable!("selected layers have constant weights")
        };
        let shape = tensor.shape().to_vec();
        let data = tensor.as_f32().unwrap_or_default();
        let scales = weight_scales(data, &shape, axis);
        let mut values: Vec<i8> = Vec::with_capacity(data.len());
        for (c, run) in runs(data, &shape, axis) {
            values.extend(run.iter().map(|x| level(x / scales[c])));
        }
        let integers = Tensor::new(tensor.shape(), TensorData::I8(values));
        let integers = self.new.add_constant(&format!("{layer}.weight"), integers);
        let scales = Tensor::f32([scales.len()], scales);
        let scales = self.new.add_constant(&format!("{layer}.weight.scale"), scales);
        let name = format!("{layer}.weight (Dequantize)");
        self.new.push1(&name, Op::Dequantize { axis: Some(axis) }, &[integers, scales])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_nearest() {
        let mut x = -130.0f32;
        while x < 130.0 {
            assert_eq!(level(x), x.round_ties_even().clamp(-127.0, 127.0) as i8, "{x}");
            x += 0.0625;
        }
        for x in [f32::INFINITY, f32::MAX, 1e9, 8e6, f32::MIN_POSITIVE, -0.0, f32::NAN] {
            for x in [x, -x] {
                assert_eq!(level(x), x.round_ties_even().clamp(-127.0, 127.0) as i8, "{x}");
            }
        }
    }

    #[test]
    fn runs_have_one_index_of_an_axis() {
        let values: Vec<usize> = (0..24).collect();
        for (axis, inner) in [(0, 12), (1, 4), (2, 1)] {
            let shape = [2, 3, 4];
            let found: Vec<(usize, usize)> = runs(&values, &shape, axis)
                .flat_map(|(c, run)| run.iter().map(move |&v| (v, c)))
                .collect();
            let want = values.iter().map(|&v| (v, v / inner % shape[axis]));
            assert_eq!(found, want.collect::<Vec<_>>());
        }
        assert_eq!(runs(&values[..0], &[0, 3], 0).count(), 0);
        assert_eq!(runs(&values[..0], &[3, 0], 1).count(), 0);
    }

    #[test]
    fn levels_lie_where_elements_are() {
        let of = |clip, low| Range { clip, low }.scale();
        let scale = |scale, zero_point, dtype| Scale { scale, zero_point, dtype };
        assert_eq!(of(2.55, 0.0), scale(0.01, 0, DType::U8));
        assert_eq!(of(1.27, -1.0), scale(0.01, 0, DType::I8));
        // SiLU is above -0.2785.
        let silu = of(2.25, -0.3);
        assert_eq!(silu, scale(0.01, 30, DType::U8));
        assert_eq!(of(0.0, 0.0), scale(1.0, 0, DType::U8));
        assert_eq!(of(1e-44, 0.0).scale, 1.0);
    }
}
