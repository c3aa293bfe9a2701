//! The program itself: arguments in, files, words and exit statuses out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// On a machine without a GPU, or with the GPU hidden.
fn run(arguments: &[&str]) -> Output {
    let mut command = tobiuo_standin::program(env!("CARGO_BIN_EXE_tobiuo-builder"));
    command.env("CUDA_VISIBLE_DEVICES", "").args(arguments).output().unwrap()
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
}

/// Runs the program; it must end with this status. Its words are given.
fn ends(status: i32, arguments: &[&str]) -> String {
    let out = run(arguments);
    let words = words(&out);
    assert_eq!(out.status.code(), Some(status), "{arguments:?}: {words}");
    words
}

/// The document that the program prints to stdout.
fn json(arguments: &[&str]) -> Value {
    let out = run(arguments);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", words(&out)))
}

/// A folder and the path of an engine in it.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("net.tobiuo");
    (folder, engine)
}

fn files(folder: &TempDir) -> Vec<String> {
    let names = std::fs::read_dir(folder.path()).unwrap();
    names.map(|f| f.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_detector_builds_and_verifies() {
    let (_folder, engine) = place();
    let (m, e) = (model("detector.onnx"), text(&engine));
    let report = json(&["build", text(&m), "-o", e, "--batch", "1,4", "--json"]);
    assert_eq!(report["task"]["task"], "detect");
    assert_eq!(report["task"]["classes"], 3);
    assert_eq!(report["labels"], 3);
    assert_eq!(report["reused"], false);
    assert_eq!(report["precision"], "fp32");
    assert_eq!(report["inputs"][0]["shape"], serde_json::json!([1, 3, 32, 32]));
    let plans = report["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 2);
    // The halves, what follows from one of them, and nothing copied.
    assert!(plans[0]["free_concats"].as_u64() >= Some(1), "{report}");
    assert_eq!(plans[0]["copies"], 0);

    let found = json(&["verify", text(&m), e, "--layers", "--json"]);
    assert_eq!(found["ok"], true, "{found}");
    assert_eq!(found["same_model"], true);
    for (plan, batch) in found["plans"].as_array().unwrap().iter().zip([1, 4]) {
        assert_eq!(plan["batch"], batch);
        assert_eq!(plan["outputs"][0]["name"], "output0");
        assert!(plan["layers"].as_array().unwrap().len() >= 10, "{plan}");
        assert!(plan["first_difference"].is_null());
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let (_folder, engine) = place();
    let (m, e) = (model("classifier.onnx"), text(&engine));
    ends(0, &["build", text(&m), "-o", e]);
    let first = std::fs::read(&engine).unwrap();
    let second = ends(0, &["build", text(&m), "-o", e]);
    assert!(second.contains("up to date"), "{second}");
    let third = ends(0, &["build", text(&m), "-o", e, "--no-cache"]);
    assert!(!third.contains("up to date"), "{third}");
    assert_eq!(std::fs::read(&engine).unwrap(), first);
    // Other options are another engine; a damaged engine is no engine.
    let other = ends(0, &["build", text(&m), "-o", e, "--task", "tensors"]);
    assert!(!other.contains("up to date"), "{other}");
    let mut damaged = first.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&engine, damaged).unwrap();
    ends(0, &["build", text(&m), "-o", e]);
    assert_eq!(std::fs::read(&engine).unwrap(), first);
}

/// Constants that end at a multiple of 64 bytes, and networks without any.
#[test]
fn weights_of_every_length_build() {
    for name in ["aligned.onnx", "weightless.onnx"] {
        let (_folder, engine) = place();
        let m = model(name);
        ends(0, &["build", text(&m), "-o", text(&engine)]);
        ends(0, &["verify", text(&m), text(&engine)]);
    }
}

#[test]
fn chainer_trt_flags_are_known() {
    let (_folder, engine) = place();
    let m = model("detector.onnx");
    let e = text(&engine);
    ends(0, &["build", "-i", text(&m), "-o", e, "-m", "fp32", "-b", "2", "-w", "4"]);
    let found = json(&["verify", text(&m), e, "--json"]);
    assert_eq!(found["plans"][0]["batch"], 2);
    assert!(ends(5, &["build", "-i", text(&m), "-o", e, "-g", "0"]).contains("device cuda:0"));
}

#[test]
fn passes_can_be_bisected() {
    let (_folder, engine) = place();
    let (m, e) = (model("classifier.onnx"), text(&engine));
    let steps = |arguments: &[&str]| {
        let all = [&["build", text(&m), "-o", e, "--json"], arguments].concat();
        let report = json(&all);
        ends(0, &["verify", text(&m), e]);
        report["plans"][0]["steps"].as_u64().unwrap()
    };
    let raw = steps(&["--passes-until", "dead-code"]);
    let all = steps(&[]);
    assert!(all < raw, "{all} steps with passes, {raw} without");
    let wrong = ends(2, &["build", text(&m), "-o", e, "--passes-until", "nonsense"]);
    assert!(wrong.contains("fold-affine"), "{wrong}");
}

#[test]
fn check_names_every_unsupported_node() {
    assert!(ends(0, &["check", text(&model("detector.onnx"))]).contains("supported"));
    let bad = model("unsupported.onnx");
    let said = ends(9, &["check", text(&bad)]);
    assert!(said.contains("first") && said.contains("second"), "{said}");
    let report = json(&["check", text(&bad), "--json"]);
    assert_eq!(report["supported"], false);

    let (folder, engine) = place();
    let said = ends(9, &["build", text(&bad), "-o", text(&engine)]);
    assert!(said.contains("first") && said.contains("second"), "{said}");
    let report = json(&["build", text(&bad), "-o", text(&engine), "--json"]);
    assert_eq!(report["status"], 9);
    assert_eq!(report["nodes"].as_array().unwrap().len(), 2);
    assert!(files(&folder).is_empty());
}

/// A copy of the classifier with one filter of a layer changed.
fn with_another_weight(folder: &TempDir, weight: &str) -> PathBuf {
    let mut bytes = std::fs::read(model("classifier.onnx")).unwrap();
    let name = weight.as_bytes();
    let at = bytes.windows(name.len()).rposition(|w| w == name).unwrap() + name.len();
    assert_eq!(bytes[at], 0x4a, "raw_data follows the name");
    let start = at + 1 + bytes[at + 1..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    // All weights of the first filter: some of its inputs are not zero.
    for tap in 0..72 {
        bytes[start + 4 * tap..][..4].copy_from_slice(&0.5f32.to_le_bytes());
    }
    let path = folder.path().join("changed.onnx");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn verify_names_the_first_layer_that_differs() {
    let (folder, engine) = place();
    let e = text(&engine);
    ends(0, &["build", text(&model("classifier.onnx")), "-o", e]);
    let changed = with_another_weight(&folder, "c2.w");
    let said = ends(7, &["verify", text(&changed), e]);
    assert!(said.contains("another model"), "{said}");
    let found = json(&["verify", text(&changed), e, "--layers", "--json"]);
    assert_eq!((&found["ok"], &found["same_model"]), (&Value::Bool(false), &Value::Bool(false)));
    let first = found["plans"][0]["first_difference"].as_str().unwrap();
    let layers = found["plans"][0]["layers"].as_array().unwrap();
    assert!(layers[0]["ok"] == true && layers.len() > 2, "{found}");
    let named = layers.iter().find(|l| l["layer"] == first).unwrap();
    assert_eq!(named["name"], "c2", "{found}");

    let said = ends(2, &["verify", text(&model("detector.onnx")), e]);
    assert!(said.contains("not made from this model"), "{said}");
}

#[test]
fn verify_takes_inputs() {
    let (folder, engine) = place();
    let (m, e) = (model("classifier.onnx"), text(&engine));
    ends(0, &["build", text(&m), "-o", e]);
    let npy = folder.path().join("x.npy");
    let x = tobiuo_tensor::Tensor::f32([1, 3, 12, 12], vec![0.5; 432]);
    tobiuo_tensor::npy::write(&npy, &x).unwrap();
    ends(0, &["verify", text(&m), e, "--input", &format!("x={}", text(&npy))]);
    let small = tobiuo_tensor::Tensor::f32([1], vec![0.5]);
    tobiuo_tensor::npy::write(&npy, &small).unwrap();
    ends(2, &["verify", text(&m), e, "--input", &format!("x={}", text(&npy))]);
    ends(2, &["verify", text(&m), e, "--input", &format!("q={}", text(&npy))]);
    std::fs::write(&npy, b"nonsense").unwrap();
    ends(4, &["verify", text(&m), e, "--input", &format!("x={}", text(&npy))]);
}

#[test]
fn labels_task_and_preprocessing() {
    let (folder, engine) = place();
    let (m, e) = (model("detector.onnx"), text(&engine));
    let labels = folder.path().join("labels.txt");
    fn with<'a>(begin: [&'a str; 4], more: &[&'a str]) -> Vec<&'a str> {
        [&begin, more].concat()
    }
    let begin = ["build", text(&m), "-o", e];
    std::fs::write(&labels, "one\ntwo\nthree\n").unwrap();
    let with_labels =
        with(begin, &["--labels", text(&labels), "--score-threshold", "0.4", "--json"]);
    let report = json(&with_labels);
    assert_eq!(report["labels"], 3);
    assert!((report["task"]["score_threshold"].as_f64().unwrap() - 0.4).abs() < 1e-6);
    std::fs::write(&labels, "one\ntwo\n").unwrap();
    let said = ends(2, &with(begin, &["--labels", text(&labels), "--task", "detect"]));
    assert!(said.contains("2 names") && said.contains("3 classes"), "{said}");
    std::fs::write(&labels, b"\xff\xfe").unwrap();
    assert!(ends(4, &with(begin, &["--labels", text(&labels)])).contains("labels.txt"));
    ends(2, &with(begin, &["--labels", "/nowhere/labels.txt"]));
    ends(2, &with(begin, &["--score-threshold", "2"]));
    ends(2, &with(begin, &["--mean", "0.1,0.2"]));
    ends(2, &with(begin, &["--std", "0"]));
    ends(2, &with(begin, &["--channels", "gray"]));
    ends(2, &with(begin, &["--task", "classify"]));
    let tuned = ["--mean", "0.5", "--std", "0.25,0.5,1", "--fit", "stretch", "--channels", "bgr"];
    ends(0, &with(begin, &tuned));
    let classifier = model("classifier.onnx");
    let said = ends(2, &["build", text(&classifier), "-o", e, "--score-threshold", "0.5"]);
    assert!(said.contains("detector"), "{said}");
}

/// `-o /dev/null` as root would end the device for every program.
#[cfg(unix)]
#[test]
fn an_engine_does_not_take_a_pipes_place() {
    use std::os::unix::fs::FileTypeExt;
    let (folder, _) = place();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = ends(2, &["build", text(&model("classifier.onnx")), "-o", text(&pipe)]);
    assert!(said.contains("no regular file"), "{said}");
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn wrong_arguments_are_refused_before_any_work() {
    let (folder, engine) = place();
    let m = model("classifier.onnx");
    let (m, e) = (text(&m), text(&engine));
    let here = text(folder.path());
    let cases: &[(i32, &[&str], &str)] = &[
        (2, &[], "usage"),
        (2, &["bild"], "no command 'bild'"),
        (2, &["build"], "no model"),
        (2, &["build", m], "-o ENGINE"),
        (2, &["build", m, "-o", e, "--frobnicate"], "frobnicate"),
        (2, &["build", "/nowhere/x.onnx", "-o", e], "/nowhere/x.onnx"),
        (2, &["build", m, "-o", "/nowhere/x.tobiuo"], "does not exist"),
        (2, &["build", m, "-o", here], "directory"),
        (2, &["build", m, "-o", m], "overwrite the model"),
        (5, &["build", m, "-o", e, "--device", "cuda"], "--device cpu"),
        (5, &["build", m, "-o", e, "--device", "cuda:3"], "cuda:3"),
        (5, &["build", m, "-o", e, "--device", "sm_61"], "sm_72, sm_87, sm_90, sm_110"),
        (2, &["build", m, "-o", e, "--device", "tpu"], "sm_87"),
        (2, &["build", m, "-o", e, "-g", "first"], "number"),
        (2, &["build", m, "-o", e, "--precision", "int8"], "--calibration names"),
        (2, &["build", m, "-o", e, "--precision", "fp7"], "int8 is wanted"),
        (2, &["build", m, "-o", e, "--device", "cpu", "-m", "fp16"], "fp32 and int8"),
        (2, &["build", m, "-o", e, "-m", "tf32"], "fp32 and int8"),
        (2, &["build", m, "-o", e, "--device", "sm_72", "-m", "tf32"], "8.0"),
        (2, &["build", m, "-o", e, "--effort", "some"], "default"),
        (2, &["build", m, "-o", e, "--memory-limit", "big"], "1.5G"),
        (2, &["build", m, "-o", e, "--memory-limit", "1G"], "for CUDA engines"),
        (2, &["build", m, "-o", e, "--record", "r.json"], "for CUDA engines"),
        (2, &["build", m, "-o", e, "--record", m], "this is the model"),
        (2, &["build", m, "-o", e, "--device", "sm_87", "--replay", "/nowhere/r"], "/nowhere/r"),
        (2, &["build", m, "-o", e, "-w", "x"], "--workspace"),
        (2, &["build", m, "-o", e, "--batch", "0"], "--batch"),
        (2, &["build", m, "-o", e, "--batch", "1,x"], "--batch"),
        (2, &["build", m, "-o", e, "--batch", "4"], "batch"),
        (2, &["build", m, "-o", e, "--input-shape", "x"], "NAME=1x3x640x640"),
        (2, &["check"], "no model"),
        (2, &["verify", m], "an engine"),
        (2, &["verify", m, e], "net.tobiuo"),
        (2, &["verify", e, m], "net.tobiuo"),
        (2, &["draw", m, "-o", "graph.bmp"], ".svg"),
    ];
    for (status, arguments, wanted) in cases {
        let said = ends(*status, arguments);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    assert!(files(&folder).is_empty());
    let unwritable = run(&["build", m, "-o", "/proc/x.tobiuo"]);
    assert!(!unwritable.status.success() && words(&unwritable).contains("/proc"));
}

#[test]
fn damaged_models_are_errors_and_leave_nothing() {
    let (folder, engine) = place();
    let good = std::fs::read(model("classifier.onnx")).unwrap();
    let damaged = folder.path().join("damaged.onnx");
    let kept: Vec<usize> = (0..8).map(|i| good.len() * i / 8).collect();
    for keep in kept {
        std::fs::write(&damaged, &good[..keep]).unwrap();
        let said = ends(4, &["build", text(&damaged), "-o", text(&engine)]);
        assert!(said.contains("damaged.onnx"), "{said}");
    }
    std::fs::write(&damaged, b"GIF89a and so on").unwrap();
    ends(4, &["build", text(&damaged), "-o", text(&engine)]);
    ends(4, &["check", text(&damaged)]);
    assert_eq!(files(&folder), ["damaged.onnx"]);
}

#[test]
fn a_damaged_engine_is_not_verified() {
    let (_folder, engine) = place();
    let m = model("classifier.onnx");
    ends(0, &["build", text(&m), "-o", text(&engine)]);
    let good = std::fs::read(&engine).unwrap();
    for at in [0, 40, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&engine, bytes).unwrap();
        ends(4, &["verify", text(&m), text(&engine)]);
    }
}

/// A disk that fills: a limit on file sizes makes the same write fail.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_what_was_there() {
    let (folder, engine) = place();
    let m = model("detector.onnx");
    let build = |limit: &str| {
        // Blocks of 512 bytes; a process that ignores the signal gets an error instead.
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
        let program = tobiuo_standin::program(env!("CARGO_BIN_EXE_tobiuo-builder"));
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program.get_program()).args(program.get_args());
        shell.args(["build", text(&m), "-o", text(&engine)]).output().unwrap()
    };
    let out = build("64");
    assert_eq!(out.status.code(), Some(1), "{}", words(&out));
    assert!(words(&out).contains("net.tobiuo"), "{}", words(&out));
    assert!(files(&folder).is_empty(), "{:?}", files(&folder));
    // An engine that was there stays.
    ends(0, &["build", text(&model("classifier.onnx")), "-o", text(&engine)]);
    let before = std::fs::read(&engine).unwrap();
    assert_eq!(build("64").status.code(), Some(1));
    assert_eq!(std::fs::read(&engine).unwrap(), before);
    assert_eq!(files(&folder), ["net.tobiuo"]);
    assert_eq!(build("unlimited").status.code(), Some(0));
}

#[test]
fn graphs_are_drawn() {
    let (folder, engine) = place();
    let m = model("detector.onnx");
    let (m, e) = (text(&m), text(&engine));
    let draw = |of: &str, name: &str, more: &[&str]| {
        let path = folder.path().join(name);
        ends(0, &[&["draw", of, "-o", text(&path)], more].concat());
        std::fs::read_to_string(path).unwrap()
    };
    let raw = draw(m, "raw.dot", &[]);
    let optimised = draw(m, "optimised.dot", &["--optimised"]);
    assert!(raw.contains("Sigmoid") && raw.matches(" -> ").count() > 20);
    assert!(optimised.contains("+ Silu") && optimised.lines().count() < raw.lines().count());
    ends(0, &["build", m, "-o", e]);
    let svg = draw(e, "engine.svg", &[]);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("images") && svg.contains("output0") && svg.contains("+ Silu"));
    ends(2, &["draw", e, "-o", text(&folder.path().join("x.svg")), "--batch", "9"]);
}

#[test]
fn help_and_version() {
    assert!(ends(0, &["--version"]).starts_with("tobiuo-builder 0."));
    for command in ["build", "check", "verify", "draw"] {
        assert!(ends(0, &["help", command]).contains(&format!("tobiuo-builder {command}")));
        assert!(ends(0, &[command, "--help"]).contains("usage"));
    }
    assert!(ends(0, &["help"]).contains("exit status"));
}

#[test]
fn a_dump_builds_and_verifies() {
    let (folder, engine) = place();
    let dump =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chainer/net_classifier");
    let (d, e) = (text(&dump), text(&engine));
    let report = json(&["check", d, "--json"]);
    assert_eq!(report["supported"], true);
    assert_eq!(report["operators"]["Convolution2DFunction"]["total"], 2);
    let report = json(&["build", d, "-o", e, "--batch", "2", "--json"]);
    assert_eq!(report["outputs"][0]["name"], "prob");
    assert_eq!(report["task"]["task"], "classify");
    for order in [["verify", e, d], ["verify", d, e]] {
        ends(0, &order);
    }
    // A command line of chainer-trt's builder, with short and with long flags.
    let other = folder.path().join("other.tobiuo");
    let o = text(&other);
    for line in [
        ["-i", d, "-o", o, "-m", "fp32", "-b", "2", "-w", "4"],
        ["--dir", d, "--model", o, "--mode", "fp32", "--max-batch", "2", "--workspace", "4"],
    ] {
        ends(0, &line);
        assert_eq!(std::fs::read(&other).unwrap(), std::fs::read(&engine).unwrap());
        std::fs::remove_file(&other).unwrap();
    }
    // The dump itself is not written over.
    let mine = folder.path().join("dump");
    std::fs::create_dir(&mine).unwrap();
    for file in std::fs::read_dir(&dump).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), mine.join(file.file_name())).unwrap();
    }
    let words = ends(2, &["build", text(&mine), "-o", text(&mine.join("model.json"))]);
    assert!(words.contains("overwrite a part of a dump"), "{words}");
    std::fs::remove_file(mine.join("model.json")).unwrap();
    let words = ends(4, &["build", text(&mine), "-o", e]);
    assert!(words.contains("without the model.json of a chainer-trt dump"), "{words}");
}

