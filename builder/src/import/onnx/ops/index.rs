//! Concat, Split, Slice, Gather.

use tobiuo_ops::{Op, Slice};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid};
use super::one;

/// Concat.
pub fn concat(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let inputs = c.all_inputs()?;
    let (Some(&first), Some(axis)) = (inputs.first(), c.attributes.int("axis")?) else {
        return invalid("it needs an axis and at least one operand");
    };
    let axis = c.axis(axis, c.rank(first))?;
    if inputs.len() == 1 {
        return one(first);
    }
    let y = c.emit(Op::Concat { axis }, &inputs)?;
    one(y)
}

/// Sizes of the parts of an axis.
fn parts(c: &Context<'_, '_>, size: usize) -> Res<Vec<usize>> {
    let n = c.node.outputs.len();
    let given = if c.opset < 13 {
        c.expect_inputs(1, 1)?;
        c.attributes.ints("split")?.map(<[i64]>::to_vec)
    } else {
        c.expect_inputs(1, 2)?;
        c.int_input(1, "the sizes of the parts")?
    };
    let count = if c.opset >= 18 { c.attributes.int("num_outputs")? } else { None };
    if let Some(given) = given {
        let out: Option<Vec<usize>> = given.iter().map(|&p| usize::try_from(p).ok()).collect();
        let total = |p: &Vec<usize>| p.iter().try_fold(0usize, |s, &d| s.checked_add(d));
        return match out {
            Some(p) if p.len() == n && total(&p) == Some(size) => Ok(p),
            _ => {
                invalid(format!("parts {given:?} do not divide an axis of {size} into {n} outputs"))
            }
        };
    }
    if count.is_some_and(|count| usize::try_from(count) != Ok(n)) || n == 0 {
        return invalid(format!("num_outputs is {count:?}, the node has {n} outputs"));
    }
    if count.is_none() && !size.is_multiple_of(n) {
        return invalid(format!("an axis of {size} does not divide into {n} equal parts"));
    }
    let part = size.div_ceil(n);
    Ok((0..n).map(|i| part.min(size.saturating_sub(i * part))).collect())
}

/// Split: a Slice for each output.
pub fn split(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let shape = c.shape(x);
    let axis = c.axis(c.attributes.int_or("axis", 0)?, shape.len())?;
    let parts = parts(c, shape[axis])?;
    let mut outputs = Vec::with_capacity(parts.len());
    let mut start = 0;
    for (i, len) in parts.into_iter().enumerate() {
        if c.node.outputs[i].is_empty() {
            outputs.push(None);
        } else {
            let mut starts = vec![0; shape.len()];
            starts[axis] = start;
            let mut lens = shape.clone();
            lens[axis] = len;
            let op = Op::Slice(Slice { starts, steps: vec![1; shape.len()], lens });
            outputs.push(Some(c.emit(op, &[x])?));
        }
        start += len;
    }
    Ok(outputs)
}

/// Slice: attributes up to opset 9, operands from 10 on; starts and ends are clamped.
pub fn slice(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let shape = c.shape(x);
    let (starts, ends, axes, steps);
    if c.opset < 10 {
        c.expect_inputs(1, 1)?;
        starts = c.attributes.ints("starts")?.map(<[i64]>::to_vec);
        ends = c.attributes.ints("ends")?.map(<[i64]>::to_vec);
        axes = c.attributes.ints("axes")?.map(<[i64]>::to_vec);
        steps = None;
    } else {
        c.expect_inputs(3, 5)?;
        starts = c.int_input(1, "starts")?;
        ends = c.int_input(2, "ends")?;
        axes = c.int_input(3, "axes")?;
        steps = c.int_input(4, "steps")?;
    }
    let (Some(starts), Some(ends)) = (starts, ends) else {
        return invalid("starts or ends are missing");
    };
    let n = starts.len();
    let axes = axes.unwrap_or_else(|| (0..n as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; n]);
    if ends.len() != n || axes.len() != n || steps.len() != n {
        return invalid(format!(
            "starts {starts:?}, ends {ends:?}, axes {axes:?}, steps {steps:?} differ in length"
        ));
    }
    let axes = c.axes(&axes, shape.len())?;
    let mut op = Slice { starts: vec![0; shape.len()], steps: vec![1; shape.len()], lens: shape };
    for (i, axis) in axes.into_iter().enumerate() {
        let (start, len) = match part(starts[i], ends[i], steps[i], op.lens[axis]) {
            Some(p) => p,
            None => return invalid(format!("the step of axis {axis} is 0")),
        };
        // The step of one element says nothing, and may be out of any range.
        (op.starts[axis], op.steps[axis]) = (start, if len > 1 { steps[i] } else { 1 });
        op.lens[axis] = len;
    }
    let y = c.emit(Op::Slice(op), &[x])?;
    one(y)
}

/// First index and number of elements of `start:end:step` over an axis, as Python has it.
fn part(start: i64, end: i64, step: i64, size: usize) -> Option<(usize, usize)> {
    let size = size as i128;
    let wrap = |v: i64| if v < 0 { i128::from(v) + size } else { i128::from(v) };
    let step = i128::from(step);
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (start, end) = (wrap(start).clamp(low, high.max(low)), wrap(end).clamp(low, high.max(low)));
    let len = match step {
        0 => return None,
        s if s > 0 => (end - start + s - 1) / s,
        s => (start - end - s - 1) / -s,
    };
    if len <= 0 { Some((0, 0)) } else { Some((start as usize, len as usize)) }
}

/// Gather.
pub fn gather(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let (x, indices) = (c.input(0)?, c.input(1)?);
    let shape = c.shape(x);
    let axis = c.axis(c.attributes.int_or("axis", 0)?, shape.len())?;
    if let Some(values) = c.constant(indices).and_then(|t| t.to_i64()) {
        let size = shape[axis] as i64;
        if let Some(bad) = values.iter().find(|v| !(-size..size).contains(v)) {
            return invalid(format!("index {bad} is not in axis {axis} of x {shape:?}"));
        }
    }
    let y = c.emit(Op::Gather { axis }, &[x, indices])?;
    one(y)
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn parts_are_pythons() {
        for (start, end, step, size, want) in [
            (0, 5, 1, 5, (0, 5)),
            (1, i64::MAX, 1, 5, (1, 4)),
            (-3, -1, 1, 5, (2, 2)),
            (4, 2, 1, 5, (0, 0)),
            (0, 5, 2, 5, (0, 3)),
            (-1, i64::MIN, -1, 5, (4, 5)),
            (4, -6, -2, 5, (4, 3)),
            (10, 0, -1, 5, (4, 4)),
            (i64::MIN, i64::MAX, i64::MAX, 5, (0, 1)),
            (i64::MAX, i64::MIN, i64::MIN, 5, (4, 1)),
            (0, 3, 1, 0, (0, 0)),
            (0, -9, -1, 0, (0, 0)),
        ] {
            assert_eq!(part(start, end, step, size), Some(want), "{start}:{end}:{step} of {size}");
        }
        assert_eq!(part(0, 1, 0, 5), None);
    }
}
