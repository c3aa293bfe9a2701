//! Slice, Transpose, Expand, Tile: the output's axes walk through the input by strides.

use bytemuck::Pod;
use tobiuo_ops::{Fact, Op};
use tobiuo_tensor::{DType, TensorViewMut, strides};

use super::walk::{Axes, by_size, parts, slice, slice_mut};
use crate::{CpuError, Inputs, Kernel};

/// Elements along the side of a block in which two axes change places: 16 cache lines.
const BLOCK: usize = 16;

struct Strided {
    dtype: DType,
    axes: Axes<1>,
    /// The input's element that comes first.
    start: isize,
    numel: usize,
}

pub(super) fn prepare(op: &Op, x: &Fact, out: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    let step: Vec<isize> = strides(&x.shape).into_iter().map(|s| s as isize).collect();
    let mut start = 0;
    let axes = match op {
        Op::Transpose { perm } => Axes::new(perm.iter().map(|&p| (x.shape[p], [step[p]]))),
        Op::Slice(s) => {
            if out.numel() > 0 {
                start = s.starts.iter().zip(&step).map(|(&s, &d)| s as isize * d).sum();
            }
            // A step can be anything where there is one element or none: it is not taken.
            let stride = |i: usize| if s.lens[i] > 1 { s.steps[i] as isize * step[i] } else { 0 };
            Axes::new(s.lens.iter().enumerate().map(|(i, &n)| (n, [stride(i)])))
        }
        Op::Expand { shape } => Axes::broadcast(shape, [&x.shape]),
        Op::Tile { repeats } => Axes::new(
            repeats
                .iter()
                .zip(x.shape.iter().zip(&step))
                .flat_map(|(&r, (&d, &s))| [(r, [0]), (d, [s])]),
        ),
        _ => return Err(CpuError(format!("{} is no strided copy", op.name()))),
    };
    Ok(Box::new(Strided { dtype: x.dtype, axes, start, numel: out.numel() }))
}

impl Kernel for Strided {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = inputs.get(0).expect("never in place");
        by_size!(self.dtype, T => self.copy::<T>(slice(x), slice_mut(&mut outputs[0])));
    }
}

impl Strided {
    fn copy<T: Pod + Send + Sync>(&self, x: &[T], out: &mut [T]) {
        if self.numel == 0 {
            return;
        }
        let axes = self.axes.get();
        let [step] = self.axes.step();
        let contiguous = axes.iter().position(|a| a.1 == [1]);
        match contiguous {
            // The input's rows run along another axis of the output.
            Some(axis) if step > 1 && axis + 1 < axes.len() => self.transpose(x, out, axis),
            _ => parts(out, 1, self.numel, |first, part| {
                let len = part.len();
                self.axes.walk(first, len, |at, len, [offset]| {
                    let offset = (self.start + offset) as usize;
                    row(&mut part[at..at + len], x, offset, step);
                });
            }),
        }
    }

    /// `axis` has stride 1 and is not the last.
    fn transpose<T: Pod + Send + Sync>(&self, x: &[T], out: &mut [T], axis: usize) {
        let axes = self.axes.get();
        let (first_len, [first_step]) = axes[0];
        let unit = self.numel / first_len;
        let (columns, [step]) = axes[axes.len() - 1];
        let step = step as usize;
        // The output's distance between elements of `axis`.
        let pitch: usize = axes[axis + 1..].iter().map(|a| a.0).product();
        parts(out, unit, self.numel, |first, part| {
            let taken = part.len() / unit;
            let rows = if axis == 0 { taken } else { axes[axis].0 };
            let start = self.start + first as isize * first_step;
            // The other axes, with the output's strides beside the input's.
            let mut pitches = [0; 2];
            let mut out_stride = 1;
            let mut others = Vec4::default();
            for (i, &(len, [stride])) in axes.iter().enumerate().rev() {
                if i != axis && i + 1 != axes.len() {
                    let len = if i == 0 { taken } else { len };
                    others.push(len, [stride, out_stride as isize]);
                }
                out_stride *= len;
            }
            pitches[0] = pitch;
            pitches[1] = step;
            others.each(|[from, to]| {
                let (from, to) = ((start + from) as usize, to as usize);
                block_transpose(&x[from..], &mut part[to..], rows, columns, pitches);
            });
        });
    }
}

/// Axes collected without allocation, innermost first.
#[derive(Default)]
struct Vec4 {
    axes: [(usize, [isize; 2]); 16],
    len: usize,
}

impl Vec4 {
    fn push(&mut self, len: usize, strides: [isize; 2]) {
        self.axes[self.len] = (len, strides);
        self.len += 1;
    }

    /// Calls `f` with the offsets of every index.
    fn each(&self, mut f: impl FnMut([isize; 2])) {
        let mut index = [0usize; 16];
        let mut offset = [0isize; 2];
        loop {
            f(offset);
            let mut i = 0;
            loop {
                if i == self.len {
                    return;
                }
                let (len, strides) = self.axes[i];
                index[i] += 1;
                offset[0] += strides[0];
                offset[1] += strides[1];
                if index[i] < len {
                    break;
                }
                index[i] = 0;
                offset[0] -= len as isize * strides[0];
                offset[1] -= len as isize * strides[1];
                i += 1;
            }
        }
    }
}

/// `out[r * pitch + c] = x[c * step + r]` for all rows and columns, block by block so that
/// the cache lines of both sides are used up while they are there.
fn block_transpose<T: Copy>(
    x: &[T],
    out: &mut [T],
    rows: usize,
    columns: usize,
    [pitch, step]: [usize; 2],
) {
    for r0 in (0..rows).step_by(BLOCK) {
        let r1 = rows.min(r0 + BLOCK);
        for c0 in (0..columns).step_by(BLOCK) {
            let c1 = columns.min(c0 + BLOCK);
            for r in r0..r1 {
                let line = &mut out[r * pitch + c0..r * pitch + c1];
                let from = x[c0 * step + r..].iter().step_by(step);
                line.iter_mut().zip(from).for_each(|(o, &v)| *o = v);
            }
        }
    }
}

/// `out[i] = x[offset + i * step]`.
#[inline]
fn row<T: Copy>(out: &mut [T], x: &[T], offset: usize, step: isize) {
    let len = out.len();
    match step {
        1 => out.copy_from_slice(&x[offset..offset + len]),
        0 => out.fill(x[offset]),
        _ if step > 0 => {
            let from = x[offset..].iter().step_by(step as usize);
            out.iter_mut().zip(from).for_each(|(o, &v)| *o = v);
        }
        _ => {
            let from = x[..=offset].iter().rev().step_by(step.unsigned_abs());
            out.iter_mut().zip(from).for_each(|(o, &v)| *o = v);
        }
    }
}
