//! Outputs into boxes and classes.

use std::error::Error;

use half::f16;
use serde_json::{Value, json};
use tobiuo_kernels::vision::{
    Channels, Head, KEY_BYTES, LIST_HEADER, Picture, RESULT_BYTES, TOP, VisionModule,
};
use tobiuo_tensor::DType;

use crate::Tally;
use crate::device::{Device, Given};
use crate::random::Random;

fn module(head: Head) -> VisionModule {
    let picture = Picture {
        channels: Channels::Rgb,
        height: 8,
        width: 8,
        dtype: DType::F32,
        strides: [64, 8, 1],
        stored: 3,
        aligned: true,
    };
    VisionModule { picture, head: Some(head) }
}

fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    let one = |v: &f32| match dtype {
        DType::F16 => f16::from_f32(*v).to_le_bytes().to_vec(),
        _ => v.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

/// Clusters of overlapping boxes; scores with ties, and values that are none.
fn output(random: &mut Random, classes: usize, anchors: usize, strides: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0; (classes + 3) * strides[0] + (anchors - 1) * strides[1] + 1];
    let high = random.of(&[0.0f32, 0.5, 1.0]);
    for a in 0..anchors {
        let mut put = |row: usize, v: f32| out[row * strides[0] + a * strides[1]] = v;
        let spread = random.of(&[4, 40]) as f32;
        put(0, random.below(8) as f32 * 80.0 + random.unit() * spread);
        put(1, random.below(8) as f32 * 80.0 + random.unit() * spread);
        put(2, 10.0 + random.unit() * 60.0);
        put(3, 10.0 + random.unit() * 60.0);
        match random.below(60) {
            0 => put(2, f32::NAN),
            1 => put(3, -1.0),
            2 => put(0, f32::INFINITY),
            _ => {}
        }
        for c in 0..classes {
            let score = random.unit();
            put(
                4 + c,
                match random.below(80) {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2..=8 => 0.75,
                    9 => -0.0,
                    _ if random.unit() < high => score,
                    _ => score * score * score,
                },
            );
        }
    }
    out
}

/// A detector and a classifier, each on several outputs.
pub fn check(
    device: &Device,
    random: &mut Random,
    round: usize,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let classes = random.of(&[1, 2, 3, 20, 80]);
    let anchors = 1 + random.below(if round.is_multiple_of(3) { 9000 } else { 1200 });
    let padding = random.of(&[0, 8]);
    let strides = match random.below(2) {
        0 => [anchors + padding, 1],
        _ => [1, classes + 4 + padding],
    };
    let dtype = random.of(&[DType::F16, DType::F32]);
    let loaded = device.load(module(Head::Detect {
        classes,
        anchors,
        row_stride: strides[0] as u64,
        anchor_stride: strides[1] as u64,
        dtype,
    }))?;
    let bits = |v: f32| Given::Value(v.to_bits().into());
    for _ in 0..6 {
        let multi = random.below(2) == 1;
        let most = random.of(&[3, 300, 3000]);
        let values = output(random, classes, anchors, strides);
        let mut twins = device.twins();
        let output = twins.add(encode(&values, dtype))?;
        let candidates = twins.add(vec![0; LIST_HEADER + KEY_BYTES * anchors * classes])?;
        let results = twins.add(vec![0; LIST_HEADER + RESULT_BYTES * most])?;
        let threshold = random.of(&[0.0, 0.001, 0.25, 0.7]);
        let decode = loaded.module.decode().ok_or("a detector")?;
        let given = [output, candidates, bits(threshold), Given::Value(multi.into())];
        twins.run(&loaded, &decode, &given)?;
        let sorted = |bytes: &[u8]| {
            let count = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes")) as usize;
            let keys = &bytes[LIST_HEADER..LIST_HEADER + KEY_BYTES * count];
            let mut keys: Vec<[u8; 8]> = keys.as_chunks().0.to_vec();
            keys.sort_unstable_by_key(|&k| u64::from_le_bytes(k));
            keys
        };
        let [got, want] = twins.both(candidates)?.map(|b| sorted(&b));
        let what = |name: &str| {
            format!(
                "{name}, {} candidates, threshold {threshold}, multi {multi}, most {most}: {:?}",
                want.len(),
                loaded.module.head
            )
        };
        tally.note(|| what("decode"), got == want);
        let select = loaded.module.select().ok_or("a detector")?;
        let iou = bits(random.of(&[0.0, 0.45, 0.7, 1.0]));
        let limit = Given::Value(random.of(&[30_000, 700]));
        twins.run(
            &loaded,
            &select,
            &[output, candidates, results, iou, Given::Value(most as u64), limit],
        )?;
        let [got, want_results] = twins.both(results)?;
        tally.note(|| what("suppress"), got == want_results);
        let [left, _] = twins.both(candidates)?;
        tally.note(|| what("the count is left"), left[..4] == [0; 4]);
    }
    let classes = 1 + random.below(3000);
    let stride = random.of(&[1, 8]);
    let head = Head::Classify { classes, stride: stride as u64, dtype };
    let loaded = device.load(module(head))?;
    let mut twins = device.twins();
    let values: Vec<f32> = (0..(classes - 1) * stride + 1)
        .map(|_| match random.below(20) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => 0.5,
            3 => -0.0,
            _ => random.unit() - 0.3,
        })
        .collect();
    let scores = twins.add(encode(&values, dtype))?;
    let results = twins.add(vec![0; LIST_HEADER + RESULT_BYTES * TOP])?;
    twins.run(&loaded, &loaded.module.select().ok_or("a classifier")?, &[scores, results])?;
    let [got, want] = twins.both(results)?;
    tally.note(|| format!("top of {classes}"), got == want);
    Ok(())
}

/// Microseconds of decoding and suppression of YOLOv8's output at 640 x 640.
pub fn times(device: &Device, random: &mut Random) -> Result<Vec<(String, Value)>, Box<dyn Error>> {
    let (classes, anchors) = (80, 8400);
    let mut out = Vec::new();
    for (name, strides) in [("planar", [anchors, 1]), ("per anchor", [1, classes + 4])] {
        let loaded = device.load(module(Head::Detect {
            classes,
            anchors,
            row_stride: strides[0] as u64,
            anchor_stride: strides[1] as u64,
            dtype: DType::F16,
        }))?;
        let mut values = output(random, classes, anchors, strides);
        // As on usual pictures, few anchors see something.
        for a in 0..anchors {
            for c in 0..classes {
                let v = &mut values[(4 + c) * strides[0] + a * strides[1]];
                *v = if a % 100 == 0 && c == a % classes { 0.8 } else { v.clamp(0.0, 1.0) * 0.2 };
            }
        }
        let mut twins = device.twins();
        let output = twins.add(encode(&values, DType::F16))?;
        let candidates = twins.add(vec![0; LIST_HEADER + KEY_BYTES * anchors])?;
        let results = twins.add(vec![0; LIST_HEADER + RESULT_BYTES * 300])?;
        let value = |v: f32| Given::Value(v.to_bits().into());
        let decode = loaded.module.decode().ok_or("a detector")?;
        let select = loaded.module.select().ok_or("a detector")?;
        let decode = (decode, vec![output, candidates, value(0.25), Given::Value(0)]);
        let [most, limit] = [300, 30_000].map(Given::Value);
        let select = (select, vec![output, candidates, results, value(0.7), most, limit]);
        let us = twins.time(&loaded, &[decode, select])?;
        out.push((format!("8400 x 80 f16 {name}"), json!({ "decode_and_suppress": us })));
    }
    Ok(out)
}
