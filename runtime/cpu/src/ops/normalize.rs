//! LayerNorm, InstanceNorm, Lrn.

use tobiuo_ops::{Fact, Op};
use tobiuo_tensor::{DType, TensorView, TensorViewMut, numel};

use super::walk::{parts, slice, slice_mut, vectorised};
use crate::{CpuError, Inputs, Kernel};

/// What is normalised together: rows of `row` elements.
struct Rows {
    row: usize,
    epsilon: f32,
    /// Scale and bias: one per element of a row, or (`Some(channels)`) one per row, in turn.
    channels: Option<usize>,
}

pub(super) fn layer(axis: usize, epsilon: f32, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    only_f32("LayerNorm", x)?;
    Ok(Box::new(Rows { row: numel(&x.shape[axis..]), epsilon, channels: None }))
}

pub(super) fn instance(epsilon: f32, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    only_f32("InstanceNorm", x)?;
    Ok(Box::new(Rows { row: numel(&x.shape[2..]), epsilon, channels: Some(x.shape[1]) }))
}

fn only_f32(name: &str, x: &Fact) -> Result<(), CpuError> {
    if x.dtype == DType::F32 { Ok(()) } else { Err(super::no_f16(name)) }
}

const LANES: usize = 32;

/// The sum of `f` of every element, in [`LANES`] partial sums.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|&x| f(x)).sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

impl Kernel for Rows {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let operand = |i| slice::<f32>(inputs.get(i).expect("never in place"));
        let x = inputs.get(0).map(slice::<f32>);
        let (scale, bias) = (operand(1), operand(2));
        let out: &mut [f32] = slice_mut(&mut outputs[0]);
        if out.is_empty() {
            return;
        }
        let work = 4 * out.len();
        parts(out, self.row, work, |first, part| {
            for (i, row) in part.chunks_exact_mut(self.row).enumerate() {
                if let Some(x) = x {
                    let at = (first + i) * self.row;
                    row.copy_from_slice(&x[at..at + self.row]);
                }
                vectorised(
                    #[inline(always)]
                    || self.row(row, scale, bias, first + i),
                );
            }
        });
    }
}

impl Rows {
    #[inline(always)]
    fn row(&self, row: &mut [f32], scale: &[f32], bias: &[f32], number: usize) {
        let n = self.row as f32;
        let mean = sum(
            row,
            #[inline(always)]
            |x| x,
        ) / n;
        let variance = sum(
            row,
            #[inline(always)]
            |x| (x - mean) * (x - mean),
        ) / n;
        let factor = 1.0 / (variance + self.epsilon).sqrt();
        match self.channels {
            Some(c) => {
                let (scale, bias) = (factor * scale[number % c], bias[number % c]);
                row.iter_mut().for_each(
                    #[inline(always)]
                    |x| *x = (*x - mean) * scale + bias,
                );
            }
            None => {
                for ((x, s), b) in row.iter_mut().zip(scale).zip(bias) {
                    *x = (*x - mean) * factor * s + b;
                }
            }
        }
    }
}

struct Lrn {
    size: usize,
    /// alpha / size
    alpha: f32,
    beta: f32,
    bias: f32,
    channels: usize,
    inner: usize,
}

/// Elements of a channel that are computed side by side.
const COLUMNS: usize = 512;

pub(super) fn lrn(op: &Op, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    only_f32("Lrn", x)?;
    let Op::Lrn { size, alpha, beta, bias } = *op else {
        return Err(CpuError(format!("{} is not Lrn", op.name())));
    };
    Ok(Box::new(Lrn {
        size,
        alpha: alpha / size as f32,
        beta,
        bias,
        channels: x.shape[1],
        inner: numel(&x.shape[2..]),
    }))
}

impl Kernel for Lrn {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x: &[f32] = inputs.get(0).map(|v: TensorView<'_>| slice(v)).expect("never in place");
        let out: &mut [f32] = slice_mut(&mut outputs[0]);
        if out.is_empty() {
            return;
        }
        let work = out.len().saturating_mul(self.size.min(self.channels) + 4);
        parts(out, self.inner, work, |first, part| {
            for (i, plane) in part.chunks_exact_mut(self.inner).enumerate() {
                let (batch, c) = ((first + i) / self.channels, (first + i) % self.channels);
                // ONNX: floor((size - 1) / 2) channels before, ceil((size - 1) / 2) after.
                let begin = c.saturating_sub((self.size - 1) / 2);
                let end = c.saturating_add(self.size / 2 + 1).min(self.channels);
                let channel = |c: usize| &x[(batch * self.channels + c) * self.inner..];
                for (j, block) in plane.chunks_mut(COLUMNS).enumerate() {
                    let at = j * COLUMNS..j * COLUMNS + block.len();
                    let mut squares = [0.0; COLUMNS];
                    for window in begin..end {
                        let x = &channel(window)[at.clone()];
                        squares.iter_mut().zip(x).for_each(|(s, x)| *s += x * x);
                    }
                    let x = &channel(c)[at];
                    for ((o, &x), &s) in block.iter_mut().zip(x).zip(&squares) {
                        *o = x / self.power(self.bias + self.alpha * s);
                    }
                }
            }
        });
    }
}

impl Lrn {
    /// `t^beta`; 3/4 and 1/2 are what published networks have.
    fn power(&self, t: f32) -> f32 {
        if self.beta == 0.75 {
            let root = t.sqrt();
            root * root.sqrt()
        } else if self.beta == 0.5 {
            t.sqrt()
        } else {
            t.powf(self.beta)
        }
    }
}
