//! Element-wise functions of one tensor.

use rten_simd::SimdUnaryOp;
use rten_vecmath::{Cos, Exp, Sin};
use tobiuo_ops::{Fact, Unary};
use tobiuo_tensor::{DType, TensorViewMut};

use super::scalar::{Integer, Number};
use super::walk::{parts, slice, slice_mut, vectorised};
use crate::{CpuError, Inputs, Kernel};

/// Elements that go through the first cache at a time.
const BLOCK: usize = 4096;

struct UnaryKernel {
    function: Unary,
    dtype: DType,
}

pub(super) fn prepare(function: Unary, x: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    if x.dtype == DType::F16 {
        return Err(super::no_f16(function.name()));
    }
    Ok(Box::new(UnaryKernel { function, dtype: x.dtype }))
}

impl Kernel for UnaryKernel {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], _: &mut [u8]) {
        let out = &mut outputs[0];
        let x = inputs.get(0);
        match self.dtype {
            DType::F32 => self.floats(x.map(slice), slice_mut(out)),
            DType::I64 => self.integers::<i64>(x.map(slice), slice_mut(out)),
            DType::I32 => self.integers::<i32>(x.map(slice), slice_mut(out)),
            DType::I8 => self.integers::<i8>(x.map(slice), slice_mut(out)),
            DType::U8 => self.integers::<u8>(x.map(slice), slice_mut(out)),
            _ => blocks(x.map(slice), slice_mut(out), 1, |xs: &mut [u8]| {
                xs.iter_mut().for_each(|x| *x = u8::from(*x == 0));
            }),
        }
    }
}

/// Runs `f` in place on blocks of the output that hold x's elements.
fn blocks<T: Copy + Send + Sync>(
    x: Option<&[T]>,
    out: &mut [T],
    weight: usize,
    f: impl Fn(&mut [T]) + Sync,
) {
    let work = weight.saturating_mul(out.len());
    parts(out, 1, work, |first, part| {
        for (i, block) in part.chunks_mut(BLOCK).enumerate() {
            if let Some(x) = x {
                let at = first + i * BLOCK;
                block.copy_from_slice(&x[at..at + block.len()]);
            }
            f(block);
        }
    });
}

impl UnaryKernel {
    fn floats(&self, x: Option<&[f32]>, out: &mut [f32]) {
        macro_rules! simple {
            ($f:expr) => {
                blocks(x, out, 1, |xs| {
                    vectorised(
                        #[inline(always)]
                        || {
                            xs.iter_mut().for_each(
                                #[inline(always)]
                                |x| *x = $f(*x),
                            )
                        },
                    )
                })
            };
        }
        match self.function {
            Unary::Exp => blocks(x, out, 4, |xs| Exp::default().map_mut(xs)),
            Unary::Sin => blocks(x, out, 4, |xs| Sin::new().map_mut(xs)),
            Unary::Cos => blocks(x, out, 4, |xs| Cos::new().map_mut(xs)),
            Unary::Log => blocks(x, out, 8, |xs| xs.iter_mut().for_each(|x| *x = x.ln())),
            Unary::Sqrt => simple!(f32::sqrt),
            Unary::Abs => simple!(f32::abs),
            Unary::Neg => simple!(|x: f32| -x),
            Unary::Reciprocal => simple!(|x: f32| 1.0 / x),
            Unary::Floor => simple!(f32::floor),
            Unary::Ceil => simple!(f32::ceil),
            Unary::Round => simple!(f32::round_ties_even),
            _ => simple!(|x: f32| if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                // Zero keeps its sign, NaN stays.
                x
            }),
        }
    }

    fn integers<T: Integer>(&self, x: Option<&[T]>, out: &mut [T]) {
        let minus_one = T::ZERO.minus(T::ONE);
        blocks(x, out, 1, |xs: &mut [T]| match self.function {
            Unary::Neg => xs.iter_mut().for_each(|x| *x = T::ZERO.minus(*x)),
            Unary::Abs => xs.iter_mut().for_each(|x| *x = x.magnitude()),
            _ => xs.iter_mut().for_each(|x| {
                *x = if *x > <T as Number>::ZERO {
                    T::ONE
                } else if *x < <T as Number>::ZERO {
                    minus_one
                } else {
                    T::ZERO
                };
            }),
        });
    }
}
