//! ResizeImages and ResizeArgmax.

use tobiuo_ops::{Coordinates, NearestRounding, Op, Resize, ResizeMode};
use tobiuo_tensor::Tensor;

use super::super::context::Context;
use super::arithmetic::index_of_max;
use super::one;
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// No picture is longer.
const LONGEST: usize = 1 << 20;

/// The picture resampled to `output_hw`: bilinear, corners on corners unless `align_corners` is
/// false.
fn resized(c: &mut Context<'_, '_>) -> Res<ValueId> {
    let (x, [n, channels, h, w]) = c.picture()?;
    let (noted, noted_hw) = (c.fields.size("n_channels")?, c.fields.sizes("input_hw")?);
    if noted.is_some_and(|n| n != channels) || noted_hw.is_some_and(|hw| hw != [h, w]) {
        return invalid(format!(
            "n_channels and input_hw are not those of its source {:?}",
            c.shape(x)
        ));
    }
    let Some(hw) = c.fields.sizes("output_hw")? else { return invalid("output_hw is missing") };
    let &[out_h, out_w] = &hw[..] else {
        return invalid(format!("output_hw {hw:?} is not height, width"));
    };
    if out_h == 0 || out_w == 0 {
        return invalid(format!("output_hw {hw:?} is empty"));
    }
    let align = !c.fields.has("align_corners") || c.fields.flag("align_corners")?;
    let nearest = match c.fields.text("mode")? {
        None | Some("bilinear") => false,
        Some("nearest") => true,
        Some(other) => {
            return unsupported(
                format!("mode '{other}' is not known"),
                "bilinear or nearest is needed",
            );
        }
    };
    let pairs = [(h, out_h), (w, out_w)];
    if nearest && pairs.iter().any(|(from, to)| !to.is_multiple_of(*from)) {
        return gathered(c, x, pairs);
    }
    let (mode, coordinates) = match (nearest, align) {
        (true, _) => {
            (ResizeMode::Nearest { rounding: NearestRounding::Floor }, Coordinates::Asymmetric)
        }
        (_, true) => (ResizeMode::Linear { antialias: false }, Coordinates::AlignCorners),
        (_, false) => (ResizeMode::Linear { antialias: false }, Coordinates::HalfPixel),
    };
    let op = Op::Resize(Resize {
        sizes: vec![n, channels, out_h, out_w],
        scales: vec![1.0, 1.0, out_h as f32 / h as f32, out_w as f32 / w as f32],
        mode,
        coordinates,
    });
    c.emit(op, &[x])
}

/// Nearest elements at `floor(i * from / to)`, whatever the ratio: no rounding of a scale.
fn gathered(c: &mut Context<'_, '_>, x: ValueId, pairs: [(usize, usize); 2]) -> Res<ValueId> {
    let mut y = x;
    for (axis, (from, to)) in [2, 3].into_iter().zip(pairs) {
        if from == to {
            continue;
        }
        if to > LONGEST {
            return unsupported(format!("an axis of {to} elements"), "");
        }
        let at = (0..to).map(|i| (i as u128 * from as u128 / to as u128) as i64);
        let indices = c.constant("indices", Tensor::i64([to], at.collect()));
        y = c.emit(Op::Gather { axis }, &[y, indices])?;
    }
    Ok(y)
}

/// ResizeImages.
pub fn resize_images(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    one(resized(c)?)
}

/// ResizeArgmax: the channel of the largest element at each place of the resized picture, as
/// f32, the first of equal ones.
pub fn resize_argmax(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let y = resized(c)?;
    one(index_of_max(c, y, 1)?)
}
