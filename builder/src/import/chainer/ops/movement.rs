//! Layers that move elements.

use serde_json::Value;
use tobiuo_ops::{Op, Slice};

use super::super::context::Context;
use super::super::fields::int;
use super::{axis_of, one};
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// Concat along `axis`, the channels where it is missing. A constant is there for each picture.
pub fn concat(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let Some(&first) = c.sources.first() else { return invalid("it has no sources") };
    let axis = c.fields.int("axis")?.unwrap_or(0);
    let axis = axis_of(c, first, axis)?;
    let sources = c.sources.clone();
    let batch = sources.iter().find(|&&v| c.importer.is_batched(v)).map(|_| c.importer.batch);
    let mut parts = Vec::with_capacity(sources.len());
    for v in sources {
        let mut shape = c.shape(v).to_vec();
        parts.push(match (batch, shape.first_mut()) {
            (Some(batch), Some(first @ 1)) if batch != 1 => {
                *first = batch;
                c.emit(Op::Expand { shape }, &[v])?
            }
            _ => v,
        });
    }
    one(c.emit(Op::Concat { axis }, &parts)?)
}

/// Reshape to `shape`, one of whose axes may be -1.
pub fn reshape(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let Some(wanted) = c.fields.ints("shape")? else { return invalid("shape is missing") };
    let elements: usize = c.shape(x).iter().skip(1).product();
    let bad = || invalid(format!("shape {wanted:?} does not fit its source {:?}", c.shape(x)));
    let mut shape = vec![c.lead(x)?];
    let mut known = 1usize;
    let mut open = None;
    for &d in &wanted {
        match (d, usize::try_from(d)) {
            (-1, _) if open.is_none() => open = Some(shape.len()),
            (_, Ok(d)) => match known.checked_mul(d) {
                Some(n) => known = n,
                None => return bad(),
            },
            _ => return bad(),
        }
        shape.push(usize::try_from(d).unwrap_or(1));
    }
    match open {
        Some(i) if known > 0 && elements.is_multiple_of(known) => shape[i] = elements / known,
        None if known == elements => {}
        _ => return bad(),
    }
    one(c.emit(Op::Reshape { shape }, &[x])?)
}

/// Transpose by `axes`, the batch staying where it is.
pub fn transpose(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let Some(axes) = c.fields.ints("axes")? else { return invalid("axes is missing") };
    c.lead(x)?;
    let mut perm = vec![0];
    for axis in axes {
        perm.push(axis_of(c, x, axis)?);
    }
    one(c.emit(Op::Transpose { perm }, &[x])?)
}

/// BroadcastTo `out_shape`.
pub fn broadcast_to(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    c.expect_shape("in_shape", x)?;
    let Some(out) = c.fields.sizes("out_shape")? else { return invalid("out_shape is missing") };
    let mut shape = vec![c.lead(x)?];
    shape.extend(out);
    let mut from = c.shape(x).to_vec();
    let missing = shape.len().saturating_sub(from.len());
    from.splice(1..1, std::iter::repeat_n(1, missing));
    let x = c.reshape(x, from)?;
    one(c.emit(Op::Expand { shape }, &[x])?)
}

/// Python's `slice(start, stop, step).indices(size)`: first index, step and number of elements.
fn slice_of(entry: &[Option<i64>; 3], size: usize) -> Res<(usize, i64, usize)> {
    let step = entry[2].unwrap_or(1);
    if step == 0 {
        return invalid("a slice has step 0");
    }
    let n = size as i64;
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |at: Option<i64>, default: i64| match at {
        None => default,
        Some(at) => (if at < 0 { at.saturating_add(n) } else { at }).clamp(low, high),
    };
    let (start, stop) = if step > 0 {
        (place(entry[0], 0), place(entry[1], n))
    } else {
        (place(entry[0], n - 1), place(entry[1], -1))
    };
    let span = if step > 0 { stop - start } else { start - stop };
    let len = if span > 0 { (span - 1) as u64 / step.unsigned_abs() + 1 } else { 0 };
    Ok((start.max(0) as usize, step, len as usize))
}

