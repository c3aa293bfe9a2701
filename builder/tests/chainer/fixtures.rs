//! Dumps that Chainer itself made, with every layer's output beside them: each layer agrees on
//! the CPU reference and lowered for CUDA; the outputs agree after the passes, too; and where the
//! same network is there as ONNX, both doors lead to as many kernels and to the same numbers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tobiuo_builder::graph::{Graph, ValueId};
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::interpret;
use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

use crate::{common, lowered};

/// Largest relative L2 error of a layer on the CPU.
const LIMIT: f64 = 1e-5;
/// And with f16 on a GPU.
const LIMIT_F16: f64 = 2e-3;

/// A dump and what Chainer computed.
struct Case {
    folder: PathBuf,
    batch: usize,
    inputs: Vec<(String, Tensor)>,
    /// Tensors by name, and the error they may have.
    layers: Vec<(String, Tensor, f64)>,
    /// Those of them that hold indices.
    indices: Vec<String>,
}

/// In f16 another of two nearly equal elements may be the larger: this share of indices may
/// differ from Chainer's.
const OTHER_INDICES: f64 = 0.02;

/// As [`common::compare`] with f16's limit; `indices` for layers that give them.
fn compare_f16(got: &Tensor, want: &Tensor, limit: f64, indices: bool) -> Result<(), String> {
    if !indices {
        return common::compare(got, want, limit.max(LIMIT_F16));
    }
    let (a, b) = (got.to_f64(), want.to_f64());
    let other = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    if got.shape() != want.shape() || other as f64 > OTHER_INDICES * b.len() as f64 {
        return Err(format!("{other} of {} indices differ", b.len()));
    }
    Ok(())
}

/// A tensor file of f32.
fn tensor(path: &Path) -> Tensor {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = bytes.splitn(3, |&b| b == b'\n');
    let mut text = || String::from_utf8(lines.next().unwrap().to_vec()).unwrap();
    let (size, shape) = (text(), text());
    assert_eq!(size, "4", "{}", path.display());
    let shape: Vec<usize> = shape.split(',').filter_map(|d| d.parse().ok()).collect();
    let values = lines.next().unwrap().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
    Tensor::f32(shape, values.collect())
}

impl Case {
    fn read(folder: &Path) -> Case {
        let text = std::fs::read_to_string(folder.join("model.json")).unwrap();
        let model: Value = serde_json::from_str(&text).unwrap();
        let (mut inputs, mut layers, mut indices) = (Vec::new(), Vec::new(), Vec::new());
        for layer in model["layers"].as_array().unwrap() {
            let name = layer["name"].as_str().unwrap();
            if layer["type"] == "input" {
                let file = layer["input_tensor"].as_str().unwrap();
                inputs.push((name.to_string(), tensor(&folder.join(file))));
                continue;
            }
            let names = layer["output_names"].as_array();
            for output in names.map_or(std::slice::from_ref(&layer["name"]), Vec::as_slice) {
                let output = output.as_str().unwrap();
                let file = folder.join(format!("{output}_output.tensor"));
                if file.is_file() {
                    let limit = layer["x_tolerance"].as_f64().unwrap_or(LIMIT);
                    layers.push((output.to_string(), tensor(&file), limit));
                    if matches!(layer["type"].as_str(), Some("ArgMax" | "ResizeArgmax")) {
                        indices.push(output.to_string());
                    }
                }
            }
        }
        let batch = inputs.first().map_or(1, |(_, t)| t.shape()[0]);
        Case { folder: folder.into(), batch, inputs, layers, indices }
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn graph(&self) -> Graph {
        let options = ImportOptions { batch: self.batch, ..ImportOptions::default() };
        import(&self.folder, &options).unwrap_or_else(|e| panic!("{e}"))
    }

    fn given(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(n, t)| (n.as_str(), t)).collect()
    }

    /// The graph with the known tensors for outputs.
    fn all_layers(&self) -> Graph {
        let mut graph = self.graph();
        graph.outputs = self.layers.iter().map(|(n, ..)| (n.clone(), named(&graph, n))).collect();
        graph
    }
}

fn named(graph: &Graph, name: &str) -> ValueId {
    let found = graph.values().find(|(_, v)| v.name == name);
    found.unwrap_or_else(|| panic!("no value is called '{name}'")).0
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chainer");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.join("model.json").is_file())
        .collect();
    found.sort();
    assert!(found.len() >= 40, "only {} cases are found", found.len());
    found.iter().map(|f| Case::read(f)).collect()
}

