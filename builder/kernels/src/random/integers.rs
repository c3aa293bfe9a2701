//! Layers of 8-bit integers.

use tobiuo_ops::{Activation, Quantization};
use tobiuo_tensor::DType;

use super::layers::{MOST_WORK, UNIT, Window, conv_x, whole_results};
use super::{Memory, Random, TOLERANCE_F16};
use crate::{
    ConvLayer, DepthwiseLayer, ElementwiseOp, Ends, Extents, GemvLayer, GlobalPoolLayer,
    IntegerConvLayer, IntegerElementwiseLayer, Layer, LookupLayer, Mean, Numbers, PoolLayer,
    ResizeLayer,
};

/// Numbers a kernel reads of integers of a type.
pub(super) fn range(dtype: DType) -> (f32, f32) {
    match dtype {
        DType::I8 => (-128.9, 127.9),
        DType::U8 => (0.0, 255.9),
        _ => UNIT,
    }
}

/// A type of integers.
pub(super) fn integer(random: &mut Random) -> DType {
    random.pick(&[DType::I8, DType::U8])
}

/// Integers that stand for numbers up to about `most`, at times with another zero.
pub(super) fn numbers(random: &mut Random, dtype: DType, most: f32) -> Numbers {
    if dtype.is_float() {
        return Numbers::float(dtype);
    }
    let shift = if random.once_in(3) { random.from_to(0, 60) as i32 - 20 } else { 0 };
    let zero_point = if dtype == DType::U8 { shift.max(0) } else { shift };
    Numbers { dtype, scale: most * random.float(0.5, 1.5) / 128.0, zero_point }
}

/// An activation that integer layers have, or none.
pub(super) fn activation(random: &mut Random) -> Option<Activation> {
    loop {
        let activation = random.activation();
        if activation.is_none_or(Activation::is_exact) {
            return activation;
        }
    }
}

/// Channels as stored of which there are a multiple of 16, and the distance between pixels.
pub(super) fn stored(random: &mut Random, most: usize) -> (usize, usize) {
    let channels = random.from_to(1, most).next_multiple_of(16);
    (channels, channels + random.pick(&[0, 0, 16, 48]))
}

/// Pairs of multiplier and bias for sums of `depth` products: results of about 1.
pub(super) fn ends(random: &mut Random, len: usize, depth: usize) -> Vec<u8> {
    let unit = 1.0 / (5000.0 * (depth as f32).sqrt());
    let mut out = Vec::new();
    for i in 0..len / 4 {
        let range = if i % 2 == 0 { (0.3 * unit, 1.5 * unit) } else { UNIT };
        out.extend(random.element(DType::F32, range.0, range.1).bytes());
    }
    out
}

/// Convolutions that read or write integers.
pub(super) fn conv(random: &mut Random) -> Layer {
    loop {
        let w = Window::random(random, 7);
        let x = random.pick(&[DType::I8, DType::I8, DType::U8, DType::U8, DType::F16]);
        let (channels, x_pitch) =
            if x == DType::F16 && random.once_in(2) { (4, 4) } else { stored(random, 260) };
        let filters = random.from_to(1, 260);
        let filters_stored = filters.next_multiple_of(8);
        if w.macs(channels * filters_stored) > MOST_WORK {
            continue;
        }
        let y = if x == DType::F16 {
            integer(random)
        } else {
            random.pick(&[DType::I8, DType::U8, DType::F16])
        };
        let residual = random.pick(&[DType::I8, DType::U8, DType::F16]);
        let x_zero_point = match x {
            DType::F16 => 0,
            _ => zero_point(random, x),
        };
        let pitch = |random: &mut Random| {
            filters_stored.next_multiple_of(16) + random.pick(&[0, 0, 16, 48])
        };
        let residual_pitch = random.once_in(3).then(|| pitch(random));
        return Layer::Conv(whole_results(ConvLayer {
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels,
            x_pitch,
            filters,
            filters_stored,
            y_pitch: pitch(random),
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            residual_pitch,
            activation: activation(random),
            residual_last: random.once_in(4),
            pooled: residual_pitch.is_none()
                && random.once_in(3)
                && w.output.iter().all(|&n| n >= 2),
            planes: None,
            y_planes: None,
            x,
            x_zero_point,
            y: numbers(random, y, 2.0),
            residual: numbers(random, residual, 1.0),
        }));
    }
}

