//! What INT8 builds are calibrated on, from the command line: what counts as a sample, what is
//! passed over and said, and what is refused before any work.

#[allow(dead_code)]
#[path = "common/encode.rs"]
mod encode;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use encode::{Message, graph, int, node, value};
use serde_json::Value;
use tempfile::TempDir;
use tobiuo_tensor::{Tensor, npy};

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/camera/assets")
}

/// The pictures of the camera example, sorted by name.
fn pictures() -> Vec<PathBuf> {
    let all = fs::read_dir(assets().join("pictures")).unwrap().map(|f| f.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|f| f.extension().unwrap() == "jpg").collect();
    all.sort();
    all
}

/// A folder to build in.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/detector.onnx");
        fs::copy(model, folder.path().join("m.onnx")).unwrap();
        Place(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    /// `build m.onnx -o e.tobiuo` for the CPU, with these words behind it.
    fn build(&self, arguments: &str) -> Output {
        let mut command = tobiuo_standin::program(env!("CARGO_BIN_EXE_tobiuo-builder"));
        command.env("CUDA_VISIBLE_DEVICES", "").current_dir(self.0.path());
        command.args(["build", "m.onnx", "-o", "e.tobiuo", "--device", "cpu"]);
        command.args(arguments.split(' ').filter(|word| !word.is_empty())).output().unwrap()
    }

    /// Builds with minimum and maximum; the report's part on INT8, and the words.
    fn calibrates(&self, arguments: &str) -> (Value, String) {
        let minmax = "--precision int8 --no-cache --json --calibrator minmax";
        let out = self.build(&format!("{minmax} {arguments}"));
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{arguments}: {words}");
        let mut report: Value = serde_json::from_slice(&out.stdout).unwrap();
        (report["int8"].take(), words)
    }

    /// The build ends with this status and these words, and leaves no engine.
    fn refuses(&self, status: i32, arguments: &str, wanted: &str) {
        let out = self.build(arguments);
        let words = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(status), "{arguments}: {words}");
        assert!(words.contains(wanted), "{arguments}: {words}");
        assert!(!words.contains("panicked"), "{arguments}: {words}");
        assert!(!self.path("e.tobiuo").exists(), "{arguments}: an engine is left");
    }
}

/// Samples counted, held back and passed over.
fn counts(int8: &Value) -> [usize; 3] {
    let number = |name: &str| int8[name].as_u64().unwrap() as usize;
    [number("pictures"), number("held_back"), int8["skipped"].as_array().unwrap().len()]
}

#[test]
fn what_is_held_back_is_of_what_can_be_read() {
    let place = Place::new();
    for i in 0..8 {
        place.write(&format!("mixed/{i}.jpg"), "junk");
    }
    for (i, picture) in pictures()[..2].iter().enumerate() {
        place.write(&format!("mixed/good{i}.jpg"), fs::read(picture).unwrap());
    }
    let (int8, words) = place.calibrates("--calibration mixed --calibration-cache c");
    assert_eq!(counts(&int8), [2, 2, 8]);
    assert!(int8["layers"].as_array().unwrap().iter().any(|l| l["int8"] == true), "{int8}");
    assert!(fs::read_to_string(place.path("c")).unwrap().lines().count() > 4);
    assert!(words.contains("8 could not be read") && words.contains("and 3 more"), "{words}");

    // More than a fifth's worth can be read: the fifth is of those.
    for (i, picture) in pictures().iter().cycle().take(12).enumerate() {
        place.write(&format!("mixed/more{i}.jpg"), fs::read(picture).unwrap());
    }
    let (int8, _) = place.calibrates("--calibration mixed");
    assert_eq!(counts(&int8), [12, 2, 8]);

    fs::remove_file(place.path("e.tobiuo")).unwrap();
    place.write("bad/0.jpg", "junk");
    place.refuses(6, "--precision int8 --calibration bad --calibration-cache d", "0.jpg");
    assert!(!place.path("d").exists(), "a cache of nothing");
}

#[test]
fn pictures_that_are_cut_short_are_no_samples() {
    let place = Place::new();
    let whole = fs::read(&pictures()[0]).unwrap();
    for (name, length) in [("a.jpg", 1000), ("b.jpg", whole.len() / 2)] {
        place.write(&format!("cut/{name}"), &whole[..length]);
    }
    place.refuses(6, "--precision int8 --calibration cut", "cut short");
    place.write("cut/c.jpg", &whole);
    // Some cameras write more behind a picture's end.
    place.write("cut/d.jpg", [&whole[..], b"and more"].concat());
    let (int8, words) = place.calibrates("--calibration cut");
    assert_eq!(counts(&int8), [2, 2, 2]);
    assert!(words.contains("a.jpg") && words.contains("b.jpg"), "{words}");
}

