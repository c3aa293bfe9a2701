//! Gemm, MatMul, ConvTranspose, pools, BatchNorm, PRelu and activations against plain loops
//! in f64, on random shapes.

mod common;

use common::{activate, check, random, run};
use proptest::prelude::*;
use tobiuo_ops::{Activation, ConvTranspose, Fact, Gemm, Op, Pool, PoolKind, infer};
use tobiuo_tensor::{Tensor, numel};

fn shape_of(op: &Op, inputs: &[Tensor]) -> Vec<usize> {
    let facts: Vec<Fact> =
        inputs.iter().map(|t| Fact { dtype: t.dtype(), shape: t.shape().to_vec() }).collect();
    infer(op, &facts).unwrap().remove(0).shape
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::f32(shape, random(numel(shape), seed))
}

fn ones(n: usize) -> Vec<f64> {
    vec![1.0; n]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn gemm(
        m in prop_oneof![Just(1usize), 1..40usize],
        k in 0..90usize,
        n in prop_oneof![Just(1usize), 1..80usize],
        trans in any::<[bool; 2]>(),
        c in 0..5usize,
        known in 0..4usize,
        relu in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let activation = relu.then_some(Activation::Relu);
        let (alpha, beta) = if c == 4 { (0.5, -2.0) } else { (1.0, 1.0) };
        let gemm = Gemm { trans_a: trans[0], trans_b: trans[1], alpha, beta, activation };
        let mut inputs = vec![
            tensor(&if trans[0] { [k, m] } else { [m, k] }, seed),
            tensor(&if trans[1] { [n, k] } else { [k, n] }, seed ^ 1),
        ];
        let c_shape: &[usize] = match c { 0 => &[], 1 => &[n], 2 => &[m, 1], 3 => &[1], _ => &[m, n] };
        if c > 0 {
            inputs.push(tensor(c_shape, seed ^ 2));
        }
        let (a, b) = (inputs[0].to_f64(), inputs[1].to_f64());
        let (mut want, mut scale) = (vec![], vec![]);
        for i in 0..m {
            for j in 0..n {
                let term = |p: usize| {
                    a[if trans[0] { p * m + i } else { i * k + p }]
                        * b[if trans[1] { j * k + p } else { p * n + j }]
                };
                let mut sum = f64::from(alpha) * (0..k).map(term).sum::<f64>();
                let mut size: f64 = (0..k).map(|p| term(p).abs()).sum();
                if c > 0 {
                    let at = match c { 1 => j, 2 => i, 3 => 0, _ => i * n + j };
                    let v = f64::from(beta) * inputs[2].to_f64()[at];
                    sum += v;
                    size += v.abs();
                }
                want.push(activation.map_or(sum, |x| activate(x, sum)));
                scale.push(size);
            }
        }
        let known: &[usize] = match known { 0 => &[], 1 => &[1], 2 => &[0], _ => &[0, 1, 2] };
        let got = run(&Op::Gemm(gemm.clone()), &inputs, known, None, &[m, n]);
        check(got.as_f32().unwrap(), &want, &scale, &(gemm, m, k, n, c));
    }

    #[test]
    fn matmul(
        batch in prop::collection::vec(1..4usize, 0..3),
        cut in any::<[bool; 4]>(),
        m in prop_oneof![Just(1usize), 1..20usize],
        k in 1..70usize,
        n in prop_oneof![Just(1usize), 1..70usize],
        vectors in prop_oneof![4 => Just(0), 1 => 1..4usize],
        known in 0..3usize,
        seed in any::<u64>(),
    ) {
        // Either operand may lack or broadcast some batch axes.
        let mut shapes = [batch.clone(), batch.clone()];
        if let Some(first) = shapes[0].first_mut() && cut[0] { *first = 1 }
        if let Some(last) = shapes[1].last_mut() && cut[1] { *last = 1 }
        if cut[2] && !shapes[1].is_empty() { shapes[1].remove(0); }
        let [mut a, mut b] = shapes;
        if vectors & 1 == 1 { a = vec![k] } else { a.extend([m, k]) }
        if vectors & 2 == 2 { b = vec![k] } else { b.extend([k, n]) }
        let (m, n) = (if vectors & 1 == 1 { 1 } else { m }, if vectors & 2 == 2 { 1 } else { n });
        let inputs = [tensor(&a, seed), tensor(&b, seed ^ 1)];
        let shape = shape_of(&Op::MatMul, &inputs);
        let tail = usize::from(vectors & 1 == 0) + usize::from(vectors & 2 == 0);
        let batch = &shape[..shape.len() - tail];
        let (x, y) = (inputs[0].to_f64(), inputs[1].to_f64());
        // Which matrix of an operand an output batch index takes.
        let place = |s: &[usize], index: &[usize]| {
            let own = &s[..s.len().saturating_sub(2)];
            let index = &index[index.len() - own.len().min(index.len())..];
            own.iter().zip(index).fold(0, |at, (&d, &i)| at * d + if d == 1 { 0 } else { i })
        };
        let (mut want, mut scale) = (vec![], vec![]);
        for flat in 0..numel(batch) {
            let mut index = vec![0; batch.len()];
            let mut rest = flat;
            for i in (0..batch.len()).rev() {
                index[i] = rest % batch[i];
                rest /= batch[i];
            }
            let (pa, pb) = (place(&a, &index) * m * k, place(&b, &index) * k * n);
            for i in 0..m {
                for j in 0..n {
                    let term = |p: usize| x[pa + i * k + p] * y[pb + p * n + j];
                    want.push((0..k).map(term).sum());
                    scale.push((0..k).map(|p| term(p).abs()).sum());
                }
            }
        }
        let known: &[usize] = match known { 0 => &[], 1 => &[1], _ => &[0, 1] };
        let got = run(&Op::MatMul, &inputs, known, None, &shape);
        check(got.as_f32().unwrap(), &want, &scale, &(a, b));
    }

    #[test]
    fn conv_transpose(
        (batch, groups, ci, co) in (1..3usize, 1..4usize, 1..9usize, 1..9usize),
        (h, w) in (1..8usize, 1..12usize),
        kernel in prop::array::uniform2(1..5usize),
        strides in prop::array::uniform2(1..4usize),
        dilations in prop::array::uniform2(1..3usize),
        extra in prop::array::uniform2(0..2usize),
        pads in prop::array::uniform4(0..3usize),
        flags in any::<[bool; 2]>(),
        seed in any::<u64>(),
    ) {
        let mut pads = pads;
        let full = |i: usize, s: usize| {
            (s - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        };
        for i in 0..2 {
            let limit = full(i, [h, w][i]) - 1;
            pads[i] = pads[i].min(limit);
            pads[i + 2] = pads[i + 2].min(limit - pads[i]);
        }
        let activation = flags[0].then_some(Activation::Relu);
        let c = ConvTranspose {
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            pads: pads.to_vec(),
            dilations: dilations.to_vec(),
            output_padding: extra.to_vec(),
            groups,
            activation,
        };
        let inputs = [
            tensor(&[batch, groups * ci, h, w], seed),
            tensor(&[groups * ci, co, kernel[0], kernel[1]], seed ^ 1),
            tensor(&[groups * co], seed ^ 2),
        ];
        let op = Op::ConvTranspose(c.clone());
        let facts: Vec<Fact> = inputs
            .iter()
            .map(|t| Fact { dtype: t.dtype(), shape: t.shape().to_vec() })
            .collect();
        let Ok(out) = infer(&op, &facts) else { return Ok(()) };
        let shape = out[0].shape.clone();
        let (oh, ow) = (shape[2], shape[3]);
        let [x, wt, bias] = [0, 1, 2].map(|i| inputs[i].to_f64());
        let mut want: Vec<f64> =
            (0..numel(&shape)).map(|i| bias[i / (oh * ow) % (groups * co)]).collect();
        let mut scale: Vec<f64> = want.iter().map(|v| v.abs()).collect();
        // By its definition: each input element is spread over its window.
        for b in 0..batch {
            for i in 0..groups * ci {
                for o in 0..co {
                    for y in 0..h {
                        for xx in 0..w {
                            for ky in 0..kernel[0] {
                                for kx in 0..kernel[1] {
                                    let oy = (y * strides[0] + ky * dilations[0]).wrapping_sub(pads[0]);
                                    let ox = (xx * strides[1] + kx * dilations[1]).wrapping_sub(pads[1]);
                                    if oy >= oh || ox >= ow {
                                        continue;
                                    }
                                    let v = x[((b * groups * ci + i) * h + y) * w + xx]
                                        * wt[((i * co + o) * kernel[0] + ky) * kernel[1] + kx];
                                    let ch = i / ci * co + o;
                                    let at = ((b * groups * co + ch) * oh + oy) * ow + ox;
                                    want[at] += v;
                                    scale[at] += v.abs();
                                }
                            }
                        }
                    }
                }
            }
        }
        if let Some(a) = activation {
            want.iter_mut().for_each(|v| *v = activate(a, *v));
        }
        let known: &[usize] = if flags[1] { &[1] } else { &[] };
        let got = run(&op, &inputs, known, None, &shape);
        check(got.as_f32().unwrap(), &want, &scale, &c);
    }

    #[test]
    fn pools(
        (n, c) in (1..3usize, 1..20usize),
        size in prop::array::uniform2(1..30usize),
        kernel in prop::array::uniform2(1..7usize),
        strides in prop::array::uniform2(1..4usize),
        dilations in prop_oneof![3 => Just([1usize, 1]), 1 => prop::array::uniform2(1..3usize)],
        pads in prop::array::uniform4(0..3usize),
        kind in 0..3usize,
        (ceil_mode, global) in (any::<bool>(), prop::bool::weighted(0.1)),
        seed in any::<u64>(),
    ) {
        let mut pool = Pool {
            kind: match kind {
                0 => PoolKind::Max,
                k => PoolKind::Average { count_include_pad: k == 1 },
            },
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            pads: pads.to_vec(),
            dilations: dilations.to_vec(),
            ceil_mode,
        };
        if global {
            pool.kernel = size.to_vec();
            pool.dilations = vec![1, 1];
            pool.pads = vec![0; 4];
        }
        let inputs = [tensor(&[n, c, size[0], size[1]], seed)];
        let op = Op::Pool(pool.clone());
        let facts = [Fact { dtype: inputs[0].dtype(), shape: inputs[0].shape().to_vec() }];
        let Ok(out) = infer(&op, &facts) else { return Ok(()) };
        let shape = out[0].shape.clone();
        let x = inputs[0].to_f64();
        let mut want = vec![];
        for plane in 0..n * c {
            for oy in 0..shape[2] {
                for ox in 0..shape[3] {
                    let (mut max, mut sum, mut inside, mut padded) = (f64::NEG_INFINITY, 0.0, 0, 0);
                    for ky in 0..pool.kernel[0] {
                        for kx in 0..pool.kernel[1] {
                            // Coordinates with the leading pads at 0.
                            let y = oy * strides[0] + ky * pool.dilations[0];
                            let xx = ox * strides[1] + kx * pool.dilations[1];
                            let end = [0, 1].map(|i| pool.pads[i] + size[i] + pool.pads[i + 2]);
                            padded += usize::from(y < end[0] && xx < end[1]);
                            let (y, xx) =
                                (y.wrapping_sub(pool.pads[0]), xx.wrapping_sub(pool.pads[1]));
                            if y < size[0] && xx < size[1] {
                                let v = x[(plane * size[0] + y) * size[1] + xx];
                                max = max.max(v);
                                sum += v;
                                inside += 1;
                            }
                        }
                    }
                    want.push(match pool.kind {
                        PoolKind::Max => max,
                        PoolKind::Average { count_include_pad: true } => sum / padded.max(1) as f64,
                        PoolKind::Average { .. } => sum / inside.max(1) as f64,
                    });
                }
            }
        }
        let got = run(&op, &inputs, &[], None, &shape);
        let got = got.as_f32().unwrap();
        for (i, (&g, &w)) in got.iter().zip(&want).enumerate() {
            let near = f64::from(g) == w || (f64::from(g) - w).abs() < 2e-6;
            prop_assert!(near, "element {i}: {g}, should be {w}: {pool:?}");
        }
    }

    #[test]
    fn per_channel_functions(
        (n, c, h, w) in (1..3usize, 1..9usize, 1..7usize, 1..70usize),
        slope in 0..4usize,
        in_place in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let x = tensor(&[n, c, h, w], seed);
        let shared = in_place.then_some(0);
        let plane = h * w;
        let mut params: Vec<Tensor> = (1..5).map(|i| tensor(&[c], seed ^ i)).collect();
        let variance = random(c, seed ^ 4).iter().map(|v| v.abs()).collect();
        params[3] = Tensor::f32([c], variance);
        let [s, b, m, v] = [0, 1, 2, 3].map(|i| params[i].to_f64());
        let want: Vec<f64> = x.to_f64().iter().enumerate().map(|(i, x)| {
            let k = i / plane % c;
            (x - m[k]) / (v[k] + f64::from(1e-3f32)).sqrt() * s[k] + b[k]
        }).collect();
        let mut inputs = vec![x.clone()];
        inputs.extend(params);
        let got = run(&Op::BatchNorm { epsilon: 1e-3 }, &inputs, &[1, 2, 3, 4], shared, x.shape());
        // The mean's multiple may cancel: it counts in the tolerance.
        let scale: Vec<f64> = (0..want.len()).map(|i| {
            let k = i / plane % c;
            (1.0 + m[k].abs()) / (v[k] + 1e-3).sqrt() * s[k].abs() + b[k].abs()
        }).collect();
        check(got.as_f32().unwrap(), &want, &scale, &(n, c, h, w));

        let shape: &[usize] = match slope { 0 => &[c, 1, 1], 1 => &[1], 2 => &[h, 1], _ => &[n, c, h, w] };
        let slopes = tensor(shape, seed ^ 9);
        let sl = slopes.to_f64();
        let want: Vec<f64> = x.to_f64().iter().enumerate().map(|(i, &x)| {
            let s = match slope { 0 => sl[i / plane % c], 1 => sl[0], 2 => sl[i / w % h], _ => sl[i] };
            if x < 0.0 { x * s } else { x }
        }).collect();
        let got = run(&Op::PRelu, &[x.clone(), slopes], &[1], shared, x.shape());
        check(got.as_f32().unwrap(), &want, &ones(want.len()), &(n, c, h, w, slope));
    }
}

#[test]
fn activations_are_accurate() {
    use Activation::*;
    let all = [
        Relu,
        LeakyRelu { alpha: 0.1 },
        Clip { min: -0.5, max: 6.0 },
        Sigmoid,
        HardSigmoid { alpha: 0.2, beta: 0.5 },
        HardSwish,
        Silu,
        Mish,
        Tanh,
        Elu { alpha: 0.7 },
        Softplus,
        Gelu { tanh: false },
        Gelu { tanh: true },
        Erf,
    ];
    // Dense around 0, sparse up to where exponentials overflow.
    let mut xs: Vec<f32> = (-4000..=4000).map(|i| i as f32 / 400.0).collect();
    xs.extend((-400..=400).map(|i| i as f32 / 2.0));
    xs.extend([1e-8, -1e-8, 1e-4, -1e-4, 1e30, -1e30, 0.0]);
    for act in all {
        let x = Tensor::f32([xs.len()], xs.clone());
        for shared in [None, Some(0)] {
            let got = run(&Op::Activation(act), std::slice::from_ref(&x), &[], shared, &[xs.len()]);
            for (&x, &y) in xs.iter().zip(got.as_f32().unwrap()) {
                let want = activate(act, x.into());
                let bound = 2e-6 * want.abs() + 3e-7 * f64::from(x.abs()).min(1.0) + 1e-7;
                let error = (f64::from(y) - want).abs();
                assert!(error <= bound, "{act:?} of {x}: {y}, should be {want}");
            }
        }
    }
    // A number that is none stays none.
    for act in all {
        let x = Tensor::f32([20], vec![f32::NAN; 20]);
        let got = run(&Op::Activation(act), &[x], &[], None, &[20]);
        assert!(got.as_f32().unwrap().iter().all(|y| y.is_nan()), "{act:?} of NaN");
    }
}
