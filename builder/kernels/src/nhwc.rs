//! Memory-bound layers over NHWC tensors, eight channels a thread: pools, element-wise work,
//! resampling.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::depthwise::VECTOR;
use super::{Argument, Candidate, Family, Target};

const POOL: &str = include_str!("../cuda/pool.cu");
const GLOBAL_POOL: &str = include_str!("../cuda/global_pool.cu");
const ELEMENTWISE: &str = include_str!("../cuda/elementwise.cu");
const RESIZE: &str = include_str!("../cuda/resize.cu");

const INPUT: Argument = Argument::Input(0);
const OUTPUT: Argument = Argument::Output(0);

fn is_f16(dtype: DType) -> usize {
    usize::from(dtype == DType::F16)
}

/// One candidate per block size of a kernel with one thread per 8 channels of a pixel.
fn per_thread(
    work: usize,
    bytes: usize,
    target: &Target,
    parts: &[&str],
    arguments: &[Argument],
    define: impl Fn(&mut Defines),
) -> Vec<Candidate> {
    let candidate = |threads: usize| {
        let mut d = Defines::new(target, true);
        define(&mut d);
        d.set("THREADS", threads);
        Candidate {
            label: format!("threads {threads}"),
            source: d.source(parts),
            grid: [ceil_div(work, threads) as u32, 1, 1],
            block: threads as u32,
            shared: 0,
            specific: false,
            arguments: arguments.to_vec(),
            scratch: 0,
            zeroed: 0,
            predicted_us: 1.5 + bytes as f64 / (target.bandwidth_gbs * 1e3) + threads as f64 * 1e-4,
        }
    };
    [64, 128, 256].into_iter().map(candidate).collect()
}

/// Max or average pooling. Input: x. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Elements from one output pixel to the next.
    pub y_pitch: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Steps down and across.
    pub strides: [usize; 2],
    /// Padding above, left, below, right.
    pub pads: [usize; 4],
    /// Dilation down and across.
    pub dilations: [usize; 2],
    /// `None`: maximum; `Some(include_pad)`: mean.
    pub average: Option<bool>,
}

impl Family for PoolLayer {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let work = self.batch * oh * ow * (self.channels / 8);
        let bytes = self.dtype.size() * self.channels * self.batch * (ih * iw + oh * ow);
        let average = match self.average {
            None => 0,
            Some(false) => 1,
            Some(true) => 2,
        };
        per_thread(work, bytes, target, &[VECTOR, POOL], &[INPUT, OUTPUT], |d| {
            d.all(&[
                ("T_F16", is_f16(self.dtype)),
                ("BATCH", self.batch),
                ("IH", ih),
                ("IW", iw),
                ("OH", oh),
                ("OW", ow),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("KH", self.kernel[0]),
                ("KW", self.kernel[1]),
                ("SH", self.strides[0]),
                ("SW", self.strides[1]),
                ("PT", self.pads[0]),
                ("PL", self.pads[1]),
                ("PB", self.pads[2]),
                ("PR", self.pads[3]),
                ("DH", self.dilations[0]),
                ("DW", self.dilations[1]),
                ("AVERAGE", average),
            ]);
        })
    }
}

/// Mean or maximum over all pixels. Input: x `[batch, pixels, channels]`. Output: y
/// `[batch, channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalPoolLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Pictures.
    pub batch: usize,
    /// Pixels of one picture.
    pub pixels: usize,
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Elements from one output row to the next.
    pub y_pitch: usize,
    /// Maximum rather than mean.
    pub max: bool,
}