#[test]
fn globs_lists_and_scenes() {
    let place = Place::new();
    let folder = assets().join("pictures");
    let folder = folder.to_str().unwrap();
    let (int8, _) = place.calibrates(&format!("--calibration {folder}/*.jpg"));
    assert_eq!(counts(&int8), [8, 8, 0]);
    let (int8, _) = place.calibrates(&format!("--calibration {folder}/0003*.jpg"));
    assert_eq!(counts(&int8), [3, 3, 0]);
    // A scene has no end.
    let (int8, _) = place.calibrates("--calibration test://scene --samples 15");
    assert_eq!(counts(&int8), [12, 3, 0]);
    let (int8, _) = place.calibrates("--calibration test://scene?frames=5 --samples 15");
    assert_eq!(counts(&int8), [5, 5, 0]);

    let first = pictures()[0].display().to_string();
    place.write("good.txt", format!("# a comment\n{first}\n\n{first} 3\nnowhere.jpg\n"));
    let (int8, _) = place.calibrates("--calibration good.txt");
    assert_eq!(counts(&int8), [2, 2, 1]);
    fs::remove_file(place.path("e.tobiuo")).unwrap();
    let clip = assets().join("clip.avi").display().to_string();
    let on = |list: &str| format!("--precision int8 --calibration {list}");
    for bad in [folder, &clip, &format!("{folder}/*.jpg")] {
        place.write("bad.txt", format!("{first}\n\n{bad}\n"));
        place.refuses(6, &on("bad.txt"), "bad.txt, line 3:");
    }
    place.refuses(6, &on("nothing*.jpg"), "no .jpg, .jpeg or .png matches");
    place.write("latin.txt", b"caf\xe9.jpg\n");
    place.refuses(6, &on("latin.txt"), "UTF-8");
    place.refuses(6, &on("nowhere.txt"), "nowhere.txt");
    place.write("pictures", format!("{first}\n"));
    place.refuses(6, &on("pictures"), ".txt, .lst, .list, .csv");
}

#[test]
fn clips_are_calibrated_on_without_their_bad_frames() {
    let place = Place::new();
    let clip = fs::read(assets().join("clip.avi")).unwrap();
    place.write("whole.avi", &clip);
    let (int8, _) = place.calibrates("--calibration whole.avi");
    let [counted, held, _] = counts(&int8);
    let starts = clip.windows(8).enumerate().filter(|(_, w)| w.starts_with(b"00dc"));
    let pieces: Vec<usize> = starts
        .filter(|(at, _)| clip[at + 8..].starts_with(b"\xff\xd8"))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(pieces.len(), counted + held);

    let mut bad = clip.clone();
    bad[pieces[3] + 8..][..64].fill(0);
    place.write("bad.avi", bad);
    let (int8, words) = place.calibrates("--calibration bad.avi");
    let [counted, held, skipped] = counts(&int8);
    assert_eq!((counted + held, skipped), (pieces.len() - 1, 1));
    assert!(words.contains("1 could not be read") && words.contains("frame 3"), "{words}");

    place.write("cut.avi", &clip[..pieces[5] + 20]);
    let (int8, _) = place.calibrates("--calibration cut.avi");
    assert_eq!(counts(&int8)[0], 5);
}

#[test]
fn arrays_that_are_no_samples() {
    let place = Place::new();
    let on = |file: &str| format!("--precision int8 --calibration {file}");
    place.refuses(6, &on("nowhere.npz"), "nowhere.npz");
    place.refuses(6, &on("nowhere.npy"), "nowhere.npy");
    // A network whose input is one number, and an array that is one.
    let relu = vec![node("Relu", &["k"], &["y"], vec![])];
    let net = graph(relu, vec![], vec![value("k", &[])], vec![value("y", &[])]);
    place.write("m.onnx", encode::model(17, net));
    npy::write(&place.path("k.npy"), &Tensor::f32([], vec![1.0])).unwrap();
    place.refuses(4, &on("k.npy"), "a single number");

    let shape = Message::new().message(1, Message::new().int(1, 4));
    let tensor = Message::new().int(1, 7).message(2, shape);
    let input = Message::new().str(1, "i").message(2, Message::new().message(1, tensor));
    let cast = vec![node("Cast", &["i"], &["y"], vec![int("to", 1)])];
    place.write(
        "m.onnx",
        encode::model(17, graph(cast, vec![], vec![input], vec![value("y", &[4])])),
    );
    place.refuses(2, &on("k.npy"), "input 'i' is i64 [4]; only networks whose inputs are all f32");
}

