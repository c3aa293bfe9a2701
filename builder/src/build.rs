//! Model in, engine out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use tobiuo_engine::format::SectionKind;
use tobiuo_engine::{
    DeviceKey, EngineFile, EngineWriter, Manifest, PassRecord, Port, Precision, Provenance,
    SectionSpec, TENSOR_ALIGN, Task,
};

use crate::graph::Graph;
use crate::hash::model_hash;
use crate::import::{ImportOptions, import};
use crate::options::BuildOptions;
use crate::passes::{PASSES, optimise};
use crate::plan::weights::Weights;
use crate::plan::{PlanReport, plan};
use crate::progress::Progress;
use crate::{BuildError, meaning};

/// What a build made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BuildReport {
    /// The model's file.
    pub model: PathBuf,
    /// blake3 over graph and weights, hex.
    pub model_hash: String,
    /// The engine's file.
    pub engine: PathBuf,
    /// The engine's identity, hex.
    pub engine_hash: String,
    /// Bytes of the engine's file.
    pub engine_bytes: u64,
    /// True when an engine that was there already is what this build would have made.
    pub reused: bool,
    /// `cpu`.
    pub device: String,
    /// `fp32`.
    pub precision: Precision,
    /// Inputs: name, type, shape.
    pub inputs: Vec<Port>,
    /// Outputs: name, type, shape.
    pub outputs: Vec<Port>,
    /// What the outputs mean.
    pub task: Task,
    /// Number of class names.
    pub labels: usize,
    /// Bytes of the weights section.
    pub weights_bytes: u64,
    /// What each pass did to the first plan's graph.
    pub passes: Vec<PassRecord>,
    /// Each plan's memory; empty for an engine that was reused.
    pub plans: Vec<PlanReport>,
    /// What the user should know about the import.
    pub notes: Vec<String>,
    /// Wall-clock time of the build.
    pub seconds: f64,
}

/// An engine that [`build_cached`] gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Cached {
    /// It was there: same model, same options, same builder.
    Reused(BuildReport),
    /// It was built now.
    Built(BuildReport),
}

/// This builder's version, as engines say it.
pub const VERSION: &str = concat!("tobiuo-builder ", env!("CARGO_PKG_VERSION"));