#[test]
fn nobody_reads_what_is_said() {
    let (folder, engine) = place();
    let (m, e) = (model("detector.onnx"), text(&engine));
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let ends = |status: i32, arguments: &[&str]| {
        let mut command = tobiuo_standin::program(env!("CARGO_BIN_EXE_tobiuo-builder"));
        let command = command.env("CUDA_VISIBLE_DEVICES", "").args(arguments);
        let out = command.stdout(gone()).output().unwrap();
        assert_eq!(out.status.code(), Some(status), "{arguments:?}: {}", words(&out));
        assert!(!words(&out).contains("panicked"), "{arguments:?}: {}", words(&out));
        let both = command.stdout(gone()).stderr(gone()).status().unwrap();
        assert_eq!(both.code(), Some(status), "{arguments:?}");
    };
    ends(0, &["build", text(&m), "-o", e, "--no-cache", "--json"]);
    assert_eq!(files(&folder), ["net.tobiuo"]);
    ends(0, &["check", text(&m)]);
    ends(0, &["help"]);
    ends(2, &[]);
    ends(2, &["nothing"]);
}

#[test]
fn errors_are_a_document_too() {
    for arguments in [
        &["build", "x.onnx", "-o", "x.tobiuo", "--json", "--effort", "nope"][..],
        &["verify", "--json"],
        &["--json"],
        &["check", "no-such.onnx", "--json"],
    ] {
        let out = run(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {}", words(&out));
        assert!(String::from_utf8_lossy(&out.stderr).starts_with("error: "), "{arguments:?}");
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(document["status"], 2, "{arguments:?}: {document}");
        assert!(!document["error"].as_str().unwrap().is_empty(), "{arguments:?}");
    }
    assert!(ends(0, &["help"]).contains("8 memory or time limit"));
}

/// An empty variable is as none: libraries are looked for in the usual places.
#[test]
fn an_empty_name_of_the_compiler_names_none() {
    let (_folder, engine) = place();
    let mut command = tobiuo_standin::program(env!("CARGO_BIN_EXE_tobiuo-builder"));
    let m = model("classifier.onnx");
    command.args(["build", text(&m), "-o", text(&engine), "--device", "sm_87", "-q"]);
    let out = command.env("CUDA_VISIBLE_DEVICES", "").env("TOBIUO_NVRTC", "").output().unwrap();
    let words = words(&out);
    let found = out.status.success();
    assert!(found || words.contains("was not found by the dynamic linker"), "{words}");
}
