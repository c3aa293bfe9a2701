//! What making a CUDA engine did, for people and programs.

use std::path::PathBuf;

use serde::Serialize;
use tobiuo_engine::{CudaKey, Tactic as TacticNote};

use crate::cuda::assemble::Assembled;
use crate::cuda::layout::Memory;
use crate::cuda::lower::Lowering;
use crate::cuda::schedule::Schedule;
use crate::tactics::{Effort, Tactic, Tuning};

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

/// What one plan became.
pub(super) fn plan_report(
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
