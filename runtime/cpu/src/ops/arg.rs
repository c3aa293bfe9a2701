//! ArgMax, ArgMin, TopK.

use std::cmp::Ordering;

use tobiuo_ops::{Fact, Op};
use tobiuo_tensor::{DType, TensorViewMut, numel};

use super::scalar::Number;
use super::walk::{parts, slice, slice_mut};
use crate::{CpuError, Inputs, Kernel};

/// Columns that are computed side by side when the axis is not the last.
const COLUMNS: usize = 64;

struct ArgReduce {
    dtype: DType,
    axis: usize,
    inner: usize,
    min: bool,
    select_last: bool,
}

pub(super) fn arg_reduce(op: &Op, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    let Op::ArgReduce { axis, min, select_last, .. } = *op else {
        return Err(CpuError(format!("{} is not ArgMax or ArgMin", op.name())));
    };
    if x.dtype == DType::F16 {
        return Err(super::no_f16(op.name()));
    }
    let inner = numel(&x.shape[axis + 1..]);
    Ok(Box::new(ArgReduce { dtype: x.dtype, axis: x.shape[axis], inner, min, select_last }))
}

impl Kernel for ArgReduce {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = inputs.get(0).expect("never in place");
        let out: &mut [i64] = slice_mut(&mut outputs[0]);
        match self.dtype {
            DType::F32 => self.find::<f32>(slice(x), out),
            DType::I64 => self.find::<i64>(slice(x), out),
            DType::I32 => self.find::<i32>(slice(x), out),
            DType::I8 => self.find::<i8>(slice(x), out),
            _ => self.find::<u8>(slice(x), out),
        }
    }
}

impl ArgReduce {
    fn find<T: Number>(&self, x: &[T], out: &mut [i64]) {
        match (self.min, self.select_last) {
            (false, false) => self.search(
                x,
                out,
                #[inline(always)]
                |a: T, b: T| a > b,
            ),
            (false, true) => self.search(
                x,
                out,
                #[inline(always)]
                |a: T, b: T| a >= b,
            ),
            (true, false) => self.search(
                x,
                out,
                #[inline(always)]
                |a: T, b: T| a < b,
            ),
            (true, true) => self.search(
                x,
                out,
                #[inline(always)]
                |a: T, b: T| a <= b,
            ),
        }
    }

    /// The first NaN wins, as in numpy; with `select_last` the last one.
    fn search<T: Number>(&self, x: &[T], out: &mut [i64], wins: impl Fn(T, T) -> bool + Sync) {
        let wins = |new: T, best: T| match (new.is_nan(), best.is_nan()) {
            (true, best_is_nan) => self.select_last || !best_is_nan,
            (false, true) => false,
            (false, false) => wins(new, best),
        };
        if out.is_empty() {
            return;
        }
        if self.inner == 1 {
            parts(out, 1, x.len(), |first, part| {
                for (row, o) in part.iter_mut().enumerate() {
                    let row = &x[(first + row) * self.axis..][..self.axis];
                    let mut best = 0;
                    for (i, &v) in row.iter().enumerate().skip(1) {
                        if wins(v, row[best]) {
                            best = i;
                        }
                    }
                    *o = best as i64;
                }
            });
            return;
        }
        parts(out, self.inner, x.len(), |first, part| {
            for (outer, out) in part.chunks_exact_mut(self.inner).enumerate() {
                let plane = &x[(first + outer) * self.axis * self.inner..];
                for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
                    let mut best = [T::ZERO; COLUMNS];
                    for i in 0..self.axis {
                        let row = &plane[i * self.inner + block * COLUMNS..][..out.len()];
                        for ((&v, best), o) in row.iter().zip(&mut best).zip(out.iter_mut()) {
                            if i == 0 || wins(v, *best) {
                                *best = v;
                                *o = i as i64;
                            }
                        }
                    }
                }
            }
        });
    }
}

struct TopK {
    dtype: DType,
    k: usize,
    axis: usize,
    inner: usize,
    outer: usize,
    largest: bool,
}

pub(super) fn top_k(op: &Op, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    let Op::TopK { k, axis, largest, .. } = *op else {
        return Err(CpuError(format!("{} is not TopK", op.name())));
    };
    if x.dtype == DType::F16 {
        return Err(super::no_f16(op.name()));
    }
    if u32::try_from(x.shape[axis]).is_err() {
        return Err(CpuError(format!("TopK over {} elements is too large", x.shape[axis])));
    }
    Ok(Box::new(TopK {
        dtype: x.dtype,
        k,
        axis: x.shape[axis],
        inner: numel(&x.shape[axis + 1..]),
        outer: numel(&x.shape[..axis]),
        largest,
    }))
}

impl Kernel for TopK {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let x = inputs.get(0).expect("never in place");
        let [values, indices] = outputs else { unreachable!("TopK has two outputs") };
        let order = bytemuck::cast_slice_mut(&mut scratch[..4 * self.axis]);
        let indices = slice_mut::<i64>(indices);
        match self.dtype {
            DType::F32 => self.choose::<f32>(slice(x), slice_mut(values), indices, order),
            DType::I64 => self.choose::<i64>(slice(x), slice_mut(values), indices, order),
            DType::I32 => self.choose::<i32>(slice(x), slice_mut(values), indices, order),
            DType::I8 => self.choose::<i8>(slice(x), slice_mut(values), indices, order),
            _ => self.choose::<u8>(slice(x), slice_mut(values), indices, order),
        }
    }

    fn scratch_bytes(&self) -> usize {
        4 * self.axis
    }
}

impl TopK {
    /// Elements in order, of equal ones the first first; NaN is larger than any number.
    fn choose<T: Number>(&self, x: &[T], values: &mut [T], indices: &mut [i64], order: &mut [u32]) {
        if self.k == 0 || values.is_empty() {
            return;
        }
        for outer in 0..self.outer {
            for inner in 0..self.inner {
                let value = |i: u32| x[(outer * self.axis + i as usize) * self.inner + inner];
                let better = |&i: &u32, &j: &u32| {
                    let (a, b) = (value(i), value(j));
                    let ascending =
                        a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
                    let by_value = if self.largest { ascending.reverse() } else { ascending };
                    if by_value == Ordering::Equal { i.cmp(&j) } else { by_value }
                };
                order.iter_mut().zip(0..).for_each(|(o, i)| *o = i);
                if self.k < self.axis {
                    order.select_nth_unstable_by(self.k - 1, better);
                }
                let chosen = &mut order[..self.k];
                chosen.sort_unstable_by(better);
                for (n, &i) in chosen.iter().enumerate() {
                    let to = (outer * self.k + n) * self.inner + inner;
                    values[to] = value(i);
                    indices[to] = i64::from(i);
                }
            }
        }
    }
}
