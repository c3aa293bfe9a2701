//! ONNX models, opset 6 to 28.
//!
//! The file is decoded in place ([`proto`] over [`wire`]), shapes are made static
//! ([`inputs`]), nodes are taken in topological order ([`order`]) and translated one by one
//! ([`ops`]). The importer does not optimise: only what depends on nothing but constants and
//! shapes is computed, because static shapes need it.

mod attributes;
mod context;
mod importer;
mod inputs;
mod ops;
mod order;
mod proto;
mod tensor;
mod wire;

use std::path::Path;

use importer::Importer;
use proto::{Decode, GraphProto, ModelProto};
use stop::Stop;
use wire::{Budget, Message};

use crate::graph::Graph;
use crate::import::{CheckReport, ImportError, ImportOptions, report, stop};
use crate::task;

/// Opsets whose semantics are implemented. Behind 22 they differ in element types and in
/// attributes; one that is not known is reported with its node.
const OPSETS: std::ops::RangeInclusive<i64> = 6..=28;

/// What an import gives besides errors of the file as a whole.
struct Imported {
    graph: Graph,
    reports: Vec<super::NodeReport>,
    notes: Vec<String>,
}

/// True when bytes begin like an ONNX model: a first field that ModelProto has.
pub fn looks_like(bytes: &[u8]) -> bool {
    let budget = Budget::new();
    let mut m = Message::file(bytes, &budget);
    matches!(m.next(), Ok(Some(f)) if matches!(f.number, 1..=8 | 14 | 20 | 25))
}

/// Imports a model from the file's bytes; `path` names it and its folder.
pub fn import(bytes: &[u8], path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let done = run(bytes, path, options)?;
    let nodes: Vec<_> = done.reports.into_iter().filter_map(|r| r.problem).collect();
    if nodes.is_empty() {
        Ok(done.graph)
    } else {
        Err(ImportError::Unsupported { path: path.into(), nodes })
    }
}

/// Looks at every node of a model.
pub fn check(
    bytes: &[u8],
    path: &Path,
    options: &ImportOptions,
) -> Result<CheckReport, ImportError> {
    let done = run(bytes, path, options)?;
    Ok(report::of(&done.graph, done.reports, done.notes))
}

fn run(bytes: &[u8], path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let malformed = |reason: String| ImportError::Malformed { path: path.into(), reason };
    let unsupported = |reason: String| ImportError::UnsupportedModel { path: path.into(), reason };
    let budget = Budget::new();
    let model =
        ModelProto::decode(Message::file(bytes, &budget)).map_err(|e| malformed(e.to_string()))?;
    let Some(graph) = model.graph else {
        let reason = "it has no graph".to_string();
        return Err(ImportError::NotAModel { path: path.into(), reason });
    };
    let mut graph = GraphProto::decode(graph).map_err(|e| malformed(e.to_string()))?;
    let is_default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let opset = match model.opsets.iter().find(|(d, _)| is_default(d)) {
        Some(&(_, version)) => version,
        // Only other domains' operators: each of them is reported.
        None if !graph.nodes.iter().any(|n| is_default(n.domain)) => *OPSETS.end(),
        None => return Err(malformed("it does not say which opset of ONNX it uses".into())),
    };
    if !OPSETS.contains(&opset) {
        let (old, new) = (OPSETS.start(), OPSETS.end());
        return Err(unsupported(format!(
            "opset {opset} is not supported, {old} to {new} are; convert the model with \
             onnx.version_converter or export it again with opset_version=17"
        )));
    }
    if graph.sparse_initializers > 0 {
        return Err(unsupported(format!(
            "it has {} sparse initializers; export the weights as dense tensors",
            graph.sparse_initializers
        )));
    }
    let shapes = inputs::resolve(&graph, options, path)?;
    let folder = tobiuo_tensor::file::folder(path);
    let mut importer = Importer::new(folder, opset, bytes.len());
    importer.functions = model.functions.clone();
    for input in &shapes.inputs {
        if matches!(input.data_type, 10 | 11 | 16) {
            let from = proto::type_name(input.data_type);
            importer.note(format!("input '{}' is {from} in the model, f32 here", input.name));
        }
    }
    let stop = |stop: Stop| match stop {
        Stop::Invalid(reason) | Stop::NotChecked(reason) => malformed(reason),
        Stop::Unsupported { reason, need } if need.is_empty() => unsupported(reason),
        Stop::Unsupported { reason, need } => unsupported(format!("{reason}; {need}")),
    };
    importer.bind_inputs(&mut graph, &shapes).map_err(stop)?;
    importer.nodes(&graph).map_err(stop)?;
    importer.outputs(&graph).map_err(stop)?;
    let Importer { graph: mut result, reports, notes, .. } = importer;
    result.inputs.truncate(shapes.inputs.len());
    describe(&mut result, &model, opset, path, &notes);
    Ok(Imported { graph: result, reports, notes })
}

/// Fills in the metadata.
fn describe(graph: &mut Graph, model: &ModelProto<'_>, opset: i64, path: &Path, notes: &[String]) {
    let mut producer = model.producer_name.trim().to_string();
    if !model.producer_version.trim().is_empty() {
        producer = format!("{producer} {}", model.producer_version.trim());
    }
    let comma = if producer.is_empty() { "" } else { ", " };
    let metadata = &mut graph.metadata;
    metadata.model = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    metadata.format = "onnx".into();
    metadata.producer = format!("{producer}{comma}opset {opset}");
    metadata.properties = model.metadata.clone();
    metadata.notes = notes.to_vec();
    task::infer(graph);
}
