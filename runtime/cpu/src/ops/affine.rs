//! BatchNorm and PRelu: a channel's elements by a channel's numbers.

use tobiuo_ops::Fact;
use tobiuo_tensor::{DType, TensorViewMut};

use rayon::prelude::*;
use rten_simd::functional::simd_apply;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

use super::f32s::{GRAIN, f32s, f32s_mut};
use crate::{CpuError, Inputs, Kernel};

enum Function {
    /// Inputs: x, scale, bias, mean, variance.
    BatchNorm { epsilon: f32 },
    /// Inputs: x, slope.
    PRelu {
        /// Slopes: one, one per channel, or any broadcast shape (steps per axis of x).
        steps: Vec<usize>,
    },
}

struct AffineKernel {
    function: Function,
    shape: Vec<usize>,
    channels: usize,
    /// Elements of a channel of an item, in one piece.
    plane: usize,
}

pub(crate) fn batch_norm(epsilon: f32, inputs: &[Fact]) -> Result<Box<dyn Kernel>, CpuError> {
    prepare("BatchNorm", Function::BatchNorm { epsilon }, inputs)
}

pub(crate) fn prelu(inputs: &[Fact]) -> Result<Box<dyn Kernel>, CpuError> {
    let (x, slope) = (&inputs[0].shape, &inputs[1].shape);
    let own = tobiuo_tensor::strides(slope);
    let steps = (0..x.len())
        .map(|i| match (i + slope.len()).checked_sub(x.len()) {
            Some(j) if slope[j] != 1 => own[j],
            _ => 0,
        })
        .collect();
    prepare("PRelu", Function::PRelu { steps }, inputs)
}

fn prepare(name: &str, function: Function, inputs: &[Fact]) -> Result<Box<dyn Kernel>, CpuError> {
    if let Some(i) = inputs.iter().find(|i| i.dtype != DType::F32) {
        return Err(CpuError(format!("{name} of {} is not supported, only of f32", i.dtype)));
    }
    let shape = inputs[0].shape.clone();
    Ok(Box::new(AffineKernel {
        function,
        channels: shape.get(1).copied().unwrap_or(1),
        plane: shape.get(2..).map_or(1, |s| s.iter().product()),
        shape,
    }))
}

struct Affine<'a>(f32, f32, &'a mut [f32]);

impl SimdOp for Affine<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (factor, add) = (ops.splat(self.0), ops.splat(self.1));
        simd_apply::<_, _, _, 2>(
            ops,
            self.2,
            #[inline(always)]
            |x| ops.mul_add(x, factor, add),
        );
    }
}

struct Leaky<'a>(f32, &'a mut [f32]);

impl SimdOp for Leaky<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let slope = ops.splat(self.0);
        simd_apply::<_, _, _, 2>(
            ops,
            self.1,
            #[inline(always)]
            |x| ops.select(ops.mul(x, slope), x, ops.lt(x, ops.zero())),
        );
    }
}

impl Kernel for AffineKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _scratch: &mut [u8]) {
        let operand = |i: usize| f32s(inputs.get(i).expect("only x may be the output"));
        let x = inputs.get(0).map(f32s);
        let out = f32s_mut(&mut outputs[0]);
        if out.is_empty() {
            return;
        }
        let mut per_channel = |f: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            let grain = (GRAIN / self.plane).max(1);
            let run = |(i, out): (usize, &mut [f32])| {
                if let Some(x) = x {
                    let at = i * grain * self.plane;
                    out.copy_from_slice(&x[at..at + out.len()]);
                }
                for (j, out) in out.chunks_exact_mut(self.plane).enumerate() {
                    f((i * grain + j) % self.channels, out);
                }
            };
            if out.len() < 2 * GRAIN {
                out.chunks_mut(grain * self.plane).enumerate().for_each(run);
            } else {
                out.par_chunks_mut(grain * self.plane).enumerate().for_each(run);
            }
        };
        match &self.function {
            Function::BatchNorm { epsilon } => {
                let [scale, bias, mean, variance] = [1, 2, 3, 4].map(operand);
                per_channel(&|c, out| {
                    let factor = scale[c] / (variance[c] + epsilon).sqrt();
                    Affine(factor, bias[c] - mean[c] * factor, out).dispatch();
                });
            }
            Function::PRelu { steps } => {
                let slope = operand(1);
                let others = || steps.iter().enumerate().filter(|(i, _)| *i != 1);
                if steps.len() >= 2 && others().all(|(_, &s)| s == 0) {
                    per_channel(&|c, out| Leaky(slope[c * steps[1]], out).dispatch());
                    return;
                }
                if let Some(x) = x {
                    out.copy_from_slice(x);
                }
                for (i, o) in out.iter_mut().enumerate() {
                    let (mut rest, mut at) = (i, 0);
                    for (&d, &s) in self.shape.iter().zip(steps).rev() {
                        at += rest % d * s;
                        rest /= d;
                    }
                    if *o < 0.0 {
                        *o *= slope[at];
                    }
                }
            }
        }
    }
}
