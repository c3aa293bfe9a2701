//! Convolutions and products, lowered and computed by the layers' references, against the CPU.

use tobiuo_kernels::Extents;
use tobiuo_ops::{Activation, Conv, ConvTranspose, Gemm, Op};
use tobiuo_tensor::{DType, Tensor};

use super::*;
use crate::testing::{Noise, run};

/// Computes a lowering layer by layer.
fn execute(l: &Lowering, inputs: &[Tensor]) -> Vec<Vec<f32>> {
    let mut memory: Vec<Vec<u8>> = l.buffers.iter().map(|b| vec![0xff; b.bytes]).collect();
    let start = |view: &View| view.offset as usize * view.dtype.size();
    for (view, tensor) in l.inputs.iter().zip(inputs) {
        let bytes = tensor.data().bytes();
        memory[view.buffer.0][start(view)..][..bytes.len()].copy_from_slice(bytes);
    }
    for layer in &l.layers {
        let Extents { inputs, constants, outputs } = layer.layer.extents();
        assert_eq!(inputs.len(), layer.operands.len(), "{}", layer.name);
        assert_eq!(constants.len(), layer.constants.len(), "{}", layer.name);
        let mut results: Vec<Vec<u8>> = (layer.outputs.iter().zip(&outputs))
            .map(|(view, &len)| memory[view.buffer.0][start(view)..][..len].to_vec())
            .collect();
        let operands: Vec<&[u8]> = (layer.operands.iter().zip(&inputs))
            .map(|(operand, &len)| match operand {
                Operand::View(view) => &memory[view.buffer.0][start(view)..][..len],
                Operand::Constant(c) => &l.constants[*c][..len],
            })
            .collect();
        let packed: Vec<&[u8]> = layer
            .constants
            .iter()
            .zip(&constants)
            .map(|(&c, &len)| &l.constants[c][..len])
            .collect();
        layer.layer.reference(&operands, &packed, &mut results);
        for (view, bytes) in layer.outputs.iter().zip(results) {
            memory[view.buffer.0][start(view)..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
    let floats = |view: &View| {
        let n: usize = view.shape.iter().product();
        let bytes = &memory[view.buffer.0][start(view)..][..n * 4];
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    l.outputs.iter().map(floats).collect()
}

/// Lowers a graph for every precision and compares its results with the CPU's.
fn check(what: &str, graph: &Graph) -> Vec<&'static str> {
    let mut noise = Noise::new(5);
    let inputs: Vec<Tensor> = graph.inputs.iter().map(|&v| noise.tensor(graph.shape(v))).collect();
    let want = run(graph, &inputs);
    let mut families = Vec::new();
    for (precision, allowed) in [(Precision::Fp32, 1e-6), (Precision::Fp16, 3e-3)] {
        let l = lower(graph, precision).unwrap_or_else(|e| panic!("{what}: {e}"));
        let families_here: Vec<&str> = l.layers.iter().map(|l| l.layer.family()).collect();
        for (got, want) in execute(&l, &inputs).iter().zip(&want) {
            let want = want.as_f32().unwrap();
            assert_eq!(got.len(), want.len(), "{what}");
            let norm = |v: &mut dyn Iterator<Item = f32>| {
                v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
            };
            let off = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
            let error = off / norm(&mut want.iter().copied());
            assert!(error <= allowed, "{what} {precision:?}: {error} by {families_here:?}");
        }
        families = families_here;
    }
    families
}

fn finish(mut g: Graph, y: ValueId) -> Graph {
    g.outputs.push(("y".into(), y));
    g
}

struct Shape {
    x: Vec<usize>,
    filters: usize,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    pads: Vec<usize>,
    dilations: Vec<usize>,
    groups: usize,
}

fn shape(x: &[usize], filters: usize, kernel: &[usize], groups: usize) -> Shape {
    Shape {
        x: x.to_vec(),
        filters,
        kernel: kernel.to_vec(),
        strides: vec![1; kernel.len()],
        pads: [kernel, kernel].concat().iter().map(|k| k / 2).collect(),
        dilations: vec![1; kernel.len()],
        groups,
    }
}

/// A convolution of `s`; weights and bias are constants or inputs.
fn conv_graph(s: &Shape, transposed: bool, given: [bool; 2], residual: bool) -> Graph {
    let mut noise = Noise::new(11);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, s.x.clone());
    let mut w_shape = match transposed {
        true => vec![s.x[1], s.filters / s.groups],
        false => vec![s.filters, s.x[1] / s.groups],
    };
    w_shape.extend(&s.kernel);
    let mut operand = |g: &mut Graph, name: &str, shape: Vec<usize>, given: bool| match given {
        true => g.add_input(name, DType::F32, shape),
        false => g.add_constant(name, noise.tensor(&shape)),
    };
    let w = operand(&mut g, "w", w_shape, given[0]);
    let b = operand(&mut g, "b", vec![s.filters], given[1]);
    let activation = Some(Activation::LeakyRelu { alpha: 0.1 });
    let (kernel, strides) = (s.kernel.clone(), s.strides.clone());
    let (pads, dilations, groups) = (s.pads.clone(), s.dilations.clone(), s.groups);
    let op = |residual| match transposed {
        true => Op::ConvTranspose(ConvTranspose {
            output_padding: vec![0; kernel.len()],
            kernel: kernel.clone(),
            strides: strides.clone(),
            pads: pads.clone(),
            dilations: dilations.clone(),
            groups,
            activation,
        }),
        false => Op::Conv(Conv {
            kernel: kernel.clone(),
            strides: strides.clone(),
            pads: pads.clone(),
            dilations: dilations.clone(),
            groups,
            activation,
            residual,
        }),
    };
    let y = g.push1("conv", op(false), &[x, w, b]).unwrap();
    let y = if residual { g.push1("again", op(true), &[x, w, b, y]).unwrap() } else { y };
    finish(g, y)
}

#[test]
fn convolutions_of_every_kind() {
    let constants = [false, false];
    let one = shape(&[2, 13, 9, 7], 11, &[3, 3], 1);
    assert!(check("plain", &conv_graph(&one, false, constants, true)).contains(&"conv"));
    check("thin", &conv_graph(&shape(&[1, 3, 9, 8], 5, &[3, 2], 1), false, constants, false));
    let wide = shape(&[1, 8, 5, 40], 8, &[1, 21], 1);
    assert!(check("wide", &conv_graph(&wide, false, constants, false)).contains(&"general_conv"));
    let grouped = shape(&[2, 15, 6, 5], 6, &[3, 3], 3);
    let families = check("groups", &conv_graph(&grouped, false, constants, true));
    assert!(families.contains(&"general_conv"), "{families:?}");
    let depthwise = shape(&[1, 10, 6, 5], 10, &[3, 3], 10);
    let families = check("depthwise", &conv_graph(&depthwise, false, constants, true));
    assert!(families.contains(&"depthwise"), "{families:?}");
    let multiplied = shape(&[1, 6, 6, 5], 18, &[3, 3], 6);
    let families = check("multiplier", &conv_graph(&multiplied, false, constants, false));
    assert!(families.contains(&"depthwise"), "{families:?}");
    check(
        "large depthwise",
        &conv_graph(&shape(&[1, 4, 31, 33], 4, &[31, 31], 4), false, constants, false),
    );
    check("one axis", &conv_graph(&shape(&[2, 12, 17], 9, &[5], 1), false, constants, true));
    check(
        "one axis, groups",
        &conv_graph(&shape(&[2, 12, 17], 8, &[5], 4), false, constants, false),
    );
    check("given weights", &conv_graph(&one, false, [true, false], true));
    check("given bias", &conv_graph(&one, false, [false, true], false));
    check("all given, groups", &conv_graph(&grouped, false, [true, true], true));
}

#[test]
fn transposed_convolutions() {
    let constants = [false, false];
    for (strides, dilations, groups) in
        [([2, 2], [1, 1], 1), ([1, 3], [2, 1], 1), ([2, 4], [3, 2], 3), ([3, 3], [1, 1], 1)]
    {
        let mut s = shape(&[2, 9, 5, 4], 6, &[3, 2], groups);
        (s.strides, s.dilations) = (strides.to_vec(), dilations.to_vec());
        let what = format!("{strides:?} {dilations:?} {groups}");
        check(&what, &conv_graph(&s, true, constants, false));
        check(&format!("{what} given"), &conv_graph(&s, true, [true, true], false));
    }
    let mut line = shape(&[1, 6, 11], 4, &[4], 2);
    line.strides = vec![2];
    check("one axis", &conv_graph(&line, true, constants, false));
}

fn gemm(trans_a: bool, trans_b: bool) -> Op {
    Op::Gemm(Gemm {
        trans_a,
        trans_b,
        alpha: 0.5,
        beta: 2.0,
        activation: Some(Activation::LeakyRelu { alpha: 0.2 }),
    })
}

#[test]
fn gemm_of_every_kind() {
    let mut noise = Noise::new(3);
    for (rows, depth, columns) in [(1, 24, 10), (3, 21, 7), (9, 16, 12), (70, 13, 33)] {
        for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for c in [vec![], vec![columns], vec![1], vec![rows, 1], vec![rows, columns]] {
                for given in [false, true] {
                    let turned = |t: bool, a, b| if t { vec![b, a] } else { vec![a, b] };
                    let mut g = Graph::new();
                    let a = g.add_input("a", DType::F32, turned(trans_a, rows, depth));
                    let b_shape = turned(trans_b, depth, columns);
                    let mut inputs = vec![a];
                    inputs.push(match given {
                        true => g.add_input("b", DType::F32, b_shape),
                        false => g.add_constant("b", noise.tensor(&b_shape)),
                    });
                    if !c.is_empty() {
                        inputs.push(match given {
                            true => g.add_input("c", DType::F32, c.clone()),
                            false => g.add_constant("c", noise.tensor(&c)),
                        });
                    }
                    let y = g.push1("y", gemm(trans_a, trans_b), &inputs).unwrap();
                    let what =
                        format!("{rows}x{depth}x{columns} {trans_a} {trans_b} {c:?} {given}");
                    check(&what, &finish(g, y));
                }
            }
        }
    }
}

#[test]
fn products_with_batch_axes() {
    let mut noise = Noise::new(4);
    let pairs: [(&[usize], &[usize]); 9] = [
        (&[5, 7], &[7, 3]),
        (&[2, 3, 5, 8], &[2, 3, 8, 4]),
        (&[2, 3, 5, 8], &[8, 4]),
        (&[5, 8], &[3, 8, 6]),
        (&[2, 1, 5, 7], &[3, 7, 4]),
        (&[7], &[7, 4]),
        (&[2, 5, 7], &[7]),
        (&[7], &[7]),
        (&[7], &[2, 7, 4]),
    ];
    for (a_shape, b_shape) in pairs {
        for given in [false, true] {
            let mut g = Graph::new();
            let a = g.add_input("a", DType::F32, a_shape.to_vec());
            let b = match given {
                true => g.add_input("b", DType::F32, b_shape.to_vec()),
                false => g.add_constant("b", noise.tensor(b_shape)),
            };
            let y = g.push1("y", Op::MatMul, &[a, b]).unwrap();
            check(&format!("{a_shape:?} {b_shape:?} {given}"), &finish(g, y));
        }
    }
}

#[test]
fn attention_reads_transposed_keys_in_place() {
    let mut g = Graph::new();
    let q = g.add_input("q", DType::F32, vec![1, 10, 32]);
    let heads = |g: &mut Graph, name: &str, perm: Vec<usize>| {
        let shape = vec![1, 10, 4, 8];
        let r = g.push1(&format!("{name}.r"), Op::Reshape { shape }, &[q]).unwrap();
        g.push1(name, Op::Transpose { perm }, &[r]).unwrap()
    };
    let (a, b) = (heads(&mut g, "a", vec![0, 2, 1, 3]), heads(&mut g, "b", vec![0, 2, 3, 1]));
    let scores = g.push1("scores", Op::MatMul, &[a, b]).unwrap();
    let values = heads(&mut g, "v", vec![0, 2, 1, 3]);
    let y = g.push1("y", Op::MatMul, &[scores, values]).unwrap();
    let families = check("attention", &finish(g, y));
    assert_eq!(families.iter().filter(|f| **f == "matmul").count(), 2);
    // One copy in (f16), one out.
    assert!(families.iter().filter(|f| **f == "permute").count() <= 4, "{families:?}");
}
