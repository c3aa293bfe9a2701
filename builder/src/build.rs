//! Model in, engine out.

mod int8;
mod paths;
mod report;
mod reuse;

use std::path::Path;
use std::time::Instant;

use tobiuo_engine::format::SectionKind;
use tobiuo_engine::{
    DeviceKey, EngineWriter, Manifest, Port, Precision, Provenance, SectionSpec, TENSOR_ALIGN,
    Task, write_sections,
};

use crate::cuda::make::tune::Tuner;
use crate::cuda::make::{Made, Request, make};
use crate::graph::Graph;
use crate::hardware::{Chosen, Gpu, Hardware, choose};
use crate::hash::model_hash;
use crate::import::{ImportOptions, import};
use crate::options::BuildOptions;
use crate::passes::{PASSES, PassOptions, optimise};
use crate::plan::weights::Weights;
use crate::plan::{PlanReport, plan};
use crate::progress::Progress;
use crate::quantize::{Decision, is_quantised};
use crate::{BuildError, meaning};
use paths::{check_distinct, check_paths, check_results};
pub use report::{BuildReport, Cached};
pub(crate) use reuse::{Begun, Standing};

/// This builder's version, as engines say it.
pub const VERSION: &str = concat!("tobiuo-builder ", env!("CARGO_PKG_VERSION"));

/// Reads a model, optimises it, plans it for the device and writes an engine file.
///
/// For the CPU device, for a GPU that is not here, and from one tactic record, the same model
/// and options give the same bytes. When anything fails, no engine is left and one that was
/// there before is as it was.
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
    let mut job = Job::new(model, engine, options)?;
    progress.stage("reading the model", job.shares().import);
    let graphs = import_all(model, options)?;
    job.settle(&graphs)?;
    job.finish(progress, graphs)
}

