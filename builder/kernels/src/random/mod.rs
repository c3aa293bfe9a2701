//! Random layers of every family, and random memory for a run of a layer: what the GPU tests
//! feed both to the kernels and to [`Layer::reference`].
//!
//! Everything comes from a seed, so that a failure can be run again.

mod chains;
mod general;
mod integers;
mod layers;
mod pairs;
mod places;
mod planes;
mod products;
mod rows;

use half::f16;
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::Layer;

/// The byte that memory holds where nothing was written: NaN as f16 and as f32.
pub const POISON: u8 = 0xff;

/// Pseudo-random numbers: SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
/// Generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An integer from `low` to `high`, both included.
    pub fn from_to(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low + 1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.bits().is_multiple_of(n)
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.from_to(0, of.len() - 1)]
    }

    /// A float from `low` to `high`.
    pub fn float(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1 << 24) as f32)
    }

    /// A fused activation, or none (about once in four).
    pub fn activation(&mut self) -> Option<Activation> {
        let alpha = self.float(0.05, 0.5);
        let all = [
            Activation::Relu,
            Activation::LeakyRelu { alpha },
            Activation::Clip { min: -alpha, max: 6.0 * alpha },
            Activation::Sigmoid,
            Activation::HardSigmoid { alpha, beta: 0.5 },
            Activation::HardSwish,
            Activation::Silu,
            Activation::Mish,
            Activation::Tanh,
            Activation::Elu { alpha: 2.0 * alpha },
            Activation::Softplus,
            Activation::Gelu { tanh: false },
            Activation::Gelu { tanh: true },
            Activation::Erf,
        ];
        if self.once_in(4) { None } else { Some(self.pick(&all)) }
    }

    /// Appends a value of an element type: a float from `low` to `high`, or an integer made of
    /// such a float.
    pub fn element(&mut self, dtype: DType, low: f32, high: f32) -> Element {
        let value = self.float(low, high);
        let mut bytes = [0; 8];
        match dtype {
            DType::F32 => bytes[..4].copy_from_slice(&value.to_le_bytes()),
            DType::F16 => bytes[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            DType::I64 => bytes = (value as i64).to_le_bytes(),
            DType::I32 => bytes[..4].copy_from_slice(&(value as i32).to_le_bytes()),
            DType::I8 => bytes[0] = value as i8 as u8,
            DType::Bool => bytes[0] = u8::from(value > (low + high) / 2.0),
            _ => bytes[0] = value as u8,
        }
        Element { bytes, size: dtype.size() }
    }

    /// Memory of `len` bytes with random elements at the given indices (in elements) and
    /// [`POISON`] elsewhere: a kernel that reads what it should not shows it.
    pub fn memory(
        &mut self,
        len: usize,
        dtype: DType,
        (low, high): (f32, f32),
        at: impl IntoIterator<Item = usize>,
    ) -> Vec<u8> {
        let mut out = vec![POISON; len];
        let size = dtype.size();
        for i in at {
            let element = self.element(dtype, low, high);
            out[i * size..][..size].copy_from_slice(element.bytes());
        }
        out
    }

    /// Memory of pixels `pitch` elements apart, the first `channels` elements of each random.
    pub fn pixels(
        &mut self,
        len: usize,
        dtype: DType,
        range: (f32, f32),
        [pixels, pitch, channels]: [usize; 3],
    ) -> Vec<u8> {
        let at = (0..pixels).flat_map(|p| (0..channels).map(move |c| p * pitch + c));
        self.memory(len, dtype, range, at)
    }
}

/// One element's bytes.
pub struct Element {
    bytes: [u8; 8],
    size: usize,
}

impl Element {
    /// The bytes, as many as the type has.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// What a layer's arguments hold for one run; lengths as [`Layer::extents`] says.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Of each operand.
    pub inputs: Vec<Vec<u8>>,
    /// Of each packed constant.
    pub constants: Vec<Vec<u8>>,
    /// The element type of each result.
    pub outputs: Vec<DType>,
    /// The relative L2 error that a kernel may have, integers being off by 1 at times; 0: the
    /// results are exact.
    pub tolerance: f64,
}

/// Relative L2 error allowed per layer where the arithmetic is f32.
pub const TOLERANCE_F32: f64 = 1e-5;
/// Relative L2 error allowed per layer where operands or results are f16, or TF32 is used.
pub const TOLERANCE_F16: f64 = 2e-3;

/// The allowed error by the element type a layer works in.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => TOLERANCE_F32,
        DType::F16 => TOLERANCE_F16,
        _ => 0.0,
    }
}

