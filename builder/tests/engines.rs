//! Every golden ONNX case as an engine: import, passes, plan, file, executor.

#[allow(dead_code)]
mod common;

use std::path::Path;
use std::sync::Arc;

use tobiuo_builder::{BuildOptions, BuildReport, build, device};
use tobiuo_engine::EngineFile;
use tobiuo_ops::Op;
use tobiuo_tensor::{Tensor, TensorData, TensorViewMut, ViewDataMut, npy};

fn copy(to: TensorViewMut<'_>, from: &Tensor) {
    let from = tobiuo_cpu::evaluate(&Op::Cast { to: to.dtype() }, &[from]).unwrap();
    match (to.data, from[0].data()) {
        (ViewDataMut::F32(a), TensorData::F32(b)) => a.copy_from_slice(b),
        (ViewDataMut::I64(a), TensorData::I64(b)) => a.copy_from_slice(b),
        (ViewDataMut::I32(a), TensorData::I32(b)) => a.copy_from_slice(b),
        (ViewDataMut::I8(a), TensorData::I8(b)) => a.copy_from_slice(b),
        (ViewDataMut::U8(a), TensorData::U8(b)) => a.copy_from_slice(b),
        (ViewDataMut::Bool(a), TensorData::Bool(b)) => a.copy_from_slice(b),
        (a, _) => panic!("an input of {}", a.dtype()),
    }
}

fn run(case: &Path, engine: &Path) -> Result<BuildReport, String> {
    let options = BuildOptions::default();
    let report =
        build(&case.join("model.onnx"), engine, &options, &mut ()).map_err(|e| e.to_string())?;
    let file = Arc::new(EngineFile::open(engine).map_err(|e| e.to_string())?);
    let mut executor = device::executor(&file, 0).map_err(|e| e.to_string())?;
    for i in 0..report.inputs.len() {
        let given = npy::read(&case.join(format!("input_{i}.npy"))).map_err(|e| e.to_string())?;
        copy(executor.input_mut(i), &given);
    }
    // Twice: what the first run leaves in the arena must not matter.
    executor.run();
    executor.run();
    for (i, port) in report.outputs.iter().enumerate() {
        let wanted = npy::read(&case.join(format!("output_{i}.npy"))).map_err(|e| e.to_string())?;
        common::compare(&executor.output(i).to_tensor(), &wanted, 1e-5)
            .map_err(|e| format!("output '{}': {e}", port.name))?;
    }
    Ok(report)
}

#[test]
fn golden_cases_give_the_right_answers_as_engines() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let engines = tempfile::tempdir().unwrap();
    let cases = common::cases(&folder);
    assert!(cases.len() > 50, "{} cases", cases.len());
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let name = case.file_name().unwrap().to_string_lossy();
            let engine = engines.path().join("case.tobiuo");
            run(case, &engine).err().map(|e| format!("{name}: {e}"))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
