//! A convolution of which nothing but a 2 x 2 max pool reads the result stores the maxima itself.

use tobiuo_kernels::{ConvLayer, Layer, PoolLayer};
use tobiuo_tensor::DType;

use super::{Joined, Lowered, Lowering, Operand};
use crate::cuda::view::View;

/// Pixels that tiles of whole windows may compute beyond the picture, of those in it.
const WASTE: f64 = 1.2;

/// A pool joined with the convolution in front of it, where that gains.
pub(super) fn joined(lowering: &Lowering, second: usize) -> Option<Joined> {
    let pool = &lowering.layers[second];
    let (Layer::Pool(p), [Operand::View(read)]) = (&pool.layer, &pool.operands[..]) else {
        return None;
    };
    let gone = lowering.only_maker(second, read.buffer)?;
    let conv = &lowering.layers[gone];
    let (Layer::Conv(c), [made]) = (&conv.layer, &conv.outputs[..]) else { return None };
    let same =
        |a: &View, b: &View| (a.offset, &a.strides, &a.shape) == (b.offset, &b.strides, &b.shape);
    let layer = pooled(c, p).filter(|_| same(made, read) && rises(lowering, conv, c))?;
    let joined = Lowered {
        layer: Layer::Conv(layer),
        outputs: pool.outputs.clone(),
        flops: conv.flops + pool.flops,
        ..conv.clone()
    };
    Some(Joined { gone, between: read.buffer, layers: vec![(second, joined)] })
}

/// Whether results of integers rise with their sums: multipliers may be negative, the scales that
/// results are stored with are not (`tobiuo_ops::infer`).
fn rises(lowering: &Lowering, lowered: &Lowered, conv: &ConvLayer) -> bool {
    let multipliers = |ends: &[u8]| {
        let multiplier = |end: &[u8]| f32::from_le_bytes([end[0], end[1], end[2], end[3]]);
        ends.chunks_exact(8).all(|end| multiplier(end) >= 0.0)
    };
    let ends = lowered.constants.get(1).map(|&number| &lowering.constants[number]);
    conv.x == DType::F16 || ends.is_some_and(|ends| multipliers(ends))
}

/// Both layers as one, where that is one and faster than two.
fn pooled(conv: &ConvLayer, pool: &PoolLayer) -> Option<ConvLayer> {
    let half = conv.output.map(|n| n / 2);
    let window = pool.average.is_none()
        && pool.kernel == [2, 2]
        && pool.strides == [2, 2]
        && pool.pads == [0; 4]
        && pool.dilations == [1, 1];
    let sizes = (pool.batch, pool.input, pool.output, pool.channels, pool.dtype)
        == (conv.batch, conv.output, half, conv.filters_stored, conv.y.dtype);
    let aligned = (pool.y_pitch * conv.y.dtype.size()).is_multiple_of(16) && !half.contains(&0);
    // Patches are computed in units of 8 x 8 pixels then; other tiles go by windows.
    let [whole, all] =
        [conv.output, conv.output.map(|n| n.next_multiple_of(8))].map(|[h, w]| h * w);
    let patches = conv.strides == [1, 1] && conv.kernel != [1, 1] && conv.channels > 4;
    let gains = !patches || all as f64 <= WASTE * whole as f64;
    let fits = conv.residual_pitch.is_none() && !conv.pooled && ConvLayer::pools(conv.activation);
    (window && sizes && aligned && gains && fits).then(|| ConvLayer {
        pooled: true,
        y_pitch: pool.y_pitch,
        ..conv.clone()
    })
}
