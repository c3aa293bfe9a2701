//! What a build can be told.

use std::fmt::Write;

use tobiuo_engine::{ChannelOrder, Fit};

use crate::passes::PassOptions;

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
/// batch 1 and takes what the model's file says.
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
        }
    }
}

impl BuildOptions {
    /// One line that differs where the options differ, for the engine's provenance.
    pub fn describe(&self) -> String {
        let mut out = format!("device=cpu precision=fp32 batch={:?}", self.batches);
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
