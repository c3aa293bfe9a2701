//! Operators on 8-bit integers, and the arithmetic that every device gives to the bit.
//!
//! An integer `q` of a tensor stands for the real number `(q - zero_point) * scale`. Layers
//! multiply integers, add up in 32 bits, which is exact, and then compute in f32, one
//! correctly rounded IEEE operation after the other, in the order that the types below say.
//! `fma(a, b, c)` is `a * b + c` rounded once. docs/int8.md has it on one page.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use crate::{Activation, Binary, Pool};

/// What an operand's integers stand for: `(q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// Above 0, finite.
    #[serde(with = "crate::float")]
    pub scale: f32,
    /// The integer of the number 0; one of the operand's type.
    pub zero_point: i32,
}

/// How a result `v` is stored as an integer:
/// `min(max(round_half_even(v * (1 / scale)) + zero_point, lowest), highest)`, where `1 / scale`
/// is an f32 of its own. NaN gives the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requantization {
    /// `I8` or `U8`.
    pub to: DType,
    /// Above 0, finite, its reciprocal too.
    #[serde(with = "crate::float")]
    pub scale: f32,
    /// The integer of the number 0.
    pub zero_point: i32,
}

impl Requantization {
    /// What the integers stand for.
    pub fn quantization(&self) -> Quantization {
        Quantization { scale: self.scale, zero_point: self.zero_point }
    }

    /// Smallest and largest integer.
    pub fn limits(&self) -> (i32, i32) {
        if self.to == DType::U8 { (0, 255) } else { (-128, 127) }
    }

    /// The integer that `v` is stored as.
    #[inline(always)]
    pub fn store(&self, v: f32) -> i32 {
        let (low, high) = self.limits();
        let zero = self.zero_point;
        // The limits are integers: what is within them before rounding is so behind it.
        let v = at_most(above(v * (1.0 / self.scale), (low - zero) as f32), (high - zero) as f32);
        v.round_ties_even() as i32 + zero
    }
}

/// What follows the sums of a [`QuantConv`] or [`QuantGemm`]:
///
/// 1. `v = fma(sum, multiplier[c], bias[c])`, the i32 sum rounded to f32 first;
/// 2. the residual, here or after 3: `v = fma(r - zero_point, scale, v)` of an integer one,
///    `v = v + r` of a float one;
/// 3. the activation;
/// 4. `v` stored as `output` says, or as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epilogue {
    /// A fifth operand is added.
    pub residual: Option<Residual>,
    /// One of those that [`Activation::is_exact`] names.
    pub activation: Option<Activation>,
    /// How the result is stored; `None`: as f32.
    pub output: Option<Requantization>,
}

/// A tensor of the output's shape that is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Residual {
    /// What its integers stand for; `None` for f32.
    pub quantization: Option<Quantization>,
    /// Added behind the activation rather than before it.
    pub after_activation: bool,
}

/// Attributes of [`Op::QuantConv`](crate::Op::QuantConv).
///
/// `sum[c] = sum over the window of (x - x_zero_point) * weight[c]` in i32; padding counts as
/// the number 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantConv {
    /// Kernel size, one per spatial axis (1 or 2 axes).
    pub kernel: Vec<usize>,
    /// Step between windows.
    pub strides: Vec<usize>,
    /// Padding before and after each spatial axis: `[begin..., end...]`.
    pub pads: Vec<usize>,
    /// Step between the taps of a window.
    pub dilations: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
    /// The integer of x that stands for 0.
    pub x_zero_point: i32,
    /// What follows the sums.
    pub epilogue: Epilogue,
}

/// Attributes of [`Op::QuantGemm`](crate::Op::QuantGemm).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantGemm {
    /// The integer of x that stands for 0.
    pub x_zero_point: i32,
    /// What follows the sums.
    pub epilogue: Epilogue,
}

/// Attributes of [`Op::QuantBinary`](crate::Op::QuantBinary).
///
/// An integer operand is `a = (q - zero_point) * scale`, an f32 one is itself; then
/// `v = a (+, -, *, min or max) b`, the activation, and `v` is stored. No step is contracted
/// with the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantBinary {
    /// `Add`, `Sub`, `Mul`, `Min` or `Max`.
    pub kind: Binary,
    /// What the first operand's integers stand for; `None` for f32.
    pub a: Option<Quantization>,
    /// What the second operand's integers stand for; `None` for f32.
    pub b: Option<Quantization>,
    /// One of those that [`Activation::is_exact`] names.
    pub activation: Option<Activation>,
    /// How the result is stored; `None`: as f32.
    pub output: Option<Requantization>,
}

