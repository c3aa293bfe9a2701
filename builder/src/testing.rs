//! What tests share: random tensors, graphs run op by op, random networks.

use std::collections::HashMap;

use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor, numel};

use crate::graph::{Graph, ValueId};

/// xorshift64*.
pub(crate) struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let n = numel(shape);
        Tensor::f32(shape, (0..n).map(|_| self.unit()).collect())
    }

    /// Uniform in low..high.
    pub fn tensor_in(&mut self, shape: &[usize], low: f32, high: f32) -> Tensor {
        let n = numel(shape);
        let v = (0..n).map(|_| low + (self.unit() + 1.0) / 2.0 * (high - low)).collect();
        Tensor::f32(shape, v)
    }
}

/// Every output of a graph, each op run by itself on tensors of its own.
pub(crate) fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut known: HashMap<ValueId, Tensor> = HashMap::new();
    known.extend(graph.inputs.iter().copied().zip(inputs.iter().cloned()));
    for (id, value) in graph.values() {
        if let Some(t) = &value.constant {
            known.insert(id, (**t).clone());
        }
    }
    for node in &graph.nodes {
        let operands: Vec<&Tensor> = node.inputs.iter().map(|v| &known[v]).collect();
        let out = tobiuo_cpu::evaluate(&node.op, &operands)
            .unwrap_or_else(|e| panic!("'{}' ({}): {e}", node.name, node.op.name()));
        known.extend(node.outputs.iter().copied().zip(out));
    }
    graph.outputs.iter().map(|(_, v)| known[v].clone()).collect()
}

pub(crate) fn random_inputs(graph: &Graph, rng: &mut Noise) -> Vec<Tensor> {
    graph.inputs.iter().map(|&v| rng.tensor(graph.shape(v))).collect()
}

