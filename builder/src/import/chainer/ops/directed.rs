//! DirectedPooling and CornerPooling: a running maximum from one side of the picture
//! (Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", 2018).

use tobiuo_ops::{Op, Pool, PoolKind};

use super::super::context::Context;
use super::one;
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// Every element becomes the largest from itself to the right end of its row (`left`), from the
/// left end (`right`), to the bottom of its column (`top`), from the top (`bottom`).
///
/// It is max pooling with a window as long as the axis, padded on one side; of a long axis, two
/// pools: over runs of neighbours, then over elements a run apart.
pub fn pooling(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let (x, shape) = c.picture()?;
    let (axis, backwards) = match c.fields.text("dir")? {
        Some("left") => (1, false),
        Some("right") => (1, true),
        Some("top") => (0, false),
        Some("bottom") => (0, true),
        Some(other) => {
            return unsupported(
                format!("dir '{other}' is not known"),
                "one of left, right, top, bottom is needed",
            );
        }
        None => return invalid("dir is missing"),
    };
    let size = shape[2 + axis];
    let run = if size <= 16 { size } else { size.isqrt() + 1 };
    let mut y = x;
    for (taps, dilation) in [(run, 1), (size.div_ceil(run), run)] {
        if taps == 1 && dilation > 1 {
            continue;
        }
        let mut pool = Pool {
            kind: PoolKind::Max,
            kernel: vec![1, 1],
            strides: vec![1, 1],
            pads: vec![0; 4],
            dilations: vec![1, 1],
            ceil_mode: false,
        };
        (pool.kernel[axis], pool.dilations[axis]) = (taps, dilation);
        pool.pads[axis + if backwards { 0 } else { 2 }] = (taps - 1) * dilation;
        y = c.emit(Op::Pool(pool), &[y])?;
    }
    one(y)
}
