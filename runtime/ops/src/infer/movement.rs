//! Operators that move, repeat or resample elements.

use tobiuo_tensor::{DType, Shape};

use super::{Fact, Facts, axis_in, broadcast_to, count, exactly, finite, float, same_type};
use crate::{Coordinates, Pad, PadMode, Resize, ResizeMode, Slice};

pub(super) fn concat(axis: usize, inputs: &[Fact]) -> Facts {
    let [first, rest @ ..] = inputs else {
        return Err("takes at least 1 input, none is given".into());
    };
    axis_in(axis, first)?;
    let mut shape = first.shape.clone();
    for (i, fact) in rest.iter().enumerate() {
        let i = i + 1;
        same_type(&format!("input {i}"), fact, "input 0", first)?;
        let fits = fact.shape.len() == shape.len()
            && (0..shape.len()).all(|d| d == axis || fact.shape[d] == first.shape[d]);
        if !fits {
            return Err(format!(
                "input {i} {:?} does not fit input 0 {:?}: they may differ in axis {axis} only",
                fact.shape, first.shape
            ));
        }
        shape[axis] = shape[axis]
            .checked_add(fact.shape[axis])
            .ok_or_else(|| format!("axis {axis} of the output is too long"))?;
    }
    Ok(vec![Fact { dtype: first.dtype, shape }])
}

pub(super) fn slice(a: &Slice, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let rank = x.shape.len();
    for (name, len) in
        [("starts", a.starts.len()), ("steps", a.steps.len()), ("lens", a.lens.len())]
    {
        count(name, len, rank, "one per axis of x")?;
    }
    for axis in 0..rank {
        let (size, start, step, len) = (x.shape[axis], a.starts[axis], a.steps[axis], a.lens[axis]);
        if step == 0 {
            return Err(format!("the step of axis {axis} is 0"));
        }
        let last = start as i128 + step as i128 * (len as i128 - 1);
        let inside = if len == 0 {
            start <= size
        } else {
            start < size && (0..size as i128).contains(&last)
        };
        if !inside {
            return Err(format!(
                "axis {axis}: {len} elements from {start} in steps of {step} leave x {:?}",
                x.shape
            ));
        }
    }
    Ok(vec![Fact::new(x.dtype, a.lens.as_slice())])
}

pub(super) fn gather(axis: usize, inputs: &[Fact]) -> Facts {
    let [x, indices] = exactly(inputs, "x, indices")?;
    axis_in(axis, x)?;
    if !matches!(indices.dtype, DType::I64 | DType::I32) {
        return Err(format!("the indices are {}, they must be i64 or i32", indices.dtype));
    }
    if x.shape[axis] == 0 && indices.numel() > 0 {
        return Err(format!(
            "axis {axis} of x {:?} has no element for indices {:?}",
            x.shape, indices.shape
        ));
    }
    let mut shape = x.shape[..axis].to_vec();
    shape.extend_from_slice(&indices.shape);
    shape.extend_from_slice(&x.shape[axis + 1..]);
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn reshape(shape: &[usize], inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if numel != Some(x.numel()) {
        return Err(format!(
            "x {:?} has {} elements, shape {shape:?} has {}",
            x.shape,
            x.numel(),
            numel.map_or("too many".into(), |n| n.to_string())
        ));
    }
    Ok(vec![Fact::new(x.dtype, shape)])
}

pub(super) fn transpose(perm: &[usize], inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let rank = x.shape.len();
    let is_permutation = perm.len() == rank && (0..rank).all(|axis| perm.contains(&axis));
    if !is_permutation {
        return Err(format!(
            "perm {perm:?} is not a permutation of the {rank} axes of {:?}",
            x.shape
        ));
    }
    let shape: Shape = perm.iter().map(|&p| x.shape[p]).collect();
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn expand(shape: &[usize], inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    broadcast_to("x", &x.shape, shape)?;
    Ok(vec![Fact::new(x.dtype, shape)])
}

pub(super) fn tile(repeats: &[usize], inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    count("repeats", repeats.len(), x.shape.len(), "one per axis of x")?;
    let shape = x
        .shape
        .iter()
        .zip(repeats)
        .map(|(&d, &r)| d.checked_mul(r))
        .collect::<Option<Shape>>()
        .ok_or_else(|| format!("x {:?} repeated {repeats:?} times is too large", x.shape))?;
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn pad(a: &Pad, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let rank = x.shape.len();
    count("begins", a.begins.len(), rank, "one per axis of x")?;
    count("ends", a.ends.len(), rank, "one per axis of x")?;
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let (size, begin, end) =
            (x.shape[axis] as i128, a.begins[axis] as i128, a.ends[axis] as i128);
        // What is left of x after cropping; the padding is made from that.
        let left = size + begin.min(0) + end.min(0);
        if left < 0 {
            return Err(format!(
                "axis {axis}: pads {begin} and {end} remove more than the {size} elements of x {:?}",
                x.shape
            ));
        }
        let grows = begin > 0 || end > 0;
        if left == 0 && grows && !matches!(a.mode, PadMode::Constant { .. }) {
            return Err(format!(
                "axis {axis}: nothing is left of x {:?} to pad from, pads are {begin} and {end}",
                x.shape
            ));
        }
        let out = usize::try_from(size + begin + end)
            .map_err(|_| format!("axis {axis}: pads {begin} and {end} are too large"))?;
        shape.push(out);
    }
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn resize(a: &Resize, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    let rank = x.shape.len();
    let what = "one per axis of x";
    count("sizes", a.sizes.len(), rank, what)?;
    count("scales", a.scales.len(), rank, what)?;
    let antialias = match a.mode {
        ResizeMode::Nearest { .. } => false,
        ResizeMode::Linear { antialias } => {
            float("x", x)?;
            antialias
        }
        ResizeMode::Cubic { a, antialias, .. } => {
            float("x", x)?;
            finite("the cubic coefficient", a)?;
            antialias
        }
    };
    let crop = if let Coordinates::TfCropAndResize { starts, ends, extrapolation } = &a.coordinates
    {
        count("starts", starts.len(), rank, what)?;
        count("ends", ends.len(), rank, what)?;
        for &v in starts.iter().chain(ends) {
            finite("a bound of the region of interest", v)?;
        }
        if extrapolation.is_nan() {
            return Err("the extrapolation value is not a number".into());
        }
        true
    } else {
        false
    };
    if crop && antialias {
        return Err("antialias does not go with tf_crop_and_resize".into());
    }
    for axis in 0..rank {
        let (size, out, scale) = (x.shape[axis], a.sizes[axis], a.scales[axis]);
        if !scale.is_finite() || scale <= 0.0 {
            return Err(format!("the scale of axis {axis} is {scale}, it must be above 0"));
        }
        if size == 0 && out != 0 {
            return Err(format!("axis {axis} of x {:?} is empty, size {out} is asked", x.shape));
        }
        // A size is the scaled extent, rounded to a neighbour; half of it at least, so that an
        // antialiasing filter is never wider than a few times x. A region of interest takes
        // any size.
        let scaled = f64::from(scale) * size as f64;
        let slack = 1e-4 * scaled + 1e-6;
        let (low, high) = (scaled - 1.0 - slack, scaled + 0.5 + slack);
        if !crop && !(low..=high).contains(&(out as f64)) {
            return Err(format!(
                "axis {axis}: x {:?} times {scale} gives {scaled}, the output's size is {out}",
                x.shape
            ));
        }
    }
    Ok(vec![Fact::new(x.dtype, a.sizes.as_slice())])
}

pub(super) fn cast(to: DType, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    Ok(vec![Fact::new(to, x.shape.as_slice())])
}
