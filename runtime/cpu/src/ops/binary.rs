//! Element-wise functions of two tensors, broadcast; Where.

use bytemuck::Pod;
use tobiuo_ops::{Activation, Binary, Fact};
use tobiuo_tensor::{DType, TensorView, TensorViewMut};

use super::activation;
use super::scalar::{Float, Integer, Number};
use super::walk::{Axes, by_size, parts, slice, slice_mut, vectorised};
use crate::{CpuError, Inputs, Kernel};

/// Elements after which a fused activation follows, while they are in the first cache.
const BLOCK: usize = 4096;

struct BinaryKernel {
    kind: Binary,
    activation: Option<Activation>,
    dtype: DType,
    axes: Axes<2>,
}

pub(super) fn prepare(
    kind: Binary,
    activation: Option<Activation>,
    inputs: &[Fact],
    out: &Fact,
) -> Result<Box<dyn Kernel>, CpuError> {
    let dtype = inputs[0].dtype;
    if dtype == DType::F16 {
        return Err(super::no_f16(kind.name()));
    }
    let axes = Axes::broadcast(&out.shape, [&inputs[0].shape, &inputs[1].shape]);
    Ok(Box::new(BinaryKernel { kind, activation, dtype, axes }))
}

impl Kernel for BinaryKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let (a, b, out) = (inputs.get(0), inputs.get(1), &mut outputs[0]);
        match self.dtype {
            DType::F32 => self.floats::<f32>(a, b, out),
            DType::I64 => self.integers::<i64>(a, b, out),
            DType::I32 => self.integers::<i32>(a, b, out),
            DType::I8 => self.integers::<i8>(a, b, out),
            DType::U8 => self.integers::<u8>(a, b, out),
            _ => self.booleans(a, b, out),
        }
    }
}

type Operand<'a> = Option<TensorView<'a>>;

/// One operand's elements in a stretch of the output.
#[derive(Clone, Copy)]
enum Run<'a, T> {
    Each(&'a [T]),
    One(T),
    /// What the output holds.
    Out,
}

impl<'a, T: Copy> Run<'a, T> {
    #[inline(always)]
    fn of(x: Option<&'a [T]>, at: isize, len: usize, step: isize) -> Run<'a, T> {
        match x {
            None => Run::Out,
            Some(x) if step == 0 => Run::One(x[at as usize]),
            Some(x) => Run::Each(&x[at as usize..at as usize + len]),
        }
    }

    fn at(self, i: usize, out: &[T]) -> T {
        match self {
            Run::Each(x) => x[i],
            Run::One(x) => x,
            Run::Out => out[i],
        }
    }
}

impl BinaryKernel {
    fn floats<T: Float>(&self, a: Operand<'_>, b: Operand<'_>, out: &mut TensorViewMut<'_>) {
        if self.kind.is_comparison() {
            return self.compare::<T>(a, b, out);
        }
        match self.kind {
            Binary::Add => self.map::<true, T>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x + y,
            ),
            Binary::Sub => self.map::<true, T>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x - y,
            ),
            Binary::Mul => self.map::<true, T>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x * y,
            ),
            Binary::Div => self.map::<true, T>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x / y,
            ),
            Binary::Min => self.map::<true, T>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.lower(y),
            ),
            Binary::Max => self.map::<true, T>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.upper(y),
            ),
            Binary::Pow => self.map::<true, T>(a, b, out, |x: T, y: T| x.power(y)),
            Binary::Mod => self.map::<true, T>(a, b, out, |x: T, y: T| x.floor_rem(y)),
            _ => self.map::<true, T>(a, b, out, |x: T, y: T| x % y),
        }
    }

    fn integers<T: Integer>(&self, a: Operand<'_>, b: Operand<'_>, out: &mut TensorViewMut<'_>) {
        if self.kind.is_comparison() {
            return self.compare::<T>(a, b, out);
        }
        match self.kind {
            Binary::Add => self.map::<false, _>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.plus(y),
            ),
            Binary::Sub => self.map::<false, _>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.minus(y),
            ),
            Binary::Mul => self.map::<false, _>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.times(y),
            ),
            Binary::Div => self.map::<false, _>(a, b, out, |x: T, y: T| x.quotient(y)),
            Binary::Min => self.map::<false, _>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.lower(y),
            ),
            Binary::Max => self.map::<false, _>(
                a,
                b,
                out,
                #[inline(always)]
                |x: T, y: T| x.upper(y),
            ),
            Binary::Pow => self.map::<false, _>(a, b, out, |x: T, y: T| x.power(y)),
            Binary::Mod => self.map::<false, _>(a, b, out, |x: T, y: T| x.floor_rem(y)),
            _ => self.map::<false, _>(a, b, out, |x: T, y: T| x.truncated_rem(y)),
        }
    }

    fn booleans(&self, a: Operand<'_>, b: Operand<'_>, out: &mut TensorViewMut<'_>) {
        let is = |x: u8| x != 0;
        match self.kind {
            Binary::And => self.map::<false, _>(a, b, out, |x: u8, y: u8| u8::from(is(x) & is(y))),
            Binary::Or => self.map::<false, _>(a, b, out, |x: u8, y: u8| u8::from(is(x) | is(y))),
            Binary::Equal => {
                self.map::<false, _>(a, b, out, |x: u8, y: u8| u8::from(is(x) == is(y)))
            }
            _ => self.map::<false, _>(a, b, out, |x: u8, y: u8| u8::from(is(x) != is(y))),
        }
    }

    fn compare<T: Number>(&self, a: Operand<'_>, b: Operand<'_>, out: &mut TensorViewMut<'_>) {
        let (a, b) = (a.expect("never in place"), b.expect("never in place"));
        let (a, b, out) = (slice::<T>(a), slice::<T>(b), slice_mut::<u8>(out));
        match self.kind {
            Binary::Equal => self.test(a, b, out, |x, y| x == y),
            Binary::Less => self.test(a, b, out, |x, y| x < y),
            Binary::LessOrEqual => self.test(a, b, out, |x, y| x <= y),
            Binary::Greater => self.test(a, b, out, |x, y| x > y),
            _ => self.test(a, b, out, |x, y| x >= y),
        }
    }

    fn test<T: Number>(&self, a: &[T], b: &[T], out: &mut [u8], f: impl Fn(T, T) -> bool + Sync) {
        let step = self.axes.step();
        let work = out.len();
        parts(out, 1, work, |first, part| {
            let count = part.len();
            self.axes.walk(first, count, |at, len, offset| {
                let out = &mut part[at..at + len];
                let a = Run::of(Some(a), offset[0], len, step[0]);
                let b = Run::of(Some(b), offset[1], len, step[1]);
                for (i, o) in out.iter_mut().enumerate() {
                    *o = u8::from(f(a.at(i, &[]), b.at(i, &[])));
                }
            });
        });
    }

    /// `WIDE` compiles the loops for every vector width; for types that networks hardly compute
    /// with it would only cost build time.
    fn map<const WIDE: bool, T: Pod + Send + Sync>(
        &self,
        a: Operand<'_>,
        b: Operand<'_>,
        out: &mut TensorViewMut<'_>,
        f: impl Fn(T, T) -> T + Copy + Sync,
    ) {
        let (a, b, out) = (a.map(slice::<T>), b.map(slice::<T>), slice_mut::<T>(out));
        let step = self.axes.step();
        let work = out.len();
        let weight = if self.activation.is_some() { 8 } else { 1 };
        parts(out, 1, weight * work, |first, part| {
            for (i, block) in part.chunks_mut(BLOCK).enumerate() {
                let count = block.len();
                self.axes.walk(first + i * BLOCK, count, |at, len, offset| {
                    let out = &mut block[at..at + len];
                    let a = Run::of(a, offset[0], len, step[0]);
                    let b = Run::of(b, offset[1], len, step[1]);
                    if WIDE {
                        vectorised(
                            #[inline(always)]
                            || stretch(out, a, b, f),
                        );
                    } else {
                        for i in 0..out.len() {
                            out[i] = f(a.at(i, out), b.at(i, out));
                        }
                    }
                });
                if let Some(act) = self.activation
                    && let Ok(block) = bytemuck::try_cast_slice_mut(block)
                {
                    activation::apply(act, block);
                }
            }
        });
    }
}

