//! Three convolutions in one kernel.

use tobiuo_tensor::DType;

use super::layers::{MOST_WORK, Window};
use super::{Memory, Random, pairs};
use crate::{ConvChainLayer, ConvLayer, Layer, Numbers};

/// A chain that kernels of every GPU with tensor cores can compute: of f16, or of integers.
fn chain(random: &mut Random, integer: bool) -> Layer {
    loop {
        let w = Window::random(random, 3);
        let wide = if integer { 16 } else { 8 };
        let split = random.pick(&[1, 1, 2, 4, 8, 16]);
        // A block's rows are 32 or 64 bytes of channels, or whole blocks of 128; what the first
        // leaves 16, too.
        let input = random.pick(&[2, 2, 4, 8, 16]) * wide;
        let between = [random.pick(&[1, 2, 4, 8]), random.pick(&[2, 4, 8, 16])];
        let [first, second] = between.map(|pieces| pieces * wide * split);
        let filters = random.from_to(1, 5) * 8 * split;
        // Some filters are only stored.
        let filters = filters - random.pick(&[0, 0, 1, 7]);
        let activation = |random: &mut Random| pairs::activation(random, integer);
        let floats = |random: &mut Random, dtype| match random.once_in(3) {
            true => DType::F16,
            false => dtype,
        };
        let pitch = |random: &mut Random, channels| pairs::pitch(random, channels, integer);
        let [x, mid1, mid2, y, residual] = [(); 5].map(|()| pairs::dtype(random, integer));
        let (y, residual) = (floats(random, y), floats(random, residual));
        let one = ConvLayer {
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels: input,
            x_pitch: pitch(random, input),
            filters: first,
            filters_stored: first,
            y_pitch: first,
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            residual_pitch: None,
            activation: activation(random),
            residual_last: false,
            pooled: false,
            planes: None,
            y_planes: None,
            x,
            x_zero_point: 0,
            y: pairs::numbers(random, mid1),
            residual: Numbers::F16,
        };
        let two = ConvLayer {
            input: w.output,
            channels: first,
            x_pitch: one.y_pitch,
            filters: second,
            filters_stored: second,
            y_pitch: pitch(random, second),
            kernel: [1, 1],
            strides: [1, 1],
            pads: [0, 0],
            dilations: [1, 1],
            residual_pitch: (!random.once_in(3))
                .then(|| pitch(random, second).next_multiple_of(16)),
            activation: activation(random),
            residual_last: random.once_in(4),
            x: mid1,
            y: pairs::numbers(random, mid2),
            residual: pairs::numbers(random, residual),
            ..one.clone()
        };
        let three = ConvLayer {
            channels: second,
            x_pitch: two.y_pitch,
            filters,
            filters_stored: filters.next_multiple_of(8),
            y_pitch: pitch(random, filters),
            residual_pitch: None,
            activation: activation(random),
            residual_last: false,
            x: mid2,
            y: pairs::numbers(random, y),
            residual: Numbers::F16,
            ..two.clone()
        };
        let pixels = w.macs(1) / (w.kernel[0] * w.kernel[1]);
        let work = w.macs(input * first) + pixels * (first * second + second * filters);
        if let Some(layer) = ConvChainLayer::new(&one, &two, &three, random.once_in(2))
            && work <= MOST_WORK
        {
            let layer = Layer::ConvChain(Box::new(layer));
            if pairs::fits_everywhere(&layer) {
                return layer;
            }
        }
    }
}

pub(super) fn floats(random: &mut Random) -> Layer {
    chain(random, false)
}

pub(super) fn integers(random: &mut Random) -> Layer {
    chain(random, true)
}

pub(super) fn memory(l: &ConvChainLayer, random: &mut Random) -> Memory {
    let [first, second, third] =
        [&l.first, &l.second, &l.third].map(|l| pairs::conv_memory(l, random));
    let residual = second.inputs.into_iter().skip(1);
    Memory {
        inputs: first.inputs.into_iter().chain(residual).collect(),
        constants: [first.constants, second.constants, third.constants].concat(),
        outputs: third.outputs.into_iter().chain(l.keep.then(|| second.outputs[0])).collect(),
        // A third rounding.
        tolerance: 1.5 * first.tolerance.max(second.tolerance).max(third.tolerance),
    }
}
