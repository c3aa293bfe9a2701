//! What goes because nothing needs it, or is joined with its like.

use super::*;

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
