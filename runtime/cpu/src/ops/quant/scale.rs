//! Floats to integers and back, and tables over bytes.

use rten_simd::{Isa, SimdOp};
use tobiuo_ops::Fact;
use tobiuo_tensor::{DType, TensorViewMut, numel};

use super::Bytes;
use crate::ops::f32s::{f32s, f32s_mut};
use crate::ops::walk::{parts, slice, slice_mut};
use crate::{Inputs, Kernel};

/// Elements that share a scale, and scales, in the order they lie.
struct Layout {
    run: usize,
    scales: usize,
}

impl Layout {
    fn new(axis: Option<usize>, x: &Fact) -> Layout {
        match axis {
            None => Layout { run: numel(&x.shape).max(1), scales: 1 },
            Some(a) => Layout { run: numel(&x.shape[a + 1..]).max(1), scales: x.shape[a] },
        }
    }

    /// Calls `f` with each stretch of one scale among `len` elements from `first` on: where it
    /// begins, its length, the scale's index.
    #[inline(always)]
    fn stretches(&self, first: usize, len: usize, mut f: impl FnMut(usize, usize, usize)) {
        let mut done = 0;
        while done < len {
            let at = first + done;
            let n = (self.run - at % self.run).min(len - done);
            f(done, n, at / self.run % self.scales);
            done += n;
        }
    }
}

/// The zero point of a scale: of the operand's type, 0 where it is not given.
fn zero_point(inputs: Inputs<'_>, index: usize) -> i32 {
    use tobiuo_tensor::ViewData::*;
    match inputs.get(2).map(|v| v.data) {
        Some(I8(v)) => i32::from(v[index]),
        Some(U8(v)) => i32::from(v[index]),
        Some(I32(v)) => v[index],
        _ => 0,
    }
}

struct Quantize {
    layout: Layout,
    to: DType,
}

pub(in crate::ops) fn quantize(axis: Option<usize>, to: DType, x: &Fact) -> Box<dyn Kernel> {
    Box::new(Quantize { layout: Layout::new(axis, x), to })
}

struct QuantizePart<'a> {
    from: &'a [f32],
    to: &'a mut [u8],
    scale: f32,
    zero: i32,
    limits: (i32, i32),
}

impl SimdOp for QuantizePart<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let (low, high) = self.limits;
        let (scale, zero) = (self.scale, self.zero);
        for (to, &x) in self.to.iter_mut().zip(self.from) {
            let q = (x / scale).round_ties_even() as i32;
            *to = q.saturating_add(zero).clamp(low, high) as u8;
        }
    }
}

impl Kernel for Quantize {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = f32s(inputs.get(0).expect("not in place"));
        let scales = f32s(inputs.get(1).expect("not in place"));
        let limits = if self.to == DType::U8 { (0, 255) } else { (-128, 127) };
        let out: &mut [u8] = slice_mut(&mut outputs[0]);
        let work = out.len();
        parts(out, 1, work, |first, out| {
            self.layout.stretches(first, out.len(), |at, n, s| {
                let from = &x[first + at..first + at + n];
                let (scale, zero) = (scales[s], zero_point(inputs, s));
                QuantizePart { from, to: &mut out[at..at + n], scale, zero, limits }.dispatch();
            });
        });
    }
}

struct Dequantize {
    layout: Layout,
    dtype: DType,
    signed: bool,
}

pub(in crate::ops) fn dequantize(axis: Option<usize>, x: &Fact) -> Box<dyn Kernel> {
    let signed = x.dtype == DType::I8;
    Box::new(Dequantize { layout: Layout::new(axis, x), dtype: x.dtype, signed })
}

struct DequantizePart<'a> {
    from: &'a [u8],
    to: &'a mut [f32],
    bytes: Bytes,
    scale: f32,
}

impl SimdOp for DequantizePart<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        for (to, &b) in self.to.iter_mut().zip(self.from) {
            *to = self.bytes.value(b) as f32 * self.scale;
        }
    }
}

impl Kernel for Dequantize {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x = inputs.get(0).expect("not in place");
        let scales = f32s(inputs.get(1).expect("not in place"));
        let out = f32s_mut(&mut outputs[0]);
        let work = out.len();
        parts(out, 1, work, |first, out| {
            self.layout.stretches(first, out.len(), |at, n, s| {
                let (scale, zero_point) = (scales[s], zero_point(inputs, s));
                let to = &mut out[at..at + n];
                if self.dtype == DType::I32 {
                    let from: &[i32] = &slice(x)[first + at..first + at + n];
                    for (to, &q) in to.iter_mut().zip(from) {
                        *to = (i64::from(q) - i64::from(zero_point)) as f32 * scale;
                    }
                } else {
                    let from = &slice(x)[first + at..first + at + n];
                    let bytes = Bytes { signed: self.signed, zero_point };
                    DequantizePart { from, to, bytes, scale }.dispatch();
                }
            });
        });
    }
}

struct Lookup {
    /// What is added to a byte for its place in the table.
    flip: u8,
    out: DType,
}

pub(in crate::ops) fn lookup(x: &Fact, out: &Fact) -> Box<dyn Kernel> {
    Box::new(Lookup { flip: if x.dtype == DType::I8 { 0x80 } else { 0 }, out: out.dtype })
}

impl Kernel for Lookup {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let x: Option<&[u8]> = inputs.get(0).map(slice);
        let table = inputs.get(1).expect("not in place");
        let flip = self.flip;
        if self.out == DType::F32 {
            let (x, table) = (x.expect("of another size"), f32s(table));
            let out = f32s_mut(&mut outputs[0]);
            let work = out.len();
            parts(out, 1, work, |first, out| {
                let x = &x[first..first + out.len()];
                out.iter_mut().zip(x).for_each(|(o, &b)| *o = table[usize::from(b ^ flip)]);
            });
            return;
        }
        let table: &[u8] = slice(table);
        let out: &mut [u8] = slice_mut(&mut outputs[0]);
        let work = out.len();
        parts(out, 1, work, |first, out| match x {
            Some(x) => {
                let x = &x[first..first + out.len()];
                out.iter_mut().zip(x).for_each(|(o, &b)| *o = table[usize::from(b ^ flip)]);
            }
            None => out.iter_mut().for_each(|o| *o = table[usize::from(*o ^ flip)]),
        });
    }
}
