//! Resize as ONNX Resize-19 has it: nearest by tables of indices, linear and cubic by one
//! pass per axis with tables of weights.
//!
//! Coordinates and weights follow the operator's reference implementation in the onnx
//! package (`onnx/reference/ops/op_resize.py`).

use tobiuo_ops::{Coordinates, Fact, NearestRounding, Resize, ResizeMode};
use tobiuo_tensor::{DType, TensorViewMut};

use super::f32s::scratch_f32;
use super::mapped::{FIXED, Mapped};
use super::walk::{parts, slice, slice_mut, table, vectorised};
use crate::{CpuError, Inputs, Kernel};

/// One axis' way from output to input coordinates.
struct Scale<'a> {
    coordinates: &'a Coordinates,
    axis: usize,
    /// Extents.
    len: usize,
    out: usize,
    /// Output / input.
    scale: f64,
}

impl Scale<'_> {
    fn new<'a>(a: &'a Resize, axis: usize, x: &Fact) -> Scale<'a> {
        let (len, out) = (x.shape[axis], a.sizes[axis]);
        // A scale is stored in single precision. Where it is the ratio of the sizes, the exact
        // ratio is meant; else the number that was written down (0.6, not 0.60000002): the
        // difference decides which neighbour is the nearest one.
        let ratio = out as f64 / len as f64;
        let scale = a.scales[axis];
        let scale = if ratio as f32 == scale {
            ratio
        } else {
            scale.to_string().parse().unwrap_or(f64::from(scale))
        };
        Scale { coordinates: &a.coordinates, axis, len, out, scale }
    }

    /// The input coordinate of output element `i`; `None` where the extrapolation value goes.
    fn source(&self, i: usize) -> Option<f64> {
        let (x, len, scale) = (i as f64, self.len as f64, self.scale);
        let resized = scale * len;
        let centre = (x + 0.5) / scale;
        let half_pixel = centre - 0.5;
        Some(match self.coordinates {
            Coordinates::HalfPixel => half_pixel,
            // In this order: a coordinate beside a whole number has another neighbour than one on it.
            Coordinates::HalfPixelSymmetric => {
                len / 2.0 * (1.0 - self.out as f64 / resized) + centre - 0.5
            }
            Coordinates::PytorchHalfPixel if resized == 1.0 => -0.5,
            Coordinates::PytorchHalfPixel => half_pixel,
            Coordinates::AlignCorners if resized == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (len - 1.0) / (resized - 1.0),
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfHalfPixelForNn => centre,
            Coordinates::TfCropAndResize { starts, ends, .. } => {
                let (start, end) = (f64::from(starts[self.axis]), f64::from(ends[self.axis]));
                // The region is resampled to the output's size, whatever the scale.
                let span = (end - start) * (len - 1.0);
                let within = match self.out {
                    1 => span / 2.0,
                    out => x * span / (out as f64 - 1.0),
                };
                let source = within + start * (len - 1.0);
                return (0.0..=len - 1.0).contains(&source).then_some(source);
            }
        })
    }
}

/// The input element that each output element along an axis is a copy of, or [`FIXED`].
pub(super) fn nearest_table(
    a: &Resize,
    axis: usize,
    x: &Fact,
    rounding: NearestRounding,
) -> Result<Vec<usize>, CpuError> {
    let scale = Scale::new(a, axis, x);
    let index = |i| scale.source(i).map_or(FIXED, |s| nearest(s, rounding, scale.len));
    table(scale.out, (0..scale.out).map(index))
}

fn nearest(source: f64, rounding: NearestRounding, len: usize) -> usize {
    let floor = source.floor();
    let above = source - floor;
    let up = match rounding {
        NearestRounding::RoundPreferFloor => above > 0.5,
        NearestRounding::RoundPreferCeil => above >= 0.5,
        NearestRounding::Floor => false,
        NearestRounding::Ceil => above > 0.0,
    };
    let index = if up { floor + 1.0 } else { floor };
    (index.max(0.0) as usize).min(len - 1)
}

/// For each output element along an axis, the first input element that it takes and the
/// weights of `taps` elements from there on.
pub(super) struct Pass {
    len: usize,
    pub(super) taps: usize,
    pub(super) starts: Vec<usize>,
    pub(super) weights: Vec<f32>,
    /// Elements that an axis step moves over.
    inner: usize,
    outer: usize,
}

impl Pass {
    fn out(&self) -> usize {
        self.starts.len()
    }
}

/// The weights of [`ResizeMode`]'s filter for an element `ratio` (above 0, at most 1) behind
/// its left neighbour; the first weight belongs to the element `before` that neighbour.
struct Filter {
    mode: ResizeMode,
    scale: f64,
    /// Elements before the left neighbour.
    before: isize,
    taps: usize,
}

