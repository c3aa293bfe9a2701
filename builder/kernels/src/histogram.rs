//! Histograms of magnitudes, for calibration: `cuda/histogram.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use crate::defines::{Defines, ceil_div};
use crate::memory::each_index;
use crate::reference::load_at;
use crate::strided::{Strided, Walk};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/histogram.cu");

/// Bins of a histogram.
pub const HISTOGRAM_BINS: usize = 8192;

/// Tensors of one layer: with what else the kernel is given, 16 arguments.
pub const HISTOGRAM_TENSORS: usize = 12;

/// Elements that a block takes.
const CHUNK: usize = 1 << 16;

/// Axes that the kernel walks.
const AXES: usize = 4;

/// The width of bins that reach beyond a magnitude: the least power of two from 2^-126 on, so
/// that the bins of any two histograms fit into one another.
///
/// ```
/// use tobiuo_kernels::{HISTOGRAM_BINS, bin_width};
///
/// assert_eq!(bin_width(0.9), 1.0 / HISTOGRAM_BINS as f32);
/// assert_eq!(bin_width(1.0), 2.0 / HISTOGRAM_BINS as f32);
/// ```
pub fn bin_width(largest: f32) -> f32 {
    // The exponent of the power of two above `largest`, less the bins'.
    let above = (largest.to_bits() >> 23) as i32 - 126;
    let exponent = (above - HISTOGRAM_BINS.ilog2() as i32).max(-126);
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// What a histogram layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistogramStep {
    /// Outputs: smallest and largest finite element of each tensor (f32, infinity and minus
    /// infinity where there is none), how many are not finite (i32).
    Extremes,
    /// Further input: what the other step gave first. Output: for each tensor how many finite
    /// elements' magnitudes lie in each bin (i32).
    Count,
}

/// A tensor of f32 in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountedTensor {
    /// Its extents.
    pub dims: Vec<usize>,
    /// Where its elements are.
    pub x: Strided,
}

/// How often each magnitude comes in some tensors. Inputs: the tensors, at most
/// [`HISTOGRAM_TENSORS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistogramLayer {
    /// What is done.
    pub step: HistogramStep,
    /// What is read.
    pub tensors: Vec<CountedTensor>,
}

impl CountedTensor {
    fn walk(&self) -> Walk {
        Walk::new(&self.dims, 0..self.dims.len(), &[&self.x]).simplified(&[]).0
    }

    fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// True for what the kernel can walk.
    pub fn fits(&self) -> bool {
        self.x.dtype == DType::F32
            && self.walk().dims.len() <= AXES
            && (1..1 << 31).contains(&self.elements())
    }

    /// Its line of the kernel's table.
    fn entry(&self, first: usize) -> String {
        let walk = self.walk();
        let pad = AXES - walk.dims.len();
        let dims = std::iter::repeat_n(1, pad).chain(walk.dims.iter().copied());
        let strides = std::iter::repeat_n(0, pad).chain(walk.strides[0].iter().copied());
        let dims: Vec<String> = dims.map(|d| format!("{d}u")).collect();
        let strides: Vec<String> = strides.map(|s| format!("{s}LL")).collect();
        format!(
            "{{{}u, {{{}}}, {}LL, {{{}}}, {first}u}}",
            self.elements(),
            dims.join(", "),
            self.x.offset,
            strides.join(", ")
        )
    }

    fn each(&self, x: &[u8], mut f: impl FnMut(f32)) {
        each_index(&self.dims, |i| f(load_at(x, DType::F32, self.x.at(i)) as f32));
    }
}