/// Attributes of [`Op::QuantPool`](crate::Op::QuantPool): average pooling.
///
/// `v = sum * (scale / n)`, where `sum` is the i32 sum of `q - zero_point` over the window's
/// elements inside x and `n` the elements that count, as [`Op::Pool`](crate::Op::Pool) says; then
/// `v` is stored. Sum and `n` are rounded to f32 first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantPool {
    /// The window; its kind is an average.
    pub pool: Pool,
    /// What x's integers stand for.
    pub x: Quantization,
    /// How the result is stored; `None`: as f32.
    pub output: Option<Requantization>,
}

/// Coefficients of `2^r`, r in -0.5..=0.5: a minimax polynomial, relative error 1.1e-7.
#[allow(clippy::approx_constant, reason = "a coefficient of the polynomial near ln 2")]
pub const EXP2: [f32; 6] =
    [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0];

/// The larger one; `low` for NaN.
#[inline(always)]
fn above(x: f32, low: f32) -> f32 {
    if x > low { x } else { low }
}

#[inline(always)]
fn at_least(x: f32, low: f32) -> f32 {
    if x < low { low } else { x }
}

#[inline(always)]
fn at_most(x: f32, high: f32) -> f32 {
    if x > high { high } else { x }
}

/// `e^x`, the same on every device; relative error 1.2e-7 near 0 and 5e-6 at the ends.
///
/// `t = x * log2(e)`, kept within -100..=100; `n = round_half_even(t)`; `r = t - n`; [`EXP2`] by
/// Horner's rule with fma; times `2^n`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let t = at_most(at_least(x * std::f32::consts::LOG2_E, -100.0), 100.0);
    let n = t.round_ties_even();
    let r = t - n;
    let mut p = EXP2[0];
    for c in &EXP2[1..] {
        p = p.mul_add(r, *c);
    }
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Minus this one's bits a number's bits are those of its reciprocal, 5 % off at most.
pub const RECIPROCAL: u32 = 0x7ef3_11c3;

/// `1 / d`, the same on every device, d from 1 to 2^101; relative error 1.2e-7.
///
/// Three of Newton's steps, `r = fma(r, fma(-d, r, 1), r)`, from [`RECIPROCAL`] on: devices divide
/// slowly.
#[inline(always)]
pub fn reciprocal(d: f32) -> f32 {
    let mut r = f32::from_bits(RECIPROCAL.wrapping_sub(d.to_bits()));
    for _ in 0..3 {
        r = r.mul_add((-d).mul_add(r, 1.0), r);
    }
    r
}

impl Activation {
    /// True for the activations that may follow a sum of integers, because every device gives
    /// the same bits: they have one formula, [`Activation::exact`].
    pub fn is_exact(self) -> bool {
        use Activation::*;
        matches!(
            self,
            Relu | LeakyRelu { .. } | Clip { .. } | Sigmoid | HardSigmoid { .. } | HardSwish | Silu
        )
    }

    /// True where a result, computed in any of the ways that devices have, never falls while x
    /// rises: the largest of several results is then that of the largest x. Sigmoid and its like
    /// rise too, but their approximations may not at the last bit.
    pub fn never_falls(self) -> bool {
        match self {
            Activation::Relu => true,
            Activation::LeakyRelu { alpha } => alpha >= 0.0,
            Activation::Clip { min, max } => min <= max,
            _ => false,
        }
    }

