mod functions;

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use crate::{QuantBinary, QuantConv, QuantGemm, QuantPool};
pub use functions::*;

/// An operator with its attributes.
///
/// Axes are non-negative and in range. Activations are `[N, C, spatial...]`. Inputs are
/// listed per variant; all are required unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Op {
    /// Convolution over 1 or 2 spatial axes, with its fused epilogue.
    ///
    /// Inputs: x `[N, C, H, W]`, weight `[O, C/groups, kh, kw]`, bias `[O]`, and, when
    /// `residual`, a tensor of the output's shape added before the activation.
    Conv(Conv),
    /// Transposed convolution. Inputs: x `[N, C, H, W]`, weight `[C, O/groups, kh, kw]`,
    /// bias `[O]`.
    ConvTranspose(ConvTranspose),
    /// Fully connected: `alpha * op(a) x op(b) + beta * c`, then the activation. Inputs: a
    /// `[M, K]` (or its transpose), b `[K, N]` (or its transpose), optionally c, broadcast
    /// to `[M, N]`.
    Gemm(Gemm),
    /// Matrix product over the last two axes, batch axes broadcast (numpy.matmul).
    MatMul,
    /// Inference form, per channel (axis 1). Inputs: x, scale, bias, mean, variance `[C]`.
    BatchNorm {
        /// Added to the variance.
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    /// `x / (bias + alpha / size * sum over a window of `size` channels of x^2)^beta`.
    Lrn {
        /// Channels in the window.
        size: usize,
        /// Scale, divided by `size` (ONNX's form).
        #[serde(with = "crate::float")]
        alpha: f32,
        /// Exponent.
        #[serde(with = "crate::float")]
        beta: f32,
        /// Offset (k).
        #[serde(with = "crate::float")]
        bias: f32,
    },
    /// Element-wise activation.
    Activation(Activation),
    /// `x < 0 ? slope * x : x`. Inputs: x, slope (broadcast one way to x).
    PRelu,
    /// Element-wise function of one tensor.
    Unary(Unary),
    /// Element-wise function of two tensors, broadcast; comparisons give `Bool`.
    /// `activation` follows for float results.
    Binary {
        /// The function.
        kind: Binary,
        /// Applied to the result.
        activation: Option<Activation>,
    },
    /// Softmax over one axis.
    Softmax {
        /// The axis.
        axis: usize,
        /// Logarithm of the softmax.
        log: bool,
    },
    /// Max or average pooling over the spatial axes.
    Pool(Pool),
    /// Concatenation. Inputs: one or more.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// A strided part of each axis (Split gives one Slice per output).
    Slice(Slice),
    /// `x` indexed by `indices` (i64 or i32, negative counts from the end) along an axis.
    Gather {
        /// The axis of x.
        axis: usize,
    },
    /// The same elements in another shape.
    Reshape {
        /// The output's shape.
        shape: Vec<usize>,
    },
    /// Axes permuted: output axis `i` is input axis `perm[i]`.
    Transpose {
        /// The permutation.
        perm: Vec<usize>,
    },
    /// Broadcast to a shape.
    Expand {
        /// The output's shape (already the broadcast of both).
        shape: Vec<usize>,
    },
    /// Repeated along each axis.
    Tile {
        /// Repeats, one per axis.
        repeats: Vec<usize>,
    },
    /// Padded (or, with negative amounts, cropped) on each side of each axis.
    Pad(Pad),
    /// Resampled over the axes whose size changes.
    Resize(Resize),
    /// Reduction over axes.
    Reduce {
        /// The function.
        kind: Reduce,
        /// The axes, ascending.
        axes: Vec<usize>,
        /// Reduced axes stay with size 1.
        keep_dims: bool,
    },
    /// Index (i64) of the largest or smallest element along an axis.
    ArgReduce {
        /// The axis.
        axis: usize,
        /// Smallest rather than largest.
        min: bool,
        /// The reduced axis stays with size 1.
        keep_dims: bool,
        /// The last of equal elements rather than the first.
        select_last: bool,
    },
    /// The k largest or smallest elements along an axis. Outputs: values, indices (i64).
    TopK {
        /// How many.
        k: usize,
        /// The axis.
        axis: usize,
        /// Largest rather than smallest.
        largest: bool,
        /// In order (they are in any case).
        sorted: bool,
    },
    /// Element type changed: floats to integers truncate towards zero, anything to `Bool` is
    /// `!= 0`.
    Cast {
        /// The output's type.
        to: DType,
    },
    /// `condition ? x : y`, all broadcast. Inputs: condition (`Bool`), x, y.
    Where,
    /// Normalised over the axes from `axis` on. Inputs: x, scale, bias (both of the shape of
    /// the normalised axes).
    LayerNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    /// Normalised over the spatial axes of each channel. Inputs: x, scale `[C]`, bias `[C]`.
    InstanceNorm {
        /// Added to the variance.
        #[serde(with = "crate::float")]
        epsilon: f32,
    },
    /// `min(max(round_half_even(x / scale) + zero_point, lowest), highest)`; NaN gives the zero
    /// point. Inputs: x (f32), scale (f32: a scalar, or one for each index of `axis`),
    /// optionally zero_point (of type `to`, scale's shape; else 0).
    Quantize {
        /// The axis that scales go along.
        axis: Option<usize>,
        /// `I8` or `U8`.
        to: DType,
    },
    /// `(x - zero_point) * scale`, the difference exact, in f32. Inputs: x (`I8`, `U8` or
    /// `I32`), scale (f32: a scalar, or one for each index of `axis`), optionally zero_point
    /// (x's type, scale's shape; else 0).
    Dequantize {
        /// The axis that scales go along.
        axis: Option<usize>,
    },
    /// Convolution of integers. Inputs: x `[N, C, H, W]` (`I8` or `U8`), weight `[O, C/groups,
    /// kh, kw]` (`I8`), multiplier `[O]` (f32: x's scale times the weight's), bias `[O]` (f32),
    /// and, with a residual, a tensor of the output's shape.
    QuantConv(QuantConv),
    /// Fully connected, on integers: x times the weight's transpose. Inputs: x `[M, K]` (`I8` or
    /// `U8`), weight `[N, K]` (`I8`), multiplier `[N]` (f32), bias `[N]` (f32), and, with a
    /// residual, a tensor `[M, N]`.
    QuantGemm(QuantGemm),
    /// Element-wise function of two tensors, broadcast, at least one of integers.
    QuantBinary(QuantBinary),
    /// Average pooling of integers. (Maxima are [`Op::Pool`]'s, which takes integers.)
    QuantPool(QuantPool),
    /// A function of single bytes: element `i` is `table[x[i]]`, for `I8` `table[x[i] + 128]`.
    /// Inputs: x (`I8` or `U8`), table `[256]` (constant; any of `I8`, `U8`, f32).
    Lookup,
}

