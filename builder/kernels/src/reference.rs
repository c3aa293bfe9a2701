//! What the families' references share: elements of raw memory as f64, rounded once when they
//! are written, and the activations.

use half::f16;
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

/// Every whole element of little-endian memory; integers and `Bool` as their value.
pub(crate) fn load(bytes: &[u8], dtype: DType) -> Vec<f64> {
    (0..bytes.len() / dtype.size()).map(|i| load_at(bytes, dtype, i)).collect()
}

/// Element `index` of little-endian memory.
pub(crate) fn load_at(bytes: &[u8], dtype: DType, index: usize) -> f64 {
    fn take<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
        bytes[index * N..][..N].try_into().expect("N bytes")
    }
    match dtype {
        DType::F16 => f16::from_le_bytes(take(bytes, index)).to_f64(),
        DType::F32 => f64::from(f32::from_le_bytes(take(bytes, index))),
        DType::I64 => i64::from_le_bytes(take(bytes, index)) as f64,
        DType::I32 => f64::from(i32::from_le_bytes(take(bytes, index))),
        DType::I8 => f64::from(take::<1>(bytes, index)[0] as i8),
        DType::U8 | DType::Bool => f64::from(bytes[index]),
        other => unreachable!("no kernel takes elements of {other}"),
    }
}

/// Writes element `index`, rounded to the nearest value of its type.
pub(crate) fn store(bytes: &mut [u8], dtype: DType, index: usize, value: f64) {
    let at = &mut bytes[index * dtype.size()..][..dtype.size()];
    match dtype {
        DType::F16 => at.copy_from_slice(&to_f16(value).to_le_bytes()),
        DType::F32 => at.copy_from_slice(&(value as f32).to_le_bytes()),
        DType::I64 => at.copy_from_slice(&(value as i64).to_le_bytes()),
        DType::I32 => at.copy_from_slice(&(value as i32).to_le_bytes()),
        DType::I8 => at[0] = value as i8 as u8,
        DType::U8 => at[0] = value as u8,
        DType::Bool => at[0] = u8::from(value != 0.0),
        other => unreachable!("no kernel makes elements of {other}"),
    }
}

/// The nearest f16. (`f16::from_f64` goes through f32 and rounds twice on some processors.)
fn to_f16(value: f64) -> f16 {
    let near = value as f32;
    let exact = f64::from(near);
    if exact == value || !near.is_finite() {
        return f16::from_f32(near);
    }
    // Rounded to odd, an f32 keeps what decides the second rounding.
    let below = if exact.abs() > value.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f16::from_f32(f32::from_bits(below | 1))
}

/// Bytes of a strided walk that ends `last` elements behind its start with a run of `run`.
pub(crate) fn reach(last: usize, run: usize, dtype: DType) -> usize {
    (last + run) * dtype.size()
}

/// An activation in f64.
pub(crate) fn activate(activation: Option<Activation>, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| if x > 30.0 { x } else { x.exp().ln_1p() };
    let Some(activation) = activation else { return x };
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x
            } else {
                x
            }
        }
        Activation::Clip { min, max } => x.max(f64::from(min)).min(f64::from(max)),
        Activation::Sigmoid => sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => {
            (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
        }
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Mish => x * softplus(x).tanh(),
        Activation::Tanh => x.tanh(),
        Activation::Elu { alpha } => {
            if x < 0.0 {
                f64::from(alpha) * x.exp_m1()
            } else {
                x
            }
        }
        Activation::Softplus => softplus(x),
        Activation::Gelu { tanh: false } => {
            0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
        }
        Activation::Gelu { tanh: true } => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Erf => erf(x),
        other => unreachable!("{} has no CUDA code", other.name()),
    }
}

/// The error function: its Maclaurin series near zero, the continued fraction of its
/// complement (Abramowitz and Stegun, 7.1.5 and 7.1.14) away from it.
pub(crate) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    let value = if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else if a > 6.0 {
        1.0
    } else {
        let tail = (1..=80).rev().fold(a, |tail, n| a + f64::from(n) / 2.0 / tail);
        1.0 - (-a * a).exp() / (tail * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tables() {
        let table = [
            (0.1, 0.112_462_916_018_285),
            (0.5, 0.520_499_877_813_047),
            (1.0, 0.842_700_792_949_715),
            (2.0, 0.995_322_265_018_953),
            (2.6, 0.999_763_965_583_471),
            (3.5, 0.999_999_256_901_628),
        ];
        for (x, want) in table {
            assert!((erf(x) - want).abs() < 1e-14, "{x}: {} {want}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(0.0), erf(40.0)), (0.0, 1.0));
    }

    #[test]
    fn elements_are_rounded_once() {
        let mut bytes = vec![0xff; 8];
        // Just above the middle of two f16; through f32 it would become the middle itself.
        let value = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        store(&mut bytes, DType::F16, 1, value);
        assert_eq!(load_at(&bytes, DType::F16, 1), 1.0 + 2f64.powi(-10));
        assert_eq!(bytes[..2], [0xff, 0xff]);
        assert_eq!(bytes[4..], [0xff; 4]);
        store(&mut bytes, DType::F32, 1, 0.1);
        assert_eq!(load_at(&bytes, DType::F32, 1), f64::from(0.1f32));
    }
}
