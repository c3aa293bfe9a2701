//! Accuracy: what the gate holds.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tobiuo::eval::{Annotations, EvalOptions, evaluate};
use tobiuo_engine::Task;
use tobiuo_tensor::Tensor;

use super::runner::{Runner, engine_bytes};
use super::source::{self, Source};
use super::{Int8Options, error_of};
use crate::BuildError;
use crate::graph::Graph;

/// What accuracy is measured by.
pub(super) enum Measure<'a> {
    /// AP50:95 of a detector.
    Ap { annotations: Annotations, images: PathBuf },
    /// The share of pictures whose class is the first.
    Top1 { files: Vec<PathBuf>, classes: Vec<usize>, output: usize },
    /// The outputs' relative error against floats.
    Error(&'a [(Vec<Tensor>, Vec<Tensor>)]),
}

fn other(e: tobiuo::Error) -> BuildError {
    match e.exit_status() {
        2 => BuildError::Usage(e.to_string()),
        4 => BuildError::Damaged(e.to_string()),
        6 => BuildError::Input(e.to_string()),
        _ => BuildError::Device(e.to_string()),
    }
}

/// Where annotated pictures are when the user does not say.
fn folder_beside(annotations: &Path) -> PathBuf {
    let folder = annotations.parent().unwrap_or(Path::new(""));
    let images = folder.join("images");
    if images.is_dir() { images } else { folder.to_path_buf() }
}

/// Inputs, and the outputs they are to give.
pub type Sample = (Vec<Tensor>, Vec<Tensor>);

