//! Every golden case gives ONNX Runtime's outputs when it is lowered for CUDA and its layers
//! are run by their references.

#[allow(dead_code)]
mod common;
#[path = "common/lowered.rs"]
mod lowered;

use std::path::Path;

use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

/// Cases with sums that f16 cannot hold.
const INTEGER_SUMS: [&str; 4] =
    ["dynamic_mixed", "dynamic_positive", "dynamic_zeros", "matmul_integer"];

fn all(precision: Precision, optimised: bool, limit: f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let cases = common::cases(&folder);
    let mut failures = Vec::new();
    for case in &cases {
        let by =
            |graph, given: &[(&str, &Tensor)]| lowered::run(graph, given, precision, optimised);
        let made = common::run_by(case, limit, by);
        let name = case.file_name().unwrap().to_str().unwrap();
        if precision == Precision::Fp16 && INTEGER_SUMS.contains(&name) {
            let refused = made.is_err_and(|e| e.contains("do not fit into f16"));
            assert!(refused, "{name} is not refused in f16");
            continue;
        }
        if let Err(reason) = made {
            failures.push(format!("{}: {reason}", case.file_name().unwrap().display()));
        }
    }
    assert!(cases.len() >= 240, "only {} cases are found", cases.len());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn golden_cases_lowered_in_f32() {
    all(Precision::Fp32, false, 1e-5);
}

#[test]
fn golden_cases_optimised_and_lowered_in_f32() {
    all(Precision::Fp32, true, 1e-5);
}

#[test]
fn golden_cases_optimised_and_lowered_in_f16() {
    all(Precision::Fp16, true, 4e-3);
}
