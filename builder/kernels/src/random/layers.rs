//! Convolution, fully connected, pooling, element-wise, resampling and copying layers.

use tobiuo_tensor::DType;

use super::{Memory, Random, general, tolerance};
use crate::{
    ConvLayer, DepthwiseLayer, ElementwiseLayer, ElementwiseOp, Extents, GemvLayer,
    GlobalPoolLayer, Layer, Numbers, PermuteLayer, PoolLayer, ResizeLayer,
};

pub(super) const UNIT: (f32, f32) = (-1.0, 1.0);

/// Sizes of a window layer that fit together.
pub(super) struct Window {
    pub batch: usize,
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Above, left, below, right.
    pub pads: [usize; 4],
}

impl Window {
    pub fn random(random: &mut Random, largest: usize) -> Window {
        loop {
            let mut side = || match random.from_to(0, 5) {
                0 => 1,
                1 => random.from_to(2, 8),
                _ => random.from_to(3, 45),
            };
            let input = [side(), side()];
            let square = random.from_to(1, largest);
            let kernel = match random.from_to(0, 5) {
                0 | 1 => [1, 1],
                2 => [1, square],
                3 => [square, 1],
                _ => [square, square],
            };
            let mut steps = |most| match random.once_in(2) {
                true => [1, 1],
                false => [random.from_to(1, most), random.from_to(1, most)],
            };
            let (strides, dilations) = (steps(3), steps(3));
            let mut pads = [0; 4];
            let mut output = [0; 2];
            let mut fits = true;
            for axis in 0..2 {
                let span = (kernel[axis] - 1) * dilations[axis] + 1;
                // Less padding than window: every window of a pool touches the picture.
                pads[axis] = random.from_to(0, span - 1).min(kernel[axis] - 1);
                pads[axis + 2] = random.from_to(0, span - 1).min(kernel[axis] - 1);
                let padded = input[axis] + pads[axis] + pads[axis + 2];
                fits &= padded >= span;
                output[axis] = if fits { (padded - span) / strides[axis] + 1 } else { 0 };
            }
            if fits {
                let batch = if random.once_in(2) { 1 } else { random.from_to(2, 8) };
                return Window { batch, input, output, kernel, strides, dilations, pads };
            }
        }
    }

    pub fn macs(&self, per_pixel: usize) -> usize {
        let [oh, ow] = self.output;
        self.batch * oh * ow * self.kernel[0] * self.kernel[1] * per_pixel
    }
}

pub(super) fn either(random: &mut Random) -> DType {
    random.pick(&[DType::F16, DType::F32])
}

/// Channels as stored, and the distance between pixels: often more, as in a concatenation.
fn stored(random: &mut Random, most: usize) -> (usize, usize) {
    let channels = random.from_to(1, most).next_multiple_of(8);
    (channels, channels + random.pick(&[0, 0, 8, 24]))
}

/// Multiply-adds of a random layer, so that its reference takes no longer than a moment.
pub(super) const MOST_WORK: usize = 40_000_000;

pub(super) fn conv(random: &mut Random) -> Layer {
    loop {
        let largest = if random.once_in(8) { 16 } else { 7 };
        let w = Window::random(random, largest);
        let (channels, x_pitch) = match random.from_to(0, 4) {
            0 => (4, 4),
            _ => stored(random, 260),
        };
        let filters = random.from_to(1, 260);
        if w.macs(channels * filters.next_multiple_of(8)) > MOST_WORK {
            continue;
        }
        let residual = random.once_in(3);
        return Layer::Conv(conv_of(random, &w, (channels, x_pitch), (filters, residual)));
    }
}

/// A convolution of f16 over a window, with channels and pitch of x; with so many filters, and
/// perhaps a residual.
pub(super) fn conv_of(
    random: &mut Random,
    w: &Window,
    (channels, x_pitch): (usize, usize),
    (filters, residual): (usize, bool),
) -> ConvLayer {
    let filters_stored = filters.next_multiple_of(8);
    whole_results(ConvLayer {
        batch: w.batch,
        input: w.input,
        output: w.output,
        channels,
        x_pitch,
        filters,
        filters_stored,
        y_pitch: filters_stored + random.pick(&[0, 0, 8, 40]),
        kernel: w.kernel,
        strides: w.strides,
        pads: [w.pads[0], w.pads[1]],
        dilations: w.dilations,
        residual_pitch: residual.then(|| filters_stored + random.pick(&[0, 16])),
        activation: random.activation(),
        residual_last: random.once_in(4),
        pooled: !residual && random.once_in(3) && w.output.iter().all(|&n| n >= 2),
        planes: None,
        y_planes: None,
        x: DType::F16,
        x_zero_point: 0,
        y: Numbers::F16,
        residual: Numbers::F16,
    })
}

