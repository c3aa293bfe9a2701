//! What becomes a part of the layer beside it.

use super::*;

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
