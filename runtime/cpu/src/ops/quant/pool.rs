//! Max and average pooling of integers: the window's rows are reduced into one row first, then
//! that row's columns.

use rten_simd::{Isa, SimdOp};
use tobiuo_ops::{Fact, Pool, PoolKind, QuantPool};
use tobiuo_tensor::{DType, TensorViewMut};

use super::Bytes;
use super::epilogue::{Cell, Finish, Source};
use crate::ops::walk::{parts, slice, slice_mut, table};
use crate::{CpuError, Inputs, Kernel};

/// Outputs finished together.
const BLOCK: usize = 64;

/// A window over one or two axes; one axis is taken as height 1.
struct Window {
    size: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
}

impl Window {
    fn new(a: &Pool, x: &Fact, out: &Fact) -> Result<Window, CpuError> {
        let axes = x.shape.len() - 2;
        if axes > 2 {
            return Err(CpuError(format!(
                "pooling of {} {:?} is not supported, only over 1 or 2 axes",
                x.dtype, x.shape
            )));
        }
        let two = |v: &[usize], one: usize| if axes == 2 { [v[0], v[1]] } else { [one, v[0]] };
        Ok(Window {
            size: two(&x.shape[2..], 1),
            out: two(&out.shape[2..], 1),
            kernel: two(&a.kernel, 1),
            stride: two(&a.strides, 1),
            dilation: two(&a.dilations, 1),
            pad: two(&a.pads, 0),
        })
    }

    /// The elements of an axis under the window at `o` that are inside.
    #[inline(always)]
    fn inside(&self, axis: usize, o: usize) -> impl Iterator<Item = usize> {
        let (size, step) = (self.size[axis], self.dilation[axis]);
        let (at, pad) = (o * self.stride[axis], self.pad[axis]);
        (0..self.kernel[axis])
            .map(move |k| (at + k * step).wrapping_sub(pad))
            .filter(move |&i| i < size)
    }

    fn work(&self) -> usize {
        self.kernel[0] + self.kernel[1]
    }
}

struct Max {
    window: Window,
    signed: bool,
}

pub(in crate::ops) fn max(a: &Pool, x: &Fact, out: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    Ok(Box::new(Max { window: Window::new(a, x, out)?, signed: x.dtype == DType::I8 }))
}

/// Rows are reduced in blocks of so many elements, on the stack.
const ROW: usize = 512;

struct MaxPlanes<'a> {
    kernel: &'a Max,
    x: &'a [u8],
    out: &'a mut [u8],
}

impl SimdOp for MaxPlanes<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let w = &self.kernel.window;
        // Signed bytes compare like unsigned ones with the highest bit flipped.
        let flip = if self.kernel.signed { 0x80 } else { 0 };
        let planes = self.x.chunks_exact(w.size[0] * w.size[1]);
        for (x, out) in planes.zip(self.out.chunks_exact_mut(w.out[0] * w.out[1])) {
            for (oy, out) in out.chunks_exact_mut(w.out[1]).enumerate() {
                if w.size[1] <= ROW {
                    let mut row = [0u8; ROW];
                    let row = &mut row[..w.size[1]];
                    for y in w.inside(0, oy) {
                        let from = &x[y * w.size[1]..(y + 1) * w.size[1]];
                        row.iter_mut().zip(from).for_each(|(r, &v)| *r = (*r).max(v ^ flip));
                    }
                    for (ox, out) in out.iter_mut().enumerate() {
                        let most = w.inside(1, ox).fold(0, |m: u8, i| m.max(row[i]));
                        *out = most ^ flip;
                    }
                } else {
                    for (ox, out) in out.iter_mut().enumerate() {
                        let mut most = 0;
                        for y in w.inside(0, oy) {
                            let row = &x[y * w.size[1]..(y + 1) * w.size[1]];
                            most = w.inside(1, ox).fold(most, |m, i| m.max(row[i] ^ flip));
                        }
                        *out = most ^ flip;
                    }
                }
            }
        }
    }
}