/// The layer, pooled only where it may be.
pub(super) fn whole_results(layer: ConvLayer) -> ConvLayer {
    ConvLayer { pooled: layer.pooled && ConvLayer::pools(layer.activation), ..layer }
}

/// A convolution's x, where it is floats.
pub(super) fn conv_x(l: &ConvLayer, len: usize, random: &mut Random) -> Vec<u8> {
    if let Some(planes) = &l.planes {
        return general::fill(random, &planes.x, &planes.dims(l), len, UNIT);
    }
    let pixels = l.batch * l.input[0] * l.input[1];
    random.pixels(len, DType::F16, UNIT, [pixels, l.x_pitch, l.channels])
}

pub(super) fn conv_memory(l: &ConvLayer, e: Extents, random: &mut Random) -> Memory {
    let [oh, ow] = l.output;
    let mut inputs = vec![conv_x(l, e.inputs[0], random)];
    if let Some(pitch) = l.residual_pitch {
        let shape = [l.batch * oh * ow, pitch, l.filters_stored];
        inputs.push(random.pixels(e.inputs[1], DType::F16, UNIT, shape));
    }
    // Zeros where there are no weights.
    let depth = l.kernel[0] * l.kernel[1] * l.channels;
    let spread = (3.0 / depth as f32).sqrt();
    let mut weights = vec![0; e.constants[0]];
    for row in 0..l.filters {
        for k in 0..depth {
            let element = random.element(DType::F16, -spread, spread);
            weights[l.weight_at(row, k) * 2..][..2].copy_from_slice(element.bytes());
        }
    }
    let bias = random.memory(e.constants[1], DType::F32, UNIT, 0..l.filters);
    Memory {
        inputs,
        constants: vec![weights, bias],
        outputs: vec![l.y.dtype],
        tolerance: tolerance(DType::F16),
    }
}

pub(super) fn depthwise(random: &mut Random) -> Layer {
    loop {
        let w = Window::random(random, 7);
        let (channels, x_pitch) = stored(random, 400);
        let multiplier = random.pick(&[1, 1, 1, 2, 3]);
        if w.macs(channels) > MOST_WORK {
            continue;
        }
        let residual = random.once_in(3);
        return Layer::Depthwise(DepthwiseLayer {
            dtype: either(random),
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels,
            multiplier,
            x_pitch,
            y_pitch: channels + random.pick(&[0, 0, 8, 40]),
            kernel: w.kernel,
            strides: w.strides,
            pads: [w.pads[0], w.pads[1]],
            dilations: w.dilations,
            residual_pitch: residual.then(|| channels + random.pick(&[0, 16])),
            activation: random.activation(),
            ends: None,
        });
    }
}

pub(super) fn depthwise_memory(l: &DepthwiseLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.input[0] * l.input[1], l.x_pitch, l.channels_read()];
    let mut inputs = vec![random.pixels(e.inputs[0], l.dtype, UNIT, shape)];
    if let Some(pitch) = l.residual_pitch {
        let shape = [l.batch * l.output[0] * l.output[1], pitch, l.channels];
        inputs.push(random.pixels(e.inputs[1], l.dtype, UNIT, shape));
    }
    let taps = l.kernel[0] * l.kernel[1] * l.channels;
    let weights = random.memory(e.constants[0], l.dtype, UNIT, 0..taps);
    let bias = random.memory(e.constants[1], DType::F32, UNIT, 0..l.channels);
    Memory {
        inputs,
        constants: vec![weights, bias],
        outputs: vec![l.dtype],
        tolerance: tolerance(l.dtype),
    }
}

pub(super) fn gemv(random: &mut Random) -> Layer {
    let depth = random.from_to(1, 5000).next_multiple_of(8);
    let outputs = random.from_to(1, 1500);
    Layer::Gemv(GemvLayer {
        dtype: either(random),
        batch: random.from_to(1, 4),
        depth,
        x_pitch: depth + random.pick(&[0, 8, 64]),
        outputs,
        y_pitch: outputs + random.pick(&[0, 1, 30]),
        y_f32: random.once_in(2),
        activation: random.activation(),
        y: None,
    })
}

