//! Softmax and its logarithm over any axis: the largest element is subtracted first, so that
//! no exponential overflows.

use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{Exp, LogSoftmax, Softmax};
use tobiuo_ops::Fact;
use tobiuo_tensor::{DType, TensorViewMut, numel};

use super::scalar::Number;
use super::walk::{parts, slice, slice_mut, vectorised};
use crate::{CpuError, Inputs, Kernel};

/// Columns that are computed side by side when the axis is not the last.
const COLUMNS: usize = 256;

struct SoftmaxKernel {
    log: bool,
    /// Elements along and behind the axis.
    axis: usize,
    inner: usize,
}

pub(super) fn prepare(axis: usize, log: bool, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    if x.dtype != DType::F32 {
        return Err(super::no_f16(if log { "LogSoftmax" } else { "Softmax" }));
    }
    Ok(Box::new(SoftmaxKernel { log, axis: x.shape[axis], inner: numel(&x.shape[axis + 1..]) }))
}

impl Kernel for SoftmaxKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = inputs.get(0).map(slice::<f32>);
        let out: &mut [f32] = slice_mut(&mut outputs[0]);
        let unit = self.axis * self.inner;
        if out.is_empty() {
            return;
        }
        let work = 8 * out.len();
        parts(out, unit, work, |first, part| {
            if let Some(x) = x {
                let at = first * unit;
                part.copy_from_slice(&x[at..at + part.len()]);
            }
            for rows in part.chunks_exact_mut(unit) {
                if self.inner > 1 {
                    (0..self.inner).step_by(COLUMNS).for_each(|c| self.columns(rows, c));
                } else if self.log {
                    LogSoftmax::new_mut(rows).dispatch();
                } else {
                    Softmax::new_mut(rows).dispatch();
                }
            }
        });
    }
}

impl SoftmaxKernel {
    /// Columns `first..first + COLUMNS` (or as many as there are) of `axis` rows, in place.
    fn columns(&self, rows: &mut [f32], first: usize) {
        let n = COLUMNS.min(self.inner - first);
        let (mut max, mut sum) = ([f32::NEG_INFINITY; COLUMNS], [0.0; COLUMNS]);
        let (max, sum) = (&mut max[..n], &mut sum[..n]);
        let at = |row: usize| row * self.inner + first..row * self.inner + first + n;
        for row in 0..self.axis {
            with(
                max,
                &rows[at(row)],
                #[inline(always)]
                |m, x| m.upper(x),
            );
        }
        let mut powers = [0.0; COLUMNS];
        for row in 0..self.axis {
            let x = &mut rows[at(row)];
            with(
                x,
                max,
                #[inline(always)]
                |x, m| x - m,
            );
            if self.log {
                powers[..n].copy_from_slice(x);
                Exp::default().map_mut(&mut powers[..n]);
                with(
                    sum,
                    &powers[..n],
                    #[inline(always)]
                    |s, e| s + e,
                );
            } else {
                Exp::default().map_mut(x);
                with(
                    sum,
                    x,
                    #[inline(always)]
                    |s, e| s + e,
                );
            }
        }
        if self.log {
            sum.iter_mut().for_each(|s| *s = s.ln());
        } else {
            sum.iter_mut().for_each(|s| *s = 1.0 / *s);
        }
        for row in 0..self.axis {
            let x = &mut rows[at(row)];
            if self.log {
                with(
                    x,
                    sum,
                    #[inline(always)]
                    |x, s| x - s,
                );
            } else {
                with(
                    x,
                    sum,
                    #[inline(always)]
                    |x, s| x * s,
                );
            }
        }
    }
}

/// `a[i] = f(a[i], b[i])`.
#[inline(always)]
fn with(a: &mut [f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    vectorised(
        #[inline(always)]
        || {
            a.iter_mut().zip(b).for_each(
                #[inline(always)]
                |(a, &b)| *a = f(*a, b),
            )
        },
    )
}
