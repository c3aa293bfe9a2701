//! Resize and Upsample, all forms.

use tobiuo_ops::{Coordinates, NearestRounding, Op, Resize, ResizeMode};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::one;
use crate::graph::ValueId;

/// A list of f32, one per axis, or `None` where it is missing or empty.
fn floats(c: &Context<'_, '_>, i: usize, what: &str) -> Res<Option<Vec<f32>>> {
    let Some(t) = c.constant_input(i, what)? else { return Ok(None) };
    match t.as_f32() {
        Some([]) => Ok(None),
        Some(v) => Ok(Some(v.to_vec())),
        None => invalid(format!("{what} must be floats, they are {}", t.dtype())),
    }
}

/// An output's extent from a scale, in f32 as ONNX Runtime computes it.
fn scaled(size: usize, scale: f32) -> Res<usize> {
    let out = (size as f32 * scale).floor();
    if out.is_finite() && (0.0..1e9).contains(&out) {
        Ok(out as usize)
    } else {
        invalid(format!("a scale of {scale} for an axis of {size}"))
    }
}

/// Upsample 7 and 9, and Resize 10, which has the same arithmetic: no shift of coordinates,
/// the nearest element is the one before, or the one after where the axis shrinks.
fn plain(c: &mut Context<'_, '_>, x: ValueId, scales: Vec<f32>) -> Res<Outputs> {
    let shape = c.shape(x);
    if scales.len() != shape.len() || scales.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return invalid(format!("scales {scales:?} do not fit x {shape:?}"));
    }
    let linear = match c.attributes.string_or("mode", "nearest")? {
        "nearest" => false,
        "linear" | "bilinear" => true,
        other => return invalid(format!("mode '{other}' is not in the standard")),
    };
    let part = |keep: &dyn Fn(f32) -> bool, shape: &[usize], mode| -> Res<Resize> {
        let scales: Vec<f32> = scales.iter().map(|&s| if keep(s) { s } else { 1.0 }).collect();
        let sizes =
            shape.iter().zip(&scales).map(|(&d, &s)| scaled(d, s)).collect::<Res<Vec<_>>>()?;
        Ok(Resize { sizes, scales, mode, coordinates: Coordinates::Asymmetric })
    };
    let mode = |rounding| ResizeMode::Nearest { rounding };
    if linear {
        let op = part(&|_| true, &shape, ResizeMode::Linear { antialias: false })?;
        let y = c.emit(Op::Resize(op), &[x])?;
        return one(y);
    }
    // Axes are independent, so those that shrink can be done after those that grow.
    let mut y = x;
    if !scales.iter().all(|&s| s < 1.0) {
        let op = part(&|s| s >= 1.0, &shape, mode(NearestRounding::Floor))?;
        y = c.emit(Op::Resize(op), &[y])?;
    }
    if scales.iter().any(|&s| s < 1.0) {
        let op = part(&|s| s < 1.0, &c.shape(y), mode(NearestRounding::Ceil))?;
        y = c.emit(Op::Resize(op), &[y])?;
    }
    one(y)
}

/// Upsample: scales are an attribute up to opset 8, an operand in 9; gone in 10.
pub fn upsample(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let scales = if c.opset < 9 {
        c.expect_inputs(1, 1)?;
        c.attributes.floats("scales")?.map(<[f32]>::to_vec)
    } else {
        c.expect_inputs(2, 2)?;
        floats(c, 1, "the scales")?
    };
    match scales {
        Some(scales) => plain(c, x, scales),
        None => invalid("the scales are missing"),
    }
}

/// Resize from opset 10 on.
pub fn resize(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    if c.opset < 11 {
        c.expect_inputs(2, 2)?;
        return match floats(c, 1, "the scales")? {
            Some(scales) => plain(c, x, scales),
            None => invalid("the scales are missing"),
        };
    }
    c.expect_inputs(1, 4)?;
    let shape = c.shape(x);
    let rank = shape.len();
    let axes = match c.attributes.ints("axes")? {
        Some(axes) if c.opset >= 18 => c.axes(axes, rank)?,
        Some(_) => return invalid("attribute 'axes' is new in opset 18"),
        None => (0..rank).collect(),
    };
    let coordinates = coordinates(c, &axes, rank)?;
    let (sizes, scales) = extents(c, &shape, &axes, &coordinates)?;
    let mode = mode(c)?;
    let op = Op::Resize(Resize { sizes, scales, mode, coordinates });
    let y = c.emit(op, &[x])?;
    one(y)
}

