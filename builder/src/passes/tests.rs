use proptest::prelude::*;
use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor};

use super::*;
use crate::graph::ValueId;
use crate::testing::*;

const TOLERANCE: f64 = 1e-5;

fn pass(name: &str) -> &'static Pass {
    PASSES.iter().find(|p| p.name == name).unwrap()
}

/// Runs one pass, and checks that the graph still computes the same.
fn apply(name: &str, graph: Graph) -> Graph {
    let mut rng = Noise::new(7);
    let inputs = random_inputs(&graph, &mut rng);
    graph.check().unwrap();
    let wanted = run(&graph, &inputs);
    let names: Vec<String> = graph.outputs.iter().map(|(n, _)| n.clone()).collect();
    let after = (pass(name).run)(graph).unwrap();
    after.check().unwrap();
    let got = run(&after, &inputs);
    let d = distance(&wanted, &got);
    assert!(d <= TOLERANCE, "{name}: relative L2 {d:e}");
    assert!(after.outputs.iter().map(|(n, _)| n).eq(&names));
    after
}

fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes.iter().map(|n| n.op.name()).collect()
}

fn input(g: &mut Graph, shape: &[usize]) -> ValueId {
    g.add_input("x", DType::F32, shape.to_vec())
}

fn output(mut g: Graph, v: ValueId) -> Graph {
    g.outputs.push(("y".into(), v));
    g
}

fn activation(g: &mut Graph, a: Activation, x: ValueId) -> ValueId {
    g.push1("act", Op::Activation(a), &[x]).unwrap()
}

fn bin(g: &mut Graph, kind: Binary, a: ValueId, b: ValueId) -> ValueId {
    g.push1("bin", binary(kind), &[a, b]).unwrap()
}

#[test]
fn dead_code_goes_and_inputs_stay() {
    let mut g = Graph::new();
    let x = input(&mut g, &[1, 2]);
    g.add_input("unused", DType::F32, vec![3]);
    activation(&mut g, Activation::Relu, x);
    let y = activation(&mut g, Activation::Tanh, x);
    let after = apply("dead-code", output(g, y));
    assert_eq!(ops(&after), ["Tanh"]);
    assert_eq!(after.inputs.len(), 2);
}

#[test]
fn constants_fold_but_do_not_blow_up() {
    let mut g = Graph::new();
    let x = input(&mut g, &[1, 4]);
    let a = g.add_constant("a", Tensor::f32([4], vec![1.0, 2.0, 3.0, 4.0]));
    let b = scalar(&mut g, 2.0);
    let ab = bin(&mut g, Binary::Mul, a, b);
    let y = bin(&mut g, Binary::Add, x, ab);
    let after = apply("fold-constants", output(g, y));
    assert_eq!(ops(&after), ["Add"]);
    let k = after.constant(after.nodes[0].inputs[1]).unwrap();
    assert_eq!(k.as_f32().unwrap(), [2.0, 4.0, 6.0, 8.0]);

    let mut g = Graph::new();
    let x = input(&mut g, &[1]);
    let k = scalar(&mut g, 1.0);
    let shape = vec![64, 1 << 18];
    let big = g.push1("expand", Op::Expand { shape }, &[k]).unwrap();
    let all = g
        .push1("sum", Op::Reduce { kind: Reduce::Sum, axes: vec![0, 1], keep_dims: false }, &[big])
        .unwrap();
    let y = bin(&mut g, Binary::Add, x, all);
    let after = fold_constants::run(output(g, y)).unwrap();
    assert_eq!(ops(&after), ["Expand", "ReduceSum", "Add"], "64 MiB of ones are not stored");
}

