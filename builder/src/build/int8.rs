//! The part of a build that makes integer layers.

use std::fmt::Write;
use std::path::Path;

use tobiuo_engine::Precision;
use tobiuo_ops::Op;

use super::Job;
use crate::BuildError;
use crate::cuda::make::tune::Tuner;
use crate::cuda::speed::Source;
use crate::graph::Graph;
use crate::hardware::Hardware;
use crate::passes::optimise;
use crate::progress::Progress;
use crate::quantize::clock::{Clock, OnCpu};
use crate::quantize::report::{Int8Report, LayerPrecision};
use crate::quantize::select::is_heavy;
use crate::quantize::{self, Decision, How, Network, OnGpu, is_quantised};

/// A file's hash, short; empty where it cannot be read.
fn file_hash(path: &Path) -> String {
    let hash = |bytes: Vec<u8>| blake3::hash(&bytes).to_hex()[..16].to_string();
    std::fs::read(path).map(hash).unwrap_or_default()
}

/// A graph for each batch.
type ByBatch = Vec<(usize, Graph)>;

impl Job<'_> {
    /// A model that came quantised is built so, unless the user says otherwise. Options of
    /// calibration are for models that are to be calibrated.
    pub(super) fn settle(&mut self, graphs: &[(usize, Graph)]) -> Result<(), BuildError> {
        let quantised = graphs.iter().any(|(_, g)| is_quantised(g));
        if quantised && self.options.precision.is_none() {
            self.chosen.precision = Precision::Int8;
        }
        let int8 = &self.options.int8;
        let given = [
            ("--calibration", int8.calibration.is_some()),
            ("--calibration-cache", int8.cache.is_some()),
            ("--accuracy-drop", int8.accuracy_drop.is_some()),
            ("--calibrator", int8.calibrator.is_some()),
            ("--annotations", int8.annotations.is_some()),
            ("--images", int8.images.is_some()),
            ("--accuracy-svg", int8.svg.is_some()),
        ];
        let Some((name, _)) = given.iter().find(|(_, given)| *given) else { return Ok(()) };
        if self.chosen.precision != Precision::Int8 {
            return Err(BuildError::Usage(format!(
                "{name} is for --precision int8, this engine is of {}",
                self.chosen.precision
            )));
        }
        if quantised {
            return Err(BuildError::Usage(format!(
                "{name}: this model is quantised already, its own scales are used as they are; \
                 leave the option out, or calibrate the model in floats"
            )));
        }
        self.check_gate()
    }

    /// Refuses options of the accuracy gate that would have no effect.
    fn check_gate(&self) -> Result<(), BuildError> {
        let int8 = &self.options.int8;
        let usage = |what: String| Err(BuildError::Usage(what));
        if let Some(path) = int8.annotations.as_ref().filter(|path| path.is_dir()) {
            return usage(format!(
                "--annotations {}: this is a folder; a detector has a COCO file (.json), a \
                 classifier a list of pictures with their classes",
                path.display()
            ));
        }
        if int8.images.is_some() && int8.annotations.is_none() {
            return usage(
                "--images: these are the pictures of --annotations, which is missing".into(),
            );
        }
        let of_gate =
            [("--annotations", int8.annotations.is_some()), ("--accuracy-svg", int8.svg.is_some())];
        let gate = of_gate.iter().find(|(_, given)| *given);
        if let (Some((name, _)), None) = (gate, int8.accuracy_drop) {
            return usage(format!(
                "{name}: accuracy is only measured, and held, with --accuracy-drop; say what loss \
                 is allowed, such as --accuracy-drop 0.01"
            ));
        }
        if int8.svg.is_some() && self.options.cuda.replay.is_some() {
            return usage(
                "--accuracy-svg: with --replay the gate's decisions are the record's and no \
                 accuracy is measured; leave it out"
                    .into(),
            );
        }
        Ok(())
    }

    /// What of INT8 shapes an engine, as its provenance has it.
    pub(super) fn described_int8(&self) -> String {
        let int8 = &self.options.int8;
        let mut out = String::new();
        if self.chosen.precision != Precision::Int8 {
            return out;
        }
        if let Some(path) = &int8.cache {
            let _ = write!(out, " calibration-cache={}", file_hash(path));
        } else if int8.calibration.is_some() {
            let calibrator = int8.calibrator.map_or("auto".to_string(), |c| c.to_string());
            let _ =
                write!(out, " calibrator={calibrator} samples={} seed={}", int8.samples, int8.seed);
        }
        if let Some(drop) = int8.accuracy_drop {
            let _ = write!(out, " accuracy-drop={drop}");
        }
        if let Some(path) = &int8.annotations {
            let _ = write!(out, " annotations={}", file_hash(path));
        }
        out
    }

    /// False where an engine cannot be told to be what this build would make: pictures may have
    /// changed.
    pub(super) fn may_reuse(&self) -> bool {
        let int8 = &self.options.int8;
        let looks = int8.calibration.is_some() && !int8.cache.as_ref().is_some_and(|c| c.exists());
        self.chosen.precision != Precision::Int8 || !looks && int8.accuracy_drop.is_none()
    }

    /// The graph that is calibrated, where one is and it is not the one that is built: without the
    /// passes that only a GPU's engine has.
    pub(super) fn plain(&self, imported: &Graph) -> Result<Option<Graph>, BuildError> {
        let int8 = self.chosen.precision == Precision::Int8 && !is_quantised(imported);
        let looks = self.options.int8.calibration.is_some();
        if !int8 || !looks || self.chosen.hardware == Hardware::Cpu {
            return Ok(None);
        }
        Ok(Some(optimise(imported.clone(), &self.options.passes, &mut |_| ())?.0))
    }

    /// Calibrates what is to be calibrated; `None`: nothing is.
    pub(super) fn calibrate(
        &self,
        graphs: &[(usize, Graph)],
        plain: Option<Graph>,
        model_hash: &str,
        tuner: Option<&mut Tuner>,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<Option<Decision>, BuildError> {
        let done = self.chosen.precision != Precision::Int8
            || graphs.iter().any(|(_, g)| g.nodes.iter().any(|n| is_integer_layer(&n.op)));
        if done {
            return Ok(None);
        }
        let (graph, options) = (&graphs[0].1, &self.options.int8);
        let recorded = tuner.as_ref().and_then(|t| t.record.as_ref()).and_then(|r| r.int8.clone());
        let recorded = recorded.as_ref();
        let mut cpu = OnCpu;
        let clock: &mut dyn Clock = match tuner {
            Some(tuner) => tuner,
            None => &mut cpu,
        };
        let gpu = match &self.chosen.hardware {
            Hardware::Gpu(gpu) if gpu.device.is_some() => {
                Some(OnGpu { gpu, options: &self.options.cuda })
            }
            _ => None,
        };
        let network = Network { graph, plain: plain.as_ref().unwrap_or(graph), gpu };
        let how = How { clock, recorded };
        quantize::decide(&network, options, model_hash, how, progress, share).map(Some)
    }
}