impl Kernel for Max {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x: &[u8] = slice(inputs.get(0).expect("not in place"));
        let out: &mut [u8] = slice_mut(&mut outputs[0]);
        let w = &self.window;
        let (from, to) = (w.size[0] * w.size[1], w.out[0] * w.out[1]);
        if out.is_empty() {
            return;
        }
        let work = out.len() * w.work();
        parts(out, to, work, |first, out| {
            let x = &x[first * from..(first + out.len() / to) * from];
            MaxPlanes { kernel: self, x, out }.dispatch();
        });
    }
}

struct Average {
    window: Window,
    bytes: Bytes,
    scale: f32,
    /// Per output row and column: elements that count there.
    count: [Vec<usize>; 2],
    finish: Finish,
    out: DType,
}

pub(in crate::ops) fn average(
    a: &QuantPool,
    x: &Fact,
    out: &Fact,
) -> Result<Box<dyn Kernel>, CpuError> {
    let window = Window::new(&a.pool, x, out)?;
    let padded = matches!(a.pool.kind, PoolKind::Average { count_include_pad: true });
    let axes = x.shape.len() - 2;
    let end = if axes == 2 { [a.pool.pads[2], a.pool.pads[3]] } else { [0, a.pool.pads[1]] };
    let count = |axis: usize| {
        // With padding the window's elements count up to the padded end, without only those
        // inside.
        let limit = window.pad[axis] + window.size[axis] + end[axis];
        table(
            window.out[axis],
            (0..window.out[axis]).map(|o| {
                let at = |k: usize| o * window.stride[axis] + k * window.dilation[axis];
                if padded {
                    (0..window.kernel[axis]).filter(|&k| at(k) < limit).count()
                } else {
                    window.inside(axis, o).count()
                }
            }),
        )
    };
    let count = [count(0)?, count(1)?];
    Ok(Box::new(Average {
        bytes: Bytes::new(x, a.x.zero_point),
        scale: a.x.scale,
        finish: Finish::only(None, a.output),
        out: out.dtype,
        window,
        count,
    }))
}

struct AveragePlanes<'a, T> {
    kernel: &'a Average,
    x: &'a [u8],
    out: &'a mut [T],
}

impl<T: Cell> SimdOp for AveragePlanes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Average { window: w, bytes, scale, count, finish, .. } = self.kernel;
        let planes = self.x.chunks_exact(w.size[0] * w.size[1]);
        for (x, out) in planes.zip(self.out.chunks_exact_mut(w.out[0] * w.out[1])) {
            for (oy, out) in out.chunks_exact_mut(w.out[1]).enumerate() {
                for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                    let mut values = [0.0f32; BLOCK];
                    let values = &mut values[..out.len()];
                    for (i, v) in values.iter_mut().enumerate() {
                        let ox = block * BLOCK + i;
                        let mut sum = 0i32;
                        for y in w.inside(0, oy) {
                            let row = &x[y * w.size[1]..(y + 1) * w.size[1]];
                            sum += w.inside(1, ox).map(|i| bytes.value(row[i])).sum::<i32>();
                        }
                        let n = (count[0][oy] * count[1][ox]).max(1);
                        *v = sum as f32 * (scale / n as f32);
                    }
                    finish.run(values, Source::None, out);
                }
            }
        }
    }
}

impl Average {
    fn go<T: Cell>(&self, inputs: Inputs<'_>, out: &mut [T]) {
        let x: &[u8] = slice(inputs.get(0).expect("not in place"));
        let w = &self.window;
        let (from, to) = (w.size[0] * w.size[1], w.out[0] * w.out[1]);
        if out.is_empty() {
            return;
        }
        let work = out.len() * w.kernel[0] * w.kernel[1];
        parts(out, to, work, |first, out| {
            let x = &x[first * from..(first + out.len() / to) * from];
            AveragePlanes { kernel: self, x, out }.dispatch();
        });
    }
}

impl Kernel for Average {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        match self.out {
            DType::F32 => self.go::<f32>(inputs, slice_mut(&mut outputs[0])),
            _ => self.go::<u8>(inputs, slice_mut(&mut outputs[0])),
        }
    }
}