#[test]
fn identities_disappear() {
    let mut g = Graph::new();
    let x = input(&mut g, &[1, 2, 3, 4]);
    let v = g.push1("reshape", Op::Reshape { shape: vec![1, 2, 3, 4] }, &[x]).unwrap();
    let v = g.push1("cast", Op::Cast { to: DType::F32 }, &[v]).unwrap();
    let v = g.push1("transpose", Op::Transpose { perm: vec![0, 1, 2, 3] }, &[v]).unwrap();
    let v = g.push1("concat", Op::Concat { axis: 1 }, &[v]).unwrap();
    let mode = PadMode::Constant { value: 1.0 };
    let pad = Pad { begins: vec![0; 4], ends: vec![0; 4], mode };
    let v = g.push1("pad", Op::Pad(pad), &[v]).unwrap();
    let slice = Slice { starts: vec![0; 4], steps: vec![1; 4], lens: vec![1, 2, 3, 4] };
    let v = g.push1("slice", Op::Slice(slice), &[v]).unwrap();
    let v = g.push1("expand", Op::Expand { shape: vec![1, 2, 3, 4] }, &[v]).unwrap();
    let v = g.push1("tile", Op::Tile { repeats: vec![1; 4] }, &[v]).unwrap();
    let resize = Resize {
        sizes: vec![1, 2, 3, 4],
        scales: vec![1.0; 4],
        mode: ResizeMode::Linear { antialias: false },
        coordinates: Coordinates::HalfPixel,
    };
    let v = g.push1("resize", Op::Resize(resize), &[v]).unwrap();
    let one = scalar(&mut g, 1.0);
    let zero = scalar(&mut g, 0.0);
    let v = bin(&mut g, Binary::Mul, one, v);
    let v = bin(&mut g, Binary::Add, v, zero);
    let v = bin(&mut g, Binary::Sub, v, zero);
    let v = bin(&mut g, Binary::Div, v, one);
    let v = bin(&mut g, Binary::Pow, v, one);
    let y = activation(&mut g, Activation::Tanh, v);
    let after = apply("identities", output(g, y));
    assert_eq!(ops(&after), ["Tanh"]);
}

#[test]
fn what_is_no_identity_stays() {
    let mut g = Graph::new();
    let x = input(&mut g, &[3]);
    let zero = scalar(&mut g, 0.0);
    let wide = g.add_constant("wide", Tensor::f32([2, 1], vec![1.0, 1.0]));
    let a = bin(&mut g, Binary::Sub, zero, x);
    let y = bin(&mut g, Binary::Mul, a, wide);
    let after = apply("identities", output(g, y));
    assert_eq!(ops(&after), ["Sub", "Mul"]);
}

#[test]
fn moves_join() {
    let mut g = Graph::new();
    let x = input(&mut g, &[2, 3, 4]);
    let v = g.push1("t1", Op::Transpose { perm: vec![2, 0, 1] }, &[x]).unwrap();
    let v = g.push1("t2", Op::Transpose { perm: vec![0, 2, 1] }, &[v]).unwrap();
    let v = g.push1("r1", Op::Reshape { shape: vec![12, 2] }, &[v]).unwrap();
    let v = g.push1("r2", Op::Reshape { shape: vec![2, 12] }, &[v]).unwrap();
    let s1 = Slice { starts: vec![0, 11], steps: vec![1, -1], lens: vec![2, 10] };
    let v = g.push1("s1", Op::Slice(s1), &[v]).unwrap();
    let s2 = Slice { starts: vec![1, 1], steps: vec![1, 3], lens: vec![1, 3] };
    let y = g.push1("s2", Op::Slice(s2), &[v]).unwrap();
    let after = apply("identities", output(g, y));
    assert_eq!(ops(&after), ["Transpose", "Reshape", "Slice"]);

    let mut g = Graph::new();
    let x = input(&mut g, &[1, 3, 4]);
    let t = g.push1("t", Op::Transpose { perm: vec![1, 0, 2] }, &[x]).unwrap();
    let axes = vec![1];
    let y = g.push1("m", Op::Reduce { kind: Reduce::Mean, axes, keep_dims: false }, &[t]).unwrap();
    let after = apply("identities", output(g, y));
    assert_eq!(ops(&after), ["Reshape"]);
}

#[test]
fn concatenations_flatten() {
    let mut g = Graph::new();
    let x = input(&mut g, &[1, 2, 3]);
    let a = activation(&mut g, Activation::Relu, x);
    let b = activation(&mut g, Activation::Tanh, x);
    let ab = g.push1("ab", Op::Concat { axis: 1 }, &[a, b]).unwrap();
    let y = g.push1("abx", Op::Concat { axis: 1 }, &[ab, x]).unwrap();
    let after = apply("identities", output(g, y));
    assert_eq!(ops(&after), ["Relu", "Tanh", "Concat"]);
}

