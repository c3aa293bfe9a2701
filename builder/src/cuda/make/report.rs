//! What making a CUDA engine did, for people and programs.

use std::path::PathBuf;

use serde::Serialize;
use tobiuo_engine::{CudaKey, Tactic as TacticNote, cuda_version, driver_floor, jetpack_for};

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
    /// The driver that the engine needs.
    pub driver: DriverReport,
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

/// The oldest driver that loads an engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DriverReport {
    /// The CUDA version that it supports.
    pub oldest: String,
    /// The first JetPack that brings it, of a GPU that Jetsons have.
    pub jetpack: Option<String>,
    /// Why devices of this kind may not load the engine, and how to make one that they load.
    pub warning: Option<String>,
}

impl DriverReport {
    /// Of an engine with this key.
    pub(super) fn of(key: &CudaKey) -> DriverReport {
        let floor = driver_floor(key.sm);
        let jetpack = jetpack_for(key.driver, key.sm);
        let warning = (!key.tuned && key.driver > floor).then(|| {
            let older = match (floor / 1000, jetpack_for(floor, key.sm)) {
                (11, _) => "drivers of this device are of CUDA 11: take NVRTC 11.4 to 11.8, as is \
                            on the device itself (TOBIUO_NVRTC names the library)"
                    .to_string(),
                (major, from) => format!(
                    "for {}older drivers take NVRTC {major} (TOBIUO_NVRTC names the library)",
                    from.map_or(String::new(), |from| format!("JetPack {from} and other "))
                ),
            };
            let brings = match jetpack {
                Some(jetpack) => format!(", of JetPack {jetpack} or newer"),
                None if floor < 12000 => ", which no JetPack for it brings".into(),
                None => String::new(),
            };
            format!(
                "the engine loads only on drivers of CUDA {} or newer{brings}; {older}",
                cuda_version(key.driver)
            )
        });
        DriverReport {
            oldest: cuda_version(key.driver),
            jetpack: jetpack.map(String::from),
            warning,
        }
    }
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
