//! Reshape, Concat, Gather: runs of elements copied.

use bytemuck::Pod;
use tobiuo_ops::Fact;
use tobiuo_tensor::{DType, TensorView, TensorViewMut, ViewData, numel};

use super::walk::{by_size, parts, slice, slice_mut};
use crate::{CpuError, Inputs, Kernel};

struct Reshape;

pub(super) fn reshape() -> Box<dyn Kernel> {
    Box::new(Reshape)
}

impl Kernel for Reshape {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        // In place there is nothing to do.
        if let Some(x) = inputs.get(0) {
            let (from, to) = (x.data.bytes(), outputs[0].data.bytes_mut());
            let work = to.len() / 4;
            parts(to, 1, work, |first, part| {
                part.copy_from_slice(&from[first..first + part.len()]);
            });
        }
    }
}

struct Concat {
    dtype: DType,
    /// Elements that each input gives to a row, and where they begin in it.
    runs: Vec<(usize, usize)>,
    /// Elements of a row: everything from the axis on.
    row: usize,
    rows: usize,
}

pub(super) fn concat(axis: usize, inputs: &[Fact], out: &Fact) -> Box<dyn Kernel> {
    let mut at = 0;
    let runs = inputs
        .iter()
        .map(|f| {
            let run = (numel(&f.shape[axis..]), at);
            at += run.0;
            run
        })
        .collect();
    Box::new(Concat { dtype: out.dtype, runs, row: at, rows: numel(&out.shape[..axis]) })
}

impl Kernel for Concat {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        if self.row == 0 || self.rows == 0 {
            return;
        }
        by_size!(self.dtype, T => self.copy::<T>(inputs, slice_mut(&mut outputs[0])));
    }
}

impl Concat {
    fn copy<T: Pod + Send + Sync>(&self, inputs: Inputs<'_>, out: &mut [T]) {
        let operand = |i| slice::<T>(inputs.get(i).expect("never in place"));
        if self.rows == 1 {
            for (i, &(len, at)) in self.runs.iter().enumerate() {
                let x = operand(i);
                parts(&mut out[at..at + len], 1, len, |first, part| {
                    part.copy_from_slice(&x[first..first + part.len()]);
                });
            }
            return;
        }
        parts(out, self.row, self.rows * self.row, |first, part| {
            for (i, &(len, at)) in self.runs.iter().enumerate().filter(|r| r.1.0 > 0) {
                let from = operand(i)[first * len..].chunks_exact(len);
                for (to, from) in part.chunks_exact_mut(self.row).zip(from) {
                    to[at..at + len].copy_from_slice(from);
                }
            }
        });
    }
}

struct Gather {
    dtype: DType,
    /// Elements before, along and behind the axis.
    outer: usize,
    axis: usize,
    inner: usize,
    indices: usize,
}

pub(super) fn gather(
    axis: usize,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    let (x, indices) = (&inputs[0], &inputs[1]);
    let len = x.shape[axis];
    // Only indices that are computed while running can still be wrong then.
    if let Some(Some(view)) = constants.get(1) {
        for i in 0..indices.numel() {
            let index = index_at(view.data, i);
            if place(index, len).is_none() {
                return Err(CpuError(format!(
                    "index {index} does not exist: axis {axis} of x {:?} takes {} to {}",
                    x.shape,
                    -(len as i64),
                    len as i64 - 1
                )));
            }
        }
    }
    Ok(Box::new(Gather {
        dtype: x.dtype,
        outer: numel(&x.shape[..axis]),
        axis: len,
        inner: numel(&x.shape[axis + 1..]),
        indices: indices.numel(),
    }))
}

fn index_at(data: ViewData<'_>, i: usize) -> i64 {
    match data {
        ViewData::I64(v) => v[i],
        ViewData::I32(v) => v[i].into(),
        _ => unreachable!("indices are i64 or i32"),
    }
}

/// An index, which may count from the end, as a place along an axis of `len` elements.
fn place(index: i64, len: usize) -> Option<usize> {
    let from_start = if index < 0 { index + len as i64 } else { index };
    usize::try_from(from_start).ok().filter(|&i| i < len)
}

impl Kernel for Gather {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = inputs.get(0).expect("never in place");
        let indices = inputs.get(1).expect("never in place").data;
        let numel = self.outer * self.indices * self.inner;
        if numel == 0 {
            return;
        }
        by_size!(self.dtype, T => {
            let (x, out) = (slice::<T>(x), slice_mut::<T>(&mut outputs[0]));
            parts(out, self.inner, numel, |first, part| {
                for (i, to) in part.chunks_exact_mut(self.inner).enumerate() {
                    let (outer, i) = ((first + i) / self.indices, (first + i) % self.indices);
                    // A frame cannot stop for an index out of range: it gives zeros.
                    match place(index_at(indices, i), self.axis) {
                        Some(p) => {
                            let at = (outer * self.axis + p) * self.inner;
                            to.copy_from_slice(&x[at..at + self.inner]);
                        }
                        None => to.fill(0),
                    }
                }
            });
        });
    }
}
