//! INT8 from the library's front door: the bundled detector, its pictures, and bad input.

use std::path::{Path, PathBuf};

use tobiuo_builder::quantize::calibrators::Calibrator;
use tobiuo_builder::{BuildError, BuildOptions, BuildReport, Int8Options, build};
use tobiuo_engine::{EngineFile, Plan, Precision, Program};
use tobiuo_tensor::{Tensor, npy};

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/camera/assets")
}

fn options(int8: Int8Options) -> BuildOptions {
    BuildOptions { precision: Some(Precision::Int8), int8, ..Default::default() }
}

fn make(folder: &Path, int8: Int8Options) -> Result<BuildReport, BuildError> {
    let model = assets().join("detector.onnx");
    build(&model, &folder.join("detector.tobiuo"), &options(int8), &mut ())
}

fn plan(folder: &Path) -> Plan {
    let engine = EngineFile::open(folder.join("detector.tobiuo")).unwrap();
    assert_eq!(engine.manifest().precision, Precision::Int8);
    engine.manifest().plans[0].clone()
}

fn pictures() -> Int8Options {
    Int8Options {
        calibration: Some(assets().join("pictures")),
        calibrator: Some(Calibrator::MinMax),
        ..Default::default()
    }
}

#[test]
fn calibrated_once_and_built_again_without_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("calibration.txt");
    let with_cache = Int8Options { cache: Some(cache.clone()), ..pictures() };
    let report = make(folder.path(), with_cache).unwrap();
    let int8 = report.int8.unwrap();
    // So few that the same ones serve for both.
    assert_eq!((int8.pictures, int8.held_back, int8.skipped.len()), (8, 8, 0));
    let layers = int8.layers.iter().filter(|l| l.int8).count();
    assert!(layers * 10 > int8.layers.len() * 8, "{} of {}", layers, int8.layers.len());
    assert!(int8.tried[0].error < 0.2, "{:?}", int8.tried);
    let first = plan(folder.path());
    let Program::Cpu(steps) = &first.program else { panic!() };
    let named = |name: &str| steps.iter().filter(|s| s.op.name() == name).count();
    assert!(named("QuantConv") >= layers, "{} of {layers}", named("QuantConv"));
    assert!(named("Conv") < 12, "{}", named("Conv"));

    let cached = Int8Options { cache: Some(cache.clone()), ..Default::default() };
    let report = make(folder.path(), cached.clone()).unwrap();
    assert!(report.int8.unwrap().from_cache);
    assert_eq!(plan(folder.path()), first);

    let text = std::fs::read_to_string(&cache).unwrap();
    for of in ["00", "aéééééééééé"] {
        std::fs::write(&cache, text.replace("\nmodel ", &format!("\nmodel {of}"))).unwrap();
        let e = make(folder.path(), cached.clone()).unwrap_err();
        assert!(e.exit_status() == 2 && e.to_string().contains("another model"), "{e}");
    }
    std::fs::write(&cache, b"tobiuo \xff").unwrap();
    let e = make(folder.path(), cached.clone()).unwrap_err();
    assert!(e.exit_status() == 4 && e.to_string().contains("not text"), "{e}");
    let last = text.trim_end().rfind('\n').unwrap();
    std::fs::write(&cache, &text[..=last]).unwrap();
    let e = make(folder.path(), cached.clone()).unwrap_err();
    assert!(e.exit_status() == 4 && e.to_string().contains("cut short"), "{e}");
    std::fs::write(&cache, &text[..30]).unwrap();
    let e = make(folder.path(), cached).unwrap_err();
    assert!(e.exit_status() == 4 && e.to_string().contains("calibration.txt"), "{e}");
}

/// A cache as chainer-trt writes it names layers, where dumps number a layer's results.
#[test]
fn caches_of_chainer_trt_serve_the_same_network_only() {
    let folder = tempfile::tempdir().unwrap();
    let dump = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chainer/net_residual");
    let samples = folder.path().join("x.npy");
    let wave = |i: usize| (i as f32 * 0.37).sin();
    let values = (0..10 * 20 * 20 * 3).map(wave).collect();
    npy::write(&samples, &Tensor::f32([10, 20, 20, 3], values)).unwrap();
    let cache = folder.path().join("own.txt");
    let engine = folder.path().join("e.tobiuo");
    let make = |int8: Int8Options| build(&dump, &engine, &options(int8), &mut ());
    let calibrated = Int8Options {
        calibration: Some(samples),
        cache: Some(cache.clone()),
        calibrator: Some(Calibrator::MinMax),
        ..Default::default()
    };
    let layers = |report: BuildReport| {
        let int8 = report.int8.unwrap();
        (int8.layers.iter().filter(|l| l.int8).count(), int8.layers.len(), int8.notes)
    };
    let (own, all, _) = layers(make(calibrated).unwrap());
    assert!(own >= 7 && all == 9, "{own} of {all}");

    let mut lines = vec!["1".to_string()];
    for line in std::fs::read_to_string(&cache).unwrap().lines().skip(5) {
        let mut words = line.splitn(3, ' ');
        let bits = u32::from_str_radix(words.next().unwrap(), 16).unwrap();
        let scale = (f32::from_bits(bits) / 127.0).to_bits();
        let name = words.nth(1).unwrap();
        lines.push(format!("{}: {scale:08x}", name.strip_suffix("_0").unwrap_or(name)));
    }
    let theirs = folder.path().join("CalibrationTable");
    std::fs::write(&theirs, lines.join("\n")).unwrap();
    let by = |path: &Path| Int8Options { cache: Some(path.into()), ..Default::default() };
    let (with_theirs, _, notes) = layers(make(by(&theirs)).unwrap());
    assert_eq!(with_theirs, own, "{notes:?}");

    std::fs::remove_file(&engine).unwrap();
    std::fs::write(&theirs, "1\nfoo: 3f800000\nbar: 40000000\n").unwrap();
    let e = make(by(&theirs)).unwrap_err();
    let said = e.to_string();
    assert!(e.exit_status() == 2 && said.contains("another network"), "{said}");
    assert!(said.contains("'bar', 'foo'") && !engine.exists(), "{said}");
}

