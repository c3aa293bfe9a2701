//! Operators that a model spells out.

use super::*;

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