impl Family for HistogramLayer {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let n = self.tensors.len();
        let fits = (1..=HISTOGRAM_TENSORS).contains(&n);
        if !fits || !self.tensors.iter().all(CountedTensor::fits) {
            return Vec::new();
        }
        let mut blocks = 0;
        let mut table = Vec::new();
        for tensor in &self.tensors {
            table.push(tensor.entry(blocks));
            blocks += ceil_div(tensor.elements(), CHUNK);
        }
        let count = self.step == HistogramStep::Count;
        let pointers: Vec<String> = (0..n).map(|i| format!("x{i}")).collect();
        let mut parameters: Vec<String> =
            pointers.iter().map(|x| format!("const float* {x}")).collect();
        let mut arguments: Vec<Argument> = (0..n).map(Argument::Input).collect();
        let (more, scratch) = if count {
            arguments.extend([Argument::Input(n), Argument::Output(0)]);
            (["const float* extremes", "int* counts"], n * (HISTOGRAM_BINS + 1) * 4)
        } else {
            arguments.extend([Argument::Output(0), Argument::Output(1)]);
            (["float* extremes", "int* broken"], n * 16)
        };
        parameters.extend(more.map(String::from));
        arguments.push(Argument::Scratch(0));
        let bytes: usize = self.tensors.iter().map(|t| t.elements() * 4).sum();
        let candidate = |threads: usize| {
            let mut d = Defines::new(target, false);
            d.all(&[("THREADS", threads), ("TENSORS", n), ("CHUNK", CHUNK)])
                .all(&[("LOG2_BINS", HISTOGRAM_BINS.ilog2() as usize)])
                .set("BINS", format!("{HISTOGRAM_BINS}u"))
                .set("COUNT", u8::from(count))
                .set("TENSORS_TABLE", format!("{{{}}}", table.join(", ")))
                .set("POINTERS", pointers.join(", "))
                .set("PARAMETERS", parameters.join(", "));
            Candidate {
                label: format!("threads {threads}"),
                source: d.source(&[SOURCE]),
                grid: [blocks as u32, 1, 1],
                block: threads as u32,
                shared: 0,
                specific: false,
                arguments: arguments.clone(),
                scratch,
                zeroed: scratch,
                predicted_us: 3.0 + bytes as f64 / (target.bandwidth_gbs * 1e3)
                    - threads as f64 * 1e-4,
            }
        };
        [256, 512].map(candidate).to_vec()
    }

    fn extents(&self) -> Extents {
        let n = self.tensors.len();
        let mut inputs: Vec<usize> = self.tensors.iter().map(|t| t.x.bytes(&t.dims)).collect();
        let outputs = match self.step {
            HistogramStep::Extremes => vec![n * 8, n * 4],
            HistogramStep::Count => {
                inputs.push(n * 8);
                vec![n * HISTOGRAM_BINS * 4]
            }
        };
        Extents { inputs, constants: vec![], outputs }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        for (n, (tensor, x)) in self.tensors.iter().zip(inputs).enumerate() {
            if self.step == HistogramStep::Extremes {
                let (mut low, mut high, mut broken) = (f32::INFINITY, f32::NEG_INFINITY, 0i32);
                tensor.each(x, |v| {
                    if v.is_finite() {
                        // Adding 0 makes one of both zeros.
                        (low, high) = (low.min(v + 0.0), high.max(v + 0.0));
                    } else {
                        broken += 1;
                    }
                });
                outputs[0][n * 8..][..4].copy_from_slice(&low.to_le_bytes());
                outputs[0][n * 8 + 4..][..4].copy_from_slice(&high.to_le_bytes());
                outputs[1][n * 4..][..4].copy_from_slice(&broken.to_le_bytes());
                continue;
            }
            let extremes = inputs[self.tensors.len()];
            let [low, high] = [0, 1].map(|i| load_at(extremes, DType::F32, 2 * n + i) as f32);
            let largest = if low <= high { low.abs().max(high.abs()) } else { 0.0 };
            let scale = 1.0 / bin_width(largest);
            let mut counts = vec![0i32; HISTOGRAM_BINS];
            tensor.each(x, |v| {
                if v.is_finite() {
                    counts[((v.abs() * scale) as usize).min(HISTOGRAM_BINS - 1)] += 1;
                }
            });
            let bytes: Vec<u8> = counts.iter().flat_map(|c| c.to_le_bytes()).collect();
            outputs[0][n * HISTOGRAM_BINS * 4..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layer;

    /// A channels-last picture of 2 x 3 pixels with 2 of 4 channels, and a row.
    fn layer(step: HistogramStep) -> Layer {
        let x =
            |strides: Vec<i64>| Strided { dtype: DType::F32, offset: 0, strides, aligned: true };
        let tensors = vec![
            CountedTensor { dims: vec![1, 2, 2, 3], x: x(vec![24, 1, 12, 4]) },
            CountedTensor { dims: vec![5], x: x(vec![1]) },
        ];
        Layer::Histogram(HistogramLayer { step, tensors })
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn extremes_and_counts_of_what_is_finite() {
        // Between the pixels lies what must not count.
        let mut picture = vec![f32::NAN; 22];
        for pixel in 0..6 {
            picture[pixel * 4] = pixel as f32;
            picture[pixel * 4 + 1] = -0.5;
        }
        let (a, b) = (bytes(&picture), bytes(&[f32::NAN, 0.0, -0.0, f32::INFINITY, 0.0]));
        let mut first = vec![vec![0xff; 16], vec![0xff; 8]];
        layer(HistogramStep::Extremes).reference(&[&a, &b], &[], &mut first);
        assert_eq!(first[0], bytes(&[-0.5, 5.0, 0.0, 0.0]));
        assert_eq!(first[1], [0, 0, 0, 0, 2, 0, 0, 0]);
        let mut counts = vec![vec![0xff; 2 * HISTOGRAM_BINS * 4]];
        let all = [&a[..], &b, &first[0]];
        layer(HistogramStep::Count).reference(&all, &[], &mut counts);
        let count = |tensor: usize, bin: usize| {
            let at = (tensor * HISTOGRAM_BINS + bin) * 4;
            i32::from_le_bytes(counts[0][at..at + 4].try_into().unwrap())
        };
        // 5 fits into 8: 1024 bins for each 1.
        assert_eq!(bin_width(5.0), 1.0 / 1024.0);
        assert_eq!([0, 512, 1024, 2048, 5120].map(|bin| count(0, bin)), [1, 6, 1, 1, 1]);
        assert_eq!((0..HISTOGRAM_BINS).map(|bin| count(0, bin)).sum::<i32>(), 12);
        assert_eq!((0..HISTOGRAM_BINS).map(|bin| count(1, bin)).sum::<i32>(), 3);
        assert_eq!(count(1, 0), 3);
    }

    #[test]
    fn kernels_are_given_16_arguments_at_most() {
        let x = Strided { dtype: DType::F32, offset: 0, strides: vec![1], aligned: true };
        let tensor = CountedTensor { dims: vec![3], x };
        let target = Target::of_sm(87).unwrap();
        for step in [HistogramStep::Extremes, HistogramStep::Count] {
            let of = |n| {
                let tensors = vec![tensor.clone(); n];
                Layer::Histogram(HistogramLayer { step, tensors }).candidates(&target)
            };
            let all = of(HISTOGRAM_TENSORS);
            assert!(!all.is_empty() && all.iter().all(|c| c.arguments.len() <= 16));
            assert!(of(HISTOGRAM_TENSORS + 1).is_empty() && of(0).is_empty());
        }
    }

    #[test]
    fn bins_reach_beyond_every_magnitude() {
        for largest in [0.0, 1e-40, f32::MIN_POSITIVE, 0.3, 1.0, 1.5, 2.0, 1e30, f32::MAX] {
            let width = bin_width(largest);
            assert!(width.is_normal() && (1.0 / width).is_normal());
            assert!(largest / width < HISTOGRAM_BINS as f32, "{largest}");
            let least = width == f32::MIN_POSITIVE;
            assert!(least || largest / width >= HISTOGRAM_BINS as f32 / 2.0, "{largest}");
        }
    }
}
