//! INT8: calibration, what stays in floats, and the accuracy gate.
//!
//! Calibration runs the optimised network in floats on pictures, keeps a [`histogram`] of every
//! tensor and lets a [`calibrators::Calibrator`] say where each is cut off; [`select`] says which
//! layers compute on integers; [`insert`] writes that into the graph as Quantize and Dequantize,
//! and the pass `integers` makes integer layers of it, as of a model that came quantised. The
//! [`gate`] puts layers back to floats until the accuracy holds.
//!
//! Where the engine is for a GPU that is here, the network runs there while calibration counts;
//! all else runs on the CPU device: the integers of an engine are the same on every device.

mod arrays;
pub mod cache;
pub mod calibrators;
pub mod clock;
pub mod compare;
pub mod errors;
pub mod gate;
mod gpu;
pub mod histogram;
pub mod insert;
mod known;
mod measure;
mod npz;
mod observe;
pub mod report;
pub mod runner;
pub mod select;
mod source;
pub mod svg;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

use tobiuo_ops::Op;

use crate::BuildError;
use crate::graph::Graph;
use crate::passes;
use crate::progress::Progress;
use crate::tactics::record::RecordedInt8;
use cache::Cached;
use calibrators::{ALL, Calibrator};
use clock::Clock;
use compare::OutputError;
pub use gpu::OnGpu;
use insert::{Range, Ranges};
pub use measure::Sample;
use observe::{Seen, check, look};
use report::{Int8Report, LayerPrecision, Tried};
use runner::Runner;
use select::Selection;

/// What is asked of INT8.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Options {
    /// Pictures (a folder, a list, a clip) or tensors (`.npz`, `.npy`) like those that the
    /// network will see.
    pub calibration: Option<PathBuf>,
    /// Where calibration is kept: read when it is there, else written.
    pub cache: Option<PathBuf>,
    /// How magnitudes are cut off; `None` tries all and keeps the best.
    pub calibrator: Option<Calibrator>,
    /// Samples taken at most.
    pub samples: usize,
    /// Chooses them.
    pub seed: u64,
    /// The loss of accuracy that is allowed: of AP50:95 or of the share of right first classes
    /// where there are annotations, else the error of the outputs relative to their size.
    pub accuracy_drop: Option<f64>,
    /// What is on pictures: a COCO file, or a list of files with their classes.
    pub annotations: Option<PathBuf>,
    /// Where the annotated pictures are; `None`: beside the annotations, or in `images` there.
    pub images: Option<PathBuf>,
    /// Where the picture of accuracy against latency is written.
    pub svg: Option<PathBuf>,
}

impl Default for Int8Options {
    fn default() -> Self {
        Int8Options {
            calibration: None,
            cache: None,
            calibrator: None,
            samples: 500,
            seed: 1,
            accuracy_drop: None,
            annotations: None,
            images: None,
            svg: None,
        }
    }
}

/// Samples that the layers' own errors are measured on.
const COMPARED: usize = 4;
/// Error of the outputs, of their size, from which on users are warned.
const BROKEN: f64 = 0.25;
/// From which on no engine is made.
const NOTHING_LEFT: f64 = 0.9;

/// What was decided: everything that a graph of the same network needs to become one of
/// integers.
#[derive(Clone, Debug)]
pub struct Decision {
    /// By tensor name.
    pub ranges: Ranges,
    /// Layers that stay in floats, with the reason.
    pub floats: BTreeMap<String, String>,
    /// What to tell.
    pub report: Int8Report,
}

impl Decision {
    /// What a record needs of it.
    pub fn recorded(&self) -> RecordedInt8 {
        RecordedInt8 { floats: self.floats.clone(), gate: self.report.gate.clone() }
    }
}

/// Where what cannot be computed comes from.
pub struct How<'a> {
    /// Tells what layers take on the engine's device.
    pub clock: &'a mut dyn Clock,
    /// What an earlier build's gate decided, to do the same.
    pub recorded: Option<&'a RecordedInt8>,
}

/// True for a model that came quantised.
pub fn is_quantised(graph: &Graph) -> bool {
    graph.nodes.iter().any(|n| matches!(n.op, Op::Quantize { .. } | Op::Dequantize { .. }))
}

