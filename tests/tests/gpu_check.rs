//! gpu-check on the stand-in driver: its own workings. (There a kernel runs its layer's
//! reference, so it is right by definition.)

use std::process::{Command, Output};

use tobiuo_standin::Standin;

fn gpu_check(standin: &Standin, arguments: &[&str]) -> (Output, String) {
    let common = ["--seed", "5", "--jobs", "1", "--families", "pool,resize,permute"];
    let output = standin
        .command(env!("CARGO_BIN_EXE_gpu-check"))
        .args(common)
        .args(arguments)
        .output()
        .expect("gpu-check starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn every_candidate_is_run_for_every_target() {
    let standin = Standin::new().device("h200");
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("results.json");
    let arguments = ["--random", "2", "--targets", "native,87", "--json", json.to_str().unwrap()];
    let (output, text) = gpu_check(&standin, &arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("ptx sm_87"), "{text}");
    let results: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let rows = results["families"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_eq!(row["layers"], 2, "{row}");
        assert_eq!(row["failed"], 0, "{row}");
        // At least two sizes of blocks for each layer.
        assert!(row["candidates"].as_u64().unwrap() >= 4, "{row}");
    }
}

#[test]
fn a_fault_is_one_failure_and_a_fresh_worker_goes_on() {
    // In every worker: the first candidates are right, a later one faults.
    let standin = Standin::new().device("h200").fail("cuStreamSynchronize#20:700");
    let (output, text) = gpu_check(&standin, &["--random", "3"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("9 of 9 layers"), "{words}");
    assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{text}");
    assert!(text.contains("again: gpu-check --layer"), "{text}");
}

#[test]
fn the_short_list_runs_in_one_process() {
    let standin = Standin::new().device("h200");
    let (output, text) = gpu_check(&standin, &["--sanitize"]);
    assert!(output.status.success(), "{output:?}");
    for family in ["pool", "resize", "permute"] {
        assert!(text.lines().any(|l| l.starts_with("ok") && l.contains(family)), "{text}");
    }
}

#[test]
fn no_device_is_said() {
    let standin = Standin::new().device("none");
    let (output, _) = gpu_check(&standin, &["--random", "1"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}

#[test]
fn a_list_is_cut_short_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-check"));
    let output = command.args(["--list", "--random", "1"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
