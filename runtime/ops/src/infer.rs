//! Shape and type inference, which also checks attributes.
//!
//! Engine files are untrusted, so every product and sum here is checked and no attribute is
//! indexed before its length is known.

mod math;
mod movement;
mod quant;
mod window;

use tobiuo_tensor::{DType, Shape, broadcast};

use crate::Op;

/// The most axes a tensor may have.
pub const MAX_RANK: usize = 8;

/// The most elements a tensor may have, counting axes of size 0 as 1 (so that strides and
/// partial products of an empty tensor stay in range too).
pub const MAX_ELEMENTS: usize = if usize::BITS >= 64 { 1 << 40 } else { 1 << 28 };

/// What is known of a tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Shape,
}

impl Fact {
    /// A type and a shape.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Fact {
        Fact { dtype, shape: shape.into() }
    }

    /// Number of elements, saturating (a fact that [`infer`] accepted or returned is exact).
    pub fn numel(&self) -> usize {
        self.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d))
    }

    /// Bytes of its elements, saturating like [`Fact::numel`].
    pub fn bytes(&self) -> usize {
        self.numel().saturating_mul(self.dtype.size())
    }
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

type Facts = Result<Vec<Fact>, String>;

/// The outputs' types and shapes of an op, or why its inputs or attributes do not fit.
///
/// Never panics, whatever the attributes: engine files are checked through it. Inputs and
/// outputs have at most [`MAX_RANK`] axes and [`MAX_ELEMENTS`] elements.
///
/// # Errors
///
/// A sentence that names what disagrees, with both sides' numbers.
pub fn infer(op: &Op, inputs: &[Fact]) -> Result<Vec<Fact>, String> {
    for (i, fact) in inputs.iter().enumerate() {
        check_size(&fact.shape).map_err(|e| format!("input {i}: {e}"))?;
    }
    let outputs = dispatch(op, inputs)?;
    for fact in &outputs {
        check_size(&fact.shape).map_err(|e| format!("the output is too large: {e}"))?;
    }
    Ok(outputs)
}

fn dispatch(op: &Op, inputs: &[Fact]) -> Facts {
    match op {
        Op::Conv(a) => window::conv(a, inputs),
        Op::ConvTranspose(a) => window::conv_transpose(a, inputs),
        Op::Pool(a) => window::pool(a, inputs),
        Op::Gemm(a) => math::gemm(a, inputs),
        Op::MatMul => math::matmul(inputs),
        Op::BatchNorm { epsilon } => math::batch_norm(*epsilon, inputs),
        Op::Lrn { size, alpha, beta, bias } => math::lrn(*size, [*alpha, *beta, *bias], inputs),
        Op::Activation(a) => math::activation(*a, inputs),
        Op::PRelu => math::prelu(inputs),
        Op::Unary(u) => math::unary(*u, inputs),
        Op::Binary { kind, activation } => math::binary(*kind, *activation, inputs),
        Op::Softmax { axis, .. } => math::softmax(*axis, inputs),
        Op::Reduce { kind, axes, keep_dims } => math::reduce(*kind, axes, *keep_dims, inputs),
        Op::ArgReduce { axis, keep_dims, .. } => math::arg_reduce(*axis, *keep_dims, inputs),
        Op::TopK { k, axis, .. } => math::top_k(*k, *axis, inputs),
        Op::Where => math::select(inputs),
        Op::LayerNorm { axis, epsilon } => math::layer_norm(*axis, *epsilon, inputs),
        Op::InstanceNorm { epsilon } => math::instance_norm(*epsilon, inputs),
        Op::Concat { axis } => movement::concat(*axis, inputs),
        Op::Slice(a) => movement::slice(a, inputs),
        Op::Gather { axis } => movement::gather(*axis, inputs),
        Op::Reshape { shape } => movement::reshape(shape, inputs),
        Op::Transpose { perm } => movement::transpose(perm, inputs),
        Op::Expand { shape } => movement::expand(shape, inputs),
        Op::Tile { repeats } => movement::tile(repeats, inputs),
        Op::Pad(a) => movement::pad(a, inputs),
        Op::Resize(a) => movement::resize(a, inputs),
        Op::Cast { to } => movement::cast(*to, inputs),
        Op::Quantize { axis, to } => quant::quantize(*axis, *to, inputs),
        Op::Dequantize { axis } => quant::dequantize(*axis, inputs),
        Op::QuantConv(a) => quant::conv(a, inputs),
        Op::QuantGemm(a) => quant::gemm(a, inputs),
        Op::QuantBinary(a) => quant::binary(a, inputs),
        Op::QuantPool(a) => quant::pool(a, inputs),
        Op::Lookup => quant::lookup(inputs),
    }
}