/// As [`build`], but an engine that is there already and says that it comes from the same
/// model, options and builder, for the same device, is verified and kept. With a record to
/// write or to follow nothing is kept.
pub fn build_cached(
    model: &Path,
    engine: &Path,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<Cached, BuildError> {
    let mut job = Job::new(model, engine, options)?;
    progress.stage("reading the model", job.shares().import);
    let graphs = import_all(model, options)?;
    job.settle(&graphs)?;
    let fresh = options.cuda.record.is_some() || options.cuda.replay.is_some();
    if let Some(report) = (!fresh).then(|| job.reusable(&graphs[0])).flatten() {
        progress.finish();
        return Ok(Cached::Reused(report));
    }
    job.finish(progress, graphs).map(Cached::Built)
}

/// What an engine says whose kernels were not timed.
const UNTUNED: &str = "untuned: kernels were chosen by the cost model, not by timing them on the \
                       device; build on the device for a faster engine";

/// How an engine's note begins when only some of its kernels were timed.
const PARTLY_TUNED: &str = "partly tuned";

/// Shares of a build's time, of 1.
struct Shares {
    import: f64,
    passes: f64,
    /// Calibration, where there is one.
    int8: f64,
    /// Planning, and for a GPU compiling and timing.
    plan: f64,
    write: f64,
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

pub(crate) fn ports(graph: &Graph) -> (Vec<Port>, Vec<Port>) {
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

/// One build.
struct Job<'a> {
    model: &'a Path,
    engine: &'a Path,
    options: &'a BuildOptions,
    chosen: Chosen,
    begun: Instant,
}

/// What a device's part of a build gives.
struct Planned {
    key: DeviceKey,
    plans: Vec<tobiuo_engine::Plan>,
    reports: Vec<PlanReport>,
    content: Content,
}

/// The sections' bytes.
enum Content {
    Cpu(Weights),
    Cuda(Box<Made>),
}

impl<'a> Job<'a> {
    fn new(
        model: &'a Path,
        engine: &'a Path,
        options: &'a BuildOptions,
    ) -> Result<Job<'a>, BuildError> {
        let begun = Instant::now();
        check_paths(model, engine)?;
        check_distinct(model, engine, options)?;
        check_results(options)?;
        let chosen = choose(options)?;
        if chosen.hardware == Hardware::Cpu {
            let only_cuda = [
                ("--record", options.cuda.record.is_some()),
                ("--replay", options.cuda.replay.is_some()),
                ("--memory-limit", options.cuda.memory_limit.is_some()),
            ];
            if let Some((name, _)) = only_cuda.iter().find(|(_, given)| *given) {
                return Err(BuildError::Usage(format!(
                    "{name} is for CUDA engines, this one is for the CPU{}",
                    chosen.why.as_ref().map_or(String::new(), |why| format!(" ({why})"))
                )));
            }
        }
        Ok(Job { model, engine, options, chosen, begun })
    }

    fn shares(&self) -> Shares {
        let calibrated = self.options.int8.calibration.is_some();
        match self.chosen.hardware {
            Hardware::Cpu if calibrated => {
                Shares { import: 0.02, passes: 0.03, int8: 0.9, plan: 0.02, write: 0.03 }
            }
            Hardware::Cpu => {
                Shares { import: 0.3, passes: 0.3, int8: 0.0, plan: 0.15, write: 0.25 }
            }
            Hardware::Gpu(_) => {
                let int8 = if calibrated { 0.5 } else { 0.0 };
                Shares { import: 0.03, passes: 0.05, int8, plan: 0.9 - int8, write: 0.02 }
            }
        }
    }

    /// The options as an engine's provenance has them.
    fn described(&self) -> String {
        let Chosen { hardware, precision, .. } = &self.chosen;
        let mut device = match hardware {
            Hardware::Cpu => "device=cpu".to_string(),
            Hardware::Gpu(Gpu { device: None, .. }) => format!("device={}", hardware.name()),
            Hardware::Gpu(_) => {
                format!("device=cuda effort={:?}", self.options.cuda.effort).to_lowercase()
            }
        };
        let cuda = &self.options.cuda;
        for (name, limit) in
            [("memory-limit", cuda.memory_limit), ("workspace", cuda.scratch_limit)]
        {
            if let (Hardware::Gpu(_), Some(bytes)) = (hardware, limit) {
                device.push_str(&format!(" {name}={bytes}"));
            }
        }
        device.push_str(&format!(" precision={precision}{}", self.described_int8()));
        self.options.describe(&device)
    }

    /// Which passes run: on a GPU, siblings merge.
    fn pass_options(&self) -> PassOptions {
        let mut passes = self.options.passes.clone();
        let merge = "merge-siblings".to_string();
        if matches!(self.chosen.hardware, Hardware::Gpu(_)) && !passes.with.contains(&merge) {
            passes.with.push(merge);
        }
        if self.chosen.precision == Precision::Int8 {
            passes.with.push("integers".into());
        }
        passes
    }

    fn finish(
        self,
        progress: &mut dyn Progress,
        graphs: Vec<(usize, Graph)>,
    ) -> Result<BuildReport, BuildError> {
        let metadata = graphs[0].1.metadata.clone();
        let (inputs, outputs) = ports(&graphs[0].1);
        let model_hash = model_hash(&graphs[0].1);
        let plain = self.plain(&graphs[0].1)?;
        let quantised = self.chosen.precision == Precision::Int8 && is_quantised(&graphs[0].1);

        progress.stage("passes", self.shares().passes);
        let rounds = (graphs.len() * PASSES.len()) as f64;
        let mut done = 0.0;
        let mut passes = Vec::new();
        let mut optimised = Vec::new();
        for (batch, graph) in graphs {
            let (graph, records) = optimise(graph, &self.pass_options(), &mut |pass| {
                progress.advance(done / rounds, pass.name);
                done += 1.0;
            })?;
            log::debug!("after passes, batch {batch}: {} nodes", graph.nodes.len());
            if passes.is_empty() {
                passes = records;
            }
            optimised.push((batch, graph));
        }
        let as_it_came = quantised.then(|| int8::as_it_came(&optimised[0].1));
        let batches: Vec<usize> = optimised.iter().map(|(b, _)| *b).collect();
        let described = self.described();
        let request = |gpu| Request {
            gpu,
            precision: self.chosen.precision,
            options: self.options,
            model: &metadata.model,
            model_hash: &model_hash,
            described: &described,
            batches: &batches,
            task: metadata.task.as_ref().unwrap_or(&Task::Tensors),
            preprocess: metadata.preprocess.as_ref(),
        };
        let mut tuner = match &self.chosen.hardware {
            Hardware::Cpu => None,
            Hardware::Gpu(gpu) => Some(Tuner::open(&request(gpu))?),
        };
        let share = self.shares().int8;
        let decision =
            self.calibrate(&optimised, plain, &model_hash, tuner.as_mut(), progress, share)?;
        let (planned, speeds) = match (&self.chosen.hardware, tuner) {
            (Hardware::Gpu(gpu), Some(tuner)) => {
                let sources = int8::sources(optimised, decision.as_ref());
                let recorded = decision.as_ref().map(Decision::recorded);
                let share = self.shares().plan;
                let mut made = make(&request(gpu), tuner, &sources, recorded, progress, share)?;
                let speeds = std::mem::take(&mut made.speeds);
                let planned = Planned {
                    key: DeviceKey::Cuda(made.key.clone()),
                    plans: std::mem::take(&mut made.plans),
                    reports: Vec::new(),
                    content: Content::Cuda(Box::new(made)),
                };
                (planned, speeds)
            }
            _ => {
                let graphs = int8::on_integers(optimised, decision.as_ref())?;
                (self.plan_cpu(graphs, progress)?, Vec::new())
            }
        };
        let int8 = decision.map(|d| d.report.with_speed(speeds)).or(as_it_came);
        let mut notes = metadata.notes.clone();
        if matches!(&planned.key, DeviceKey::Cuda(key) if !key.tuned) {
            notes.push(UNTUNED.into());
        } else if let Content::Cuda(made) = &planned.content
            && made.report.tuning.untimed > 0
        {
            notes.push(format!(
                "{PARTLY_TUNED}: {} kinds of layers were not timed, the time limit was over; \
                 building again goes on",
                made.report.tuning.untimed
            ));
        }
        notes.extend(int8.iter().flat_map(int8::notes));
        let task = metadata.task.clone().unwrap_or(Task::Tensors);
        let manifest = Manifest {
            builder: VERSION.into(),
            device: planned.key,
            precision: self.chosen.precision,
            provenance: Provenance {
                model: metadata.model.clone(),
                format: metadata.format.clone(),
                model_hash: model_hash.clone(),
                producer: metadata.producer.clone(),
                options: match &planned.content {
                    // As the build that was recorded, so that the engine is the same.
                    Content::Cuda(made) => made.record.options.clone(),
                    Content::Cpu(_) => self.described(),
                },
                passes: passes.clone(),
                notes,
            },
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            task: task.clone(),
            preprocess: metadata.preprocess.clone(),
            labels: metadata.labels.clone(),
            plans: planned.plans,
        };
        progress.stage("writing the engine", self.shares().write);
        // First, so that the engine that was there is as it was if this fails.
        if let (Content::Cuda(made), Some(path)) = (&planned.content, &self.options.cuda.record) {
            let io = |error| BuildError::Io { path: path.clone(), error };
            made.record.write(path).map_err(io)?;
        }
        let (written, weights_bytes) = match &planned.content {
            Content::Cpu(weights) => {
                (write(self.engine, &manifest, weights, progress)?, weights.size())
            }
            Content::Cuda(made) => {
                let (weights, code) = (made.sections.weights.bytes(), made.sections.code.bytes());
                let sections = [(SectionKind::Weights, weights), (SectionKind::Code, code)];
                (write_sections(self.engine, &manifest, &sections)?, weights.len() as u64)
            }
        };
        let cuda = match planned.content {
            Content::Cpu(_) => None,
            Content::Cuda(made) => Some(made.report),
        };
        progress.finish();
        Ok(BuildReport {
            model: self.model.into(),
            model_hash,
            engine: self.engine.into(),
            engine_hash: hex(&written.hash),
            engine_bytes: written.len,
            reused: false,
            device: self.chosen.hardware.name(),
            device_why: self.chosen.why,
            precision: self.chosen.precision,
            inputs,
            outputs,
            task,
            labels: metadata.labels.len(),
            weights_bytes,
            passes,
            plans: planned.reports,
            cuda,
            int8,
            notes: metadata.notes,
            seconds: self.begun.elapsed().as_secs_f64(),
        })
    }

    fn plan_cpu(
        &self,
        graphs: Vec<(usize, Graph)>,
        progress: &mut dyn Progress,
    ) -> Result<Planned, BuildError> {
        progress.stage("planning memory", self.shares().plan);
        let mut weights = Weights::new();
        let (mut plans, mut reports) = (Vec::new(), Vec::new());
        let count = graphs.len() as f64;
        for (batch, graph) in graphs {
            progress.advance(plans.len() as f64 / count, &format!("batch {batch}"));
            let (plan, report) = plan(graph, batch, &mut weights)?;
            plans.push(plan);
            reports.push(report);
        }
        // Weights are stored as the model has them; each device packs them for itself.
        let key = DeviceKey::Cpu { arch: "any".into() };
        Ok(Planned { key, plans, reports, content: Content::Cpu(weights) })
    }
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
