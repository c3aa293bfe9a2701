//! The layers of a dump with windows, weights and sampling, against plain loops over Chainer's
//! definitions.

#[allow(dead_code)]
mod common;
#[allow(dead_code)]
#[path = "common/dump.rs"]
mod dump;
#[allow(dead_code)]
#[path = "common/every_way.rs"]
mod every_way;
#[path = "common/lowered.rs"]
mod lowered;

use dump::Dump;
use every_way::{check, each_picture, numbers, read, single, tensor};
use serde_json::{Value, json};
use tobiuo_tensor::Tensor;

/// An element of a picture `[C, H, W]`, or `outside` behind its edges.
fn at(x: &[f32], shape: [usize; 3], c: usize, y: i64, xx: i64, outside: f64) -> f64 {
    let [_, h, w] = shape;
    if y < 0 || xx < 0 || y >= h as i64 || xx >= w as i64 {
        return outside;
    }
    f64::from(x[(c * h + y as usize) * w + xx as usize])
}

/// A window's parameters, height first.
#[derive(Clone, Copy)]
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 2],
    dilation: [usize; 2],
    cover_all: bool,
}

const UNIT: Window =
    Window { kernel: [3, 3], stride: [1, 1], pad: [0, 0], dilation: [1, 1], cover_all: false };

impl Window {
    fn out(&self, shape: [usize; 3], axis: usize) -> usize {
        let extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
        let reach = shape[1 + axis] + 2 * self.pad[axis] - extent;
        let more = if self.cover_all { self.stride[axis] - 1 } else { 0 };
        (reach + more) / self.stride[axis] + 1
    }

    /// Where a tap of a window lies.
    fn place(&self, axis: usize, window: usize, tap: usize) -> i64 {
        (window * self.stride[axis] + tap * self.dilation[axis]) as i64 - self.pad[axis] as i64
    }

    fn pooling(&self) -> Value {
        json!({
            "window_height": self.kernel[0], "window_width": self.kernel[1],
            "stride_y": self.stride[0], "stride_x": self.stride[1],
            "pad_h": self.pad[0], "pad_w": self.pad[1], "cover_all": self.cover_all,
        })
    }

    fn convolution(&self, n_out: usize, groups: usize) -> Value {
        json!({
            "kernel_h": self.kernel[0], "kernel_w": self.kernel[1],
            "stride_y": self.stride[0], "stride_x": self.stride[1],
            "pad_h": self.pad[0], "pad_w": self.pad[1],
            "dilation_y": self.dilation[0], "dilation_x": self.dilation[1],
            "cover_all": self.cover_all, "n_out": n_out, "groups": groups,
        })
    }

    /// Pooling by a fold over each window.
    fn pool(
        &self,
        x: &[f32],
        shape: [usize; 3],
        outside: f64,
        fold: fn(&[f64]) -> f64,
    ) -> Vec<f32> {
        let mut out = Vec::new();
        for c in 0..shape[0] {
            for y in 0..self.out(shape, 0) {
                for xx in 0..self.out(shape, 1) {
                    let mut taps = Vec::new();
                    for i in 0..self.kernel[0] {
                        for j in 0..self.kernel[1] {
                            let (y, xx) = (self.place(0, y, i), self.place(1, xx, j));
                            taps.push(at(x, shape, c, y, xx, outside));
                        }
                    }
                    out.push(fold(&taps) as f32);
                }
            }
        }
        out
    }
}

#[test]
fn pools() {
    let max = |v: &[f64]| v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let w = |kernel, stride, pad, cover_all| Window { kernel, stride, pad, cover_all, ..UNIT };
    let cases = [
        ([2, 6, 7], w([2, 2], [2, 2], [0, 0], true)),
        ([2, 6, 7], w([2, 2], [2, 2], [0, 0], false)),
        // GoogLeNet's and ResNet's.
        ([2, 7, 7], w([3, 3], [1, 1], [1, 1], true)),
        ([2, 8, 8], w([3, 3], [2, 2], [0, 0], true)),
        // An overhang of more than one row, and of different sizes.
        ([1, 7, 8], w([3, 2], [4, 3], [1, 0], true)),
        ([1, 5, 5], w([2, 3], [3, 3], [0, 1], true)),
        // One row, one column, the whole picture.
        ([3, 4, 5], w([1, 5], [1, 1], [0, 0], false)),
        ([3, 4, 5], w([4, 5], [1, 1], [0, 0], true)),
        ([1, 4, 4], w([3, 3], [2, 2], [2, 2], false)),
    ];
    for (shape, window) in cases {
        let out = vec![shape[0], window.out(shape, 0), window.out(shape, 1)];
        let dump = single("MaxPooling2D", &shape, window.pooling());
        each_picture(dump, &shape, |x| {
            (out.clone(), window.pool(x, shape, f64::NEG_INFINITY, max))
        });
        let dump = single("AveragePooling2D", &shape, window.pooling());
        each_picture(dump, &shape, |x| (out.clone(), window.pool(x, shape, 0.0, mean)));
        let mut more = window.pooling();
        more["pad_value"] = Value::Null;
        let inside = |v: &[f64]| {
            let v: Vec<f64> = v.iter().copied().filter(|v| v.is_finite()).collect();
            v.iter().sum::<f64>() / v.len() as f64
        };
        let dump = single("AveragePooling2D", &shape, more);
        each_picture(dump, &shape, |x| (out.clone(), window.pool(x, shape, f64::NAN, inside)));
    }
}

