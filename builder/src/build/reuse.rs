//! What an engine that is there already is worth to a build.

use std::path::Path;
use std::time::Instant;

use tobiuo_engine::{DeviceKey, EngineError, EngineFile, Task, ThisDevice};

use super::{BuildReport, Job, PARTLY_TUNED, VERSION, check_distinct, check_paths, import_all};
use crate::BuildError;
use crate::graph::Graph;
use crate::hardware::{Gpu, Hardware, choose};
use crate::hash::model_hash;
use crate::options::BuildOptions;
use crate::progress::Progress;
use crate::tactics::Effort;

/// How an engine stands to the one that a build would make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The build would make it again.
    Current,
    /// It computes the same, with kernels that were not, or not all, timed on this device.
    Untuned,
    /// It is of another model, of other options or of another builder: which.
    Stale(String),
}

/// A build whose model is read and whose device is known, before any work on it.
pub(crate) struct Begun<'a> {
    job: Job<'a>,
    graphs: Vec<(usize, Graph)>,
}

impl<'a> Begun<'a> {
    /// Reads the model and settles the device. Nothing is written.
    pub fn new(
        model: &'a Path,
        engine: &'a Path,
        options: &'a BuildOptions,
        progress: &mut dyn Progress,
    ) -> Result<Begun<'a>, BuildError> {
        check_distinct(model, engine, options)?;
        let chosen = choose(options)?;
        let mut job = Job { model, engine, options, chosen, begun: Instant::now() };
        progress.stage("reading the model", job.shares().import);
        let graphs = import_all(model, options)?;
        job.settle(&graphs)?;
        Ok(Begun { job, graphs })
    }

    /// How an engine stands to this build's.
    pub fn standing(&self, engine: &EngineFile) -> Standing {
        let m = engine.manifest();
        let said = &self.graphs[0].1.metadata;
        let stale = |what: &str| Standing::Stale(what.to_string());
        if m.builder != VERSION {
            return stale(&format!("it was made by {}, this is {VERSION}", m.builder));
        }
        // What a model's properties say is no part of its hash.
        let meaning = m.labels == said.labels
            && m.task == said.task.clone().unwrap_or(Task::Tensors)
            && m.preprocess == said.preprocess;
        if behind_device(&m.provenance.options) != behind_device(&self.job.described()) {
            return stale("the options are others");
        }
        // The hash is of the graph as these options make it.
        if !meaning || m.provenance.model_hash != model_hash(&self.graphs[0].1) {
            return stale("the model is another");
        }
        let same = m.provenance.options == self.job.described() && self.job.same_device(engine);
        match (same, tuned(engine)) {
            (true, _) if !self.job.lacks_tuning(engine) => Standing::Current,
            (false, Tuned::Yes) => stale("the options are others"),
            _ => Standing::Untuned,
        }
    }

    /// Whether an engine runs on the device that this build is for.
    pub fn fits(&self, engine: &EngineFile) -> Result<(), EngineError> {
        engine.check_device(&match &self.job.chosen.hardware {
            Hardware::Gpu(Gpu { device: Some(device), .. }) => {
                ThisDevice::from(DeviceKey::Cuda(tobiuo_cuda::device_key(device)))
            }
            _ => ThisDevice::cpu(),
        })
    }

    /// The device, and why this one where it was left open.
    pub fn hardware(&self) -> (&Hardware, Option<&str>) {
        (&self.job.chosen.hardware, self.job.chosen.why.as_deref())
    }

    /// Builds.
    pub fn finish(self, progress: &mut dyn Progress) -> Result<BuildReport, BuildError> {
        check_paths(self.job.model, self.job.engine)?;
        self.job.finish(progress, self.graphs)
    }
}

impl Job<'_> {
    /// True for an engine's device where this build would make one for it.
    pub(super) fn same_device(&self, engine: &EngineFile) -> bool {
        match (&self.chosen.hardware, &engine.manifest().device) {
            (Hardware::Cpu, DeviceKey::Cpu { .. }) => true,
            (Hardware::Gpu(gpu), DeviceKey::Cuda(key)) => match &gpu.device {
                None => key.sm == gpu.sm && !key.tuned,
                Some(device) => {
                    let here = DeviceKey::Cuda(tobiuo_cuda::device_key(device));
                    engine.check_device(&ThisDevice::from(here)).is_ok()
                }
            },
            _ => false,
        }
    }

    /// The report of an engine that this build would make again, if there is a sound one.
    pub(super) fn reusable(&self, first: &(usize, Graph)) -> Option<BuildReport> {
        if !self.engine.exists() || !self.may_reuse() {
            return None;
        }
        let engine = match EngineFile::open(self.engine) {
            Ok(engine) => engine,
            Err(e) => {
                log::info!("the engine that is there is built anew: {e}");
                return None;
            }
        };
        let m = engine.manifest();
        let said = &first.1.metadata;
        let same = m.builder == VERSION
            && !self.lacks_tuning(&engine)
            && m.provenance.options == self.described()
            && self.same_device(&engine)
            // What a model's properties say is no part of its hash.
            && m.labels == said.labels
            && m.task == said.task.clone().unwrap_or(Task::Tensors)
            && m.preprocess == said.preprocess
            && m.provenance.model_hash == model_hash(&first.1);
        same.then(|| BuildReport {
            model: self.model.into(),
            model_hash: m.provenance.model_hash.clone(),
            engine: self.engine.into(),
            engine_hash: engine.hash_hex(),
            engine_bytes: engine.len(),
            reused: true,
            device: self.chosen.hardware.name(),
            device_why: self.chosen.why.clone(),
            precision: m.precision,
            inputs: m.inputs.clone(),
            outputs: m.outputs.clone(),
            task: m.task.clone(),
            labels: m.labels.len(),
            weights_bytes: engine.weights().len() as u64,
            passes: m.provenance.passes.clone(),
            plans: Vec::new(),
            cuda: None,
            int8: None,
            notes: first.1.metadata.notes.clone(),
            seconds: self.begun.elapsed().as_secs_f64(),
        })
    }

    /// An engine whose kernels this build would time, and which were not, or not all.
    pub(super) fn lacks_tuning(&self, engine: &EngineFile) -> bool {
        let times = matches!(self.chosen.hardware, Hardware::Gpu(Gpu { device: Some(_), .. }))
            && self.options.cuda.effort != Effort::Fast;
        times && tuned(engine) != Tuned::Yes
    }
}

/// Which of an engine's kernels were timed on its device.
#[derive(PartialEq)]
enum Tuned {
    No,
    Partly,
    Yes,
}

fn tuned(engine: &EngineFile) -> Tuned {
    let m = engine.manifest();
    match &m.device {
        DeviceKey::Cuda(key) if !key.tuned => Tuned::No,
        _ if m.provenance.notes.iter().any(|note| note.starts_with(PARTLY_TUNED)) => Tuned::Partly,
        _ => Tuned::Yes,
    }
}

/// The part of an engine's options that says what it computes, not how it was tuned.
fn behind_device(options: &str) -> &str {
    options.find("precision=").map_or(options, |at| &options[at..])
}