impl<'a> Measure<'a> {
    pub fn new(
        graph: &Graph,
        held: &'a [(Vec<Tensor>, Vec<Tensor>)],
        options: &Int8Options,
    ) -> Result<Measure<'a>, BuildError> {
        let Some(path) = &options.annotations else { return Ok(Measure::Error(held)) };
        let usage = |what: &str| {
            Err(BuildError::Usage(format!("--annotations {}: {what}", path.display())))
        };
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        match (&graph.metadata.task, json) {
            (Some(Task::Detect(_)), true) => {
                let annotations = Annotations::read(path).map_err(other)?;
                if annotations.pictures.is_empty() {
                    return usage("there are no pictures in it");
                }
                let images = options.images.clone().unwrap_or_else(|| folder_beside(path));
                Ok(Measure::Ap { annotations, images })
            }
            (Some(Task::Detect(_)), false) => {
                usage("a detector is measured on a COCO file (.json)")
            }
            (Some(Task::Classify { output }), false) => {
                let mut entries = source::list(path)?;
                if let Some(images) = &options.images {
                    for (file, _) in &mut entries {
                        let beside = path.parent().unwrap_or(Path::new(""));
                        let name = file.strip_prefix(beside).unwrap_or(file).to_path_buf();
                        *file = images.join(name);
                    }
                }
                let labels = &graph.metadata.labels;
                let class = |text: &Option<String>| {
                    let text = text.as_deref()?;
                    let named = labels.iter().position(|l| l == text);
                    named.or_else(|| text.parse().ok())
                };
                let all: usize = graph.shape(graph.outputs[*output].1).iter().skip(1).product();
                let mut classes = Vec::new();
                for (file, text) in &entries {
                    let Some(class) = class(text) else {
                        return usage(&format!(
                            "'{}': a class is wanted behind the file, a number from 0 on or one \
                             of the network's names",
                            file.display()
                        ));
                    };
                    if class >= all {
                        return usage(&format!(
                            "'{}': class {class}, but the network has {all}, which count from 0",
                            file.display()
                        ));
                    }
                    classes.push(class);
                }
                if classes.is_empty() {
                    return usage("there are no pictures in it");
                }
                let files = entries.into_iter().map(|(file, _)| file).collect();
                Ok(Measure::Top1 { files, classes, output: *output })
            }
            (Some(Task::Classify { .. }), true) => {
                usage("a classifier is measured on a list: a picture and its class on each line")
            }
            _ => usage("the network is neither a detector nor a classifier (--task says which)"),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Measure::Ap { .. } => "AP50:95",
            Measure::Top1 { .. } => "top-1",
            Measure::Error(_) => "output error",
        }
    }

    pub fn pictures(&self) -> usize {
        match self {
            Measure::Ap { annotations, .. } => annotations.pictures.len(),
            Measure::Top1 { files, .. } => files.len(),
            Measure::Error(held) => held.len(),
        }
    }

    /// How much worse `value` is than the network in floats.
    pub fn drop(&self, baseline: f64, value: f64) -> f64 {
        let d = if matches!(self, Measure::Error(_)) { value - baseline } else { baseline - value };
        if d.is_nan() { f64::INFINITY } else { d }
    }

    /// Refuses annotations that would let anything pass.
    pub fn check(&self, baseline: f64, allowed: f64) -> Result<(), BuildError> {
        if matches!(self, Measure::Error(_)) || baseline > allowed {
            return Ok(());
        }
        Err(BuildError::Usage(format!(
            "--accuracy-drop: the network in floats reaches {baseline:.4} ({}) on these \
             annotations, and a loss of {allowed} is allowed: any engine would pass; do they belong \
             to this network and to these pictures (--images)?",
            self.name()
        )))
    }

    /// The metric of a graph.
    pub fn value(&self, graph: &Graph, progress: &mut dyn FnMut(f64)) -> Result<f64, BuildError> {
        match self {
            Measure::Error(held) => error_of(graph, held),
            Measure::Ap { annotations, images } => {
                let bytes = engine_bytes(graph, 1)?;
                let engine = tobiuo::Engine::from_bytes(&bytes).map_err(other)?;
                let stop = AtomicBool::new(false);
                let report = evaluate(
                    &engine,
                    images,
                    annotations.clone(),
                    &EvalOptions::default(),
                    &stop,
                    |done, total| progress(done as f64 / total.max(1) as f64),
                );
                let report = report.map_err(other)?;
                report.ap.ok_or_else(|| {
                    BuildError::Usage("--annotations: there is no object in them".into())
                })
            }
            Measure::Top1 { files, classes, output } => {
                let mut runner = Runner::new(graph)?;
                let mut source = Source::of_files(files.clone(), graph)?;
                let (mut right, mut seen) = (0usize, 0usize);
                source.each(&mut |i, inputs| {
                    progress(i as f64 / files.len() as f64);
                    let outputs = runner.run(inputs)?;
                    let scores = outputs[*output].as_f32().unwrap_or_default();
                    let count = graph.shape(graph.outputs[*output].1).iter().skip(1).product();
                    let mut best = 0;
                    for (k, s) in scores.iter().enumerate().take(count) {
                        if *s > scores[best] {
                            best = k;
                        }
                    }
                    seen += 1;
                    right += usize::from(best == classes[i]);
                    Ok(())
                })?;
                if let Some(why) = source.skipped.first() {
                    return Err(BuildError::Input(format!("--annotations: {why}")));
                }
                Ok(right as f64 / seen.max(1) as f64)
            }
        }
    }

    /// Samples to rank layers on, with their outputs in floats.
    pub fn samples(&self, graph: &Graph, count: usize) -> Result<Vec<Sample>, BuildError> {
        let files: Vec<PathBuf> = match self {
            Measure::Error(held) => return Ok(held.iter().take(count).cloned().collect()),
            Measure::Top1 { files, .. } => spread(files, count),
            Measure::Ap { annotations, images } => {
                let all: Vec<PathBuf> =
                    annotations.pictures.iter().map(|p| images.join(&p.file_name)).collect();
                spread(&all, count)
            }
        };
        let mut source = Source::of_files(files, graph)?;
        let mut runner = Runner::new(graph)?;
        let mut out = Vec::new();
        source.each(&mut |_, inputs| {
            out.push((inputs.to_vec(), runner.run(inputs)?));
            Ok(())
        })?;
        Ok(out)
    }
}

/// `count` of many, evenly.
fn spread(all: &[PathBuf], count: usize) -> Vec<PathBuf> {
    let n = count.min(all.len());
    (0..n).map(|i| all[i * all.len() / n].clone()).collect()
}