    /// The activation of an f32, each operation correctly rounded. `x < 0 ? 0 : x` and its like
    /// are selections, so that the sign of a zero and NaN are settled too:
    ///
    /// | | |
    /// |---|---|
    /// | Relu | `x < 0 ? 0 : x` |
    /// | LeakyRelu | `x < 0 ? alpha * x : x` |
    /// | Clip | `t = x < min ? min : x; t > max ? max : t` |
    /// | Sigmoid | `reciprocal(1 + exp(-x))` with [`exp`] and [`reciprocal`] |
    /// | Silu | `x * reciprocal(1 + exp(-x))` with the same |
    /// | HardSigmoid | `fma(alpha, x, beta)` clipped to 0..1 |
    /// | HardSwish | `x * t`, `t = fma(1 / 6, x, 0.5)` clipped to 0..1 |
    ///
    /// Others are left as they are: see [`Activation::is_exact`].
    #[inline(always)]
    pub fn exact(self, x: f32) -> f32 {
        let unit = |t| at_most(at_least(t, 0.0), 1.0);
        match self {
            Activation::Relu => at_least(x, 0.0),
            Activation::LeakyRelu { alpha } => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
            Activation::Clip { min, max } => at_most(at_least(x, min), max),
            Activation::Sigmoid => reciprocal(1.0 + exp(-x)),
            Activation::Silu => x * reciprocal(1.0 + exp(-x)),
            Activation::HardSigmoid { alpha, beta } => unit(alpha.mul_add(x, beta)),
            Activation::HardSwish => x * unit((1.0f32 / 6.0).mul_add(x, 0.5)),
            _ => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_and_never_overflows() {
        for i in -6900..=6900 {
            let x = i as f32 / 100.0;
            let (got, true_) = (f64::from(exp(x)), f64::from(x).exp());
            let error = (got / true_ - 1.0).abs();
            assert!(
                error < 2e-7 + 7e-8 * f64::from(x.abs()),
                "exp({x}) is {got}: off by {error:e}"
            );
        }
        assert_eq!(exp(f32::NEG_INFINITY), 2f32.powi(-100));
        assert!(exp(1e30).is_finite() && exp(f32::NAN).is_nan());
        assert!(Activation::Silu.exact(-200.0).abs() < 1e-25);
        assert_eq!(Activation::Sigmoid.exact(200.0), 1.0);
    }

    #[test]
    fn reciprocals_are_close() {
        let mut d = 1.0f32;
        while d < 2f32.powi(101) {
            let error = (f64::from(reciprocal(d)) * f64::from(d) - 1.0).abs();
            assert!(error < 1.3e-7, "1 / {d} is off by {error:e}");
            d *= 1.000_37;
        }
        assert_eq!(reciprocal(1.0), 1.0);
    }

    #[test]
    fn stores_round_half_to_even_and_saturate() {
        let i8_ = |zero_point| Requantization { to: DType::I8, scale: 2.0, zero_point };
        let stored =
            |r: Requantization, vs: &[f32]| vs.iter().map(|&v| r.store(v)).collect::<Vec<_>>();
        assert_eq!(stored(i8_(0), &[1.0, 3.0, -1.0, -3.0, 0.9]), [0, 2, 0, -2, 0]);
        assert_eq!(stored(i8_(0), &[1e30, -1e30, f32::NAN]), [127, -128, -128]);
        assert_eq!(stored(i8_(-128), &[f32::INFINITY, f32::NEG_INFINITY, 0.0]), [127, -128, -128]);
        let u8_ = Requantization { to: DType::U8, scale: 0.5, zero_point: 10 };
        assert_eq!(stored(u8_, &[-6.0, -1.25, 0.25, 200.0]), [0, 8, 10, 255]);
        assert_eq!(u8_.quantization(), Quantization { scale: 0.5, zero_point: 10 });
    }

    #[test]
    fn activations_are_their_definitions() {
        for i in -600..=600 {
            let x = i as f32 / 50.0;
            let d = f64::from(x);
            let table = [
                (Activation::Sigmoid, 1.0 / (1.0 + (-d).exp())),
                (Activation::Silu, d / (1.0 + (-d).exp())),
                (Activation::HardSwish, d * (d / 6.0 + 0.5).clamp(0.0, 1.0)),
                (
                    Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
                    (0.2 * d + 0.5).clamp(0.0, 1.0),
                ),
                (Activation::Clip { min: 0.0, max: 6.0 }, d.clamp(0.0, 6.0)),
                (Activation::LeakyRelu { alpha: 0.1 }, if d < 0.0 { 0.1 * d } else { d }),
                (Activation::Relu, d.max(0.0)),
            ];
            for (a, wanted) in table {
                let error = (f64::from(a.exact(x)) - wanted).abs();
                assert!(
                    a.is_exact() && error <= 1e-6 * wanted.abs().max(0.2),
                    "{a:?} of {x}: {error:e}"
                );
            }
        }
        assert!(!Activation::Tanh.is_exact());
    }
}