pub(super) fn gemv_memory(l: &GemvLayer, e: Extents, random: &mut Random) -> Memory {
    let spread = (3.0 / l.depth as f32).sqrt();
    let x = random.pixels(e.inputs[0], l.dtype, UNIT, [l.batch, l.x_pitch, l.depth]);
    let rows = 0..l.outputs * l.depth;
    let weights = random.memory(e.constants[0], l.dtype, (-spread, spread), rows);
    let bias = random.memory(e.constants[1], DType::F32, UNIT, 0..l.outputs);
    Memory {
        inputs: vec![x],
        constants: vec![weights, bias],
        outputs: vec![if l.y_f32 { DType::F32 } else { l.dtype }],
        tolerance: tolerance(l.dtype),
    }
}

pub(super) fn pool(random: &mut Random) -> Layer {
    loop {
        let w = Window::random(random, 7);
        let (channels, x_pitch) = stored(random, 300);
        if w.macs(channels) > MOST_WORK {
            continue;
        }
        return Layer::Pool(PoolLayer {
            dtype: either(random),
            batch: w.batch,
            input: w.input,
            output: w.output,
            channels,
            x_pitch,
            y_pitch: channels + random.pick(&[0, 0, 8, 40]),
            kernel: w.kernel,
            strides: w.strides,
            pads: w.pads,
            dilations: w.dilations,
            average: random.pick(&[None, Some(false), Some(true)]),
            mean: None,
        });
    }
}

pub(super) fn pool_memory(l: &PoolLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.input[0] * l.input[1], l.x_pitch, l.channels];
    let exact = l.average.is_none();
    Memory {
        inputs: vec![random.pixels(e.inputs[0], l.dtype, UNIT, shape)],
        constants: vec![],
        outputs: vec![l.dtype],
        tolerance: if exact { 0.0 } else { tolerance(l.dtype) },
    }
}

pub(super) fn global_pool(random: &mut Random) -> Layer {
    let (channels, x_pitch) = stored(random, 1300);
    Layer::GlobalPool(GlobalPoolLayer {
        dtype: either(random),
        batch: random.from_to(1, 8),
        pixels: if random.once_in(6) { 1 } else { random.from_to(2, 900) },
        channels,
        x_pitch,
        y_pitch: channels + random.pick(&[0, 0, 8, 40]),
        max: random.once_in(2),
        mean: None,
    })
}

pub(super) fn global_pool_memory(l: &GlobalPoolLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.pixels, l.x_pitch, l.channels];
    // Not around zero: the mean of many would vanish beside its terms.
    Memory {
        inputs: vec![random.pixels(e.inputs[0], l.dtype, (-0.5, 1.0), shape)],
        constants: vec![],
        outputs: vec![l.dtype],
        tolerance: if l.max { 0.0 } else { tolerance(l.dtype) },
    }
}

pub(super) fn elementwise(random: &mut Random) -> Layer {
    use ElementwiseOp::*;
    let op = random.pick(&[None, Add, Sub, Mul, Div, Min, Max, Pow]);
    let (channels, a_pitch) = stored(random, 300);
    let row = random.once_in(4);
    Layer::Elementwise(ElementwiseLayer {
        dtype: either(random),
        pixels: if random.once_in(6) { 1 } else { random.from_to(2, 3000) },
        channels,
        valid: channels - random.from_to(0, 7),
        a_pitch,
        b_pitch: if row { 0 } else { channels + random.pick(&[0, 0, 16]) },
        y_pitch: channels + random.pick(&[0, 0, 8, 40]),
        op,
        activation: random.activation(),
    })
}

pub(super) fn elementwise_memory(l: &ElementwiseLayer, e: Extents, random: &mut Random) -> Memory {
    // Divisors away from zero, bases of powers positive.
    let (a, b) = match l.op {
        ElementwiseOp::Div => ((-2.0, 2.0), (0.5, 2.0)),
        ElementwiseOp::Pow => ((0.1, 2.0), (-2.0, 3.0)),
        _ => ((-3.0, 3.0), (-3.0, 3.0)),
    };
    let shape = [l.pixels, l.a_pitch, l.channels];
    let mut inputs = vec![random.pixels(e.inputs[0], l.dtype, a, shape)];
    if l.op != ElementwiseOp::None {
        let pixels = if l.b_pitch == 0 { 1 } else { l.pixels };
        inputs.push(random.pixels(e.inputs[1], l.dtype, b, [pixels, l.b_pitch, l.channels]));
    }
    Memory { inputs, constants: vec![], outputs: vec![l.dtype], tolerance: tolerance(l.dtype) }
}