impl Family for GlobalPoolLayer {
    fn name(&self) -> &'static str {
        "global_pool"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let chunks = self.channels / 8;
        let bytes = self.dtype.size() * self.channels * self.batch * self.pixels;
        let candidate = |(together, lanes): (usize, usize)| {
            let mut d = Defines::new(target, true);
            d.all(&[
                ("T_F16", is_f16(self.dtype)),
                ("BATCH", self.batch),
                ("PIXELS", self.pixels),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("CHUNKS_PER_BLOCK", together),
                ("LANES", lanes),
                ("MAX", usize::from(self.max)),
            ]);
            let blocks = self.batch * ceil_div(chunks, together);
            Candidate {
                label: format!("chunks {together} lanes {lanes}"),
                source: d.source(&[VECTOR, GLOBAL_POOL]),
                grid: [blocks as u32, 1, 1],
                block: (together * lanes) as u32,
                shared: 0,
                specific: false,
                arguments: vec![INPUT, OUTPUT],
                scratch: 0,
                zeroed: 0,
                predicted_us: 1.8
                    + bytes as f64 / (target.bandwidth_gbs * 1e3)
                    + ceil_div(self.pixels, lanes) as f64 * 0.15
                    + lanes as f64 * 0.02,
            }
        };
        [(4, 16), (4, 32), (8, 16), (8, 32), (16, 8), (2, 49)].into_iter().map(candidate).collect()
    }
}

/// What an [`ElementwiseLayer`] computes of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ElementwiseOp {
    None,
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Pow,
}

/// `act(a op b)` or `act(a)`. Inputs: a, b. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElementwiseLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Pixels of all pictures.
    pub pixels: usize,
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Channels that mean something; those stored beyond are written as zeros.
    pub valid: usize,
    /// Elements from one pixel of a to the next.
    pub a_pitch: usize,
    /// Elements from one pixel of b to the next; 0: one row shared by all pixels.
    pub b_pitch: usize,
    /// Elements from one pixel of y to the next.
    pub y_pitch: usize,
    /// The function.
    pub op: ElementwiseOp,
    /// Applied to the result.
    pub activation: Option<Activation>,
}

impl Family for ElementwiseLayer {
    fn name(&self) -> &'static str {
        "elementwise"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let binary = self.op != ElementwiseOp::None;
        let bytes = self.dtype.size() * self.channels * self.pixels * (2 + usize::from(binary));
        let b = if binary { Argument::Input(1) } else { Argument::Null };
        let work = self.pixels * (self.channels / 8);
        per_thread(work, bytes, target, &[VECTOR, ELEMENTWISE], &[INPUT, b, OUTPUT], |d| {
            d.all(&[
                ("T_F16", is_f16(self.dtype)),
                ("PIXELS", self.pixels),
                ("C_STORED", self.channels),
                ("C_VALID", self.valid),
                ("LDA", self.a_pitch),
                ("LDB", self.b_pitch),
                ("LDY", self.y_pitch),
                ("B_ROW", usize::from(self.b_pitch == 0)),
                ("OP", self.op as usize),
            ])
            .activation(self.activation);
        })
    }
}

/// Nearest or bilinear resampling. Input: x. Output: y. Constants: source rows, source columns
/// (i32; two per output for linear), and for linear the weights of the second (f32).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeLayer {
    /// f16 or f32.
    pub dtype: DType,
    /// Pictures.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Channels as stored, a multiple of 8.
    pub channels: usize,
    /// Elements from one input pixel to the next.
    pub x_pitch: usize,
    /// Elements from one output pixel to the next.
    pub y_pitch: usize,
    /// Bilinear rather than nearest.
    pub linear: bool,
}

impl Family for ResizeLayer {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        let bytes = self.dtype.size() * self.channels * self.batch * (ih * iw + oh * ow);
        let weights = |i| if self.linear { Argument::Constant(i) } else { Argument::Null };
        let arguments =
            [INPUT, OUTPUT, Argument::Constant(0), Argument::Constant(1), weights(2), weights(3)];
        let work = self.batch * oh * ow * (self.channels / 8);
        per_thread(work, bytes, target, &[VECTOR, RESIZE], &arguments, |d| {
            d.all(&[
                ("T_F16", is_f16(self.dtype)),
                ("BATCH", self.batch),
                ("IH", ih),
                ("IW", iw),
                ("OH", oh),
                ("OW", ow),
                ("C_STORED", self.channels),
                ("LDX", self.x_pitch),
                ("LDY", self.y_pitch),
                ("LINEAR", usize::from(self.linear)),
            ]);
        })
    }
}