/// What does not agree of all cases.
fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_layer_on_the_cpu() {
    let mut failures = Vec::new();
    let mut layers = 0;
    for case in cases() {
        let graph = case.graph();
        let wanted: Vec<ValueId> = case.layers.iter().map(|(n, ..)| named(&graph, n)).collect();
        let values = match interpret::values(&graph, &case.given(), &wanted) {
            Ok(values) => values,
            Err(e) => {
                failures.push(format!("{}: {e}", case.name()));
                continue;
            }
        };
        for ((name, want, limit), id) in case.layers.iter().zip(&wanted) {
            layers += 1;
            if let Err(e) = common::compare(&values[id], want, *limit) {
                failures.push(format!("{}: {name}: {e}", case.name()));
            }
        }
    }
    report(&failures);
    assert!(layers >= 60, "only {layers} layers have outputs");
}

#[test]
fn every_layer_lowered() {
    let mut failures = Vec::new();
    for case in cases() {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let outputs = lowered::run(case.all_layers(), &case.given(), precision, false);
            let outputs = match outputs {
                Ok(outputs) => outputs,
                Err(e) => {
                    failures.push(format!("{} in {precision}: {e}", case.name()));
                    continue;
                }
            };
            for (got, (name, want, limit)) in outputs.iter().zip(&case.layers) {
                let same = match precision {
                    Precision::Fp16 => compare_f16(got, want, *limit, case.indices.contains(name)),
                    _ => common::compare(got, want, *limit),
                };
                if let Err(e) = same {
                    failures.push(format!("{} in {precision}: {name}: {e}", case.name()));
                }
            }
        }
    }
    report(&failures);
}

/// The outputs of a graph after the passes, in three ways.
fn optimised(case: &Case, graph: &Graph) -> Vec<(&'static str, Result<Vec<Tensor>, String>)> {
    let graph = || lowered::optimise(graph.clone());
    let lower = |precision| lowered::run(graph()?, &case.given(), precision, false);
    vec![
        ("cpu", graph().and_then(|g| interpret::run(&g, &case.given()).map_err(|e| e.to_string()))),
        ("lowered", lower(Precision::Fp32)),
        ("lowered, f16", lower(Precision::Fp16)),
    ]
}

#[test]
fn outputs_after_the_passes() {
    let mut failures = Vec::new();
    for case in cases() {
        let graph = case.graph();
        for (way, outputs) in optimised(&case, &graph) {
            let outputs = match outputs {
                Ok(outputs) => outputs,
                Err(e) => {
                    failures.push(format!("{}, {way}: {e}", case.name()));
                    continue;
                }
            };
            for (got, (name, id)) in outputs.iter().zip(&graph.outputs) {
                let tensor = &graph.value(*id).name;
                let Some((_, want, limit)) = case.layers.iter().find(|(n, ..)| n == tensor) else {
                    continue;
                };
                let same = match way {
                    "lowered, f16" => compare_f16(got, want, *limit, case.indices.contains(tensor)),
                    _ => common::compare(got, want, *limit),
                };
                if let Err(e) = same {
                    failures.push(format!("{}, {way}: {name}: {e}", case.name()));
                }
            }
        }
    }
    report(&failures);
}

#[test]
fn both_doors_lead_to_the_same_network() {
    let mut both = 0;
    for case in cases().iter().filter(|c| c.folder.join("model.onnx").is_file()) {
        both += 1;
        let dump = lowered::optimise(case.graph()).unwrap();
        let options = ImportOptions { batch: case.batch, ..ImportOptions::default() };
        let onnx = import(&case.folder.join("model.onnx"), &options);
        let onnx = lowered::optimise(onnx.unwrap_or_else(|e| panic!("{e}"))).unwrap();
        let ops = |g: &Graph| g.nodes.iter().map(|n| n.op.name()).collect::<Vec<_>>();
        assert_eq!(ops(&dump).len(), ops(&onnx).len(), "{}: kernels", case.name());
        // Exporters give inputs names of their own; their order is the same.
        let tensors: Vec<&Tensor> = case.inputs.iter().map(|(_, t)| t).collect();
        let names = onnx.inputs.iter().map(|&i| onnx.value(i).name.clone());
        let names: Vec<String> = names.collect();
        let given: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(tensors).collect();
        let a = interpret::run(&dump, &case.given()).unwrap();
        let b = interpret::run(&onnx, &given).unwrap();
        assert_eq!(a.len(), b.len(), "{}: outputs", case.name());
        for (a, b) in a.iter().zip(&b) {
            common::compare(a, b, 1e-6).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
        }
    }
    println!("{both} networks have both doors");
}