#[test]
fn nothing_is_written_over_what_is_read() {
    let place = Place::new();
    let model = fs::read(place.path("m.onnx")).unwrap();
    place.write("a.json", "{}");
    place.write("x.txt", "x.jpg");
    fs::create_dir(place.path("sub")).unwrap();
    for (arguments, wanted) in [
        ("--accuracy-svg m.onnx", "--accuracy-svg m.onnx: this is the model"),
        ("--accuracy-svg sub/../m.onnx", "this is the model"),
        ("--calibration-cache m.onnx", "--calibration-cache m.onnx: this is the model"),
        ("--calibration-cache e.tobiuo", "this is the engine"),
        ("--accuracy-svg ./sub/../e.tobiuo", "this is the engine"),
        ("--calibration-cache c --accuracy-svg c", "this is --calibration-cache"),
        ("--calibration-cache x.txt", "this is --calibration"),
        ("--annotations a.json --accuracy-svg a.json", "this is --annotations"),
        ("--record m.onnx", "this is the model"),
        ("--record c --calibration-cache c", "this is --record"),
        ("--tactic-cache t --calibration-cache t", "this is the tactic cache"),
        ("--record nowhere/r", "nowhere: the directory of --record does not exist"),
        ("--accuracy-svg nowhere/a.svg", "the directory of --accuracy-svg does not exist"),
        ("--calibration-cache nowhere/c", "the directory of --calibration-cache does not exist"),
        ("--accuracy-svg sub", "sub: this is a directory"),
    ] {
        let on = format!("--precision int8 --calibration x.txt --accuracy-drop 0.1 {arguments}");
        place.refuses(2, &on, wanted);
    }
    assert!(fs::read(place.path("m.onnx")).unwrap() == model);
    // A dump is a folder.
    fs::remove_file(place.path("m.onnx")).unwrap();
    place.write("m.onnx/model.json", "{}");
    for option in ["--accuracy-svg", "--calibration-cache", "--record"] {
        place.refuses(2, &format!("{option} m.onnx/model.json"), "a part of a dump");
    }
    assert!(fs::read(place.path("m.onnx/model.json")).unwrap() == b"{}");
}

#[test]
fn options_without_effect_are_refused() {
    let place = Place::new();
    let folder = assets().join("pictures").display().to_string();
    let annotations = format!("{folder}/annotations.json");
    for option in [
        "--calibration x",
        "--calibration-cache x",
        "--calibrator mse",
        "--accuracy-drop 0.1",
        "--annotations x",
        "--images x",
        "--accuracy-svg x",
    ] {
        let name = option.split(' ').next().unwrap();
        place.refuses(2, option, &format!("{name} is for --precision int8"));
    }
    let int8 = format!("--precision int8 --calibration {folder}");
    let with = |more: &str| format!("{int8} {more}");
    place.refuses(2, &with(&format!("--annotations {annotations}")), "--accuracy-drop");
    place.refuses(2, &with("--accuracy-svg x.svg"), "--accuracy-drop");
    place.refuses(2, &with("--accuracy-drop 0.5 --images x"), "--annotations, which is missing");
    let both = format!("--accuracy-drop 0.5 --annotations {folder}");
    place.refuses(2, &with(&both), "this is a folder");
    place.write("latin.json", b"{\"caf\xe9\": 1}");
    place.refuses(4, &with("--accuracy-drop 0.5 --annotations latin.json"), "latin.json");

    place.calibrates(&format!("--calibration {folder} --calibration-cache c"));
    place.calibrates("--calibration-cache c");
    fs::remove_file(place.path("e.tobiuo")).unwrap();
    let other = "--precision int8 --calibration-cache c --calibrator mse";
    place.refuses(2, other, "--calibration-cache c were chosen by minmax");
}