#[test]
fn pools_with_windows_in_the_padding() {
    // The last window starts behind the picture; a window before it ends in the padding.
    let max = |v: &[f64]| v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    for (size, kernel, stride, pad, cover_all) in
        [(3, 2, 2, 1, true), (4, 1, 2, 0, true), (3, 2, 1, 2, false), (4, 1, 3, 1, false)]
    {
        let shape = [2, size, size];
        let window =
            Window { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], cover_all, ..UNIT };
        let out = vec![2, window.out(shape, 0), window.out(shape, 1)];
        let dump = single("MaxPooling2D", &shape, window.pooling());
        each_picture(dump, &shape, |x| {
            (out.clone(), window.pool(x, shape, f64::NEG_INFINITY, max))
        });
        let dump = single("AveragePooling2D", &shape, window.pooling());
        each_picture(dump, &shape, |x| (out.clone(), window.pool(x, shape, 0.0, mean)));
    }
}

#[test]
fn convolutions() {
    let cases = [
        ([4, 6, 7], 6, 1, UNIT),
        ([4, 6, 7], 6, 2, Window { pad: [1, 2], stride: [2, 1], ..UNIT }),
        ([4, 6, 7], 4, 4, Window { pad: [1, 1], ..UNIT }),
        ([3, 9, 9], 2, 1, Window { pad: [2, 2], dilation: [2, 2], ..UNIT }),
        ([2, 6, 8], 3, 1, Window { kernel: [1, 2], stride: [4, 3], cover_all: true, ..UNIT }),
        ([2, 7, 8], 3, 1, Window { stride: [2, 4], pad: [1, 0], cover_all: true, ..UNIT }),
    ];
    for (shape, n_out, groups, window) in cases {
        let [kh, kw] = window.kernel;
        let per_group = shape[0] / groups;
        let weight = numbers(n_out * per_group * kh * kw, 11);
        let bias = numbers(n_out, 12);
        let dump = single("Convolution2DFunction", &shape, window.convolution(n_out, groups))
            .weight("kernel", &[n_out, per_group, kh, kw], &weight)
            .weight("bias", &[n_out], &bias);
        let out = vec![n_out, window.out(shape, 0), window.out(shape, 1)];
        each_picture(dump, &shape, |x| {
            let mut y = Vec::new();
            for o in 0..n_out {
                for (r, q) in (0..out[1]).flat_map(|r| (0..out[2]).map(move |q| (r, q))) {
                    let mut sum = f64::from(bias[o]);
                    for c in 0..per_group {
                        for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                            let channel = o / (n_out / groups) * per_group + c;
                            let v = at(
                                x,
                                shape,
                                channel,
                                window.place(0, r, i),
                                window.place(1, q, j),
                                0.0,
                            );
                            sum += v * f64::from(weight[((o * per_group + c) * kh + i) * kw + j]);
                        }
                    }
                    y.push(sum as f32);
                }
            }
            (out.clone(), y)
        });
    }
}

