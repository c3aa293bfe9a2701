//! What lies between Dequantize and Quantize becomes integer layers.
//!
//! Models that come quantised and models that were calibrated both say it so: tensors pass
//! through a Quantize and a Dequantize. Here a layer whose operands come from Dequantize takes
//! the integers themselves; where everything behind it is one and the same Quantize, it stores
//! integers too. What only moves elements moves integers. What has no integer form stays as it
//! is, with its Quantize and Dequantize.

mod light;
mod products;
mod weights;

use std::collections::HashMap;

use tobiuo_ops::{Op, Quantization, Requantization};
use tobiuo_tensor::{DType, Tensor};

use crate::graph::{Graph, GraphError, Node, ValueId};
pub(crate) use light::moved;

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    if !graph.nodes.iter().any(|n| matches!(n.op, Op::Dequantize { .. } | Op::Quantize { .. })) {
        return Ok(graph);
    }
    let mut rewrite = Rewrite::new(&graph);
    for i in 0..graph.nodes.len() {
        rewrite.node(i)?;
    }
    rewrite.finish()
}

/// A tensor's integers.
#[derive(Clone, Copy)]
struct Integers {
    /// In the new graph.
    value: ValueId,
    q: Quantization,
}

/// What there is of a value of the old graph in the new one.
#[derive(Clone, Copy, Default)]
struct State {
    /// Itself.
    plain: Option<ValueId>,
    /// The integers that it is the Dequantize of.
    integers: Option<Integers>,
    /// The node that makes it, which waits for the addition behind it.
    waits: Option<usize>,
}

/// A graph being rewritten.
struct Rewrite<'a> {
    old: &'a Graph,
    new: Graph,
    states: Vec<State>,
    users: HashMap<ValueId, Vec<usize>>,
    producers: HashMap<ValueId, usize>,
}

