//! Frames through the whole GPU path on the stand-in driver: the camera's kernels compiled into an
//! engine, slots, three streams, both memory paths, faults.

use std::sync::atomic::AtomicBool;

use tobiuo::capture::{CaptureError, FrameFormat, FrameMeta, PixelFormat, Read, Source};
use tobiuo::detect::{DetectOptions, Detection, Detector, Placement};
use tobiuo::manifest::{
    ChannelOrder, Detect, DeviceKey, Fit, Manifest, Port, Precision, Preprocess, Provenance, Task,
};
use tobiuo::{Engine, ErrorKind, MemoryPath, Pipeline, Tensor};
use tobiuo_builder::cuda::assemble::{Parts, assemble};
use tobiuo_builder::cuda::lower::lower;
use tobiuo_builder::cuda::schedule::Schedule;
use tobiuo_builder::cuda::sections::Sections;
use tobiuo_builder::cuda::vision::{self, Camera};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::interpret;
use tobiuo_builder::tactics::Tactic;
use tobiuo_counting::{Counting, on_all_threads};
use tobiuo_engine::format::SectionKind;
use tobiuo_kernels::Target;
use tobiuo_nvrtc::Nvrtc;
use tobiuo_ops::{Conv, Op};
use tobiuo_standin::Standin;
use tobiuo_tensor::DType;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIDE: usize = 64;
const CELLS: usize = 64;
const ROWS: usize = 7;

