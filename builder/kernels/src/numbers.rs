//! Numbers as they lie in memory, and the arithmetic of integer layers for the references.

use serde::{Deserialize, Serialize};
use tobiuo_ops::quant::{EXP2, RECIPROCAL};
use tobiuo_ops::{Activation, Quantization, Requantization};
use tobiuo_tensor::DType;

use crate::defines::{Defines, float};
use crate::reference::{load_at, store};

/// How numbers lie in memory: floats as they are; integers `q` stand for
/// `(q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// `F32`, `F16`, `I8` or `U8`.
    pub dtype: DType,
    /// 1 for floats.
    #[serde(with = "tobiuo_ops::float")]
    pub scale: f32,
    /// 0 for floats.
    pub zero_point: i32,
}

impl Numbers {
    /// f16.
    pub const F16: Numbers = Numbers::float(DType::F16);
    /// f32.
    pub const F32: Numbers = Numbers::float(DType::F32);

    /// Floats of a type.
    pub const fn float(dtype: DType) -> Numbers {
        Numbers { dtype, scale: 1.0, zero_point: 0 }
    }

    /// Integers of a type.
    pub fn integers(dtype: DType, q: Quantization) -> Numbers {
        Numbers { dtype, scale: q.scale, zero_point: q.zero_point }
    }

    /// True for integers.
    pub fn is_integer(&self) -> bool {
        !self.dtype.is_float()
    }

    pub(crate) fn f16() -> Numbers {
        Numbers::F16
    }

    pub(crate) fn is_f16(&self) -> bool {
        *self == Numbers::F16
    }

    /// The number of an integer that a layer stores.
    fn requantization(&self) -> Requantization {
        Requantization { to: self.dtype, scale: self.scale, zero_point: self.zero_point }
    }

    /// Element `i` as a float, or an integer's distance from the zero point.
    pub(crate) fn distance(&self, memory: &[u8], i: usize) -> f32 {
        match self.is_integer() {
            true => (load_at(memory, self.dtype, i) as i32 - self.zero_point) as f32,
            false => load_at(memory, self.dtype, i) as f32,
        }
    }

    /// Element `i` as the number it stands for.
    pub(crate) fn real(&self, memory: &[u8], i: usize) -> f32 {
        let q = self.distance(memory, i);
        if self.is_integer() { q * self.scale } else { q }
    }

    /// `v` and element `i` added.
    pub(crate) fn add_to(&self, v: f32, memory: &[u8], i: usize) -> f32 {
        let q = self.distance(memory, i);
        if self.is_integer() { q.mul_add(self.scale, v) } else { v + q }
    }

    /// Stores `v` as element `i`.
    pub(crate) fn store(&self, memory: &mut [u8], i: usize, v: f32) {
        match self.is_integer() {
            true => store(memory, self.dtype, i, f64::from(self.requantization().store(v))),
            false => store(memory, self.dtype, i, f64::from(v)),
        }
    }

    /// `{name}_KIND`, `_SCALE`, `_INVERSE` and `_ZERO` of `cuda/numbers.cuh`.
    pub(crate) fn define(&self, name: &str, d: &mut Defines) {
        d.set(&format!("{name}_KIND"), kind(self.dtype))
            .set(&format!("{name}_SCALE"), float(self.scale))
            .set(&format!("{name}_INVERSE"), float(1.0 / self.scale))
            .set(&format!("{name}_ZERO"), format!("({})", self.zero_point));
    }
}

/// How the sums of a depthwise convolution end where integers are read or written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// The integer of x that stands for 0.
    pub x_zero_point: i32,
    /// How results are stored.
    pub y: Numbers,
    /// How the residual is.
    pub residual: Numbers,
    /// The residual is added behind the activation instead of before it.
    pub residual_last: bool,
}

/// A mean of integers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// What x's integers stand for.
    pub x: Quantization,
    /// How results are stored.
    pub y: Numbers,
}

impl Mean {
    /// The mean of `count` numbers, `inside` of them x's, whose integers add up to `sum`.
    pub(crate) fn of(&self, sum: i32, inside: usize, count: usize) -> f32 {
        let sum = sum - self.x.zero_point * inside as i32;
        sum as f32 * (self.x.scale / count.max(1) as f32)
    }
}

/// An element type's `KIND` in `cuda/numbers.cuh` and `cuda/permute.cu`.
pub(crate) fn kind(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::I64 => 2,
        DType::I32 => 3,
        DType::I8 => 5,
        _ => 4,
    }
}

/// The sources of what the two functions below name.
pub(crate) const NUMBERS: &str = include_str!("../cuda/numbers.cuh");
pub(crate) const EXACT: &str = include_str!("../cuda/exact.cuh");

/// Sets the coefficients that `cuda/exact.cuh` wants.
pub(crate) fn define_exact(d: &mut Defines) {
    for (i, c) in EXP2.iter().enumerate() {
        d.set(&format!("EXP2_{i}"), float(*c));
    }
    d.set("RECIPROCAL", format!("{RECIPROCAL:#x}u"));
}

/// A sum through its filter's multiplier and bias (`ends` holds pairs of f32), as every device
/// computes it.
pub(crate) fn scaled(sum: i32, ends: &[u8], filter: usize) -> f32 {
    let [multiplier, bias] = [0, 1].map(|i| load_at(ends, DType::F32, 2 * filter + i) as f32);
    (sum as f32).mul_add(multiplier, bias)
}

/// A layer's activation, as every device computes it.
pub(crate) fn activated(activation: Option<Activation>, v: f32) -> f32 {
    activation.map_or(v, |a| a.exact(v))
}
