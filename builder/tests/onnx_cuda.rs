//! Every golden case gives ONNX Runtime's outputs when it is lowered for CUDA and its layers
//! are run by their references.

#[allow(dead_code)]
mod common;

use std::path::Path;

use tobiuo_builder::cuda::{interpret, lower};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::passes;
use tobiuo_engine::Precision;
use tobiuo_tensor::{Tensor, TensorData, ViewData};

fn tensor(shape: &[usize], dtype: tobiuo_tensor::DType, bytes: &[u8]) -> Tensor {
    // Bytes of a Vec<u8> need not be aligned.
    let mut data = TensorData::zeros(dtype, shape.iter().product());
    match &mut data {
        TensorData::F32(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
        TensorData::F16(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
        TensorData::I64(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
        TensorData::I32(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
        TensorData::I8(v) => bytemuck::cast_slice_mut(v).copy_from_slice(bytes),
        TensorData::U8(v) | TensorData::Bool(v) => v.copy_from_slice(bytes),
    }
    Tensor::new(shape, data)
}

fn run(
    graph: Graph,
    given: &[(&str, &Tensor)],
    precision: Precision,
    optimised: bool,
) -> Result<Vec<Tensor>, String> {
    let graph = if optimised { optimise(graph)? } else { graph };
    let lowering = lower::lower(&graph, precision).map_err(|e| e.to_string())?;
    let bytes = |id| {
        let name = &graph.value(id).name;
        let (_, t) = given.iter().find(|(n, _)| n == name).expect("an input that is given");
        ViewData::bytes(t.view().data)
    };
    let inputs: Vec<&[u8]> = graph.inputs.iter().map(|&id| bytes(id)).collect();
    let outputs = interpret::run(&lowering, &inputs).map_err(|e| e.to_string())?;
    let facts = graph.outputs.iter().map(|&(_, v)| graph.fact(v));
    Ok(facts.zip(outputs).map(|(f, b)| tensor(&f.shape, f.dtype, &b)).collect())
}

fn optimise(graph: Graph) -> Result<Graph, String> {
    let options = passes::PassOptions::default();
    let done = passes::optimise(graph, &options, &mut |_| {}).map_err(|e| e.to_string())?;
    Ok(done.0)
}

fn all(precision: Precision, optimised: bool, limit: f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let cases = common::cases(&folder);
    let mut failures = Vec::new();
    for case in &cases {
        let by = |graph, given: &[(&str, &Tensor)]| run(graph, given, precision, optimised);
        if let Err(reason) = common::run_by(case, limit, by) {
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
