//! Plans written by hand.

use std::sync::Arc;

use tobiuo_engine::manifest::{Place, Plan, Program, Step, TensorDesc};
use tobiuo_ops::{Activation, Conv, Fact, Gemm, Op, Pool, PoolKind, infer};
use tobiuo_tensor::DType;

use crate::common::random;

/// 64 bytes, so that a vector of them is aligned as a weights section must be.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A weights section in memory.
pub struct Section(Vec<Line>);

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Makes a plan step by step.
#[derive(Default)]
pub struct Maker {
    pub tensors: Vec<TensorDesc>,
    pub steps: Vec<Step>,
    arena: u64,
    weights: Vec<u8>,
}

impl Maker {
    /// A tensor in the arena, at its own place.
    pub fn tensor(&mut self, shape: &[usize]) -> u32 {
        let at = self.arena;
        let bytes = shape.iter().product::<usize>() * 4;
        self.arena = (at + bytes as u64).next_multiple_of(64);
        self.tensor_at(shape, Place::Arena(at))
    }

    pub fn tensor_at(&mut self, shape: &[usize], place: Place) -> u32 {
        let name = format!("t{}", self.tensors.len());
        self.tensors.push(TensorDesc { name, dtype: DType::F32, shape: shape.to_vec(), place });
        self.tensors.len() as u32 - 1
    }

    /// A weight of random numbers, small enough to keep activations small.
    pub fn weight(&mut self, shape: &[usize]) -> u32 {
        let at = self.weights.len() as u64;
        let fan_in: usize = shape[1..].iter().product();
        let values = random(shape.iter().product(), at + 1);
        for v in values {
            self.weights.extend_from_slice(&(v / (fan_in as f32).sqrt()).to_ne_bytes());
        }
        let whole = self.weights.len().next_multiple_of(64);
        self.weights.resize(whole, 0);
        self.tensor_at(shape, Place::Weights(at))
    }

    fn facts(&self, inputs: &[u32]) -> Vec<Fact> {
        inputs
            .iter()
            .map(|&t| &self.tensors[t as usize])
            .map(|t| Fact { dtype: t.dtype, shape: t.shape.clone() })
            .collect()
    }

    /// A step with a new output.
    pub fn step(&mut self, op: Op, inputs: &[u32]) -> u32 {
        let out = infer(&op, &self.facts(inputs)).unwrap().remove(0);
        let t = self.tensor(&out.shape);
        self.step_into(op, inputs, t)
    }

    pub fn step_into(&mut self, op: Op, inputs: &[u32], out: u32) -> u32 {
        let name = format!("s{}", self.steps.len());
        self.steps.push(Step { name, op, inputs: inputs.to_vec(), outputs: vec![out] });
        out
    }

    /// A convolution with "same" padding. With `residual`, that tensor's place is the output's.
    pub fn conv(
        &mut self,
        x: u32,
        out: usize,
        k: usize,
        stride: usize,
        groups: usize,
        residual: Option<u32>,
    ) -> u32 {
        let channels = self.tensors[x as usize].shape[1];
        let w = self.weight(&[out, channels / groups, k, k]);
        let b = self.weight(&[out]);
        let op = Op::Conv(Conv {
            kernel: vec![k, k],
            strides: vec![stride; 2],
            pads: vec![k / 2; 4],
            dilations: vec![1; 2],
            groups,
            activation: Some(Activation::Silu),
            residual: residual.is_some(),
        });
        match residual {
            None => self.step(op, &[x, w, b]),
            Some(r) => {
                let TensorDesc { shape, place, .. } = self.tensors[r as usize].clone();
                let t = self.tensor_at(&shape, place);
                self.step_into(op, &[x, w, b, r], t)
            }
        }
    }

    pub fn finish(self, inputs: &[u32], outputs: &[u32]) -> (Plan, Arc<Section>) {
        let mut lines = vec![Line([0; 64]); self.weights.len() / 64];
        bytemuck::cast_slice_mut::<Line, u8>(&mut lines).copy_from_slice(&self.weights);
        let plan = Plan {
            batch: 1,
            arena: self.arena,
            tensors: self.tensors,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            program: Program::Cpu(self.steps),
        };
        (plan, Arc::new(Section(lines)))
    }
}

/// A small network with every kind of kernel that works on several threads or takes scratch
/// memory: convolutions of all splits, a residual in place, pools, a concat of parts written
/// in place, matrix products.
pub fn network() -> (Plan, Arc<Section>) {
    let mut m = Maker::default();
    let x = m.tensor(&[1, 3, 96, 96]);
    let a = m.conv(x, 24, 3, 2, 1, None);
    let b = m.conv(a, 24, 3, 1, 24, None);
    let c = m.conv(b, 24, 1, 1, 1, Some(a));
    // Two halves, one behind the other, are their concat.
    let both = m.tensor(&[1, 48, 48, 48]);
    let Place::Arena(at) = m.tensors[both as usize].place else { unreachable!() };
    let half = 24 * 48 * 48 * 4;
    let first = m.tensor_at(&[1, 24, 48, 48], Place::Arena(at));
    let second = m.tensor_at(&[1, 24, 48, 48], Place::Arena(at + half));
    m.step_into(Op::Activation(Activation::Tanh), &[c], first);
    m.step_into(Op::Activation(Activation::Relu), &[c], second);
    m.step_into(Op::Concat { axis: 1 }, &[first, second], both);
    let pool = Pool {
        kind: PoolKind::Max,
        kernel: vec![3, 3],
        strides: vec![2, 2],
        pads: vec![1; 4],
        dilations: vec![1, 1],
        ceil_mode: false,
    };
    let p = m.step(Op::Pool(pool.clone()), &[both]);
    let d = m.conv(p, 512, 3, 2, 1, None);
    let e = m.conv(d, 64, 3, 1, 4, None);
    let mean = Pool {
        kind: PoolKind::Average { count_include_pad: false },
        kernel: vec![12, 12],
        strides: vec![1, 1],
        pads: vec![0; 4],
        ..pool
    };
    let g = m.step(Op::Pool(mean), &[e]);
    let flat = {
        let place = m.tensors[g as usize].place;
        let t = m.tensor_at(&[1, 64], place);
        m.step_into(Op::Reshape { shape: vec![1, 64] }, &[g], t)
    };
    let (w, bias) = (m.weight(&[100, 64]), m.weight(&[100]));
    let gemm = Gemm { trans_a: false, trans_b: true, alpha: 1.0, beta: 1.0, activation: None };
    let scores = m.step(Op::Gemm(gemm), &[flat, w, bias]);
    let rows = {
        let place = m.tensors[e as usize].place;
        let t = m.tensor_at(&[64, 144], place);
        m.step_into(Op::Reshape { shape: vec![64, 144] }, &[e], t)
    };
    let w = m.weight(&[144, 80]);
    let product = m.step(Op::MatMul, &[rows, w]);
    let soft = m.step(Op::Softmax { axis: 1, log: false }, &[product]);
    m.finish(&[x], &[scores, soft])
}
