//! From optimised graphs to the plans, code and weights of a CUDA engine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use tobiuo_engine::{CudaKey, Plan, Precision, Preprocess, Tactic as TacticNote, Task};
use tobiuo_gpu::Context;
use tobiuo_kernels::Target;
use tobiuo_nvrtc::Nvrtc;

use super::assemble::{Assembled, Parts, assemble};
use super::layout::Memory;
use super::limits::{Limits, check_limit, fitting, fixed_memory, memory, total};
use super::lower::{LowerError, Lowering, lower};
use super::schedule::Schedule;
use super::sections::Sections;
use super::vision::{self, Camera};
use crate::BuildError;
use crate::build::VERSION;
use crate::graph::Graph;
use crate::hardware::Gpu;
use crate::import::{NodeStatus, UnsupportedNode};
use crate::options::{BuildOptions, CacheChoice, CudaOptions};
use crate::progress::Progress;
use crate::tactics::cubins::CubinStore;
use crate::tactics::record::{Here, Record, RecordedPlan};
use crate::tactics::{
    Chooser, Compiler, Effort, Tactic, TacticCache, TacticError, Tuning, bandwidth, settle_once,
};

/// The part of choosing that timing the whole network takes, for the progress bar.
const SETTLE_SHARE: f64 = 0.2;

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
    /// What was decided, to do the same again.
    pub record: Record,
}

/// What making a CUDA engine did. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CudaReport {
    /// The device it is for.
    pub device: CudaKey,
    /// `fast`, `default` or `max`.
    pub effort: Effort,
    /// The compiler's version.
    pub nvrtc: String,
    /// The record that was followed, if one was.
    pub replayed: Option<PathBuf>,
    /// The tactic cache.
    pub tactic_cache: Option<PathBuf>,
    /// Measured bandwidth of a copy in device memory, GB/s; the data sheet's for a device that
    /// is not here.
    pub bandwidth_gbs: f64,
    /// Compiling and timing, all plans together.
    pub tuning: Tuning,
    /// Packed constants.
    pub weights: u64,
    /// Cubins.
    pub code: u64,
    /// Distinct kernels.
    pub kernels: usize,
    /// One per batch size.
    pub plans: Vec<CudaPlanReport>,
}

/// What one plan became.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CudaPlanReport {
    /// Items per run.
    pub batch: usize,
    /// Sum of the layers' times, microseconds; `None` where they were not measured.
    pub estimated_us: Option<f64>,
    /// The whole network, measured at build, microseconds.
    pub network_us: Option<f64>,
    /// Layers that only copy.
    pub copies: usize,
    /// Streams.
    pub streams: usize,
    /// Its memory.
    pub memory: Memory,
    /// In the order they run.
    pub layers: Vec<LayerReport>,
}

/// The kernel of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// The layer's name in the model.
    pub name: String,
    /// The operator.
    pub op: String,
    /// The kernel family.
    pub family: String,
    /// Shape of its first output.
    pub shape: Vec<usize>,
    /// Arithmetic operations.
    pub flops: u64,
    /// What the cost model expected, microseconds.
    pub predicted_us: f64,
    /// The candidate, its time and the runners-up's, nanoseconds.
    pub tactic: TacticNote,
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

pub(crate) fn no_compiler(e: tobiuo_nvrtc::NvrtcError) -> BuildError {
    BuildError::NoDevice(e.to_string())
}

/// The tactic cache and the store of compiled kernels beside it. One that cannot be used is a
/// warning where the user did not name it.
pub(crate) fn caches(
    options: &CudaOptions,
) -> Result<(TacticCache, Option<CubinStore>), BuildError> {
    let Some(path) = options.cache_file() else { return Ok((TacticCache::in_memory(), None)) };
    let named = options.cache != CacheChoice::User;
    let opened = TacticCache::open(&path)
        .and_then(|cache| Ok((cache, CubinStore::open(&path.with_extension("cubins"))?)));
    match opened {
        Ok((cache, store)) => Ok((cache, Some(store))),
        Err(error) if named => Err(BuildError::Io { path, error }),
        Err(error) => {
            log::warn!("{}: nothing is kept for later builds: {error}", path.display());
            Ok((TacticCache::in_memory(), None))
        }
    }
}

fn read_record(path: &Path) -> Result<Record, BuildError> {
    Record::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            BuildError::Damaged(format!("--replay {}: {error}", path.display()))
        }
        _ => BuildError::Io { path: path.into(), error },
    })
}

