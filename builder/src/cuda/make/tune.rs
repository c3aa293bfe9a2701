//! Choosing kernels for the graphs of one build: the device, the compiler, and what is known.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tobiuo_engine::CudaKey;
use tobiuo_gpu::Context;
use tobiuo_kernels::Target;
use tobiuo_nvrtc::Nvrtc;

use super::Request;
use crate::BuildError;
use crate::build::VERSION;
use crate::cuda::limits::{Fixed, Limits, fitting, fixed_memory, memory, total};
use crate::cuda::lower::Lowering;
use crate::cuda::schedule::Schedule;
use crate::hardware::Gpu;
use crate::options::{CacheChoice, CudaOptions};
use crate::progress::Progress;
use crate::tactics::cubins::CubinStore;
use crate::tactics::record::{Here, Record};
use crate::tactics::{
    Chooser, Compiler, Effort, Tactic, TacticCache, Tuning, bandwidth, settle_once,
};

/// What chooses kernels.
pub struct Tuner {
    /// Makes device code.
    pub compiler: Compiler,
    /// What earlier builds measured, and this one.
    pub cache: TacticCache,
    /// The device's name there.
    pub device_key: String,
    /// The device as the kernel families see it.
    pub target: Target,
    /// The device itself, where kernels can run and no record is followed.
    pub context: Option<Context>,
    /// The record to follow.
    pub record: Option<Record>,
    /// How many candidates are tried.
    pub effort: Effort,
    /// The engine's device key.
    pub key: CudaKey,
    /// The compiler's version.
    pub nvrtc: (u32, u32),
    /// Memory that may be used.
    pub(in crate::cuda) limits: Limits,
    /// Nothing new is tried from then on.
    pub deadline: Option<Instant>,
    /// What was done so far.
    pub tuning: Tuning,
}

/// Kernels for a lowering, and where they run.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// By layer.
    pub tactics: Vec<Tactic>,
    /// By layer.
    pub schedule: Schedule,
    /// The whole network, microseconds, where it was timed.
    pub network_us: Option<f64>,
}

impl Tuner {
    /// Opens the compiler, the cache, the device and the record, whichever there are.
    ///
    /// # Errors
    ///
    /// No compiler, no device, a cache or record that cannot be read, a record of another build.
    pub fn open(request: &Request) -> Result<Tuner, BuildError> {
        let Request { gpu, options, .. } = *request;
        let deadline = options.cuda.time_limit.map(|limit| Instant::now() + limit);
        let record = options.cuda.replay.as_deref().map(read_record).transpose()?;
        let driver = gpu.device.as_ref().map(|d| d.driver);
        let nvrtc = Nvrtc::open_for(gpu.sm, driver).map_err(no_compiler)?;
        let version = nvrtc.version();
        let (mut cache, store) = caches(&options.cuda)?;
        let mut target = gpu
            .target()
            .ok_or_else(|| BuildError::NoDevice(format!("nothing is known of sm_{}", gpu.sm)))?;
        if let Some(record) = &record {
            check_record(request, record, version, &target)?;
            target = record.target.clone();
        }
        let context = match (&gpu.device, &record) {
            (Some(device), None) => Some(Context::new(device.ordinal)?),
            _ => None,
        };
        let device_key = cache_key(gpu, version);
        if let Some(context) = &context {
            target.bandwidth_gbs = bandwidth::of(context, &mut cache, &device_key)?;
        }
        let effort = record.as_ref().map_or(options.cuda.effort, |r| r.effort);
        let timed = context.is_some() && effort != Effort::Fast;
        let key = match &record {
            Some(record) => record.device.clone(),
            None => gpu.key(&target, version, timed),
        };
        let limits =
            Limits { memory: options.cuda.memory_limit, asked_scratch: options.cuda.scratch_limit };
        Ok(Tuner {
            compiler: Compiler::new(nvrtc, store),
            cache,
            device_key,
            target,
            context,
            record,
            effort,
            key,
            nvrtc: version,
            limits,
            deadline,
            tuning: Tuning::default(),
        })
    }

    /// The device, where kernels are timed on it.
    pub fn clock(&self) -> Option<&Context> {
        self.context.as_ref().filter(|_| self.effort != Effort::Fast)
    }

    /// True when the time for trying is over.
    pub fn late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Memory that no choice of kernels changes, of an engine with these plans.
    pub(in crate::cuda) fn fixed(&self, plans: &[&Lowering]) -> Result<Fixed, BuildError> {
        fixed_memory(plans, self.limits.memory)
    }

    fn chooser<'a>(&'a mut self, full: Option<&'a HashSet<String>>, fixed: Fixed) -> Chooser<'a> {
        Chooser {
            compiler: &self.compiler,
            target: &self.target,
            device: self.context.as_ref(),
            effort: self.effort,
            full,
            cache: &mut self.cache,
            device_key: &self.device_key,
            scratch_limit: self.limits.scratch(fixed.all),
            memory_limit: self.limits.memory,
            deadline: self.deadline,
        }
    }

