//! Reductions over any axes.
//!
//! The input is walked once in memory order; a stretch along the last (merged) axis either
//! folds into one output element or is combined element by element with a stretch of them.

use tobiuo_ops::{Fact, Reduce};
use tobiuo_tensor::{DType, TensorViewMut, strides};

use super::f32s::scratch_f32;
use super::scalar::Number;
use super::walk::{Axes, parts, slice, slice_mut, vectorised};
use crate::{CpuError, Inputs, Kernel};

/// Partial results that a stretch is folded into, so that vectors fill up.
const LANES: usize = 32;

struct ReduceKernel {
    kind: Reduce,
    dtype: DType,
    /// The input's axes with the output's strides: 0 where it is reduced.
    axes: Axes<1>,
    x_numel: usize,
    /// Input elements per output element.
    count: usize,
    /// Output elements where maxima are kept beside (LogSumExp), else 0.
    kept_maxima: usize,
}

pub(super) fn prepare(
    kind: Reduce,
    axes: &[usize],
    x: &Fact,
    out: &Fact,
) -> Result<Box<dyn Kernel>, CpuError> {
    let integral = !matches!(kind, Reduce::L2 | Reduce::LogSum | Reduce::LogSumExp);
    match x.dtype {
        DType::F32 => {}
        DType::I64 | DType::I32 if integral => {}
        DType::I8 | DType::U8 | DType::Bool if matches!(kind, Reduce::Max | Reduce::Min) => {}
        _ => return Err(super::no_f16(kind.name())),
    }
    let kept = |i: usize| if axes.contains(&i) { 1 } else { x.shape[i] };
    let kept: Vec<usize> = (0..x.shape.len()).map(kept).collect();
    let steps = strides(&kept);
    let step = |i: usize| if axes.contains(&i) { 0 } else { steps[i] as isize };
    let walk = Axes::new(x.shape.iter().enumerate().map(|(i, &d)| (d, [step(i)])));
    Ok(Box::new(ReduceKernel {
        kind,
        dtype: x.dtype,
        axes: walk,
        x_numel: x.numel(),
        count: axes.iter().map(|&i| x.shape[i]).product(),
        kept_maxima: if kind == Reduce::LogSumExp { out.numel() } else { 0 },
    }))
}

impl Kernel for ReduceKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let x = inputs.get(0).expect("never in place");
        let out = &mut outputs[0];
        match self.dtype {
            DType::F32 => self.floats(slice(x), slice_mut(out), scratch),
            DType::I64 => self.numbers::<i64>(slice(x), slice_mut(out)),
            DType::I32 => self.numbers::<i32>(slice(x), slice_mut(out)),
            DType::I8 => self.numbers::<i8>(slice(x), slice_mut(out)),
            _ => self.numbers::<u8>(slice(x), slice_mut(out)),
        }
        if self.dtype == DType::Bool && self.count == 0 {
            // The lowest and highest byte are not booleans.
            slice_mut::<u8>(out).iter_mut().for_each(|b| *b = u8::from(*b != 0));
        }
    }

    fn scratch_bytes(&self) -> usize {
        4 * self.kept_maxima
    }
}

impl ReduceKernel {
    fn floats(&self, x: &[f32], out: &mut [f32], scratch: &mut [u8]) {
        match self.kind {
            Reduce::L2 => self.fold(x, out, 0.0, f32::plus_square, f32::plus, f32::sqrt),
            Reduce::LogSum => self.fold(x, out, 0.0, f32::plus, f32::plus, f32::ln),
            Reduce::LogSumExp => self.log_sum_exp(x, out, scratch),
            _ => self.numbers(x, out),
        }
    }

    fn numbers<T: Number>(&self, x: &[T], out: &mut [T]) {
        let count = self.count;
        let same = |v: T| v;
        match self.kind {
            Reduce::Mean => self.fold(x, out, T::ZERO, T::plus, T::plus, |v: T| v.over(count)),
            Reduce::Max => self.fold(x, out, T::LOWEST, T::upper, T::upper, same),
            Reduce::Min => self.fold(x, out, T::HIGHEST, T::lower, T::lower, same),
            Reduce::Prod => self.fold(x, out, T::ONE, T::times, T::times, same),
            Reduce::L1 => self.fold(x, out, T::ZERO, T::plus_magnitude, T::plus, same),
            Reduce::SumSquare => self.fold(x, out, T::ZERO, T::plus_square, T::plus, same),
            _ => self.fold(x, out, T::ZERO, T::plus, T::plus, same),
        }
    }