/// Relative L2 distance of two lists of tensors; infinite where shapes or types differ.
pub(crate) fn distance(a: &[Tensor], b: &[Tensor]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let one = |(a, b): (&Tensor, &Tensor)| {
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            return f64::INFINITY;
        }
        let (x, y) = (a.to_f64(), b.to_f64());
        let d: f64 = x.iter().zip(&y).map(|(p, q)| (p - q) * (p - q)).sum();
        let n: f64 = x.iter().map(|p| p * p).sum();
        let distance = (d / n.max(1e-20)).sqrt();
        if distance.is_nan() { f64::INFINITY } else { distance }
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

pub(crate) fn conv_op(kernel: usize, stride: usize, pad: usize, groups: usize) -> Op {
    Op::Conv(Conv {
        kernel: vec![kernel; 2],
        strides: vec![stride; 2],
        pads: vec![pad; 4],
        dilations: vec![1; 2],
        groups,
        activation: None,
        residual: false,
    })
}

pub(crate) fn binary(kind: Binary) -> Op {
    Op::Binary { kind, activation: None }
}

pub(crate) fn scalar(g: &mut Graph, v: f32) -> ValueId {
    g.add_constant("k", Tensor::f32(vec![], vec![v]))
}

/// A convolution with random weights, `outputs` filters.
pub(crate) fn conv(g: &mut Graph, rng: &mut Noise, x: ValueId, outputs: usize, op: Op) -> ValueId {
    let Op::Conv(c) = &op else { panic!("not a convolution") };
    let per_group = g.shape(x)[1] / c.groups;
    let scale = (1.0 / (per_group * numel(&c.kernel)) as f32).sqrt() * 1.7;
    let shape = [outputs, per_group, c.kernel[0], c.kernel[1]];
    let w = rng.tensor_in(&shape, -scale, scale);
    let w = g.add_constant("w", w);
    let b = rng.tensor(&[outputs]);
    let b = g.add_constant("b", b);
    g.push1("conv", op, &[x, w, b]).unwrap()
}

pub(crate) fn batch_norm(g: &mut Graph, rng: &mut Noise, x: ValueId) -> ValueId {
    let c = g.shape(x)[1];
    let (scale, bias, mean) = (rng.tensor_in(&[c], 0.5, 1.5), rng.tensor(&[c]), rng.tensor(&[c]));
    let variance = rng.tensor_in(&[c], 0.5, 2.0);
    let inputs: Vec<ValueId> = std::iter::once(x)
        .chain([scale, bias, mean, variance].map(|t| g.add_constant("bn", t)))
        .collect();
    g.push1("bn", Op::BatchNorm { epsilon: 1e-5 }, &inputs).unwrap()
}

/// A random network of `choices.len()` layers over pictures `[batch, 4, 8, 8]`, with
/// branches, concatenations, slices and residuals.
pub(crate) fn random_network(choices: &[u32], batch: usize, seed: u64) -> Graph {
    let mut rng = Noise::new(seed);
    let mut g = Graph::new();
    let input = g.add_input("x", DType::F32, vec![batch, 4, 8, 8]);
    let mut pool = vec![input];
    for &choice in choices {
        let pick = |k: u32| pool[pool.len() - 1 - (k as usize % pool.len().min(4))];
        let x = pick(choice >> 8);
        let made = layer(&mut g, &mut rng, x, choice, &pool);
        pool.extend(made);
    }
    let last = *pool.last().unwrap();
    g.outputs.push(("last".into(), last));
    if choices.first().is_some_and(|c| c & 1 == 1) {
        let other = pool[pool.len() / 2];
        g.outputs.push(("middle".into(), other));
    }
    g.compact()
}

/// One random layer on `x`.
fn layer(
    g: &mut Graph,
    rng: &mut Noise,
    x: ValueId,
    choice: u32,
    pool: &[ValueId],
) -> Option<ValueId> {
    let shape = g.shape(x).to_vec();
    let [batch, c, h, w] = shape[..] else { return None };
    let outputs = [4, 8, 6][(choice >> 12) as usize % 3];
    let alike = pool.iter().rev().copied().find(|&v| v != x && g.shape(v) == shape);
    let activations = [
        Activation::Relu,
        Activation::Sigmoid,
        Activation::Silu,
        Activation::LeakyRelu { alpha: 0.1 },
        Activation::Clip { min: 0.0, max: 6.0 },
    ];
    let made = match choice % 16 {
        0 | 1 => return Some(conv(g, rng, x, outputs, conv_op(3, 1, 1, 1))),
        2 => return Some(conv(g, rng, x, outputs, conv_op(1, 1, 0, 1))),
        3 => return Some(conv(g, rng, x, c, conv_op(3, 1, 1, c))),
        4 => return Some(batch_norm(g, rng, x)),
        5 | 6 => {
            let a = activations[(choice >> 16) as usize % activations.len()];
            g.push1("act", Op::Activation(a), &[x])
        }
        7 => {
            let s = g.push1("sig", Op::Activation(Activation::Sigmoid), &[x]).unwrap();
            g.push1("mul", binary(Binary::Mul), &[x, s])
        }
        8 | 9 => g.push1("add", binary(Binary::Add), &[x, alike?]),
        10 | 11 => g.push1("concat", Op::Concat { axis: 1 }, &[x, alike.unwrap_or(x)]),
        12 if c >= 2 => {
            let half = c / 2;
            let start = if choice >> 20 & 1 == 1 { c - half } else { 0 };
            let slice = tobiuo_ops::Slice {
                starts: vec![0, start, 0, 0],
                steps: vec![1; 4],
                lens: vec![batch, half, h, w],
            };
            g.push1("slice", Op::Slice(slice), &[x])
        }
        13 => {
            let k = rng.tensor_in(&[1, c, 1, 1], 0.5, 1.5);
            let k = g.add_constant("k", k);
            let kind = [Binary::Mul, Binary::Add, Binary::Sub, Binary::Div];
            g.push1("affine", binary(kind[(choice >> 16) as usize % 4]), &[x, k])
        }
        14 => {
            let flat = g.push1("flat", Op::Reshape { shape: vec![batch, c, h * w] }, &[x]).unwrap();
            g.push1("back", Op::Reshape { shape: vec![batch, c, h, w] }, &[flat])
        }
        _ => {
            let mode = PadMode::Constant { value: 0.0 };
            let pad = Pad { begins: vec![0, 0, 1, 1], ends: vec![0, 0, 1, 1], mode };
            let padded = g.push1("pad", Op::Pad(pad), &[x]).unwrap();
            return Some(conv(g, rng, padded, outputs, conv_op(3, 1, 0, 1)));
        }
    };
    Some(made.unwrap())
}