pub(super) fn conv_memory(l: &ConvLayer, e: Extents, random: &mut Random) -> Memory {
    let [ih, iw] = l.input;
    let [oh, ow] = l.output;
    let mut inputs = vec![match l.x {
        DType::F16 => conv_x(l, e.inputs[0], random),
        _ => {
            let shape = [l.batch * ih * iw, l.x_pitch, l.channels];
            random.pixels(e.inputs[0], l.x, range(l.x), shape)
        }
    }];
    if let Some(pitch) = l.residual_pitch {
        let shape = [l.batch * oh * ow, pitch, l.filters_stored];
        let dtype = l.residual.dtype;
        inputs.push(random.pixels(e.inputs[1], dtype, range(dtype), shape));
    }
    // Zeros where there are no weights.
    let depth = l.kernel[0] * l.kernel[1] * l.channels;
    let spread = (3.0 / depth as f32).sqrt();
    let (dtype, low, high) = match l.x {
        DType::F16 => (DType::F16, -spread, spread),
        _ => (DType::I8, -127.9, 127.9),
    };
    let size = dtype.size();
    let mut weights = vec![0; e.constants[0]];
    for row in 0..l.filters {
        for k in 0..depth {
            let element = random.element(dtype, low, high);
            weights[l.weight_at(row, k) * size..][..size].copy_from_slice(element.bytes());
        }
    }
    let exact = l.x != DType::F16;
    let ends = match exact {
        true => ends(random, e.constants[1], depth),
        false => random.memory(e.constants[1], DType::F32, UNIT, 0..l.filters),
    };
    let mut constants = vec![weights, ends];
    if l.x_zero_point != 0 {
        let weight = |f, k| i32::from(constants[0][l.weight_at(f, k)] as i8);
        let sum = |f| (0..depth).map(|k| weight(f, k)).sum::<i32>();
        constants.push((0..l.filters).flat_map(|f| sum(f).to_le_bytes()).collect());
    }
    Memory {
        inputs,
        constants,
        outputs: vec![l.y.dtype],
        tolerance: if exact { 0.0 } else { TOLERANCE_F16 },
    }
}

/// Convolutions of integers in groups.
pub(super) fn general_conv(random: &mut Random) -> Layer {
    loop {
        let w = Window::random(random, 7);
        let groups = random.pick(&[1, 1, 2, 3, 4, 16]);
        let (channels, filters) = match groups {
            1 => (random.from_to(1, 90), random.from_to(1, 130)),
            _ => (random.from_to(1, 40), random.from_to(1, 40)),
        };
        let channels = if random.once_in(2) { channels.next_multiple_of(4) } else { channels };
        let filters_stored = (groups * filters).next_multiple_of(8);
        if w.macs(channels * filters_stored) > MOST_WORK {
            continue;
        }
        let x = integer(random);
        let x_zero_point = zero_point(random, x);
        let taps = w.kernel[0] * w.kernel[1];
        let y = random.pick(&[DType::I8, DType::U8, DType::F16]);
        let residual = random.pick(&[DType::I8, DType::U8, DType::F16]);
        let pitch = |random: &mut Random, least: usize| {
            least.next_multiple_of(16) + random.pick(&[0, 0, 16, 48])
        };
        return Layer::IntegerConv(IntegerConvLayer {
            x,
            x_zero_point,
            batch: w.batch,
            input: w.input,
            output: w.output,
            groups,
            channels,
            x_pitch: pitch(random, groups * channels),
            filters,
            filters_stored,
            y_pitch: pitch(random, filters_stored),
            weight_pitch: (taps * channels).next_multiple_of(16),
            blocks: false,
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            residual_pitch: random.once_in(3).then(|| pitch(random, filters_stored)),
            residual: numbers(random, residual, 1.0),
            residual_last: random.once_in(4),
            activation: activation(random),
            y: numbers(random, y, 2.0),
        });
    }
}

