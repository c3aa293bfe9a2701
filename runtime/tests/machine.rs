//! What the program tells about the machine: the doctor's lines, and clocks, heat and power in
//! the reports of `run` and `bench`, over file trees of Jetsons.

#![cfg(feature = "cpu")]

mod common;

use std::path::{Path, PathBuf};

use common::{clip, colour_engine, output, tobiuo};
use serde_json::Value;
use tempfile::TempDir;
use tobiuo::jetson::recorded;

fn tree(name: &str) -> TempDir {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jetson/tests/trees").join(name);
    let folder = tempfile::tempdir().unwrap();
    recorded::unpack(&std::fs::read_to_string(file).unwrap(), folder.path()).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn engine() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let engine = colour_engine(folder.path());
    (folder, engine)
}

#[test]
fn bench_tells_clocks_heat_and_power() {
    let (_folder, engine) = engine();
    let tree = tree("jp6-orin-nano.tree");
    let bench = |root: &Path, more: &[&str]| {
        let fixed = ["bench", text(&engine), "-n", "5", "--root", text(root)];
        let (out, stdout, stderr) = output(tobiuo().args(fixed).args(more));
        assert!(out.status.success(), "{stderr}");
        stdout
    };
    let said = bench(tree.path(), &[]);
    let wanted = "machine     power mode MAXN_SUPER, GPU 306 of 1020 MHz, tj-thermal 51.4 °C, not \
                  throttled";
    assert!(said.contains(wanted), "{said}");
    let report: Value = serde_json::from_str(&bench(tree.path(), &["--json"])).unwrap();
    let machine = &report["machine"];
    assert_eq!(machine["power_mode"]["name"], "MAXN_SUPER");
    assert_eq!(machine["gpu"]["max"], 1020.0);
    assert_eq!(machine["throttled_by"], serde_json::json!([]));
    assert_eq!(machine["over_current_events_during"], 0);
    // A machine that tells nothing has no such line.
    let nothing = tempfile::tempdir().unwrap();
    assert!(!bench(nothing.path(), &[]).contains("machine"));
    let report: Value = serde_json::from_str(&bench(nothing.path(), &["--json"])).unwrap();
    assert!(report.get("machine").is_none());
}

#[test]
fn run_tells_clocks_heat_and_power() {
    let (folder, engine) = engine();
    let clip = clip(folder.path(), 4);
    for (name, wanted) in [
        ("jp5-xavier-nx.tree", "machine: power mode MODE_20W_6CORE, GPU 115 of 1109 MHz"),
        ("jp7-thor.tree", "machine: power mode 120W, GPU 1386 of 1386 MHz"),
    ] {
        let tree = tree(name);
        let arguments = ["run", text(&engine), text(&clip), "--json", "--root", text(tree.path())];
        let (out, stdout, stderr) = output(tobiuo().args(arguments));
        assert!(out.status.success() && stderr.contains(wanted), "{stderr}");
        let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert!(last["summary"]["machine"]["gpu"]["now"].as_f64() > Some(100.0), "{last}");
    }
}

#[test]
fn the_doctor_looks_at_a_copy_of_another_machine() {
    let tree = tree("jp6-orin-nano.tree");
    let (_folder, engine) = engine();
    let arguments = ["doctor", "--root", text(tree.path()), text(&engine)];
    let (out, stdout, stderr) = output(tobiuo().args(arguments));
    assert!(out.status.success(), "{stdout}{stderr}");
    for part in ["Jetson Orin Nano 8GB, L4T 36.4.7", "MAXN_SUPER", "for the CPU", "C920"] {
        assert!(stdout.contains(part), "'{part}' is not in: {stdout}");
    }
    assert!(
        stdout.lines().all(|line| line.starts_with("ok ") || line.starts_with(' ')),
        "{stdout}"
    );
    let (_, stdout, _) = output(tobiuo().args(arguments).arg("--json"));
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["status"], "ok");
    assert!(document["checks"].as_array().unwrap().len() >= 12);
    // What is wrong is the exit status, and what to do about it is said.
    let stub = tree.path().join("usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1");
    std::fs::write(stub, "").unwrap();
    let (out, stdout, _) = output(tobiuo().args(arguments).arg("-q"));
    assert_eq!(out.status.code(), Some(5), "{stdout}");
    assert!(stdout.starts_with("fail  driver") && stdout.contains("-> start the container"));
    assert!(!stdout.contains("ok  "), "{stdout}");
}

#[test]
fn the_doctor_looks_at_this_machine() {
    let (folder, engine) = engine();
    let arguments = ["doctor", text(&engine), "--json", "--cache", text(folder.path())];
    let (out, stdout, stderr) = output(tobiuo().args(arguments));
    let document: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    let checks = document["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|c| c["name"] == name).unwrap_or(&Value::Null);
    for name in ["board", "driver", "engine", "memory", "cameras", "compiler"] {
        assert!(of(name)["text"].is_string(), "{name}: {document}");
    }
    assert!(of("cache")["text"].as_str().unwrap().ends_with("can be written to"), "{document}");
    let failed = checks.iter().any(|c| c["status"] == "fail");
    assert_eq!(out.status.code() == Some(0), !failed, "{document}");
    // A damaged engine is a failure of its own.
    let mut bytes = std::fs::read(&engine).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&engine, bytes).unwrap();
    let (out, stdout, _) = output(tobiuo().args(["doctor", text(&engine), "-q"]));
    assert!(stdout.contains("fail  engine") && stdout.contains("provision"), "{stdout}");
    assert!(matches!(out.status.code(), Some(4..=6)), "{:?}", out.status);
}
