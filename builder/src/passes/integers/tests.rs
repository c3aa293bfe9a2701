use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor, TensorData};

use crate::graph::{Graph, ValueId};
use crate::testing::*;

fn bytes(g: &mut Graph, dtype: DType, shape: &[usize], v: Vec<i32>) -> ValueId {
    let data = match dtype {
        DType::U8 => TensorData::U8(v.into_iter().map(|x| x as u8).collect()),
        _ => TensorData::I8(v.into_iter().map(|x| x as i8).collect()),
    };
    g.add_constant("q", Tensor::new(shape, data))
}

/// `x` through Quantize and Dequantize.
fn through(g: &mut Graph, x: ValueId, dtype: DType, scale: f32, zero: i32) -> ValueId {
    let s = scalar(g, scale);
    let z = bytes(g, dtype, &[], vec![zero]);
    let q = g.push1("quantize", Op::Quantize { axis: None, to: dtype }, &[x, s, z]).unwrap();
    g.push1("dequantize", Op::Dequantize { axis: None }, &[q, s, z]).unwrap()
}

/// Random i8 weights with a scale for each index of an axis.
fn weights(g: &mut Graph, rng: &mut Noise, shape: &[usize], axis: usize) -> ValueId {
    let n: usize = shape.iter().product();
    let v = (0..n).map(|_| (rng.unit() * 127.0) as i32).collect();
    let q = bytes(g, DType::I8, shape, v);
    let s = rng.tensor_in(&[shape[axis]], 0.001, 0.01);
    let s = g.add_constant("s", s);
    g.push1("weights", Op::Dequantize { axis: Some(axis) }, &[q, s]).unwrap()
}

fn conv(g: &mut Graph, rng: &mut Noise, x: ValueId, filters: usize, op: Op) -> ValueId {
    let Op::Conv(c) = &op else { panic!() };
    let shape = [filters, g.shape(x)[1] / c.groups, c.kernel[0], c.kernel[1]];
    let w = weights(g, rng, &shape, 0);
    let b = rng.tensor(&[filters]);
    let b = g.add_constant("b", b);
    g.push1("conv", op, &[x, w, b]).unwrap()
}

fn act(g: &mut Graph, a: Activation, x: ValueId) -> ValueId {
    g.push1("act", Op::Activation(a), &[x]).unwrap()
}

/// The names of the ops after the passes; outputs are those of before, but for results that fall
/// on another integer because sums are rounded elsewhere.
fn check(mut g: Graph, y: ValueId, step: f32) -> Vec<&'static str> {
    g.outputs = vec![("y".into(), y)];
    let inputs = random_inputs(&g, &mut Noise::new(3));
    let before = run(&g, &inputs);
    let options = crate::passes::PassOptions { until: None, with: vec!["integers".into()] };
    let (after, _) = crate::passes::optimise(g, &options, &mut |_| ()).unwrap();
    let got = run(&after, &inputs);
    let (a, b) = (before[0].to_f64(), got[0].to_f64());
    let off: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).collect();
    let most = off.iter().fold(0.0f64, |m, &d| m.max(d));
    let count = off.iter().filter(|d| **d > 1e-4).count();
    assert!(most <= f64::from(step) * 1.01, "off by {most}, a step is {step}");
    assert!(count * 50 <= a.len(), "{count} of {} results differ", a.len());
    after.nodes.iter().map(|n| n.op.name()).collect()
}

fn picture(dtype: DType, zero: i32) -> (Graph, Noise, ValueId) {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 9, 9]);
    let x = through(&mut g, x, dtype, 1.0 / 127.0, zero);
    (g, Noise::new(7), x)
}

#[test]
fn a_convolution_with_its_activation_takes_and_stores_integers() {
    for (dtype, zero) in [(DType::I8, 0), (DType::U8, 128), (DType::I8, -20)] {
        let (mut g, mut rng, x) = picture(dtype, zero);
        let y = conv(&mut g, &mut rng, x, 6, conv_op(3, 1, 1, 1));
        let y = act(&mut g, Activation::Silu, y);
        let y = through(&mut g, y, DType::U8, 0.02, 13);
        assert_eq!(check(g, y, 0.02), ["Quantize", "QuantConv", "Dequantize"]);
    }
}

#[test]
fn an_addition_before_or_behind_the_activation_is_part_of_it() {
    for last in [true, false] {
        let (mut g, mut rng, x) = picture(DType::I8, 0);
        let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 4));
        let a = through(&mut g, a, DType::I8, 0.02, 0);
        let b = conv(&mut g, &mut rng, a, 4, conv_op(1, 1, 0, 1));
        let b = if last { act(&mut g, Activation::Relu, b) } else { b };
        let y = g.push1("add", binary(Binary::Add), &[b, a]).unwrap();
        let y = if last { y } else { act(&mut g, Activation::Relu, y) };
        let y = through(&mut g, y, DType::I8, 0.05, 0);
        assert_eq!(check(g, y, 0.05), ["Quantize", "QuantConv", "QuantConv", "Dequantize"]);
    }
}

