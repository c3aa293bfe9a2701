use tobiuo_ops::{Activation, Conv, Op, Slice};
use tobiuo_tensor::{DType, Tensor};

use super::*;

fn conv(g: &mut Graph, name: &str, x: ValueId, filters: usize, kernel: usize) -> ValueId {
    let channels = g.shape(x)[1];
    let w = Tensor::f32(
        [filters, channels, kernel, kernel],
        vec![0.5; filters * channels * kernel * kernel],
    );
    let w = g.add_constant(&format!("{name}.w"), w);
    let b = g.add_constant(&format!("{name}.b"), Tensor::f32([filters], vec![0.0; filters]));
    let p = kernel / 2;
    let op = Op::Conv(Conv {
        kernel: vec![kernel; 2],
        strides: vec![1; 2],
        pads: vec![p; 4],
        dilations: vec![1; 2],
        groups: 1,
        activation: Some(Activation::Relu),
        residual: false,
    });
    g.push1(name, op, &[x, w, b]).unwrap()
}

fn families(l: &Lowering) -> Vec<&'static str> {
    l.layers.iter().map(|l| l.layer.family()).collect()
}

#[test]
fn concatenations_of_aligned_channels_cost_nothing() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 16, 8, 8]);
    let a = conv(&mut g, "a", x, 32, 1);
    let half =
        |start| Slice { starts: vec![0, start, 0, 0], steps: vec![1; 4], lens: vec![1, 16, 8, 8] };
    let lo = g.push1("lo", Op::Slice(half(0)), &[a]).unwrap();
    let hi = g.push1("hi", Op::Slice(half(16)), &[a]).unwrap();
    let b = conv(&mut g, "b", hi, 24, 3);
    let all = g.push1("cat", Op::Concat { axis: 1 }, &[lo, hi, b]).unwrap();
    let y = conv(&mut g, "y", all, 8, 1);
    g.outputs.push(("y".into(), y));
    let l = lower(&g, Precision::Fp16).unwrap();
    // The input's layout is a copy; behind it are convolutions alone.
    assert_eq!(families(&l), ["permute", "conv", "conv", "conv_planes"]);
    let (a, b) = (&l.layers[1].outputs[0], &l.layers[2].outputs[0]);
    assert_eq!(a.buffer, b.buffer);
    assert_eq!((a.offset, b.offset), (0, 32));
    assert_eq!(a.pixel_pitch(), Some(56));
    let Operand::View(read) = &l.layers[2].operands[0] else { panic!("a view") };
    assert_eq!((read.buffer, read.offset), (a.buffer, 16));
}

#[test]
fn channels_that_do_not_align_are_copied() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 16, 4, 4]);
    let a = conv(&mut g, "a", x, 20, 1);
    let b = conv(&mut g, "b", x, 8, 1);
    let all = g.push1("cat", Op::Concat { axis: 1 }, &[a, b]).unwrap();
    let y = conv(&mut g, "y", all, 8, 1);
    g.outputs.push(("y".into(), y));
    let l = lower(&g, Precision::Fp16).unwrap();
    let cat = l.layers.iter().filter(|l| l.name.starts_with("cat")).count();
    assert_eq!(cat, 2, "{:?}", families(&l));
    // The buffer's pixels hold 28 channels and 4 of padding.
    let part = l.layers.iter().find(|l| l.name.starts_with("cat")).unwrap();
    assert_eq!(part.outputs[0].pixel_pitch(), Some(32));
}

#[test]
fn space_to_depth_is_one_copy() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 8, 6, 6]);
    let a = conv(&mut g, "a", x, 16, 1);
    let six = g.push1("split", Op::Reshape { shape: vec![1, 16, 3, 2, 3, 2] }, &[a]).unwrap();
    let t = g.push1("turn", Op::Transpose { perm: vec![0, 3, 5, 1, 2, 4] }, &[six]).unwrap();
    let r = g.push1("join", Op::Reshape { shape: vec![1, 64, 3, 3] }, &[t]).unwrap();
    let y = conv(&mut g, "y", r, 8, 1);
    g.outputs.push(("y".into(), y));
    let l = lower(&g, Precision::Fp16).unwrap();
    assert_eq!(families(&l), ["permute", "conv", "permute", "conv_planes"]);
    assert_eq!(l.layers[2].name, "join (copy)");
}

#[test]
fn space_to_depth_goes_straight_into_a_concatenation() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![2, 16, 6, 6]);
    let c = conv(&mut g, "c", x, 16, 1);
    let six = g.push1("split", Op::Reshape { shape: vec![2, 16, 3, 2, 3, 2] }, &[c]).unwrap();
    let t = g.push1("turn", Op::Transpose { perm: vec![0, 3, 5, 1, 2, 4] }, &[six]).unwrap();
    let r = g.push1("join", Op::Reshape { shape: vec![2, 64, 3, 3] }, &[t]).unwrap();
    // A reshape that is a view of something else is copied to its place.
    let row = g.push1("row", Op::Reshape { shape: vec![2, 64, 9] }, &[r]).unwrap();
    let flat = g.push1("flat", Op::Reshape { shape: vec![2, 64, 3, 3] }, &[row]).unwrap();
    let a = conv(&mut g, "a", r, 8, 1);
    let all = g.push1("cat", Op::Concat { axis: 1 }, &[r, flat, a]).unwrap();
    let y = conv(&mut g, "y", all, 8, 1);
    g.outputs.push(("y".into(), y));
    let l = lower(&g, Precision::Fp16).unwrap();
    let copies: Vec<&str> =
        l.layers.iter().filter(|l| l.op == "Copy").map(|l| l.name.as_str()).collect();
    assert_eq!(copies, ["x (copy)", "join (copy)", "cat (copy)"]);
    let given = crate::testing::Noise::new(5).tensor(&[2, 16, 6, 6]);
    let want = crate::testing::run(&g, std::slice::from_ref(&given));
    let got = crate::cuda::interpret::tensors(&g, &l, &[&given]).unwrap();
    for (got, want) in got[0].to_f64().iter().zip(want[0].to_f64()) {
        assert!((got - want).abs() <= 2e-2 * (1.0 + want.abs()), "{got} {want}");
    }
}

#[test]
fn every_node_that_cannot_be_lowered_is_listed() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 8, 6, 6]);
    let far = g.add_constant("far", Tensor::i64([1], vec![8]));
    let a = g.push1("a", Op::Gather { axis: 1 }, &[x, far]).unwrap();
    let b = g.push1("b", Op::Gather { axis: 3 }, &[a, far]).unwrap();
    g.outputs.push(("b".into(), b));
    let LowerError(missing) = lower(&g, Precision::Fp16).unwrap_err();
    let names: Vec<&str> = missing.iter().map(|n| n.node.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(missing[0].why, "index 8 does not exist: axis 1 of [1, 8, 6, 6] takes -8 to 7");
}
