//! Pipelines from sources that do as they are told.

#![cfg(feature = "cpu")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{CELL, SIDE, clip_cell, frame};
use tobiuo::capture::{
    CaptureError, FrameFormat, FrameMeta, PixelFormat, Read, Source, SourceConfig, monotonic_ns,
};
use tobiuo::manifest::{Program, Step, Task, TensorDesc};
use tobiuo::sink::{Sink, StreamInfo};
use tobiuo::{Detection, Engine, Error, ErrorKind, FrameResult, Pipeline, Tensor};
use tobiuo_ops::Op;

fn engine() -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(common::colour_engine(folder.path())).unwrap();
    (folder, engine)
}

/// What a scripted source does at a read.
#[derive(Clone, Copy)]
enum Act {
    /// A frame with `clip_cell` of its number, after a wait.
    Frame(Duration),
    /// The error that a real source gives.
    Fail(fn() -> CaptureError),
    End,
}

struct Scripted {
    acts: Vec<Act>,
    at: usize,
    live: bool,
    /// Lives as long as this source.
    _held: Arc<()>,
}

impl Scripted {
    fn boxed(acts: Vec<Act>, live: bool) -> Box<dyn Source> {
        Self::holding(Arc::default(), acts, live)
    }

    fn holding(held: Arc<()>, acts: Vec<Act>, live: bool) -> Box<dyn Source> {
        Box::new(Scripted { acts, at: 0, live, _held: held })
    }
}

impl Source for Scripted {
    fn describe(&self) -> String {
        "scripted".into()
    }

    fn max_frame_bytes(&self) -> usize {
        3 * SIDE * SIDE
    }