/// Attributes of [`Op::Conv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Kernel size, one per spatial axis (1 or 2 axes).
    pub kernel: Vec<usize>,
    /// Step between windows.
    pub strides: Vec<usize>,
    /// Zeros added before and after each spatial axis: `[begin..., end...]`.
    pub pads: Vec<usize>,
    /// Step between the taps of a window.
    pub dilations: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
    /// Applied last.
    pub activation: Option<Activation>,
    /// A fourth input is added before the activation.
    pub residual: bool,
}

/// Attributes of [`Op::ConvTranspose`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTranspose {
    /// Kernel size, one per spatial axis (1 or 2 axes).
    pub kernel: Vec<usize>,
    /// Step between windows in the output.
    pub strides: Vec<usize>,
    /// Cut off the output before and after each spatial axis: `[begin..., end...]`.
    pub pads: Vec<usize>,
    /// Step between the taps of a window.
    pub dilations: Vec<usize>,
    /// Rows and columns added at the end of the output.
    pub output_padding: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// Attributes of [`Op::Gemm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gemm {
    /// a is given transposed.
    pub trans_a: bool,
    /// b is given transposed.
    pub trans_b: bool,
    /// Factor of the product.
    #[serde(with = "crate::float")]
    pub alpha: f32,
    /// Factor of c.
    #[serde(with = "crate::float")]
    pub beta: f32,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// Attributes of [`Op::Pool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Max or average.
    pub kind: PoolKind,
    /// Window size, one per spatial axis.
    pub kernel: Vec<usize>,
    /// Step between windows.
    pub strides: Vec<usize>,
    /// Padding before and after each spatial axis: `[begin..., end...]`.
    pub pads: Vec<usize>,
    /// Step between the elements of a window.
    pub dilations: Vec<usize>,
    /// The last window may overhang: output size rounds up (ONNX: windows that would start
    /// in the end padding are dropped).
    pub ceil_mode: bool,
}

/// What [`Op::Pool`] computes over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PoolKind {
    /// Largest element; padding never wins.
    Max,
    /// Mean; over the window with its padding (not its overhang) when `count_include_pad`,
    /// else over the elements inside.
    Average {
        /// Padding counts as zeros.
        count_include_pad: bool,
    },
}

/// Attributes of [`Op::Slice`], one entry per axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// First index taken.
    pub starts: Vec<usize>,
    /// Step, possibly negative, never 0.
    pub steps: Vec<i64>,
    /// Elements taken: the output's shape.
    pub lens: Vec<usize>,
}

