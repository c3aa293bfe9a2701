//! What operators compute element by element, and over axes.

use serde::{Deserialize, Serialize};

/// Element-wise activations; alone as [`Op::Activation`](crate::Op::Activation) or fused behind
/// another op.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `x < 0 ? alpha * x : x`
    LeakyRelu {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    /// `min(max(x, min), max)`
    Clip {
        #[serde(with = "crate::float")]
        min: f32,
        #[serde(with = "crate::float")]
        max: f32,
    },
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `min(max(alpha * x + beta, 0), 1)`
    HardSigmoid {
        #[serde(with = "crate::float")]
        alpha: f32,
        #[serde(with = "crate::float")]
        beta: f32,
    },
    /// `x * min(max(x / 6 + 0.5, 0), 1)`
    HardSwish,
    /// `x * sigmoid(x)`
    Silu,
    /// `x * tanh(ln(1 + exp(x)))`
    Mish,
    /// Hyperbolic tangent.
    Tanh,
    /// `x < 0 ? alpha * (exp(x) - 1) : x`
    Elu {
        #[serde(with = "crate::float")]
        alpha: f32,
    },
    /// `ln(1 + exp(x))`
    Softplus,
    /// `x * (1 + erf(x / sqrt(2))) / 2`, or the tanh form.
    Gelu { tanh: bool },
    /// Gauss error function.
    Erf,
}

impl Activation {
    /// The activation's name.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Relu => "Relu",
            Activation::LeakyRelu { .. } => "LeakyRelu",
            Activation::Clip { .. } => "Clip",
            Activation::Sigmoid => "Sigmoid",
            Activation::HardSigmoid { .. } => "HardSigmoid",
            Activation::HardSwish => "HardSwish",
            Activation::Silu => "Silu",
            Activation::Mish => "Mish",
            Activation::Tanh => "Tanh",
            Activation::Elu { .. } => "Elu",
            Activation::Softplus => "Softplus",
            Activation::Gelu { .. } => "Gelu",
            Activation::Erf => "Erf",
        }
    }
}

/// Element-wise functions of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Unary {
    Exp,
    Log,
    Sqrt,
    Abs,
    Neg,
    Reciprocal,
    Floor,
    Ceil,
    /// Half to even.
    Round,
    Sign,
    Sin,
    Cos,
    /// Logical not, of `Bool`.
    Not,
}

impl Unary {
    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Sqrt => "Sqrt",
            Unary::Abs => "Abs",
            Unary::Neg => "Neg",
            Unary::Reciprocal => "Reciprocal",
            Unary::Floor => "Floor",
            Unary::Ceil => "Ceil",
            Unary::Round => "Round",
            Unary::Sign => "Sign",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Not => "Not",
        }
    }
}

/// Element-wise functions of two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// Integers truncate towards zero; an integer divided by zero gives zero.
    Div,
    Pow,
    Min,
    Max,
    /// Remainder with the divisor's sign (Python's `%`).
    Mod,
    /// Remainder with the dividend's sign (C's `fmod`).
    FMod,
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Xor,
}

impl Binary {
    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "Add",
            Binary::Sub => "Sub",
            Binary::Mul => "Mul",
            Binary::Div => "Div",
            Binary::Pow => "Pow",
            Binary::Min => "Min",
            Binary::Max => "Max",
            Binary::Mod => "Mod",
            Binary::FMod => "FMod",
            Binary::Equal => "Equal",
            Binary::Less => "Less",
            Binary::LessOrEqual => "LessOrEqual",
            Binary::Greater => "Greater",
            Binary::GreaterOrEqual => "GreaterOrEqual",
            Binary::And => "And",
            Binary::Or => "Or",
            Binary::Xor => "Xor",
        }
    }

    /// True when the result is `Bool` whatever the inputs' type.
    pub fn is_comparison(self) -> bool {
        use Binary::*;
        matches!(self, Equal | Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    /// True for functions of `Bool`.
    pub fn is_logical(self) -> bool {
        matches!(self, Binary::And | Binary::Or | Binary::Xor)
    }
}

/// What [`Op::Reduce`](crate::Op::Reduce) computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Reduce {
    Mean,
    Sum,
    Max,
    Min,
    Prod,
    /// Sum of absolute values.
    L1,
    /// Square root of the sum of squares.
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

impl Reduce {
    /// The function's name, ONNX's.
    pub fn name(self) -> &'static str {
        match self {
            Reduce::Mean => "ReduceMean",
            Reduce::Sum => "ReduceSum",
            Reduce::Max => "ReduceMax",
            Reduce::Min => "ReduceMin",
            Reduce::Prod => "ReduceProd",
            Reduce::L1 => "ReduceL1",
            Reduce::L2 => "ReduceL2",
            Reduce::SumSquare => "ReduceSumSquare",
            Reduce::LogSum => "ReduceLogSum",
            Reduce::LogSumExp => "ReduceLogSumExp",
        }
    }
}