    fn frame_rate(&self) -> Option<f64> {
        None
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn read(&mut self, slot: &mut [u8], _: &AtomicBool) -> Result<Read, CaptureError> {
        let n = self.at;
        self.at += 1;
        match self.acts.get(n).copied().unwrap_or(Act::End) {
            Act::Frame(wait) => {
                std::thread::sleep(wait);
                slot.copy_from_slice(&frame(SIDE, SIDE, &[clip_cell(n)]));
                Ok(Read::Frame(FrameMeta {
                    format: FrameFormat::new(PixelFormat::Rgb8, SIDE as u32, SIDE as u32),
                    sequence: n as u64,
                    timestamp_ns: monotonic_ns(),
                    dropped_before: u32::from(n == 3),
                }))
            }
            Act::Fail(error) => Err(error()),
            Act::End => Ok(Read::End),
        }
    }
}

const NOW: Act = Act::Frame(Duration::ZERO);

/// The error of an input that is not there; capture makes its errors itself.
fn gone() -> CaptureError {
    match tobiuo::capture::open("/dev/video-that-is-not-there", &SourceConfig::default()) {
        Err(e) => e,
        Ok(_) => panic!("there is such a camera"),
    }
}

fn cell_box((class, column, row): (usize, usize, usize), score: f32) -> Detection {
    let [left, top] = [column * CELL, row * CELL].map(|v| v as f32);
    let side = CELL as f32;
    Detection { class: class as u32, score, left, top, right: left + side, bottom: top + side }
}

#[test]
fn every_frame_of_a_file_gets_its_detections_in_order() {
    let (_folder, engine) = engine();
    let mut pipeline = Pipeline::builder(&engine, "scripted")
        .source(|| Ok(Scripted::boxed(vec![NOW; 300], false)))
        .start()
        .unwrap();
    let mut n = 0;
    pipeline
        .run(|result| {
            assert_eq!(result.number(), n as u64);
            let want = cell_box(clip_cell(n), 1.0);
            let [got] = result.detections() else { panic!("{:?}", result.detections()) };
            assert!((got.score - 1.0).abs() < 1e-4, "{got:?}");
            assert_eq!(Detection { score: 1.0, ..*got }, want);
            assert_eq!(result.pixels(), frame(SIDE, SIDE, &[clip_cell(n)]));
            assert!(result.latency().total >= result.latency().network);
            n += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(n, 300);
    let summary = pipeline.finish().unwrap();
    assert_eq!((summary.frames_in, summary.processed, summary.dropped), (300, 300, 0));
    assert_eq!(summary.device_dropped, 1);
    assert_eq!(summary.stages[6].unwrap().count, 300);
}

#[test]
fn a_live_source_never_waits_and_its_newest_frame_wins() {
    let (_folder, engine) = engine();
    let mut pipeline = Pipeline::builder(&engine, "scripted")
        .source(|| Ok(Scripted::boxed(vec![Act::Frame(Duration::from_millis(2)); 200], true)))
        .start()
        .unwrap();
    let begin = Instant::now();
    let (mut seen, mut last) = (0, None);
    while let Some(result) = pipeline.next().unwrap() {
        assert!(last.is_none_or(|l| result.number() > l), "in order");
        last = Some(result.number());
        seen += 1;
        // A slow consumer: some 40 ms for a frame that comes every 2 ms.
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "the source was not held up");
    let summary = pipeline.finish().unwrap();
    assert_eq!(last, Some(199), "the newest frame arrives");
    assert_eq!((summary.frames_in, summary.processed), (200, seen));
    assert_eq!(summary.dropped, 200 - seen);
    assert!(summary.dropped > 100, "{summary}");
}

#[test]
fn a_lost_camera_is_opened_again_and_numbers_go_on() {
    let (_folder, engine) = engine();
    let opened = Arc::new(AtomicU64::new(0));
    let opens = opened.clone();
    let slow = Act::Frame(Duration::from_millis(30));
    let camera = Arc::new(());
    let mut pipeline = Pipeline::builder(&engine, "scripted")
        .source(move || {
            // Cameras are had by one at a time: the lost one must have been closed.
            assert_eq!(Arc::strong_count(&camera), 1, "it is still open");
            let open = |acts| Ok(Scripted::holding(camera.clone(), acts, true));
            match opens.fetch_add(1, Ordering::Relaxed) {
                // The first time it is lost after 3 frames, and the first try to reopen fails.
                0 => open(vec![slow, slow, slow, Act::Fail(gone)]),
                1 => Err(gone()),
                _ => open(vec![slow, slow]),
            }
        })
        .reconnect(true, Duration::from_millis(10))
        .start()
        .unwrap();
    let mut numbers = Vec::new();
    pipeline
        .run(|result| {
            numbers.push(result.number());
            Ok(())
        })
        .unwrap();
    let summary = pipeline.finish().unwrap();
    assert_eq!(opened.load(Ordering::Relaxed), 3);
    assert_eq!(summary.reconnects, 1);
    assert_eq!(summary.frames_in, 5);
    assert!(numbers.is_sorted() && numbers.last() == Some(&4), "{numbers:?}");
}

#[test]
fn a_file_that_fails_ends_with_its_error_after_its_frames() {
    let (_folder, engine) = engine();
    let mut pipeline = Pipeline::builder(&engine, "scripted")
        .source(|| Ok(Scripted::boxed(vec![NOW, NOW, Act::Fail(gone)], false)))
        .start()
        .unwrap();
    let mut seen = 0;
    let error = pipeline
        .run(|_| {
            seen += 1;
            Ok(())
        })
        .unwrap_err();
    assert_eq!(seen, 2);
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(pipeline.next().unwrap().is_none(), "it has ended");
}

#[test]
fn a_stop_flag_stops_a_source_that_never_ends() {
    let (_folder, engine) = engine();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let mut pipeline = Pipeline::builder(&engine, "test://scene?width=64&height=64")
        .stop_flag(stop)
        .start()
        .unwrap();
    let mut seen = 0;
    pipeline
        .run(|_| {
            seen += 1;
            if seen >= 20 {
                flag.store(true, Ordering::Relaxed);
            }
            Ok(())
        })
        .unwrap();
    let summary = pipeline.finish().unwrap();
    assert!((20..30).contains(&seen), "{seen}");
    assert_eq!(summary.frames_in, summary.processed + summary.dropped);
}

#[test]
fn dropping_a_running_pipeline_ends_its_threads() {
    let (_folder, engine) = engine();
    let alive = Arc::new(());
    let token = alive.clone();
    let mut pipeline = Pipeline::builder(&engine, "scripted")
        .source(move || {
            let _ = &token;
            Ok(Scripted::boxed(vec![NOW; 1_000_000], false))
        })
        .start()
        .unwrap();
    assert!(pipeline.next().unwrap().is_some());
    drop(pipeline);
    assert_eq!(Arc::strong_count(&alive), 1, "the capture thread has gone");
}

/// Notes what it is told and fails when asked to.
struct Probe {
    told: Arc<Mutex<Vec<String>>>,
    fail_at: Option<u64>,
}

impl Sink for Probe {
    fn start(&mut self, info: &StreamInfo<'_>) -> Result<(), Error> {
        self.told.lock().unwrap().push(format!("start {} {}", info.source, info.classes));
        Ok(())
    }

    fn write(&mut self, result: &FrameResult) -> Result<(), Error> {
        self.told.lock().unwrap().push(format!("write {}", result.number()));
        if self.fail_at == Some(result.number()) {
            return Err(Error::new(ErrorKind::Other, "the disk is full"));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.told.lock().unwrap().push("finish".into());
        Ok(())
    }
}

#[test]
fn sinks_are_told_everything_once_and_their_failure_ends_the_run() {
    let (_folder, engine) = engine();
    for fail_at in [None, Some(2)] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut pipeline = Pipeline::builder(&engine, "scripted")
            .source(|| Ok(Scripted::boxed(vec![NOW; 4], false)))
            .sink(Box::new(Probe { told: told.clone(), fail_at }))
            .start()
            .unwrap();
        let outcome = pipeline.run(|_| Ok(()));
        drop(pipeline);
        let told = told.lock().unwrap().join(", ");
        match fail_at {
            None => {
                outcome.unwrap();
                let want = "start scripted 3, write 0, write 1, write 2, write 3, finish";
                assert_eq!(told, want);
            }
            Some(_) => {
                assert_eq!(outcome.unwrap_err().to_string(), "the disk is full");
                assert_eq!(told, "start scripted 3, write 0, write 1, write 2, finish");
            }
        }
    }
}

/// A picture `[3, 64, 64]` in 0..1 with one cell of a class.
fn planar(cell: (usize, usize, usize)) -> Vec<f32> {
    let rgb = frame(SIDE, SIDE, &[cell]);
    let n = SIDE * SIDE;
    (0..3 * n).map(|i| f32::from(rgb[i % n * 3 + i / n]) / 255.0).collect()
}

/// The cell of a class with the highest score in an output `[7, 64]`.
fn best_cell(output: &[f32], class: usize) -> (usize, usize, usize) {
    let row = &output[(4 + class) * 64..(5 + class) * 64];
    let best = (0..64).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    (class, best % 8, best / 8)
}

#[test]
fn contexts_of_one_engine_run_at_once() {
    let (_folder, engine) = engine();
    let run = |class: usize| {
        let mut context = engine.context().unwrap();
        for n in 0..50 {
            let cell = (class, n % 8, n / 8 % 8);
            let tensor = Tensor::f32([1, 3, SIDE, SIDE], planar(cell));
            context.set_input("images", &tensor).unwrap();
            context.run().unwrap();
            let output = context.output("output0").unwrap().to_tensor();
            assert_eq!(output.shape(), [1, 7, 64]);
            assert_eq!(best_cell(output.as_f32().unwrap(), class), cell);
        }
    };
    std::thread::scope(|s| (0..3).for_each(|class| drop(s.spawn(move || run(class)))));
}

#[test]
fn the_smallest_plan_that_fits_the_batch_runs() {
    let (manifest, weights) = common::manifest_of(&[1, 4]);
    let engine = Engine::from_bytes(&tobiuo_engine::encode(&manifest, &weights).unwrap()).unwrap();
    for (batch, plan) in [(1, 1), (2, 4), (3, 4), (4, 4)] {
        let options = tobiuo::ContextOptions::default().batch(batch);
        let mut context = tobiuo::ExecutionContext::new(&engine, &options).unwrap();
        assert_eq!((context.batch(), context.plan().batch), (batch, plan));
        let cells: Vec<_> = (0..batch).map(|i| (i % 3, i, 7 - i)).collect();
        let pixels = cells.iter().flat_map(|&cell| planar(cell)).collect();
        let tensor = Tensor::f32([batch, 3, SIDE, SIDE], pixels);
        for _ in 0..2 {
            context.set_input("images", &tensor).unwrap();
            context.run().unwrap();
            let output = context.output("output0").unwrap().to_tensor();
            assert_eq!(output.shape(), [batch, 7, 64]);
            for (item, &cell) in output.as_f32().unwrap().chunks(7 * 64).zip(&cells) {
                assert_eq!(best_cell(item, cell.0), cell, "batch {batch}");
            }
        }
    }
}

#[test]
fn a_classifier_gives_its_best_classes() {
    let (mut manifest, weights) = common::manifest_and_weights();
    // The detector's output, flattened, as scores of 448 classes.
    manifest.task = Task::Classify { output: 0 };
    manifest.labels.clear();
    manifest.outputs[0].shape = vec![1, 448];
    let plan = &mut manifest.plans[0];
    let scores = TensorDesc { shape: vec![1, 448], ..plan.tensors[6].clone() };
    plan.tensors.push(TensorDesc { name: "scores".into(), ..scores });
    plan.outputs = vec![7];
    let Program::Cpu(steps) = &mut plan.program else { panic!() };
    steps.push(Step {
        name: "scores".into(),
        op: Op::Reshape { shape: vec![1, 448] },
        inputs: vec![6],
        outputs: vec![7],
    });
    let engine = Engine::from_bytes(&tobiuo_engine::encode(&manifest, &weights).unwrap()).unwrap();
    let mut pipeline = Pipeline::builder(&engine, "scripted")
        .source(|| Ok(Scripted::boxed(vec![NOW; 3], false)))
        .start()
        .unwrap();
    let mut seen = 0;
    pipeline
        .run(|result| {
            assert!(result.detections().is_empty());
            let [best, rest @ ..] = result.classes() else { panic!("no classes") };
            // The highest figures of the output are the box centres at the far edge.
            assert_eq!(best.score, 60.0);
            assert_eq!(rest.len(), 4);
            assert!(result.classes().is_sorted_by(|a, b| a.score >= b.score));
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 3);
}

#[test]
fn an_engine_that_does_not_look_at_pictures_is_no_pipeline() {
    let (mut manifest, weights) = common::manifest_and_weights();
    manifest.preprocess = None;
    let engine = Engine::from_bytes(&tobiuo_engine::encode(&manifest, &weights).unwrap()).unwrap();
    let started = Pipeline::builder(&engine, "test://scene").start();
    let e = started.err().expect("it cannot start");
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("tobiuo infer"), "{e}");
}

#[test]
fn wrong_names_shapes_and_batches_are_said() {
    let (_folder, engine) = engine();
    let mut context = engine.context().unwrap();
    let tensor = Tensor::f32([1, 3, 8, 8], vec![0.0; 192]);
    let e = context.set_input("images", &tensor).unwrap_err().to_string();
    assert!(e.contains("[1, 3, 64, 64]") && e.contains("[1, 3, 8, 8]"), "{e}");
    let e = context.set_input("image", &tensor).unwrap_err().to_string();
    assert!(e.contains("'image'") && e.contains("images"), "{e}");
    assert!(context.output("output1").is_err());
    for batch in [0, 2] {
        let options = tobiuo::ContextOptions::default().batch(batch);
        let e = tobiuo::ExecutionContext::new(&engine, &options).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
    }
}