/// GetItem: for each axis `[start, stop, step]`, each of which may be null, or an index, which
/// removes the axis; axes that are not listed stay whole.
pub fn get_item(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let Some(slices) = c.fields.list("slices")? else { return invalid("slices is missing") };
    let lead = c.lead(x)?;
    let from = c.shape(x)[1..].to_vec();
    if slices.len() > from.len() {
        return invalid(format!("{} slices of a source {from:?} (without batch)", slices.len()));
    }
    let mut op = Slice { starts: vec![0], steps: vec![1], lens: vec![lead] };
    let mut shape = vec![lead];
    for (axis, &size) in from.iter().enumerate() {
        let (start, step, len) = match slices.get(axis) {
            None => (0, 1, size),
            Some(Value::Array(parts)) => {
                let part = |v: &Value| match v {
                    Value::Null => Some(None),
                    other => int(other).map(Some),
                };
                let parts: Option<Vec<Option<i64>>> = parts.iter().map(part).collect();
                match parts.as_deref().and_then(|p| <&[_; 3]>::try_from(p).ok()) {
                    Some(entry) => slice_of(entry, size)?,
                    None => {
                        return unsupported(
                            format!("slice {} of axis {axis}", slices[axis]),
                            "[start, stop, step] or an index is needed",
                        );
                    }
                }
            }
            Some(entry) => {
                let n = size as i64;
                let index = int(entry).map(|i| if i < 0 { i.saturating_add(n) } else { i });
                match index {
                    Some(i) if (0..n).contains(&i) => {
                        op.starts.push(i as usize);
                        op.steps.push(1);
                        op.lens.push(1);
                        continue;
                    }
                    Some(_) => {
                        return invalid(format!("index {entry} of axis {axis}, which has {size}"));
                    }
                    None => {
                        return unsupported(
                            format!("slice {entry} of axis {axis}"),
                            "[start, stop, step] or an index is needed",
                        );
                    }
                }
            }
        };
        if len == 0 {
            return invalid(format!(
                "slice {} of axis {axis}, which has {size}, takes nothing",
                slices.get(axis).unwrap_or(&Value::Null)
            ));
        }
        op.starts.push(start);
        op.steps.push(step);
        op.lens.push(len);
        shape.push(len);
    }
    let y = c.emit(Op::Slice(op), &[x])?;
    one(c.reshape(y, shape)?)
}

/// SplitAxis along `axis`, the channels where it is missing: into `sections` equal parts, or at
/// `indices`.
pub fn split_axis(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let axis = c.fields.int("axis")?.unwrap_or(0);
    let axis = axis_of(c, x, axis)?;
    let shape = c.shape(x).to_vec();
    let size = shape[axis];
    let mut bounds = vec![0];
    match (c.fields.size("sections")?, c.fields.sizes("indices")?) {
        (Some(n), None) if n > 0 && size.is_multiple_of(n) => {
            bounds.extend((1..n).map(|i| i * (size / n)));
        }
        (None, Some(indices)) => bounds.extend(indices),
        (sections, indices) => {
            return invalid(format!(
                "sections {sections:?}, indices {indices:?}: one of them must divide axis {axis} of \
                 {shape:?}"
            ));
        }
    }
    bounds.push(size);
    let mut parts = Vec::with_capacity(bounds.len() - 1);
    for pair in bounds.windows(2) {
        if pair[0] >= pair[1] {
            return invalid(format!("parts at {bounds:?} of axis {axis} must ascend"));
        }
        let mut op = Slice {
            starts: vec![0; shape.len()],
            steps: vec![1; shape.len()],
            lens: shape.clone(),
        };
        (op.starts[axis], op.lens[axis]) = (pair[0], pair[1] - pair[0]);
        parts.push(c.emit(Op::Slice(op), &[x])?);
    }
    Ok(parts)
}
