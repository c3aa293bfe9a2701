//! The manifest: everything about an engine but its bulk bytes, as JSON.
//!
//! A field that a reader does not know is an error, never ignored: it could change the
//! answer. So a new field comes with a new format version, and with `serde(default)` where
//! files of older versions have a meaning without it (docs/engine-format.md).
//!
//! Offsets and sizes are bytes. `arena` is the activations' memory of one context; `weights`
//! is the file's weights section. All tensors are dense, row-major and aligned to
//! [`TENSOR_ALIGN`].

use serde::{Deserialize, Serialize};
use tobiuo_ops::Op;
use tobiuo_tensor::{DType, Shape};

/// Alignment of every tensor in arena and weights, bytes.
pub const TENSOR_ALIGN: u64 = 64;

/// What an engine is: made for which device, from which model, with which plans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the builder that made it.
    pub builder: String,
    /// The device it is made for.
    pub device: DeviceKey,
    /// Precision of the heavy layers.
    pub precision: Precision,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Named inputs, in order.
    pub inputs: Vec<Port>,
    /// Named outputs, in order.
    pub outputs: Vec<Port>,
    /// What the outputs mean.
    pub task: Task,
    /// How frames become the image input; `None` when no input is an image.
    pub preprocess: Option<Preprocess>,
    /// Class names, in class order; empty when not known.
    pub labels: Vec<String>,
    /// One plan per batch size, ascending.
    pub plans: Vec<Plan>,
}

/// The device an engine is made for. Compared field by field when it is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum DeviceKey {
    /// The CPU device: any machine of this architecture.
    Cpu {
        /// `x86_64`, `aarch64`, ... or `any`: weights are stored as the model has them.
        arch: String,
    },
    /// An NVIDIA GPU.
    Cuda(CudaKey),
}

/// The GPU an engine is made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaKey {
    /// Its marketing name, for people; not compared.
    pub name: String,
    /// Compute capability, `10 * major + minor`.
    pub sm: u32,
    /// Streaming multiprocessors that are switched on. Not compared for an untuned engine.
    pub sm_count: u32,
    /// Shared memory a block may ask for, bytes.
    pub shared_per_block: u32,
    /// L2 cache, bytes. Not compared for an untuned engine.
    pub l2_bytes: u32,
    /// The oldest driver that runs it: CUDA version, `1000 * major + 10 * minor`.
    pub driver: u32,
    /// Kernels were chosen by timing them on this device; false: by the cost model alone.
    pub tuned: bool,
}

/// Precision of the heavy layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Precision {
    Fp32,
    /// f32 in memory, matrix products in TF32.
    Tf32,
    Fp16,
    Int8,
}

/// Where an engine comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Provenance {
    /// The model's file name, without its folder.
    pub model: String,
    /// `onnx` or `chainer`.
    pub format: String,
    /// blake3 over graph and weights, hex.
    pub model_hash: String,
    /// Producer, opset and such, as the model says.
    pub producer: String,
    /// The builder's options that shaped the engine, as one line. With the model's hash and
    /// the builder's version it tells whether building again would give the same file.
    pub options: String,
    /// The passes that ran, in order, with what each did (nodes before, after).
    pub passes: Vec<PassRecord>,
    /// Per layer: what was chosen and why (empty on the CPU device).
    pub notes: Vec<String>,
}

/// What one pass did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassRecord {
    /// The pass's name.
    pub name: String,
    /// Nodes before it.
    pub nodes_before: usize,
    /// Nodes after it.
    pub nodes_after: usize,
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name in the model.
    pub name: String,
    /// Element type at the boundary.
    pub dtype: DType,
    /// Shape in the first plan, row-major (NCHW for pictures). In another plan axis 0 is the
    /// same, or larger by the ratio of the batches; the others are the same.
    pub shape: Shape,
}

/// What the outputs mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Task {
    /// Boxes and class scores in one output, the form of current YOLO exporters.
    Detect(Detect),
    /// Scores of classes, one output `[N, classes]`.
    Classify {
        /// Index in `outputs`.
        output: usize,
    },
    /// Tensors in, tensors out.
    Tensors,
}