    /// `out = last(init `f` every element)`; `join` puts partial results together.
    fn fold<T: Number>(
        &self,
        x: &[T],
        out: &mut [T],
        init: T,
        f: impl Fn(T, T) -> T + Copy + Sync,
        join: impl Fn(T, T) -> T + Copy + Sync,
        last: impl Fn(T) -> T + Sync,
    ) {
        self.by_parts(out, |begin, part, walk| {
            part.fill(init);
            walk(&mut |from: usize, len: usize, to: usize, step: usize| {
                let (x, to) = (&x[from..from + len], to - begin);
                if step == 0 {
                    let folded = if T::WIDE {
                        vectorised(
                            #[inline(always)]
                            || fold_row(x, init, f, join),
                        )
                    } else {
                        x.iter().fold(init, |a, &v| f(a, v))
                    };
                    part[to] = join(part[to], folded);
                } else {
                    let out = &mut part[to..to + len];
                    if T::WIDE {
                        vectorised(
                            #[inline(always)]
                            || {
                                out.iter_mut().zip(x).for_each(
                                    #[inline(always)]
                                    |(o, &v)| *o = f(*o, v),
                                )
                            },
                        );
                    } else {
                        out.iter_mut().zip(x).for_each(|(o, &v)| *o = f(*o, v));
                    }
                }
            });
            part.iter_mut().for_each(|v| *v = last(*v));
        });
    }

    /// `max + ln(sum of e^(x - max))`.
    fn log_sum_exp(&self, x: &[f32], out: &mut [f32], scratch: &mut [u8]) {
        let maxima = &mut scratch_f32(scratch)[..self.kept_maxima];
        // An infinite maximum would give inf - inf; the sum is right without it.
        let finite = |m: f32| if m.is_finite() { m } else { 0.0 };
        self.fold(x, maxima, f32::NEG_INFINITY, f32::upper, f32::upper, finite);
        let maxima = &*maxima;
        self.by_parts(out, |begin, part, walk| {
            part.fill(0.0);
            walk(&mut |from: usize, len: usize, to: usize, step: usize| {
                for (i, &v) in x[from..from + len].iter().enumerate() {
                    let to = to + i * step;
                    part[to - begin] += (v - maxima[to]).exp();
                }
            });
            for (o, m) in part.iter_mut().zip(&maxima[begin..]) {
                *o = m + o.ln();
            }
        });
    }

    /// Runs `f` on parts of the output, on all cores where the input can be divided alike.
    /// `f` gets the part's place, the part, and a walk over the stretches of the input that
    /// go into it: `(input offset, length, output offset, output step)`.
    fn by_parts<T: Number>(&self, out: &mut [T], f: impl Fn(usize, &mut [T], Walk<'_>) + Sync) {
        let step = self.axes.step()[0] as usize;
        let axes = self.axes.get();
        let (len, [stride]) = axes[0];
        if self.x_numel == 0 {
            return f(0, out, &|_| {});
        }
        if stride > 0 && axes.len() > 1 {
            // The first axis is kept: its steps are independent.
            let unit = stride as usize;
            let stretch = self.x_numel / len;
            return parts(out, unit, self.x_numel, |first, part| {
                let units = part.len() / unit;
                f(first * unit, part, &|g| {
                    let begin = first * stretch;
                    self.axes.walk(begin, units * stretch, |at, len, [to]| {
                        g(begin + at, len, to as usize, step);
                    });
                });
            });
        }
        if let [(rows, [0]), (columns, [1])] = *axes {
            // Rows added up: their columns are independent.
            return parts(out, 1, self.x_numel, |first, part| {
                let len = part.len();
                f(first, part, &|g| {
                    for row in 0..rows {
                        g(row * columns + first, len, first, 1);
                    }
                });
            });
        }
        f(0, out, &|g| {
            self.axes.walk(0, self.x_numel, |at, len, [to]| g(at, len, to as usize, step));
        });
    }
}

type Walk<'a> = &'a dyn Fn(&mut dyn FnMut(usize, usize, usize, usize));

#[inline(always)]
fn fold_row<T: Copy>(
    x: &[T],
    init: T,
    f: impl Fn(T, T) -> T + Copy,
    join: impl Fn(T, T) -> T + Copy,
) -> T {
    let mut lanes = [init; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(init, |a, &v| f(a, v));
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = f(lanes[i], chunk[i]);
        }
    }
    join(lanes.into_iter().reduce(join).unwrap_or(init), tail)
}
