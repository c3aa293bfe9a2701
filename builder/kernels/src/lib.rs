//! The kernel families of the CUDA device.
//!
//! A family takes a layer (its shapes, strides and fused work, all static) and gives
//! candidates: CUDA C++ with everything static as `#define`s, the launch geometry, and how the
//! arguments bind. Which candidate an engine gets is decided by timing them on the device; the
//! families only say, by a cost model, which ones are worth timing.

mod conv;
mod defines;
mod depthwise;
mod extents;
mod gemv;
mod general_conv;
mod histogram;
mod integer_conv;
mod map;
mod matmul;
mod memory;
mod nhwc;
mod note;
mod numbers;
mod permute;
mod places;
pub mod random;
mod reference;
mod rows;
mod strided;
mod target;
mod tile;
pub mod vision;
mod window;

#[cfg(test)]
mod integer_tests;
#[cfg(test)]
mod tests;

pub use conv::{ConvChainLayer, ConvLayer, ConvPairLayer, Planes};
pub use depthwise::DepthwiseLayer;
pub use gemv::GemvLayer;
pub use general_conv::GeneralConvLayer;
pub use histogram::{
    CountedTensor, HISTOGRAM_BINS, HISTOGRAM_TENSORS, HistogramLayer, HistogramStep, bin_width,
};
pub use integer_conv::IntegerConvLayer;
pub use map::{MapArgument, MapFunction, MapLayer, MapStep};
pub use matmul::MatMulLayer;
pub use nhwc::{
    ElementwiseLayer, ElementwiseOp, GlobalPoolLayer, IntegerElementwiseLayer, LookupLayer,
    PoolLayer, ResizeLayer,
};
pub use note::{LAUNCH_MARK, LAYER_MARK, LaunchNote};
pub use numbers::{Ends, Mean, Numbers};
pub use permute::PermuteLayer;
pub use places::{GatherLayer, LrnLayer, RemapLayer, ResampleLayer};
pub use rows::{ArgReduceLayer, NormLayer, ReduceLayer, SoftmaxLayer, TopKLayer};
pub use strided::Strided;
pub use target::Target;

pub use extents::Extents;

use serde::{Deserialize, Serialize};
use tobiuo_ops::Activation;

/// What an argument of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// Address of the layer's operand.
    Input(usize),
    /// Address of one of the layer's results.
    Output(usize),
    /// Address of one of the layer's packed constants.
    Constant(usize),
    /// Address inside the layer's scratch memory, bytes from its start.
    Scratch(usize),
    /// Not used by this candidate.
    Null,
}

/// One way to run a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Tile and split, as reports print it.
    pub label: String,
    /// The complete CUDA C++; its kernel is called [`ENTRY`].
    pub source: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x.
    pub block: u32,
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Compiled for the architecture's own features (`sm_90a`): runs on no other.
    pub specific: bool,
    /// How the arguments bind.
    pub arguments: Vec<Argument>,
    /// Scratch memory, bytes.
    pub scratch: usize,
    /// The first bytes of the scratch must be zero before the first run; the kernel leaves
    /// them zero.
    pub zeroed: usize,
    /// The cost model's opinion, microseconds.
    pub predicted_us: f64,
}

/// The name under which every candidate's source defines its kernel, to be renamed when
/// several go into one module.
pub const ENTRY: &str = "KERNEL";

/// A layer of the CUDA device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Layer {
    Conv(ConvLayer),
    ConvPair(Box<ConvPairLayer>),
    ConvChain(Box<ConvChainLayer>),
    Depthwise(DepthwiseLayer),
    GeneralConv(GeneralConvLayer),
    IntegerConv(IntegerConvLayer),
    Gemv(GemvLayer),
    #[serde(rename = "matmul")]
    MatMul(MatMulLayer),
    Pool(PoolLayer),
    GlobalPool(GlobalPoolLayer),
    Elementwise(ElementwiseLayer),
    IntegerElementwise(IntegerElementwiseLayer),
    Lookup(LookupLayer),
    Resize(ResizeLayer),
    Permute(PermuteLayer),
    Map(MapLayer),
    Reduce(ReduceLayer),
    Softmax(SoftmaxLayer),
    Norm(NormLayer),
    ArgReduce(ArgReduceLayer),
    TopK(TopKLayer),
    Gather(GatherLayer),
    Remap(RemapLayer),
    Resample(ResampleLayer),
    Lrn(LrnLayer),
    Histogram(HistogramLayer),
}

/// What every kernel family gives for a layer.
pub(crate) trait Family {
    /// The family's name.
    fn name(&self) -> &'static str;

    /// The ways to run the layer, in any order.
    fn candidates(&self, target: &Target) -> Vec<Candidate>;

    /// The same and those that the cost model leaves out.
    fn every_candidate(&self, target: &Target) -> Vec<Candidate> {
        self.candidates(target)
    }