/// The graph with the layers that can computing on integers, but those in `floats`.
pub fn apply(
    graph: &Graph,
    ranges: &Ranges,
    floats: &BTreeMap<String, String>,
) -> Result<Graph, BuildError> {
    let names: HashSet<String> = floats.keys().cloned().collect();
    let selection = select::select(graph, &names);
    let quantised = insert::insert(graph, &selection, ranges).map_err(broken)?;
    Ok(passes::integer_layers(quantised)?)
}

fn broken(error: crate::graph::GraphError) -> BuildError {
    passes::PassError::Broken { pass: "calibration", error }.into()
}

/// A network and what it is calibrated with.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// What becomes integers.
    pub graph: &'a Graph,
    /// The same before passes that only a GPU's engine has: what is calibrated, so that a
    /// calibration serves every device.
    pub plain: &'a Graph,
    /// The GPU that it is calibrated on; `None`: the CPU device.
    pub gpu: Option<OnGpu<'a>>,
}

/// Calibrates a network, or reads what was calibrated, and lets the gate hold.
///
/// # Errors
///
/// No pictures and no cache, a cache of another model, activations that are no numbers
/// (the layer is named), accuracy that cannot be held.
pub fn decide(
    network: &Network<'_>,
    options: &Int8Options,
    model_hash: &str,
    how: How,
    progress: &mut dyn Progress,
    share: f64,
) -> Result<Decision, BuildError> {
    let begun = Instant::now();
    let graph = network.graph;
    let cached = known::read(options, model_hash)?;
    // What was recorded is not measured again.
    let allowed = options.accuracy_drop.filter(|_| how.recorded.is_none());
    let gate_needs_samples = allowed.is_some() && options.annotations.is_none();
    if cached.is_none() && options.calibration.is_none() {
        return Err(BuildError::Usage(
            "precision int8: --calibration names what to calibrate on: a folder of pictures, a \
             list of them, a clip, or tensors (.npz); or --calibration-cache a file that an \
             earlier build wrote"
                .into(),
        ));
    }
    if gate_needs_samples && options.calibration.is_none() {
        return Err(BuildError::Usage(
            "--accuracy-drop: the loss is measured on --annotations, or on the pictures of \
             --calibration; neither is given"
                .into(),
        ));
    }
    let mut floats = ends(graph);
    let mut report = Int8Report::default();
    let mut held = Vec::new();
    let with_gate = if allowed.is_some() { 0.5 } else { 1.0 };
    let ranges = match cached {
        Some(cached) => {
            report.calibrator = cached.calibrator.clone();
            report.pictures = cached.pictures;
            report.from_cache = true;
            if gate_needs_samples {
                held = look(network, options, progress, share * (1.0 - with_gate), true)?.held;
            }
            known::of_network(graph, cached, options, &mut report)?
        }
        None => {
            let seen = look(network, options, progress, share * with_gate * 0.7, false)?;
            check(network.plain, &seen, &mut report)?;
            progress.stage("choosing scales", share * with_gate * 0.3);
            let (calibrator, ranges) =
                choose(network.plain, &seen, options, &mut report, progress)?;
            report.calibrator = calibrator.to_string();
            report.device = seen.device.into();
            report.pictures = seen.counted;
            report.held_back = seen.held.len();
            report.skipped = seen.skipped;
            held = seen.held;
            if let Some(path) = &options.cache {
                let cached = Cached {
                    model: Some(model_hash.into()),
                    calibrator: report.calibrator.clone(),
                    pictures: seen.counted,
                    ranges: ranges.clone(),
                };
                tobiuo_tensor::file::replace(path, cached.to_text().as_bytes())
                    .map_err(|error| BuildError::Io { path: path.clone(), error })?;
            }
            ranges
        }
    };
    report.calibration_seconds = begun.elapsed().as_secs_f64();
    if let Some(recorded) = how.recorded {
        floats = recorded.floats.clone();
        report.gate = recorded.gate.clone();
    }
    if allowed.is_some() {
        progress.stage("accuracy", share * (1.0 - with_gate));
        let clock = how.clock;
        let gate = gate::hold(graph, &ranges, &mut floats, &held, options, clock, progress)?;
        report.gate = Some(gate);
    }
    report.layers = layers(graph, &ranges, &floats, &held)?;
    known::check(graph, &floats, &report)?;
    Ok(Decision { ranges, floats, report })
}

/// The cheap ends of a network, which stay in floats.
fn ends(graph: &Graph) -> BTreeMap<String, String> {
    let named = |(i, why): (usize, &str)| (graph.nodes[i].name.clone(), why.to_string());
    select::ends(graph).into_iter().map(named).collect()
}