impl<'a> Rewrite<'a> {
    fn new(old: &'a Graph) -> Rewrite<'a> {
        let mut new = Graph::new();
        new.metadata = old.metadata.clone();
        let mut states = vec![State::default(); old.value_count()];
        for &v in &old.inputs {
            let value = old.value(v);
            let input = new.add_input(&value.name, value.fact.dtype, value.fact.shape.clone());
            states[v.0 as usize].plain = Some(input);
        }
        Rewrite { users: old.users(), producers: old.producers(), old, new, states }
    }

    fn finish(mut self) -> Result<Graph, GraphError> {
        for (name, v) in &self.old.outputs {
            let value = self.plain(*v)?;
            self.new.outputs.push((name.clone(), value));
        }
        Ok(self.new.compact())
    }

    fn state(&self, v: ValueId) -> State {
        self.states[v.0 as usize]
    }

    fn set_plain(&mut self, old: ValueId, new: ValueId) {
        self.states[old.0 as usize].plain = Some(new);
    }

    fn set_integers(&mut self, old: ValueId, value: ValueId, q: Quantization) {
        self.states[old.0 as usize].integers = Some(Integers { value, q });
    }

    /// A value as it is, made if need be.
    fn plain(&mut self, v: ValueId) -> Result<ValueId, GraphError> {
        if let Some(i) = self.state(v).waits {
            self.states[v.0 as usize].waits = None;
            let node = self.old.nodes[i].clone();
            self.emit_product(&node, None)?;
        }
        let state = self.state(v);
        let made = match (state.plain, state.integers) {
            (Some(value), _) => return Ok(value),
            (None, Some(integers)) => {
                let name = &self.old.value(v).name;
                let scale = self.scalar(name, integers.q.scale);
                let mut inputs = vec![integers.value, scale];
                if integers.q.zero_point != 0 {
                    let dtype = self.new.fact(integers.value).dtype;
                    inputs.push(self.zero(name, integers.q.zero_point, dtype));
                }
                let op = Op::Dequantize { axis: None };
                self.new.push(&format!("{name} (Dequantize)"), op, &inputs, &[name])?[0]
            }
            (None, None) => match self.old.constant(v) {
                Some(tensor) => {
                    let tensor = tensor.clone();
                    self.new.add_constant(&self.old.value(v).name, tensor)
                }
                None => unreachable!("operands are made before their users"),
            },
        };
        self.set_plain(v, made);
        Ok(made)
    }

    fn scalar(&mut self, name: &str, scale: f32) -> ValueId {
        let tensor = Tensor::f32(Vec::new(), vec![scale]);
        self.new.add_constant(&format!("{name}.scale"), tensor)
    }

    fn zero(&mut self, name: &str, zero: i32, dtype: DType) -> ValueId {
        let tensor = weights::zero_tensor(zero, dtype);
        self.new.add_constant(&format!("{name}.zero_point"), tensor)
    }

    /// Scale and zero point of a Quantize or Dequantize, when they are one constant number.
    fn parameters(&self, node: &Node) -> Option<Quantization> {
        let (Op::Quantize { axis: None, .. } | Op::Dequantize { axis: None }) = node.op else {
            return None;
        };
        let &[scale] = self.old.constant(node.inputs[1])?.as_f32()? else { return None };
        let zero_point = match node.inputs.get(2) {
            None => 0,
            Some(&z) => *self.old.constant(z)?.to_i64()?.first()? as i32,
        };
        // The rest of what integer layers want of a scale is checked where they are made.
        (scale.is_normal() && scale > 0.0 && (1.0 / scale).is_normal())
            .then_some(Quantization { scale, zero_point })
    }

    /// How all users of a value want it stored, when they are Quantizes that agree.
    fn stored(&self, v: ValueId) -> Option<Requantization> {
        if self.old.is_output(v) {
            return None;
        }
        let mut wanted = None;
        for &i in self.users.get(&v)? {
            let node = &self.old.nodes[i];
            let Op::Quantize { to, .. } = node.op else { return None };
            let q = self.parameters(node)?;
            let r = Requantization { to, scale: q.scale, zero_point: q.zero_point };
            if wanted.is_some_and(|w| w != r) {
                return None;
            }
            wanted = Some(r);
        }
        wanted
    }

    /// Adds a node in the place of an old one, storing as its users want.
    fn replace(
        &mut self,
        node: &Node,
        op: Op,
        inputs: &[ValueId],
        output: Option<Requantization>,
    ) -> Result<(), GraphError> {
        let name = &self.old.value(node.outputs[0]).name;
        let made = self.new.push(&node.name, op, inputs, &[name])?[0];
        match output {
            Some(r) => self.set_integers(node.outputs[0], made, r.quantization()),
            None => self.set_plain(node.outputs[0], made),
        }
        Ok(())
    }

    fn node(&mut self, i: usize) -> Result<(), GraphError> {
        let node = self.old.nodes[i].clone();
        let taken = match &node.op {
            Op::Quantize { to, .. } => self.quantize(&node, *to)?,
            Op::Dequantize { .. } => self.dequantize(&node)?,
            Op::Conv(_) | Op::Gemm(_) => self.product(i, &node)?,
            _ => self.light(&node)?,
        };
        if taken {
            return Ok(());
        }
        let inputs =
            node.inputs.iter().map(|&v| self.plain(v)).collect::<Result<Vec<_>, GraphError>>()?;
        let names: Vec<&str> =
            node.outputs.iter().map(|&o| self.old.value(o).name.as_str()).collect();
        let made = self.new.push(&node.name, node.op.clone(), &inputs, &names)?;
        for (&old, new) in node.outputs.iter().zip(made) {
            self.set_plain(old, new);
        }
        Ok(())
    }

    fn quantize(&mut self, node: &Node, to: DType) -> Result<bool, GraphError> {
        let Some(q) = self.parameters(node) else { return Ok(false) };
        let state = self.state(node.inputs[0]);
        let (Some(integers), None) = (state.integers, state.plain) else { return Ok(false) };
        let value = if integers.q == q && self.new.fact(integers.value).dtype == to {
            integers.value
        } else {
            let r = Requantization { to, scale: q.scale, zero_point: q.zero_point };
            self.requantized(&node.name, integers, r)?
        };
        self.set_plain(node.outputs[0], value);
        Ok(true)
    }

    fn dequantize(&mut self, node: &Node) -> Result<bool, GraphError> {
        let bytes = matches!(self.old.fact(node.inputs[0]).dtype, DType::I8 | DType::U8);
        let constant = self.old.constant(node.inputs[0]).is_some();
        let Some(q) = self.parameters(node).filter(|_| bytes && !constant) else {
            return Ok(false);
        };
        let value = self.plain(node.inputs[0])?;
        self.set_integers(node.outputs[0], value, q);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
