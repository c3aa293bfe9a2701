//! Dumps that Chainer itself made, with every layer's output beside them: each layer agrees on
//! the CPU reference and lowered for CUDA; the outputs agree after the passes, too; and where the
//! same network is there as ONNX, both doors lead to as many kernels and to the same numbers.

use std::path::{Path, PathBuf};

use tobiuo_builder::graph::{Graph, ValueId};
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::interpret;
use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

use crate::common::dumps::{self, Dump};
use crate::{common, lowered};

fn name(case: &Dump) -> String {
    case.folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn graph(case: &Dump) -> Graph {
    let options = ImportOptions { batch: case.batch, ..ImportOptions::default() };
    import(&case.folder, &options).unwrap_or_else(|e| panic!("{e}"))
}

/// The graph with the known tensors for outputs.
fn all_layers(case: &Dump) -> Graph {
    let mut graph = graph(case);
    let outputs = case.layers.iter().map(|l| (l.name.clone(), named(&graph, &l.name)));
    graph.outputs = outputs.collect();
    graph
}

fn named(graph: &Graph, name: &str) -> ValueId {
    let found = graph.values().find(|(_, v)| v.name == name);
    found.unwrap_or_else(|| panic!("no value is called '{name}'")).0
}

fn cases() -> Vec<Dump> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chainer");
    let found = dumps::folders(&folder);
    assert!(found.len() >= 40, "only {} cases are found", found.len());
    let read = |f: &PathBuf| Dump::read(f).unwrap_or_else(|e| panic!("{}: {e}", f.display()));
    found.iter().map(read).collect()
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
        let graph = graph(&case);
        let wanted: Vec<ValueId> = case.layers.iter().map(|l| named(&graph, &l.name)).collect();
        let values = match interpret::values(&graph, &case.given(), &wanted) {
            Ok(values) => values,
            Err(e) => {
                failures.push(format!("{}: {e}", name(&case)));
                continue;
            }
        };
        for (layer, id) in case.layers.iter().zip(&wanted) {
            layers += 1;
            if let Err(e) = layer.compare(&values[id], false) {
                failures.push(format!("{}: {}: {e}", name(&case), layer.name));
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
            let outputs = lowered::run(all_layers(&case), &case.given(), precision, false);
            let outputs = match outputs {
                Ok(outputs) => outputs,
                Err(e) => {
                    failures.push(format!("{} in {precision}: {e}", name(&case)));
                    continue;
                }
            };
            for (got, layer) in outputs.iter().zip(&case.layers) {
                if let Err(e) = layer.compare(got, precision == Precision::Fp16) {
                    failures.push(format!("{} in {precision}: {}: {e}", name(&case), layer.name));
                }
            }
        }
    }
    report(&failures);
}

/// The outputs of a graph after the passes, in three ways.
fn optimised(case: &Dump, graph: &Graph) -> Vec<(&'static str, Result<Vec<Tensor>, String>)> {
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
        let graph = graph(&case);
        for (way, outputs) in optimised(&case, &graph) {
            let outputs = match outputs {
                Ok(outputs) => outputs,
                Err(e) => {
                    failures.push(format!("{}, {way}: {e}", name(&case)));
                    continue;
                }
            };
            for (got, (output, id)) in outputs.iter().zip(&graph.outputs) {
                let tensor = &graph.value(*id).name;
                let Some(layer) = case.layers.iter().find(|l| l.name == *tensor) else { continue };
                if let Err(e) = layer.compare(got, way == "lowered, f16") {
                    failures.push(format!("{}, {way}: {output}: {e}", name(&case)));
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
        let dump = lowered::optimise(graph(case)).unwrap();
        let options = ImportOptions { batch: case.batch, ..ImportOptions::default() };
        let onnx = import(&case.folder.join("model.onnx"), &options);
        let onnx = lowered::optimise(onnx.unwrap_or_else(|e| panic!("{e}"))).unwrap();
        let ops = |g: &Graph| g.nodes.iter().map(|n| n.op.name()).collect::<Vec<_>>();
        assert_eq!(ops(&dump).len(), ops(&onnx).len(), "{}: kernels", name(case));
        // Exporters give inputs names of their own; their order is the same.
        let tensors: Vec<&Tensor> = case.inputs.iter().map(|(_, t)| t).collect();
        let names = onnx.inputs.iter().map(|&i| onnx.value(i).name.clone());
        let names: Vec<String> = names.collect();
        let given: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(tensors).collect();
        let a = interpret::run(&dump, &case.given()).unwrap();
        let b = interpret::run(&onnx, &given).unwrap();
        assert_eq!(a.len(), b.len(), "{}: outputs", name(case));
        for (a, b) in a.iter().zip(&b) {
            common::compare(a, b, 1e-6).unwrap_or_else(|e| panic!("{}: {e}", name(case)));
        }
    }
    println!("{both} networks have both doors");
}
