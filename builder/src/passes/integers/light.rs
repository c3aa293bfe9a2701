//! Everything beside convolutions and fully connected layers: element-wise functions, pools,
//! and what only moves elements.

use tobiuo_cpu::evaluate;
use tobiuo_ops::{
    Activation, Binary, Coordinates, Op, Pad, PadMode, Pool, PoolKind, QuantBinary, QuantPool,
    Quantization, Reduce, Requantization, Resize, ResizeMode,
};
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::{Integers, Rewrite};
use crate::graph::{GraphError, Node, ValueId};

impl Rewrite<'_> {
    /// Takes a node, if it can work on integers.
    pub(super) fn light(&mut self, node: &Node) -> Result<bool, GraphError> {
        match &node.op {
            Op::Binary { kind, activation } => {
                if *kind == Binary::Add && self.addition(node, *activation)? {
                    return Ok(true);
                }
                self.binary(node, *kind, *activation)
            }
            Op::Activation(_) | Op::Unary(_) => self.function(node),
            Op::Pool(p) if p.kind != PoolKind::Max => self.average(node, p.clone(), None),
            Op::Reduce { kind: Reduce::Mean, axes, keep_dims } => {
                self.mean(node, axes.clone(), *keep_dims)
            }
            Op::Concat { .. } => self.concat(node),
            op => match moved(op) {
                true => self.movement(node),
                false => Ok(false),
            },
        }
    }

    fn integers(&self, v: ValueId) -> Option<(Integers, DType)> {
        let integers = self.state(v).integers?;
        Some((integers, self.new.fact(integers.value).dtype))
    }

    fn binary(
        &mut self,
        node: &Node,
        kind: Binary,
        activation: Option<Activation>,
    ) -> Result<bool, GraphError> {
        use Binary::*;
        let known = matches!(kind, Add | Sub | Mul | Min | Max);
        let exact = activation.is_none_or(Activation::is_exact);
        let f32s = node.inputs.iter().all(|&v| self.old.fact(v).dtype == DType::F32);
        let sides = [0, 1].map(|k| self.state(node.inputs[k]).integers);
        let output = self.stored(node.outputs[0]);
        // Without integers behind it, floats on one side mean that floats are wanted.
        let both = sides.iter().all(Option::is_some);
        let one = sides.iter().any(Option::is_some);
        if !(known && exact && f32s && (both || (one && output.is_some()))) {
            return Ok(false);
        }
        let mut inputs = Vec::new();
        for (side, &v) in sides.iter().zip(&node.inputs) {
            inputs.push(match side {
                Some(integers) => integers.value,
                None => self.plain(v)?,
            });
        }
        let [a, b] = sides.map(|s| s.map(|i| i.q));
        let op = Op::QuantBinary(QuantBinary { kind, a, b, activation, output });
        self.replace(node, op, &inputs, output)?;
        Ok(true)
    }

    /// A function of single elements becomes a table.
    fn function(&mut self, node: &Node) -> Result<bool, GraphError> {
        let Some((x, dtype)) = self.integers(node.inputs[0]) else { return Ok(false) };
        let Some(r) = self.stored(node.outputs[0]) else { return Ok(false) };
        let reals = reals(x.q, dtype);
        let results = match &node.op {
            Op::Activation(a) if a.is_exact() => reals.iter().map(|&v| a.exact(v)).collect(),
            op => match evaluate(op, &[&Tensor::f32([256], reals)]) {
                Ok(out) => out[0].as_f32().unwrap_or_default().to_vec(),
                Err(_) => return Ok(false),
            },
        };
        let table = self.table(&node.name, &results, r);
        self.replace(node, Op::Lookup, &[x.value, table], Some(r))?;
        Ok(true)
    }

    /// The same tensor stored another way.
    pub(super) fn requantized(
        &mut self,
        name: &str,
        x: Integers,
        r: Requantization,
    ) -> Result<ValueId, GraphError> {
        let dtype = self.new.fact(x.value).dtype;
        let table = self.table(name, &reals(x.q, dtype), r);
        self.new.push1(name, Op::Lookup, &[x.value, table])
    }

    /// A table of 256 results, as Quantize stores them.
    fn table(&mut self, name: &str, results: &[f32], r: Requantization) -> ValueId {
        let (low, high) = r.limits();
        let store = |v: &f32| {
            let q = (v / r.scale).round_ties_even() as i32;
            q.saturating_add(r.zero_point).clamp(low, high)
        };
        let data = match r.to {
            DType::U8 => TensorData::U8(results.iter().map(|v| store(v) as u8).collect()),
            _ => TensorData::I8(results.iter().map(|v| store(v) as i8).collect()),
        };
        self.new.add_constant(&format!("{name}.table"), Tensor::new([256], data))
    }

    fn average(
        &mut self,
        node: &Node,
        pool: Pool,
        shape: Option<Vec<usize>>,
    ) -> Result<bool, GraphError> {
        let Some((x, _)) = self.integers(node.inputs[0]) else { return Ok(false) };
        if pool.kernel.len() > 2 {
            return Ok(false);
        }
        let output = self.stored(node.outputs[0]);
        let op = Op::QuantPool(QuantPool { pool, x: x.q, output });
        let Some(shape) = shape else {
            self.replace(node, op, &[x.value], output)?;
            return Ok(true);
        };
        let pooled = self.new.push1(&node.name, op, &[x.value])?;
        self.replace(node, Op::Reshape { shape }, &[pooled], output)?;
        Ok(true)
    }

    /// A mean over all spatial axes is an average pool.
    fn mean(&mut self, node: &Node, axes: Vec<usize>, keep_dims: bool) -> Result<bool, GraphError> {
        let x = self.old.shape(node.inputs[0]).to_vec();
        if !(3..=4).contains(&x.len()) || !axes.iter().copied().eq(2..x.len()) {
            return Ok(false);
        }
        let n = axes.len();
        let pool = Pool {
            kind: PoolKind::Average { count_include_pad: false },
            kernel: x[2..].to_vec(),
            strides: vec![1; n],
            pads: vec![0; 2 * n],
            dilations: vec![1; n],
            ceil_mode: false,
        };
        self.average(node, pool, (!keep_dims).then(|| x[..2].to_vec()))
    }

    /// What moves elements moves integers: their scale stays.
    fn movement(&mut self, node: &Node) -> Result<bool, GraphError> {
        let x = match self.integers(node.inputs[0]) {
            Some((x, _)) => x,
            None => match self.early(node)? {
                Some(x) => x,
                None => return Ok(false),
            },
        };
        let op = match &node.op {
            Op::Pad(Pad { begins, ends, mode: PadMode::Constant { value: 0.0 } }) => Op::Pad(Pad {
                begins: begins.clone(),
                ends: ends.clone(),
                mode: PadMode::Constant { value: x.q.zero_point as f32 },
            }),
            other => other.clone(),
        };
        let name = &self.old.value(node.outputs[0]).name;
        let mut inputs = vec![x.value];
        for &v in &node.inputs[1..] {
            inputs.push(self.plain(v)?);
        }
        let made = self.new.push(&node.name, op, &inputs, &[name])?[0];
        self.set_integers(node.outputs[0], made, x.q);
        Ok(true)
    }

    /// The operand as the integers that all users of what `node` moves want, where a convolution
    /// in floats makes it: it may store them, and fewer bytes move. To round and to move commute,
    /// to round and to take the largest too.
    fn early(&mut self, node: &Node) -> Result<Option<Integers>, GraphError> {
        let v = node.inputs[0];
        let made = self.producers.get(&v).map(|&i| &self.old.nodes[i].op);
        let alone = self.users.get(&v).is_some_and(|u| u.len() == 1) && !self.old.is_output(v);
        let Some(r) = self.stored(node.outputs[0]) else { return Ok(None) };
        if !(alone && matches!(made, Some(Op::Conv(_)))) || self.old.fact(v).dtype != DType::F32 {
            return Ok(None);
        }
        let plain = self.plain(v)?;
        let name = format!("{} (Quantize)", self.old.value(v).name);
        let (scale, zero) = (self.scalar(&name, r.scale), self.zero(&name, r.zero_point, r.to));
        let op = Op::Quantize { axis: None, to: r.to };
        let value = self.new.push1(&name, op, &[plain, scale, zero])?;
        Ok(Some(Integers { value, q: r.quantization() }))
    }

    fn concat(&mut self, node: &Node) -> Result<bool, GraphError> {
        let parts: Vec<_> = node.inputs.iter().map(|&v| self.integers(v)).collect();
        let Some(first) = parts.iter().flatten().next() else { return Ok(false) };
        let same = parts.iter().all(|p| p.is_some_and(|p| p.0.q == first.0.q && p.1 == first.1));
        let wanted = match (same, self.stored(node.outputs[0])) {
            (true, _) => {
                let Quantization { scale, zero_point } = first.0.q;
                Requantization { to: first.1, scale, zero_point }
            }
            (false, Some(r)) => r,
            (false, None) => return Ok(false),
        };
        let mut inputs = Vec::new();
        for (part, &v) in parts.into_iter().zip(&node.inputs) {
            inputs.push(match part {
                Some((x, dtype)) if x.q == wanted.quantization() && dtype == wanted.to => x.value,
                Some((x, _)) => self.requantized(&node.name, x, wanted)?,
                None => {
                    let x = self.plain(v)?;
                    let scale = self.scalar(&node.name, wanted.scale);
                    let zero = self.zero(&node.name, wanted.zero_point, wanted.to);
                    let op = Op::Quantize { axis: None, to: wanted.to };
                    self.new.push1(&node.name, op, &[x, scale, zero])?
                }
            });
        }
        self.replace(node, node.op.clone(), &inputs, Some(wanted))?;
        Ok(true)
    }
}

/// What each of the 256 bytes stands for, in the order of integers.
fn reals(q: Quantization, dtype: DType) -> Vec<f32> {
    let first = if dtype == DType::I8 { -128 } else { 0 };
    (0..256).map(|i| (first + i - q.zero_point) as f32 * q.scale).collect()
}

/// True for ops whose results are elements of their first operand, whatever these stand for, or
/// zeros.
pub(crate) fn moved(op: &Op) -> bool {
    match op {
        Op::Pool(p) => p.kind == PoolKind::Max && p.kernel.len() <= 2,
        Op::Slice(_)
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand { .. }
        | Op::Tile { .. }
        | Op::Gather { .. } => true,
        Op::Resize(Resize { mode: ResizeMode::Nearest { .. }, coordinates, .. }) => {
            !matches!(coordinates, Coordinates::TfCropAndResize { .. })
        }
        Op::Pad(p) => match p.mode {
            PadMode::Constant { value } => value == 0.0,
            _ => true,
        },
        _ => false,
    }
}
