//! Cases in ONNX's own layout: a folder with model.onnx, input_I.npy, output_I.npy.

pub mod dumps;

use std::fs;
use std::path::{Path, PathBuf};

use tobiuo_builder::graph::Graph;
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::interpret;
use tobiuo_ops::Op;
use tobiuo_tensor::{DType, Tensor, npy};

/// Folders with a case, sorted.
pub fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.join("model.onnx").is_file())
        .collect();
    found.sort();
    found
}

/// Imports a case's model, runs it on the CPU reference and compares every output; `limit` is
/// for f32.
pub fn run(folder: &Path, limit: f64) -> Result<(), String> {
    run_by(folder, limit, |graph, given| interpret::run(&graph, given).map_err(|e| e.to_string()))
}

/// As [`run`], the graph run by a function of the caller's.
pub fn run_by(
    folder: &Path,
    limit: f64,
    by: impl FnOnce(Graph, &[(&str, &Tensor)]) -> Result<Vec<Tensor>, String>,
) -> Result<(), String> {
    let model = folder.join("model.onnx");
    let options = ImportOptions { input_shapes: shapes(folder)?, ..ImportOptions::default() };
    let graph = import(&model, &options).map_err(|e| e.to_string())?;
    let names: Vec<String> = graph.outputs.iter().map(|(name, _)| name.clone()).collect();
    let mut inputs = Vec::new();
    for (i, &id) in graph.inputs.iter().enumerate() {
        let tensor =
            npy::read(&folder.join(format!("input_{i}.npy"))).map_err(|e| e.to_string())?;
        let value = graph.value(id);
        inputs.push((value.name.clone(), convert(tensor, value.fact.dtype)?));
    }
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let outputs = by(graph, &given)?;
    for (i, (got, name)) in outputs.iter().zip(&names).enumerate() {
        let path = folder.join(format!("output_{i}.npy"));
        let want = npy::read(&path).map_err(|e| e.to_string())?;
        compare(got, &want, limit).map_err(|e| format!("output '{name}': {e}"))?;
    }
    Ok(())
}

/// Shapes that must be said: a first axis of size 0 would be taken as the batch. In `shapes.tsv`, a
/// line per input: its name and sizes, separated by tabs.
pub fn shapes(folder: &Path) -> Result<Vec<(String, Vec<usize>)>, String> {
    let path = folder.join("shapes.tsv");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let line = |l: &str| {
        let (name, sizes) = l.split_once('\t')?;
        let sizes: Option<Vec<usize>> = sizes.split('\t').map(|d| d.parse().ok()).collect();
        Some((name.to_string(), sizes?))
    };
    text.lines().map(|l| line(l).ok_or_else(|| format!("{}: {l}", path.display()))).collect()
}

/// A tensor as another element type: f16 inputs are f32 ports.
fn convert(tensor: Tensor, to: DType) -> Result<Tensor, String> {
    if tensor.dtype() == to {
        return Ok(tensor);
    }
    let cast = tobiuo_cpu::evaluate(&Op::Cast { to }, &[&tensor]).map_err(|e| e.to_string())?;
    cast.into_iter().next().ok_or_else(|| "a cast gives one output".to_string())
}

/// Relative L2 distance within the limit (where f16 is expected: 2e-3); integers are equal.
pub fn compare(got: &Tensor, want: &Tensor, limit: f64) -> Result<(), String> {
    if got.shape() != want.shape() {
        return Err(format!("shape {:?}, expected {:?}", got.shape(), want.shape()));
    }
    let as_f32 = |d: DType| if d == DType::F16 { DType::F32 } else { d };
    if as_f32(got.dtype()) != as_f32(want.dtype()) {
        return Err(format!("type {}, expected {}", got.dtype(), want.dtype()));
    }
    let (a, b) = (got.to_f64(), want.to_f64());
    let limit = match want.dtype() {
        DType::F16 => 2e-3,
        DType::F32 => limit,
        _ => 0.0,
    };
    let (mut distance, mut norm) = (0.0f64, 0.0f64);
    for (i, (&x, &y)) in a.iter().zip(&b).enumerate() {
        if !x.is_finite() || !y.is_finite() {
            if x != y && !(x.is_nan() && y.is_nan()) {
                return Err(format!("element {i} is {x}, expected {y}"));
            }
            continue;
        }
        distance += (x - y) * (x - y);
        norm += y * y;
    }
    let relative = if distance == 0.0 { 0.0 } else { (distance / norm.max(1e-30)).sqrt() };
    if relative <= limit {
        return Ok(());
    }
    let head = |v: &[f64]| format!("{:?}", &v[..v.len().min(8)]);
    Err(format!("relative L2 {relative:.2e} > {limit:e}: {} vs {}", head(&a), head(&b)))
}