#[test]
fn what_cannot_be_calibrated_on_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = |int8: Int8Options, status: u8, wanted: &str| {
        let e = make(folder.path(), int8).unwrap_err();
        assert!(e.exit_status() == status && e.to_string().contains(wanted), "{e}");
        assert!(!folder.path().join("detector.tobiuo").exists(), "no engine is left");
    };
    let on = |path: &Path| Int8Options { calibration: Some(path.into()), ..Default::default() };
    said(Int8Options::default(), 2, "--calibration names");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    said(on(&empty), 6, "no pictures");
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("a.jpg"), b"not a picture").unwrap();
    said(on(&broken), 6, "a.jpg");

    let array = folder.path().join("x.npy");
    let mut x = vec![0.25f32; 3 * 320 * 416];
    x[7] = f32::NAN;
    npy::write(&array, &Tensor::f32([1, 3, 320, 416], x.clone())).unwrap();
    said(on(&array), 6, "input 'images' gives 1 values that are NaN");
    npy::write(&array, &Tensor::f32([3, 320, 416], x)).unwrap();
    said(on(&array), 4, "samples of");
    let drop = |int8: Int8Options| Int8Options { accuracy_drop: Some(0.01), ..int8 };
    let annotations = Some(folder.path().join("x.npy"));
    said(Int8Options { annotations, ..drop(pictures()) }, 2, "COCO");

    let mut fp32 = options(pictures());
    fp32.precision = Some(Precision::Fp32);
    let model = assets().join("detector.onnx");
    let e = build(&model, &folder.path().join("x.tobiuo"), &fp32, &mut ()).unwrap_err();
    assert!(e.to_string().contains("for --precision int8"), "{e}");
}

#[test]
fn unreadable_pictures_are_named_and_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let some = folder.path().join("some");
    std::fs::create_dir(&some).unwrap();
    std::fs::write(some.join("000.jpg"), b"not a picture").unwrap();
    for name in ["000042.jpg", "000099.jpg"] {
        std::fs::copy(assets().join("pictures").join(name), some.join(name)).unwrap();
    }
    let report =
        make(folder.path(), Int8Options { calibration: Some(some), ..pictures() }).unwrap();
    let int8 = report.int8.unwrap();
    assert_eq!((int8.pictures, int8.skipped.len()), (2, 1));
    assert!(int8.skipped[0].contains("000.jpg"), "{:?}", int8.skipped);
}

#[test]
fn the_gate_holds_average_precision() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("trade.svg");
    let int8 = Int8Options {
        accuracy_drop: Some(0.5),
        annotations: Some(assets().join("pictures/annotations.json")),
        svg: Some(svg.clone()),
        ..pictures()
    };
    let gate = make(folder.path(), int8).unwrap().int8.unwrap().gate.unwrap();
    assert_eq!((gate.metric.as_str(), gate.pictures, gate.steps.len()), ("AP50:95", 8, 1));
    assert!(gate.holds && gate.baseline > 0.5, "{gate:?}");
    assert!(std::fs::read_to_string(svg).unwrap().contains("<svg"));
    let engine = EngineFile::open(folder.path().join("detector.tobiuo")).unwrap();
    let notes = engine.manifest().provenance.notes.join("\n");
    assert!(notes.contains("AP50:95") && notes.contains("is in floats"), "{notes}");
}

/// Annotations on which the network in floats reaches nothing would let any engine pass.
#[test]
fn a_gate_that_would_let_anything_pass_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(assets().join("pictures/annotations.json")).unwrap();
    let mut coco: serde_json::Value = serde_json::from_str(&text).unwrap();
    for object in coco["annotations"].as_array_mut().unwrap() {
        object["bbox"] = serde_json::json!([0, 0, 1, 1]);
        object["area"] = 1.into();
    }
    let annotations = folder.path().join("elsewhere.json");
    std::fs::write(&annotations, coco.to_string()).unwrap();
    let int8 = Int8Options {
        accuracy_drop: Some(0.05),
        annotations: Some(annotations),
        images: Some(assets().join("pictures")),
        ..pictures()
    };
    let e = make(folder.path(), int8).unwrap_err();
    assert!(e.exit_status() == 2 && e.to_string().contains("any engine would pass"), "{e}");
    assert!(!folder.path().join("detector.tobiuo").exists());
}