    /// Bytes that a kernel touches from each address on.
    fn extents(&self) -> Extents;

    /// The layer by plain loops over the memory that a kernel sees.
    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]);
}

impl Layer {
    fn as_family(&self) -> &dyn Family {
        match self {
            Layer::Conv(l) => l,
            Layer::ConvPair(l) => &**l,
            Layer::ConvChain(l) => &**l,
            Layer::Depthwise(l) => l,
            Layer::GeneralConv(l) => l,
            Layer::IntegerConv(l) => l,
            Layer::Gemv(l) => l,
            Layer::MatMul(l) => l,
            Layer::Pool(l) => l,
            Layer::GlobalPool(l) => l,
            Layer::Elementwise(l) => l,
            Layer::IntegerElementwise(l) => l,
            Layer::Lookup(l) => l,
            Layer::Resize(l) => l,
            Layer::Permute(l) => l,
            Layer::Map(l) => l,
            Layer::Reduce(l) => l,
            Layer::Softmax(l) => l,
            Layer::Norm(l) => l,
            Layer::ArgReduce(l) => l,
            Layer::TopK(l) => l,
            Layer::Gather(l) => l,
            Layer::Remap(l) => l,
            Layer::Resample(l) => l,
            Layer::Lrn(l) => l,
            Layer::Histogram(l) => l,
        }
    }

    /// The candidates worth timing, best first by the cost model.
    pub fn candidates(&self, target: &Target) -> Vec<Candidate> {
        self.launchable(self.as_family().candidates(target), target)
    }

    /// Every candidate, best first: what another machine, or another version of the cost model, may
    /// have chosen among.
    pub fn every_candidate(&self, target: &Target) -> Vec<Candidate> {
        self.launchable(self.as_family().every_candidate(target), target)
    }

    fn launchable(&self, mut all: Vec<Candidate>, target: &Target) -> Vec<Candidate> {
        // Blocks: up to 2^31 - 1 in x, 65535 in y and z.
        let launchable = |g: [u32; 3]| g[0] < 1 << 31 && g[1] < 1 << 16 && g[2] < 1 << 16;
        all.retain(|c| c.shared <= target.shared_per_block && launchable(c.grid));
        // The first lines say what the kernel computes and how it is launched, for people and for
        // the stand-in driver of machines without a GPU, which runs the layer's reference.
        for c in &mut all {
            let head = note::head(self, &LaunchNote::of(c));
            c.source.insert_str(0, &head);
        }
        all.sort_by(|a, b| a.predicted_us.total_cmp(&b.predicted_us));
        all
    }

    /// True of what other layers compute too: a GPU may have no kernel for it.
    pub fn is_optional(&self) -> bool {
        matches!(self, Layer::ConvPair(_) | Layer::ConvChain(_))
    }

    /// The family's name.
    pub fn family(&self) -> &'static str {
        self.as_family().name()
    }

    /// Bytes that a kernel touches, counted from each address it is given.
    pub fn extents(&self) -> Extents {
        self.as_family().extents()
    }

    /// Computes the layer by plain loops over the same memory that a kernel sees: the oracle
    /// of every candidate. Each slice begins at the argument's address and has the length that
    /// [`extents`](Self::extents) says; outputs come in with what the memory holds, because
    /// what lies between their pixels stays.
    pub fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        self.as_family().reference(inputs, constants, outputs);
    }
}

/// An activation as the kernels' `ACT`, `ACT_A`, `ACT_B`.
pub(crate) fn activation_code(activation: Option<Activation>) -> (u32, f32, f32) {
    match activation {
        None => (0, 0.0, 0.0),
        Some(Activation::Relu) => (1, 0.0, 0.0),
        Some(Activation::LeakyRelu { alpha }) => (2, alpha, 0.0),
        Some(Activation::Clip { min, max }) => (3, min, max),
        Some(Activation::Sigmoid) => (4, 0.0, 0.0),
        Some(Activation::HardSigmoid { alpha, beta }) => (5, alpha, beta),
        Some(Activation::HardSwish) => (6, 0.0, 0.0),
        Some(Activation::Silu) => (7, 0.0, 0.0),
        Some(Activation::Mish) => (8, 0.0, 0.0),
        Some(Activation::Tanh) => (9, 0.0, 0.0),
        Some(Activation::Elu { alpha }) => (10, alpha, 0.0),
        Some(Activation::Softplus) => (11, 0.0, 0.0),
        Some(Activation::Gelu { tanh: false }) => (12, 0.0, 0.0),
        Some(Activation::Gelu { tanh: true }) => (13, 0.0, 0.0),
        Some(Activation::Erf) => (14, 0.0, 0.0),
        Some(other) => unreachable!("{} has no CUDA code", other.name()),
    }
}
