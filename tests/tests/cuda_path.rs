//! The whole GPU path on the stand-in driver: an engine is built, opened, run by several
//! threads, and fed with the bundled clip. First as it should be, compared with the CPU device;
//! then with every driver call made to fail.

mod common;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use common::{Random, answer, root};
use tobiuo::eval::{Annotations, EvalOptions, evaluate};
use tobiuo::{Engine, Pipeline};
use tobiuo_builder::options::{CacheChoice, DeviceChoice};
use tobiuo_builder::quantize::cache::Cached;
use tobiuo_builder::quantize::calibrators::Calibrator;
use tobiuo_builder::tactics::Effort;
use tobiuo_builder::{BuildOptions, Int8Options, build};
use tobiuo_engine::Precision;
use tobiuo_standin::{Description, Device, Outcome, Standin};

/// Frames of the clip that a pipeline is fed with.
const FRAMES: usize = 4;

fn tiny_detector() -> PathBuf {
    root().join("builder/tests/models/detector.onnx")
}

fn bundled_detector() -> PathBuf {
    root().join("examples/camera/assets/detector.onnx")
}

fn options(device: DeviceChoice) -> BuildOptions {
    let mut options = BuildOptions { device, ..BuildOptions::default() };
    options.cuda.effort = Effort::Fast;
    options.cuda.cache = CacheChoice::None;
    options
}

/// An error with the exit status that a program gives for it.
struct Failure(String);

impl From<tobiuo::Error> for Failure {
    fn from(e: tobiuo::Error) -> Failure {
        Failure(format!("exit {}: {e}", e.exit_status()))
    }
}

impl From<tobiuo_builder::BuildError> for Failure {
    fn from(e: tobiuo_builder::BuildError) -> Failure {
        Failure(format!("exit {}: {e}", e.exit_status()))
    }
}

/// Small frames, for the sake of time.
const SCENE: &str = "test://scene?width=64&height=48&format=yuyv";

fn clip() -> String {
    root().join("examples/camera/assets/clip.avi").display().to_string()
}

/// Boxes found in the first frames of an input, and how many frames went with a lost device.
fn watch(engine: &Engine, input: &str) -> Result<(Vec<usize>, u64), Failure> {
    let mut pipeline = Pipeline::builder(engine, input).start()?;
    let mut boxes = Vec::new();
    while boxes.len() < FRAMES {
        let Some(result) = pipeline.next()? else { break };
        boxes.push(result.detections().len());
    }
    let summary = pipeline.finish()?;
    Ok((boxes, summary.lost))
}

/// Answers of two contexts of one engine, each in a thread of its own.
fn two_at_once(engine: &Engine) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| answer(engine))).collect();
        let answers = threads.into_iter().map(|t| t.join().expect("no thread panics"));
        answers.collect::<Result<Vec<_>, _>>().map_err(Failure::from)
    })
}

/// The whole path once; how many frames went with a lost device.
fn everything(folder: &Path, device: DeviceChoice) -> Result<u64, Failure> {
    let path = folder.join("model.tobiuo");
    build(&tiny_detector(), &path, &options(device), &mut ())?;
    println!("built");
    let engine = Engine::open(&path)?;
    answer(&engine)?;
    two_at_once(&engine)?;
    let (boxes, lost) = watch(&engine, SCENE)?;
    assert!(boxes.len() == FRAMES || lost > 0, "{} frames and {lost} lost", boxes.len());
    Ok(lost)
}