#[test]
fn equal_nodes_run_once() {
    let mut g = Graph::new();
    let x = input(&mut g, &[1, 4]);
    let k1 = g.add_constant("k1", Tensor::f32([4], vec![0.5; 4]));
    let k2 = g.add_constant("k2", Tensor::f32([4], vec![0.5; 4]));
    let k3 = g.add_constant("k3", Tensor::f32([4], vec![-0.5; 4]));
    let a = bin(&mut g, Binary::Mul, x, k1);
    let b = bin(&mut g, Binary::Mul, x, k2);
    let c = bin(&mut g, Binary::Mul, x, k3);
    let (a, b) = (activation(&mut g, Activation::Tanh, a), activation(&mut g, Activation::Tanh, b));
    let ab = bin(&mut g, Binary::Sub, a, b);
    let y = bin(&mut g, Binary::Add, ab, c);
    let after = apply("common", output(g, y));
    assert_eq!(ops(&after), ["Mul", "Mul", "Tanh", "Sub", "Add"]);
}

#[test]
fn spelled_out_activations_are_found() {
    let found = |make: &dyn Fn(&mut Graph, ValueId) -> ValueId, wanted: &str| {
        let mut g = Graph::new();
        let x = input(&mut g, &[2, 3]);
        let y = make(&mut g, x);
        let after = apply("patterns", output(g, y));
        assert_eq!(ops(&after), [wanted]);
    };
    found(
        &|g, x| {
            let s = activation(g, Activation::Sigmoid, x);
            bin(g, Binary::Mul, s, x)
        },
        "Silu",
    );
    found(
        &|g, x| {
            let s = activation(g, Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, x);
            bin(g, Binary::Mul, x, s)
        },
        "HardSwish",
    );
    for divide in [true, false] {
        found(
            &|g, x| {
                let three = scalar(g, 3.0);
                let s = bin(g, Binary::Add, x, three);
                let c = activation(g, Activation::Clip { min: 0.0, max: 6.0 }, s);
                let p = bin(g, Binary::Mul, x, c);
                let k = scalar(g, if divide { 6.0 } else { 1.0 / 6.0 });
                bin(g, if divide { Binary::Div } else { Binary::Mul }, p, k)
            },
            "HardSwish",
        );
    }
    found(
        &|g, x| {
            let s = activation(g, Activation::Softplus, x);
            let t = activation(g, Activation::Tanh, s);
            bin(g, Binary::Mul, x, t)
        },
        "Mish",
    );
    for half_first in [true, false] {
        found(
            &|g, x| {
                let (root, one, half) = (scalar(g, 2f32.sqrt()), scalar(g, 1.0), scalar(g, 0.5));
                let d = bin(g, Binary::Div, x, root);
                let e = activation(g, Activation::Erf, d);
                let s = bin(g, Binary::Add, e, one);
                if half_first {
                    let h = bin(g, Binary::Mul, x, half);
                    bin(g, Binary::Mul, h, s)
                } else {
                    let p = bin(g, Binary::Mul, x, s);
                    bin(g, Binary::Mul, p, half)
                }
            },
            "Gelu",
        );
    }
    found(
        &|g, x| {
            let cube = scalar(g, 3.0);
            let p = bin(g, Binary::Pow, x, cube);
            let k = scalar(g, 0.044715);
            let p = bin(g, Binary::Mul, p, k);
            let s = bin(g, Binary::Add, x, p);
            let k = scalar(g, (2.0 / std::f32::consts::PI).sqrt());
            let s = bin(g, Binary::Mul, s, k);
            let t = activation(g, Activation::Tanh, s);
            let one = scalar(g, 1.0);
            let t = bin(g, Binary::Add, t, one);
            let h = scalar(g, 0.5);
            let h = bin(g, Binary::Mul, h, x);
            bin(g, Binary::Mul, h, t)
        },
        "Gelu",
    );
    found(
        &|g, x| {
            let (zero, six) = (scalar(g, 0.0), scalar(g, 0.5));
            let r = bin(g, Binary::Max, x, zero);
            bin(g, Binary::Min, r, six)
        },
        "Clip",
    );
    found(
        &|g, x| {
            let e = g.push1("exp", Op::Unary(Unary::Exp), &[x]).unwrap();
            let one = scalar(g, 1.0);
            let s = bin(g, Binary::Add, e, one);
            g.push1("log", Op::Unary(Unary::Log), &[s]).unwrap()
        },
        "Softplus",
    );
}

