//! What a build tells.

use std::path::PathBuf;

use serde::Serialize;
use tobiuo_engine::{PassRecord, Port, Precision, Task};

use crate::cuda::make::CudaReport;
use crate::plan::PlanReport;
use crate::quantize::report::Int8Report;

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
    /// `cpu`, `cuda:0 (NVIDIA H200, sm_90)`, or `sm_87` for a GPU that is not here.
    pub device: String,
    /// How the device was found, where that was left open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_why: Option<String>,
    /// Precision of the heavy layers.
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
    /// Each plan's memory; empty for a CUDA engine and for one that was reused.
    pub plans: Vec<PlanReport>,
    /// Kernels, their times, memory; for a CUDA engine that was not reused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<CudaReport>,
    /// Layers, calibration and gate, of an INT8 engine that was not reused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int8: Option<Int8Report>,
    /// What the user should know about the import.
    pub notes: Vec<String>,
    /// Wall-clock time of the build.
    pub seconds: f64,
}

/// An engine that [`build_cached`](crate::build_cached) gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Cached {
    /// It was there: same model, same options, same builder.
    Reused(BuildReport),
    /// It was built now.
    Built(BuildReport),
}