impl Filter {
    fn new(mode: ResizeMode, scale: f64) -> Filter {
        let (reach, antialias) = match mode {
            ResizeMode::Cubic { antialias, .. } => (2.0, antialias),
            ResizeMode::Linear { antialias } => (1.0, antialias),
            ResizeMode::Nearest { .. } => (1.0, false),
        };
        // Antialiasing widens the filter when the picture shrinks.
        let scale = if antialias { scale.min(1.0) } else { 1.0 };
        let before = -((-reach / scale).floor() as isize + 1);
        Filter { mode, scale, before, taps: 2 * (before as usize + 1) }
    }

    fn weight(&self, tap: usize, ratio: f64) -> f64 {
        let x = ((tap as f64 - self.before as f64 - ratio) * self.scale).abs();
        match self.mode {
            ResizeMode::Cubic { a, .. } => {
                // Keys, "Cubic convolution interpolation for digital image processing" (1981).
                let a = f64::from(a);
                if x <= 1.0 {
                    ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
                } else {
                    0.0
                }
            }
            _ => (1.0 - x).max(0.0),
        }
    }
}

/// The pass of one axis, or `None` when it changes nothing. The numbers of elements before
/// and behind the axis are not known yet.
pub(super) fn pass(a: &Resize, axis: usize, x: &Fact) -> Result<Option<Pass>, CpuError> {
    let scale = Scale::new(a, axis, x);
    let (len, out) = (scale.len, scale.out);
    let filter = Filter::new(a.mode, scale.scale);
    let exclude = matches!(a.mode, ResizeMode::Cubic { exclude_outside: true, .. });
    let taps = filter.taps.min(len);
    let mut starts = table(out, std::iter::repeat_n(0, out))?;
    let count = taps
        .checked_mul(out)
        .ok_or_else(|| CpuError(format!("Resize: {taps} x {out} weights are too many")))?;
    let mut weights = table(count, std::iter::repeat_n(0.0f32, count))?;
    let mut raw = table(filter.taps, std::iter::repeat_n(0.0, filter.taps))?;
    let mut identity = len == out;
    for i in 0..out {
        let Some(source) = scale.source(i) else {
            // No weights: the element's sum is zero and the extrapolation value is put there.
            starts[i] = FIXED;
            identity = false;
            continue;
        };
        // The left neighbour is strictly left: a whole coordinate has ratio 1.
        let left = source.ceil() - 1.0;
        let ratio = source - left;
        let first = left as isize - filter.before;
        let inside = |tap: usize| (0..len as isize).contains(&(first + tap as isize));
        let mut sum = 0.0;
        for (tap, w) in raw.iter_mut().enumerate() {
            *w = if exclude && !inside(tap) { 0.0 } else { filter.weight(tap, ratio) };
            sum += *w;
        }
        let sum = if sum == 0.0 { 1.0 } else { sum };
        // Elements outside are the edge's copies: their weights add up there.
        let last_start = (len - taps) as isize;
        let start = first.clamp(0, last_start) as usize;
        let line = &mut weights[i * taps..][..taps];
        for (tap, w) in raw.iter().enumerate() {
            let at = (first + tap as isize).clamp(0, len as isize - 1) as usize;
            // A weight beyond the stored taps can only be one that is zero.
            if let Some(slot) = line.get_mut(at.wrapping_sub(start)) {
                *slot += (w / sum) as f32;
            }
        }
        starts[i] = start;
        let one = |(tap, &w): (usize, &f32)| w == f32::from(u8::from(start + tap == i));
        identity &= line.iter().enumerate().all(one);
    }
    let pass = Pass { len, taps, starts, weights, inner: 0, outer: 0 };
    Ok((!identity).then_some(pass))
}

struct Interpolate {
    passes: Vec<Pass>,
    extrapolation: f32,
    /// Elements of the two intermediate tensors.
    scratch: [usize; 2],
}

