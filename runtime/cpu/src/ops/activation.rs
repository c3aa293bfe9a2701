//! Element-wise activations, vectorised, alone and as the last step of other kernels.

use rten_simd::functional::simd_apply;
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdOp, SimdUnaryOp};
use rten_vecmath::{Erf, Exp, Sigmoid, Tanh};
use tobiuo_ops::{Activation, Fact};
use tobiuo_tensor::{DType, TensorViewMut};

use super::f32s::{f32s, f32s_mut, par_blocks};
use crate::{CpuError, Inputs, Kernel};

/// An activation's value for a vector.
#[inline(always)]
pub(crate) fn eval<I: Isa>(isa: I, act: Activation, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    let zero = ops.zero();
    match act {
        Activation::Relu => at_least(isa, x, 0.0),
        Activation::LeakyRelu { alpha } => {
            ops.select(ops.mul(x, ops.splat(alpha)), x, ops.lt(x, zero))
        }
        Activation::Clip { min, max } => clamp(isa, x, min, max),
        Activation::Sigmoid => Sigmoid::apply(isa, x),
        Activation::HardSigmoid { alpha, beta } => {
            clamp(isa, ops.mul_add(x, ops.splat(alpha), ops.splat(beta)), 0.0, 1.0)
        }
        Activation::HardSwish => {
            ops.mul(x, clamp(isa, ops.mul_add(x, ops.splat(1.0 / 6.0), ops.splat(0.5)), 0.0, 1.0))
        }
        Activation::Silu => {
            // x / (1 + e^-x), where e^-x may be infinite: then x / inf = -0.
            ops.div(x, ops.add(ops.one(), Exp::apply(isa, ops.neg(x))))
        }
        Activation::Mish => {
            // tanh(ln(1 + e)) with e = e^x is n / (n + 2) with n = e (e + 2).
            let e = Exp::apply(isa, ops.min(x, ops.splat(30.0)));
            let n = ops.mul(e, ops.add(e, ops.splat(2.0)));
            let y = ops.mul(x, ops.div(n, ops.add(n, ops.splat(2.0))));
            ops.select(x, y, ops.ge(x, ops.splat(20.0)))
        }
        Activation::Tanh => Tanh::apply(isa, x),
        Activation::Elu { alpha } => {
            ops.select(ops.mul(ops.splat(alpha), exp_m1(isa, x)), x, ops.lt(x, zero))
        }
        Activation::Softplus => {
            // max(x, 0) + ln(1 + e^-|x|): never overflows.
            let small = ln_1p(isa, Exp::apply(isa, ops.neg(ops.abs(x))));
            ops.add(at_least(isa, x, 0.0), small)
        }
        Activation::Gelu { tanh: false } => {
            let erf = erf(isa, ops.mul(x, ops.splat(std::f32::consts::FRAC_1_SQRT_2)));
            ops.mul(ops.mul(x, ops.splat(0.5)), ops.add(erf, ops.one()))
        }
        Activation::Gelu { tanh: true } => {
            // x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
            let cubic = ops.mul_add(ops.mul(x, x), ops.splat(0.044_715), ops.one());
            let inner = ops.mul(ops.mul(x, cubic), ops.splat(0.797_884_6));
            ops.mul(ops.mul(x, ops.splat(0.5)), ops.add(Tanh::apply(isa, inner), ops.one()))
        }
        Activation::Erf => erf(isa, x),
        // `Activation` may grow; `prepare` refuses what is not above.
        _ => x,
    }
}

/// `x`, or `lo` when it is less; NaN stays. (Not `max`: of a number and NaN that gives one or
/// the other, by instruction set.)
#[inline(always)]
fn at_least<I: Isa>(isa: I, x: I::F32, lo: f32) -> I::F32 {
    let ops = isa.f32();
    ops.select(ops.splat(lo), x, ops.lt(x, ops.splat(lo)))
}

/// `x` within bounds; NaN stays.
#[inline(always)]
fn clamp<I: Isa>(isa: I, x: I::F32, lo: f32, hi: f32) -> I::F32 {
    let ops = isa.f32();
    let x = at_least(isa, x, lo);
    ops.select(ops.splat(hi), x, ops.gt(x, ops.splat(hi)))
}