/// Attributes of [`Op::Pad`], one entry per axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pad {
    /// Elements added before (negative: removed).
    pub begins: Vec<i64>,
    /// Elements added after (negative: removed).
    pub ends: Vec<i64>,
    /// Where the added elements come from.
    pub mode: PadMode,
}

/// Where [`Op::Pad`]'s elements come from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum PadMode {
    Constant {
        #[serde(with = "crate::float")]
        value: f32,
    },
    /// Mirrored without the edge element.
    Reflect,
    /// The edge element repeated.
    Edge,
    /// Wrapped around.
    Wrap,
}

/// Attributes of [`Op::Resize`] (ONNX Resize-19's arithmetic).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The output's shape, all axes.
    pub sizes: Vec<usize>,
    /// Scale of each axis (output / input as the model gave it; may differ from the ratio of
    /// sizes when that was rounded).
    #[serde(with = "crate::float::list")]
    pub scales: Vec<f32>,
    /// Interpolation.
    pub mode: ResizeMode,
    /// How output coordinates map to input coordinates.
    pub coordinates: Coordinates,
}

/// Interpolation of [`Op::Resize`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum ResizeMode {
    Nearest {
        rounding: NearestRounding,
    },
    /// (Multi-)linear.
    Linear {
        antialias: bool,
    },
    /// Cubic convolution with coefficient `a`.
    Cubic {
        #[serde(with = "crate::float")]
        a: f32,
        exclude_outside: bool,
        antialias: bool,
    },
}

/// Rounding of a coordinate to the nearest element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum NearestRounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// Coordinate transformation of [`Op::Resize`], ONNX's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixelForNn,
    /// Region of interest per axis, normalised; outside it `extrapolation` is given.
    TfCropAndResize {
        #[serde(with = "crate::float::list")]
        starts: Vec<f32>,
        #[serde(with = "crate::float::list")]
        ends: Vec<f32>,
        #[serde(with = "crate::float")]
        extrapolation: f32,
    },
}

impl Op {
    /// The operator's name, as messages and reports print it.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv(_) => "Conv",
            Op::ConvTranspose(_) => "ConvTranspose",
            Op::Gemm(_) => "Gemm",
            Op::MatMul => "MatMul",
            Op::BatchNorm { .. } => "BatchNorm",
            Op::Lrn { .. } => "Lrn",
            Op::Activation(a) => a.name(),
            Op::PRelu => "PRelu",
            Op::Unary(u) => u.name(),
            Op::Binary { kind, .. } => kind.name(),
            Op::Softmax { log: false, .. } => "Softmax",
            Op::Softmax { log: true, .. } => "LogSoftmax",
            Op::Pool(Pool { kind: PoolKind::Max, .. }) => "MaxPool",
            Op::Pool(_) => "AveragePool",
            Op::Concat { .. } => "Concat",
            Op::Slice(_) => "Slice",
            Op::Gather { .. } => "Gather",
            Op::Reshape { .. } => "Reshape",
            Op::Transpose { .. } => "Transpose",
            Op::Expand { .. } => "Expand",
            Op::Tile { .. } => "Tile",
            Op::Pad(_) => "Pad",
            Op::Resize(_) => "Resize",
            Op::Reduce { kind, .. } => kind.name(),
            Op::ArgReduce { min: false, .. } => "ArgMax",
            Op::ArgReduce { min: true, .. } => "ArgMin",
            Op::TopK { .. } => "TopK",
            Op::Cast { .. } => "Cast",
            Op::Where => "Where",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::InstanceNorm { .. } => "InstanceNorm",
            Op::Quantize { .. } => "Quantize",
            Op::Dequantize { .. } => "Dequantize",
            Op::QuantConv(_) => "QuantConv",
            Op::QuantGemm(_) => "QuantGemm",
            Op::QuantBinary(q) => match q.kind {
                Binary::Add => "QuantAdd",
                Binary::Sub => "QuantSub",
                Binary::Mul => "QuantMul",
                Binary::Min => "QuantMin",
                Binary::Max => "QuantMax",
                _ => "QuantBinary",
            },
            Op::QuantPool(_) => "QuantAveragePool",
            Op::Lookup => "Lookup",
        }
    }

    /// The activation fused behind this op, where it can have one.
    pub fn fused_activation(&self) -> Option<Activation> {
        match self {
            Op::Conv(c) => c.activation,
            Op::ConvTranspose(c) => c.activation,
            Op::Gemm(g) => g.activation,
            Op::Binary { activation, .. } => *activation,
            Op::QuantConv(q) => q.epilogue.activation,
            Op::QuantGemm(q) => q.epilogue.activation,
            Op::QuantBinary(q) => q.activation,
            _ => None,
        }
    }
}
