//! A convolution of which nothing but a 2 x 2 max pool reads the result stores the maxima itself.

use std::collections::HashSet;

use tobiuo_kernels::{ConvLayer, Layer, PoolLayer};

use super::{Lowered, Lowering, Operand};
use crate::cuda::view::{BufferId, View};

/// Pixels that tiles of whole windows may compute beyond the picture, of those in it.
const WASTE: f64 = 1.2;

/// Joins what can be joined and gains by it. The buffers that nothing touches any more are
/// returned.
pub(super) fn join(lowering: &mut Lowering) -> HashSet<BufferId> {
    let mut gone = HashSet::new();
    for second in 0..lowering.layers.len() {
        let Some((first, joined)) = joined(lowering, second) else { continue };
        gone.insert(lowering.layers[first].outputs[0].buffer);
        lowering.layers[second] = joined;
        // Its place is kept until all are done.
        lowering.layers[first].outputs.clear();
    }
    lowering.layers.retain(|layer| !layer.outputs.is_empty());
    gone
}

fn reads(layer: &Lowered, buffer: BufferId) -> bool {
    let view = |operand: &Operand| matches!(operand, Operand::View(v) if v.buffer == buffer);
    layer.operands.iter().any(view)
}

/// A pool joined with the convolution in front of it, and that one's number.
fn joined(lowering: &Lowering, second: usize) -> Option<(usize, Lowered)> {
    let pool = &lowering.layers[second];
    let (Layer::Pool(p), [Operand::View(read)]) = (&pool.layer, &pool.operands[..]) else {
        return None;
    };
    let touches =
        |l: &Lowered| l.outputs.iter().any(|v| v.buffer == read.buffer) || reads(l, read.buffer);
    let ports = || lowering.inputs.iter().chain(&lowering.outputs);
    let mut around = (0..lowering.layers.len()).filter(|&i| touches(&lowering.layers[i]));
    let (first, other) = (around.next()?, around.next()?);
    let alone = other == second && around.next().is_none();
    if !alone || ports().any(|v| v.buffer == read.buffer) {
        return None;
    }
    let conv = &lowering.layers[first];
    let (Layer::Conv(c), [made]) = (&conv.layer, &conv.outputs[..]) else { return None };
    let same =
        |a: &View, b: &View| (a.offset, &a.strides, &a.shape) == (b.offset, &b.strides, &b.shape);
    let layer = pooled(c, p).filter(|_| same(made, read))?;
    let joined = Lowered {
        layer: Layer::Conv(layer),
        outputs: pool.outputs.clone(),
        flops: conv.flops + pool.flops,
        ..conv.clone()
    };
    Some((first, joined))
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
    let fits = conv.residual_pitch.is_none() && !conv.pooled;
    (window && sizes && aligned && gains && fits).then(|| ConvLayer {
        pooled: true,
        y_pitch: pool.y_pitch,
        ..conv.clone()
    })
}