pub(super) fn general_conv_memory(l: &IntegerConvLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.input[0] * l.input[1], l.x_pitch, l.groups * l.channels];
    let mut inputs = vec![random.pixels(e.inputs[0], l.x, range(l.x), shape)];
    if let Some(pitch) = l.residual_pitch {
        let shape = [l.batch * l.output[0] * l.output[1], pitch, l.filters_stored];
        let dtype = l.residual.dtype;
        inputs.push(random.pixels(e.inputs[1], dtype, range(dtype), shape));
    }
    let depth = l.kernel[0] * l.kernel[1] * l.channels;
    let filters = l.groups * l.filters;
    let mut weights = vec![0; filters * l.weight_pitch];
    let mut totals = Vec::new();
    for row in weights.chunks_exact_mut(l.weight_pitch) {
        let mut total = 0;
        for w in &mut row[..depth] {
            *w = random.bits() as u8;
            total += i32::from(*w as i8);
        }
        totals.extend(total.to_le_bytes());
    }
    let mut constants = vec![weights, ends(random, e.constants[1], depth)];
    if l.x_zero_point != 0 {
        constants.push(totals);
    }
    Memory { inputs, constants, outputs: vec![l.y.dtype], tolerance: 0.0 }
}

fn zero_point(random: &mut Random, dtype: DType) -> i32 {
    match (random.once_in(2), dtype) {
        (false, _) => 0,
        (true, DType::U8) => random.from_to(1, 255) as i32,
        (true, _) => random.from_to(0, 255) as i32 - 128,
    }
}

/// Depthwise convolutions that read or write integers.
pub(super) fn depthwise(random: &mut Random) -> Layer {
    loop {
        let w = Window::random(random, 7);
        let (channels, x_pitch) = stored(random, 400);
        if w.macs(channels) > MOST_WORK {
            continue;
        }
        let dtype = random.pick(&[DType::I8, DType::I8, DType::U8, DType::U8, DType::F16]);
        let y = match dtype {
            DType::F16 => integer(random),
            _ => random.pick(&[DType::I8, DType::U8, DType::F16]),
        };
        let residual = random.pick(&[DType::I8, DType::U8, DType::F16]);
        let x_zero_point = if dtype.is_float() { 0 } else { zero_point(random, dtype) };
        return Layer::Depthwise(DepthwiseLayer {
            dtype,
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels,
            multiplier: random.pick(&[1, 1, 1, 2, 3]),
            x_pitch,
            y_pitch: channels + random.pick(&[0, 0, 16, 48]),
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            residual_pitch: random.once_in(3).then(|| channels + random.pick(&[0, 16])),
            activation: activation(random),
            ends: Some(Ends {
                x_zero_point,
                y: numbers(random, y, 2.0),
                residual: numbers(random, residual, 1.0),
                residual_last: random.once_in(3),
            }),
        });
    }
}

pub(super) fn depthwise_memory(l: &DepthwiseLayer, e: Extents, random: &mut Random) -> Memory {
    let ends_of = l.ends();
    let shape = [l.batch * l.input[0] * l.input[1], l.x_pitch, l.channels_read()];
    let mut inputs = vec![random.pixels(e.inputs[0], l.dtype, range(l.dtype), shape)];
    if let Some(pitch) = l.residual_pitch {
        let shape = [l.batch * l.output[0] * l.output[1], pitch, l.channels];
        let dtype = ends_of.residual.dtype;
        inputs.push(random.pixels(e.inputs[1], dtype, range(dtype), shape));
    }
    let taps = l.kernel[0] * l.kernel[1];
    let all = 0..taps * l.channels;
    let constants = match l.integer() {
        true => vec![
            random.memory(e.constants[0], DType::I8, range(DType::I8), all),
            ends(random, e.constants[1], taps),
        ],
        false => vec![
            random.memory(e.constants[0], l.dtype, UNIT, all),
            random.memory(e.constants[1], DType::F32, UNIT, 0..l.channels),
        ],
    };
    let tolerance = if l.integer() { 0.0 } else { TOLERANCE_F16 };
    Memory { inputs, constants, outputs: vec![ends_of.y.dtype], tolerance }
}

