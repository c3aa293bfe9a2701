//! The program `tobiuo`, as users run it.

#![cfg(feature = "cpu")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{CELL, SIDE, clip, clip_cell, colour_engine, frame, output, tobiuo};
use serde_json::Value;
use tempfile::TempDir;
use tobiuo::{Tensor, TensorView, npy};

struct Bench {
    folder: TempDir,
    engine: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let engine = colour_engine(folder.path());
        Bench { folder, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `tobiuo COMMAND ENGINE ARGS…`, run in the folder.
    fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut c = tobiuo();
        c.current_dir(self.folder.path()).arg(command).arg(&self.engine).args(args);
        c
    }

    #[track_caller]
    fn ok(&self, command: &str, args: &[&str]) -> (String, String) {
        let (out, stdout, stderr) = output(&mut self.command(command, args));
        assert_eq!(out.status.code(), Some(0), "{command} {args:?}: {stderr}");
        (stdout, stderr)
    }

    #[track_caller]
    fn fails(&self, command: &str, args: &[&str], status: i32, says: &[&str]) {
        fails(&mut self.command(command, args), status, says);
    }
}

#[track_caller]
fn fails(command: &mut Command, status: i32, says: &[&str]) {
    let (out, _, stderr) = output(command);
    assert_eq!(out.status.code(), Some(status), "{command:?}: {stderr}");
    for part in says {
        assert!(stderr.contains(part), "{command:?}: '{part}' is not in: {stderr}");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn help_and_version() {
    for args in [&["help"][..], &["--help"], &["help", "run"], &["run", "--help"]] {
        let (out, stdout, _) = output(tobiuo().args(args));
        assert!(out.status.success() && stdout.contains("tobiuo run ENGINE"), "{args:?}");
    }
    let (_, stdout, _) = output(tobiuo().arg("--version"));
    assert_eq!(stdout, format!("tobiuo {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_command_lines() {
    let b = Bench::new();
    fails(&mut tobiuo(), 2, &["no command", "tobiuo run ENGINE"]);
    fails(tobiuo().arg("walk"), 2, &["'walk'", "bench"]);
    fails(tobiuo().arg("run"), 2, &["no engine file"]);
    fails(tobiuo().args(["cameras", "x"]), 2, &["one too many"]);
    b.fails("run", &["--sparkle"], 2, &["--sparkle"]);
    b.fails("run", &["-x"], 2, &["-x"]);
    b.fails("bench", &["--frames", "3"], 2, &["bench", "--frames"]);
    b.fails("bench", &["second"], 2, &["'second'"]);
    b.fails("run", &["--threshold", "1.5"], 2, &["--threshold 1.5", "0 to 1"]);
    b.fails("run", &["--frames", "0"], 2, &["--frames 0"]);
    b.fails("run", &["--frames"], 2, &["--frames"]);
    b.fails("bench", &["--batch", "9"], 2, &["batch of 9", "--batch 9"]);
}

#[test]
fn engines_that_are_none() {
    let b = Bench::new();
    let good = std::fs::read(&b.engine).unwrap();
    fails(tobiuo().args(["inspect", "not/there.tobiuo"]), 2, &["not/there.tobiuo"]);
    fails(tobiuo().arg("inspect").arg(b.folder.path()), 4, &["directory"]);
    let mut flipped = good.clone();
    let at = good.len() - 70_000;
    flipped[at.min(good.len() - 1)] ^= 1;
    for (name, bytes) in [
        ("empty", &[][..]),
        ("text", b"hello"),
        ("cut", &good[..good.len() / 2]),
        ("flipped", &flipped),
    ] {
        let path = b.path(name);
        std::fs::write(&path, bytes).unwrap();
        for command in ["inspect", "bench", "run"] {
            fails(tobiuo().arg(command).arg(&path), 4, &[name]);
        }
    }
}

#[test]
fn an_engine_for_another_device() {
    let b = Bench::new();
    let (mut manifest, weights) = common::manifest_and_weights();
    manifest.device = tobiuo::manifest::DeviceKey::Cpu { arch: "vax".into() };
    let path = b.path("vax.tobiuo");
    tobiuo_engine::write_engine(&path, &manifest, &weights).unwrap();
    fails(tobiuo().arg("bench").arg(&path), 3, &["vax", "tobiuo-builder build colours.onnx"]);
}

#[test]
fn run_writes_a_line_per_frame_and_sums_up() {
    let b = Bench::new();
    clip(b.folder.path(), 12);
    let (stdout, stderr) = b.ok("run", &["clip.avi"]);
    assert_eq!(stdout.lines().count(), 12);
    let (class, column, row) = clip_cell(4);
    let label = ["red", "green \"leaf\"", "blue"][class];
    let line = stdout.lines().nth(4).unwrap();
    assert!(line.starts_with("frame 4 ") && line.contains(&format!("{label} ")), "{line}");
    assert!(line.contains(&format!("({}, {}, ", column * CELL, row * CELL)), "{line}");
    for part in ["READY", "network", "p99", "12 in, 12 processed, 0 dropped"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let (stdout, stderr) = b.ok("run", &["clip.avi", "--quiet"]);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""));
}

#[test]
fn run_json_is_one_line_per_frame_and_a_summary() {
    let b = Bench::new();
    clip(b.folder.path(), 10);
    let (stdout, _) = b.ok("run", &["file://clip.avi", "--json", "--loop", "--frames", "25"]);
    let lines: Vec<Value> = stdout.lines().map(json).collect();
    assert_eq!(lines.len(), 26);
    for (n, line) in lines[..25].iter().enumerate() {
        let (class, column, row) = clip_cell(n % 10);
        assert_eq!(line["frame"], n);
        let found = &line["detections"][0];
        assert_eq!(found["class"], class);
        let near = |i: usize, v: usize| (found["box"][i].as_f64().unwrap() - v as f64).abs() < 0.1;
        assert!(near(0, column * CELL) && near(1, row * CELL), "{line}");
        assert!(near(2, (column + 1) * CELL) && near(3, (row + 1) * CELL), "{line}");
    }
    let summary = &lines[25]["summary"];
    assert_eq!(summary["frames_in"], 25);
    assert_eq!(summary["processed"], 25);
    assert_eq!(summary["dropped"], 0);
    for stage in ["capture", "preprocess", "network", "postprocess", "total"] {
        assert!(summary["latency_us"][stage]["p99"].is_f64(), "{stage}: {summary}");
    }
}

#[test]
fn run_fills_every_kind_of_output() {
    let b = Bench::new();
    clip(b.folder.path(), 5);
    let outputs = ["out.avi", "pictures/p_%03i.jpg", "%i.png", "lines.jsonl", "kitti:k"];
    let args: Vec<&str> = ["clip.avi"].into_iter().chain(outputs).collect();
    let (_, stderr) = b.ok("run", &args);
    for made in ["out.avi", "pictures/p_004.jpg", "4.png", "lines.jsonl", "k/000004.txt"] {
        assert!(b.path(made).metadata().unwrap().len() > 0, "{made}");
    }
    assert!(stderr.contains("wrote out.avi"), "{stderr}");
    let (stdout, _) = b.ok("run", &["out.avi", "-"]);
    assert_eq!(stdout.lines().map(json).count(), 5, "the video can be read again");
}

#[test]
fn inputs_and_outputs_that_fail() {
    let b = Bench::new();
    let avi = std::fs::read(clip(b.folder.path(), 5)).unwrap();
    std::fs::write(b.path("cut.avi"), &avi[..avi.len() / 2]).unwrap();
    std::fs::write(b.path("noise.jpg"), [7; 400]).unwrap();
    std::fs::write(b.path("empty.avi"), []).unwrap();
    b.fails("run", &["missing.avi"], 6, &["missing.avi"]);
    b.fails("run", &["/dev/video77"], 6, &["/dev/video77"]);
    b.fails("run", &["noise.jpg"], 6, &["noise.jpg"]);
    b.fails("run", &["empty.avi"], 6, &["empty.avi"]);
    b.fails("run", &["warp://x"], 2, &["warp"]);
    b.fails("run", &["clip.avi", "out.mp4"], 2, &["out.mp4", "out_%i.jpg"]);
    b.fails("run", &["clip.avi", "one.jpg"], 2, &["one.jpg", "%i"]);
    b.fails("run", &["clip.avi", "/proc/nothing/out.avi"], 1, &["/proc/nothing"]);
    // Half a video: its frames, then its error or its end, but no panic and no hang.
    let (out, _, stderr) = output(&mut b.command("run", &["cut.avi"]));
    assert!(matches!(out.status.code(), Some(0 | 6)), "{stderr}");
}

#[test]
fn a_reader_that_leaves_ends_the_run_quietly() {
    let b = Bench::new();
    clip(b.folder.path(), 5);
    let mut child = b
        .command("run", &["clip.avi", "--loop", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("pipe") && !stderr.contains("panicked"), "{stderr}");
}

#[test]
fn signals_stop_cleanly() {
    for signal in ["-INT", "-TERM"] {
        let b = Bench::new();
        clip(b.folder.path(), 5);
        let mut child = b
            .command("run", &["clip.avi", "out.avi", "--loop", "--realtime"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let status = child.wait().unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(status.code(), Some(0), "{signal}: {stderr}");
        assert!(stderr.contains("processed"), "{signal}: the summary is printed: {stderr}");
        let (stdout, _) = b.ok("run", &["out.avi", "-"]);
        assert!(stdout.lines().count() >= 1, "{signal}: the video is whole");
    }
}

fn planar(rgb: &[u8]) -> Tensor {
    let n = SIDE * SIDE;
    let data = (0..3 * n).map(|i| f32::from(rgb[i % n * 3 + i / n]) / 255.0).collect();
    Tensor::f32([1, 3, SIDE, SIDE], data)
}

#[test]
fn infer_runs_tensors() {
    let b = Bench::new();
    npy::write(&b.path("x.npy"), &planar(&frame(SIDE, SIDE, &[(2, 3, 5)]))).unwrap();
    for input in ["x.npy", "images=x.npy"] {
        let args = ["--input", input, "--output-dir", "out/deep", "--json"];
        let (stdout, _) = b.ok("infer", &args);
        assert_eq!(json(&stdout)["outputs"][0]["shape"], serde_json::json!([1, 7, 64]));
        let y = npy::read(&b.path("out/deep/output0.npy")).unwrap();
        let TensorView { data, .. } = y.view();
        assert_eq!(data.len(), 7 * 64);
        let blue = y.as_f32().unwrap()[6 * 64 + 5 * 8 + 3];
        assert!((blue - 1.0).abs() < 1e-4, "{blue}");
        std::fs::remove_dir_all(b.path("out")).unwrap();
    }
}

#[test]
fn infer_says_what_is_wrong_with_inputs() {
    let b = Bench::new();
    npy::write(&b.path("x.npy"), &planar(&frame(SIDE, SIDE, &[]))).unwrap();
    npy::write(&b.path("small.npy"), &Tensor::f32([1, 3, 8, 8], vec![0.0; 192])).unwrap();
    npy::write(&b.path("ints.npy"), &Tensor::i64([1, 3, 64, 64], vec![0; 12288])).unwrap();
    std::fs::write(b.path("no.npy"), "no").unwrap();
    let out = ["--output-dir", "out"];
    let with = |inputs: &[&'static str]| [inputs, &out].concat();
    b.fails("infer", &["--input", "x.npy"], 2, &["--output-dir"]);
    b.fails("infer", &with(&[]), 2, &["'images'", "missing"]);
    b.fails("infer", &with(&["--input", "pixels=x.npy"]), 2, &["'pixels'", "images"]);
    b.fails("infer", &with(&["--input", "gone.npy"]), 2, &["gone.npy"]);
    b.fails("infer", &with(&["--input", "images=gone.npy"]), 2, &["gone.npy"]);
    b.fails("infer", &with(&["--input", "no.npy"]), 4, &["no.npy", "NUMPY"]);
    b.fails("infer", &with(&["--input", "x.npy", "--input", "x.npy"]), 2, &["twice"]);
    let shapes = ["small.npy", "[1, 3, 64, 64]", "[1, 3, 8, 8]"];
    b.fails("infer", &with(&["--input", "small.npy"]), 2, &shapes);
    b.fails("infer", &with(&["--input", "ints.npy"]), 2, &["ints.npy", "f32", "i64"]);
    assert!(!b.path("out").exists(), "nothing is left behind");
}

#[test]
fn bench_reports_what_it_promises() {
    let b = Bench::new();
    let (stdout, _) = b.ok("bench", &["--iterations", "20", "--json", "--layers"]);
    let d = json(&stdout);
    assert_eq!((d["iterations"].as_u64(), d["batch"].as_u64()), (Some(20), Some(1)));
    assert_eq!(d["precision"], "fp32");
    assert!(d["device"].as_str().unwrap().starts_with("cpu"));
    let l = |k: &str| d["latency_us"][k].as_f64().unwrap();
    let order = ["min", "p50", "p90", "p95", "p99", "max"].map(l);
    assert!(order.is_sorted() && l("mean") >= l("min") && l("mean") <= l("max"), "{d}");
    assert!(d["setup_ms"].as_f64().unwrap() > 0.0);
    assert!(d["peak_rss_mib"].as_f64().unwrap() > 1.0);
    assert_eq!(d["layers"].as_array().unwrap().len(), 3);
    let (stdout, _) = b.ok("bench", &["-n", "3", "--layers"]);
    assert!(stdout.contains("latency") && stdout.contains("measure"), "{stdout}");
}

#[test]
fn inspect_tells_what_the_engine_is() {
    let b = Bench::new();
    let (stdout, _) = b.ok("inspect", &["--layers"]);
    for part in ["colours.onnx", "images f32 [1, 3, 64, 64]", "3 classes", "Conv", "letterbox"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let (stdout, _) = b.ok("inspect", &["--json"]);
    let d = json(&stdout);
    assert_eq!(d["manifest"]["inputs"][0]["name"], "images");
    assert_eq!(d["manifest"]["plans"][0]["layers"], 3);
    assert_eq!(d["hash"].as_str().unwrap().len(), 64);
    let (stdout, _) = b.ok("inspect", &["--json", "--layers"]);
    let steps = &json(&stdout)["manifest"]["plans"][0]["program"]["cpu"];
    assert_eq!(steps.as_array().unwrap().len(), 3);
}

/// Pictures of coloured cells and what is on them, one box of which is wrong.
fn annotated(folder: &Path) {
    std::fs::create_dir(folder.join("images")).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for n in 0..6usize {
        let cells = [clip_cell(n), ((n + 1) % 3, 7, 7)];
        let path = folder.join(format!("images/{n}.png"));
        let pixels = frame(SIDE, SIDE, &cells);
        image::save_buffer(&path, &pixels, 64, 64, image::ColorType::Rgb8).unwrap();
        images.push(serde_json::json!({"id": n, "file_name": format!("{n}.png"),
            "width": 64, "height": 64}));
        for (i, (class, column, row)) in cells.into_iter().enumerate() {
            // The blue cell of picture 0 is somewhere else in truth.
            let shift = if n == 0 && class == 1 { 3 } else { 0 };
            let category = [30, 10, 20][class];
            annotations.push(serde_json::json!({
                "id": n * 2 + i, "image_id": n, "category_id": category,
                "bbox": [(column * CELL).saturating_sub(shift * CELL), row * CELL, CELL, CELL],
            }));
        }
    }
    let document = serde_json::json!({"images": images, "annotations": annotations,
        "categories": [{"id": 10, "name": "green \"leaf\""}, {"id": 20, "name": "blue"},
            {"id": 30, "name": "red"}]});
    std::fs::write(folder.join("truth.json"), document.to_string()).unwrap();
}

#[test]
fn eval_computes_average_precision() {
    let b = Bench::new();
    annotated(b.folder.path());
    let args = ["--images", "images", "--annotations", "truth.json"];
    let (stdout, _) = b.ok("eval", &[&args[..], &["--json"]].concat());
    let d = json(&stdout);
    assert_eq!(d["pictures"], 6);
    assert_eq!(d["classes"][0]["label"], "red");
    let ap = |i: usize| d["classes"][i]["ap50"].as_f64().unwrap();
    assert!(ap(0) > 0.999 && ap(2) > 0.999, "{d}");
    // Of four green truths one is not where the detection is.
    assert!(ap(1) > 0.4 && ap(1) < 0.9, "{d}");
    let (stdout, _) = b.ok("eval", &args);
    assert!(stdout.contains("AP50:95") && stdout.contains("all, 6 pictures"), "{stdout}");
    std::fs::remove_file(b.path("images/3.png")).unwrap();
    b.fails("eval", &args, 6, &["3.png"]);
    b.fails("eval", &["--images", "images"], 2, &["--annotations"]);
    let gone = ["--images", "images", "--annotations", "gone.json"];
    b.fails("eval", &gone, 6, &["gone.json"]);
    std::fs::write(b.path("truth.json"), "{\"images\": 3}").unwrap();
    b.fails("eval", &args, 4, &["truth.json", "line 1"]);
}

#[test]
fn cameras_lists_in_both_forms() {
    let (out, stdout, _) = output(tobiuo().args(["cameras", "--json"]));
    assert!(out.status.success());
    assert!(json(&stdout)["cameras"].is_array());
    let (out, stdout, _) = output(tobiuo().arg("cameras"));
    assert!(out.status.success() && !stdout.is_empty());
}

#[test]
fn errors_are_a_document_too() {
    let bench = Bench::new();
    for (command, args, status) in [
        ("bench", &["--json", "--nope"][..], 2),
        ("bench", &["--json", "-n", "none"], 2),
        ("run", &["no-such.avi", "--json"], 6),
    ] {
        let (out, stdout, stderr) = output(&mut bench.command(command, args));
        assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
        let document: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(document["status"], status, "{document}");
        assert!(stderr.contains(document["error"].as_str().unwrap()), "{stderr}");
    }
}

#[test]
fn outputs_do_not_destroy_what_is_there() {
    let bench = Bench::new();
    let video = clip(bench.folder.path(), 3);
    let before = std::fs::read(&video).unwrap();
    for output in ["clip.avi", "./clip.avi", "file://clip.avi"] {
        bench.fails("run", &["clip.avi", output], 2, &["is the input 'clip.avi'"]);
        assert!(std::fs::read(&video).unwrap() == before, "{output}: the input was written to");
    }
    // What cannot be opened makes no results, so those that are there stay.
    let lines = bench.path("old.jsonl");
    std::fs::write(&lines, "kept\n").unwrap();
    bench.fails("run", &["no-such.avi", "old.jsonl"], 6, &["no-such.avi"]);
    assert_eq!(std::fs::read_to_string(&lines).unwrap(), "kept\n");
}

#[test]
fn timelines_are_refused_before_the_run() {
    let bench = Bench::new();
    let both = ["--timeline", "t.json", "--layers"];
    bench.fails("bench", &both, 2, &["--layers", "--timeline"]);
    // The engine is not even looked for.
    let mut command = tobiuo();
    command.args(["bench", "no-such.tobiuo", "--timeline", "nowhere/t.json"]);
    fails(&mut command, 1, &["nowhere/t.json", "cannot write the timeline"]);
    assert!(!bench.path("t.json").exists());
}