/// Makes a random layer of one family.
pub type Generator = fn(&mut Random) -> Layer;

/// A generator for every family.
pub const GENERATORS: &[(&str, Generator)] = &[
    ("conv", layers::conv),
    ("conv_i8", integers::conv),
    ("conv_planes", planes::floats),
    ("conv_planes_i8", planes::integers),
    ("conv_chain", chains::floats),
    ("conv_chain_i8", chains::integers),
    ("conv_pair", pairs::floats),
    ("conv_pair_i8", pairs::integers),
    ("depthwise", layers::depthwise),
    ("depthwise_i8", integers::depthwise),
    ("general_conv", products::general_conv),
    ("general_conv_i8", integers::general_conv),
    ("gemv", layers::gemv),
    ("gemv_i8", integers::gemv),
    ("matmul", products::matmul),
    ("pool", layers::pool),
    ("pool_i8", integers::pool),
    ("global_pool", layers::global_pool),
    ("global_pool_i8", integers::global_pool),
    ("elementwise", layers::elementwise),
    ("elementwise_i8", integers::elementwise),
    ("lookup", integers::lookup),
    ("resize", layers::resize),
    ("resize_i8", integers::resize),
    ("permute", layers::permute),
    ("map", general::map),
    ("reduce", rows::reduce),
    ("softmax", rows::softmax),
    ("norm", rows::norm),
    ("arg_reduce", rows::arg_reduce),
    ("topk", rows::topk),
    ("gather", places::gather),
    ("remap", places::remap),
    ("resample", places::resample),
    ("lrn", places::lrn),
    ("histogram", rows::histogram),
];

impl Layer {
    /// Random memory for a run of the layer.
    pub fn random_memory(&self, random: &mut Random) -> Memory {
        match self {
            Layer::Conv(l) if l.y.is_integer() || l.integer() => {
                integers::conv_memory(l, self.extents(), random)
            }
            Layer::Conv(l) => layers::conv_memory(l, self.extents(), random),
            Layer::ConvPair(l) => pairs::memory(l, self.extents(), random),
            Layer::ConvChain(l) => chains::memory(l, random),
            Layer::Depthwise(l) if l.ends.is_some() => {
                integers::depthwise_memory(l, self.extents(), random)
            }
            Layer::Gemv(l) if l.y.is_some() => integers::gemv_memory(l, self.extents(), random),
            Layer::Pool(l) if !l.dtype.is_float() => {
                integers::pool_memory(l, self.extents(), random)
            }
            Layer::GlobalPool(l) if !l.dtype.is_float() => {
                integers::global_pool_memory(l, self.extents(), random)
            }
            Layer::Lookup(l) => integers::lookup_memory(l, self.extents(), random),
            Layer::IntegerElementwise(l) => integers::elementwise_memory(l, self.extents(), random),
            Layer::Depthwise(l) => layers::depthwise_memory(l, self.extents(), random),
            Layer::IntegerConv(l) => integers::general_conv_memory(l, self.extents(), random),
            Layer::GeneralConv(l) => products::general_conv_memory(l, self.extents(), random),
            Layer::Gemv(l) => layers::gemv_memory(l, self.extents(), random),
            Layer::MatMul(l) => products::matmul_memory(l, self.extents(), random),
            Layer::Pool(l) => layers::pool_memory(l, self.extents(), random),
            Layer::GlobalPool(l) => layers::global_pool_memory(l, self.extents(), random),
            Layer::Elementwise(l) => layers::elementwise_memory(l, self.extents(), random),
            Layer::Resize(l) => layers::resize_memory(l, self.extents(), random),
            Layer::Permute(l) => layers::permute_memory(l, self.extents(), random),
            Layer::Map(l) => general::map_memory(l, self.extents(), random),
            Layer::Reduce(l) => rows::reduce_memory(l, self.extents(), random),
            Layer::Softmax(l) => rows::softmax_memory(l, self.extents(), random),
            Layer::Norm(l) => rows::norm_memory(l, self.extents(), random),
            Layer::ArgReduce(l) => rows::arg_reduce_memory(l, self.extents(), random),
            Layer::TopK(l) => rows::topk_memory(l, self.extents(), random),
            Layer::Gather(l) => places::gather_memory(l, self.extents(), random),
            Layer::Remap(l) => places::remap_memory(l, self.extents(), random),
            Layer::Resample(l) => places::resample_memory(l, self.extents(), random),
            Layer::Lrn(l) => places::lrn_memory(l, self.extents(), random),
            Layer::Histogram(l) => rows::histogram_memory(l, self.extents(), random),
        }
    }
}