/// Fully connected layers that read or write integers.
pub(super) fn gemv(random: &mut Random) -> Layer {
    let depth = random.from_to(1, 5000).next_multiple_of(16);
    let outputs = random.from_to(1, 1500);
    let dtype = random.pick(&[DType::I8, DType::I8, DType::U8, DType::U8, DType::F16]);
    let y = match dtype {
        DType::F16 => integer(random),
        _ => random.pick(&[DType::I8, DType::U8, DType::F16, DType::F32]),
    };
    Layer::Gemv(GemvLayer {
        dtype,
        batch: random.from_to(1, 4),
        depth,
        x_pitch: depth + random.pick(&[0, 16, 64]),
        outputs,
        y_pitch: outputs + random.pick(&[0, 1, 30]),
        y_f32: false,
        activation: activation(random),
        y: Some(numbers(random, y, 2.0)),
    })
}

pub(super) fn gemv_memory(l: &GemvLayer, e: Extents, random: &mut Random) -> Memory {
    let x = random.pixels(e.inputs[0], l.dtype, range(l.dtype), [l.batch, l.x_pitch, l.depth]);
    let all = 0..l.outputs * l.depth;
    let spread = (3.0 / l.depth as f32).sqrt();
    let constants = match l.integer() {
        true => vec![
            random.memory(e.constants[0], DType::I8, range(DType::I8), all),
            ends(random, e.constants[1], l.depth),
        ],
        false => vec![
            random.memory(e.constants[0], l.dtype, (-spread, spread), all),
            random.memory(e.constants[1], DType::F32, UNIT, 0..l.outputs),
        ],
    };
    Memory {
        inputs: vec![x],
        constants,
        outputs: vec![l.numbers().dtype],
        tolerance: if l.integer() { 0.0 } else { TOLERANCE_F16 },
    }
}

fn mean(random: &mut Random, dtype: DType) -> Mean {
    let x = Quantization { scale: random.float(0.01, 0.1), zero_point: zero_point(random, dtype) };
    let y = random.pick(&[DType::I8, DType::U8, DType::F16]);
    Mean { x, y: numbers(random, y, 4.0) }
}

/// Pools of integers.
pub(super) fn pool(random: &mut Random) -> Layer {
    loop {
        let w = Window::random(random, 7);
        let (channels, x_pitch) = stored(random, 300);
        if w.macs(channels) > MOST_WORK {
            continue;
        }
        let dtype = integer(random);
        let average = random.pick(&[None, Some(false), Some(true)]);
        return Layer::Pool(PoolLayer {
            dtype,
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels,
            x_pitch,
            y_pitch: channels + random.pick(&[0, 0, 16, 48]),
            kernel: w.kernel,
            strides: w.strides,
            pads: w.pads,
            // Every window meets the picture: the greatest of no integers is none.
            dilations: if average.is_none() { [1, 1] } else { w.dilations },
            average,
            mean: average.map(|_| mean(random, dtype)),
        });
    }
}

pub(super) fn pool_memory(l: &PoolLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.input[0] * l.input[1], l.x_pitch, l.channels];
    Memory {
        inputs: vec![random.pixels(e.inputs[0], l.dtype, range(l.dtype), shape)],
        constants: vec![],
        outputs: vec![l.mean.map_or(l.dtype, |m| m.y.dtype)],
        tolerance: 0.0,
    }
}

/// Pools of integers over all pixels.
pub(super) fn global_pool(random: &mut Random) -> Layer {
    let (channels, x_pitch) = stored(random, 1300);
    let (dtype, max) = (integer(random), random.once_in(3));
    Layer::GlobalPool(GlobalPoolLayer {
        dtype,
        batch: random.from_to(1, 8),
        pixels: if random.once_in(6) { 1 } else { random.from_to(2, 900) },
        channels,
        x_pitch,
        y_pitch: channels + random.pick(&[0, 0, 16, 48]),
        max,
        mean: (!max).then(|| mean(random, dtype)),
    })
}