/// `e^x - 1` without loss near 0 (Taylor's series there).
#[inline(always)]
fn exp_m1<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    let far = ops.sub(Exp::apply(isa, x), ops.one());
    let mut near = ops.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        near = ops.mul_add(near, x, ops.splat(c));
    }
    ops.select(ops.mul(near, x), far, ops.lt(ops.abs(x), ops.splat(0.4)))
}

/// `ln(1 + x)` for `x` in 0..=1: `2 artanh(x / (2 + x))` by its series, whose argument is
/// at most 1/3.
#[inline(always)]
fn ln_1p<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    let t = ops.div(x, ops.add(x, ops.splat(2.0)));
    let t2 = ops.mul(t, t);
    let mut sum = ops.splat(2.0 / 15.0);
    for c in [2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        sum = ops.mul_add(sum, t2, ops.splat(c));
    }
    ops.mul(sum, t)
}

/// The error function: its Taylor series up to 1, where it is exact to float rounding;
/// beyond, an approximation with an absolute error of 1.5e-7.
#[inline(always)]
fn erf<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let ops = isa.f32();
    let square = ops.mul(x, x);
    // 2 / sqrt(pi) * (-1)^n / (n! (2n + 1)) for n = 10 down to 0.
    let mut series = ops.splat(1.480_719_3e-8);
    for c in [
        -1.636_584_5e-7,
        1.646_211_4e-6,
        -1.492_565e-5,
        1.205_533_3e-4,
        -8.548_327e-4,
        5.223_977_6e-3,
        -2.686_617e-2,
        1.128_379_2e-1,
        -3.761_264e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ] {
        series = ops.mul_add(series, square, ops.splat(c));
    }
    ops.select(ops.mul(series, x), Erf::apply(isa, x), ops.lt(square, ops.one()))
}

/// Applies an activation to a slice, inside a SIMD dispatch.
#[inline(always)]
fn apply_in<I: Isa>(isa: I, act: Activation, xs: &mut [f32]) {
    macro_rules! each {
        ($($pattern:pat => $act:expr),* $(,)?) => {
            // One loop for each: `eval` is inlined with the variant known.
            match act {
                $($pattern => {
                    simd_apply::<_, _, _, 2>(isa.f32(), xs, #[inline(always)] |x| {
                        eval(isa, $act, x)
                    });
                })*
                _ => {}
            }
        };
    }
    use Activation::*;
    each! {
        Relu => Relu,
        LeakyRelu { alpha } => LeakyRelu { alpha },
        Clip { min, max } => Clip { min, max },
        Sigmoid => Sigmoid,
        HardSigmoid { alpha, beta } => HardSigmoid { alpha, beta },
        HardSwish => HardSwish,
        Silu => Silu,
        Mish => Mish,
        Tanh => Tanh,
        Elu { alpha } => Elu { alpha },
        Softplus => Softplus,
        Gelu { tanh: true } => Gelu { tanh: true },
        Gelu { tanh: false } => Gelu { tanh: false },
        Erf => Erf,
    }
}

struct Apply<'a>(Activation, &'a mut [f32]);

impl SimdOp for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        apply_in(isa, self.0, self.1);
    }
}

/// Applies an activation to a slice. Not inlined: the activations are compiled once.
#[inline(never)]
pub(crate) fn apply(act: Activation, xs: &mut [f32]) {
    Apply(act, xs).dispatch();
}

struct ActivationKernel(Activation);

pub(crate) fn prepare(act: Activation, inputs: &[Fact]) -> Result<Box<dyn Kernel>, CpuError> {
    if inputs[0].dtype != DType::F32 {
        let (name, dtype) = (act.name(), inputs[0].dtype);
        return Err(CpuError(format!("{name} of {dtype} is not supported, only of f32")));
    }
    Ok(Box::new(ActivationKernel(act)))
}

impl Kernel for ActivationKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _scratch: &mut [u8]) {
        let x = inputs.get(0).map(f32s);
        par_blocks(f32s_mut(&mut outputs[0]), |at, out| {
            if let Some(x) = x {
                out.copy_from_slice(&x[at..at + out.len()]);
            }
            apply(self.0, out);
        });
    }
}
