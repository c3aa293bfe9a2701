//! Every golden case gives ONNX Runtime's outputs.

#[allow(dead_code)]
mod common;

use std::path::Path;

#[test]
fn golden_cases_give_onnx_runtimes_outputs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let cases = common::cases(&folder);
    let mut failures = Vec::new();
    for case in &cases {
        if let Err(reason) = common::run(case, 1e-5) {
            failures.push(format!("{}: {reason}", case.file_name().unwrap().display()));
        }
    }
    assert!(cases.len() >= 240, "only {} cases are found", cases.len());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
