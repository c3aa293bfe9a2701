//! Convolutions of any kind and matrix products.

use tobiuo_tensor::DType;

use super::layers::{MOST_WORK, UNIT, Window, either};
use super::{Memory, Random, TOLERANCE_F16, tolerance};
use crate::{Extents, GeneralConvLayer, Layer, MatMulLayer};

pub(super) fn general_conv(random: &mut Random) -> Layer {
    loop {
        let transposed = random.once_in(3);
        let largest = match random.from_to(0, 15) {
            0 => 19,
            _ => 6,
        };
        let mut w = Window::random(random, largest);
        if transposed {
            // The window fits the other way round: the output is the larger picture.
            for axis in 0..2 {
                let span = (w.kernel[axis] - 1) * w.dilations[axis] + 1;
                let more = random.from_to(0, w.strides[axis].max(w.dilations[axis]) - 1);
                let full = (w.input[axis] - 1) * w.strides[axis] + span + more;
                let cut = w.pads[axis] + random.from_to(0, span - 1);
                w.output[axis] = full.saturating_sub(cut);
            }
            if w.output.contains(&0) {
                continue;
            }
        }
        let dtype = either(random);
        let align = if dtype == DType::F16 { 8 } else { 4 };
        let groups = if random.once_in(2) { 1 } else { random.from_to(2, 9) };
        let most = if groups == 1 { 200 } else { 40 };
        let mut channels = random.from_to(1, most);
        if groups == 1 {
            channels = if random.once_in(5) { 4 } else { channels.next_multiple_of(8) };
        }
        let filters = random.from_to(1, most);
        let filters_stored = (groups * filters).next_multiple_of(8);
        let thin = groups == 1 && channels == 4;
        let x_pitch = match thin {
            true => 4,
            false => (groups * channels).next_multiple_of(8) + random.pick(&[0, align, 24]),
        };
        // Every tap of a transposed convolution is tried for every pixel by the reference.
        if w.macs(channels * filters_stored) > MOST_WORK {
            continue;
        }
        let residual = !transposed && random.once_in(3);
        return Layer::GeneralConv(GeneralConvLayer {
            dtype,
            tf32: dtype == DType::F32 && random.once_in(3),
            transposed,
            batch: w.batch,
            input: w.input,
            output: w.output,
            groups,
            channels,
            x_pitch,
            filters,
            filters_stored,
            y_pitch: filters_stored + random.pick(&[0, 0, 8, 40]),
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            weights_given: random.once_in(5),
            bias_given: random.once_in(7),
            residual_pitch: residual.then(|| filters_stored + random.pick(&[0, 16])),
            activation: random.activation(),
            residual_last: random.once_in(4),
        });
    }
}

pub(super) fn general_conv_memory(l: &GeneralConvLayer, e: Extents, random: &mut Random) -> Memory {
    let (ih, iw, oh, ow) = (l.input[0], l.input[1], l.output[0], l.output[1]);
    let mut inputs = e.inputs.iter().copied();
    let mut constants = e.constants.iter().copied();
    let mut of = |given: bool| if given { inputs.next() } else { constants.next() }.expect("one");
    let shape = [l.batch * ih * iw, l.x_pitch, l.groups * l.channels];
    let x = random.pixels(of(true), l.dtype, UNIT, shape);
    let depth = l.depth();
    let spread = (3.0 / depth as f32).sqrt();
    let mut weights = vec![0; of(l.weights_given)];
    let size = l.dtype.size();
    for row in 0..l.groups * depth {
        for f in 0..l.filters {
            let element = random.element(l.dtype, -spread, spread);
            let at = (row * l.weight_pitch() + f) * size;
            weights[at..][..size].copy_from_slice(element.bytes());
        }
    }
    let bias = random.memory(of(l.bias_given), DType::F32, UNIT, 0..l.groups * l.filters);
    let mut memory = Memory {
        inputs: vec![x],
        constants: vec![],
        outputs: vec![l.dtype],
        tolerance: if l.tf32 { TOLERANCE_F16 } else { tolerance(l.dtype) },
    };
    if l.weights_given { &mut memory.inputs } else { &mut memory.constants }.push(weights);
    if l.bias_given { &mut memory.inputs } else { &mut memory.constants }.push(bias);
    if let Some(pitch) = l.residual_pitch {
        let shape = [l.batch * oh * ow, pitch, l.filters_stored];
        memory.inputs.push(random.pixels(of(true), l.dtype, UNIT, shape));
    }
    memory
}

pub(super) fn matmul(random: &mut Random) -> Layer {
    loop {
        let mut side = |most| match random.from_to(0, 3) {
            0 => random.from_to(1, 9),
            1 => random.from_to(1, most / 8) * 8,
            _ => random.from_to(1, most),
        };
        let (rows, columns, depth) = (side(300), side(300), side(600));
        let batch: Vec<usize> = (0..random.from_to(0, 3)).map(|_| random.from_to(1, 4)).collect();
        if batch.iter().product::<usize>() * rows * columns * depth > MOST_WORK {
            continue;
        }
        // An operand [.., down, across] as it lies, or turned, with room between its rows, each
        // batch axis stepped over or shared.
        let mut operand = |down: usize, across: usize| {
            let turned = random.once_in(3);
            let (outer, inner) = if turned { (across, down) } else { (down, across) };
            let pitch = inner + random.pick(&[0, 0, 0, 8, 3]);
            let apart = random.pick(&[1, 1, 1, 1, 2]);
            let mut step = outer * pitch * apart;
            let mut strides = vec![0; batch.len()];
            for (stride, extent) in strides.iter_mut().zip(&batch).rev() {
                if !random.once_in(4) {
                    *stride = step;
                    step *= extent;
                }
            }
            let two = if turned { [apart, pitch * apart] } else { [pitch * apart, apart] };
            (strides, two)
        };
        let (a_batch, a) = operand(rows, depth);
        let (b_batch, b) = operand(depth, columns);
        let c = random.pick(&[None, None, Some([0, 1]), Some([1, 0]), Some([columns, 1])]);
        let dtype = either(random);
        return Layer::MatMul(MatMulLayer {
            dtype,
            tf32: dtype == DType::F32 && random.once_in(3),
            batch,
            rows,
            columns,
            depth,
            a_batch,
            a,
            a_vector: random.pick(&[8, 8, 2]),
            b_batch,
            b,
            b_vector: random.pick(&[8, 8, 2]),
            c,
            y_pitch: columns + random.pick(&[0, 0, 5, 8]),
            alpha: random.pick(&[1.0, 1.0, 0.125]),
            beta: random.pick(&[1.0, -0.5]),
            activation: random.activation(),
        });
    }
}

pub(super) fn matmul_memory(l: &MatMulLayer, e: Extents, random: &mut Random) -> Memory {
    let spread = (3.0 / l.depth as f32).sqrt();
    let mut inputs = Vec::new();
    for (i, &len) in e.inputs.iter().enumerate() {
        let range = if i == 1 { (-spread, spread) } else { UNIT };
        inputs.push(random.memory(len, l.dtype, range, 0..len / l.dtype.size()));
    }
    Memory {
        inputs,
        constants: vec![],
        outputs: vec![l.dtype],
        tolerance: if l.tf32 { TOLERANCE_F16 } else { tolerance(l.dtype) },
    }
}
