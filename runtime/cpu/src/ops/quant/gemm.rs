//! Fully connected layers of integers.

use rten_simd::{Isa, SimdOp};
use tobiuo_ops::{Fact, QuantGemm};
use tobiuo_tensor::{DType, TensorView, TensorViewMut};

use super::epilogue::{Cell, Finish, Source};
use super::{Bytes, dot, dot4, shorts, widen};
use crate::ops::f32s::f32s;
use crate::ops::walk::{parts, slice, slice_mut};
use crate::{CpuError, Inputs, Kernel};

/// Outputs finished together.
const BLOCK: usize = 64;

struct GemmKernel {
    m: usize,
    k: usize,
    n: usize,
    bytes: Bytes,
    finish: Finish,
    out: DType,
    /// The weights in i16, when they are constant.
    weights: Option<Vec<i16>>,
}

pub(in crate::ops) fn prepare(
    a: &QuantGemm,
    inputs: &[Fact],
    out: &Fact,
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    let weights = constants.get(1).copied().flatten().map(|w| {
        let bytes: &[u8] = slice(w);
        bytes.iter().map(|&b| i16::from(b as i8)).collect()
    });
    Ok(Box::new(GemmKernel {
        m: inputs[0].shape[0],
        k: inputs[0].shape[1],
        n: inputs[1].shape[0],
        bytes: Bytes::new(&inputs[0], a.x_zero_point),
        finish: Finish::new(&a.epilogue, inputs),
        out: out.dtype,
        weights,
    }))
}

impl GemmKernel {
    fn dynamic_len(&self) -> usize {
        if self.weights.is_none() { self.n * self.k } else { 0 }
    }

    fn go<T: Cell>(&self, inputs: Inputs<'_>, out: &mut [T], scratch: &mut [u8]) {
        let (dynamic, rest) = shorts(scratch).split_at_mut(self.dynamic_len());
        let x = &mut rest[..self.m * self.k];
        widen(self.bytes, slice(inputs.get(0).expect("not in place")), x);
        let weights: &[i16] = match &self.weights {
            Some(w) => w,
            None => {
                let w = Bytes { signed: true, zero_point: 0 };
                widen(w, slice(inputs.get(1).expect("not in place")), dynamic);
                dynamic
            }
        };
        let multiplier = f32s(inputs.get(2).expect("not in place"));
        let bias = f32s(inputs.get(3).expect("not in place"));
        let residual = Source::new(&self.finish.residual, inputs.get(4));
        let x = &*x;
        if out.is_empty() {
            return;
        }
        let work = out.len() * self.k.max(1) / 8;
        // A single row is shared out by its columns.
        let unit = if self.m == 1 { 1 } else { self.n };
        parts(out, unit, work, |first, out| {
            let at = first * unit;
            let residual = residual.part(at, out.len());
            Part { kernel: self, at, x, weights, multiplier, bias, residual, out }.dispatch();
        });
    }
}

/// Some outputs, from element `at` on.
struct Part<'a, T> {
    kernel: &'a GemmKernel,
    at: usize,
    x: &'a [i16],
    weights: &'a [i16],
    multiplier: &'a [f32],
    bias: &'a [f32],
    residual: Source<'a>,
    out: &'a mut [T],
}

impl<T: Cell> SimdOp for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let GemmKernel { k: depth, n: columns, finish, .. } = self.kernel;
        let (depth, columns) = (*depth, *columns);
        let mut done = 0;
        while done < self.out.len() {
            let (row, column) = ((self.at + done) / columns, (self.at + done) % columns);
            let len = BLOCK.min(columns - column).min(self.out.len() - done);
            let x = &self.x[row * depth..(row + 1) * depth];
            let filter = |i: usize| &self.weights[(column + i) * depth..][..depth];
            let mut sums = [0i32; BLOCK];
            let whole = len / 4 * 4;
            for i in (0..whole).step_by(4) {
                let four = dot4([filter(i), filter(i + 1), filter(i + 2), filter(i + 3)], x);
                sums[i..i + 4].copy_from_slice(&four);
            }
            for (i, sum) in sums[..len].iter_mut().enumerate().skip(whole) {
                *sum = dot(filter(i), x);
            }
            let mut values = [0.0f32; BLOCK];
            let scale = self.multiplier[column..].iter().zip(&self.bias[column..]);
            for ((v, &s), (&m, &b)) in values[..len].iter_mut().zip(&sums).zip(scale) {
                *v = (s as f32).mul_add(m, b);
            }
            let residual = self.residual.part(done, len);
            finish.run(&mut values[..len], residual, &mut self.out[done..done + len]);
            done += len;
        }
    }
}

impl Kernel for GemmKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        match self.out {
            DType::F32 => self.go::<f32>(inputs, slice_mut(&mut outputs[0]), scratch),
            _ => self.go::<u8>(inputs, slice_mut(&mut outputs[0]), scratch),
        }
    }

    fn scratch_bytes(&self) -> usize {
        2 * (self.dynamic_len() + self.m * self.k)
    }

    fn reads(&self, operand: usize) -> bool {
        !(operand == 1 && self.weights.is_some())
    }
}