pub(super) fn global_pool_memory(l: &GlobalPoolLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.pixels, l.x_pitch, l.channels];
    Memory {
        inputs: vec![random.pixels(e.inputs[0], l.dtype, range(l.dtype), shape)],
        constants: vec![],
        outputs: vec![l.mean.map_or(l.dtype, |m| m.y.dtype)],
        tolerance: 0.0,
    }
}

/// Functions of integers and floats; integers of floats, and the reverse.
pub(super) fn elementwise(random: &mut Random) -> Layer {
    use ElementwiseOp::{Add, Max, Min, Mul, Sub};
    let op = random.pick(&[ElementwiseOp::None, ElementwiseOp::None, Add, Sub, Mul, Min, Max]);
    let any = [DType::I8, DType::U8, DType::F16, DType::F32];
    let mut types = [random.pick(&any), random.pick(&any), random.pick(&any)];
    types[random.from_to(0, 2)] = integer(random);
    let [a, b, y] = types.map(|t| numbers(random, t, 2.0));
    let (channels, a_pitch) = stored(random, 300);
    let row = random.once_in(4);
    Layer::IntegerElementwise(IntegerElementwiseLayer {
        pixels: if random.once_in(6) { 1 } else { random.from_to(2, 3000) },
        channels,
        valid: channels - random.from_to(0, 7),
        a,
        b,
        y,
        a_pitch,
        b_pitch: if row { 0 } else { channels + random.pick(&[0, 0, 16]) },
        y_pitch: channels + random.pick(&[0, 0, 16, 48]),
        op,
        activation: activation(random),
    })
}

pub(super) fn elementwise_memory(
    l: &IntegerElementwiseLayer,
    e: Extents,
    random: &mut Random,
) -> Memory {
    let shape = [l.pixels, l.a_pitch, l.channels];
    let mut inputs = vec![random.pixels(e.inputs[0], l.a.dtype, range(l.a.dtype), shape)];
    if l.op != ElementwiseOp::None {
        let pixels = if l.b_pitch == 0 { 1 } else { l.pixels };
        let shape = [pixels, l.b_pitch, l.channels];
        inputs.push(random.pixels(e.inputs[1], l.b.dtype, range(l.b.dtype), shape));
    }
    Memory { inputs, constants: vec![], outputs: vec![l.y.dtype], tolerance: 0.0 }
}

/// Nearest resampling of integers.
pub(super) fn resize(random: &mut Random) -> Layer {
    let (channels, x_pitch) = stored(random, 150);
    let mut side = || if random.once_in(6) { 1 } else { random.from_to(2, 40) };
    let (input, output) = ([side(), side()], [side(), side()]);
    Layer::Resize(ResizeLayer {
        dtype: integer(random),
        batch: random.from_to(1, 4),
        input,
        output,
        channels,
        x_pitch,
        y_pitch: channels + random.pick(&[0, 0, 16, 48]),
        linear: false,
    })
}

/// Functions of bytes.
pub(super) fn lookup(random: &mut Random) -> Layer {
    let (channels, x_pitch) = stored(random, 300);
    Layer::Lookup(LookupLayer {
        x: integer(random),
        y: random.pick(&[DType::I8, DType::U8, DType::F16, DType::F32]),
        pixels: if random.once_in(6) { 1 } else { random.from_to(2, 3000) },
        channels,
        x_pitch,
        y_pitch: channels + random.pick(&[0, 0, 16, 48]),
    })
}

pub(super) fn lookup_memory(l: &LookupLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.pixels, l.x_pitch, l.channels];
    Memory {
        inputs: vec![random.pixels(e.inputs[0], l.x, range(l.x), shape)],
        constants: vec![random.memory(e.constants[0], l.y, range(l.y), 0..256)],
        outputs: vec![l.y],
        tolerance: 0.0,
    }
}