#[test]
fn a_gate_of_something_else_is_no_silu() {
    let mut g = Graph::new();
    let x = input(&mut g, &[2, 3]);
    let t = activation(&mut g, Activation::Tanh, x);
    let s = activation(&mut g, Activation::Sigmoid, t);
    let y = bin(&mut g, Binary::Mul, x, s);
    let after = apply("patterns", output(g, y));
    assert_eq!(ops(&after), ["Tanh", "Sigmoid", "Mul"]);
}

#[test]
fn layer_norm_is_found() {
    let mut g = Graph::new();
    let mut rng = Noise::new(3);
    let x = input(&mut g, &[2, 5, 8]);
    let mean = Op::Reduce { kind: Reduce::Mean, axes: vec![2], keep_dims: true };
    let m = g.push1("mean", mean.clone(), &[x]).unwrap();
    let d = bin(&mut g, Binary::Sub, x, m);
    let two = scalar(&mut g, 2.0);
    let p = bin(&mut g, Binary::Pow, d, two);
    let v = g.push1("var", mean, &[p]).unwrap();
    let eps = scalar(&mut g, 1e-5);
    let v = bin(&mut g, Binary::Add, v, eps);
    let s = g.push1("sqrt", Op::Unary(Unary::Sqrt), &[v]).unwrap();
    let n = bin(&mut g, Binary::Div, d, s);
    let scale = g.add_constant("scale", rng.tensor(&[8]));
    let bias = g.add_constant("bias", rng.tensor(&[8]));
    let y = bin(&mut g, Binary::Mul, n, scale);
    let y = bin(&mut g, Binary::Add, y, bias);
    let after = apply("layer-norm", output(g, y));
    assert_eq!(ops(&after), ["LayerNorm"]);
}

#[test]
fn a_product_with_a_constant_becomes_gemm() {
    let mut g = Graph::new();
    let mut rng = Noise::new(4);
    let x = input(&mut g, &[3, 5]);
    let w = g.add_constant("w", rng.tensor(&[5, 7]));
    let b = g.add_constant("b", rng.tensor(&[7]));
    let p = g.push1("matmul", Op::MatMul, &[x, w]).unwrap();
    let y = bin(&mut g, Binary::Add, b, p);
    let after = apply("matmul-to-gemm", output(g, y));
    assert_eq!(ops(&after), ["Gemm"]);
    assert_eq!(after.nodes[0].inputs.len(), 3);
}

fn pad_node(g: &mut Graph, x: ValueId, value: f32) -> ValueId {
    let mode = PadMode::Constant { value };
    let pad = Pad { begins: vec![0, 0, 1, 0], ends: vec![0, 0, 2, 1], mode };
    g.push1("pad", Op::Pad(pad), &[x]).unwrap()
}

fn pool_node(g: &mut Graph, x: ValueId, kind: PoolKind) -> ValueId {
    let pool = Pool {
        kind,
        kernel: vec![3, 3],
        strides: vec![2, 1],
        pads: vec![0; 4],
        dilations: vec![1, 1],
        ceil_mode: false,
    };
    g.push1("pool", Op::Pool(pool), &[x]).unwrap()
}

#[test]
fn padding_is_absorbed_where_it_may() {
    let mut g = Graph::new();
    let mut rng = Noise::new(5);
    let x = input(&mut g, &[1, 2, 7, 6]);
    let p = pad_node(&mut g, x, 0.0);
    let y = conv(&mut g, &mut rng, p, 3, conv_op(3, 1, 1, 1));
    assert_eq!(ops(&apply("absorb-pad", output(g, y))), ["Conv"]);

    let pooled = |kind, value, relu: bool| {
        let mut g = Graph::new();
        let mut x = input(&mut g, &[1, 2, 7, 6]);
        if relu {
            x = activation(&mut g, Activation::Relu, x);
        }
        let p = pad_node(&mut g, x, value);
        let y = pool_node(&mut g, p, kind);
        ops(&apply("absorb-pad", output(g, y))).contains(&"Pad")
    };
    assert!(!pooled(PoolKind::Average { count_include_pad: false }, 0.0, false));
    assert!(!pooled(PoolKind::Max, f32::NEG_INFINITY, false));
    assert!(!pooled(PoolKind::Max, 0.0, true));
    assert!(pooled(PoolKind::Max, 0.0, false), "zeros could win over negative numbers");
    assert!(pooled(PoolKind::Average { count_include_pad: false }, 1.0, false));
}

