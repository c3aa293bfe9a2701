//! What the tests of the f32 kernels share.
#![allow(dead_code)]

use std::fmt::Debug;

use tobiuo_cpu::{Inputs, prepare};
use tobiuo_ops::{Activation, Fact, Op};
use tobiuo_tensor::{Tensor, TensorView};

/// Numbers in -1..1 from a seed (xorshift64*).
pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s >> 12;
            s ^= s << 25;
            s ^= s >> 27;
            let u = s.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
            u as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// An activation's definition.
pub fn activate(a: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match a {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x
            } else {
                x
            }
        }
        Activation::Clip { min, max } => x.max(min.into()).min(max.into()),
        Activation::Sigmoid => sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => {
            (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
        }
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Mish => x * softplus(x).tanh(),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Activation::Softplus => softplus(x),
        Activation::Gelu { tanh: false } => x * (1.0 + erf(x / 2f64.sqrt())) / 2.0,
        Activation::Gelu { tanh: true } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x * (1.0 + inner.tanh()) / 2.0
        }
        Activation::Erf => erf(x),
        other => panic!("no reference for {other:?}"),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The error function: its series, or the continued fraction of erfc for large arguments.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 3.0 {
        let z = x.abs();
        let mut f = 0.0;
        for k in (1..200).rev() {
            f = k as f64 / 2.0 / (z + f);
        }
        let erfc = (-z * z).exp() / ((z + f) * std::f64::consts::PI.sqrt());
        return (1.0 - erfc).copysign(x);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Runs an op. Operands in `constants` are known at preparation, `shared` is given as the
/// output's bytes; outputs and scratch hold NaN before.
pub fn run(
    op: &Op,
    inputs: &[Tensor],
    constants: &[usize],
    shared: Option<usize>,
    shape: &[usize],
) -> Tensor {
    let facts: Vec<Fact> =
        inputs.iter().map(|t| Fact { dtype: t.dtype(), shape: t.shape().to_vec() }).collect();
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| Some(t.view())).collect();
    let known: Vec<Option<TensorView<'_>>> =
        (0..views.len()).map(|i| views[i].filter(|_| constants.contains(&i))).collect();
    let kernel = prepare(op, &facts, &known).unwrap();
    let mut out = match shared {
        Some(i) => inputs[i].clone(),
        None => Tensor::f32(shape, vec![f32::NAN; shape.iter().product()]),
    };
    let floats = kernel.scratch_bytes().div_ceil(4) + 16;
    let mut scratch = vec![f32::NAN; floats];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut scratch);
    let skip = bytes.as_ptr().align_offset(64);
    let needed = kernel.scratch_bytes();
    // A weight that a kernel has packed must not be read again.
    let get = |i: usize| {
        assert!(kernel.reads(i), "operand {i} is read though it was packed");
        views[i].filter(|_| Some(i) != shared)
    };
    let mut targets = [out.view_mut()];
    kernel.run(Inputs::new(views.len(), &get), &mut targets, &mut bytes[skip..skip + needed]);
    out
}

/// Every element within float rounding of its reference, given the size of what was summed.
#[track_caller]
pub fn check(got: &[f32], want: &[f64], scale: &[f64], what: &dyn Debug) {
    assert_eq!(got.len(), want.len());
    for (i, ((&g, &w), &s)) in got.iter().zip(want).zip(scale).enumerate() {
        let bound = 2e-6 * (s + w.abs()) + 1e-6;
        assert!(
            (f64::from(g) - w).abs() <= bound,
            "element {i}: {g}, should be {w} within {bound}: {what:?}"
        );
    }
}
