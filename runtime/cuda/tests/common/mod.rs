//! A small CUDA engine made by hand of strided copies: three launches of one stream and one of
//! another, an arena with two buffers, a constant.

#![allow(dead_code)]

use std::path::{Path, PathBuf};

use tobiuo_engine::{
    ChannelOrder, CudaArgument, CudaKey, CudaLaunch, CudaModule, CudaProgram, DeviceKey, Fit,
    Manifest, Place, Plan, Port, Precision, Preprocess, Program, Provenance, Tactic, Task,
    TensorDesc,
};
use tobiuo_kernels::{ENTRY, Layer, PermuteLayer, Target};
use tobiuo_nvrtc::Nvrtc;
use tobiuo_tensor::DType;

/// Rows and columns of the input `x`, `[n, ROWS, COLUMNS]`.
pub const ROWS: usize = 4;
pub const COLUMNS: usize = 6;
/// Elements of the constant.
pub const CONSTANT: usize = 8;

/// NVRTC: the stand-in's, or on a GPU the one that `TOBIUO_NVRTC` names or that is found.
pub fn compiler() -> PathBuf {
    let info = tobiuo_gpu::device(0).expect("a device");
    let nvrtc = Nvrtc::open_for(10 * info.compute.0 + info.compute.1, Some(info.driver));
    nvrtc.expect("NVRTC").path().to_path_buf()
}

/// The engine for the device that is here.
pub fn own_engine(batches: &[usize]) -> Parts {
    let (major, minor) = tobiuo_gpu::device(0).expect("a device").compute;
    engine(&compiler(), 10 * major + minor, batches)
}

/// An engine in parts.
pub struct Parts {
    pub manifest: Manifest,
    pub weights: Vec<u8>,
    pub code: Vec<u8>,
}

