//! Resize element by element and axis by axis, as the onnx package's reference implementation
//! writes it down (`onnx/reference/ops/op_resize.py`).

use tobiuo_ops::{Coordinates, NearestRounding, Resize, ResizeMode};

use crate::reference::Array;

pub fn resize(r: &Resize, x: &Array) -> Array {
    Array::from_fn(&r.sizes, |out| element(r, x, out, &mut vec![]))
}

/// Interpolates along axis `taken.len()` between what the axes behind it give.
fn element(r: &Resize, x: &Array, out: &[usize], taken: &mut Vec<usize>) -> f64 {
    let axis = taken.len();
    if axis == x.shape.len() {
        return x.at(taken);
    }
    let len = x.shape[axis];
    let Some(source) = coordinate(r, axis, len, out[axis]) else {
        let Coordinates::TfCropAndResize { extrapolation, .. } = r.coordinates else {
            unreachable!("only a region of interest can be left")
        };
        return extrapolation.into();
    };
    let clamp = |i: i64| i.clamp(0, len as i64 - 1) as usize;
    let mut sum = 0.0;
    for (i, w) in weights(r, axis, source, len) {
        taken.push(clamp(i));
        // The value is computed even under a weight of zero: it may be extrapolated.
        sum += w * element(r, x, out, taken);
        taken.pop();
    }
    sum
}

fn scale(r: &Resize, axis: usize, len: usize) -> f64 {
    let ratio = r.sizes[axis] as f64 / len as f64;
    if r.scales[axis] == ratio as f32 { ratio } else { r.scales[axis].to_string().parse().unwrap() }
}

fn coordinate(r: &Resize, axis: usize, len: usize, i: usize) -> Option<f64> {
    let (scale, x, n) = (scale(r, axis, len), i as f64, len as f64);
    let resized = scale * n;
    Some(match &r.coordinates {
        Coordinates::HalfPixel => (x + 0.5) / scale - 0.5,
        Coordinates::HalfPixelSymmetric => {
            let adjustment = r.sizes[axis] as f64 / resized;
            n / 2.0 * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
        }
        Coordinates::PytorchHalfPixel => {
            if resized == 1.0 {
                -0.5
            } else {
                (x + 0.5) / scale - 0.5
            }
        }
        Coordinates::AlignCorners => {
            if resized == 1.0 {
                0.0
            } else {
                x * (n - 1.0) / (resized - 1.0)
            }
        }
        Coordinates::Asymmetric => x / scale,
        Coordinates::TfHalfPixelForNn => (x + 0.5) / scale,
        Coordinates::TfCropAndResize { starts, ends, .. } => {
            let (start, end) = (f64::from(starts[axis]), f64::from(ends[axis]));
            let span = (end - start) * (n - 1.0);
            let out = r.sizes[axis] as f64;
            let within = if out == 1.0 { span / 2.0 } else { x * span / (out - 1.0) };
            let source = within + start * (n - 1.0);
            if source < 0.0 || source > n - 1.0 {
                return None;
            }
            source
        }
    })
}

/// Elements and their weights.
fn weights(r: &Resize, axis: usize, source: f64, len: usize) -> Vec<(i64, f64)> {
    let whole = source == source.floor();
    match r.mode {
        ResizeMode::Nearest { rounding } => {
            let floor = source.floor() as i64;
            let above = source - source.floor();
            let i = match rounding {
                _ if whole => floor,
                NearestRounding::RoundPreferFloor if above <= 0.5 => floor,
                NearestRounding::RoundPreferCeil if above < 0.5 => floor,
                NearestRounding::Floor => floor,
                _ => floor + 1,
            };
            vec![(i, 1.0)]
        }
        ResizeMode::Linear { antialias } => {
            let s = if antialias { scale(r, axis, len).min(1.0) } else { 1.0 };
            filter(source, 1.0 / s, len, false, |d| (1.0 - (d * s).abs()).max(0.0))
        }
        ResizeMode::Cubic { a, exclude_outside, antialias } => {
            let (a, s) = (f64::from(a), if antialias { scale(r, axis, len).min(1.0) } else { 1.0 });
            filter(source, 2.0 / s, len, exclude_outside, |d| {
                let d = (d * s).abs();
                if d <= 1.0 {
                    (a + 2.0) * d.powi(3) - (a + 3.0) * d.powi(2) + 1.0
                } else if d < 2.0 {
                    a * d.powi(3) - 5.0 * a * d.powi(2) + 8.0 * a * d - 4.0 * a
                } else {
                    0.0
                }
            })
        }
    }
}

/// All elements within `reach` of a coordinate, weighted by their distance, to the sum of 1.
fn filter(
    source: f64,
    reach: f64,
    len: usize,
    exclude_outside: bool,
    f: impl Fn(f64) -> f64,
) -> Vec<(i64, f64)> {
    let first = (source - reach).floor() as i64;
    let last = (source + reach).ceil() as i64;
    let taken: Vec<(i64, f64)> = (first..=last)
        .filter(|i| !exclude_outside || (0..len as i64).contains(i))
        .map(|i| (i, f(i as f64 - source)))
        .filter(|w| w.1 != 0.0)
        .collect();
    let sum: f64 = taken.iter().map(|w| w.1).sum();
    let sum = if sum == 0.0 { 1.0 } else { sum };
    taken.into_iter().map(|(i, w)| (i, w / sum)).collect()
}
