//! From optimised graphs to the plans, code and weights of a CUDA engine.

mod report;
pub mod tune;

use std::path::Path;

use tobiuo_engine::{CudaKey, Plan, Precision, Preprocess, Task};

use super::assemble::{Parts, assemble};
use super::joins;
use super::limits::check_limit;
use super::lower::LowerError;
use super::sections::Sections;
use super::speed::{self, Source, Version};
use super::vision::{self, Camera};
use crate::BuildError;
use crate::build::VERSION;
use crate::hardware::Gpu;
use crate::import::{NodeStatus, UnsupportedNode};
use crate::options::BuildOptions;
use crate::progress::Progress;
use crate::quantize::report::SpeedReport;
use crate::tactics::TacticError;
use crate::tactics::record::{Record, RecordedInt8, RecordedPlan};
use report::plan_report;
pub use report::{CudaPlanReport, CudaReport, DriverReport, LayerReport};
use tune::{Tuned, Tuner};

/// What a CUDA engine is made from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The device.
    pub gpu: &'a Gpu,
    /// Precision of the heavy layers.
    pub precision: Precision,
    /// What the user asked for.
    pub options: &'a BuildOptions,
    /// The model's file, for people.
    pub model: &'a str,
    /// Hash of graph and weights.
    pub model_hash: &'a str,
    /// The options that shape the engine, as one line.
    pub described: &'a str,
    /// Items per run, of each plan.
    pub batches: &'a [usize],
    /// What the outputs mean.
    pub task: &'a Task,
    /// How frames become the image input.
    pub preprocess: Option<&'a Preprocess>,
}

/// What a CUDA engine holds.
#[derive(Clone, Debug)]
pub struct Made {
    /// One per batch size.
    pub plans: Vec<Plan>,
    /// Weights and code.
    pub sections: Sections,
    /// The device it is for.
    pub key: CudaKey,
    /// What was done.
    pub report: CudaReport,
    /// What is in FP16 because it is faster there, of each plan that is mixed.
    pub speeds: Vec<SpeedReport>,
    /// What was decided, to do the same again.
    pub record: Record,
}

impl From<LowerError> for BuildError {
    fn from(e: LowerError) -> Self {
        let node = |n: super::lower::NoKernel| UnsupportedNode {
            name: n.node,
            op_type: n.op.into(),
            domain: String::new(),
            attributes: Default::default(),
            inputs: Vec::new(),
            status: NodeStatus::Unsupported,
            reason: n.why,
            would_need: "a CUDA kernel for it; --device cpu runs it".into(),
        };
        BuildError::Unsupported(e.0.into_iter().map(node).collect())
    }
}

/// Makes the plans of a CUDA engine, one for each graph. `share` is this work's part of the
/// whole, for the progress bar.
pub fn make(
    request: &Request,
    mut tuner: Tuner,
    sources: &[Source],
    int8: Option<RecordedInt8>,
    progress: &mut dyn Progress,
    share: f64,
) -> Result<Made, BuildError> {
    let Request { precision, options, .. } = *request;
    let share = share / sources.len() as f64;
    let mut chosen: Vec<Version> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let speed = tuner.record.as_ref().and_then(|r| r.plans[i].speed.as_ref());
        let mut version = Version::of(source.graph(speed)?, precision)?;
        if let Some(record) = &tuner.record {
            version = version.joined(&record.plans[i].joined)?;
        }
        chosen.push(version);
    }
    let mut sections = Sections::default();
    let (mut plans, mut reports, mut recorded) = (Vec::new(), Vec::new(), Vec::new());
    let mut speeds = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let (tuned, speed, joined) = match tuner.record.take() {
            Some(record) => {
                let (plan, lowering) = (&record.plans[i], &chosen[i].lowering);
                let made = plan.replay(lowering, &tuner.target, &tuner.compiler, progress, share);
                let (tactics, schedule) = made?;
                let (speed, joined) = (plan.speed.clone(), plan.joined.clone());
                tuner.record = Some(record);
                (Tuned { tactics, schedule, network_us: None }, speed, joined)
            }
            None => {
                let (kernels, joining) = (share * 0.9, share * 0.1);
                let (tuned, speed) =
                    speed::tune(&mut tuner, source, &mut chosen, i, (&mut *progress, kernels))?;
                let (tuned, joined) =
                    joins::tune(&mut tuner, &mut chosen, i, tuned, (&mut *progress, joining))?;
                (tuned, speed, joined)
            }
        };
        let (batch, Version { graph, lowering }) = (source.batch, &chosen[i]);
        let Tuned { tactics, schedule, network_us } = tuned;
        let mut assembled = assemble(
            &Parts {
                graph,
                batch,
                lowering,
                tactics: &tactics,
                schedule: &schedule,
                target: &tuner.target,
                keep: false,
            },
            &mut sections,
        )?;
        if let Some(preprocess) = request.preprocess {
            let camera = Camera { preprocess, task: request.task };
            let (compiler, target) = (&tuner.compiler, &tuner.target);
            let mut compile = |source: &str| compiler.compile((source, false), target.sm);
            let lies = (&**lowering, &assembled.homes[..]);
            let plan = &mut assembled.plan;
            vision::add(plan, lies, &camera, target, &mut compile, &mut sections)
                .map_err(TacticError::from)?;
        }
        let mut plan = RecordedPlan::of(batch, lowering, &tactics, &schedule, speed.as_ref());
        plan.joined = joined;
        recorded.push(plan);
        let mut said = plan_report(batch, lowering, &tactics, &schedule, &assembled);
        said.network_us = network_us;
        reports.push(said);
        plans.push(assembled.plan);
        speeds.extend(speed);
    }
    if let Some(limit) = options.cuda.memory_limit {
        check_limit(limit, &sections, &reports)?;
    }
    let Tuner { mut tuning, mut key, effort, nvrtc, target, record, .. } = tuner;
    if record.is_none() && tuning.timed + tuning.timed_before == 0 {
        // The time was over before anything was timed.
        key.tuned = false;
    }
    let (compiled, before) = tuner.compiler.counts();
    (tuning.compiled, tuning.compiled_before) = (compiled, before);
    let driver = DriverReport::of(&key);
    if let Some(warning) = &driver.warning {
        log::warn!("{warning}");
    }
    let report = CudaReport {
        device: key.clone(),
        effort,
        nvrtc: format!("{}.{}", nvrtc.0, nvrtc.1),
        driver,
        replayed: options.cuda.replay.clone(),
        tactic_cache: tuner.cache.path().map(Path::to_path_buf),
        bandwidth_gbs: target.bandwidth_gbs,
        tuning,
        weights: sections.weights.bytes().len() as u64,
        code: sections.code.bytes().len() as u64,
        kernels: sections.code.parts(),
        plans: reports,
    };
    let made = Record {
        format: Record::FORMAT,
        builder: VERSION.into(),
        nvrtc,
        model: request.model.into(),
        model_hash: request.model_hash.into(),
        device: key.clone(),
        target,
        precision,
        effort,
        options: record.as_ref().map_or_else(|| request.described.into(), |r| r.options.clone()),
        int8,
        plans: recorded,
    };
    Ok(Made { plans, sections, key, report, speeds, record: made })
}