#[test]
fn deconvolutions() {
    // The size that Chainer computes, a larger one and a smaller one.
    let cases = [
        ([4, 3, 4], 6, 1, Window { stride: [2, 2], pad: [1, 1], ..UNIT }, [0, 0]),
        ([4, 3, 4], 6, 2, Window { kernel: [4, 2], stride: [2, 3], ..UNIT }, [0, 0]),
        ([2, 3, 4], 3, 1, Window { stride: [2, 2], pad: [1, 1], ..UNIT }, [1, 1]),
        ([2, 3, 4], 3, 1, Window { stride: [3, 3], ..UNIT }, [2, -1]),
        ([2, 3, 3], 3, 1, Window { dilation: [2, 2], ..UNIT }, [0, 0]),
    ];
    for (shape, n_out, groups, window, more) in cases {
        let [kh, kw] = window.kernel;
        let (per_group, in_group) = (n_out / groups, shape[0] / groups);
        let weight = numbers(shape[0] * per_group * kh * kw, 21);
        let bias = numbers(n_out, 22);
        let size = |a: usize| {
            let extent = (window.kernel[a] - 1) * window.dilation[a] + 1;
            (window.stride[a] * (shape[1 + a] - 1) + extent - 2 * window.pad[a]) as i64
        };
        let out = [(size(0) + more[0]) as usize, (size(1) + more[1]) as usize];
        let mut fields = window.convolution(n_out, groups);
        fields.as_object_mut().unwrap().remove("cover_all");
        if more != [0, 0] {
            fields["output_hw"] = json!(out);
        }
        let dump = single("Deconvolution2DFunction", &shape, fields)
            .weight("kernel", &[shape[0], per_group, kh, kw], &weight)
            .weight("bias", &[n_out], &bias);
        each_picture(dump, &shape, |x| {
            let mut y = vec![0f64; n_out * out[0] * out[1]];
            for (o, row) in y.chunks_mut(out[0] * out[1]).enumerate() {
                row.fill(f64::from(bias[o]));
                let group = o / per_group;
                for c in group * in_group..(group + 1) * in_group {
                    for (r, q) in (0..shape[1]).flat_map(|r| (0..shape[2]).map(move |q| (r, q))) {
                        for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                            let (r2, q2) = (window.place(0, r, i), window.place(1, q, j));
                            if (0..out[0] as i64).contains(&r2) && (0..out[1] as i64).contains(&q2)
                            {
                                let w = weight[((c * per_group + o % per_group) * kh + i) * kw + j];
                                row[r2 as usize * out[1] + q2 as usize] +=
                                    f64::from(w) * at(x, shape, c, r as i64, q as i64, 0.0);
                            }
                        }
                    }
                }
            }
            (vec![n_out, out[0], out[1]], y.into_iter().map(|v| v as f32).collect())
        });
    }
}

#[test]
fn normalization() {
    // An even n reaches as far to both sides as the odd one above it.
    for (n, k, alpha, beta) in
        [(5, 2.0, 0.5, 0.75), (4, 1.0, 0.25, 0.5), (1, 1.0, 1.0, 1.0), (99, 1.0, 0.1, 0.75)]
    {
        let shape = [7, 2, 3];
        let more = json!({"n": n, "k": k, "alpha": alpha, "beta": beta});
        each_picture(single("LocalResponseNormalization", &shape, more), &shape, |x| {
            let square = |c: i64, i: usize| {
                if (0..7).contains(&c) { f64::from(x[c as usize * 6 + i]).powi(2) } else { 0.0 }
            };
            let y = x.iter().enumerate().map(|(i, &v)| {
                let (c, half) = ((i / 6) as i64, n / 2);
                let sum: f64 = (c - half..=c + half).map(|c| square(c, i % 6)).sum();
                (f64::from(v) / (k + alpha * sum).powf(beta)) as f32
            });
            (shape.to_vec(), y.collect())
        });
    }
    // Parameters for each channel, or for each place of a picture.
    for (kind, wide) in [("BatchNormalizationFunction", false), ("BatchNormalization", true)] {
        let shape = [3, 2, 2];
        let parameters: Vec<usize> = if wide { shape.to_vec() } else { vec![3] };
        let count = parameters.iter().product();
        let [gamma, beta, mean, log] = [1, 2, 3, 4].map(|seed| numbers(count, seed));
        let var: Vec<f32> = log.iter().map(|v| v.abs() + 0.25).collect();
        let dump = single(kind, &shape, json!({"eps": 2e-5}))
            .weight("gamma", &parameters, &gamma)
            .weight("beta", &parameters, &beta)
            .weight("mean", &parameters, &mean)
            .weight("var", &parameters, &var);
        each_picture(dump, &shape, |x| {
            let y = x.iter().enumerate().map(|(i, &v)| {
                let i = if wide { i } else { i / 4 };
                let of = |v: &[f32]| f64::from(v[i]);
                let normal = (f64::from(v) - of(&mean)) / (of(&var) + 2e-5).sqrt();
                (of(&gamma) * normal + of(&beta)) as f32
            });
            (shape.to_vec(), y.collect())
        });
    }
    for (more, stride) in [(json!({}), 4), (json!({"axis": 0}), 4), (json!({"axis": 1}), 1)] {
        let dump = single("Softmax", &[3, 4], more);
        each_picture(dump, &[3, 4], |x| {
            let y = (0..12).map(|i| {
                let (first, len) = if stride == 4 { (i % 4, 3) } else { (i / 4 * 4, 4) };
                let sum: f64 = (0..len).map(|k| f64::from(x[first + k * stride]).exp()).sum();
                (f64::from(x[i]).exp() / sum) as f32
            });
            (vec![3, 4], y.collect())
        });
    }
}

