//! A first convolution reads floats as they were given, without a copy in front of it.

use tobiuo_kernels::{ConvLayer, Layer, PermuteLayer, Planes, Strided};
use tobiuo_tensor::DType;

use super::{Lowered, Lowering, Operand};
use crate::cuda::view::channels_last;

/// A convolution joined with the copy in front of it, and that one's number.
pub(super) fn joined(lowering: &Lowering, second: usize) -> Option<(usize, Lowered)> {
    let conv = &lowering.layers[second];
    let (Layer::Conv(c), Some(Operand::View(read))) = (&conv.layer, conv.operands.first()) else {
        return None;
    };
    if c.channels > 4 {
        return None;
    }
    let first = lowering.only_maker(second, read.buffer)?;
    let copy = &lowering.layers[first];
    let (Layer::Permute(p), [given @ Operand::View(_)]) = (&copy.layer, &copy.operands[..]) else {
        return None;
    };
    let layer = c.with_planes(planes(c, p, given)?)?;
    let mut operands = conv.operands.clone();
    operands[0] = given.clone();
    Some((first, Lowered { layer: Layer::Conv(layer), operands, ..conv.clone() }))
}

/// What a copy reads, where what it writes is a convolution's thin picture.
fn planes(conv: &ConvLayer, copy: &PermuteLayer, given: &Operand) -> Option<Planes> {
    let Operand::View(view) = given else { return None };
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
        aligned: (view.offset * copy.from.size() as i64) % 16 == 0,
    };
    thin.then_some(Planes { channels, x })
}