fn check_size(shape: &[usize]) -> Result<(), String> {
    if shape.len() > MAX_RANK {
        return Err(format!("{} axes, at most {MAX_RANK} are supported", shape.len()));
    }
    let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    match numel {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => Err(format!("shape {shape:?} has more than {MAX_ELEMENTS} elements")),
    }
}

/// The inputs as an array, when there are exactly `N`.
fn exactly<'a, const N: usize>(inputs: &'a [Fact], names: &str) -> Result<&'a [Fact; N], String> {
    inputs.try_into().map_err(|_| format!("takes {N} inputs ({names}), {} are given", inputs.len()))
}

fn float(name: &str, fact: &Fact) -> Result<(), String> {
    if fact.dtype.is_float() {
        Ok(())
    } else {
        Err(format!("{name} is {}, this operator works on f32 or f16", fact.dtype))
    }
}

fn same_type(name: &str, fact: &Fact, first: &str, expected: &Fact) -> Result<(), String> {
    if fact.dtype == expected.dtype {
        Ok(())
    } else {
        Err(format!("{name} is {}, {first} is {}: they must agree", fact.dtype, expected.dtype))
    }
}

fn axis_in(axis: usize, fact: &Fact) -> Result<(), String> {
    if axis < fact.shape.len() {
        Ok(())
    } else {
        Err(format!("axis {axis} is not one of the {} axes of {:?}", fact.shape.len(), fact.shape))
    }
}

/// An attribute that has one entry per axis (or per spatial axis).
fn count(name: &str, got: usize, needed: usize, what: &str) -> Result<(), String> {
    if got == needed {
        Ok(())
    } else {
        Err(format!("{name} has {got} entries, {needed} are needed ({what})"))
    }
}

fn finite(name: &str, value: f32) -> Result<(), String> {
    if value.is_finite() { Ok(()) } else { Err(format!("{name} is {value}, not a finite number")) }
}

fn epsilon_of(value: f32) -> Result<(), String> {
    finite("epsilon", value)?;
    if value >= 0.0 { Ok(()) } else { Err(format!("epsilon is {value}, it must not be negative")) }
}

/// A per-channel parameter: shape `[C]` and x's type.
fn per_channel(name: &str, fact: &Fact, x: &Fact, channels: usize) -> Result<(), String> {
    same_type(name, fact, "x", x)?;
    if fact.shape == [channels] {
        Ok(())
    } else {
        Err(format!(
            "{name} {:?} must be [{channels}]: one value per channel of x {:?}",
            fact.shape, x.shape
        ))
    }
}

fn broadcast_of(a: &[usize], b: &[usize]) -> Result<Shape, String> {
    broadcast(a, b).ok_or_else(|| format!("shapes {a:?} and {b:?} do not broadcast"))
}

/// `from` must broadcast to exactly `to`.
fn broadcast_to(name: &str, from: &[usize], to: &[usize]) -> Result<(), String> {
    if broadcast(from, to).as_deref() == Some(to) {
        Ok(())
    } else {
        Err(format!("{name} {from:?} does not broadcast to {to:?}"))
    }
}
