//! Choosing kernels by timing them on the device.
//!
//! For each distinct layer the cost model's best candidates are compiled, on all cores, and
//! timed as replays of a captured graph of dependent launches: weights rotated over copies that
//! together are larger than the L2 cache, because in a whole network they come from memory;
//! activations where the layer before would leave them, in the cache. Candidates take turns, so
//! that a change of the clock meets all of them; the median of a candidate's rounds is its time.

mod program;
mod timing;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tobiuo_gpu::{Context, GpuError, Launch, Module};
use tobiuo_nvrtc::{Compiled, Nvrtc, NvrtcError};

use crate::cuda::lower::Lowering;
use tobiuo_kernels::{Candidate, ENTRY, Layer, Target};

pub use program::Program;

/// How many candidates are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// The cost model's choice, untimed.
    Fast,
    /// A few per layer.
    Default,
    /// All of them.
    Max,
}

impl Effort {
    fn candidates(self) -> usize {
        match self {
            Effort::Fast => 1,
            Effort::Default => 16,
            Effort::Max => usize::MAX,
        }
    }
}

/// A candidate with its device code.
#[derive(Clone, Debug)]
pub struct Tactic {
    /// What runs.
    pub candidate: Candidate,
    /// Its code.
    pub code: Compiled,
    /// Measured time, microseconds; `None` where it was not timed.
    pub time_us: Option<f64>,
    /// The other candidates' labels and times, best first.
    pub runners_up: Vec<(String, f64)>,
}

impl Tactic {
    /// What the engine says of it.
    pub fn describe(&self) -> tobiuo_engine::Tactic {
        let nanoseconds = |us: f64| (us * 1e3).round() as u64;
        tobiuo_engine::Tactic {
            label: self.candidate.label.clone(),
            nanoseconds: self.time_us.map(nanoseconds),
            runners_up: (self.runners_up.iter().filter(|(_, us)| us.is_finite()))
                .map(|(label, us)| (label.clone(), nanoseconds(*us)))
                .collect(),
        }
    }
}

/// Why no kernels could be chosen.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum TacticError {
    Gpu(GpuError),
    Nvrtc(NvrtcError),
    /// No candidate of a layer compiles, or none fits the device.
    None(String),
}

impl std::fmt::Display for TacticError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TacticError::Gpu(e) => write!(f, "{e}"),
            TacticError::Nvrtc(e) => write!(f, "{e}"),
            TacticError::None(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for TacticError {}

impl From<GpuError> for TacticError {
    fn from(e: GpuError) -> TacticError {
        TacticError::Gpu(e)
    }
}

impl From<NvrtcError> for TacticError {
    fn from(e: NvrtcError) -> TacticError {
        TacticError::Nvrtc(e)
    }
}

/// The device's description for the kernel families.
pub fn target_of(context: &Context) -> Target {
    let d = context.device();
    Target {
        sm: d.compute.0 * 10 + d.compute.1,
        sm_count: d.sm_count,
        shared_per_block: d.shared_per_block,
        shared_per_sm: d.shared_per_sm,
        l2_bytes: d.l2_bytes,
        clock_ghz: f64::from(d.clock_khz) / 1e6,
        // A stand-in until the builder measures a copy: Orin and Hopper differ by their L2.
        bandwidth_gbs: if d.l2_bytes > 16 << 20 { 4000.0 } else { 150.0 },
    }
}

/// Compiles sources, with or without the architecture's own features, on all cores; the results
/// are in their order.
pub fn compile_all(
    nvrtc: &Nvrtc,
    sources: &[(&str, bool)],
    sm: u32,
) -> Vec<Result<Compiled, NvrtcError>> {
    let results: Vec<Mutex<Option<Result<Compiled, NvrtcError>>>> =
        sources.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let threads =
        std::thread::available_parallelism().map_or(1, |n| n.get()).min(sources.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(source, specific)) = sources.get(i) else { return };
                    let done = nvrtc.compile("kernel.cu", source, sm, specific);
                    *results[i].lock().expect("no thread panics holding it") = Some(done);
                }
            });
        }
    });
    let taken =
        |m: Mutex<Option<_>>| m.into_inner().ok().flatten().expect("every source was compiled");
    results.into_iter().map(taken).collect()
}

