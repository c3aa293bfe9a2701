//! What the tests share: a detector made by hand, frames for it, the program.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tobiuo::manifest::*;
use tobiuo::{DType, capture::AviWriter, capture::jpeg::Encoder};
use tobiuo_ops::{Binary, Conv, Op};

/// Side of the detector's input, pixels.
pub const SIDE: usize = 64;
/// Side of a cell, which is also each box's side, pixels.
pub const CELL: usize = 8;
const CELLS: usize = SIDE / CELL;
const ANCHORS: usize = CELLS * CELLS;
const ROWS: usize = 4 + 3;

/// A detector of red, green and blue cells: a convolution over each cell of 8x8 pixels
/// measures how much of one colour it has and how little of the others; a constant adds the
/// cell's box. An output `[1, 7, 64]` in YOLO's form, exact to the pixel.
pub fn manifest_and_weights() -> (Manifest, Vec<u8>) {
    manifest_of(&[1])
}

/// The same with a plan for each of these batch sizes.
pub fn manifest_of(batches: &[usize]) -> (Manifest, Vec<u8>) {
    let mut filter = vec![0f32; ROWS * 3 * CELL * CELL];
    for class in 0..3 {
        for channel in 0..3 {
            let value = if channel == class { 1.0 } else { -0.5 } / (CELL * CELL) as f32;
            let at = ((4 + class) * 3 + channel) * CELL * CELL;
            filter[at..at + CELL * CELL].fill(value);
        }
    }
    let mut boxes = vec![0f32; ROWS * ANCHORS];
    for cell in 0..ANCHORS {
        let centre = |i: usize| (i * CELL) as f32 + CELL as f32 / 2.0;
        let values = [centre(cell % CELLS), centre(cell / CELLS), CELL as f32, CELL as f32];
        for (row, value) in values.into_iter().enumerate() {
            boxes[row * ANCHORS + cell] = value;
        }
    }
    let mut weights = Vec::new();
    let mut place = |values: &[f32]| {
        weights.resize(weights.len().next_multiple_of(TENSOR_ALIGN as usize), 0);
        let at = weights.len() as u64;
        weights.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        Place::Weights(at)
    };
    let places = [place(&filter), place(&[0.0; ROWS]), place(&boxes)];
    let plans: Vec<Plan> = batches.iter().map(|&n| plan(n, places)).collect();
    let images = plans[0].tensors[0].shape.clone();
    let output = plans[0].tensors[6].shape.clone();
    let port = |name: &str, shape: &[usize]| Port {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
    };
    let manifest = Manifest {
        builder: "test".into(),
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Fp32,
        provenance: Provenance { model: "colours.onnx".into(), ..Provenance::default() },
        inputs: vec![port("images", &images)],
        outputs: vec![port("output0", &output)],
        task: Task::Detect(Detect {
            output: 0,
            classes: 3,
            transposed: false,
            score_threshold: 0.5,
            iou_threshold: 0.5,
            max_detections: 100,
        }),
        preprocess: Some(Preprocess {
            input: 0,
            fit: Fit::Letterbox,
            pad_value: 114,
            channels: ChannelOrder::Rgb,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
        }),
        labels: ["red", "green \"leaf\"", "blue"].map(String::from).to_vec(),
        plans,
    };
    (manifest, weights)
}

/// The plan for `n` items; the weights are the filter, the bias, the boxes.
fn plan(n: usize, [filter, bias, boxes]: [Place; 3]) -> Plan {
    let tensor = |name: &str, shape: &[usize], place| TensorDesc {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        place,
    };
    let after_input = (n * 3 * SIDE * SIDE * 4) as u64;
    let after_conv = after_input + (n * ROWS * ANCHORS * 4) as u64;
    let tensors = vec![
        tensor("images", &[n, 3, SIDE, SIDE], Place::Arena(0)),
        tensor("filter", &[ROWS, 3, CELL, CELL], filter),
        tensor("bias", &[ROWS], bias),
        tensor("cells", &[n, ROWS, CELLS, CELLS], Place::Arena(after_input)),
        tensor("flat", &[n, ROWS, ANCHORS], Place::Arena(after_input)),
        tensor("boxes", &[1, ROWS, ANCHORS], boxes),
        tensor("output0", &[n, ROWS, ANCHORS], Place::Arena(after_conv)),
    ];
    let step = |name: &str, op, inputs: &[u32], output| Step {
        name: name.into(),
        op,
        inputs: inputs.to_vec(),
        outputs: vec![output],
    };
    let conv = Conv {
        kernel: vec![CELL; 2],
        strides: vec![CELL; 2],
        pads: vec![0; 4],
        dilations: vec![1; 2],
        groups: 1,
        activation: None,
        residual: false,
    };
    Plan {
        batch: n,
        arena: after_conv + (n * ROWS * ANCHORS * 4) as u64,
        tensors,
        inputs: vec![0],
        outputs: vec![6],
        program: Program::Cpu(vec![
            step("measure", Op::Conv(conv), &[0, 1, 2], 3),
            step("flatten", Op::Reshape { shape: vec![n, ROWS, ANCHORS] }, &[3], 4),
            step("place", Op::Binary { kind: Binary::Add, activation: None }, &[4, 5], 6),
        ]),
    }
}

/// Writes the detector's engine file into a folder.
pub fn colour_engine(folder: &Path) -> PathBuf {
    let (manifest, weights) = manifest_and_weights();
    let path = folder.join("colours.tobiuo");
    tobiuo_engine::write_engine(&path, &manifest, &weights).unwrap();
    path
}

/// A grey frame of `width` x `height` RGB pixels with cells (column, row) of a class.
pub fn frame(width: usize, height: usize, cells: &[(usize, usize, usize)]) -> Vec<u8> {
    let mut rgb = vec![128; width * height * 3];
    for &(class, column, row) in cells {
        for y in row * CELL..(row + 1) * CELL {
            for x in column * CELL..(column + 1) * CELL {
                let at = (y * width + x) * 3;
                rgb[at..at + 3].fill(0);
                rgb[at + class] = 255;
            }
        }
    }
    rgb
}

/// The cell that clip frame `n` shows: class, column, row.
pub fn clip_cell(n: usize) -> (usize, usize, usize) {
    (n % 3, 2 * (n % 4), 2 * (n / 4 % 4))
}

/// Writes a clip of 64x64 pixels whose frame `n` has one coloured cell, [`clip_cell`].
pub fn clip(folder: &Path, frames: usize) -> PathBuf {
    let path = folder.join("clip.avi");
    let mut avi = AviWriter::create(&path, SIDE as u32, SIDE as u32, 30.0).unwrap();
    let mut encoder = Encoder::new(SIDE as u32, SIDE as u32, 95).unwrap();
    let mut jpeg = Vec::new();
    for n in 0..frames {
        encoder.encode(&frame(SIDE, SIDE, &[clip_cell(n)]), &mut jpeg).unwrap();
        avi.write(&jpeg).unwrap();
    }
    avi.finish().unwrap();
    path
}

/// The program under test.
pub fn tobiuo() -> Command {
    let mut command = tobiuo_standin::program(env!("CARGO_BIN_EXE_tobiuo"));
    command.env_remove("RUST_LOG");
    command
}

/// Runs it; the output, with its texts for panics' sake.
pub fn output(command: &mut Command) -> (Output, String, String) {
    let out = command.output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (out, stdout, stderr)
}
