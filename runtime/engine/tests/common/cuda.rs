//! A valid CUDA engine that uses most of the format: two plans, two streams, every kind of
//! argument, a picture input with its vision kernels.
#![allow(dead_code)]

use tobiuo_engine::format::SectionKind;
use tobiuo_engine::{
    CudaArgument, CudaHead, CudaKernel, CudaKey, CudaLaunch, CudaModule, CudaProgram, CudaVision,
    DeviceKey, Manifest, Place, Plan, Precision, Program, Tactic, TensorDesc, encode_sections,
};
use tobiuo_tensor::DType;

/// Bytes of the code section.
pub const CODE: usize = 704;
/// Bytes of the weights section.
pub const WEIGHTS: usize = 1024;

/// Any bytes: the format does not look into them.
pub fn code() -> Vec<u8> {
    (0..CODE as u32).map(|i| (i.wrapping_mul(40_503) >> 7) as u8).collect()
}

pub fn weights() -> Vec<u8> {
    (0..WEIGHTS as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub fn encode(manifest: &Manifest) -> Vec<u8> {
    let (weights, code) = (weights(), code());
    let sections = [(SectionKind::Weights, &weights[..]), (SectionKind::Code, &code[..])];
    encode_sections(manifest, &sections).unwrap()
}

fn tensor(name: &str, shape: &[usize]) -> TensorDesc {
    TensorDesc { name: name.into(), dtype: DType::F32, shape: shape.into(), place: Place::Bound }
}

pub fn plan(n: usize) -> Plan {
    let batch = n as u64;
    let picture = batch * 3 * 8 * 8 * 4;
    let boxes = batch * 6 * 64 * 4;
    let inside = batch * 8 * 8 * 8 * 2;
    use CudaArgument::{Arena, Input, Null, Output, Scratch, Weights};
    let launch =
        |name: &str, module: u32, stream: u32, after: &[u32], arguments: Vec<CudaArgument>| {
            CudaLaunch {
                name: name.into(),
                op: "Conv".into(),
                family: "conv".into(),
                module,
                function: "KERNEL".into(),
                grid: [7 * n as u32, 2, 1],
                block: [128, 1, 1],
                shared: 48 << 10,
                dependent: stream == 0,
                stream,
                after: after.into(),
                arguments,
                tactic: Tactic {
                    label: "64x32 k1".into(),
                    nanoseconds: Some(5200),
                    runners_up: vec![("32x32 k4".into(), 5900)],
                },
                flops: 1_000_000,
            }
        };
    let launches = vec![
        launch(
            "layout",
            0,
            0,
            &[],
            vec![Input { index: 0, offset: 0, bytes: picture }, Arena { offset: 0, bytes: inside }],
        ),
        launch(
            "left",
            1,
            0,
            &[],
            vec![
                Arena { offset: 0, bytes: inside },
                Weights { offset: 0, bytes: 512 },
                Null,
                Arena { offset: inside, bytes: inside },
                Scratch { offset: 0, bytes: 64 },
            ],
        ),
        launch(
            "right",
            1,
            1,
            &[0],
            vec![
                Arena { offset: 0, bytes: inside },
                Weights { offset: 512, bytes: 512 },
                Null,
                Arena { offset: 2 * inside, bytes: inside },
                Scratch { offset: 64, bytes: 192 },
            ],
        ),
        launch(
            "head",
            2,
            0,
            &[2],
            vec![
                Arena { offset: inside, bytes: 2 * inside },
                Output { index: 0, offset: 0, bytes: boxes },
            ],
        ),
    ];
    let module = |offset, bytes| CudaModule { offset, bytes };
    let kernel =
        |function: &str, grid| CudaKernel { function: function.into(), grid, block: [256, 1, 1] };
    Plan {
        batch: n,
        arena: 3 * inside,
        tensors: vec![tensor("image", &[n, 3, 8, 8]), tensor("boxes", &[n, 6, 64])],
        inputs: vec![0],
        outputs: vec![1],
        program: Program::Cuda(CudaProgram {
            modules: vec![module(0, 192), module(192, 256), module(448, 200)],
            scratch: 256,
            zeroed: 64,
            carveout: None,
            launches,
            vision: Some(CudaVision {
                module: 2,
                picture: Arena { offset: 0, bytes: inside },
                dtype: DType::F16,
                strides: [1, 64, 8],
                channels_stored: 8,
                replaces: vec![0],
                upload: kernel("upload", [64, 1, 1]),
                preprocess: kernel("preprocess", [1, 1, 1]),
                head: CudaHead {
                    output: Output { index: 0, offset: 0, bytes: 6 * 64 * 4 },
                    decode: Some(kernel("decode", [2, 1, 1])),
                    select: kernel("suppress", [1, 1, 1]),
                },
            }),
        }),
    }
}

pub fn key() -> CudaKey {
    CudaKey {
        name: "Orin".into(),
        sm: 87,
        sm_count: 8,
        shared_per_block: 166_912,
        l2_bytes: 2 << 20,
        driver: 12020,
        tuned: true,
    }
}

/// The CPU engine of `common`, as one for a CUDA device.
pub fn manifest() -> Manifest {
    let mut manifest = crate::common::manifest();
    manifest.device = DeviceKey::Cuda(key());
    manifest.precision = Precision::Fp16;
    manifest.plans = vec![plan(1), plan(2)];
    manifest
}