/// The device's name in the tactic cache: everything that changes a kernel's time.
fn cache_key(gpu: &Gpu, nvrtc: (u32, u32)) -> String {
    let Some(d) = &gpu.device else { return format!("sm_{}", gpu.sm) };
    format!(
        "{} sm_{} x{} {} MHz driver {} NVRTC {}.{}",
        d.name,
        gpu.sm,
        d.sm_count,
        d.clock_khz / 1000,
        d.driver,
        nvrtc.0,
        nvrtc.1
    )
}

/// Makes the plans of a CUDA engine. `share` is this work's part of the whole, for the
/// progress bar.
pub fn make(
    request: &Request,
    graphs: &[(usize, Graph)],
    progress: &mut dyn Progress,
    share: f64,
) -> Result<Made, BuildError> {
    let Request { gpu, precision, options, .. } = *request;
    let deadline = options.cuda.time_limit.map(|limit| Instant::now() + limit);
    let record = options.cuda.replay.as_deref().map(read_record).transpose()?;
    let driver = gpu.device.as_ref().map(|d| d.driver);
    let nvrtc = Nvrtc::open_for(gpu.sm, driver).map_err(no_compiler)?;
    let nvrtc_version = nvrtc.version();
    let (mut cache, store) = caches(&options.cuda)?;
    let compiler = Compiler::new(nvrtc, store);
    let mut target = gpu
        .target()
        .ok_or_else(|| BuildError::NoDevice(format!("nothing is known of sm_{}", gpu.sm)))?;
    if let Some(record) = &record {
        check_record(request, record, graphs, nvrtc_version, &target)?;
        target = record.target.clone();
    }
    let mut lowerings = Vec::new();
    for (_, graph) in graphs {
        lowerings.push(lower(graph, precision)?);
    }
    let context = match (&gpu.device, &record) {
        (Some(device), None) => Some(Context::new(device.ordinal)?),
        _ => None,
    };
    let device_key = cache_key(gpu, nvrtc_version);
    if let Some(context) = &context {
        target.bandwidth_gbs = bandwidth::of(context, &mut cache, &device_key)?;
    }
    let effort = record.as_ref().map_or(options.cuda.effort, |r| r.effort);
    let tuned = match &record {
        Some(record) => record.device.tuned,
        None => context.is_some() && effort != Effort::Fast,
    };
    let mut key = match &record {
        Some(record) => record.device.clone(),
        None => gpu.key(&target, nvrtc_version, tuned),
    };
    let limits =
        Limits { memory: options.cuda.memory_limit, asked_scratch: options.cuda.scratch_limit };
    let fixed = fixed_memory(&lowerings, limits.memory)?;

    let mut sections = Sections::default();
    let (mut plans, mut reports, mut recorded) = (Vec::new(), Vec::new(), Vec::new());
    let mut tuning = Tuning::default();
    for ((batch, graph), lowering) in graphs.iter().zip(&lowerings) {
        let share = share / graphs.len() as f64;
        let mut network_us = None;
        let parts = |tactics, schedule| Parts {
            graph,
            batch: *batch,
            lowering,
            tactics,
            schedule,
            target: &target,
            keep: false,
        };
        let (tactics, schedule) = match &record {
            Some(record) => {
                let plan = &record.plans[plans.len()];
                plan.replay(lowering, &target, &compiler, progress, share)?
            }
            None => {
                let mut chooser = Chooser {
                    compiler: &compiler,
                    target: &target,
                    device: context.as_ref(),
                    effort,
                    cache: &mut cache,
                    device_key: &device_key,
                    scratch_limit: limits.scratch(fixed.all),
                    memory_limit: limits.memory,
                    deadline,
                };
                let (mut tactics, took) =
                    fitting(&mut chooser, &limits, fixed.all, &mut |chooser| {
                        let (tactics, took) =
                            chooser.choose(lowering, progress, share * (1.0 - SETTLE_SHARE))?;
                        let serial = Schedule::serial(tactics.len());
                        let limited = limits.scratch(fixed.all).is_some();
                        let needs = || memory(lowering, &serial, &tactics).scratch;
                        let scratch = if limited { needs() } else { 0 };
                        Ok((tactics, took, scratch))
                    })?;
                tuning.add(&took);
                let mut schedule = Schedule::serial(tactics.len());
                if let (Some(context), true) = (&context, tuned) {
                    let begun = Instant::now();
                    progress.stage("timing the network", share * SETTLE_SHARE);
                    let placed = settle_once(
                        context,
                        lowering,
                        &tactics,
                        &mut cache,
                        &device_key,
                        deadline,
                    )?;
                    tuning.timing_seconds += begun.elapsed().as_secs_f64();
                    // Finalists, and layers side by side, may need more memory.
                    let mut settled = tactics.clone();
                    placed.take(&mut settled);
                    let needs =
                        || fixed.weights + total(&memory(lowering, &placed.schedule, &settled));
                    if limits.memory.is_none_or(|most| needs() <= most) {
                        network_us = Some(placed.network_us.1);
                        (tactics, schedule) = (settled, placed.schedule);
                    }
                }
                (tactics, schedule)
            }
        };
        let mut assembled = assemble(&parts(&tactics, &schedule), &mut sections)?;
        if let Some(preprocess) = request.preprocess {
            let camera = Camera { preprocess, task: request.task };
            let mut compile = |source: &str| compiler.compile((source, false), target.sm);
            let lies = (lowering, &assembled.homes[..]);
            let plan = &mut assembled.plan;
            vision::add(plan, lies, &camera, &target, &mut compile, &mut sections)
                .map_err(TacticError::from)?;
        }
        recorded.push(RecordedPlan::of(*batch, lowering, &tactics, &schedule));
        let mut said = plan_report(*batch, lowering, &tactics, &schedule, &assembled);
        said.network_us = network_us;
        reports.push(said);
        plans.push(assembled.plan);
    }
    if let Some(limit) = limits.memory {
        check_limit(limit, &sections, &reports)?;
    }
    if record.is_none() && tuning.timed + tuning.timed_before == 0 {
        // The time was over before anything was timed.
        key.tuned = false;
    }
    let (compiled, before) = compiler.counts();
    (tuning.compiled, tuning.compiled_before) = (compiled, before);
    let report = CudaReport {
        device: key.clone(),
        effort,
        nvrtc: format!("{}.{}", nvrtc_version.0, nvrtc_version.1),
        replayed: options.cuda.replay.clone(),
        tactic_cache: cache.path().map(Path::to_path_buf),
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
        nvrtc: nvrtc_version,
        model: request.model.into(),
        model_hash: request.model_hash.into(),
        device: key.clone(),
        target,
        precision,
        effort,
        options: record.as_ref().map_or_else(|| request.described.into(), |r| r.options.clone()),
        plans: recorded,
    };
    Ok(Made { plans, sections, key, report, record: made })
}

