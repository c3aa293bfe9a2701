//! Reshape and its kin, Transpose, Expand, Tile, DepthToSpace, SpaceToDepth.

use tobiuo_ops::Op;
use tobiuo_tensor::{broadcast, checked_numel};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid};
use super::super::tensor;
use super::one;

/// Reshape: 0 keeps an axis (unless `allowzero`), -1 takes what is left.
pub fn reshape(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let x = c.input(0)?;
    let from = c.shape(x);
    let wanted = c.int_input(1, "the shape")?.unwrap_or_default();
    let allow_zero = c.attributes.flag("allowzero", false)?;
    let bad = || invalid(format!("shape {wanted:?} does not fit x {from:?}"));
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &d) in wanted.iter().enumerate() {
        shape.push(match (d, usize::try_from(d)) {
            (0, _) if !allow_zero => match from.get(i) {
                Some(&d) => d,
                None => return bad(),
            },
            (-1, _) if open.is_none() => {
                open = Some(i);
                1
            }
            (_, Ok(d)) => d,
            _ => return bad(),
        });
    }
    let numel: usize = from.iter().product();
    if let Some(i) = open {
        match checked_numel(&shape) {
            Some(known) if known > 0 && numel.is_multiple_of(known) => shape[i] = numel / known,
            _ => return bad(),
        }
    }
    if checked_numel(&shape) != Some(numel) {
        return bad();
    }
    let y = c.emit(Op::Reshape { shape }, &[x])?;
    one(y)
}

/// Flatten to a matrix: axes before `axis` are rows, the others columns.
pub fn flatten(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let shape = c.shape(x);
    let axis = c.attributes.int_or("axis", 1)?;
    let axis = if axis == shape.len() as i64 { shape.len() } else { c.axis(axis, shape.len())? };
    let (rows, columns) = shape.split_at(axis);
    let shape = vec![rows.iter().product(), columns.iter().product()];
    let y = c.emit(Op::Reshape { shape }, &[x])?;
    one(y)
}

/// Transpose; all axes reversed where `perm` is missing.
pub fn transpose(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let rank = c.rank(x);
    let perm = match c.attributes.ints("perm")? {
        Some(perm) if perm.len() != rank => {
            return invalid(format!("perm {perm:?} does not fit x {:?}", c.shape(x)));
        }
        Some(perm) => c.axes(perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    let y = c.emit(Op::Transpose { perm }, &[x])?;
    one(y)
}

/// Axes as an attribute up to opset 12, as an operand from 13 on.
fn axes(c: &Context<'_, '_>) -> Res<Option<Vec<i64>>> {
    if c.opset < 13 {
        c.expect_inputs(1, 1)?;
        return Ok(c.attributes.ints("axes")?.map(<[i64]>::to_vec));
    }
    c.expect_inputs(1, 2)?;
    c.int_input(1, "axes")
}

/// Squeeze; every axis of size 1 where none are named.
pub fn squeeze(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let shape = c.shape(x);
    let axes = match axes(c)? {
        Some(axes) => c.axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
    };
    if let Some(axis) = axes.iter().find(|&&a| shape[a] != 1) {
        return invalid(format!("axis {axis} of x {shape:?} is not 1"));
    }
    let left = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i]).collect();
    let y = c.emit(Op::Reshape { shape: left }, &[x])?;
    one(y)
}

/// Unsqueeze; axes count in the output.
pub fn unsqueeze(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let shape = c.shape(x);
    let Some(axes) = axes(c)? else { return invalid("axes are missing") };
    let rank = shape.len() + axes.len();
    let axes = c.axes(&axes, rank)?;
    let mut rest = shape.iter();
    let out = (0..rank)
        .map(|i| if axes.contains(&i) { 1 } else { rest.next().copied().unwrap_or(1) })
        .collect();
    let y = c.emit(Op::Reshape { shape: out }, &[x])?;
    one(y)
}

/// Expand: both shapes broadcast.
pub fn expand(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let x = c.input(0)?;
    let wanted = c.int_input(1, "the shape")?.unwrap_or_default();
    // -1 keeps an axis: PyTorch writes it, ONNX Runtime takes it as 1.
    let wanted: Vec<i64> = wanted.into_iter().map(|d| if d == -1 { 1 } else { d }).collect();
    let wanted = tensor::shape(&wanted)?;
    let from = c.shape(x);
    let Some(shape) = broadcast(&from, &wanted) else {
        return invalid(format!("x {from:?} does not broadcast to {wanted:?}"));
    };
    let y = c.emit(Op::Expand { shape }, &[x])?;
    one(y)
}

/// Tile.
pub fn tile(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let repeats = c.int_input(1, "the repeats")?.unwrap_or_default();
    let out: Option<Vec<usize>> = repeats.iter().map(|&r| usize::try_from(r).ok()).collect();
    let Some(out) = out else { return invalid(format!("repeats {repeats:?} below 0")) };
    let y = c.emit(Op::Tile { repeats: out }, &[c.input(0)?])?;
    one(y)
}

/// x's shape `[N, C, H, W]` and the block size.
fn blocks(c: &Context<'_, '_>) -> Res<([usize; 4], usize)> {
    c.expect_inputs(1, 1)?;
    let shape = c.shape(c.input(0)?);
    let block = c.attributes.int("blocksize")?.and_then(|b| usize::try_from(b).ok());
    match (<[usize; 4]>::try_from(shape.as_slice()), block) {
        (Ok(shape), Some(b)) if b > 0 && b < 1 << 16 => Ok((shape, b)),
        _ => invalid(format!("blocksize {block:?} or x {shape:?}, which must be [N, C, H, W]")),
    }
}

/// DepthToSpace: Reshape, Transpose, Reshape.
pub fn depth_to_space(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let ([n, ch, h, w], b) = blocks(c)?;
    if ch % (b * b) != 0 {
        return invalid(format!("blocks of {b} x {b} do not divide {ch} channels"));
    }
    let out = ch / (b * b);
    let (split, perm) = match c.attributes.string_or("mode", "DCR")? {
        "DCR" => (vec![n, b, b, out, h, w], vec![0, 3, 4, 1, 5, 2]),
        "CRD" => (vec![n, out, b, b, h, w], vec![0, 1, 4, 2, 5, 3]),
        other => return invalid(format!("mode '{other}' is not in the standard")),
    };
    let y = c.emit(Op::Reshape { shape: split }, &[x])?;
    let y = c.emit(Op::Transpose { perm }, &[y])?;
    let y = c.emit(Op::Reshape { shape: vec![n, out, h * b, w * b] }, &[y])?;
    one(y)
}

/// SpaceToDepth: Reshape, Transpose, Reshape.
pub fn space_to_depth(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let ([n, ch, h, w], b) = blocks(c)?;
    if h % b != 0 || w % b != 0 {
        return invalid(format!("blocks of {b} x {b} do not divide {h} x {w}"));
    }
    // The mode is new in opset 28; before, it is what is now DCR.
    let perm = match c.attributes.string_or("mode", "DCR")? {
        "DCR" => vec![0, 3, 5, 1, 2, 4],
        "CRD" => vec![0, 1, 3, 5, 2, 4],
        other => return invalid(format!("mode '{other}' is not in the standard")),
    };
    let y = c.emit(Op::Reshape { shape: vec![n, ch, h / b, b, w / b, b] }, &[x])?;
    let y = c.emit(Op::Transpose { perm }, &[y])?;
    let y = c.emit(Op::Reshape { shape: vec![n, ch * b * b, h / b, w / b] }, &[y])?;
    one(y)
}