#[test]
fn results_that_floats_want_too_are_floats() {
    let (mut g, mut rng, x) = picture(DType::I8, 0);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let b = through(&mut g, a, DType::I8, 0.02, 0);
    let b = conv(&mut g, &mut rng, b, 4, conv_op(1, 1, 0, 1));
    let y = g.push1("mul", binary(Binary::Mul), &[a, b]).unwrap();
    let ops = check(g, y, 0.05);
    assert_eq!(ops, ["Quantize", "QuantConv", "Quantize", "QuantConv", "Mul"]);
}

#[test]
fn moves_pools_and_functions_stay_integers() {
    let (mut g, mut rng, x) = picture(DType::I8, 0);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let a = through(&mut g, a, DType::I8, 0.02, 0);
    let pool = |kind| {
        Op::Pool(Pool {
            kind,
            kernel: vec![3, 3],
            strides: vec![1, 1],
            pads: vec![1; 4],
            dilations: vec![1, 1],
            ceil_mode: false,
        })
    };
    let m = g.push1("max", pool(PoolKind::Max), &[a]).unwrap();
    let average = pool(PoolKind::Average { count_include_pad: false });
    let v = g.push1("average", average, &[a]).unwrap();
    let v = through(&mut g, v, DType::I8, 0.01, 0);
    let t = act(&mut g, Activation::Tanh, a);
    let t = through(&mut g, t, DType::I8, 1.0 / 127.0, 0);
    let c = g.push1("concat", Op::Concat { axis: 1 }, &[m, v, t, a]).unwrap();
    let c = through(&mut g, c, DType::I8, 0.02, 0);
    let y = conv(&mut g, &mut rng, c, 5, conv_op(1, 1, 0, 1));
    let mean = Op::Reduce { kind: Reduce::Mean, axes: vec![2, 3], keep_dims: false };
    let y = through(&mut g, y, DType::U8, 0.1, 100);
    let y = g.push1("mean", mean, &[y]).unwrap();
    let y = through(&mut g, y, DType::I8, 0.02, 0);
    let w = weights(&mut g, &mut rng, &[5, 3], 1);
    let y = g.push1("matmul", Op::MatMul, &[y, w]).unwrap();
    let ops = check(g, y, 0.02);
    for float in ["Conv", "MatMul", "Gemm", "Tanh", "AveragePool", "ReduceMean"] {
        assert!(!ops.contains(&float), "{ops:?}");
    }
    let lookups = ops.iter().filter(|o| **o == "Lookup").count();
    assert_eq!(lookups, 3, "the function, and two requantised parts: {ops:?}");
}

#[test]
fn what_does_not_fit_stays_floats() {
    // Unsigned weights that do not fit i8 without their zero point.
    let (mut g, _, x) = picture(DType::I8, 0);
    let w = bytes(&mut g, DType::U8, &[1, 4, 1, 1], vec![0, 255, 1, 2]);
    let (s, z) = (scalar(&mut g, 0.01), bytes(&mut g, DType::U8, &[], vec![0]));
    let w = g.push1("weights", Op::Dequantize { axis: None }, &[w, s, z]).unwrap();
    let b = g.add_constant("b", Tensor::f32([1], vec![0.0]));
    let y = g.push1("conv", conv_op(1, 1, 0, 1), &[x, w, b]).unwrap();
    assert_eq!(check(g, y, 1e-5), ["Quantize", "Dequantize", "Conv"]);
    // Weights in floats were not meant to be integers.
    let (mut g, mut rng, x) = picture(DType::I8, 0);
    let y = crate::testing::conv(&mut g, &mut rng, x, 2, conv_op(1, 1, 0, 1));
    assert_eq!(check(g, y, 1e-5), ["Quantize", "Dequantize", "Conv"]);
}

#[test]
fn what_a_convolution_in_floats_makes_is_quantised_before_it_is_pooled() {
    let mut rng = Noise::new(5);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 9, 9]);
    let (w, b) = (rng.tensor(&[6, 4, 3, 3]), rng.tensor(&[6]));
    let (w, b) = (g.add_constant("w", w), g.add_constant("b", b));
    let y = g.push1("conv", conv_op(3, 1, 1, 1), &[x, w, b]).unwrap();
    let pool = Op::Pool(Pool {
        kind: PoolKind::Max,
        kernel: vec![3, 3],
        strides: vec![2, 2],
        pads: vec![1; 4],
        dilations: vec![1, 1],
        ceil_mode: false,
    });
    let y = g.push1("pool", pool, &[y]).unwrap();
    let y = through(&mut g, y, DType::I8, 0.05, 3);
    let y = conv(&mut g, &mut rng, y, 5, conv_op(1, 1, 0, 1));
    assert_eq!(check(g, y, 0.05), ["Conv", "Quantize", "MaxPool", "QuantConv"]);
}
