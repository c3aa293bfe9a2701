//! GatherElements, GatherND, ScatterElements, ScatterND, OneHot: all by Gather over a flat list.

use std::collections::HashMap;

use tobiuo_ops::{Binary, Op};
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::arithmetic::emit_binary;
use super::one;
use crate::graph::ValueId;

/// Updates of one place that a scatter with a reduction may have.
const MAX_ROUNDS: usize = 64;

fn list(c: &mut Context<'_, '_>, shape: Vec<usize>, values: Vec<i64>) -> ValueId {
    c.add_constant(Tensor::new(shape, TensorData::I64(values)))
}

/// Elements between neighbours along each axis.
fn strides(shape: &[usize]) -> Vec<i64> {
    let mut out = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        out[axis - 1] = out[axis] * shape[axis] as i64;
    }
    out
}

/// Indices as i64 that count from the start, of an axis of a size, times a step.
fn from_start(c: &mut Context<'_, '_>, indices: ValueId, size: usize, step: i64) -> Res<ValueId> {
    let mut y = indices;
    if c.dtype(y) != DType::I64 {
        y = c.emit(Op::Cast { to: DType::I64 }, &[y])?;
    }
    let size = list(c, vec![], vec![size as i64]);
    // With the divisor's sign, as Python's.
    y = emit_binary(c, Binary::Mod, y, size)?;
    if step == 1 {
        return Ok(y);
    }
    let step = list(c, vec![], vec![step]);
    emit_binary(c, Binary::Mul, y, step)
}