    /// A kernel for every layer. Where `full` is given, only layers with these descriptions have
    /// as many candidates tried as the build's effort says, the others a few.
    pub(in crate::cuda) fn choose(
        &mut self,
        lowering: &Lowering,
        fixed: Fixed,
        full: Option<&HashSet<String>>,
        (progress, share): (&mut dyn Progress, f64),
    ) -> Result<Vec<Tactic>, BuildError> {
        let limits = self.limits;
        let mut chooser = self.chooser(full, fixed);
        let (tactics, took) = fitting(&mut chooser, &limits, fixed.all, &mut |chooser| {
            let (tactics, took) = chooser.choose(lowering, progress, share)?;
            let serial = Schedule::serial(tactics.len());
            let limited = limits.scratch(fixed.all).is_some();
            let needs = || memory(lowering, &serial, &tactics).scratch;
            let scratch = if limited { needs() } else { 0 };
            Ok((tactics, took, scratch))
        })?;
        self.tuning.add(&took);
        Ok(tactics)
    }

    /// Settles finalists and streams in the whole network, where kernels are timed.
    pub(in crate::cuda) fn settle(
        &mut self,
        lowering: &Lowering,
        tactics: Vec<Tactic>,
        fixed: Fixed,
        (progress, share): (&mut dyn Progress, f64),
    ) -> Result<Tuned, BuildError> {
        let schedule = Schedule::serial(tactics.len());
        let mut tuned = Tuned { tactics, schedule, network_us: None };
        let Some(context) = self.context.as_ref().filter(|_| self.effort != Effort::Fast) else {
            return Ok(tuned);
        };
        let begun = Instant::now();
        progress.stage("timing the network", share);
        let placed = settle_once(
            context,
            lowering,
            &tuned.tactics,
            &mut self.cache,
            &self.device_key,
            self.deadline,
        )?;
        self.tuning.timing_seconds += begun.elapsed().as_secs_f64();
        // Finalists, and layers side by side, may need more memory.
        let mut settled = tuned.tactics.clone();
        placed.take(&mut settled);
        let needs = || fixed.weights + total(&memory(lowering, &placed.schedule, &settled));
        if self.limits.memory.is_none_or(|most| needs() <= most) {
            tuned.network_us = Some(placed.network_us.1);
            (tuned.tactics, tuned.schedule) = (settled, placed.schedule);
        }
        Ok(tuned)
    }
}

pub(crate) fn no_compiler(e: tobiuo_nvrtc::NvrtcError) -> BuildError {
    BuildError::NoDevice(e.to_string())
}

/// The tactic cache and the store of compiled kernels beside it. One that cannot be used is a
/// warning where the user did not name it, and where it can be read and not written.
pub(crate) fn caches(
    options: &CudaOptions,
) -> Result<(TacticCache, Option<CubinStore>), BuildError> {
    let Some(path) = options.cache_file() else { return Ok((TacticCache::in_memory(), None)) };
    let named = options.cache != CacheChoice::User;
    let cache = match TacticCache::open(&path) {
        Ok(cache) => cache,
        Err(error) if named => return Err(unusable(path, error)),
        Err(error) => {
            log::warn!("{}: nothing is kept for later builds: {error}", path.display());
            return Ok((TacticCache::in_memory(), None));
        }
    };
    let folder = path.with_extension("cubins");
    match CubinStore::open(&folder) {
        Ok(store) => Ok((cache, Some(store))),
        Err(error) if named && !(path.exists() && is_read_only(&error)) => {
            let what = "compiled kernels are kept in this folder beside the tactic cache";
            let help = "make room for it, or name another file with --tactic-cache";
            let error = io::Error::new(error.kind(), format!("{what}: {error}; {help}"));
            Err(BuildError::Io { path: folder, error })
        }
        Err(error) => {
            log::warn!(
                "{}: compiled kernels are not kept for later builds: {error}",
                folder.display()
            );
            Ok((cache, None))
        }
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Why a tactic cache that the user named cannot be used.
fn unusable(path: PathBuf, error: io::Error) -> BuildError {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => BuildError::Usage(format!(
            "--tactic-cache {}: {error}; name another file, one that is not there is made",
            path.display()
        )),
        _ => BuildError::Io { path, error },
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

/// Refuses a record of something else, and says what differs.
fn check_record(
    request: &Request,
    record: &Record,
    nvrtc: (u32, u32),
    target: &Target,
) -> Result<(), BuildError> {
    let here = request.gpu.device.as_ref().map(|_| request.gpu.key(target, nvrtc, true));
    let differences = record.differences(&Here {
        model_hash: request.model_hash,
        builder: VERSION,
        nvrtc,
        precision: request.precision,
        batches: request.batches,
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