/// x through integers to a product with a constant, and back.
fn quantised(product: &str, weights: &[u8], zero: u8) -> Vec<u8> {
    let tensor = |name: &str, dims: &[i64], dtype, bytes: &[u8]| {
        let m = dims.iter().fold(Message::new(), |m, &d| m.int(1, d));
        m.int(2, dtype).bytes(9, bytes).str(8, name)
    };
    let constants = vec![
        tensor("s", &[], 1, &0.05f32.to_le_bytes()),
        tensor("z", &[], 2, &[128]),
        tensor("w", &[4, 4, 1, 1], 2, weights),
        tensor("wz", &[], 2, &[zero]),
    ];
    let nodes = vec![
        node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![]),
        node("DequantizeLinear", &["q", "s", "z"], &["d"], vec![]),
        node("DequantizeLinear", &["w", "s", "wz"], &["v"], vec![]),
        node(product, &["d", "v"], &["y"], vec![]).str(3, "heavy"),
    ];
    let (x, y) = (value("x", &[1, 4, 6, 6]), value("y", &[1, 4, 6, 6]));
    encode::model(17, graph(nodes, constants, vec![x], vec![y]))
}

#[test]
fn what_a_quantised_model_computes_in_is_told() {
    let place = Place::new();
    let weights: Vec<u8> = (0..16).map(|i| 60 + 9 * i).collect();
    for (product, zero, on_integers, wanted) in [
        ("Conv", 128, true, "INT8: 1 of 1 heavy layers"),
        ("Conv", 0, false, "in floats: heavy (Conv): its constants have no INT8 form"),
        ("ConvTranspose", 128, false, "in floats: heavy (ConvTranspose): the operator has no"),
    ] {
        place.write("m.onnx", quantised(product, &weights, zero));
        let out = place.build("--no-cache --json");
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(words.contains(wanted) && !words.contains("calibration"), "{words}");
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["int8"]["layers"][0]["int8"], on_integers, "{report}");
        let engine = tobiuo_engine::EngineFile::open(place.path("e.tobiuo")).unwrap();
        let notes = engine.manifest().provenance.notes.join("\n");
        assert_eq!(notes.contains("is in floats"), !on_integers, "{notes}");
    }
    let calibrated = "--calibration x --precision int8";
    fs::remove_file(place.path("e.tobiuo")).unwrap();
    place.refuses(2, calibrated, "--calibration: this model is quantised already");
    place.refuses(2, "--calibrator mse", "--calibrator: this model is quantised already");
}

#[test]
fn a_gate_that_does_not_hold_has_its_table_in_the_document() {
    let place = Place::new();
    let folder = assets().join("pictures").display().to_string();
    let on = format!("--precision int8 --calibrator minmax --calibration {folder}");
    let out = place.build(&format!("{on} --accuracy-drop 0 --json"));
    assert_eq!(out.status.code(), Some(7));
    assert!(!place.path("e.tobiuo").exists());
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let gate = &document["gate"];
    let steps = gate["steps"].as_array().unwrap();
    assert_eq!((&document["status"], &gate["holds"]), (&7.into(), &false.into()), "{document}");
    let with_int8 = |s: &Value| s["int8_layers"] == 0 || s["drop"].as_f64() > Some(0.0);
    assert!(steps.len() > 1 && steps.iter().all(with_int8), "{gate}");
}

/// Numbers from 1 on, where the network's begin with 0, would be wrong in silence.
#[test]
fn classes_that_the_network_does_not_have_are_refused() {
    let place = Place::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/classifier.onnx");
    fs::copy(model, place.path("m.onnx")).unwrap();
    let pictures = pictures();
    place.write("list.txt", format!("{} 9999\n", pictures[0].display()));
    let folder = assets().join("pictures").display().to_string();
    let on = format!(
        "--task classify --precision int8 --calibrator minmax --calibration {folder} \
         --accuracy-drop 0.1 --annotations list.txt"
    );
    place.refuses(2, &on, "class 9999, but the network has");
}

#[test]
fn a_gate_holds_where_no_layer_is_heavy() {
    let place = Place::new();
    let relu = vec![node("Relu", &["x"], &["y"], vec![])];
    let net = graph(relu, vec![], vec![value("x", &[1, 4])], vec![value("y", &[1, 4])]);
    place.write("m.onnx", encode::model(17, net));
    let values = (0..40).map(|i| i as f32 / 40.0).collect();
    npy::write(&place.path("x.npy"), &Tensor::f32([10, 4], values)).unwrap();
    let (int8, _) = place.calibrates("--calibration x.npy --accuracy-drop 0.1");
    assert_eq!((&int8["gate"]["holds"], &int8["layers"]), (&true.into(), &serde_json::json!([])));
}