pub(super) fn resize(random: &mut Random) -> Layer {
    let (channels, x_pitch) = stored(random, 150);
    let mut side = || if random.once_in(6) { 1 } else { random.from_to(2, 40) };
    let (input, output) = ([side(), side()], [side(), side()]);
    Layer::Resize(ResizeLayer {
        dtype: either(random),
        batch: random.from_to(1, 4),
        input,
        output,
        channels,
        x_pitch,
        y_pitch: channels + random.pick(&[0, 0, 8, 40]),
        linear: random.once_in(2),
    })
}

pub(super) fn resize_memory(l: &ResizeLayer, e: Extents, random: &mut Random) -> Memory {
    let shape = [l.batch * l.input[0] * l.input[1], l.x_pitch, l.channels];
    let x = random.pixels(e.inputs[0], l.dtype, super::integers::range(l.dtype), shape);
    let entries = if l.linear { 2 } else { 1 };
    let mut constants = Vec::new();
    for axis in 0..2 {
        let indices = (0..l.output[axis] * entries)
            .flat_map(|_| (random.from_to(0, l.input[axis] - 1) as i32).to_le_bytes());
        constants.push(indices.collect::<Vec<u8>>());
    }
    if l.linear {
        for axis in 0..2 {
            let count = l.output[axis];
            constants.push(random.memory(e.constants[2 + axis], DType::F32, (0.0, 1.0), 0..count));
        }
    }
    Memory {
        inputs: vec![x],
        constants,
        outputs: vec![l.dtype],
        tolerance: if l.linear { tolerance(l.dtype) } else { 0.0 },
    }
}

pub(super) fn permute(random: &mut Random) -> Layer {
    use DType::*;
    let (from, to) = random.pick(&[
        (F16, F16),
        (F32, F32),
        (I64, I64),
        (I32, I32),
        (U8, U8),
        (I8, I8),
        (Bool, Bool),
        (F32, F16),
        (F16, F32),
        (I32, F32),
        (I64, F16),
        (U8, F16),
        (U8, F32),
        (I8, F32),
        (Bool, F32),
        (F32, I32),
        (F16, I64),
        (I64, I32),
        (I32, I64),
    ]);
    let rank = random.from_to(1, 5);
    let mut dims: Vec<usize> = Vec::new();
    for _ in 0..rank {
        let room = 300_000 / dims.iter().product::<usize>().max(1);
        let most = random.pick(&[1, 3, 8, 70, 300]).min(room.max(1));
        dims.push(random.from_to(1, most));
    }
    // Axes laid out in any order, at times with gaps; in x at times broadcast.
    let mut strides = |broadcast: bool| {
        let mut order: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            order.swap(i, random.from_to(0, i));
        }
        let mut out = vec![0i64; rank];
        let mut step = 1;
        for axis in order {
            if broadcast && random.once_in(6) {
                continue;
            }
            out[axis] = step;
            step *= dims[axis] as i64;
            if random.once_in(5) {
                step += random.from_to(1, 9) as i64;
            }
        }
        out
    };
    let (mut x_strides, y_strides) = (strides(true), strides(false));
    // At times x is walked backwards.
    let mut x_offset = 0;
    for (stride, &d) in x_strides.iter_mut().zip(&dims) {
        if random.once_in(6) {
            x_offset += *stride as usize * (d - 1);
            *stride = -*stride;
        }
    }
    let axis = random.from_to(0, rank - 1);
    let valid =
        (dims[axis] > 1 && random.once_in(4)).then(|| (axis, random.from_to(1, dims[axis] - 1)));
    Layer::Permute(PermuteLayer { from, to, dims, x_offset, x_strides, y_strides, valid })
}

pub(super) fn permute_memory(l: &PermuteLayer, e: Extents, random: &mut Random) -> Memory {
    let mut dims = l.dims.clone();
    if let Some((axis, valid)) = l.valid {
        dims[axis] = dims[axis].min(valid);
    }
    let total: usize = dims.iter().product();
    let at = (0..total).map(|mut i| {
        let mut at = l.x_offset as i64;
        for (&d, &s) in dims.iter().zip(&l.x_strides).rev() {
            at += (i % d) as i64 * s;
            i /= d;
        }
        at as usize
    });
    let range = match l.from {
        DType::U8 | DType::Bool => (0.0, 255.0),
        _ => (-120.0, 120.0),
    };
    Memory {
        inputs: vec![random.memory(e.inputs[0], l.from, range, at)],
        constants: vec![],
        outputs: vec![l.to],
        tolerance: 0.0,
    }
}
