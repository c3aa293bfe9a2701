//! Times the convolutions of some networks one by one: `cargo run --release -p tobiuo-cpu
//! --example layers [resnet50|mobilenetv2|detector] [threads]`.
//!
//! Prints, per distinct layer: how often the network has it, its shape, the best time of many
//! runs, and the rate. Weights and activations are random.

use std::time::{Duration, Instant};

use tobiuo_cpu::{Inputs, prepare};
use tobiuo_ops::{Activation, Conv, Fact, Op};
use tobiuo_tensor::{DType, Tensor};

/// times, input channels, output channels, input size, kernel, stride, groups
type Layer = (usize, usize, usize, usize, usize, usize, usize);

#[rustfmt::skip]
const RESNET50: &[Layer] = &[
    (1, 3, 64, 224, 7, 2, 1),
    (1, 64, 64, 56, 1, 1, 1), (3, 64, 64, 56, 3, 1, 1), (4, 64, 256, 56, 1, 1, 1), (2, 256, 64, 56, 1, 1, 1),
    (1, 256, 128, 56, 1, 1, 1), (1, 128, 128, 56, 3, 2, 1), (1, 256, 512, 56, 1, 2, 1),
    (4, 128, 512, 28, 1, 1, 1), (3, 512, 128, 28, 1, 1, 1), (3, 128, 128, 28, 3, 1, 1),
    (1, 512, 256, 28, 1, 1, 1), (1, 256, 256, 28, 3, 2, 1), (1, 512, 1024, 28, 1, 2, 1),
    (6, 256, 1024, 14, 1, 1, 1), (5, 1024, 256, 14, 1, 1, 1), (5, 256, 256, 14, 3, 1, 1),
    (1, 1024, 512, 14, 1, 1, 1), (1, 512, 512, 14, 3, 2, 1), (1, 1024, 2048, 14, 1, 2, 1),
    (3, 512, 2048, 7, 1, 1, 1), (2, 2048, 512, 7, 1, 1, 1), (2, 512, 512, 7, 3, 1, 1),
];

#[rustfmt::skip]
const MOBILENETV2: &[Layer] = &[
    (1, 3, 32, 224, 3, 2, 1), (1, 32, 32, 112, 3, 1, 32), (1, 32, 16, 112, 1, 1, 1),
    (1, 16, 96, 112, 1, 1, 1), (1, 96, 96, 112, 3, 2, 96), (1, 96, 24, 56, 1, 1, 1),
    (2, 24, 144, 56, 1, 1, 1), (1, 144, 144, 56, 3, 1, 144), (1, 144, 24, 56, 1, 1, 1),
    (1, 144, 144, 56, 3, 2, 144), (1, 144, 32, 28, 1, 1, 1),
    (3, 32, 192, 28, 1, 1, 1), (2, 192, 192, 28, 3, 1, 192), (2, 192, 32, 28, 1, 1, 1),
    (1, 192, 192, 28, 3, 2, 192), (1, 192, 64, 14, 1, 1, 1),
    (4, 64, 384, 14, 1, 1, 1), (4, 384, 384, 14, 3, 1, 384), (3, 384, 64, 14, 1, 1, 1),
    (1, 384, 96, 14, 1, 1, 1), (3, 96, 576, 14, 1, 1, 1), (2, 576, 576, 14, 3, 1, 576),
    (2, 576, 96, 14, 1, 1, 1), (1, 576, 576, 14, 3, 2, 576), (1, 576, 160, 7, 1, 1, 1),
    (3, 160, 960, 7, 1, 1, 1), (3, 960, 960, 7, 3, 1, 960), (2, 960, 160, 7, 1, 1, 1),
    (1, 960, 320, 7, 1, 1, 1), (1, 320, 1280, 7, 1, 1, 1),
];

