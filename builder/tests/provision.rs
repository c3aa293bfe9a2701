//! Provisioning from the command line: what is built when, and what is left when it fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use tobiuo_engine::{DeviceKey, EngineFile, Task};
use tobiuo_standin::Standin;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

/// A device's folder, and its GPU, if it has one.
struct Place {
    folder: TempDir,
    machine: Option<Standin>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(model("classifier.onnx"), folder.path().join("m.onnx")).unwrap();
        Place { folder, machine: None }
    }

    fn with(machine: Standin) -> Place {
        Place { machine: Some(machine), ..Place::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_tobiuo-builder");
        let mut command = match &self.machine {
            Some(machine) => machine.command(program),
            None => Command::new(program),
        };
        if self.machine.is_none() {
            command.env("CUDA_VISIBLE_DEVICES", "");
        }
        command.env("XDG_CACHE_HOME", self.path("home")).current_dir(self.folder.path());
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> (Output, String) {
        let out = self.command(arguments).output().unwrap();
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!words.contains("panicked"), "{words}");
        (out, words)
    }

    /// `provision m.onnx -o a.tobiuo ARGUMENTS`; the engine's line and the words.
    #[track_caller]
    fn provision(&self, status: i32, arguments: &[&str]) -> (Value, String) {
        let fixed = ["provision", "m.onnx", "-o", "a.tobiuo", "--json"];
        let (out, words) = self.run(&[&fixed, arguments].concat());
        assert_eq!(out.status.code(), Some(status), "{arguments:?}: {words}");
        let document: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (document["engines"][0].clone(), words)
    }

    fn engine(&self) -> EngineFile {
        EngineFile::open(self.path("a.tobiuo")).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn tuned(&self) -> bool {
        match &self.engine().manifest().device {
            DeviceKey::Cuda(key) => key.tuned,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_engine_is_built_once_and_again_when_something_changed() {
    let place = Place::new();
    let (line, words) = place.provision(0, &[]);
    assert_eq!(line["outcome"], "built", "{words}");
    assert!(line["relative_l2"].as_f64().unwrap() < 1e-4, "{line}");
    let first = place.bytes("a.tobiuo");
    assert_eq!(place.provision(0, &[]).0["outcome"], "up-to-date");
    assert!(!place.path("a.tobiuo.previous").exists());
    // Another model.
    fs::copy(model("detector.onnx"), place.path("m.onnx")).unwrap();
    let (line, words) = place.provision(0, &[]);
    assert_eq!((&line["outcome"], &line["why"]), (&"built".into(), &"the model is another".into()));
    assert!(words.contains("the model is another"), "{words}");
    assert!(place.bytes("a.tobiuo.previous") == first);
    // Other options.
    let (line, _) = place.provision(0, &["--score-threshold", "0.5"]);
    assert_eq!(line["why"], "the options are others");
    let threshold = |place: &Place| match &place.engine().manifest().task {
        Task::Detect(d) => d.score_threshold,
        other => panic!("{other:?}"),
    };
    assert_eq!(threshold(&place), 0.5);
    // Back to what was there before.
    let (line, _) = place.provision(0, &["--rollback"]);
    assert_eq!(line["outcome"], "rolled-back");
    assert_eq!(threshold(&place), 0.25);
    let left: Vec<String> = fs::read_dir(place.folder.path())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp") || name.ends_with(".candidate"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_damaged_engine_gives_way_to_the_one_before() {
    let place = Place::new();
    fs::copy(model("detector.onnx"), place.path("m.onnx")).unwrap();
    place.provision(0, &[]);
    place.provision(0, &["--batch", "2"]);
    let whole = place.bytes("a.tobiuo");
    // Half written, as after a power cut on a disk that lies about what it has synced.
    for cut in [0, 1, 64, whole.len() / 2, whole.len() - 1] {
        fs::write(place.path("a.tobiuo"), &whole[..cut]).unwrap();
        let (line, words) = place.provision(0, &["--batch", "2"]);
        assert_eq!((&line["adopted"], &line["outcome"]), (&"previous".into(), &"built".into()));
        assert!(words.contains("a.tobiuo"), "{words}");
        assert!(place.bytes("a.tobiuo") == whole, "cut at {cut}");
    }
    // The model is gone, too: what is whole stays, and it is said.
    fs::remove_file(place.path("m.onnx")).unwrap();
    let (line, words) = place.provision(2, &["--batch", "2"]);
    assert_eq!(line["usable"], true, "{words}");
    assert!(words.contains("m.onnx") && words.contains("is kept"), "{words}");
}

#[test]
fn a_failed_build_leaves_what_was_there() {
    let place = Place::new();
    place.provision(0, &[]);
    let good = place.bytes("a.tobiuo");
    // A model that is not supported, one that is cut off.
    fs::copy(model("unsupported.onnx"), place.path("m.onnx")).unwrap();
    let (line, words) = place.provision(9, &[]);
    assert_eq!(line["usable"], true);
    assert!(words.contains("is kept and can run"), "{words}");
    let cut = fs::read(model("detector.onnx")).unwrap();
    fs::write(place.path("m.onnx"), &cut[..cut.len() / 2]).unwrap();
    place.provision(4, &[]);
    assert!(place.bytes("a.tobiuo") == good);
    // Nothing was there: no engine, and it is said.
    fs::remove_file(place.path("a.tobiuo")).unwrap();
    let (line, words) = place.provision(4, &[]);
    assert_eq!(line["usable"], false);
    assert!(words.contains("no engine that can run"), "{words}");
}

/// A full disk, as far as a test can make one: files may not grow. (The shell's limit comes with
/// a signal, which is ignored here, so that the write fails instead.)
#[test]
fn a_full_disk_leaves_what_was_there() {
    let place = Place::new();
    place.provision(0, &[]);
    let good = place.bytes("a.tobiuo");
    fs::copy(model("detector.onnx"), place.path("m.onnx")).unwrap();
    let builder = env!("CARGO_BIN_EXE_tobiuo-builder");
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let out = Command::new("sh")
        .args(["-c", script, "sh", builder, "provision", "m.onnx", "-o", "a.tobiuo", "-q"])
        .current_dir(place.folder.path())
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("XDG_CACHE_HOME", place.path("home"))
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{words}");
    assert!(words.contains("cannot write it") && words.contains("nothing was left"), "{words}");
    assert!(words.contains("is kept and can run"), "{words}");
    assert!(place.bytes("a.tobiuo") == good);
    assert_eq!(place.provision(0, &[]).0["outcome"], "built");
}

/// The folder is on a file system that nobody can write to.
#[test]
fn a_read_only_folder_is_named() {
    let place = Place::new();
    let (out, words) = place.run(&["provision", "m.onnx", "-o", "/proc/tobiuo/a.tobiuo"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(words.contains("/proc/tobiuo: cannot make this folder"), "{words}");
    assert!(words.contains("no engine that can run"), "{words}");
}

#[test]
fn every_engine_of_a_folder_of_configurations() {
    let place = Place::new();
    let conf = place.path("conf");
    fs::create_dir(&conf).unwrap();
    let write = |name: &str, text: String| fs::write(conf.join(name), text).unwrap();
    let m = place.text("m.onnx");
    write("front.conf", format!("# front door\nMODEL={m}\nINPUT=/dev/video0\n"));
    write("back.conf", format!("MODEL=\"{m}\"\nBUILD_OPTIONS='--task tensors --batch 1'\n"));
    write("other.conf", "INPUT=/dev/video1\n".into());
    let all = |status: i32| {
        let arguments = ["provision", "--all", "conf", "--cache", "cache", "--json", "-q"];
        let (out, words) = place.run(&arguments);
        assert_eq!(out.status.code(), Some(status), "{words}");
        let document: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (document["engines"].as_array().cloned().unwrap_or_default(), words)
    };
    let (lines, _) = all(0);
    let names: Vec<&Value> = lines.iter().map(|line| &line["name"]).collect();
    assert_eq!(names, ["back", "front"]);
    let back = EngineFile::open(place.path("cache/back.tobiuo")).unwrap();
    assert_eq!(back.manifest().task, Task::Tensors);
    assert!(all(0).0.iter().all(|line| line["outcome"] == "up-to-date"));
    // One that fails does not stop the others.
    write("a.conf", "MODEL=/nonexistent.onnx\n".into());
    fs::remove_file(place.path("cache/front.tobiuo")).unwrap();
    let (lines, words) = all(2);
    assert!(words.contains("/nonexistent.onnx"), "{words}");
    assert_eq!(lines[2]["outcome"], "built");
    write("a.conf", "MODEL=x\nBUILD_OPTIONS=--nonsense\n".into());
    assert!(all(2).1.contains("a.conf: BUILD_OPTIONS"));
}

/// Built on another machine for this kind of device, used at once, timed later.
#[test]
fn an_untuned_engine_serves_until_it_is_tuned() {
    let mut place = Place::with(Standin::new().without_driver());
    let m = place.text("m.onnx");
    let (out, words) = place.run(&["build", &m, "-o", "seed.tobiuo", "--device", "sm_87"]);
    assert!(out.status.success(), "{words}");
    place.machine = Some(Standin::new());
    let seeded = ["--seed", "seed.tobiuo"];
    let (line, words) = place.provision(0, &seeded);
    assert_eq!(
        (&line["outcome"], &line["adopted"]),
        (&"untuned".into(), &"seed".into()),
        "{words}"
    );
    assert!(place.bytes("a.tobiuo") == place.bytes("seed.tobiuo"));
    assert_eq!(place.provision(0, &seeded).0["outcome"], "untuned");
    let (line, words) =
        place.provision(0, &[&seeded[..], &["--retune", "--time-limit", "10m"]].concat());
    assert_eq!(line["outcome"], "built", "{words}");
    assert!(place.tuned());
    assert_eq!(
        place.provision(0, &[&seeded[..], &["--retune"]].concat()).0["outcome"],
        "up-to-date"
    );
    assert_eq!(place.provision(0, &seeded).0["outcome"], "up-to-date");
    // The driver is gone: no engine of the CPU takes the GPU's place.
    place.machine = Some(Standin::new().without_driver());
    let good = place.bytes("a.tobiuo");
    let (_, words) = place.provision(5, &[]);
    assert!(words.contains("none can be used now") && words.contains("tobiuo doctor"), "{words}");
    assert!(place.bytes("a.tobiuo") == good);
}

/// The card with the system was moved to another module.
#[test]
fn an_engine_of_another_module_is_built_anew() {
    let mut place = Place::with(Standin::new());
    place.provision(0, &[]);
    place.machine = Some(Standin::new().device("h200"));
    let (line, words) = place.provision(0, &[]);
    assert_eq!(line["outcome"], "built", "{words}");
    assert!(words.contains("made for another device") && words.contains("9.0"), "{words}");
    // The engine before is the other module's and no good here.
    assert!(!place.path("a.tobiuo.previous").exists());
}

#[test]
fn wrong_command_lines() {
    let place = Place::new();
    for arguments in [
        &["provision"][..],
        &["provision", "m.onnx"],
        &["provision", "--all", "x", "-o", "y"],
        &["provision", "m.onnx", "-o", "a", "--nonsense"],
        &["provision", "m.onnx", "-o", "a", "b"],
        &["provision", "m.onnx", "-o", "a", "--device", "sm_87"],
    ] {
        assert_eq!(place.run(arguments).0.status.code(), Some(2), "{arguments:?}");
    }
    let (out, _) = place.run(&["help", "provision"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("--retune"));
}
