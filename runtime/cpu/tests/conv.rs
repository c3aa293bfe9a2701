//! The convolution against a plain loop in f64, on random shapes.

mod common;

use common::{activate, check, random, run};
use proptest::prelude::*;
use tobiuo_ops::{Activation, Conv, Op};
use tobiuo_tensor::Tensor;

/// A convolution over two axes, written as its definition says. Returns the values and, for
/// the tolerance, the sum of the products' magnitudes.
fn reference(
    c: &Conv,
    x: (&[f32], [usize; 4]),
    w: (&[f32], [usize; 4]),
    bias: &[f32],
    residual: Option<&[f32]>,
) -> (Vec<usize>, Vec<f64>, Vec<f64>) {
    let ([n, ci, h, wi], [co, cg, kh, kw]) = (x.1, w.1);
    let size = |i: usize, s: usize, k: usize| {
        (s + c.pads[i] + c.pads[i + 2] - (c.dilations[i] * (k - 1) + 1)) / c.strides[i] + 1
    };
    let (oh, ow) = (size(0, h, kh), size(1, wi, kw));
    let (mut out, mut scale) = (Vec::new(), Vec::new());
    for b in 0..n {
        for (o, &bias) in bias.iter().enumerate().take(co) {
            for oy in 0..oh {
                for ox in 0..ow {
                    let mut sum = f64::from(bias);
                    let mut size = sum.abs();
                    for i in 0..cg {
                        let ch = o / (co / c.groups) * cg + i;
                        for ky in 0..kh {
                            for kx in 0..kw {
                                let y = (oy * c.strides[0] + ky * c.dilations[0])
                                    .wrapping_sub(c.pads[0]);
                                let xx = (ox * c.strides[1] + kx * c.dilations[1])
                                    .wrapping_sub(c.pads[1]);
                                if y < h && xx < wi {
                                    let v = f64::from(x.0[((b * ci + ch) * h + y) * wi + xx])
                                        * f64::from(w.0[((o * cg + i) * kh + ky) * kw + kx]);
                                    sum += v;
                                    size += v.abs();
                                }
                            }
                        }
                    }
                    if let Some(r) = residual {
                        sum += f64::from(r[out.len()]);
                        size += f64::from(r[out.len()]).abs();
                    }
                    out.push(c.activation.map_or(sum, |a| activate(a, sum)));
                    scale.push(size);
                }
            }
        }
    }
    (vec![n, co, oh, ow], out, scale)
}

fn activation() -> impl Strategy<Value = Option<Activation>> {
    prop_oneof![
        Just(None),
        Just(Some(Activation::Relu)),
        Just(Some(Activation::Clip { min: 0.0, max: 6.0 })),
        Just(Some(Activation::Silu)),
        Just(Some(Activation::LeakyRelu { alpha: 0.1 })),
        Just(Some(Activation::HardSwish)),
    ]
}

#[derive(Debug, Clone)]
struct Case {
    conv: Conv,
    x: [usize; 4],
    w: [usize; 4],
    in_place: bool,
    dynamic: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let width = prop_oneof![3 => 1..40usize, 1 => 40..140usize];
    let shape = (1..4usize, 1..34usize, 1..34usize, 1..24usize, width);
    let window = prop_oneof![
        3 => Just((1usize, 1usize)),
        4 => Just((3, 3)),
        1 => Just((5, 5)),
        1 => Just((1, 7)),
        1 => (1..5usize, 1..8usize),
    ];
    let steps = (1..4usize, 1..4usize, 1..3usize, 1..3usize);
    let pads = prop_oneof![
        2 => Just(None),
        1 => prop::array::uniform4(0..4usize).prop_map(Some),
    ];
    let kind = prop_oneof![3 => Just(0), 2 => Just(1), 2 => Just(2)];
    (shape, window, steps, pads, kind, activation(), any::<[bool; 4]>(), any::<u64>()).prop_map(
        |(s, k, steps, pads, kind, activation, flags, seed)| {
            let (n, c, o, h, w) = s;
            // One group, depthwise, or some groups.
            let (groups, cg, og) = match kind {
                0 => (1, c, o),
                1 => (c, 1, 1 + o % 2),
                _ => (1 + o % 4, 1 + c / 4, 1 + o / 6),
            };
            let (sy, sx, dy, dx) = steps;
            let (sy, sx) = if flags[3] { (1, 1) } else { (sy, sx) };
            let span = |k: usize, d: usize| (k - 1) * d + 1;
            let same = |k, d| (span(k, d) - 1) / 2;
            let mut pads = pads.unwrap_or([
                same(k.0, dy),
                same(k.1, dx),
                span(k.0, dy) - 1 - same(k.0, dy),
                span(k.1, dx) - 1 - same(k.1, dx),
            ]);
            // The window must fit.
            pads[2] += span(k.0, dy).saturating_sub(h + pads[0] + pads[2]);
            pads[3] += span(k.1, dx).saturating_sub(w + pads[1] + pads[3]);
            Case {
                conv: Conv {
                    kernel: vec![k.0, k.1],
                    strides: vec![sy, sx],
                    pads: pads.to_vec(),
                    dilations: vec![dy, dx],
                    groups,
                    activation,
                    residual: flags[0],
                },
                x: [n, groups * cg, h, w],
                w: [groups * og, cg, k.0, k.1],
                in_place: flags[1],
                dynamic: flags[2] && seed % 3 == 0,
                seed,
            }
        },
    )
}