pub fn constant() -> Vec<f32> {
    (0..CONSTANT).map(|i| i as f32 * 0.5 - 1.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn copy(dims: &[usize], x_offset: usize, x_strides: &[i64], y_strides: &[i64]) -> Layer {
    Layer::Permute(PermuteLayer {
        from: DType::F32,
        to: DType::F32,
        dims: dims.to_vec(),
        x_offset,
        x_strides: x_strides.to_vec(),
        y_strides: y_strides.to_vec(),
        valid: None,
    })
}

/// What the engine computes for an input: `y`, the transposed picture; `r`, it backwards; `c`, the
/// constant.
pub fn expected(x: &[f32], n: usize) -> [Vec<f32>; 3] {
    let item = ROWS * COLUMNS;
    let mut y = vec![0.0; n * item];
    for b in 0..n {
        for r in 0..ROWS {
            for c in 0..COLUMNS {
                y[b * item + c * ROWS + r] = x[b * item + r * COLUMNS + c];
            }
        }
    }
    [y, x.iter().rev().copied().collect(), constant()]
}

/// An input whose values all differ.
pub fn input(n: usize, seed: usize) -> Vec<f32> {
    (0..n * ROWS * COLUMNS).map(|i| (i * 7 + seed * 31) as f32 * 0.25 - 3.0).collect()
}

/// An engine that gives a picture's values back as scores of classes, `[1, 3 * side * side]`.
pub fn classifier(nvrtc: &Path, sm: u32, side: usize) -> Parts {
    let mut parts = engine(nvrtc, sm, &[1]);
    let nvrtc = Nvrtc::open_file(nvrtc).expect("NVRTC");
    let target = Target::of_sm(sm).expect("it is known");
    let classes = 3 * side * side;
    let layer = copy(&[classes], 0, &[1], &[1]);
    let candidate = layer.candidates(&target).into_iter().next().expect("a candidate");
    let made = nvrtc.compile("kernel.cu", &candidate.source, sm, false).expect("it compiles");
    let m = &mut parts.manifest;
    let plan = &mut m.plans[0];
    let Program::Cuda(program) = &mut plan.program else { unreachable!("made above") };
    program.modules = vec![CudaModule { offset: 0, bytes: made.cubin.len() as u64 }];
    parts.code = made.cubin;
    program.launches.truncate(1);
    let launch = &mut program.launches[0];
    (launch.grid, launch.block) = (candidate.grid, [candidate.block, 1, 1]);
    let bytes = classes as u64 * 4;
    launch.arguments = vec![
        CudaArgument::Input { index: 0, offset: 0, bytes },
        CudaArgument::Output { index: 0, offset: 0, bytes },
    ];
    plan.tensors.truncate(2);
    plan.tensors[0].shape = vec![1, 3, side, side];
    plan.tensors[1].shape = vec![1, classes];
    plan.outputs = vec![1];
    m.inputs[0].shape = vec![1, 3, side, side];
    m.outputs.truncate(1);
    m.outputs[0].shape = vec![1, classes];
    m.task = Task::Classify { output: 0 };
    m.preprocess = Some(Preprocess {
        input: 0,
        fit: Fit::Letterbox,
        pad_value: 0,
        channels: ChannelOrder::Rgb,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
    });
    parts
}

/// The engine for a device of a compute capability, with a plan for each batch, its kernels
/// compiled by this NVRTC.
pub fn engine(nvrtc: &Path, sm: u32, batches: &[usize]) -> Parts {
    let nvrtc = Nvrtc::open_file(nvrtc).expect("NVRTC");
    let target = Target::of_sm(sm).expect("it is known");
    let mut code = Vec::new();
    let plans: Vec<Plan> = batches.iter().map(|&n| plan(&nvrtc, &target, n, &mut code)).collect();
    let port = |name: &str, t: u32| Port {
        name: name.into(),
        dtype: DType::F32,
        shape: plans[0].tensors[t as usize].shape.clone(),
    };
    let manifest = Manifest {
        builder: "test".into(),
        device: DeviceKey::Cuda(CudaKey {
            name: "Stand-in".into(),
            sm,
            sm_count: target.sm_count,
            shared_per_block: target.shared_per_block,
            l2_bytes: target.l2_bytes,
            driver: if sm <= 72 { 11040 } else { 12020 },
            tuned: false,
        }),
        precision: Precision::Fp32,
        provenance: Provenance { model: "copies.onnx".into(), ..Provenance::default() },
        inputs: vec![port("x", 0)],
        outputs: vec![port("y", 1), port("r", 2), port("c", 3)],
        task: Task::Tensors,
        preprocess: None,
        labels: vec![],
        plans,
    };
    Parts { manifest, weights: bytes(&constant()), code }
}

fn plan(nvrtc: &Nvrtc, target: &Target, n: usize, code: &mut Vec<u8>) -> Plan {
    let item = ROWS * COLUMNS;
    let all = (n * item) as u64 * 4;
    let second = all.next_multiple_of(256);
    let mut modules = Vec::new();
    let mut launches = Vec::new();
    let mut launch = |name: &str,
                      layer: Layer,
                      stream: u32,
                      after: &[u32],
                      from: CudaArgument,
                      to: CudaArgument| {
        let candidate = layer.candidates(target).into_iter().next().expect("a candidate");
        let made = nvrtc
            .compile("kernel.cu", &candidate.source, target.sm, candidate.specific)
            .expect("it compiles");
        code.resize(code.len().next_multiple_of(64), 0);
        modules.push(CudaModule { offset: code.len() as u64, bytes: made.cubin.len() as u64 });
        code.extend(made.cubin);
        launches.push(CudaLaunch {
            name: name.into(),
            op: "Transpose".into(),
            family: layer.family().into(),
            module: launches.len() as u32,
            function: ENTRY.into(),
            grid: candidate.grid,
            block: [candidate.block, 1, 1],
            shared: candidate.shared,
            dependent: true,
            stream,
            after: after.to_vec(),
            arguments: vec![from, to],
            tactic: Tactic {
                label: candidate.label,
                nanoseconds: Some(2500),
                runners_up: vec![("slower".into(), 3100)],
            },
            flops: 0,
        });
    };
    use CudaArgument::{Arena, Input, Output, Weights};
    let flat = |x_offset, stride: i64| copy(&[n * item], x_offset, &[stride], &[1]);
    let (a, b) = (Arena { offset: 0, bytes: all }, Arena { offset: second, bytes: all });
    launch("take", flat(0, 1), 0, &[], Input { index: 0, offset: 0, bytes: all }, a);
    launch("reverse", flat(n * item - 1, -1), 1, &[0], a, b);
    let transposed = copy(
        &[n, COLUMNS, ROWS],
        0,
        &[item as i64, 1, COLUMNS as i64],
        &[item as i64, ROWS as i64, 1],
    );
    launch("transpose", transposed, 0, &[], a, Output { index: 0, offset: 0, bytes: all });
    launch(
        "constant",
        copy(&[CONSTANT], 0, &[1], &[1]),
        0,
        &[],
        Weights { offset: 0, bytes: CONSTANT as u64 * 4 },
        Output { index: 2, offset: 0, bytes: CONSTANT as u64 * 4 },
    );
    launch("give", flat(0, 1), 0, &[1], b, Output { index: 1, offset: 0, bytes: all });
    let tensor = |name: &str, shape: &[usize]| TensorDesc {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.to_vec(),
        place: Place::Bound,
    };
    Plan {
        batch: n,
        arena: second + all,
        tensors: vec![
            tensor("x", &[n, ROWS, COLUMNS]),
            tensor("y", &[n, COLUMNS, ROWS]),
            tensor("r", &[n, item]),
            tensor("c", &[CONSTANT]),
        ],
        inputs: vec![0],
        outputs: vec![1, 2, 3],
        program: Program::Cuda(CudaProgram {
            modules,
            scratch: 512,
            zeroed: 256,
            carveout: None,
            launches,
            vision: None,
        }),
    }
}
