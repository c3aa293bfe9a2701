//! Layers that sample, shift or sweep over pictures, against plain loops.

use serde_json::{Value, json};

use crate::every_way::{each_picture, single};
use crate::window::at;

/// Bilinear, the corners on the corners; `f` maps an output's index to a place.
fn bilinear(
    x: &[f32],
    shape: [usize; 3],
    hw: [usize; 2],
    f: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f32> {
    let mut y = Vec::new();
    for c in 0..shape[0] {
        for (i, j) in (0..hw[0]).flat_map(|i| (0..hw[1]).map(move |j| (i, j))) {
            let (v, u) = (f(i, shape[1], hw[0]), f(j, shape[2], hw[1]));
            let sample = |r: f64, q: f64| {
                let clamp = |at: f64, n: usize| at.clamp(0.0, (n - 1) as f64) as i64;
                at(x, shape, c, clamp(r, shape[1]), clamp(q, shape[2]), f64::NAN)
            };
            let (v0, u0) = (v.floor(), u.floor());
            let (dv, du) = (v - v0, u - u0);
            let top = sample(v0, u0) * (1.0 - du) + sample(v0, u0 + 1.0) * du;
            let bottom = sample(v0 + 1.0, u0) * (1.0 - du) + sample(v0 + 1.0, u0 + 1.0) * du;
            y.push((top * (1.0 - dv) + bottom * dv) as f32);
        }
    }
    y
}

#[test]
fn resampling() {
    let corners = |i: usize, from: usize, to: usize| {
        if to == 1 { 0.0 } else { (i * (from - 1)) as f64 / (to - 1) as f64 }
    };
    let centres = |i: usize, from: usize, to: usize| {
        ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0)
    };
    for (shape, hw) in [
        ([2, 4, 5], [8, 10]),
        ([2, 4, 5], [4, 5]),
        ([2, 6, 7], [3, 4]),
        ([2, 4, 5], [7, 2]),
        ([2, 1, 1], [2, 3]),
        ([2, 1, 3], [4, 1]),
        ([2, 5, 3], [1, 9]),
    ] {
        let fields = |more: Value| {
            let mut fields = json!({"n_channels": 2, "input_hw": shape[1..], "output_hw": hw});
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fields
        };
        let out = vec![2, hw[0], hw[1]];
        let resize = |more: Value| single("ResizeImages", &shape, fields(more));
        each_picture(resize(json!({})), &shape, |x| (out.clone(), bilinear(x, shape, hw, corners)));
        let dump = resize(json!({"align_corners": false, "mode": "bilinear"}));
        each_picture(dump, &shape, |x| (out.clone(), bilinear(x, shape, hw, centres)));
        each_picture(resize(json!({"mode": "nearest"})), &shape, |x| {
            let mut y = Vec::new();
            for c in 0..2 {
                for (i, j) in (0..hw[0]).flat_map(|i| (0..hw[1]).map(move |j| (i, j))) {
                    let (i, j) = (i * shape[1] / hw[0], j * shape[2] / hw[1]);
                    y.push(at(x, shape, c, i as i64, j as i64, f64::NAN) as f32);
                }
            }
            (out.clone(), y)
        });
        each_picture(single("ResizeArgmax", &shape, fields(json!({}))), &shape, |x| {
            let y = bilinear(x, shape, hw, corners);
            let n = hw[0] * hw[1];
            (hw.to_vec(), (0..n).map(|i| if y[n + i] > y[i] { 1.0 } else { 0.0 }).collect())
        });
    }
}

#[test]
fn shifts() {
    for (channels, kh, kw, dy, dx) in [
        (9, 3, 3, 1, 1),
        (11, 3, 3, 1, 2),
        (3, 3, 1, 1, 1),
        (7, 1, 3, 2, 2),
        (25, 5, 5, 1, 1),
        (4, 3, 3, 1, 1),
        (20, 3, 3, -1, 2),
    ] {
        let shape = [channels, 6, 7];
        let more = json!({"kh": kh, "kw": kw, "dy": dy, "dx": dx});
        each_picture(single("Shift", &shape, more), &shape, |x| {
            let (groups, size) = (kh * kw, channels / (kh * kw));
            let mut y = Vec::new();
            for c in 0..channels {
                // Chainer's loop over groups: the middle and the last change places.
                let group = usize::checked_div(c, size).map_or(groups - 1, |g| g.min(groups - 1));
                let tap = match group {
                    g if g == (groups - 1) / 2 => groups - 1,
                    g if g == groups - 1 => (groups - 1) / 2,
                    g => g,
                };
                let ky = (tap / kw) as i64 - (kh / 2) as i64;
                let kx = (tap % kw) as i64 - (kw / 2) as i64;
                for (i, j) in (0..6).flat_map(|i| (0..7).map(move |j| (i, j))) {
                    y.push(at(x, shape, c, i - ky * dy, j - kx * dx, 0.0) as f32);
                }
            }
            (shape.to_vec(), y)
        });
    }
}

#[test]
fn directed_pools() {
    for shape in [[2, 3, 5], [1, 20, 40], [3, 1, 1], [1, 17, 16]] {
        let [_, h, w] = shape;
        for dir in ["left", "right", "top", "bottom"] {
            for kind in ["DirectedPooling", "CornerPooling"] {
                each_picture(single(kind, &shape, json!({"dir": dir})), &shape, |x| {
                    let mut y = x.to_vec();
                    for c in 0..shape[0] {
                        for (i, j) in (0..h).flat_map(|i| (0..w).map(move |j| (i, j))) {
                            let run: Vec<(usize, usize)> = match dir {
                                "left" => (j..w).map(|j| (i, j)).collect(),
                                "right" => (0..=j).map(|j| (i, j)).collect(),
                                "top" => (i..h).map(|i| (i, j)).collect(),
                                _ => (0..=i).map(|i| (i, j)).collect(),
                            };
                            let values = run.iter().map(|&(i, j)| x[(c * h + i) * w + j]);
                            y[(c * h + i) * w + j] = values.fold(f32::NEG_INFINITY, f32::max);
                        }
                    }
                    (shape.to_vec(), y)
                });
            }
        }
    }
}
