//! The program `onnx-cases` itself, on golden cases and dumps: CPU device, CUDA lowering, and
//! engines for a GPU on the stand-in driver.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::root;
use conformance::cases::dumps::Dump;
use tobiuo_standin::Standin;

/// A folder as make_cases.py writes it, of golden cases.
fn folder(to: &Path) -> Vec<String> {
    let golden = root().join("builder/tests/golden/onnx");
    let mut names: Vec<String> = fs::read_dir(&golden)
        .expect("golden cases")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|n| n == "chain_yolo_head" || n.starts_with("gather"))
        .collect();
    names.sort();
    let mut list = String::new();
    for name in &names {
        fs::create_dir(to.join(name)).expect("a folder");
        for file in fs::read_dir(golden.join(name)).expect("a case") {
            let file = file.expect("a file").path();
            fs::copy(&file, to.join(name).join(file.file_name().expect("a name"))).expect("a copy");
        }
        list += &format!("{name}\tnode\t17\tAdd\tfloat\t\n");
    }
    fs::write(to.join("cases.tsv"), list).expect("the list");
    names
}

fn run(folder: &Path, arguments: &[&str]) -> (Output, String) {
    let standin = Standin::new();
    let mut command = standin.command(env!("CARGO_BIN_EXE_onnx-cases"));
    let output = command.arg(folder).args(arguments).output().expect("onnx-cases starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn cases_run_on_every_device_and_a_wrong_one_is_named() {
    let folder_of = tempfile::tempdir().expect("a folder");
    let names = folder(folder_of.path());
    assert!(names.len() >= 4, "{names:?}");
    let devices = ["--only", "*", "--device", "reference,cpu,lowered,cuda", "--jobs", "2"];
    let (output, text) = run(folder_of.path(), &devices);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches(": passes").count(), 4 * names.len(), "{text}");

    // Another expected output: that case fails on every device, and no other does.
    let wrong = folder_of.path().join(&names[0]).join("output_0.npy");
    let mut bytes = fs::read(&wrong).expect("an output");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&wrong, bytes).expect("written");
    let (output, text) = run(folder_of.path(), &devices);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.matches(": passes").count(), 4 * (names.len() - 1), "{text}");
    assert!(text.contains(&format!("cuda: {}: output", names[0])), "{text}");
}

#[test]
fn dumps_run_on_every_device_and_a_wrong_layer_is_named() {
    let devices = ["--device", "reference,cpu,lowered,cuda", "--jobs", "2", "--only"];
    let fixtures = root().join("tests/fixtures/chainer");
    let (output, text) = run(&fixtures, &[&devices[..], &["deconv*"]].concat());
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("6 of 6 dumps agree in every layer").count(), 4, "{text}");
    let half = ["arg_max*", "--precision", "fp16"];
    let (output, text) = run(&fixtures, &[&devices[..], &half].concat());
    assert!(output.status.success(), "{text}");

    let folder_of = tempfile::tempdir().expect("a folder");
    let dump = Dump::read(&fixtures.join("convolution")).expect("a dump");
    let copy = folder_of.path().join("changed");
    fs::create_dir(&copy).expect("a folder");
    dump.copy_with_all_outputs(&copy).expect("a copy");
    let layer = &dump.layers[0].name;
    let wrong = copy.join(format!("{layer}_output.tensor"));
    let mut bytes = fs::read(&wrong).expect("an output");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&wrong, bytes).expect("written");
    let (output, text) = run(folder_of.path(), &[&devices[..], &["*"]].concat());
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("cuda: changed differs: {layer}: ")), "{text}");
    assert_eq!(text.matches("0 of 1 dumps agree").count(), 4, "{text}");
}

#[test]
fn without_the_list_of_the_manifest_nothing_is_right() {
    let folder_of = tempfile::tempdir().expect("a folder");
    folder(folder_of.path());
    let (output, text) = run(folder_of.path(), &["--device", "cpu", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the manifest does not say so: add it by --write"), "{text}");
    assert!(text.contains("the manifest lists other cases"), "{text}");
    let (output, _) = run(&folder_of.path().join("nothing"), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
