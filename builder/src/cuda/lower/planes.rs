//! Convolutions read a network's inputs and store its outputs as they are, in planes of floats or
//! however they lie, without copies between.

use tobiuo_kernels::{ConvLayer, Layer, PermuteLayer, Planes, Strided};
use tobiuo_tensor::DType;

use super::{Joined, Lowered, Lowering, Operand};
use crate::cuda::view::{View, channels_last};

/// A first convolution joined with the copy in front of it.
pub(super) fn read(lowering: &Lowering, second: usize) -> Option<Joined> {
    let conv = &lowering.layers[second];
    let (Layer::Conv(c), Some(Operand::View(read))) = (&conv.layer, conv.operands.first()) else {
        return None;
    };
    if c.channels > 4 {
        return None;
    }
    let gone = lowering.only_maker(second, read.buffer)?;
    let copy = &lowering.layers[gone];
    let (Layer::Permute(p), [given @ Operand::View(view)]) = (&copy.layer, &copy.operands[..])
    else {
        return None;
    };
    let layer = Layer::Conv(c.with_planes(planes(c, p, view)?)?);
    let mut operands = conv.operands.clone();
    operands[0] = given.clone();
    let layers = vec![(second, Lowered { layer, operands, ..conv.clone() })];
    Some(Joined { gone, between: read.buffer, layers })
}

/// What a copy reads, where what it writes is a convolution's thin picture.
fn planes(conv: &ConvLayer, copy: &PermuteLayer, given: &View) -> Option<Planes> {
    let [h, w] = conv.input;
    let shape = [conv.batch, conv.channels, h, w];
    let thin = copy.to == DType::F16
        && copy.dims == shape
        && copy.y_strides == channels_last(&shape, conv.x_pitch);
    let channels = match copy.valid {
        None => conv.channels,
        Some((1, channels)) => channels,
        Some(_) => return None,
    };
    let x = Strided {
        dtype: copy.from,
        offset: copy.x_offset,
        strides: copy.x_strides.clone(),
        aligned: (given.offset * copy.from.size() as i64) % 16 == 0,
    };
    thin.then_some(Planes { channels, x })
}

/// Convolutions, which together make the pixels that a copy turns into an output, joined with it.
pub(super) fn stored(lowering: &Lowering, gone: usize) -> Option<Joined> {
    let copy = &lowering.layers[gone];
    let (Layer::Permute(p), [Operand::View(from)]) = (&copy.layer, &copy.operands[..]) else {
        return None;
    };
    let output = lowering.outputs.iter().any(|v| v.buffer == copy.outputs[0].buffer);
    if !output || lowering.is_port(from.buffer) || p.valid.is_some() {
        return None;
    }
    let (mut layers, mut channels) = (Vec::new(), 0);
    for (i, layer) in lowering.layers.iter().enumerate().filter(|(i, _)| *i != gone) {
        if layer.views().any(|v| v.buffer == from.buffer) {
            return None;
        }
        if layer.outputs.iter().all(|v| v.buffer != from.buffer) {
            continue;
        }
        let Layer::Conv(conv) = &layer.layer else { return None };
        layers.push((i, stored_by(conv, layer, p, (from, &copy.outputs[0]))?));
        channels += conv.filters;
    }
    // They do not overlap: each has its own channels of the buffer.
    let all = channels == Steps::of(p)?.channels;
    all.then_some(Joined { gone, between: from.buffer, layers })
}

/// How a copy takes pixels to where they are wanted.
struct Steps {
    channels: usize,
    /// Elements from channel to channel there.
    channel: usize,
    /// The other axes: how many, elements apart here and there.
    others: Vec<(usize, usize, usize)>,
}

impl Steps {
    fn of(copy: &PermuteLayer) -> Option<Steps> {
        let mut rest = copy.clone();
        let axis = (0..rest.dims.len()).find(|&i| rest.dims[i] > 1 && rest.x_strides[i] == 1);
        let (mut channels, mut channel) = (1, 0);
        if let Some(axis) = axis {
            channels = rest.dims.remove(axis);
            rest.x_strides.remove(axis);
            channel = usize::try_from(rest.y_strides.remove(axis)).ok()?;
        }
        let rest = rest.simplified();
        let mut others = Vec::new();
        for (i, &n) in rest.dims.iter().enumerate().filter(|(_, n)| **n > 1) {
            let steps = [rest.x_strides[i], rest.y_strides[i]];
            let [from, to] = steps.map(|step| usize::try_from(step).ok());
            others.push((n, from?, to?));
        }
        others.sort_by_key(|&(_, from, _)| std::cmp::Reverse(from));
        Some(Steps { channels, channel, others })
    }

    /// From picture to picture and from pixel to pixel there, where here pixels are so far apart.
    fn pixels(&self, [pictures, pixels]: [usize; 2], pitch: usize) -> Option<[usize; 2]> {
        match self.others[..] {
            [] if pictures * pixels == 1 => Some([0, 0]),
            [(n, from, to)] if from == pitch && n == pictures * pixels => Some([pixels * to, to]),
            [(n, picture, far), (m, from, to)] => {
                (from == pitch && [n, m] == [pictures, pixels] && picture == pixels * pitch)
                    .then_some([far, to])
            }
            _ => None,
        }
    }
}

/// A convolution storing its part of what a copy makes of it and others.
fn stored_by(
    conv: &ConvLayer,
    layer: &Lowered,
    copy: &PermuteLayer,
    (from, to): (&View, &View),
) -> Option<Lowered> {
    let [made] = &layer.outputs[..] else { return None };
    let steps = Steps::of(copy)?;
    let [h, w] = conv.output;
    let [picture, pixel] = steps.pixels([conv.batch, h * w], conv.y_pitch)?;
    let first = made.offset - from.offset - copy.x_offset as i64;
    let first = usize::try_from(first).ok().filter(|f| f + conv.filters <= steps.channels)?;
    let same = made.dtype == copy.from && copy.to.is_float();
    let layer_there = conv.with_y_planes(copy.to, [picture, steps.channel, pixel]);
    let view = View {
        buffer: to.buffer,
        dtype: copy.to,
        offset: to.offset + (first * steps.channel) as i64,
        shape: vec![conv.batch, conv.filters, h, w],
        strides: [picture, steps.channel, w * pixel, pixel].map(|s| s as i64).to_vec(),
        channels_stored: 0,
    };
    let there = layer_there.filter(|_| same)?;
    Some(Lowered { layer: Layer::Conv(there), outputs: vec![view], ..layer.clone() })
}