#[test]
fn matrix_products() {
    // Chainer's own Reshape before it is not in the dump.
    let (weight, bias) = (numbers(5 * 12, 31), numbers(5, 32));
    for shape in [&[3, 2, 2][..], &[12]] {
        let dump = single("LinearFunction", shape, json!({"n_out": 5}))
            .weight("kernel", &[5, 12], &weight)
            .weight("bias", &[5], &bias);
        each_picture(dump, shape, |x| {
            let row = |o: usize| {
                let products =
                    x.iter().zip(&weight[12 * o..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
                (products.sum::<f64>() + f64::from(bias[o])) as f32
            };
            (vec![5], (0..5).map(row).collect())
        });
    }
    for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let a_shape = if trans_a { [2, 4, 3] } else { [2, 3, 4] };
        let b_shape = if trans_b { [2, 5, 4] } else { [2, 4, 5] };
        let dump = Dump::new()
            .input("a", &a_shape)
            .input("b", &b_shape)
            .layer("MatMul", "m", &["a", "b"], json!({"transa": trans_a, "transb": trans_b}))
            .output("m_0", "y")
            .save();
        for batch in [1, 2] {
            let [a, b] = [(a_shape, 1), (b_shape, 2)]
                .map(|([p, q, r], seed)| tensor(&[batch, p, q, r], seed));
            let (x, w) = (a.to_f64(), b.to_f64());
            let mut y = Vec::new();
            for m in 0..2 * batch {
                for (i, j) in (0..3).flat_map(|i| (0..5).map(move |j| (i, j))) {
                    let sum: f64 = (0..4)
                        .map(|k| {
                            x[m * 12 + if trans_a { k * 3 + i } else { i * 4 + k }]
                                * w[m * 20 + if trans_b { j * 4 + k } else { k * 5 + j }]
                        })
                        .sum();
                    y.push(sum as f32);
                }
            }
            check(&dump, batch, &[("a", a), ("b", b)], &[Tensor::f32([batch, 2, 3, 5], y)]);
        }
    }
    // A matrix of features times a constant.
    let dump = Dump::new()
        .input("x", &[3])
        .constant("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .layer("MatMul", "m", &["x", "w"], json!({"transa": false, "transb": false}))
        .output("m_0", "y");
    each_picture(dump, &[3], |x| {
        (vec![2], vec![x[0] + 3.0 * x[1] + 5.0 * x[2], 2.0 * x[0] + 4.0 * x[1] + 6.0 * x[2]])
    });
}

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
                let group = if size == 0 { groups - 1 } else { (c / size).min(groups - 1) };
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

#[test]
fn weights_of_half_precision() {
    let dump = single("LinearFunction", &[2], json!({"n_out": 1}))
        .weight("kernel", &[1, 2], &[0.0, 0.0])
        .weight("bias", &[1], &[0.0])
        .save();
    // 1.5, -2 and 0.25 as f16.
    let folder = dump.path();
    dump::write_raw(&folder.join("layer_kernel.weights"), 2, &[1, 2], &[0x00, 0x3e, 0x00, 0xc0]);
    dump::write_raw(&folder.join("layer_bias.weights"), 2, &[1], &[0x00, 0x34]);
    let x = Tensor::f32([2, 2], vec![1.0, 1.0, 2.0, -1.0]);
    check(&dump, 2, &[("x", x)], &[Tensor::f32([2, 1], vec![-0.25, 5.25])]);
}

#[test]
fn a_network_folds_into_few_kernels() {
    let shape = [4, 6, 6];
    let conv = Window { pad: [1, 1], ..UNIT }.convolution(4, 1);
    let dump = Dump::new()
        .input("x", &shape)
        .layer("Convolution2DFunction", "c", &["x"], conv)
        .weight("kernel", &[4, 4, 3, 3], &numbers(144, 1))
        .weight("bias", &[4], &numbers(4, 2))
        .layer("BatchNormalizationFunction", "b", &["c_0"], json!({"eps": 2e-5}))
        .weight("gamma", &[4], &numbers(4, 3))
        .weight("beta", &[4], &numbers(4, 4))
        .weight("mean", &[4], &numbers(4, 5))
        .weight("var", &[4], &[1.0, 2.0, 3.0, 4.0])
        .layer("ReLU", "r", &["b_0"], json!({}))
        .layer("Dropout", "d", &["r_0"], json!({"dropout_ratio": 0.5}))
        .layer("LinearFunction", "l", &["d_0"], json!({"n_out": 2}))
        .weight("kernel", &[2, 144], &numbers(288, 6))
        .weight("bias", &[2], &[0.0, 1.0])
        .layer("Softmax", "s", &["l_0"], json!({}))
        .output("s_0", "prob")
        .save();
    let graph = lowered::optimise(read(&dump, 1)).unwrap();
    let ops: Vec<&str> = graph.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(ops, ["Conv", "Reshape", "Gemm", "Softmax"]);
    assert_eq!(graph.nodes[0].name, "c + b + r");
}