#[rustfmt::skip]
const DETECTOR: &[Layer] = &[
    (1, 3, 16, 352, 3, 2, 1), (1, 16, 32, 176, 3, 2, 1), (1, 32, 32, 88, 1, 1, 1), (2, 16, 16, 88, 3, 1, 1),
    (1, 48, 32, 88, 1, 1, 1), (1, 32, 64, 88, 3, 2, 1), (1, 64, 64, 44, 1, 1, 1), (6, 32, 32, 44, 3, 1, 1),
    (1, 128, 64, 44, 1, 1, 1), (1, 64, 128, 44, 3, 2, 1), (2, 128, 128, 22, 1, 1, 1), (4, 64, 64, 22, 3, 1, 1),
    (1, 256, 128, 22, 1, 1, 1), (1, 128, 256, 22, 3, 2, 1), (1, 256, 256, 11, 1, 1, 1),
    (4, 128, 128, 11, 3, 1, 1), (1, 512, 256, 11, 1, 1, 1), (2, 64, 64, 44, 3, 1, 1), (1, 80, 80, 44, 3, 1, 1),
];

fn random(n: usize) -> Vec<f32> {
    let mut s = 0x2545_f491_4f6c_dd1d_u64;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn time(layer: &Layer, act: Activation) -> (Duration, f64) {
    let &(_, ci, co, size, k, stride, groups) = layer;
    let out = (size + 2 * (k / 2) - k) / stride + 1;
    let conv = Conv {
        kernel: vec![k, k],
        strides: vec![stride; 2],
        pads: vec![k / 2; 4],
        dilations: vec![1; 2],
        groups,
        activation: Some(act),
        residual: false,
    };
    let shapes = [vec![1, ci, size, size], vec![co, ci / groups, k, k], vec![co]];
    let tensors =
        shapes.clone().map(|s| Tensor::f32(s.clone(), random(s.iter().product::<usize>())));
    let facts = shapes.map(|shape| Fact { dtype: DType::F32, shape });
    let views = [0, 1, 2].map(|i| Some(tensors[i].view()));
    let kernel = prepare(&Op::Conv(conv), &facts, &[None, views[1], views[2]]).unwrap();
    let mut y = Tensor::zeros(DType::F32, vec![1, co, out, out]);
    let mut scratch = vec![[0u64; 8]; kernel.scratch_bytes().div_ceil(64)];
    let mut best = Duration::MAX;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 10 || (begin.elapsed() < Duration::from_millis(150) && runs < 2000) {
        let start = Instant::now();
        kernel.run(
            Inputs::new(3, &|i| views[i]),
            &mut [y.view_mut()],
            bytemuck::cast_slice_mut(&mut scratch),
        );
        best = best.min(start.elapsed());
        runs += 1;
    }
    let flop = 2.0 * (out * out * co * ci / groups * k * k) as f64;
    (best, flop)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let net = args.next().unwrap_or_else(|| "resnet50".into());
    let threads = args.next().map_or(0, |t| t.parse().expect("a number of threads"));
    let (layers, act) = match net.as_str() {
        "resnet50" => (RESNET50, Activation::Relu),
        "mobilenetv2" => (MOBILENETV2, Activation::Clip { min: 0.0, max: 6.0 }),
        "detector" => (DETECTOR, Activation::Silu),
        other => panic!("no network '{other}': resnet50, mobilenetv2 or detector"),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let (mut total, mut flops) = (0.0, 0.0);
        for layer in layers {
            let (best, flop) = time(layer, act);
            let (n, ci, co, size, k, stride, groups) = *layer;
            let us = best.as_secs_f64() * 1e6;
            println!(
                "{n} {ci} {co} {size} {k} {stride} {groups} {us:.1} us {:.0} GFLOP/s",
                flop / us / 1e3
            );
            total += us * n as f64;
            flops += flop * n as f64;
        }
        println!("total {:.2} ms {:.0} GFLOP/s", total / 1e3, flops / total / 1e3);
    });
}