/// Refuses constant indices that are not in their axis, and any into an empty one.
fn check_range(c: &Context<'_, '_>, indices: ValueId, size: usize) -> Res<()> {
    if size == 0 && !c.shape(indices).contains(&0) {
        return invalid("an index into an axis of no elements");
    }
    let size = size as i64;
    match c.constant(indices).and_then(|t| t.to_i64()) {
        Some(v) => match v.iter().find(|v| !(-size..size).contains(v)) {
            Some(bad) => invalid(format!("index {bad} is not in an axis of {size}")),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

/// GatherElements: `y[i][j][k] = x[indices[i][j][k]][j][k]` for axis 0, so for the others.
pub fn gather_elements(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let (xs, shape) = (c.shape(x), c.shape(indices));
    let axis = c.axis(c.attributes.int_or("axis", 0)?, xs.len())?;
    let fits = |(a, (&i, &d)): (usize, (&usize, &usize))| a == axis || i <= d;
    if shape.len() != xs.len() || !shape.iter().zip(&xs).enumerate().all(fits) {
        return invalid(format!("indices {shape:?} do not fit x {xs:?} along axis {axis}"));
    }
    check_range(c, indices, xs[axis])?;
    let strides = strides(&xs);
    let along = from_start(c, indices, xs[axis], strides[axis])?;
    // Where each element's own row begins.
    let mut kept = shape.clone();
    kept[axis] = 1;
    c.make_up(kept.iter().product())?;
    let mut others = vec![0i64];
    for (a, &len) in shape.iter().enumerate() {
        let step = if a == axis { 0 } else { strides[a] };
        let len = if a == axis { 1 } else { len };
        others = others.iter().flat_map(|&o| (0..len as i64).map(move |i| o + i * step)).collect();
    }
    let others = list(c, kept, others);
    let places = emit_binary(c, Binary::Add, along, others)?;
    let flat = c.reshape(x, vec![xs.iter().product()])?;
    let y = c.emit(Op::Gather { axis: 0 }, &[flat, places])?;
    one(y)
}

/// GatherND: the last axis of the indices names a place in the first axes of x.
pub fn gather_nd(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let (xs, shape) = (c.shape(x), c.shape(indices));
    let batch = c.attributes.int_or("batch_dims", 0)?;
    let batch = match usize::try_from(batch) {
        Ok(b) if b < shape.len().min(xs.len()) && xs[..b] == shape[..b] => b,
        _ => return invalid(format!("batch_dims {batch}, x {xs:?}, indices {shape:?}")),
    };
    let Some((&named, outer)) = shape.split_last() else {
        return invalid("the indices have no axes");
    };
    if named == 0 || batch + named > xs.len() {
        return invalid(format!("indices {shape:?} name {named} axes of x {xs:?}"));
    }
    let first = &xs[..batch + named];
    let strides = strides(first);
    let last = shape.len() - 1;
    let mut places = None;
    for (i, axis) in (batch..batch + named).enumerate() {
        let which = list(c, vec![], vec![i as i64]);
        let index = c.emit(Op::Gather { axis: last }, &[indices, which])?;
        check_range(c, index, xs[axis])?;
        let index = from_start(c, index, xs[axis], strides[axis])?;
        places = Some(match places {
            None => index,
            Some(sum) => emit_binary(c, Binary::Add, sum, index)?,
        });
    }
    let Some(mut places) = places else { return invalid("no axis is named") };
    if batch > 0 {
        let rows: usize = xs[..batch].iter().product();
        let step: usize = first[batch..].iter().product();
        c.make_up(rows)?;
        let mut shape = xs[..batch].to_vec();
        shape.resize(outer.len(), 1);
        let begins = list(c, shape, (0..rows as i64).map(|r| r * step as i64).collect());
        places = emit_binary(c, Binary::Add, places, begins)?;
    }
    let rows = [&[first.iter().product()], &xs[batch + named..]].concat();
    let flat = c.reshape(x, rows)?;
    let y = c.emit(Op::Gather { axis: 0 }, &[flat, places])?;
    one(y)
}

/// ScatterElements, and Scatter as it was called up to opset 10.
pub fn scatter_elements(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    let (x, indices, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (xs, shape) = (c.shape(x), c.shape(indices));
    let axis = c.axis(c.attributes.int_or("axis", 0)?, xs.len())?;
    let values = constant_places(c)?;
    let fits = shape.len() == xs.len() && shape.iter().zip(&xs).all(|(i, d)| i <= d);
    if !fits || c.shape(updates) != shape {
        return invalid(format!("x {xs:?}, indices {shape:?}, updates {:?}", c.shape(updates)));
    }
    check_range(c, indices, xs[axis])?;
    let (into, from) = (strides(&xs), strides(&shape));
    let mut places = Vec::with_capacity(values.len());
    for (n, &value) in values.iter().enumerate() {
        let mut place = value.rem_euclid(xs[axis] as i64) * into[axis];
        for a in (0..shape.len()).filter(|&a| a != axis) {
            place += (n as i64 / from[a]) % shape[a] as i64 * into[a];
        }
        places.push(place as usize);
    }
    scatter(c, x, updates, &places, 1)
}

/// ScatterND: the last axis of the indices names a place in the first axes of x.
pub fn scatter_nd(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    let (x, indices, updates) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let (xs, shape) = (c.shape(x), c.shape(indices));
    let values = constant_places(c)?;
    let named = shape.last().copied().unwrap_or(0);
    if named == 0 || named > xs.len() {
        return invalid(format!("indices {shape:?} name {named} axes of x {xs:?}"));
    }
    if c.shape(updates) != [&shape[..shape.len() - 1], &xs[named..]].concat() {
        return invalid(format!("x {xs:?}, indices {shape:?}, updates {:?}", c.shape(updates)));
    }
    let strides = strides(&xs[..named]);
    let mut places = Vec::new();
    for index in values.chunks(named) {
        let mut place = 0;
        for (axis, &i) in index.iter().enumerate() {
            let size = xs[axis] as i64;
            if !(-size..size).contains(&i) {
                return invalid(format!("index {i} is not in axis {axis} of x {xs:?}"));
            }
            place += i.rem_euclid(size) * strides[axis];
        }
        places.push(place as usize);
    }
    scatter(c, x, updates, &places, xs[named..].iter().product())
}

fn constant_places(c: &Context<'_, '_>) -> Res<Vec<i64>> {
    match c.constant_input(1, "the places")?.and_then(|t| t.to_i64()) {
        Some(values) => Ok(values),
        None => invalid("the places are no integers"),
    }
}

/// x as slices of some elements, those at the places replaced by the updates or combined with
/// them.
fn scatter(
    c: &mut Context<'_, '_>,
    x: ValueId,
    updates: ValueId,
    places: &[usize],
    slice: usize,
) -> Res<Outputs> {
    let reduction = match c.attributes.string_or("reduction", "none")? {
        "none" => None,
        "add" => Some(Binary::Add),
        "mul" => Some(Binary::Mul),
        "max" => Some(Binary::Max),
        "min" => Some(Binary::Min),
        other => return invalid(format!("reduction '{other}' is not in the standard")),
    };
    let shape = c.shape(x);
    let all = shape.iter().product::<usize>() / slice.max(1);
    let mut y = c.reshape(x, vec![all, slice])?;
    let updates = c.reshape(updates, vec![places.len(), slice])?;
    // Which update each place takes, in rounds: one update a place and round.
    let mut rounds: Vec<HashMap<usize, usize>> = Vec::new();
    for (update, &place) in places.iter().enumerate() {
        let free = |r: &HashMap<usize, usize>| reduction.is_none() || !r.contains_key(&place);
        let round = rounds.iter().position(free).unwrap_or(rounds.len());
        if round == MAX_ROUNDS {
            let what = format!("one place is updated more than {MAX_ROUNDS} times");
            return unsupported(what, "");
        }
        if round == rounds.len() {
            rounds.push(HashMap::new());
        }
        // Without a reduction the last one stays.
        rounds[round].insert(place, update);
    }
    for round in rounds {
        // Places without an update take what is there, or nothing to add or multiply with.
        let idle = match reduction {
            Some(kind @ (Binary::Add | Binary::Mul)) => {
                let unit = f64::from(u8::from(kind == Binary::Mul));
                let Some(unit) = c.scalar_of(c.dtype(y), unit) else {
                    return unsupported(format!("a reduction of {}", c.dtype(y)), "");
                };
                c.emit(Op::Expand { shape: vec![1, slice] }, &[unit])?
            }
            _ => y,
        };
        let idles = c.shape(idle)[0];
        c.make_up(all)?;
        let either = c.emit(Op::Concat { axis: 0 }, &[idle, updates])?;
        let source = |place: usize| match round.get(&place) {
            Some(&update) => (idles + update) as i64,
            None if idles == 1 => 0,
            None => place as i64,
        };
        let sources = list(c, vec![all], (0..all).map(source).collect());
        let taken = c.emit(Op::Gather { axis: 0 }, &[either, sources])?;
        y = match reduction {
            Some(kind) => emit_binary(c, kind, y, taken)?,
            None => taken,
        };
    }
    let y = c.reshape(y, shape)?;
    one(y)
}

/// OneHot: along a new axis, the second of two values where the index is, else the first.
pub fn one_hot(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(3, 3)?;
    let (mut indices, values) = (c.input(0)?, c.input(2)?);
    let shape = c.shape(indices);
    let depth = match c.number(1, "the depth")? {
        Some(d) if d >= 1.0 && d.fract() == 0.0 && d < 1e9 => d as usize,
        other => return invalid(format!("the depth is {other:?}")),
    };
    if c.shape(values) != [2] {
        return invalid(format!("the values {:?} must be two", c.shape(values)));
    }
    let axis = c.axis(c.attributes.int_or("axis", -1)?, shape.len() + 1)?;
    if c.dtype(indices) != DType::I64 {
        indices = c.emit(Op::Cast { to: DType::I64 }, &[indices])?;
    }
    let zero = list(c, vec![], vec![0]);
    let size = list(c, vec![], vec![depth as i64]);
    let negative = emit_binary(c, Binary::Less, indices, zero)?;
    let wrapped = emit_binary(c, Binary::Add, indices, size)?;
    // Indices beyond either end name no place.
    let index = c.emit(Op::Where, &[negative, wrapped, indices])?;
    let mut with_axis = shape;
    with_axis.insert(axis, 1);
    let rank = with_axis.len();
    let index = c.reshape(index, with_axis)?;
    let places = places_along(c, depth, axis, rank)?;
    let here = emit_binary(c, Binary::Equal, index, places)?;
    let one_value = list(c, vec![], vec![1]);
    let on = c.emit(Op::Gather { axis: 0 }, &[values, one_value])?;
    let off = c.emit(Op::Gather { axis: 0 }, &[values, zero])?;
    let y = c.emit(Op::Where, &[here, on, off])?;
    one(y)
}

/// The numbers 0, 1, ... along an axis of so many.
pub fn places_along(
    c: &mut Context<'_, '_>,
    count: usize,
    axis: usize,
    rank: usize,
) -> Res<ValueId> {
    c.make_up(count)?;
    let mut shape = vec![1; rank];
    shape[axis] = count;
    Ok(list(c, shape, (0..count as i64).collect()))
}