#[test]
fn batch_norm_and_constants_fold_behind() {
    for groups in [1, 2] {
        let mut g = Graph::new();
        let mut rng = Noise::new(6);
        let x = input(&mut g, &[2, 4, 5, 5]);
        let c = conv(&mut g, &mut rng, x, 6, conv_op(3, 1, 1, groups));
        let n = batch_norm(&mut g, &mut rng, c);
        let k = g.add_constant("k", rng.tensor(&[6, 1, 1]));
        let n = bin(&mut g, Binary::Mul, k, n);
        let n = bin(&mut g, Binary::Sub, k, n);
        let y = activation(&mut g, Activation::Relu, n);
        assert_eq!(ops(&apply("fold-affine", output(g, y))), ["Conv", "Relu"]);

        let mut g = Graph::new();
        let x = input(&mut g, &[1, 4, 5, 5]);
        let w = g.add_constant("w", rng.tensor(&[4, 3, 2, 2]));
        let b = g.add_constant("b", rng.tensor(&[3 * groups]));
        let up = Op::ConvTranspose(ConvTranspose {
            kernel: vec![2, 2],
            strides: vec![2, 2],
            pads: vec![0; 4],
            dilations: vec![1, 1],
            output_padding: vec![0, 0],
            groups,
            activation: None,
        });
        let c = g.push1("up", up, &[x, w, b]).unwrap();
        let y = batch_norm(&mut g, &mut rng, c);
        assert_eq!(ops(&apply("fold-affine", output(g, y))), ["ConvTranspose"]);
    }
}

#[test]
fn affine_maps_fold_around_gemm() {
    for (trans_b, c_shape) in
        [(false, vec![7]), (true, vec![3, 7]), (true, vec![]), (false, vec![3, 1])]
    {
        let mut g = Graph::new();
        let mut rng = Noise::new(8);
        let x = input(&mut g, &[3, 5]);
        let k = g.add_constant("k", rng.tensor(&[1, 5]));
        let v = bin(&mut g, Binary::Mul, x, k);
        let v = bin(&mut g, Binary::Sub, v, k);
        let b = g.add_constant("b", rng.tensor(if trans_b { &[7, 5] } else { &[5, 7] }));
        let c = g.add_constant("c", rng.tensor(&c_shape));
        let (alpha, beta) = (0.5, 2.0);
        let gemm = Gemm { trans_a: false, trans_b, alpha, beta, activation: None };
        let v = g.push1("gemm", Op::Gemm(gemm), &[v, b, c]).unwrap();
        let y = batch_norm(&mut g, &mut rng, v);
        assert_eq!(ops(&apply("fold-affine", output(g, y))), ["Gemm"]);
    }
}

#[test]
fn affine_maps_fold_before_where_padding_allows() {
    for (pad, shift, wanted) in
        [(0, true, vec!["Conv"]), (1, false, vec!["Conv"]), (1, true, vec!["BatchNorm", "Conv"])]
    {
        let mut g = Graph::new();
        let mut rng = Noise::new(9);
        let x = input(&mut g, &[1, 4, 6, 6]);
        let v = if shift {
            batch_norm(&mut g, &mut rng, x)
        } else {
            let k = g.add_constant("k", rng.tensor(&[1, 4, 1, 1]));
            bin(&mut g, Binary::Mul, x, k)
        };
        let y = conv(&mut g, &mut rng, v, 6, conv_op(3, 1, pad, 2));
        assert_eq!(ops(&apply("fold-affine", output(g, y))), wanted);
    }
}

