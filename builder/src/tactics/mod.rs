//! Choosing kernels by timing them on the device.
//!
//! For each distinct layer the cost model's best candidates are compiled, on all cores, and
//! timed as replays of a captured graph of dependent launches: weights rotated over copies that
//! together are larger than the L2 cache, because in a whole network they come from memory;
//! activations where the layer before would leave them, in the cache. Candidates take turns, so
//! that a change of the clock meets all of them; the median of a candidate's rounds is its time.

pub mod bandwidth;
pub mod cache;
pub mod choose;
pub mod compile;
pub mod cubins;
mod files;
mod in_situ;
mod program;
pub mod record;
mod timing;

use serde::{Deserialize, Serialize};
use tobiuo_gpu::{Context, GpuError, Launch, Module};
use tobiuo_nvrtc::{Compiled, NvrtcError};

use crate::cuda::assemble::AssembleError;
use tobiuo_kernels::{Candidate, ENTRY, Target};

pub use cache::TacticCache;
pub use choose::{Chooser, worth_trying};
pub use compile::Compiler;
pub use in_situ::{Placed, compare, settle, settle_once};
pub use program::Program;

/// How many candidates are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// The cost model's choice, untimed.
    Fast,
    /// A few per layer.
    #[default]
    Default,
    /// All of them.
    Max,
}

impl Effort {
    fn candidates(self) -> usize {
        match self {
            // One is taken, the others where it does not compile or spills registers.
            Effort::Fast => choose::ATTEMPTS,
            Effort::Default => 40,
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
    /// The runners-up that are worth trying in the whole network.
    pub finalists: Vec<Finalist>,
    /// Number of the distinct layer.
    pub distinct: usize,
}

/// A candidate that did nearly as well as the best.
#[derive(Clone, Debug)]
pub struct Finalist {
    /// What runs.
    pub candidate: Candidate,
    /// Its code.
    pub code: Compiled,
    /// Measured time, microseconds.
    pub time_us: f64,
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
    /// What is needed is more than the memory that may be used.
    Memory(String),
    /// A tactic record does not fit this build.
    Record(String),
    /// A mistake of the builder.
    Assemble(AssembleError),
}

impl TacticError {
    /// The same, with the layer's name.
    fn in_layer(self, name: &str) -> TacticError {
        match self {
            TacticError::Nvrtc(e) => TacticError::None(format!("layer '{name}': {e}")),
            other => other,
        }
    }
}

impl std::fmt::Display for TacticError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TacticError::Gpu(e) => write!(f, "{e}"),
            TacticError::Nvrtc(e) => write!(f, "{e}"),
            TacticError::None(what) | TacticError::Memory(what) => f.write_str(what),
            TacticError::Assemble(e) => write!(f, "{e}"),
            TacticError::Record(what) => write!(f, "the tactic record does not fit: {what}"),
        }
    }
}

impl std::error::Error for TacticError {}

impl From<GpuError> for TacticError {
    fn from(e: GpuError) -> TacticError {
        TacticError::Gpu(e)
    }
}

impl From<AssembleError> for TacticError {
    fn from(e: AssembleError) -> TacticError {
        TacticError::Assemble(e)
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

/// What choosing took and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tuning {
    /// Distinct layers.
    pub distinct: usize,
    /// Kernels compiled.
    pub compiled: usize,
    /// Kernels that an earlier build had compiled.
    pub compiled_before: usize,
    /// Kernels timed.
    pub timed: usize,
    /// Kernels that an earlier build had timed.
    pub timed_before: usize,
    /// Distinct layers that were not timed, because the time was over.
    pub untimed: usize,
    /// Seconds spent compiling.
    pub compile_seconds: f64,
    /// Seconds spent timing.
    pub timing_seconds: f64,
}

impl Tuning {
    /// Counts another plan's work in.
    pub fn add(&mut self, other: &Tuning) {
        self.distinct += other.distinct;
        self.compiled += other.compiled;
        self.compiled_before += other.compiled_before;
        self.timed += other.timed;
        self.timed_before += other.timed_before;
        self.untimed += other.untimed;
        self.compile_seconds += other.compile_seconds;
        self.timing_seconds += other.timing_seconds;
    }
}

/// The user's own tactic cache, which all builds share: `$XDG_CACHE_HOME/tobiuo/tactics.jsonl`,
/// or `~/.cache/tobiuo/tactics.jsonl`.
pub fn cache_of_user() -> Option<std::path::PathBuf> {
    Some(files::user_cache()?.join("tactics.jsonl"))
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
    if tactic.0.shared > 0 {
        function.prepare(tactic.0.shared)?;
    }
    Ok((module, function))
}
