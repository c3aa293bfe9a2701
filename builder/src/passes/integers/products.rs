//! Convolutions and fully connected layers, with the addition and activation behind them.

use tobiuo_ops::{
    Activation, Binary, Conv, Epilogue, Gemm, Op, QuantConv, QuantGemm, Residual, infer,
};
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::Rewrite;
use super::weights::Weights;
use crate::graph::{GraphError, Node, ValueId};

/// An addition behind a product that becomes part of it.
pub(super) struct Addition<'a> {
    pub node: &'a Node,
    pub other: ValueId,
    /// The addition's own activation.
    pub activation: Option<Activation>,
}

/// A product's constants.
struct Product {
    weights: Weights,
    multiplier: Vec<f32>,
    bias: Vec<f32>,
}

impl Rewrite<'_> {
    /// Takes a convolution or fully connected layer, if it can be one of integers. One with
    /// nothing but an addition behind it waits for that.
    pub(super) fn product(&mut self, i: usize, node: &Node) -> Result<bool, GraphError> {
        if self.constants(node).is_none() {
            return Ok(false);
        }
        if self.addition_behind(node) {
            self.states[node.outputs[0].0 as usize].waits = Some(i);
            return Ok(true);
        }
        self.emit_product(node, None)?;
        Ok(true)
    }

    /// True when a layer has one user, an addition that can become part of it.
    fn addition_behind(&self, node: &Node) -> bool {
        let out = node.outputs[0];
        let (Op::Conv(Conv { residual: false, activation, .. })
        | Op::Gemm(Gemm { activation, .. })) = &node.op
        else {
            return false;
        };
        let Some(&[user]) = self.users.get(&out).map(Vec::as_slice) else { return false };
        let Op::Binary { kind: Binary::Add, activation: last } = self.old.nodes[user].op else {
            return false;
        };
        let shapes = self.old.nodes[user].inputs.iter().map(|&v| self.old.fact(v));
        let same = shapes.into_iter().all(|f| f == self.old.fact(out));
        let exact = activation.is_none_or(Activation::is_exact);
        same && exact && !self.old.is_output(out) && (activation.is_none() || last.is_none())
    }

    /// Takes an addition to a layer that waits for it.
    pub(super) fn addition(
        &mut self,
        node: &Node,
        activation: Option<Activation>,
    ) -> Result<bool, GraphError> {
        let waiting = |v: &ValueId| self.state(*v).waits;
        // The one made last: the other is there by then.
        let Some(k) = (0..2).max_by_key(|&k| waiting(&node.inputs[k])) else { return Ok(false) };
        let Some(i) = waiting(&node.inputs[k]) else { return Ok(false) };
        self.states[node.inputs[k].0 as usize].waits = None;
        let layer = self.old.nodes[i].clone();
        let addition = Addition { node, other: node.inputs[1 - k], activation };
        self.emit_product(&layer, Some(addition))?;
        Ok(true)
    }

    /// What a layer of integers needs, or `None` when it cannot be one.
    fn constants(&self, node: &Node) -> Option<Product> {
        let x = self.state(node.inputs[0]).integers?;
        let (weights, factor, bias) = match &node.op {
            Op::Conv(_) => {
                let weights = self.weights(node.inputs[1], 0)?;
                let bias = self.old.constant(node.inputs[2])?.as_f32()?.to_vec();
                (weights, 1.0, bias)
            }
            Op::Gemm(g) if !g.trans_a => {
                let weights = self.weights(node.inputs[1], usize::from(!g.trans_b))?;
                let weights = if g.trans_b { weights } else { transposed(weights) };
                let n = weights.shape[0];
                let bias = match node.inputs.get(2) {
                    None => vec![0.0; n],
                    Some(&c) => {
                        let c = self.old.constant(c)?;
                        match (c.as_f32()?, c.shape()) {
                            ([one], _) => vec![one * g.beta; n],
                            (many, [.., last]) if many.len() == n && *last == n => {
                                many.iter().map(|v| v * g.beta).collect()
                            }
                            _ => return None,
                        }
                    }
                };
                (weights, g.alpha, bias)
            }
            _ => return None,
        };
        let multiplier = weights.scales.iter().map(|s| x.q.scale * s * factor).collect();
        let product = Product { weights, multiplier, bias };
        // The op itself knows its limits.
        let mut facts = vec![self.new.fact(x.value).clone()];
        let of = |dtype, shape: &[usize]| tobiuo_ops::Fact::new(dtype, shape);
        facts.push(of(DType::I8, &product.weights.shape));
        facts.push(of(DType::F32, &[product.multiplier.len()]));
        facts.push(of(DType::F32, &[product.bias.len()]));
        let op = quantised(&node.op, x.q.zero_point, Epilogue::default())?;
        infer(&op, &facts).ok()?;
        Some(product)
    }

    /// Adds the layer of integers, with the addition behind it where there is one.
    pub(super) fn emit_product(
        &mut self,
        node: &Node,
        addition: Option<Addition<'_>>,
    ) -> Result<(), GraphError> {
        let Some(product) = self.constants(node) else {
            unreachable!("asked before the layer was taken")
        };
        let Some(x) = self.state(node.inputs[0]).integers else {
            unreachable!("asked before the layer was taken")
        };
        let own = node.op.fused_activation();
        let residual = match (&node.op, &addition) {
            (_, Some(a)) => Some((a.other, own.is_some())),
            (Op::Conv(c), None) if c.residual => Some((node.inputs[3], false)),
            _ => None,
        };
        let (last, name) = match &addition {
            Some(a) => (a.node, format!("{} + {}", node.name, a.node.name)),
            None => (node, node.name.clone()),
        };
        let activation = own.or(addition.as_ref().and_then(|a| a.activation));
        let residual = match residual {
            None => None,
            Some((v, after_activation)) => Some(match self.state(v).integers {
                Some(r) => (r.value, Residual { quantization: Some(r.q), after_activation }),
                None => (self.plain(v)?, Residual { quantization: None, after_activation }),
            }),
        };
        let out = last.outputs[0];
        let exact = activation.is_none_or(Activation::is_exact);
        let output = self.stored(out).filter(|_| exact);
        let epilogue = Epilogue {
            residual: residual.map(|r| r.1),
            activation: activation.filter(|_| exact),
            output,
        };
        let Some(op) = quantised(&node.op, x.q.zero_point, epilogue) else {
            unreachable!("asked before the layer was taken")
        };
        let inputs = self.operands(&node.name, x.value, product, residual.map(|r| r.0));
        if exact {
            let last = Node { name, ..last.clone() };
            return self.replace(&last, op, &inputs, output);
        }
        // The sums are integers' sums; what follows is computed in floats.
        let sums = self.new.push1(&name, op, &inputs)?;
        let Some(activation) = activation else { return Ok(()) };
        let value = &self.old.value(out).name;
        let made = self.new.push(&name, Op::Activation(activation), &[sums], &[value])?[0];
        self.set_plain(out, made);
        Ok(())
    }

    fn operands(
        &mut self,
        name: &str,
        x: ValueId,
        product: Product,
        residual: Option<ValueId>,
    ) -> Vec<ValueId> {
        let Product { weights, multiplier, bias } = product;
        let n = multiplier.len();
        let weight = Tensor::new(weights.shape, TensorData::I8(weights.values));
        let mut constant =
            |what: &str, tensor| self.new.add_constant(&format!("{name}.{what}"), tensor);
        let mut inputs = vec![
            x,
            constant("weight", weight),
            constant("multiplier", Tensor::f32([n], multiplier)),
            constant("bias", Tensor::f32([n], bias)),
        ];
        inputs.extend(residual);
        inputs
    }
}

/// `[K, N]` as `[N, K]`.
fn transposed(w: Weights) -> Weights {
    let (k, n) = (w.shape[0], w.shape[1]);
    let values = (0..n * k).map(|i| w.values[i % k * n + i / k]).collect();
    Weights { values, shape: vec![n, k], scales: w.scales }
}

/// A layer's form for integers.
fn quantised(op: &Op, x_zero_point: i32, epilogue: Epilogue) -> Option<Op> {
    Some(match op {
        Op::Conv(c) => Op::QuantConv(QuantConv {
            kernel: c.kernel.clone(),
            strides: c.strides.clone(),
            pads: c.pads.clone(),
            dilations: c.dilations.clone(),
            groups: c.groups,
            x_zero_point,
            epilogue,
        }),
        Op::Gemm(_) => Op::QuantGemm(QuantGemm { x_zero_point, epilogue }),
        _ => return None,
    })
}