#[test]
fn nothing_folds_into_what_others_see() {
    let mut g = Graph::new();
    let mut rng = Noise::new(10);
    let x = input(&mut g, &[1, 4, 5, 5]);
    let c = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let n = batch_norm(&mut g, &mut rng, c);
    g.outputs.push(("conv".into(), c));
    let after = apply("fold-affine", output(g, n));
    assert_eq!(ops(&after), ["Conv", "BatchNorm"]);
}

#[test]
fn residuals_and_activations_fuse() {
    let mut g = Graph::new();
    let mut rng = Noise::new(11);
    let x = input(&mut g, &[1, 4, 5, 5]);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, x, 4, conv_op(1, 1, 0, 1));
    let s = bin(&mut g, Binary::Add, b, a);
    let r = activation(&mut g, Activation::Silu, s);
    let t = bin(&mut g, Binary::Mul, r, x);
    let y = activation(&mut g, Activation::Relu, t);
    let g = apply("fuse-residual", output(g, y));
    assert_eq!(ops(&g), ["Conv", "Conv", "Silu", "Mul", "Relu"]);
    let g = apply("fuse-activation", g);
    assert_eq!(ops(&g), ["Conv", "Conv", "Mul"]);
    let Op::Conv(second) = &g.nodes[1].op else { panic!() };
    assert!(second.residual && second.activation == Some(Activation::Silu));
    assert_eq!(g.nodes[2].op.fused_activation(), Some(Activation::Relu));
}

#[test]
fn a_residual_is_added_where_layers_can_be_joined() {
    let mut g = Graph::new();
    let mut rng = Noise::new(12);
    let x = input(&mut g, &[1, 4, 6, 6]);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 2, 1, 1));
    let a = activation(&mut g, Activation::Relu, a);
    let b = conv(&mut g, &mut rng, a, 8, conv_op(1, 1, 0, 1));
    let side = conv(&mut g, &mut rng, x, 8, conv_op(1, 2, 0, 1));
    let s = bin(&mut g, Binary::Add, side, b);
    let names = [b, side].map(|v| g.nodes[g.producers()[&v]].name.clone());
    let g = apply("fuse-residual", output(g, s));
    assert_eq!(ops(&g), ["Conv", "Relu", "Conv", "Conv"]);
    let Op::Conv(last) = &g.nodes[3].op else { panic!() };
    assert!(last.residual && last.strides == [1, 1]);
    assert_eq!(g.nodes[3].inputs[3], g.nodes[2].outputs[0]);
    assert!(g.nodes[3].name.starts_with(&names[0]) && g.nodes[2].name == names[1]);
}

#[test]
fn siblings_merge() {
    let mut g = Graph::new();
    let mut rng = Noise::new(12);
    let x = input(&mut g, &[2, 4, 5, 5]);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, x, 6, conv_op(3, 1, 1, 1));
    let c = conv(&mut g, &mut rng, x, 6, conv_op(1, 1, 0, 1));
    let ab = g.push1("cat", Op::Concat { axis: 1 }, &[b, a, c]).unwrap();
    let after = apply("merge-siblings", output(g, ab));
    assert_eq!(ops(&after), ["Conv", "Slice", "Slice", "Conv", "Concat"]);
}

#[test]
fn unknown_passes_are_named() {
    let options = PassOptions { until: Some("nonsense".into()), with: vec![] };
    let e = optimise(Graph::new(), &options, &mut |_| ()).unwrap_err();
    assert!(e.to_string().contains("fold-constants"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every pass, alone and in its place in the list, keeps what random networks compute.
    #[test]
    fn random_networks_stay_the_same(
        choices in prop::collection::vec(any::<u32>(), 1..24),
        batch in 1usize..3,
        seed in 1u64..1000,
    ) {
        let graph = random_network(&choices, batch, seed);
        let mut rng = Noise::new(seed);
        let inputs = random_inputs(&graph, &mut rng);
        let wanted = run(&graph, &inputs);
        let mut staged = graph.clone();
        for pass in PASSES {
            for g in [graph.clone(), std::mem::take(&mut staged)] {
                let g = (pass.run)(g).unwrap();
                g.check().unwrap();
                let d = distance(&wanted, &run(&g, &inputs));
                prop_assert!(d <= TOLERANCE, "{}: relative L2 {d:e}", pass.name);
                staged = g;
            }
        }
    }
}