/// Refuses a record of something else, and says what differs.
fn check_record(
    request: &Request,
    record: &Record,
    graphs: &[(usize, Graph)],
    nvrtc: (u32, u32),
    target: &Target,
) -> Result<(), BuildError> {
    let batches: Vec<usize> = graphs.iter().map(|(b, _)| *b).collect();
    let here = request.gpu.device.as_ref().map(|_| request.gpu.key(target, nvrtc, true));
    let differences = record.differences(&Here {
        model_hash: request.model_hash,
        builder: VERSION,
        nvrtc,
        precision: request.precision,
        batches: &batches,
        sm: request.gpu.sm,
        device: here.as_ref(),
    });
    if differences.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = (differences.iter())
        .map(|d| format!("  {}: recorded {}, here {}", d.what, d.recorded, d.here))
        .collect();
    let path = request.options.cuda.replay.clone().unwrap_or_default();
    let text = format!(
        "--replay {}: the record is of another build\n{}\nbuild without --replay, and with \
         --record to make a new one",
        path.display(),
        rows.join("\n")
    );
    let of_device =
        ["architecture", "device", "multiprocessors", "shared memory of a block", "L2 cache"];
    if differences.iter().all(|d| of_device.contains(&d.what)) {
        return Err(BuildError::OtherDevice(text));
    }
    Err(BuildError::Usage(text))
}

fn plan_report(
    batch: usize,
    lowering: &Lowering,
    tactics: &[Tactic],
    schedule: &Schedule,
    assembled: &Assembled,
) -> CudaPlanReport {
    let layers: Vec<LayerReport> = (lowering.layers.iter().zip(tactics))
        .map(|(layer, tactic)| LayerReport {
            name: layer.name.clone(),
            op: layer.op.into(),
            family: layer.layer.family().into(),
            shape: layer.outputs.first().map_or(Vec::new(), |v| v.shape.clone()),
            flops: layer.flops,
            predicted_us: tactic.candidate.predicted_us,
            tactic: tactic.describe(),
        })
        .collect();
    let times: Option<Vec<f64>> = tactics.iter().map(|t| t.time_us).collect();
    CudaPlanReport {
        batch,
        estimated_us: times.map(|t| t.iter().sum()),
        network_us: None,
        copies: lowering.layers.iter().filter(|l| l.op == "Copy").count(),
        streams: schedule.streams,
        memory: assembled.memory,
        layers,
    }
}