fn mode(c: &Context<'_, '_>) -> Res<ResizeMode> {
    let antialias = c.opset >= 18 && c.attributes.flag("antialias", false)?;
    let a = c.attributes.float_or("cubic_coeff_a", -0.75)?;
    let exclude_outside = c.attributes.flag("exclude_outside", false)?;
    let rounding = match c.attributes.string_or("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" | "" => NearestRounding::RoundPreferFloor,
        "round_prefer_ceil" => NearestRounding::RoundPreferCeil,
        "floor" => NearestRounding::Floor,
        "ceil" => NearestRounding::Ceil,
        other => return invalid(format!("nearest_mode '{other}' is not in the standard")),
    };
    Ok(match c.attributes.string_or("mode", "nearest")? {
        "nearest" => ResizeMode::Nearest { rounding },
        "linear" => ResizeMode::Linear { antialias },
        "cubic" => ResizeMode::Cubic { a, exclude_outside, antialias },
        other => return invalid(format!("mode '{other}' is not in the standard")),
    })
}

fn coordinates(c: &Context<'_, '_>, axes: &[usize], rank: usize) -> Res<Coordinates> {
    let extrapolation = c.attributes.float_or("extrapolation_value", 0.0)?;
    let name = c.attributes.string_or("coordinate_transformation_mode", "half_pixel")?;
    Ok(match name {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
        "tf_crop_and_resize" => {
            let n = axes.len();
            let Some(roi) = floats(c, 1, "the region of interest")?.filter(|r| r.len() == 2 * n)
            else {
                return invalid(format!("the region of interest needs {} numbers", 2 * n));
            };
            let (mut starts, mut ends) = (vec![0.0; rank], vec![1.0; rank]);
            for (i, &axis) in axes.iter().enumerate() {
                (starts[axis], ends[axis]) = (roi[i], roi[n + i]);
            }
            Coordinates::TfCropAndResize { starts, ends, extrapolation }
        }
        other => {
            return unsupported(format!("coordinate_transformation_mode '{other}'"), "");
        }
    })
}

/// Sizes and scales of every axis, from whichever of the two the node gives.
fn extents(
    c: &Context<'_, '_>,
    shape: &[usize],
    axes: &[usize],
    coordinates: &Coordinates,
) -> Res<(Vec<usize>, Vec<f32>)> {
    let n = axes.len();
    let mut sizes = shape.to_vec();
    let mut scales = vec![1.0; shape.len()];
    let policy = c.attributes.string_or("keep_aspect_ratio_policy", "stretch")?;
    let wanted = c.int_input(3, "the sizes")?.filter(|s| !s.is_empty());
    match (floats(c, 2, "the scales")?, wanted) {
        (Some(given), None) if given.len() == n => {
            for (&axis, &scale) in axes.iter().zip(&given) {
                if !scale.is_finite() || scale <= 0.0 {
                    return invalid(format!("scales {given:?} must be above 0"));
                }
                let taken = match coordinates {
                    Coordinates::TfCropAndResize { starts, ends, .. } => {
                        let part = ends[axis] - starts[axis];
                        let out = (shape[axis] as f32 * part * scale).floor();
                        if !(0.0..1e9).contains(&out) {
                            return invalid(format!("scale {scale} of a region of {part}"));
                        }
                        out as usize
                    }
                    _ => scaled(shape[axis], scale)?,
                };
                (sizes[axis], scales[axis]) = (taken, scale);
            }
        }
        (None, Some(given)) if given.len() == n => {
            let out: Option<Vec<usize>> = given.iter().map(|&s| usize::try_from(s).ok()).collect();
            let Some(out) = out.filter(|o| o.iter().all(|&s| s < 1 << 30)) else {
                return invalid(format!("sizes {given:?}"));
            };
            let ratio = |axis: usize, size: usize| size as f32 / (shape[axis].max(1)) as f32;
            let ratios = axes.iter().zip(&out).map(|(&a, &s)| ratio(a, s));
            let common = match policy {
                "stretch" => None,
                "not_larger" => Some(ratios.fold(f32::INFINITY, f32::min)),
                "not_smaller" => Some(ratios.fold(0.0, f32::max)),
                other => {
                    return invalid(format!(
                        "keep_aspect_ratio_policy '{other}' is not in the standard"
                    ));
                }
            };
            for (&axis, &size) in axes.iter().zip(&out) {
                (sizes[axis], scales[axis]) = match common {
                    None => (size, ratio(axis, size)),
                    Some(scale) => {
                        // Halves are rounded up.
                        let size = (scale * shape[axis] as f32 + 0.5).floor();
                        if !(0.0..1e9).contains(&size) {
                            return invalid(format!("sizes {given:?} for x {shape:?}"));
                        }
                        (size as usize, scale)
                    }
                };
            }
        }
        (Some(_), Some(_)) => return invalid("it gives scales and sizes, one is expected"),
        (scales, sizes) => {
            return invalid(format!(
                "scales {scales:?} and sizes {sizes:?} do not fit {n} axes of x {shape:?}"
            ));
        }
    }
    // An empty axis stays empty whatever its scale.
    for axis in 0..shape.len() {
        if shape[axis] == 0 || sizes[axis] == 0 {
            (sizes[axis], scales[axis]) = (if shape[axis] == 0 { 0 } else { sizes[axis] }, 1.0);
        }
    }
    Ok((sizes, scales))
}
