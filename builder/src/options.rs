//! What a build can be told.

use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tobiuo_engine::{ChannelOrder, Fit, Precision};

use crate::passes::PassOptions;
use crate::quantize::Int8Options;
use crate::tactics::Effort;

/// The device to build for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that can be used, the CPU where there is none.
    Auto,
    /// The CPU device.
    #[default]
    Cpu,
    /// The GPU of this number; kernels are chosen by timing them on it.
    Cuda(usize),
    /// A GPU of this compute capability (87 for 8.7): the one that is here, or, where none is,
    /// any, with kernels chosen by the cost model.
    Sm(u32),
    /// A Jetson module by its name in the table of modules (`orin-nano-8gb`): this machine if
    /// it is one; otherwise kernels are chosen by the cost model for the module's data sheet.
    Module(&'static str),
}

impl FromStr for DeviceChoice {
    type Err = String;

    /// Reads `auto`, `cpu`, `cuda`, `cuda:1`, `sm_87` or a Jetson module's name.
    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let number = |digits: &str| digits.parse::<u32>().ok();
        let choice = match text {
            "auto" => Some(DeviceChoice::Auto),
            "cpu" => Some(DeviceChoice::Cpu),
            "cuda" | "gpu" => Some(DeviceChoice::Cuda(0)),
            other => match (other.strip_prefix("cuda:"), other.strip_prefix("sm_")) {
                (Some(n), _) => number(n).map(|n| DeviceChoice::Cuda(n as usize)),
                (_, Some(sm)) => number(sm).map(DeviceChoice::Sm),
                _ => tobiuo_jetson::module(other).map(|m| DeviceChoice::Module(&m.id)),
            },
        };
        choice.ok_or_else(|| {
            let modules = tobiuo_jetson::modules().iter().map(|m| m.id.as_str());
            format!(
                "'{text}' is no device: auto, cpu, cuda, cuda:N (N is the GPU's number), sm_XX \
                 (such as sm_87, for a GPU that is not here) or a Jetson ({}) is wanted",
                modules.collect::<Vec<_>>().join(", ")
            )
        })
    }
}

/// Where measured times of kernels are kept between builds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheChoice {
    /// `tobiuo/tactics.jsonl` in the user's cache folder.
    #[default]
    User,
    /// This file.
    File(PathBuf),
    /// Nowhere.
    None,
}

impl CudaOptions {
    /// The tactic cache's file, if there is to be one.
    pub fn cache_file(&self) -> Option<PathBuf> {
        match &self.cache {
            CacheChoice::None => None,
            CacheChoice::File(path) => Some(path.clone()),
            CacheChoice::User => crate::tactics::cache_of_user(),
        }
    }
}

/// What only concerns CUDA engines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CudaOptions {
    /// How many kernels are tried for a layer.
    pub effort: Effort,
    /// Measured times and compiled kernels of earlier builds.
    pub cache: CacheChoice,
    /// Where to write what was chosen.
    pub record: Option<PathBuf>,
    /// A file written so, to choose the same again.
    pub replay: Option<PathBuf>,
    /// Device memory at most, of the engine with one context and of the build itself; bytes.
    pub memory_limit: Option<u64>,
    /// Scratch memory of a context at most; bytes.
    pub scratch_limit: Option<u64>,
    /// How long kernels are compiled and timed; then the best so far is taken. It does not say
    /// what engine is wanted: a later build goes on where this one stopped.
    pub time_limit: Option<Duration>,
}

/// What outputs mean, when the user says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskChoice {
    /// From the model's properties and shapes.
    #[default]
    Auto,
    /// Boxes and class scores `[N, 4 + classes, anchors]`, or transposed.
    Detect,
    /// Scores `[N, classes]`.
    Classify,
    /// Nothing in particular.
    Tensors,
}

/// How pictures become the input, where that differs from what the model says. Means and
/// standard deviations are in units of 0..1, one for all channels or one each.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct PreprocessOptions {
    pub mean: Option<Vec<f32>>,
    pub std: Option<Vec<f32>>,
    pub fit: Option<Fit>,
    pub channels: Option<ChannelOrder>,
    pub pad_value: Option<u8>,
}

/// Everything that shapes an engine beside the model. `BuildOptions::default()` builds for
/// batch 1 on the CPU device and takes what the model's file says.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Batch sizes, one plan each.
    pub batches: Vec<usize>,
    /// Shapes of inputs that the model leaves open, by name.
    pub input_shapes: Vec<(String, Vec<usize>)>,
    /// Class names; `None` takes the model's own.
    pub labels: Option<Vec<String>>,
    /// What the outputs mean.
    pub task: TaskChoice,
    /// Boxes with a lower score are dropped; `None`: 0.25.
    pub score_threshold: Option<f32>,
    /// Intersection over union from which boxes of a class exclude each other; `None`: 0.7.
    pub iou_threshold: Option<f32>,
    /// Boxes kept at most; `None`: 300.
    pub max_detections: Option<usize>,
    /// How pictures become the input.
    pub preprocess: PreprocessOptions,
    /// Which passes run.
    pub passes: PassOptions,
    /// The device to build for.
    pub device: DeviceChoice,
    /// Precision of the heavy layers; `None`: f16 on a GPU, f32 on the CPU.
    pub precision: Option<Precision>,
    /// Calibration and accuracy of INT8 engines.
    pub int8: Int8Options,
    /// What only concerns CUDA engines.
    pub cuda: CudaOptions,
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions {
            batches: vec![1],
            input_shapes: Vec::new(),
            labels: None,
            task: TaskChoice::Auto,
            score_threshold: None,
            iou_threshold: None,
            max_detections: None,
            preprocess: PreprocessOptions::default(),
            passes: PassOptions::default(),
            device: DeviceChoice::default(),
            precision: None,
            int8: Int8Options::default(),
            cuda: CudaOptions::default(),
        }
    }
}

impl BuildOptions {
    /// One line that differs where the options differ, for the engine's provenance. `device` is
    /// the device as it was chosen, with what shapes an engine for it.
    pub fn describe(&self, device: &str) -> String {
        let mut out = format!("{device} batch={:?}", self.batches);
        for (name, shape) in &self.input_shapes {
            let _ = write!(out, " input-shape={name:?}{shape:?}");
        }
        if let Some(labels) = &self.labels {
            let hash = blake3::hash(labels.join("\n").as_bytes()).to_hex();
            let _ = write!(out, " labels={}:{}", labels.len(), &hash[..16]);
        }
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = write!(out, " {name}={value}");
            }
        };
        let p = &self.preprocess;
        let auto = self.task == TaskChoice::Auto;
        option("task", (!auto).then(|| format!("{:?}", self.task).to_lowercase()));
        option("score-threshold", self.score_threshold.map(|v| v.to_string()));
        option("iou-threshold", self.iou_threshold.map(|v| v.to_string()));
        option("max-detections", self.max_detections.map(|v| v.to_string()));
        option("mean", p.mean.as_ref().map(|v| format!("{v:?}")));
        option("std", p.std.as_ref().map(|v| format!("{v:?}")));
        option("fit", p.fit.map(|v| format!("{v:?}").to_lowercase()));
        option("channels", p.channels.map(|v| format!("{v:?}").to_lowercase()));
        option("pad-value", p.pad_value.map(|v| v.to_string()));
        option("passes-until", self.passes.until.clone());
        option("with", (!self.passes.with.is_empty()).then(|| self.passes.with.join(",")));
        out
    }
}
