//! Layers with windows and weights, against plain loops over Chainer's definitions.

use crate::dump::{Dump, write_raw};
use crate::every_way::{check, each_picture, numbers, read, single, tensor};
use crate::lowered;
use crate::window::{UNIT, Window, at};
use serde_json::{Value, json};
use tobiuo_tensor::Tensor;

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
        ([1, 8, 8], w([3, 2], [4, 3], [1, 0], true)),
        ([1, 7, 6], w([2, 3], [3, 3], [0, 1], true)),
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

#[test]
fn weights_of_half_precision() {
    let dump = single("LinearFunction", &[2], json!({"n_out": 1}))
        .weight("kernel", &[1, 2], &[0.0, 0.0])
        .weight("bias", &[1], &[0.0])
        .save();
    // 1.5, -2 and 0.25 as f16.
    let folder = dump.path();
    write_raw(&folder.join("layer_kernel.weights"), 2, &[1, 2], &[0x00, 0x3e, 0x00, 0xc0]);
    write_raw(&folder.join("layer_bias.weights"), 2, &[1], &[0x00, 0x34]);
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
