//! Element-wise layers joined and not joined.

use tobiuo_ops::{Activation, Binary, Op, Reduce, Unary};
use tobiuo_tensor::Tensor;

use super::*;
use crate::cuda::interpret;
use crate::testing::Noise;

fn unary(g: &mut Graph, kind: Unary, x: ValueId) -> ValueId {
    g.push1(kind.name(), Op::Unary(kind), &[x]).unwrap()
}

fn binary(g: &mut Graph, kind: Binary, a: ValueId, b: ValueId) -> ValueId {
    g.push1(kind.name(), Op::Binary { kind, activation: None }, &[a, b]).unwrap()
}

fn input(g: &mut Graph, shape: &[usize]) -> ValueId {
    g.add_input(&format!("x{}", g.inputs.len()), DType::F32, shape.to_vec())
}

/// Lowers a graph whose output is `y` and compares it with the CPU device; the families of its
/// layers without copies, and the steps of each map.
fn lowered(g: &mut Graph, y: ValueId) -> (Vec<&'static str>, Vec<usize>) {
    g.outputs.push(("y".into(), y));
    let mut noise = Noise::new(7);
    let given: Vec<Tensor> = g.inputs.iter().map(|&x| noise.tensor(g.shape(x))).collect();
    let want = crate::testing::run(g, &given);
    let mut found = (Vec::new(), Vec::new());
    for precision in [Precision::Fp32, Precision::Fp16] {
        let lowering = lower(g, precision).unwrap();
        let references: Vec<&Tensor> = given.iter().collect();
        let got = interpret::tensors(g, &lowering, &references).unwrap();
        for (got, want) in got.iter().zip(&want) {
            let (got, want) = (got.to_f64(), want.to_f64());
            let limit = if precision == Precision::Fp16 { 1e-2 } else { 1e-5 };
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= limit * (1.0 + b.abs());
            assert!(got.iter().zip(&want).all(near), "{precision}: {got:?} {want:?}");
        }
        let families = lowering.layers.iter().map(|l| l.layer.family());
        found.0 = families.filter(|f| *f != "permute").collect();
        found.1 = (lowering.layers.iter())
            .filter_map(|l| match &l.layer {
                Layer::Map(map) => Some(map.steps.len()),
                _ => None,
            })
            .collect();
        // What is not stored is not to be compared either.
        for (_, view) in &lowering.values {
            let touched = lowering.layers.iter().flat_map(|l| &l.outputs);
            let ports = lowering.inputs.iter().chain(&lowering.outputs);
            assert!(touched.chain(ports).any(|v| v.buffer == view.buffer));
        }
    }
    found
}

#[test]
fn a_chain_is_one_layer_and_reads_each_operand_once() {
    let mut g = Graph::new();
    let (x, z) = (input(&mut g, &[3, 5]), input(&mut g, &[5]));
    let a = unary(&mut g, Unary::Neg, x);
    let b = unary(&mut g, Unary::Exp, a);
    let c = binary(&mut g, Binary::Mul, b, x);
    let d = binary(&mut g, Binary::Add, c, z);
    let y = g.push1("relu", Op::Activation(Activation::Relu), &[d]).unwrap();
    assert_eq!(lowered(&mut g, y), (vec!["map"], vec![5]));
    let lowering = lower(&g, Precision::Fp16).unwrap();
    let Layer::Map(map) = &lowering.layers.last().unwrap().layer else { panic!("a map") };
    assert_eq!(map.inputs.len(), 2);
}

#[test]
fn branches_that_meet_again_are_one_layer() {
    let mut g = Graph::new();
    let x = input(&mut g, &[4, 6]);
    let a = unary(&mut g, Unary::Exp, x);
    let b = unary(&mut g, Unary::Neg, x);
    let y = binary(&mut g, Binary::Add, a, b);
    assert_eq!(lowered(&mut g, y), (vec!["map"], vec![3]));
}

#[test]
fn what_several_layers_read_is_stored() {
    let mut g = Graph::new();
    let x = input(&mut g, &[4, 6]);
    let a = unary(&mut g, Unary::Exp, x);
    let b = unary(&mut g, Unary::Neg, a);
    let (kind, axes) = (Reduce::Sum, vec![1]);
    let sum = g.push1("sum", Op::Reduce { kind, axes, keep_dims: true }, &[a]).unwrap();
    let y = binary(&mut g, Binary::Add, b, sum);
    // Neg joins the sum, Exp is read by Neg and by the reduction.
    let (families, steps) = lowered(&mut g, y);
    assert_eq!(families.iter().filter(|f| **f == "map").count(), 2, "{families:?}");
    assert_eq!(steps, [1, 2]);
}

#[test]
fn outputs_and_other_boxes_stay_apart() {
    let mut g = Graph::new();
    let x = input(&mut g, &[6]);
    let a = unary(&mut g, Unary::Exp, x);
    g.outputs.push(("a".into(), a));
    let z = input(&mut g, &[4, 6]);
    // A row for every row of z: computed once.
    let row = unary(&mut g, Unary::Neg, x);
    let b = binary(&mut g, Binary::Mul, z, row);
    // Transposed in between: not the same element.
    let turned = g.push1("turn", Op::Transpose { perm: vec![1, 0] }, &[b]).unwrap();
    let w = input(&mut g, &[6, 4]);
    let y = binary(&mut g, Binary::Sub, turned, w);
    let (_, steps) = lowered(&mut g, y);
    assert_eq!(steps, [1, 1, 1, 1]);
}

#[test]
fn chains_of_integers_keep_their_types() {
    let mut g = Graph::new();
    let x = input(&mut g, &[2, 9]);
    let i = g.push1("cast", Op::Cast { to: DType::I32 }, &[x]).unwrap();
    let zero = g.add_constant("zero", Tensor::new(vec![], tobiuo_tensor::TensorData::I32(vec![0])));
    let less = binary(&mut g, Binary::Less, i, zero);
    let not = unary(&mut g, Unary::Not, less);
    let y = g.push1("float", Op::Cast { to: DType::F32 }, &[not]).unwrap();
    assert_eq!(lowered(&mut g, y), (vec!["map"], vec![4]));
}