fn relative_error(want: &[u8], got: &[u8]) -> f64 {
    let floats = |b: &[u8]| -> Vec<f64> {
        b.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
    };
    let (want, got) = (floats(want), floats(got));
    assert_eq!(want.len(), got.len());
    let difference: f64 = want.iter().zip(&got).map(|(w, g)| (w - g) * (w - g)).sum();
    (difference / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

/// Tensors are counted where the engine will run; what comes of it is the same.
#[test]
fn calibration_on_the_gpu_is_the_cpus() {
    let outcome = Standin::new().test("calibration_on_the_gpu_is_the_cpus", || {
        let folder = tempfile::tempdir().expect("a folder");
        let calibrated = |device: DeviceChoice, name: &str| {
            let cache = folder.path().join(name);
            let mut options = options(device);
            options.precision = Some(Precision::Int8);
            options.int8 = Int8Options {
                calibration: Some(root().join("examples/camera/assets/pictures")),
                cache: Some(cache.clone()),
                calibrator: Some(Calibrator::Percentile(99.9)),
                ..Int8Options::default()
            };
            let engine = folder.path().join("model.tobiuo");
            let report = build(&tiny_detector(), &engine, &options, &mut ()).expect("it is built");
            assert_eq!(report.int8.expect("it is calibrated").device, name);
            let text = std::fs::read_to_string(&cache).expect("there is a cache");
            Cached::parse(&text).expect("it is read")
        };
        let cpu = calibrated(DeviceChoice::Cpu, "cpu");
        let gpu = calibrated(DeviceChoice::Cuda(0), "gpu");
        assert_eq!((&cpu.model, cpu.pictures), (&gpu.model, gpu.pictures));
        assert!(cpu.ranges.len() > 3 && cpu.ranges.keys().eq(gpu.ranges.keys()));
        for (name, c) in &cpu.ranges {
            let g = gpu.ranges[name];
            // A bin more or less, where an element lies at its edge.
            let near = |a: f32, b: f32| (a - b).abs() <= c.clip * 1e-3;
            assert!(near(c.clip, g.clip) && near(c.low, g.low), "{name}: {c:?}, {g:?}");
        }
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn gpu_engines_answer_as_cpu_engines() {
    let outcome = Standin::new().test("gpu_engines_answer_as_cpu_engines", || {
        let folder = tempfile::tempdir().expect("a folder");
        for model in [tiny_detector(), bundled_detector()] {
            let of = |device: DeviceChoice, name: &str| {
                let path = folder.path().join(name);
                build(&model, &path, &options(device), &mut ()).expect("it is built");
                Engine::open(&path).expect("it is opened")
            };
            let cpu = of(DeviceChoice::Cpu, "cpu.tobiuo");
            let gpu = of(DeviceChoice::Cuda(0), "gpu.tobiuo");
            let want = answer(&cpu).expect("it runs");
            for got in two_at_once(&gpu).unwrap_or_else(|e| panic!("{}", e.0)) {
                for (want, got) in want.iter().zip(&got) {
                    let error = relative_error(want, got);
                    assert!(error <= 1e-2, "{}: {error:e}", model.display());
                }
            }
        }
        let gpu = Engine::open(folder.path().join("gpu.tobiuo")).expect("it is opened");
        let cpu = Engine::open(folder.path().join("cpu.tobiuo")).expect("it is opened");
        let boxes = |engine| watch(engine, &clip()).unwrap_or_else(|e| panic!("{}", e.0)).0;
        let (gpu_boxes, cpu_boxes) = (boxes(&gpu), boxes(&cpu));
        assert_eq!(gpu_boxes.len(), FRAMES);
        assert!(cpu_boxes.iter().sum::<usize>() > FRAMES, "{cpu_boxes:?}");
        for (g, c) in gpu_boxes.iter().zip(&cpu_boxes) {
            assert!(g.abs_diff(*c) <= 1, "{gpu_boxes:?} on the GPU, {cpu_boxes:?} on the CPU");
        }
        let pictures = root().join("examples/camera/assets/pictures");
        let notes = Annotations::read(&pictures.join("annotations.json")).expect("they are read");
        let stop = AtomicBool::new(false);
        let options = EvalOptions::default();
        let report = evaluate(&gpu, &pictures, notes, &options, &stop, |_, _| {}).expect("it runs");
        assert!(report.ap50.unwrap_or(0.0) >= 0.9, "AP50 {:?}", report.ap50);
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

/// The same engine without the device, by the cost model.
#[test]
fn untuned_engines_for_the_device_run_on_it() {
    let outcome = Standin::new().test("untuned_engines_for_the_device_run_on_it", || {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.tobiuo");
        let sm = options(DeviceChoice::Sm(87));
        build(&tiny_detector(), &path, &sm, &mut ()).expect("it is built");
        let engine = Engine::open(&path).expect("it is opened");
        assert_eq!(watch(&engine, &clip()).unwrap_or_else(|e| panic!("{}", e.0)).0.len(), FRAMES);
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

/// The whole path in a process of its own, kernels timed on the device.
fn timed() {
    once(DeviceChoice::Cuda(0));
}

/// The same with kernels chosen by the cost model.
fn untimed() {
    once(DeviceChoice::Sm(87));
}

fn once(device: DeviceChoice) {
    let folder = tempfile::tempdir().expect("a folder");
    match everything(folder.path(), device) {
        Ok(0) => println!("end: all is well"),
        Ok(lost) => println!("end: recovered, {lost} frames lost"),
        Err(Failure(e)) => println!("end: {e}"),
    }
    let left = std::fs::read_dir(folder.path()).expect("it is there");
    let left: Vec<_> = left.map(|f| f.expect("an entry").file_name()).collect();
    println!("left: {left:?}");
    // What is there is whole.
    for file in left {
        let engine = tobiuo_engine::EngineFile::open(folder.path().join(file));
        println!("whole: {}", engine.is_ok());
    }
}

/// How a program with one failure in it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With an error, told.
    Failed,
    /// The device was lost and had again.
    Recovered,
    /// As if nothing had been.
    Unharmed,
}

fn check(outcome: &Outcome, failure: &str) -> End {
    let report = outcome.clean_report();
    assert_eq!(report.injected.len(), 1, "{failure}: {report:#?}");
    let said = outcome.stdout.lines().find(|l| l.contains("end: ")).expect("an end");
    let half = if outcome.stdout.contains("built") { "whole: false" } else { "left: [\"" };
    assert!(!outcome.stdout.contains(half), "{failure}: half-written: {}", outcome.stdout);
    let code = failure.rsplit(':').next().expect("a code");
    if said.contains("recovered") {
        return End::Recovered;
    } else if said.contains("all is well") {
        return End::Unharmed;
    }
    let status = said.split_once("exit ").and_then(|(_, s)| s.split(':').next()).unwrap_or("");
    let wanted: &[&str] = match (code, failure.starts_with("nvrtc")) {
        (_, true) => &["1", "5", "8"],
        ("2", _) => &["8"],
        _ => &["5"],
    };
    assert!(wanted.contains(&status), "{failure}: {said}");
    assert!(said.contains(&format!("({code})")), "{failure}: {said}");
    End::Failed
}

/// How the failures of one program ended.
#[derive(Default)]
struct Ends {
    failed: usize,
    recovered: BTreeSet<String>,
    unharmed: BTreeSet<String>,
}

/// A device with little memory, for the sake of time: measuring its bandwidth moves little.
fn device() -> Standin {
    let small = Device { memory: 64 << 20, ..Device::default() };
    Standin::new().with(&Description { devices: vec![small], ..Description::default() })
}

/// Runs the program `name` once as it should be, then with those calls of each function failing
/// that `places` names out of so many.
fn fail_each(name: &str, body: fn(), mut places: impl FnMut(u64) -> BTreeSet<u64>) -> Option<Ends> {
    let clean = device().test(name, body)?;
    assert!(clean.stdout.contains("end: all is well"), "{}", clean.stdout);
    assert!(clean.stdout.contains(r#"left: ["model.tobiuo"]"#), "{}", clean.stdout);
    let functions = &clean.clean_report().functions;
    let failures: Vec<(&String, String)> = (functions.iter())
        .flat_map(|(function, &calls)| {
            let code = if function.contains("Alloc") { 2 } else { 999 };
            let named = move |n| (function, format!("{function}#{n}:{code}"));
            places(calls).into_iter().map(named).collect::<Vec<_>>()
        })
        .collect();
    println!("{} calls of {} functions", failures.len(), functions.len());
    let (next, ends) = (AtomicUsize::new(0), Mutex::new(Ends::default()));
    let wrong = Mutex::new(Vec::new());
    let one = |function: &String, failure: &String| {
        let outcome = device().fail(failure).test(name, body).expect("this is no child");
        // Threads take turns, so that the last call may not be made this time.
        if outcome.clean_report().injected.is_empty() {
            return;
        }
        let end = check(&outcome, failure);
        let mut ends = ends.lock().expect("no check panicked");
        match end {
            End::Failed => ends.failed += 1,
            End::Recovered => _ = ends.recovered.insert(function.clone()),
            End::Unharmed => _ = ends.unharmed.insert(function.clone()),
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                while let Some((function, failure)) = failures.get(next.fetch_add(1, Relaxed)) {
                    // All that go wrong are told, each with its panic's own words.
                    if catch_unwind(AssertUnwindSafe(|| one(function, failure))).is_err() {
                        wrong.lock().expect("no panic while it is held").push(failure.clone());
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic while it was held");
    assert!(wrong.is_empty(), "{} of {} go wrong: {wrong:?}", wrong.len(), failures.len());
    let ends = ends.into_inner().expect("no check panicked");
    println!(
        "{} told; recovered: {:?}; unharmed: {:?}",
        ends.failed, ends.recovered, ends.unharmed
    );
    // Errors of what gives something back, or waits before it does, have nobody to hear them;
    // where a kernel does not compile, the next candidate is taken; times are only reported.
    let harmless = [
        "Free",
        "Destroy",
        "Release",
        "Unload",
        "Unregister",
        "SetCurrent",
        "nvrtc",
        "Elapsed",
        "Synchronize",
    ];
    for function in &ends.unharmed {
        assert!(harmless.iter().any(|h| function.contains(h)), "{function} failed unnoticed");
    }
    assert!(!ends.recovered.is_empty());
    Some(ends)
}

/// Engine by the cost model, contexts, threads, pipeline: every single call.
#[test]
fn every_call_may_fail() {
    let every = |calls| (1..=calls).collect();
    let Some(ends) = fail_each("every_call_may_fail", untimed, every) else { return };
    assert!(ends.failed > 850, "{}", ends.failed);
}

/// The same with kernels that are timed. Most calls are made for each of them alike: the first,
/// the last, and some between.
#[test]
fn calls_may_fail_while_kernels_are_timed() {
    const NAME: &str = "calls_may_fail_while_kernels_are_timed";
    let mut random = Random(0x7374_616e_6469_6e21);
    let Some(ends) = fail_each(NAME, timed, |calls| {
        let mut places = BTreeSet::from([1, 2.min(calls), calls, calls.div_ceil(2)]);
        places.extend((0..2).map(|_| 1 + random.below(calls as usize) as u64));
        places
    }) else {
        return;
    };
    assert!(ends.failed > 100, "{}", ends.failed);
    for function in ["cuInit", "cuModuleLoadData", "cuMemAlloc_v2", "cuModuleGetFunction"] {
        let failure = format!("{function}#1:999");
        let outcome = device().fail(&failure).test(NAME, timed).expect("this is no child");
        assert_eq!(check(&outcome, &failure), End::Failed, "{}", outcome.stdout);
    }
}

#[test]
fn kernels_may_fault() {
    const NAME: &str = "kernels_may_fault";
    let Some(clean) = device().test(NAME, timed) else { return };
    let kernels = clean.clean_report().kernels;
    let mut hit = 0;
    for n in [1, kernels / 4, kernels / 2, kernels * 3 / 4] {
        for code in [700, 719] {
            let failure = format!("kernel#{n}:{code}");
            let outcome = device().fail(&failure).test(NAME, timed).expect("this is no child");
            // How many frames the pipeline runs before it is stopped differs.
            if outcome.clean_report().injected.is_empty() {
                continue;
            }
            hit += 1;
            let end = check(&outcome, &failure);
            assert_ne!(end, End::Unharmed, "{failure}: {}", outcome.stdout);
        }
    }
    assert!(hit >= 4, "{hit}");
}
