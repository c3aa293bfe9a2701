//! A small engine that uses most of the format: views, in-place steps, reused bytes, two
//! plans, a detector with preprocessing and labels.
#![allow(dead_code)]

use tobiuo_engine::{
    ChannelOrder, Detect, DeviceKey, Fit, Manifest, PassRecord, Place, Plan, Port, Precision,
    Preprocess, Program, Provenance, Step, Task, TensorDesc,
};
use tobiuo_ops::{Activation, Binary, Conv, Op, Slice, Unary};
use tobiuo_tensor::DType;

/// Bytes of [`manifest`]'s weights section.
pub const WEIGHTS: usize = 768;

/// The weights: any bytes.
pub fn weights() -> Vec<u8> {
    (0..WEIGHTS as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn tensor(name: &str, shape: &[usize], place: Place) -> TensorDesc {
    TensorDesc { name: name.into(), dtype: DType::F32, shape: shape.into(), place }
}

fn step(name: &str, op: Op, inputs: &[u32], outputs: &[u32]) -> Step {
    Step { name: name.into(), op, inputs: inputs.into(), outputs: outputs.into() }
}

pub fn conv(activation: Option<Activation>, residual: bool) -> Op {
    Op::Conv(Conv {
        kernel: vec![1, 1],
        strides: vec![1, 1],
        pads: vec![0; 4],
        dilations: vec![1, 1],
        groups: 1,
        activation,
        residual,
    })
}

/// `[n, 3, 8, 8]` -> two convolutions side by side, joined by a Concat (at batch 1 a view), a
/// convolution with its residual in place, an activation in place, a sum (at batch 2 in
/// place), cut back by a Slice (at batch 1 a view), flattened in place to `[n, 6, 64]`: boxes
/// and scores of 2 classes.
pub fn plan(n: usize) -> Plan {
    use Place::{Arena, Weights};
    let view = n == 1;
    let channel = (n * 64 * 4) as u64; // bytes of one channel of the batch
    let at = |channels: u64| Arena(channels * channel);
    let (joined, mixed, half) = (at(3), at(19), at(27));
    let (a, b) = if view { (joined, at(7)) } else { (at(11), at(15)) };
    let (sum, cut) = if view { (joined, joined) } else { (mixed, at(35)) };
    let tensors = vec![
        /* 0 */ tensor("image", &[n, 3, 8, 8], at(0)),
        /* 1 */ tensor("conv_a.weight", &[4, 3, 1, 1], Weights(0)),
        /* 2 */ tensor("conv_a.bias", &[4], Weights(64)),
        /* 3 */ tensor("conv_b.weight", &[4, 3, 1, 1], Weights(128)),
        /* 4 */ tensor("conv_b.bias", &[4], Weights(192)),
        /* 5 */ tensor("a", &[n, 4, 8, 8], a),
        /* 6 */ tensor("b", &[n, 4, 8, 8], b),
        /* 7 */ tensor("joined", &[n, 8, 8, 8], joined),
        /* 8 */ tensor("mix.weight", &[8, 8, 1, 1], Weights(256)),
        /* 9 */ tensor("mix.bias", &[8], Weights(64)),
        /* 10 */ tensor("residual", &[n, 8, 8, 8], mixed),
        /* 11 */ tensor("mixed", &[n, 8, 8, 8], mixed),
        /* 12 */ tensor("clipped", &[n, 8, 8, 8], mixed),
        /* 13 */ tensor("half", &[n, 8, 8, 8], half),
        /* 14 */ tensor("sum", &[n, 8, 8, 8], sum),
        /* 15 */ tensor("cut", &[n, 6, 8, 8], cut),
        /* 16 */ tensor("boxes", &[n, 6, 64], cut),
    ];
    let slice = Slice { starts: vec![0; 4], steps: vec![1; 4], lens: vec![n, 6, 8, 8] };
    let clip = Activation::Clip { min: f32::NEG_INFINITY, max: 6.0 };
    let leaky = Activation::LeakyRelu { alpha: 0.1 };
    let steps = vec![
        step("conv_a", conv(Some(Activation::Silu), false), &[0, 1, 2], &[5]),
        step("conv_b", conv(Some(leaky), false), &[0, 3, 4], &[6]),
        step("join", Op::Concat { axis: 1 }, &[5, 6], &[7]),
        step("abs", Op::Unary(Unary::Abs), &[7], &[10]),
        step("mix", conv(None, true), &[7, 8, 9, 10], &[11]),
        step("clip", Op::Activation(clip), &[11], &[12]),
        step("half", Op::Unary(Unary::Sin), &[12], &[13]),
        step("sum", Op::Binary { kind: Binary::Add, activation: None }, &[12, 13], &[14]),
        step("cut", Op::Slice(slice), &[14], &[15]),
        step("flatten", Op::Reshape { shape: vec![n, 6, 64] }, &[15], &[16]),
    ];
    Plan {
        batch: n,
        arena: 41 * channel,
        tensors,
        inputs: vec![0],
        outputs: vec![16],
        program: Program::Cpu(steps),
    }
}

/// A valid manifest.
pub fn manifest() -> Manifest {
    Manifest {
        builder: "0.1.0".into(),
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Fp32,
        provenance: Provenance {
            model: "tiny.onnx".into(),
            format: "onnx".into(),
            model_hash: "00".repeat(32),
            producer: "by hand".into(),
            options: "precision=fp32 batch=1,2".into(),
            passes: vec![PassRecord { name: "fuse".into(), nodes_before: 12, nodes_after: 9 }],
            notes: vec!["a note with \"quotes\", a tab\t and 飛魚".into()],
        },
        inputs: vec![Port { name: "image".into(), dtype: DType::F32, shape: vec![1, 3, 8, 8] }],
        outputs: vec![Port { name: "boxes".into(), dtype: DType::F32, shape: vec![1, 6, 64] }],
        task: Task::Detect(Detect {
            output: 0,
            classes: 2,
            transposed: false,
            score_threshold: 0.25,
            iou_threshold: 0.45,
            max_detections: 100,
        }),
        preprocess: Some(Preprocess {
            input: 0,
            fit: Fit::Letterbox,
            pad_value: 114,
            channels: ChannelOrder::Rgb,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        }),
        labels: vec!["cup".into(), "pen".into()],
        plans: vec![plan(1), plan(2)],
    }
}

/// A small deterministic generator for mutations (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