fn verify(case: &Case) {
    let Case { conv, x: xs, w: ws, in_place, dynamic, seed } = case;
    let x = random(xs.iter().product(), *seed);
    let w = random(ws.iter().product(), seed ^ 1);
    let bias = random(ws[0], seed ^ 2);
    let size = |i: usize, s: usize, k: usize| {
        (s + conv.pads[i] + conv.pads[i + 2] - (conv.dilations[i] * (k - 1) + 1)) / conv.strides[i]
            + 1
    };
    let shape = [xs[0], ws[0], size(0, xs[2], ws[2]), size(1, xs[3], ws[3])];
    let residual = random(shape.iter().product(), seed ^ 3);
    let (shape, want, scale) =
        reference(conv, (&x, *xs), (&w, *ws), &bias, conv.residual.then_some(&residual));
    let mut inputs =
        vec![Tensor::f32(xs.to_vec(), x), Tensor::f32(ws.to_vec(), w), Tensor::f32([ws[0]], bias)];
    if conv.residual {
        inputs.push(Tensor::f32(shape.clone(), residual));
    }
    let constants: &[usize] = if *dynamic { &[] } else { &[1, 2] };
    let shared = (conv.residual && *in_place).then_some(3);
    let got = run(&Op::Conv(conv.clone()), &inputs, constants, shared, &shape);
    check(got.as_f32().unwrap(), &want, &scale, case);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn matches_a_plain_loop(case in case()) {
        verify(&case);
    }
}

/// Shapes that take each way of dividing the work, and more than one pass over the depth.
#[test]
fn large_shapes_match_too() {
    for (x, w, stride, groups) in [
        ([1, 16, 60, 61], [24, 16, 3, 3], 1, 1),
        ([1, 3, 97, 98], [16, 3, 7, 7], 2, 1),
        ([1, 200, 9, 9], [70, 200, 3, 3], 1, 1),
        ([1, 1500, 7, 7], [33, 1500, 1, 1], 1, 1),
        ([2, 130, 20, 20], [40, 130, 3, 3], 2, 1),
        ([9, 8, 14, 14], [8, 8, 3, 3], 1, 1),
        ([1, 64, 31, 31], [64, 2, 3, 3], 1, 32),
        ([1, 700, 40, 40], [9, 700, 1, 1], 1, 1),
        ([1, 5, 7, 70], [5, 1, 3, 3], 1, 5),
        ([2, 4, 9, 150], [8, 1, 3, 3], 1, 4),
        ([1, 3, 8, 131], [3, 1, 5, 5], 1, 3),
        ([1, 6, 11, 99], [6, 1, 3, 3], 2, 6),
        ([1, 3, 6, 77], [3, 1, 7, 7], 1, 3),
    ] {
        for activation in [None, Some(Activation::Silu)] {
            let conv = Conv {
                kernel: vec![w[2], w[3]],
                strides: vec![stride; 2],
                pads: vec![w[2] / 2, w[3] / 2, w[2] / 2, w[3] / 2],
                dilations: vec![1, 1],
                groups,
                activation,
                residual: true,
            };
            for in_place in [false, true] {
                verify(&Case { conv: conv.clone(), x, w, in_place, dynamic: false, seed: 7 });
            }
        }
    }
}