/// A detector's output `[N, 4 + classes, anchors]`: rows 0..4 are box centre x, centre y,
/// width, height in pixels of the network's input; the others class scores in 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detect {
    /// Index in `outputs`.
    pub output: usize,
    /// Number of classes.
    pub classes: usize,
    /// The axes are swapped: `[N, anchors, 4 + classes]`.
    #[serde(default)]
    pub transposed: bool,
    /// Boxes with a lower score are dropped, unless the user says otherwise.
    #[serde(with = "tobiuo_ops::float")]
    pub score_threshold: f32,
    /// Of two boxes of one class that overlap more (intersection over union), the lower
    /// scored is dropped.
    #[serde(with = "tobiuo_ops::float")]
    pub iou_threshold: f32,
    /// At most this many boxes are kept.
    pub max_detections: usize,
}

/// How a frame becomes the image input `[N, 3 or 1, H, W]`:
/// `(pixel / 255 - mean) / std` per channel, after resizing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Index in `inputs`.
    pub input: usize,
    /// How the frame meets the input's size.
    pub fit: Fit,
    /// Pixel value of the letterbox border, 0..=255.
    pub pad_value: u8,
    /// Channel order of the network.
    pub channels: ChannelOrder,
    /// Per channel, in units of 0..1.
    #[serde(with = "tobiuo_ops::float::list")]
    pub mean: Vec<f32>,
    /// Per channel, in units of 0..1.
    #[serde(with = "tobiuo_ops::float::list")]
    pub std: Vec<f32>,
}

/// How a frame meets the network's input size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Scaled with its aspect kept, centred, the border filled.
    Letterbox,
    /// Scaled to fill, aspect not kept.
    Stretch,
    /// Scaled so that the shorter side fits, the centre cut out (ImageNet's way).
    CenterCrop,
}

/// Channel order of a picture tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ChannelOrder {
    Rgb,
    Bgr,
    Gray,
}

/// One batch size's memory and steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Items per run.
    pub batch: usize,
    /// Bytes of the arena.
    pub arena: u64,
    /// Every tensor the steps name.
    pub tensors: Vec<TensorDesc>,
    /// Tensor index of each of the engine's inputs.
    pub inputs: Vec<u32>,
    /// Tensor index of each of the engine's outputs.
    pub outputs: Vec<u32>,
    /// What runs, in order.
    pub program: Program,
}

/// A tensor of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorDesc {
    /// Its name in the model, or one made up by a pass.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Shape,
    /// Where its bytes are.
    pub place: Place,
}

/// Where a tensor's bytes are. Tensors in the arena may share bytes: with a view of the same
/// bytes, or at different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Place {
    Arena(u64),
    Weights(u64),
    /// In memory of its own, which each context binds (inputs and outputs of CUDA plans).
    Bound,
}

/// What runs, by kind of device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
// There are few of them: one for each plan.
#[allow(clippy::large_enum_variant)]
pub enum Program {
    /// Steps of the CPU device.
    Cpu(Vec<Step>),
    /// Launches of a CUDA device.
    Cuda(CudaProgram),
}

/// Kernels launched one after another, or side by side on several streams.
///
/// A plan of this kind lists only the inputs and outputs among its tensors, all
/// [`Place::Bound`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaProgram {
    /// Device code: cubins in the code section. Plans may share them.
    pub modules: Vec<CudaModule>,
    /// Bytes of scratch memory of one context.
    pub scratch: u64,
    /// The first bytes of the scratch memory are zero before the first run; kernels leave
    /// them zero.
    pub zeroed: u64,
    /// How much of a multiprocessor's nearest memory its kernels prefer as shared memory,
    /// percent: a multiprocessor must be idle to change it between two kernels. `None`: what the
    /// driver finds for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carveout: Option<u8>,
    /// What runs, in an order in which it could run one by one.
    pub launches: Vec<CudaLaunch>,
    /// Kernels of the camera pipeline; `None` when no input is an image.
    pub vision: Option<CudaVision>,
}

/// A cubin in the code section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaModule {
    /// First byte in the code section.
    pub offset: u64,
    /// Length, bytes.
    pub bytes: u64,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaLaunch {
    /// The layer's name in the model.
    pub name: String,
    /// The operator's name.
    pub op: String,
    /// The kernel family's name.
    pub family: String,
    /// Index in `modules`.
    pub module: u32,
    /// The kernel's name in the module.
    pub function: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// It may start before the launch before it on its stream has ended, and waits itself
    /// (programmatic dependent launch).
    pub dependent: bool,
    /// The stream it runs on; 0 is the main one, on which the last launch runs.
    pub stream: u32,
    /// Earlier launches, of other streams, that must have ended.
    pub after: Vec<u32>,
    /// At most 16.
    pub arguments: Vec<CudaArgument>,
    /// How it was chosen.
    pub tactic: Tactic,
    /// Arithmetic operations (2 per multiply-add).
    pub flops: u64,
}

