//! Two convolutions in one kernel.

use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::layers::{MOST_WORK, Window};
use super::{Memory, Random, integers, layers, planes};
use crate::{ConvLayer, ConvPairLayer, Extents, Layer, Numbers, Target};

/// What is multiplied: f16, or integers of either sign.
pub(super) fn dtype(random: &mut Random, integer: bool) -> DType {
    match integer {
        true => random.pick(&[DType::I8, DType::U8]),
        false => DType::F16,
    }
}

pub(super) fn numbers(random: &mut Random, dtype: DType) -> Numbers {
    match dtype {
        DType::F16 => Numbers::F16,
        _ => integers::numbers(random, dtype, 2.0),
    }
}

pub(super) fn activation(random: &mut Random, integer: bool) -> Option<Activation> {
    match integer {
        true => integers::activation(random),
        false => random.activation(),
    }
}

/// Elements from pixel to pixel, some beside the channels at times.
pub(super) fn pitch(random: &mut Random, channels: usize, integer: bool) -> usize {
    channels.next_multiple_of(if integer { 16 } else { 8 }) + random.pick(&[0, 0, 16, 48])
}

/// It fits into the shared memory of the smallest GPU with tensor cores that engines are made for.
pub(super) fn fits_everywhere(layer: &Layer) -> bool {
    let orin = Target::of_sm(87).expect("it is known");
    !layer.candidates(&orin).is_empty()
}

/// A pair that kernels of every GPU with tensor cores can compute: of f16, or of integers.
fn pair(random: &mut Random, integer: bool) -> Layer {
    loop {
        let w = Window::random(random, 3);
        let wide = if integer { 16 } else { 8 };
        let mut channels = |most: usize| random.from_to(2, most / wide) * wide;
        // Slices for clusters every other time.
        let (input, mut between, filters) = (channels(160), channels(160), channels(160));
        if random.once_in(2) {
            between = between.next_multiple_of(random.pick(&[128, 256]));
        }
        // Some filters are only stored.
        let filters = filters - random.pick(&[0, 0, 1, 7]);
        let dtype = |random: &mut Random| dtype(random, integer);
        let activation = |random: &mut Random| activation(random, integer);
        let pitch = |random: &mut Random, channels| pitch(random, channels, integer);
        let mid = dtype(random);
        let y = if random.once_in(3) { DType::F16 } else { dtype(random) };
        let residual = if random.once_in(3) { DType::F16 } else { dtype(random) };
        let first = ConvLayer {
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels: input,
            x_pitch: pitch(random, input),
            filters: between,
            filters_stored: between,
            y_pitch: pitch(random, between),
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            residual_pitch: random.once_in(2).then(|| pitch(random, between).next_multiple_of(16)),
            activation: activation(random),
            residual_last: random.once_in(4),
            pooled: false,
            planes: None,
            y_planes: None,
            x: dtype(random),
            x_zero_point: 0,
            y: numbers(random, mid),
            residual: numbers(random, residual),
        };
        let second = ConvLayer {
            input: w.output,
            channels: between,
            x_pitch: first.y_pitch,
            filters,
            filters_stored: filters.next_multiple_of(8),
            y_pitch: pitch(random, filters),
            kernel: [1, 1],
            strides: [1, 1],
            pads: [0, 0],
            dilations: [1, 1],
            residual_pitch: None,
            activation: activation(random),
            residual_last: false,
            pooled: false,
            planes: None,
            y_planes: None,
            x: mid,
            y: numbers(random, y),
            residual: Numbers::F16,
            ..first.clone()
        };
        let second = match random.once_in(4) {
            true => planes::in_planes(random, &second).unwrap_or(second),
            false => second,
        };
        let work =
            w.macs(input * between) + w.macs(between * filters) / (w.kernel[0] * w.kernel[1]);
        if let Some(pair) = ConvPairLayer::new(&first, &second, random.once_in(2))
            && work <= MOST_WORK
        {
            let layer = Layer::ConvPair(Box::new(pair));
            if fits_everywhere(&layer) {
                return layer;
            }
        }
    }
}

pub(super) fn floats(random: &mut Random) -> Layer {
    pair(random, false)
}

pub(super) fn integers(random: &mut Random) -> Layer {
    pair(random, true)
}

/// Memory for one of the convolutions.
pub(super) fn conv_memory(l: &ConvLayer, random: &mut Random) -> Memory {
    let extents = Layer::Conv(l.clone()).extents();
    match l.x {
        DType::F16 => layers::conv_memory(l, extents, random),
        _ => integers::conv_memory(l, extents, random),
    }
}

pub(super) fn memory(l: &ConvPairLayer, e: Extents, random: &mut Random) -> Memory {
    let (first, second) = (conv_memory(&l.first, random), conv_memory(&l.second, random));
    let mut outputs = second.outputs;
    if l.keep {
        outputs.extend(first.outputs);
    }
    debug_assert_eq!(outputs.len(), e.outputs.len());
    Memory {
        inputs: first.inputs,
        constants: first.constants.into_iter().chain(second.constants).collect(),
        outputs,
        tolerance: first.tolerance.max(second.tolerance),
    }
}