/// One convolution over cells of 8 x 8 pixels: a box for each cell, whose place and size and whose
/// scores are how red, green and blue the cell is.
fn network(classify: bool) -> Graph {
    let mut g = Graph::new();
    let x = g.add_input("images", DType::F32, vec![1, 3, SIDE, SIDE]);
    let mean = 1.0 / 64.0;
    let factors: [[f32; 3]; ROWS] = [
        [60.0, 0.0, 0.0],
        [0.0, 60.0, 0.0],
        [0.0, 0.0, 16.0],
        [8.0, 0.0, 8.0],
        [1.0, 0.1, 0.0],
        // Sums differ, so that no class of a grey cell wins by rounding.
        [0.1, 0.9, 0.0],
        [0.0, 0.1, 0.85],
    ];
    let weights: Vec<f32> =
        factors.iter().flatten().flat_map(|f| std::iter::repeat_n(f * mean, 64)).collect();
    let w = g.add_constant("w", Tensor::f32([ROWS, 3, 8, 8], weights));
    let bias = vec![0.0, 0.0, 4.0, 6.0, 0.0, 0.0, 0.0];
    let b = g.add_constant("b", Tensor::f32([ROWS], bias));
    let conv = Conv {
        kernel: vec![8; 2],
        strides: vec![8; 2],
        pads: vec![0; 4],
        dilations: vec![1; 2],
        groups: 1,
        activation: None,
        residual: false,
    };
    let y = g.push1("cells", Op::Conv(conv), &[x, w, b]).unwrap();
    let shape = if classify { vec![1, ROWS * CELLS] } else { vec![1, ROWS, CELLS] };
    let y = g.push1("flat", Op::Reshape { shape }, &[y]).unwrap();
    g.outputs.push(("output0".into(), y));
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

fn detect() -> Detect {
    Detect {
        output: 0,
        classes: 3,
        transposed: false,
        score_threshold: 0.5,
        iou_threshold: 0.5,
        max_detections: 20,
    }
}

/// The network as an engine for the stand-in's device.
fn engine(graph: &Graph, precision: Precision, task: Task) -> Engine {
    let info = tobiuo_gpu::device(0).unwrap();
    let sm = info.compute.0 * 10 + info.compute.1;
    let target = Target::of_sm(sm).unwrap();
    let nvrtc = Nvrtc::open().unwrap();
    let mut compile = |source: &str| nvrtc.compile("kernel.cu", source, sm, false);
    let lowering = lower(graph, precision).unwrap();
    let mut tactics = Vec::new();
    for layer in &lowering.layers {
        let candidate = layer.layer.candidates(&target).into_iter().next().unwrap();
        tactics.push(Tactic {
            code: compile(&candidate.source).unwrap(),
            candidate,
            time_us: None,
            runners_up: vec![],
            finalists: vec![],
            distinct: 0,
        });
    }
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
    let mut made = assemble(&parts, &mut sections).unwrap();
    let settings = preprocess();
    let camera = Camera { preprocess: &settings, task: &task };
    let places = (&lowering, &made.homes[..]);
    vision::add(&mut made.plan, places, &camera, &target, &mut compile, &mut sections).unwrap();
    let shape = |v| graph.shape(v).to_vec();
    let port = |name: &str, shape| Port { name: name.into(), dtype: DType::F32, shape };
    let manifest = Manifest {
        builder: "test".into(),
        device: DeviceKey::Cuda(tobiuo_cuda::device_key(&info)),
        precision,
        provenance: Provenance::default(),
        inputs: vec![port("images", shape(graph.inputs[0]))],
        outputs: vec![port("output0", shape(graph.outputs[0].1))],
        task,
        preprocess: Some(settings),
        labels: vec![],
        plans: vec![made.plan],
    };
    let (weights, code) = (sections.weights.bytes(), sections.code.bytes());
    let sections = [(SectionKind::Weights, weights), (SectionKind::Code, code)];
    Engine::from_bytes(&tobiuo_engine::encode_sections(&manifest, &sections).unwrap()).unwrap()
}

fn detector() -> Engine {
    engine(&network(false), Precision::Fp32, Task::Detect(detect()))
}

/// Blocks of colour, others in each frame.
fn pixels(format: FrameFormat, number: u64) -> Vec<u8> {
    let bytes = format.frame_bytes().unwrap();
    (0..bytes)
        .map(|i| {
            let block = ((i / 37) as u64 + 1000 * number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (block >> 40) as u8
        })
        .collect()
}

/// Frames of these formats in turn.
struct Frames {
    formats: Vec<FrameFormat>,
    count: u64,
    next: u64,
    /// Given out again and again, so that reading allocates nothing.
    made: Vec<Vec<u8>>,
    live: bool,
}

impl Frames {
    fn boxed(formats: &[FrameFormat], count: u64, live: bool) -> Box<dyn Source> {
        let made = (0..formats.len()).map(|i| pixels(formats[i], i as u64)).collect();
        Box::new(Frames { formats: formats.to_vec(), count, next: 0, made, live })
    }
}

impl Source for Frames {
    fn describe(&self) -> String {
        "frames".into()
    }

    fn max_frame_bytes(&self) -> usize {
        self.made.iter().map(Vec::len).max().unwrap()
    }

    fn frame_rate(&self) -> Option<f64> {
        None
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn read(&mut self, slot: &mut [u8], _: &AtomicBool) -> Result<Read, CaptureError> {
        if self.next == self.count {
            return Ok(Read::End);
        }
        let which = self.next as usize % self.formats.len();
        let (format, made) = (self.formats[which], &self.made[which]);
        slot[..made.len()].copy_from_slice(made);
        self.next += 1;
        Ok(Read::Frame(FrameMeta {
            format,
            sequence: self.next - 1,
            timestamp_ns: tobiuo::capture::monotonic_ns(),
            dropped_before: 0,
        }))
    }
}

/// The network's output on a frame, by the CPU.
fn output(graph: &Graph, format: FrameFormat, frame: &[u8]) -> (Vec<f32>, Placement) {
    use tobiuo_engine::picture::PixelFormat as To;
    let to = To::ALL[PixelFormat::ALL.iter().position(|&p| p == format.pixel).unwrap()];
    assert_eq!(format!("{to:?}"), format!("{:?}", format.pixel), "the same order");
    let (w, h) = (format.width as usize, format.height as usize);
    let mut cpu = tobiuo_cpu::Preprocessor::new(to, w, h, [3, SIDE, SIDE], &preprocess()).unwrap();
    let mut input = vec![0.0; cpu.input_len()];
    cpu.run(frame, &mut input).unwrap();
    let tensor = Tensor::f32([1, 3, SIDE, SIDE], input);
    let out = interpret::run(graph, &[("images", &tensor)]).unwrap();
    let p = cpu.placement();
    let placement = Placement {
        scale_x: p.scale_x,
        scale_y: p.scale_y,
        offset_x: p.offset_x,
        offset_y: p.offset_y,
        frame_width: format.width,
        frame_height: format.height,
    };
    (out[0].as_f32().unwrap().to_vec(), placement)
}

fn near(a: &Detection, b: &Detection, tolerance: f32) -> bool {
    let numbers = |d: &Detection| [d.score * 10.0, d.left, d.top, d.right, d.bottom];
    let close = |(x, y): (f32, f32)| (x - y).abs() <= tolerance;
    a.class == b.class && numbers(a).into_iter().zip(numbers(b)).all(close)
}

fn formats() -> Vec<FrameFormat> {
    let sizes = [(96, 64), (40, 90), (130, 30)];
    let format = |(i, &pixel)| {
        let (width, height): (u32, u32) = sizes[i % 3];
        FrameFormat::new(pixel, width, height)
    };
    let mut all: Vec<FrameFormat> = PixelFormat::ALL.iter().enumerate().map(format).collect();
    all.push(FrameFormat::new(PixelFormat::Nv12, 33, 21));
    all.push(FrameFormat::new(PixelFormat::I420, 21, 33));
    all
}

#[test]
fn frames_of_every_format_give_the_boxes_of_the_cpu() {
    let outcome = Standin::new().test("frames_of_every_format_give_the_boxes_of_the_cpu", || {
        let (engine, graph) = (detector(), network(false));
        let formats = formats();
        let mut cpu = Detector::new(3, CELLS, false, DetectOptions::from(&detect()));
        for memory in [MemoryPath::Discrete, MemoryPath::Integrated] {
            let source = formats.clone();
            let mut pipeline = Pipeline::builder(&engine, "frames")
                .source(move || Ok(Frames::boxed(&source, 27, false)))
                .memory(memory)
                .timeline(27)
                .start()
                .unwrap();
            let (mut seen, mut boxes) = (0, 0);
            while let Some(result) = pipeline.next().unwrap() {
                let which = seen % formats.len();
                assert_eq!(result.number() as usize, seen, "in order");
                assert_eq!(result.format(), formats[which]);
                assert_eq!(result.pixels(), pixels(formats[which], which as u64));
                let (raw, placement) = output(&graph, formats[which], result.pixels());
                let mut want = Vec::new();
                cpu.decode(&raw, &placement, &mut want);
                let got = result.detections();
                let same =
                    got.len() == want.len() && got.iter().zip(&want).all(|(a, b)| near(a, b, 0.02));
                assert!(same, "{:?}: {got:#?}\n{want:#?}", formats[which]);
                boxes += got.len();
                seen += 1;
            }
            assert_eq!(seen, 27);
            assert!(boxes > 27, "{boxes}");
            let timeline = pipeline.timeline().unwrap();
            for name in
                ["capture", "submit", "upload", "preprocess", "network", "decode", "download"]
            {
                let count = timeline.spans().iter().filter(|s| s.name == name).count();
                assert_eq!(count, 27, "{name}");
            }
            let summary = pipeline.finish().unwrap();
            assert_eq!((summary.processed, summary.lost, summary.dropped), (27, 0, 0));
            assert!(summary.stages.iter().all(Option::is_some), "{summary}");
        }
    });
    if let Some(outcome) = outcome {
        let report = outcome.clean_report();
        // Two slots each at two memory paths.
        assert!(report.functions["cuMemHostRegister_v2"] >= 10);
        assert_eq!(
            report.functions["cuMemHostRegister_v2"],
            report.functions["cuMemHostUnregister"]
        );
    }
}

#[test]
fn a_classifier_gives_its_best_classes_in_f16_too() {
    let outcome = Standin::new().test("a_classifier_gives_its_best_classes_in_f16_too", || {
        let graph = network(true);
        let format = FrameFormat::new(PixelFormat::Yuyv, 64, 64);
        for (precision, tolerance) in [(Precision::Fp32, 1e-3), (Precision::Fp16, 0.1)] {
            let engine = engine(&graph, precision, Task::Classify { output: 0 });
            let mut pipeline = Pipeline::builder(&engine, "frames")
                .source(move || Ok(Frames::boxed(&[format], 3, false)))
                .start()
                .unwrap();
            let mut seen = 0;
            while let Some(result) = pipeline.next().unwrap() {
                let (mut raw, _) = output(&graph, format, result.pixels());
                let at = |class: u32| raw[class as usize];
                let classes = result.classes();
                assert_eq!(classes.len(), 5);
                assert!(classes.iter().all(|c| (at(c.class) - c.score).abs() < tolerance));
                let got: Vec<f32> = classes.iter().map(|c| c.score).collect();
                raw.sort_by(|a, b| b.total_cmp(a));
                assert!(got.iter().zip(&raw).all(|(a, b)| (a - b).abs() < tolerance), "{got:?}");
                seen += 1;
            }
            assert_eq!(seen, 3);
        }
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

/// What must not be called once frames flow.
const TAKES_MEMORY: [&str; 9] = [
    "cuMemAlloc_v2",
    "cuMemHostAlloc",
    "cuMemHostRegister_v2",
    "cuModuleLoadData",
    "cuStreamCreate",
    "cuStreamCreateWithPriority",
    "cuEventCreate",
    "cuGraphInstantiateWithFlags",
    "cuStreamBeginCapture_v2",
];

#[test]
fn nothing_is_allocated_after_ready() {
    let outcome = Standin::new().traced().test("nothing_is_allocated_after_ready", || {
        let engine = detector();
        let format = FrameFormat::new(PixelFormat::Nv12, 96, 64);
        for (memory, live) in [(MemoryPath::Discrete, false), (MemoryPath::Integrated, true)] {
            let mut pipeline = Pipeline::builder(&engine, "frames")
                .source(move || Ok(Frames::boxed(&[format], u64::MAX, live)))
                .memory(memory)
                .start()
                .unwrap();
            // Both slots have had a frame.
            (0..4).for_each(|_| assert!(pipeline.next().unwrap().is_some()));
            let (_, counted) = on_all_threads(|| {
                (0..150).for_each(|_| assert!(pipeline.next().unwrap().is_some()));
            });
            assert_eq!(counted.allocations, 0, "{memory:?}");
            let summary = pipeline.finish().unwrap();
            assert!(summary.processed >= 154);
            assert!(summary.frames_in <= summary.processed + summary.dropped + summary.lost);
        }
    });
    let Some(outcome) = outcome else { return };
    let trace = &outcome.clean_report().trace;
    let launches: Vec<usize> =
        (0..trace.len()).filter(|&i| trace[i].0 == "cuGraphLaunch").collect();
    assert!(launches.len() >= 300);
    // In the middle of both runs, device allocations would lie between launches.
    let quiet = launches.windows(2).filter(|w| {
        !trace[w[0]..w[1]].iter().any(|(name, _)| TAKES_MEMORY.contains(&name.as_str()))
    });
    assert!(launches.len() - quiet.count() <= 2, "only between the runs is memory taken");
}

#[test]
fn a_fault_is_survived_once() {
    let run = || {
        let engine = detector();
        let format = FrameFormat::new(PixelFormat::Rgb8, 64, 64);
        let mut pipeline = Pipeline::builder(&engine, "frames")
            .source(move || Ok(Frames::boxed(&[format], 60, false)))
            .start()
            .unwrap();
        let outcome = pipeline.run(|_| Ok(()));
        (outcome, pipeline.summary())
    };
    let one = Standin::new().fail("kernel#50:700").test("a_fault_is_survived_once", || {
        let twice = std::env::var("TOBIUO_STANDIN_FAIL").unwrap().contains(',');
        let (outcome, summary) = run();
        if twice {
            let e = outcome.unwrap_err();
            assert_eq!((e.kind(), e.exit_status()), (ErrorKind::DeviceLost, 5), "{e}");
            assert!(e.to_string().contains("before in this run"), "{e}");
            return;
        }
        outcome.unwrap();
        assert!((1..=2).contains(&summary.lost), "{summary}");
        assert_eq!(summary.processed + summary.lost, 60, "{summary}");
    });
    let Some(one) = one else { return };
    assert!(one.clean_report().injected.len() == 1, "{:?}", one.report);
    let twice = "kernel#50:700,kernel#120:719";
    let two = Standin::new().fail(twice).test("a_fault_is_survived_once", || {});
    assert_eq!(two.unwrap().clean_report().injected.len(), 2);
}

#[test]
fn the_check_of_the_kernels_runs() {
    let standin = Standin::new();
    let mut command = standin.command(env!("CARGO_BIN_EXE_camera-check"));
    command.args(["--rounds", "1", "--seed", "3"]);
    let outcome = standin.run(&mut command, std::time::Duration::from_secs(300));
    assert!(outcome.status.success(), "{}\n{}", outcome.stdout, outcome.stderr);
    let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(summary["frames"], 42);
    assert_eq!(summary["wrong"].as_array().map(Vec::len), Some(0));
    outcome.clean_report();
}
