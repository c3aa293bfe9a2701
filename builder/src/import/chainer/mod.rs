//! Dump directories, as chainer-trt's `ModelRetriever` and Tobiuo's Python package write them:
//! `model.json` and a file for every weight.
//!
//! The JSON is read into layers ([`model`]), these are taken in topological order and
//! translated one by one ([`ops`]). Shapes in a dump leave out the first axis, the batch
//! (implicit batch); in the graph it is there. What a layer computes is what Chainer computes.

mod context;
mod fields;
mod importer;
mod model;
mod ops;
mod weights;

use std::path::Path;

use importer::Importer;
use model::Model;

use crate::graph::Graph;
use crate::import::{CheckReport, ImportError, ImportOptions, report};
use crate::task;

/// The name of the file that makes a folder a dump.
pub const MODEL: &str = "model.json";

/// Imports the dump in a folder.
pub fn import(folder: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let done = run(folder, options)?;
    let nodes: Vec<_> = done.reports.into_iter().filter_map(|r| r.problem).collect();
    if nodes.is_empty() {
        Ok(done.graph)
    } else {
        Err(ImportError::Unsupported { path: folder.into(), nodes })
    }
}

/// Looks at every layer of the dump in a folder.
pub fn check(folder: &Path, options: &ImportOptions) -> Result<CheckReport, ImportError> {
    let done = run(folder, options)?;
    Ok(report::of(&done.graph, done.reports, done.notes))
}

fn run<'a>(folder: &'a Path, options: &ImportOptions) -> Result<Importer<'a>, ImportError> {
    let path = folder.join(MODEL);
    let malformed = |reason: String| ImportError::Malformed { path: path.clone(), reason };
    let model = Model::read(&path)?;
    let problems = model.shape_problems(options);
    if !problems.is_empty() {
        return Err(ImportError::InputShape { path, problems });
    }
    let mut importer = Importer::new(folder, options.batch);
    importer.inputs(&model).map_err(malformed)?;
    importer.layers(&model).map_err(malformed)?;
    importer.outputs(&model).map_err(malformed)?;
    let name = folder.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_owned()));
    let notes = importer.notes.clone();
    let metadata = &mut importer.graph.metadata;
    metadata.model = name.unwrap_or_default().to_string_lossy().into_owned();
    metadata.format = "chainer".into();
    metadata.producer = "chainer-trt dump".into();
    metadata.notes = notes;
    task::infer(&mut importer.graph);
    Ok(importer)
}