/// An argument of a kernel: an address, with the bytes that the kernel touches from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum CudaArgument {
    Arena { offset: u64, bytes: u64 },
    Weights { offset: u64, bytes: u64 },
    Scratch { offset: u64, bytes: u64 },
    Input { index: u32, offset: u64, bytes: u64 },
    Output { index: u32, offset: u64, bytes: u64 },
    Null,
}

/// The kernel chosen for a layer, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tactic {
    /// Tile, stages, split: the candidate's label.
    pub label: String,
    /// Nanoseconds, measured at build; `None`: chosen by the cost model.
    pub nanoseconds: Option<u64>,
    /// Other candidates and their nanoseconds, best first.
    pub runners_up: Vec<(String, u64)>,
}

/// The camera pipeline's kernels: from a frame to the network's picture, and from its output to
/// boxes or classes. What each is given, 8 bytes an argument, is said with it and in
/// docs/engine-format.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaVision {
    /// Index in `modules`.
    pub module: u32,
    /// Where the network's picture goes.
    pub picture: CudaArgument,
    /// Its element type there, f16 or f32.
    pub dtype: DType,
    /// Elements from one channel, row and column to the next.
    pub strides: [u64; 3],
    /// Channels stored; those beyond the picture's are written as zeros.
    pub channels_stored: u32,
    /// Launches that would make the same out of the input tensor, or an output tensor out of
    /// what the head reads, and are left out, ascending.
    pub replaces: Vec<u32>,
    /// Copies a frame out of host memory that is mapped into the device: (address there, the
    /// frame's memory, bytes). Both addresses are multiples of 16.
    pub upload: CudaKernel,
    /// From the frame to the picture: (the frame's memory, its [`geometry`], the picture).
    ///
    /// [`geometry`]: fn@crate::picture::geometry
    pub preprocess: CudaKernel,
    /// What is made of the network's output.
    pub head: CudaHead,
}

/// A kernel of the camera pipeline and how it is launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaKernel {
    /// The kernel's name in the module.
    pub function: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
}

/// The kernels behind the network.
///
/// Results are a count and 12 bytes, then for each result 32 bytes: left, top, right, bottom in
/// pixels of the network's input, score (f32 each), class, anchor (u32 each), 4 bytes unused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaHead {
    /// The output of the task, or what it is converted from.
    pub output: CudaArgument,
    /// A detector's boxes above the threshold: (output, candidates, the threshold's bits, whether
    /// each class makes a box of its own). Candidates are a count, which is zero before, and 12
    /// bytes, then 8 bytes for each.
    pub decode: Option<CudaKernel>,
    /// Of a detector the boxes that stay: (output, candidates, results, the IoU threshold's bits,
    /// the most boxes to keep, the most candidates to look at), which sets the candidates' count
    /// to zero; of a classifier the five best classes: (output, results).
    pub select: CudaKernel,
}

/// One operator run on the CPU device.
///
/// An output never overlaps another output. It overlaps an input only where they are exactly
/// the same bytes and the op computes each element from that element alone (in place), or,
/// for a `Conv` with `residual`, where the residual is exactly the output's bytes
/// ([`tobiuo_ops::in_place_inputs`]). Or the step does nothing, because the bytes are there
/// already: a `Concat` whose axes before the joined one are 1 and whose inputs lie one behind
/// the other at its output's place, or an op whose output is a run of its first input
/// ([`tobiuo_ops::view_offset`]: `Reshape`, a `Slice` of whole rows, ...) and lies there.
///
/// A tensor is an input or written by at most one step, and whole until one of its bytes is
/// written again. A tensor that no step writes is a view: of tensors of its type, each of
/// which is a part of it, or has it as a part, or is with it a part of another view, and which
/// were all written before it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The layer's name in the model.
    pub name: String,
    /// The operator.
    pub op: Op,
    /// Tensor indices.
    pub inputs: Vec<u32>,
    /// Tensor indices.
    pub outputs: Vec<u32>,
}