/// Reads a model, optimises it, plans it for the CPU device and writes an engine file.
///
/// The same model and options give the same bytes. When anything fails, no engine is left
/// and one that was there before is as it was.
///
/// ```no_run
/// use std::path::Path;
/// use tobiuo_builder::{BuildOptions, build};
///
/// let options = BuildOptions { batches: vec![1, 4], ..Default::default() };
/// let report = build(Path::new("model.onnx"), Path::new("model.tobiuo"), &options, &mut ())?;
/// println!("{} bytes", report.engine_bytes);
/// # Ok::<(), tobiuo_builder::BuildError>(())
/// ```
///
/// # Errors
///
/// [`BuildError`]; its `exit_status` is the program's.
pub fn build(
    model: &Path,
    engine: &Path,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<BuildReport, BuildError> {
    let begun = Instant::now();
    check_paths(model, engine)?;
    progress.stage("reading the model", IMPORT_SHARE);
    let graphs = import_all(model, options)?;
    finish_build(model, engine, options, progress, graphs, begun)
}

/// As [`build`], but an engine that is there already and says that it comes from the same
/// model, options and builder is verified and kept.
pub fn build_cached(
    model: &Path,
    engine: &Path,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<Cached, BuildError> {
    let begun = Instant::now();
    check_paths(model, engine)?;
    progress.stage("reading the model", IMPORT_SHARE);
    let graphs = import_all(model, options)?;
    if let Some(report) = reusable(model, engine, options, &graphs[0], begun) {
        progress.finish();
        return Ok(Cached::Reused(report));
    }
    finish_build(model, engine, options, progress, graphs, begun).map(Cached::Built)
}

/// Shares of a build's time, of 1.
const IMPORT_SHARE: f64 = 0.3;
const PASSES_SHARE: f64 = 0.3;
const PLAN_SHARE: f64 = 0.15;
const WRITE_SHARE: f64 = 0.25;

/// Refuses, before any work, what cannot end well.
fn check_paths(model: &Path, engine: &Path) -> Result<(), BuildError> {
    let usage = |what: String| Err(BuildError::Usage(what));
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |error| BuildError::Io { path, error }
    };
    let real_model = fs::canonicalize(model).map_err(io(model))?;
    if engine.file_name().is_none() || engine.is_dir() {
        return usage(format!(
            "{}: the engine's path is a directory; give a file name, such as {}",
            engine.display(),
            engine.join("model.tobiuo").display()
        ));
    }
    if fs::canonicalize(engine).is_ok_and(|real| real == real_model) {
        return usage(format!("{}: this would overwrite the model", engine.display()));
    }
    let folder = match engine.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return usage(format!("{}: the directory of the engine does not exist", folder.display()));
    }
    // Permission bits do not tell all (read-only mounts, quotas): try.
    let probe = folder.join(format!(".tobiuo-{}.probe", std::process::id()));
    let tried = fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    match tried {
        Ok(_) => fs::remove_file(&probe).map_err(io(&probe)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(BuildError::Io { path: folder.into(), error }),
    }
}

/// The model's graph for each batch size, ascending.
fn import_all(model: &Path, options: &BuildOptions) -> Result<Vec<(usize, Graph)>, BuildError> {
    let mut batches = options.batches.clone();
    batches.sort_unstable();
    batches.dedup();
    if batches.is_empty() || batches[0] == 0 {
        return Err(BuildError::Usage("--batch: sizes from 1 on are wanted".into()));
    }
    let mut graphs = Vec::new();
    for batch in batches {
        let import_options = ImportOptions { batch, input_shapes: options.input_shapes.clone() };
        let mut graph = import(model, &import_options)?;
        meaning::apply(&mut graph, options)?;
        let batch = if options.batches == [1] { fixed_batch(&graph) } else { batch };
        graphs.push((batch, graph));
    }
    Ok(graphs)
}

/// The batch of a model that fixes it itself, as far as its pictures tell; else 1.
fn fixed_batch(graph: &Graph) -> usize {
    let pictures = graph.inputs.iter().map(|&v| graph.shape(v)).filter(|s| s.len() == 4);
    let mut batches = pictures.map(|s| s[0]);
    match batches.next() {
        Some(n) if n > 0 && batches.all(|m| m == n) => n,
        _ => 1,
    }
}

fn ports(graph: &Graph) -> (Vec<Port>, Vec<Port>) {
    let port = |name: &str, v| Port {
        name: name.into(),
        dtype: graph.fact(v).dtype,
        shape: graph.shape(v).to_vec(),
    };
    (
        graph.inputs.iter().map(|&v| port(&graph.value(v).name, v)).collect(),
        graph.outputs.iter().map(|(name, v)| port(name, *v)).collect(),
    )
}

/// The report of an engine that this build would make again, if there is a sound one.
fn reusable(
    model: &Path,
    path: &Path,
    options: &BuildOptions,
    first: &(usize, Graph),
    begun: Instant,
) -> Option<BuildReport> {
    if !path.exists() {
        return None;
    }
    let engine = match EngineFile::open(path) {
        Ok(engine) => engine,
        Err(e) => {
            log::info!("the engine that is there is built anew: {e}");
            return None;
        }
    };
    let m = engine.manifest();
    let said = &first.1.metadata;
    let same = m.builder == VERSION
        && m.provenance.options == options.describe("device=cpu precision=fp32")
        // What a model's properties say is no part of its hash.
        && m.labels == said.labels
        && m.task == said.task.clone().unwrap_or(Task::Tensors)
        && m.preprocess == said.preprocess
        && m.provenance.model_hash == model_hash(&first.1);
    same.then(|| BuildReport {
        model: model.into(),
        model_hash: m.provenance.model_hash.clone(),
        engine: path.into(),
        engine_hash: engine.hash_hex(),
        engine_bytes: engine.len(),
        reused: true,
        device: "cpu".into(),
        precision: m.precision,
        inputs: m.inputs.clone(),
        outputs: m.outputs.clone(),
        task: m.task.clone(),
        labels: m.labels.len(),
        weights_bytes: engine.weights().len() as u64,
        passes: m.provenance.passes.clone(),
        plans: Vec::new(),
        notes: first.1.metadata.notes.clone(),
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn finish_build(
    model: &Path,
    engine: &Path,
    options: &BuildOptions,
    progress: &mut dyn Progress,
    graphs: Vec<(usize, Graph)>,
    begun: Instant,
) -> Result<BuildReport, BuildError> {
    let metadata = graphs[0].1.metadata.clone();
    let (inputs, outputs) = ports(&graphs[0].1);
    let model_hash = model_hash(&graphs[0].1);

    progress.stage("passes", PASSES_SHARE);
    let rounds = (graphs.len() * PASSES.len()) as f64;
    let mut done = 0.0;
    let mut passes = Vec::new();
    let mut optimised = Vec::new();
    for (batch, graph) in graphs {
        let (graph, records) = optimise(graph, &options.passes, &mut |pass| {
            progress.advance(done / rounds, pass.name);
            done += 1.0;
        })?;
        log::debug!("after passes, batch {batch}: {} nodes", graph.nodes.len());
        if passes.is_empty() {
            passes = records;
        }
        optimised.push((batch, graph));
    }

    progress.stage("planning memory", PLAN_SHARE);
    let mut weights = Weights::new();
    let (mut plans, mut reports) = (Vec::new(), Vec::new());
    let count = optimised.len() as f64;
    for (batch, graph) in optimised {
        progress.advance(plans.len() as f64 / count, &format!("batch {batch}"));
        let (plan, report) = plan(graph, batch, &mut weights)?;
        plans.push(plan);
        reports.push(report);
    }

    let task = metadata.task.clone().unwrap_or(Task::Tensors);
    let manifest = Manifest {
        builder: VERSION.into(),
        // Weights are stored as the model has them; each device packs them for itself.
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Fp32,
        provenance: Provenance {
            model: metadata.model.clone(),
            format: metadata.format.clone(),
            model_hash: model_hash.clone(),
            producer: metadata.producer.clone(),
            options: options.describe("device=cpu precision=fp32"),
            passes: passes.clone(),
            notes: metadata.notes.clone(),
        },
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        task: task.clone(),
        preprocess: metadata.preprocess.clone(),
        labels: metadata.labels.clone(),
        plans,
    };
    progress.stage("writing the engine", WRITE_SHARE);
    let written = write(engine, &manifest, &weights, progress)?;
    progress.finish();
    Ok(BuildReport {
        model: model.into(),
        model_hash,
        engine: engine.into(),
        engine_hash: hex(&written.hash),
        engine_bytes: written.len,
        reused: false,
        device: "cpu".into(),
        precision: Precision::Fp32,
        inputs,
        outputs,
        task,
        labels: metadata.labels.len(),
        weights_bytes: weights.size(),
        passes,
        plans: reports,
        notes: metadata.notes,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn write(
    path: &Path,
    manifest: &Manifest,
    weights: &Weights,
    progress: &mut dyn Progress,
) -> Result<tobiuo_engine::Written, BuildError> {
    let section = SectionSpec { kind: SectionKind::Weights, len: weights.size() };
    let mut writer = EngineWriter::create(path, manifest, &[section])?;
    let mut end = 0;
    for (offset, tensor) in weights.parts() {
        let bytes = tensor.data().bytes();
        writer.write(&zeros(offset - end))?;
        writer.write(bytes)?;
        end = offset + bytes.len() as u64;
        progress.advance(end as f64 / weights.size().max(1) as f64, "");
    }
    writer.write(&zeros(weights.size() - end))?;
    Ok(writer.finish()?)
}

/// A gap between constants.
fn zeros(len: u64) -> Vec<u8> {
    debug_assert!(len < TENSOR_ALIGN);
    vec![0; len as usize]
}
