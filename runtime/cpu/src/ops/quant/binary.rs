//! Element-wise functions of two tensors of integers, or of integers and floats.

use rten_simd::{Isa, SimdOp};
use tobiuo_ops::{Binary, Fact, QuantBinary, Quantization};
use tobiuo_tensor::{DType, TensorViewMut};

use super::Bytes;
use super::epilogue::{Cell, Finish, Source};
use crate::ops::walk::{Axes, parts, slice, slice_mut};
use crate::{CpuError, Inputs, Kernel};

/// Elements computed together.
const BLOCK: usize = 256;

/// How an operand is read.
#[derive(Clone, Copy)]
enum Operand {
    Float,
    Integer(Bytes, f32),
}

impl Operand {
    fn new(fact: &Fact, q: Option<Quantization>) -> Operand {
        match q {
            Some(q) if fact.dtype != DType::F32 => {
                Operand::Integer(Bytes::new(fact, q.zero_point), q.scale)
            }
            _ => Operand::Float,
        }
    }
}

struct BinaryKernel {
    kind: Binary,
    operands: [Operand; 2],
    axes: Axes<2>,
    finish: Finish,
    out: DType,
}

pub(in crate::ops) fn prepare(
    a: &QuantBinary,
    inputs: &[Fact],
    out: &Fact,
) -> Result<Box<dyn Kernel>, CpuError> {
    Ok(Box::new(BinaryKernel {
        kind: a.kind,
        operands: [Operand::new(&inputs[0], a.a), Operand::new(&inputs[1], a.b)],
        axes: Axes::broadcast(&out.shape, [&inputs[0].shape, &inputs[1].shape]),
        finish: Finish::only(a.activation, a.output),
        out: out.dtype,
    }))
}

/// An operand's elements.
#[derive(Clone, Copy)]
enum Elements<'a> {
    Floats(&'a [f32]),
    Bytes(&'a [u8], Bytes, f32),
}

impl Elements<'_> {
    /// Elements from `at` on, `step` apart, as numbers.
    #[inline(always)]
    fn read(self, at: usize, step: usize, to: &mut [f32]) {
        macro_rules! each {
            ($from:expr, $f:expr) => {
                match step {
                    0 => to.fill($f($from[at])),
                    1 => to.iter_mut().zip(&$from[at..]).for_each(|(t, &v)| *t = $f(v)),
                    n => {
                        let from = $from[at..].iter().step_by(n);
                        to.iter_mut().zip(from).for_each(|(t, &v)| *t = $f(v));
                    }
                }
            };
        }
        match self {
            Elements::Floats(v) => each!(v, |x: f32| x),
            Elements::Bytes(v, bytes, scale) => {
                each!(v, |b: u8| bytes.value(b) as f32 * scale);
            }
        }
    }
}

struct Part<'a, T> {
    kernel: &'a BinaryKernel,
    first: usize,
    operands: [Elements<'a>; 2],
    out: &'a mut [T],
}

impl<T: Cell> SimdOp for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Part { kernel, first, operands, out } = self;
        // Strides of operands are never negative.
        let step = kernel.axes.step().map(|s| s as usize);
        kernel.axes.walk(first, out.len(), |done, len, offsets| {
            let offsets = offsets.map(|o| o as usize);
            for (block, out) in out[done..done + len].chunks_mut(BLOCK).enumerate() {
                let n = out.len();
                let (mut a, mut b) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
                for (k, to) in [&mut a, &mut b].into_iter().enumerate() {
                    let at = offsets[k] + block * BLOCK * step[k];
                    operands[k].read(at, step[k], &mut to[..n]);
                }
                let pairs = a[..n].iter_mut().zip(&b);
                match kernel.kind {
                    Binary::Add => pairs.for_each(|(a, &b)| *a += b),
                    Binary::Sub => pairs.for_each(|(a, &b)| *a -= b),
                    Binary::Mul => pairs.for_each(|(a, &b)| *a *= b),
                    Binary::Min => pairs.for_each(|(a, &b)| *a = if b < *a { b } else { *a }),
                    _ => pairs.for_each(|(a, &b)| *a = if b > *a { b } else { *a }),
                }
                kernel.finish.run(&mut a[..n], Source::None, out);
            }
        });
    }
}

impl BinaryKernel {
    fn go<T: Cell>(&self, inputs: Inputs<'_>, out: &mut [T]) {
        let elements = |k: usize| {
            let view = inputs.get(k).expect("not in place");
            match self.operands[k] {
                Operand::Float => Elements::Floats(slice(view)),
                Operand::Integer(bytes, scale) => Elements::Bytes(slice(view), bytes, scale),
            }
        };
        let operands = [elements(0), elements(1)];
        let work = out.len();
        parts(out, 1, work, |first, out| {
            Part { kernel: self, first, operands, out }.dispatch();
        });
    }
}

impl Kernel for BinaryKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        match self.out {
            DType::F32 => self.go::<f32>(inputs, slice_mut(&mut outputs[0])),
            _ => self.go::<u8>(inputs, slice_mut(&mut outputs[0])),
        }
    }
}