/// What CUDA plans are made from.
pub(super) fn sources(graphs: ByBatch, decision: Option<&Decision>) -> Vec<Source<'_>> {
    let int8 = decision.map(|d| (&d.ranges, &d.floats));
    graphs.into_iter().map(|(batch, graph)| Source { batch, graph, int8 }).collect()
}

/// The graphs with integer layers, where they were calibrated.
pub(super) fn on_integers(
    graphs: ByBatch,
    decision: Option<&Decision>,
) -> Result<ByBatch, BuildError> {
    let Some(d) = decision else { return Ok(graphs) };
    graphs.into_iter().map(|(b, g)| Ok((b, quantize::apply(&g, &d.ranges, &d.floats)?))).collect()
}

/// True for what the pass `integers` leaves of a model that came quantised.
fn is_integer_layer(op: &tobiuo_ops::Op) -> bool {
    use tobiuo_ops::Op::*;
    matches!(
        op,
        Quantize { .. }
            | Dequantize { .. }
            | QuantConv(_)
            | QuantGemm(_)
            | QuantBinary(_)
            | QuantPool(_)
    )
}

/// What the layers of a model that came quantised compute in: `graph` is as it is built.
pub(super) fn as_it_came(graph: &Graph) -> Int8Report {
    let heavy = |op: &Op| is_heavy(op) || matches!(op, Op::QuantConv(_) | Op::QuantGemm(_));
    let producers = graph.producers();
    let layers = graph.nodes.iter().filter(|node| heavy(&node.op)).map(|node| {
        let input = producers.get(&node.inputs[0]).map(|&i| &graph.nodes[i].op);
        let reason = reason_for_floats(&node.op, input);
        LayerPrecision {
            name: node.name.clone(),
            op: node.op.name().into(),
            int8: reason.is_empty(),
            reason: reason.into(),
            input: None,
            weights_db: None,
            result_db: None,
        }
    });
    let calibrator = "the model itself".into();
    Int8Report { calibrator, layers: layers.collect(), ..Int8Report::default() }
}

/// Why a layer of a model that came quantised is in floats; empty for one on integers. `input`: what
/// makes its input.
fn reason_for_floats(op: &Op, input: Option<&Op>) -> &'static str {
    match op {
        Op::QuantConv(_) | Op::QuantGemm(_) => "",
        Op::ConvTranspose(_) | Op::MatMul => "the operator has no INT8 form",
        _ if !matches!(input, Some(Op::Dequantize { .. })) => "its input is in floats",
        _ => {
            "its constants have no INT8 form: weights that fit i8 without their zero point, with \
             one scale or one for each filter, and a constant bias are wanted"
        }
    }
}

/// What an engine says of its integer layers.
pub(super) fn notes(report: &Int8Report) -> Vec<String> {
    let int8 = report.layers.iter().filter(|l| l.int8).count();
    let mut notes = vec![format!(
        "int8: {int8} of {} heavy layers; scales by {}",
        report.layers.len(),
        report.calibrator
    )];
    for s in &report.speed {
        notes.extend(s.notes());
    }
    for l in report.layers.iter().filter(|l| !l.int8 && !report.for_speed(&l.name)) {
        notes.push(format!("int8: {} ({}) is in floats: {}", l.name, l.op, l.reason));
    }
    if let Some(g) = &report.gate
        && let Some(last) = g.steps.last()
    {
        notes.push(format!(
            "int8: {} {:.4}, in floats {:.4}; a loss of {} is allowed ({} pictures)",
            g.metric, last.value, g.baseline, g.allowed, g.pictures
        ));
    }
    notes
}
