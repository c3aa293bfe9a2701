//! Times the kernels around a detector's convolutions at its sizes:
//!
//!     cargo run --release -p tobiuo-cpu --example kernels

use std::time::{Duration, Instant};

use tobiuo_cpu::{Inputs, prepare};
use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor, TensorView, TensorViewMut};

fn main() {
    let add = |activation| Op::Binary { kind: Binary::Add, activation };
    let mul = Op::Binary { kind: Binary::Mul, activation: None };
    let resize = |mode| {
        let (sizes, scales) = (vec![1, 128, 40, 40], vec![1.0, 1.0, 2.0, 2.0]);
        Op::Resize(Resize { sizes, scales, mode, coordinates: Coordinates::HalfPixel })
    };
    let reduce = |kind, axes: &[usize]| Op::Reduce { kind, axes: axes.into(), keep_dims: true };
    let floor = ResizeMode::Nearest { rounding: NearestRounding::Floor };
    let linear = ResizeMode::Linear { antialias: false };
    let half = Slice { starts: vec![0, 32, 0, 0], steps: vec![1; 4], lens: vec![1, 32, 80, 80] };
    let edges = Pad {
        begins: vec![0, 0, 1, 1],
        ends: vec![0, 0, 1, 1],
        mode: PadMode::Constant { value: 0.0 },
    };
    let transpose = |perm: &[usize]| Op::Transpose { perm: perm.into() };
    let map: &[usize] = &[1, 64, 80, 80];
    let table: Vec<(&str, Op, Vec<&[usize]>)> = vec![
        ("add", add(None), vec![map, map]),
        ("add, relu", add(Some(Activation::Relu)), vec![map, map]),
        ("add, silu", add(Some(Activation::Silu)), vec![map, map]),
        ("mul per channel", mul.clone(), vec![map, &[64, 1, 1]]),
        ("mul by a scalar", mul.clone(), vec![map, &[]]),
        ("mul boxes by strides", mul, vec![&[1, 4, 2100], &[1, 2100]]),
        ("sigmoid", Op::Activation(Activation::Sigmoid), vec![map]),
        ("exp", Op::Unary(Unary::Exp), vec![map]),
        ("softmax, 16 rows", Op::Softmax { axis: 2, log: false }, vec![&[1, 4, 16, 2100]]),
        ("softmax, 16 rows of 4", Op::Softmax { axis: 1, log: false }, vec![&[1, 16, 4, 2100]]),
        ("softmax, last axis", Op::Softmax { axis: 1, log: false }, vec![&[1, 1000]]),
        ("concat channels", Op::Concat { axis: 1 }, vec![map, map]),
        ("concat boxes", Op::Concat { axis: 2 }, vec![&[1, 144, 1600], &[1, 144, 400]]),
        ("slice channels", Op::Slice(half), vec![map]),
        ("transpose 84 x 2100", transpose(&[0, 2, 1]), vec![&[1, 84, 2100]]),
        ("NCHW to NHWC", transpose(&[0, 2, 3, 1]), vec![map]),
        ("HWC to CHW", transpose(&[0, 3, 1, 2]), vec![&[1, 320, 320, 3]]),
        ("swap 4 and 16", transpose(&[0, 2, 1, 3]), vec![&[1, 4, 16, 2100]]),
        ("nearest, twice", resize(floor), vec![&[1, 128, 20, 20]]),
        ("bilinear, twice", resize(linear), vec![&[1, 128, 20, 20]]),
        ("pad by 1", Op::Pad(edges), vec![map]),
        ("mean of planes", reduce(Reduce::Mean, &[2, 3]), vec![map]),
        ("mean of channels", reduce(Reduce::Mean, &[1]), vec![map]),
        ("max of rows", reduce(Reduce::Max, &[1]), vec![&[1, 80, 8400]]),
        ("arg max of rows", arg(1), vec![&[1, 80, 8400]]),
        ("top 100", top(100), vec![&[1, 8400]]),
        (
            "layer norm",
            Op::LayerNorm { axis: 2, epsilon: 1e-5 },
            vec![&[1, 197, 768], &[768], &[768]],
        ),
        ("lrn", Op::Lrn { size: 5, alpha: 1e-4, beta: 0.75, bias: 1.0 }, vec![map]),
    ];
    println!("{:24} {:>10} {:>8}", "", "us", "GB/s");
    for (name, op, shapes) in table {
        let inputs: Vec<Tensor> = shapes
            .iter()
            .map(|s| Tensor::f32(*s, (0..s.iter().product()).map(noise).collect()))
            .collect();
        let (time, bytes) = measure(&op, &inputs);
        let us = time.as_secs_f64() * 1e6;
        println!("{name:24} {us:>10.1} {:>8.1}", bytes as f64 / us / 1e3);
    }
}

fn arg(axis: usize) -> Op {
    Op::ArgReduce { axis, min: false, keep_dims: false, select_last: false }
}

fn top(k: usize) -> Op {
    Op::TopK { k, axis: 1, largest: true, sorted: true }
}

/// Numbers without a pattern, in -1..1.
fn noise(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// The shortest of many runs, and the bytes of all operands and results.
fn measure(op: &Op, inputs: &[Tensor]) -> (Duration, u64) {
    let facts: Vec<Fact> = inputs.iter().map(|t| Fact::new(t.dtype(), t.shape())).collect();
    let outs = infer(op, &facts).expect("the table's ops are right");
    let none: Vec<Option<TensorView<'_>>> = vec![None; inputs.len()];
    let kernel = prepare(op, &facts, &none).expect("a kernel");
    let mut results: Vec<Tensor> =
        outs.iter().map(|f| Tensor::zeros(f.dtype, f.shape.clone())).collect();
    let mut scratch = vec![0u8; kernel.scratch_bytes() + 64];
    let aligned = scratch.as_ptr().align_offset(64);
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(150) {
        let mut views: Vec<TensorViewMut<'_>> = results.iter_mut().map(Tensor::view_mut).collect();
        let begin = Instant::now();
        let operand = |i: usize| Some(inputs[i].view());
        kernel.run(Inputs::new(inputs.len(), &operand), &mut views, &mut scratch[aligned..]);
        best = best.min(begin.elapsed());
    }
    debug_assert!(inputs.iter().all(|t| t.dtype() == DType::F32));
    (best, bytes(&facts, &outs))
}
