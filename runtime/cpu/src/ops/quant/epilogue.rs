//! From sums to results: multiplier and bias, residual, activation, storing.

use tobiuo_ops::{Activation, Epilogue, Fact, Requantization};
use tobiuo_tensor::{DType, TensorView};

use super::Bytes;
use crate::ops::walk::slice;

/// What results are stored as: bytes of either sign, or f32.
pub(super) trait Cell: bytemuck::Pod + Send + Sync {
    /// Stores a result.
    fn store(v: f32, how: Option<Requantization>) -> Self;
    /// As a residual: the number that is added.
    fn add(self, to: f32, how: Residual) -> f32;
}

/// How a residual's elements are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual {
    bytes: Bytes,
    scale: f32,
    /// In i8 or u8, rather than f32.
    integer: bool,
}

impl Cell for u8 {
    #[inline(always)]
    fn store(v: f32, how: Option<Requantization>) -> u8 {
        // Bytes of either sign are the low 8 bits.
        how.map_or(0, |r| r.store(v) as u8)
    }

    #[inline(always)]
    fn add(self, to: f32, how: Residual) -> f32 {
        (how.bytes.value(self) as f32).mul_add(how.scale, to)
    }
}

impl Cell for f32 {
    #[inline(always)]
    fn store(v: f32, _: Option<Requantization>) -> f32 {
        v
    }

    #[inline(always)]
    fn add(self, to: f32, _: Residual) -> f32 {
        to + self
    }
}

/// Where a residual's elements are.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    None,
    /// In the output, which is of its type.
    InPlace,
    Bytes(&'a [u8]),
    Floats(&'a [f32]),
}

impl<'a> Source<'a> {
    /// Of the operand, if there is to be one: `None` inside stands for the output's bytes.
    pub fn new(residual: &Option<Residual>, operand: Option<TensorView<'a>>) -> Source<'a> {
        match (residual, operand) {
            (None, _) => Source::None,
            (Some(_), None) => Source::InPlace,
            (Some(r), Some(view)) if r.integer => Source::Bytes(slice(view)),
            (Some(_), Some(view)) => Source::Floats(slice(view)),
        }
    }

    /// The part from element `at` on.
    #[inline(always)]
    pub fn part(self, at: usize, len: usize) -> Source<'a> {
        match self {
            Source::Bytes(b) => Source::Bytes(&b[at..at + len]),
            Source::Floats(f) => Source::Floats(&f[at..at + len]),
            other => other,
        }
    }
}

/// An epilogue made ready.
#[derive(Clone, Debug)]
pub(super) struct Finish {
    pub residual: Option<Residual>,
    after: bool,
    activation: Option<Activation>,
    output: Option<Requantization>,
}

impl Finish {
    pub fn new(e: &Epilogue, inputs: &[Fact]) -> Finish {
        let residual = e.residual.and_then(|r| {
            let fact = inputs.get(4)?;
            let (zero_point, scale) = r.quantization.map_or((0, 1.0), |q| (q.zero_point, q.scale));
            let integer = fact.dtype != DType::F32;
            Some(Residual { bytes: Bytes::new(fact, zero_point), scale, integer })
        });
        Finish {
            residual,
            after: e.residual.is_some_and(|r| r.after_activation),
            activation: e.activation,
            output: e.output,
        }
    }

    /// What results are stored as, without an epilogue before it.
    pub fn only(activation: Option<Activation>, output: Option<Requantization>) -> Finish {
        Finish { residual: None, after: false, activation, output }
    }

    /// Finishes `values`, which are sums times multipliers plus biases. The residual's part and
    /// the output have their length.
    #[inline(always)]
    pub fn run<T: Cell>(&self, values: &mut [f32], residual: Source<'_>, out: &mut [T]) {
        if !self.after {
            self.add(values, residual, out);
        }
        if let Some(activation) = self.activation {
            activate(activation, values);
        }
        if self.after {
            self.add(values, residual, out);
        }
        let output = self.output;
        out.iter_mut().zip(&*values).for_each(|(o, &v)| *o = T::store(v, output));
    }

    #[inline(always)]
    fn add<T: Cell>(&self, values: &mut [f32], residual: Source<'_>, out: &[T]) {
        let Some(how) = self.residual else { return };
        match residual {
            Source::None => {}
            Source::InPlace => {
                values.iter_mut().zip(out).for_each(|(v, &r)| *v = r.add(*v, how));
            }
            Source::Bytes(b) => {
                values.iter_mut().zip(b).for_each(|(v, &r)| *v = r.add(*v, how));
            }
            Source::Floats(f) => {
                values.iter_mut().zip(f).for_each(|(v, &r)| *v = r.add(*v, how));
            }
        }
    }
}

/// Applies an activation, one loop for each so that it is vectorised.
#[inline(always)]
pub(super) fn activate(activation: Activation, values: &mut [f32]) {
    macro_rules! each {
        ($($pattern:pat => $act:expr),* $(,)?) => {
            match activation {
                $($pattern => values.iter_mut().for_each(|v| *v = $act.exact(*v)),)*
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
    }
}