/// What choosing took and did.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// Distinct layers.
    pub distinct: usize,
    /// Kernels compiled.
    pub compiled: usize,
    /// Kernels timed.
    pub timed: usize,
    /// Seconds spent compiling.
    pub compile_seconds: f64,
    /// Seconds spent timing.
    pub timing_seconds: f64,
}

/// Chooses a tactic for every layer of a lowering.
pub fn choose(
    context: &Context,
    nvrtc: &Nvrtc,
    lowering: &Lowering,
    effort: Effort,
) -> Result<(Vec<Tactic>, Tuning), TacticError> {
    let target = target_of(context);
    let mut distinct: Vec<(String, &Layer, usize)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut of_layer = Vec::new();
    for (i, lowered) in lowering.layers.iter().enumerate() {
        // Everything that decides a kernel is in the layer's description.
        let key = format!("{:?}", lowered.layer);
        let at = *index.entry(key.clone()).or_insert_with(|| {
            distinct.push((key, &lowered.layer, i));
            distinct.len() - 1
        });
        of_layer.push(at);
    }
    let mut tuning = Tuning { distinct: distinct.len(), ..Tuning::default() };
    let mut pool: Vec<(usize, Candidate)> = Vec::new();
    for (d, (_, layer, first)) in distinct.iter().enumerate() {
        let mut candidates = layer.candidates(&target);
        if candidates.is_empty() {
            let name = &lowering.layers[*first].name;
            return Err(TacticError::None(format!(
                "no kernel for layer '{name}' fits this device"
            )));
        }
        candidates.truncate(effort.candidates());
        pool.extend(candidates.into_iter().map(|c| (d, c)));
    }
    let begun = std::time::Instant::now();
    let sources: Vec<_> = pool.iter().map(|(_, c)| (c.source.as_str(), c.specific)).collect();
    let compiled = compile_all(nvrtc, &sources, target.sm);
    tuning.compile_seconds = begun.elapsed().as_secs_f64();
    tuning.compiled = pool.len();
    let begun = std::time::Instant::now();
    let mut ready: Vec<Vec<(Candidate, Compiled)>> = distinct.iter().map(|_| Vec::new()).collect();
    let mut first_error = None;
    for ((d, candidate), code) in pool.into_iter().zip(compiled) {
        match code {
            Ok(code) => ready[d].push((candidate, code)),
            Err(e) => {
                log::warn!("{}: {e}", candidate.label);
                first_error.get_or_insert(e);
            }
        }
    }
    let mut chosen = Vec::new();
    for (d, candidates) in ready.into_iter().enumerate() {
        let lowered = &lowering.layers[distinct[d].2];
        if candidates.is_empty() {
            return Err(first_error
                .map_or_else(|| TacticError::None(lowered.name.clone()), TacticError::Nvrtc));
        }
        if effort == Effort::Fast || candidates.len() == 1 {
            let (candidate, code) = candidates.into_iter().next().expect("there is one");
            chosen.push(Tactic { candidate, code, time_us: None, runners_up: Vec::new() });
            continue;
        }
        tuning.timed += candidates.len();
        let times = timing::time_candidates(context, lowering, lowered, &candidates)?;
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
        let best = order[0];
        let runners_up =
            order[1..].iter().take(4).map(|&i| (candidates[i].0.label.clone(), times[i])).collect();
        let (candidate, code) = candidates[best].clone();
        chosen.push(Tactic { candidate, code, time_us: Some(times[best]), runners_up });
    }
    tuning.timing_seconds = begun.elapsed().as_secs_f64();
    Ok((of_layer.into_iter().map(|d| chosen[d].clone()).collect(), tuning))
}

/// A candidate's launch geometry. `follows`: another kernel of this graph is in front of it.
pub(crate) fn geometry(candidate: &Candidate, target: &Target, follows: bool) -> Launch {
    Launch {
        grid: candidate.grid,
        block: [candidate.block, 1, 1],
        shared: candidate.shared,
        dependent: follows && target.dependent_launch(),
    }
}

/// Loads a candidate's code.
pub(crate) fn load(
    context: &Context,
    tactic: (&Candidate, &Compiled),
) -> Result<(Module, tobiuo_gpu::Function), GpuError> {
    let module = Module::load(context, &tactic.1.cubin)?;
    let function = module.function(ENTRY)?;
    // Static shared memory counts too.
    if tactic.0.shared > 40 * 1024 {
        function.allow_shared(tactic.0.shared)?;
    }
    Ok((module, function))
}