/// The ranges that a calibrator gives.
fn ranges(seen: &Seen, calibrator: Calibrator) -> Ranges {
    let live = seen.histograms.iter().filter(|(_, h)| h.count > 0 && !h.is_dead());
    live.map(|(name, h)| {
        let (largest, low) = (h.largest(), h.min.min(0.0));
        let low_levels = insert::one_sided(largest, low).then_some(low);
        let clip = calibrator.clip(h, low_levels);
        (name.clone(), Range { clip, low: low.max(-clip) })
    })
    .collect()
}

/// The calibrator that is asked for, or the one with the smallest error on what was held back.
fn choose(
    graph: &Graph,
    seen: &Seen,
    options: &Int8Options,
    report: &mut Int8Report,
    progress: &mut dyn Progress,
) -> Result<(Calibrator, Ranges), BuildError> {
    let candidates: Vec<Calibrator> = match options.calibrator {
        Some(one) => vec![one],
        None => ALL.to_vec(),
    };
    let floats = ends(graph);
    let mut best: Option<(f64, Calibrator, Ranges)> = None;
    for (i, &c) in candidates.iter().enumerate() {
        progress.advance(i as f64 / candidates.len() as f64, &c.to_string());
        let ranges = ranges(seen, c);
        let error = error_of(&apply(graph, &ranges, &floats)?, &seen.held)?;
        report.tried.push(Tried { calibrator: c.to_string(), error });
        if best.as_ref().is_none_or(|b| error < b.0) {
            best = Some((error, c, ranges));
        }
    }
    let Some((error, calibrator, ranges)) = best.filter(|(error, ..)| error.is_finite()) else {
        return Err(BuildError::Input(
            "calibration: the outputs in INT8 are not numbers, or those in floats are all 0; no \
             engine is made of that"
                .into(),
        ));
    };
    let differ = format!(
        "the outputs in INT8 (scales by {calibrator}) differ from those in floats by {error:.2} of \
         their size"
    );
    if error > NOTHING_LEFT {
        let why = format!(
            "calibration: {differ}: nothing of them is left, and no engine is made; calibrate on \
             samples like those the network sees, or build without --precision int8"
        );
        return Err(BuildError::Accuracy { why, gate: None });
    }
    if error > BROKEN {
        report.notes.push(format!(
            "{differ}: --accuracy-drop puts back to floats what hurts most, or refuses"
        ));
    }
    Ok((calibrator, ranges))
}

/// The outputs' error of a graph of integers on samples with their outputs in floats.
pub(crate) fn error_of(graph: &Graph, held: &[Sample]) -> Result<f64, BuildError> {
    let mut runner = Runner::new(graph)?;
    let mut error = OutputError::default();
    for (inputs, reference) in held {
        let got = runner.run(inputs)?;
        error.add(graph.metadata.task.as_ref(), reference, &got);
    }
    Ok(error.relative())
}

/// What each layer computes in, and why, with what rounding does to it.
fn layers(
    graph: &Graph,
    ranges: &Ranges,
    floats: &BTreeMap<String, String>,
    held: &[Sample],
) -> Result<Vec<LayerPrecision>, BuildError> {
    let names: HashSet<String> = floats.keys().cloned().collect();
    let Selection { nodes } = select::select(graph, &names);
    let known = insert::ranges_of_values(graph, ranges);
    let lowered = apply(graph, ranges, floats)?;
    let errors = errors::of_layers(graph, &lowered, &held[..held.len().min(COMPARED)])?;
    let heavy = graph.nodes.iter().enumerate().filter(|(_, n)| select::is_heavy(&n.op));
    Ok(heavy
        .map(|(i, node)| {
            let input = known.get(&node.inputs[0]);
            let int8 = nodes.contains(&i) && input.is_some();
            let reason = match (int8, floats.get(&node.name)) {
                (true, _) => String::new(),
                (false, Some(why)) => why.clone(),
                (false, None) if nodes.contains(&i) => "no range is known of its input".into(),
                (false, None) => "no INT8 form: its weights are computed, or the operator".into(),
            };
            let error = errors.get(&node.name).copied().unwrap_or_default();
            LayerPrecision {
                name: node.name.clone(),
                op: node.op.name().into(),
                int8,
                reason,
                input: input.map(|r| [r.low, r.clip]),
                weights_db: error.weights,
                result_db: error.result,
            }
        })
        .collect())
}

#[cfg(test)]
mod tests;
