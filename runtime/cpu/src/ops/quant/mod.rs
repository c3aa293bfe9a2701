//! Layers of 8-bit integers. Their arithmetic is [`tobiuo_ops::quant`]'s, to the bit.
//!
//! Integers are read as bytes and brought to i16, the zero point taken off; the compiler makes
//! multiply-add instructions of sums of i16 products.

mod binary;
mod conv;
mod depthwise;
mod epilogue;
mod gemm;
mod pool;
mod scale;

pub(super) use binary::prepare as binary;
pub(super) use conv::prepare as conv;
pub(super) use gemm::prepare as gemm;
pub(super) use pool::{average, max};
pub(super) use scale::{dequantize, lookup, quantize};

use tobiuo_ops::Fact;
use tobiuo_tensor::DType;

/// How bytes are read as integers.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    signed: bool,
    zero_point: i32,
}

impl Bytes {
    fn new(fact: &Fact, zero_point: i32) -> Bytes {
        Bytes { signed: fact.dtype == DType::I8, zero_point }
    }

    /// The integer less its zero point.
    #[inline(always)]
    fn value(self, byte: u8) -> i32 {
        let q = if self.signed { i32::from(byte as i8) } else { i32::from(byte) };
        q - self.zero_point
    }
}

/// Brings bytes to i16.
#[inline(always)]
fn widen(bytes: Bytes, from: &[u8], to: &mut [i16]) {
    let zero = bytes.zero_point as i16;
    if bytes.signed {
        to.iter_mut().zip(from).for_each(|(t, &b)| *t = i16::from(b as i8) - zero);
    } else {
        to.iter_mut().zip(from).for_each(|(t, &b)| *t = i16::from(b) - zero);
    }
}

/// Sums of products of four rows with one.
// Five iterators zipped are no plainer than an index.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn dot4(rows: [&[i16]; 4], x: &[i16]) -> [i32; 4] {
    let n = x.len();
    let [a, b, c, d] = rows.map(|r| &r[..n]);
    let mut sums = [0i32; 4];
    for i in 0..n {
        let x = i32::from(x[i]);
        sums[0] += i32::from(a[i]) * x;
        sums[1] += i32::from(b[i]) * x;
        sums[2] += i32::from(c[i]) * x;
        sums[3] += i32::from(d[i]) * x;
    }
    sums
}

/// Sum of products.
#[inline(always)]
fn dot(row: &[i16], x: &[i16]) -> i32 {
    row.iter().zip(x).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// Scratch memory as i16.
fn shorts(scratch: &mut [u8]) -> &mut [i16] {
    let whole = scratch.len() / 2 * 2;
    bytemuck::cast_slice_mut(&mut scratch[..whole])
}
