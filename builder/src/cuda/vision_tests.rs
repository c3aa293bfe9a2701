use tobiuo_engine::{Detect, Fit, Precision};
use tobiuo_ops::{Conv, Op, Pool, PoolKind};
use tobiuo_tensor::Tensor;

use super::*;
use crate::cuda::assemble::{Assembled, Parts, assemble};
use crate::cuda::lower::lower;
use crate::cuda::schedule::Schedule;
use crate::graph::{Graph, ValueId};
use crate::tactics::Tactic;

fn conv(g: &mut Graph, name: &str, x: ValueId, filters: usize, kernel: usize) -> ValueId {
    let channels = g.shape(x)[1];
    let weights = vec![0.5; filters * channels * kernel * kernel];
    let w = Tensor::f32([filters, channels, kernel, kernel], weights);
    let w = g.add_constant(&format!("{name}.w"), w);
    let b = g.add_constant(&format!("{name}.b"), Tensor::f32([filters], vec![0.0; filters]));
    let op = Op::Conv(Conv {
        kernel: vec![kernel; 2],
        strides: vec![1; 2],
        pads: vec![kernel / 2; 4],
        dilations: vec![1; 2],
        groups: 1,
        activation: None,
        residual: false,
    });
    g.push1(name, op, &[x, w, b]).unwrap()
}

/// A detector of 3 classes on 16 x 16 pixels, its first layer's window so large, its last layer a
/// pool where it is that large; otherwise both are 1 x 1. With `both` another layer reads the
/// picture too.
fn detector(kernel: usize, both: bool) -> Graph {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 3, 16, 16]);
    let a = conv(&mut g, "a", x, 16, kernel);
    let mut y = conv(&mut g, "b", a, 7, 1);
    if kernel > 1 {
        let op = Op::Pool(Pool {
            kind: PoolKind::Max,
            kernel: vec![3; 2],
            strides: vec![1; 2],
            pads: vec![1; 4],
            dilations: vec![1; 2],
            ceil_mode: false,
        });
        y = g.push1("p", op, &[y]).unwrap();
    }
    let y = g.push1("r", Op::Reshape { shape: vec![1, 7, 256] }, &[y]).unwrap();
    g.outputs.push(("y".into(), y));
    if both {
        let again = conv(&mut g, "c", x, 5, kernel);
        g.outputs.push(("again".into(), again));
    }
    g
}

fn preprocess() -> Preprocess {
    Preprocess {
        input: 0,
        fit: Fit::Letterbox,
        pad_value: 114,
        channels: ChannelOrder::Rgb,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
    }
}

fn task() -> Task {
    Task::Detect(Detect {
        output: 0,
        classes: 3,
        transposed: false,
        score_threshold: 0.5,
        iou_threshold: 0.5,
        max_detections: 10,
    })
}

fn code(text: &str) -> Compiled {
    Compiled {
        cubin: blake3::hash(text.as_bytes()).as_bytes().to_vec(),
        registers: 0,
        spill_bytes: 0,
        shared_bytes: 0,
        log: String::new(),
    }
}

fn assembled(graph: &Graph, precision: Precision) -> (Lowering, Assembled, Sections) {
    let target = Target::of_sm(87).unwrap();
    let lowering = lower(graph, precision).unwrap();
    let tactics: Vec<Tactic> = (lowering.layers.iter())
        .map(|l| {
            let candidate = l.layer.candidates(&target).into_iter().next().unwrap();
            Tactic {
                code: code(&candidate.source),
                candidate,
                time_us: None,
                runners_up: vec![],
                finalists: vec![],
                distinct: 0,
            }
        })
        .collect();
    let schedule = Schedule::serial(tactics.len());
    let parts = Parts {
        graph,
        batch: 1,
        lowering: &lowering,
        tactics: &tactics,
        schedule: &schedule,
        target: &target,
        keep: false,
    };
    let mut sections = Sections::default();
    let assembled = assemble(&parts, &mut sections).unwrap();
    (lowering, assembled, sections)
}

fn with_vision(graph: &Graph, precision: Precision) -> (Lowering, Assembled, CudaVision) {
    let (lowering, mut a, mut sections) = assembled(graph, precision);
    let (settings, task) = (preprocess(), task());
    let camera = Camera { preprocess: &settings, task: &task };
    let target = Target::of_sm(87).unwrap();
    let mut compile = |source: &str| Ok(code(source));
    let Assembled { plan, homes, .. } = &mut a;
    add(plan, (&lowering, homes), &camera, &target, &mut compile, &mut sections).unwrap();
    let Program::Cuda(program) = &a.plan.program else { panic!() };
    let vision = program.vision.clone().expect("it looks at pictures");
    assert_eq!(vision.module as usize, program.modules.len() - 1);
    (lowering, a, vision)
}

#[test]
fn both_conversions_are_left_out() {
    let (lowering, _, vision) = with_vision(&detector(7, false), Precision::Fp16);
    let last = lowering.layers.len() - 1;
    assert_eq!(lowering.layers[0].op, "Copy");
    assert_eq!(vision.replaces, [0, last as u32]);
    assert_eq!((vision.dtype, vision.channels_stored), (DType::F16, 4));
    assert_eq!(vision.strides, [1, 64, 4]);
    let bytes = 16 * 16 * 4 * 2;
    assert!(matches!(vision.picture, CudaArgument::Arena { bytes: b, .. } if b == bytes));
    let CudaArgument::Arena { bytes, .. } = vision.head.output else { panic!("{vision:?}") };
    // 256 anchors of 7 rows, stored as 8 channels of f16.
    assert_eq!(bytes, (255 * 8 + 7) * 2);
    assert_eq!(vision.preprocess.grid, [1, 2, 1]);
    assert_eq!(vision.head.decode.expect("a detector").grid, [8, 1, 1]);
}

#[test]
fn layers_that_read_the_input_and_store_the_output_themselves_find_them_there() {
    let (lowering, _, vision) = with_vision(&detector(1, false), Precision::Fp16);
    let families: Vec<&str> = lowering.layers.iter().map(|l| l.layer.family()).collect();
    assert_eq!(families, ["conv_planes", "conv_planes"]);
    assert!(vision.replaces.is_empty());
    assert!(matches!(vision.head.output, CudaArgument::Output { index: 0, offset: 0, .. }));
    assert!(matches!(vision.picture, CudaArgument::Input { index: 0, offset: 0, .. }));
    assert_eq!((vision.dtype, &vision.strides[..]), (DType::F32, &[256, 16, 1][..]));
}

#[test]
fn a_picture_that_others_read_too_goes_into_the_input() {
    let (_, _, vision) = with_vision(&detector(7, true), Precision::Fp16);
    assert!(matches!(vision.picture, CudaArgument::Input { index: 0, offset: 0, .. }));
    assert_eq!((vision.dtype, vision.channels_stored), (DType::F32, 3));
    assert_eq!(vision.strides, [256, 16, 1]);
}

#[test]
fn what_the_kernels_do_not_take_is_left_to_the_host() {
    let (lowering, a, _) = assembled(&detector(7, false), Precision::Fp16);
    let Program::Cuda(program) = &a.plan.program else { panic!() };
    let settings = preprocess();
    let of = |task: &Task| {
        let camera = Camera { preprocess: &settings, task };
        design(&program.launches, &lowering, &a.homes, &camera)
    };
    assert!(of(&Task::Tensors).is_none());
    let Task::Detect(detect) = task() else { panic!() };
    assert!(of(&Task::Detect(Detect { classes: 4, ..detect })).is_none());
    assert!(of(&task()).is_some());
}