#[inline(always)]
fn stretch<T: Copy>(out: &mut [T], a: Run<'_, T>, b: Run<'_, T>, f: impl Fn(T, T) -> T) {
    match (a, b) {
        (Run::Each(a), Run::Each(b)) => {
            for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
                *o = f(x, y);
            }
        }
        (Run::Each(a), Run::One(y)) => out.iter_mut().zip(a).for_each(
            #[inline(always)]
            |(o, &x)| *o = f(x, y),
        ),
        (Run::One(x), Run::Each(b)) => out.iter_mut().zip(b).for_each(
            #[inline(always)]
            |(o, &y)| *o = f(x, y),
        ),
        (Run::Out, Run::Each(b)) => out.iter_mut().zip(b).for_each(
            #[inline(always)]
            |(o, &y)| *o = f(*o, y),
        ),
        (Run::Each(a), Run::Out) => out.iter_mut().zip(a).for_each(
            #[inline(always)]
            |(o, &x)| *o = f(x, *o),
        ),
        (Run::Out, Run::One(y)) => out.iter_mut().for_each(
            #[inline(always)]
            |o| *o = f(*o, y),
        ),
        (Run::One(x), Run::Out) => out.iter_mut().for_each(
            #[inline(always)]
            |o| *o = f(x, *o),
        ),
        (Run::Out, Run::Out) => out.iter_mut().for_each(
            #[inline(always)]
            |o| *o = f(*o, *o),
        ),
        (Run::One(x), Run::One(y)) => out.fill(f(x, y)),
    }
}

struct Where {
    dtype: DType,
    axes: Axes<3>,
}

pub(super) fn select(inputs: &[Fact], out: &Fact) -> Box<dyn Kernel> {
    let shapes = [&*inputs[0].shape, &*inputs[1].shape, &*inputs[2].shape];
    Box::new(Where { dtype: out.dtype, axes: Axes::broadcast(&out.shape, shapes) })
}

impl Kernel for Where {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let get = |i| inputs.get(i).expect("never in place");
        let condition: &[u8] = slice(get(0));
        let [c, s, t] = self.axes.step().map(|s| s as usize);
        by_size!(self.dtype, T => {
            let (x, y) = (slice::<T>(get(1)), slice::<T>(get(2)));
            let out = slice_mut::<T>(&mut outputs[0]);
            let work = out.len();
            parts(out, 1, work, |first, part| {
                let count = part.len();
                self.axes.walk(first, count, |at, len, offset| {
                    let [i, j, k] = offset.map(|o| o as usize);
                    for (n, o) in part[at..at + len].iter_mut().enumerate() {
                        *o = if condition[i + n * c] != 0 { x[j + n * s] } else { y[k + n * t] };
                    }
                });
            });
        });
    }
}