pub(super) fn prepare(a: &Resize, x: &Fact, out: &Fact) -> Result<Box<dyn Kernel>, CpuError> {
    let extrapolation = match a.coordinates {
        Coordinates::TfCropAndResize { extrapolation, .. } => extrapolation,
        _ => 0.0,
    };
    if x.numel() == 0 || out.numel() == 0 {
        return Ok(super::copy::reshape());
    }
    if let ResizeMode::Nearest { rounding } = a.mode {
        let tables = (0..x.shape.len())
            .map(|axis| nearest_table(a, axis, x, rounding).map(Some))
            .collect::<Result<Vec<_>, CpuError>>()?;
        return Ok(Box::new(Mapped::new(x, out, tables, extrapolation)));
    }
    if x.dtype != DType::F32 {
        return Err(super::no_f16("Resize"));
    }
    // What grows the tensor comes last where it grows, what shrinks it first: the vectorised
    // pass over an outer axis is the cheaper one for what is then the larger tensor.
    let mut order: Vec<usize> = (0..x.shape.len()).collect();
    if out.numel() > x.numel() {
        order.reverse();
    }
    let mut shape = x.shape.clone();
    let mut passes = Vec::new();
    for axis in order {
        if let Some(mut pass) = pass(a, axis, x)? {
            pass.outer = shape[..axis].iter().product();
            pass.inner = shape[axis + 1..].iter().product();
            shape[axis] = pass.out();
            passes.push(pass);
        }
    }
    if passes.is_empty() {
        return Ok(super::copy::reshape());
    }
    // Results go from one half of the scratch memory to the other; the last is the output.
    let mut scratch = [0; 2];
    for (i, p) in passes[..passes.len() - 1].iter().enumerate() {
        let numel = p.outer.checked_mul(p.out()).and_then(|n| n.checked_mul(p.inner));
        let numel = numel.filter(|&n| n <= tobiuo_ops::MAX_ELEMENTS).ok_or_else(|| {
            CpuError(format!("Resize of {:?} to {:?} is too large", x.shape, out.shape))
        })?;
        scratch[i % 2] = scratch[i % 2].max(numel.next_multiple_of(16));
    }
    Ok(Box::new(Interpolate { passes, extrapolation, scratch }))
}

impl Kernel for Interpolate {
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]) {
        let x = slice::<f32>(inputs.get(0).expect("never in place"));
        let out: &mut [f32] = slice_mut(&mut outputs[0]);
        let (mut to, mut from) = scratch_f32(scratch).split_at_mut(self.scratch[0]);
        let last = self.passes.len() - 1;
        for (i, pass) in self.passes.iter().enumerate() {
            let source: &[f32] = if i == 0 { x } else { from };
            if i == last {
                return self.pass(pass, source, out);
            }
            let numel = pass.outer * pass.out() * pass.inner;
            self.pass(pass, source, &mut to[..numel]);
            std::mem::swap(&mut to, &mut from);
        }
    }

    fn scratch_bytes(&self) -> usize {
        4 * (self.scratch[0] + self.scratch[1])
    }
}

impl Interpolate {
    fn pass(&self, p: &Pass, x: &[f32], out: &mut [f32]) {
        let work = out.len().saturating_mul(p.taps);
        if p.inner == 1 {
            // Along the rows.
            parts(out, p.out(), work, |first, part| {
                for (i, line) in part.chunks_exact_mut(p.out()).enumerate() {
                    let x = &x[(first + i) * p.len..][..p.len];
                    self.along(p, x, line);
                }
            });
            return;
        }
        // Whole rows weighted and added.
        parts(out, p.inner, work, |first, part| {
            for (i, line) in part.chunks_exact_mut(p.inner).enumerate() {
                let (outer, o) = ((first + i) / p.out(), (first + i) % p.out());
                if p.starts[o] == FIXED {
                    line.fill(self.extrapolation);
                    continue;
                }
                let rows = &x[(outer * p.len + p.starts[o]) * p.inner..];
                let weights = &p.weights[o * p.taps..][..p.taps];
                vectorised(
                    #[inline(always)]
                    || weighted_rows(rows, p.inner, weights, line),
                );
            }
        });
    }

    fn along(&self, p: &Pass, x: &[f32], line: &mut [f32]) {
        if p.taps == 2 {
            let table = p.starts.iter().zip(p.weights.as_chunks::<2>().0);
            for (o, (&start, w)) in line.iter_mut().zip(table) {
                *o = match x.get(start..start.wrapping_add(2)) {
                    Some(x) => w[0] * x[0] + w[1] * x[1],
                    None => self.extrapolation,
                };
            }
            return;
        }
        let table = p.starts.iter().zip(p.weights.chunks_exact(p.taps));
        for (o, (&start, weights)) in line.iter_mut().zip(table) {
            *o = if start == FIXED {
                self.extrapolation
            } else {
                weights.iter().zip(&x[start..]).map(|(w, x)| w * x).sum()
            };
        }
    }
}

/// `line = sum over t of weights[t] * rows[t]`.
#[inline(always)]
fn weighted_rows(rows: &[f32], width: usize, weights: &[f32], line: &mut [f32]) {
    let row = |t: usize| &rows[t * width..][..width];
    if let &[a, b] = weights {
        for ((o, &x), &y) in line.iter_mut().zip(row(0)).zip(row(1)) {
            *o = a * x + b * y;
        }
        return;
    }
    line.fill(0.0);
    for (t, &w) in weights.iter().enumerate() {
        line.iter_mut().zip(row(t)).for_each(
            #[inline(always)]
            |(o, &x)| *o += w * x,
        );
    }
}
