//! What INT8 came to, for people and programs.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Layers that people are told of.
const WORST: usize = 5;

/// Of what could not be read, how many people are told of.
const NAMED: usize = 5;

/// What calibration and gate did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Int8Report {
    /// What chose the magnitudes that are cut off, or `the model itself` where it came quantised.
    pub calibrator: String,
    /// Every calibrator that was tried, with the outputs' error on what was held back.
    pub tried: Vec<Tried>,
    /// Samples whose tensors were counted.
    pub pictures: usize,
    /// Samples held back to compare outputs on.
    pub held_back: usize,
    /// Pictures and frames that could not be read, with the reason.
    pub skipped: Vec<String>,
    /// What counted them: `cpu` or `gpu`; empty for a cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// It came from a calibration cache.
    pub from_cache: bool,
    /// Time that calibration took.
    pub calibration_seconds: f64,
    /// What each heavy layer computes in.
    pub layers: Vec<LayerPrecision>,
    /// Accuracy against latency, where a loss was allowed.
    pub gate: Option<GateReport>,
    /// What is in FP16 because it is faster there, of each plan of a GPU engine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speed: Vec<SpeedReport>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A calibrator and how it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// Its name.
    pub calibrator: String,
    /// Noise over signal of the outputs, as amplitudes.
    pub error: f64,
}

/// What a layer computes in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerPrecision {
    /// Its name.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// On integers.
    pub int8: bool,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The range that its input is kept in: smallest and largest element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<[f32; 2]>,
    /// Signal over noise of its weights as integers, dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_db: Option<f64>,
    /// Signal over noise of its result against the network in floats, with the layers before it
    /// as they are in the engine, dB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_db: Option<f64>,
}

/// What of a plan is in FP16 because it is faster there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedReport {
    /// Items per run.
    pub batch: usize,
    /// By timing on the device; false: by the cost model.
    pub measured: bool,
    /// The network on integers (`int8`), mixed, and in floats (`fp16`).
    pub tried: Vec<Mixture>,
    /// In FP16, in the network's order.
    pub layers: Vec<Faster>,
}

/// The network with some layers on integers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// `int8`, `mixed` or `fp16`.
    pub name: String,
    /// Heavy layers on integers.
    pub int8_layers: usize,
    /// Sum of the layers' times alone, microseconds.
    pub layers_us: f64,
    /// The whole network, microseconds, where it was timed.
    pub network_us: Option<f64>,
    /// It is what the engine holds.
    pub taken: bool,
}

/// A layer in FP16 because it, or its neighbourhood, is faster there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faster {
    /// Its name.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// A convolution or fully connected layer.
    pub heavy: bool,
    /// The nodes that are fused in it.
    pub nodes: Vec<String>,
    /// Microseconds on integers.
    pub int8_us: f64,
    /// Microseconds in FP16.
    pub fp16_us: f64,
    /// Why.
    pub reason: String,
}

/// Accuracy against latency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateReport {
    /// What is measured: `AP50:95`, `top-1`, `output error`.
    pub metric: String,
    /// Pictures that it is measured on.
    pub pictures: usize,
    /// In floats.
    pub baseline: f64,
    /// The loss that is allowed.
    pub allowed: f64,
    /// The network in floats.
    pub baseline_microseconds: f64,
    /// Where latencies are of: `CPU`, `GPU`, or `GPU, predicted` by the cost model.
    pub clock: String,
    /// From all layers on integers to what holds.
    pub steps: Vec<GateStep>,
    /// The last step is within what is allowed.
    pub holds: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateStep {
    /// Layers put back to floats in this step.
    pub put_back: Vec<String>,
    /// Layers on integers.
    pub int8_layers: usize,
    /// The metric; `null` in JSON where it is no number.
    #[serde(deserialize_with = "number")]
    pub value: f64,
    /// The loss.
    #[serde(deserialize_with = "number")]
    pub drop: f64,
    /// The whole network on the device that the engine is for.
    pub microseconds: f64,
}

/// A number that is none is `null` in JSON.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::INFINITY))
}

impl Int8Report {
    /// With what is in FP16 because it is faster there: `layers` are those of the first plan.
    pub fn with_speed(mut self, speed: Vec<SpeedReport>) -> Int8Report {
        for f in speed.first().iter().flat_map(|s| &s.layers) {
            let same = |l: &&mut LayerPrecision| l.int8 && l.name == f.name;
            if let Some(l) = self.layers.iter_mut().find(same) {
                (l.int8, l.reason) = (false, f.reason.clone());
            }
        }
        self.speed = speed;
        self
    }

    /// True for layers that some plan has in FP16 because that is faster.
    pub fn for_speed(&self, layer: &str) -> bool {
        self.speed.iter().flat_map(|s| &s.layers).any(|f| f.name == layer)
    }

    /// Lines for people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        if self.from_cache {
            let _ = writeln!(out, "calibration: from the cache ({})", self.calibrator);
        } else if self.pictures > 0 {
            let _ = writeln!(
                out,
                "calibration: {} samples on the {}, {} held back, {:.1} s; {}",
                self.pictures,
                self.device.to_uppercase(),
                self.held_back,
                self.calibration_seconds,
                self.calibrator
            );
        }
        for t in &self.tried {
            let kept = self.tried.len() > 1 && t.calibrator == self.calibrator;
            let mark = if kept { "  <- kept" } else { "" };
            let db = -20.0 * t.error.log10();
            let _ = writeln!(
                out,
                "  {:<18} output error {:.4} ({db:.1} dB){mark}",
                t.calibrator, t.error
            );
        }
        if !self.skipped.is_empty() {
            let _ = writeln!(out, "{} could not be read:", self.skipped.len());
            for s in self.skipped.iter().take(NAMED) {
                let _ = writeln!(out, "  {s}");
            }
            if let Some(more @ 1..) = self.skipped.len().checked_sub(NAMED) {
                let _ = writeln!(out, "  and {more} more");
            }
        }
        let int8 = self.layers.iter().filter(|l| l.int8).count();
        let _ = writeln!(out, "INT8: {int8} of {} heavy layers", self.layers.len());
        for l in self.layers.iter().filter(|l| !l.int8 && !self.for_speed(&l.name)) {
            let _ = writeln!(out, "  in floats: {} ({}): {}", l.name, l.op, l.reason);
        }
        let mut worst: Vec<(&LayerPrecision, f64)> =
            self.layers.iter().filter(|l| l.int8).filter_map(|l| Some((l, l.result_db?))).collect();
        worst.sort_by(|a, b| a.1.total_cmp(&b.1));
        for (i, (l, db)) in worst.iter().take(WORST).enumerate() {
            if i == 0 {
                let _ = writeln!(out, "  farthest from floats (signal over noise):");
            }
            let _ = writeln!(out, "    {db:>5.1} dB  {} ({})", l.name, l.op);
        }
        if let Some(g) = &self.gate {
            out.push_str(&g.to_text());
        }
        self.speed.iter().for_each(|s| out.push_str(&s.to_text()));
        for n in &self.notes {
            let _ = writeln!(out, "note: {n}");
        }
        out
    }
}

impl SpeedReport {
    /// The mixture that was taken.
    pub fn taken(&self) -> Option<&Mixture> {
        self.tried.iter().find(|m| m.taken)
    }

    /// Lines for people.
    pub fn to_text(&self) -> String {
        let how = if self.measured { "timed" } else { "predicted by the cost model" };
        let mut out = format!("precision by speed, batch {}, {how}:\n", self.batch);
        for m in &self.tried {
            let mark = if m.taken { "  <- taken" } else { "" };
            let network = m.network_us.map_or(String::new(), |us| format!(", network {us:.1} us"));
            let _ = writeln!(
                out,
                "  {:<5} {:>3} layers in INT8, layers alone {:.1} us{network}{mark}",
                m.name, m.int8_layers, m.layers_us
            );
        }
        for l in self.layers.iter().filter(|l| l.heavy) {
            let _ = writeln!(out, "  in FP16: {} ({}): {}", l.name, l.op, l.reason);
        }
        out
    }

    /// What an engine says of it.
    pub fn notes(&self) -> Vec<String> {
        let batch = self.batch;
        let mut notes = Vec::new();
        if let Some(m) = self.taken().filter(|m| m.name != "int8") {
            let times: Vec<String> = (self.tried.iter())
                .map(|m| format!("{} {:.1}", m.name, m.network_us.unwrap_or(m.layers_us)))
                .collect();
            let how = if self.measured { "timed" } else { "by the cost model" };
            notes.push(format!(
                "int8: batch {batch}: {} layers compute on integers, the others are faster in \
                 FP16 ({how}, us: {})",
                m.int8_layers,
                times.join(", ")
            ));
        }
        for l in self.layers.iter().filter(|l| l.heavy) {
            notes.push(format!("int8: batch {batch}: {} ({}): {}", l.name, l.op, l.reason));
        }
        notes
    }
}

impl GateReport {
    /// The table.
    pub fn to_text(&self) -> String {
        let mut out = format!(
            "{} on {} pictures, loss allowed {}\n  step  int8 layers  {:>12}    loss  us ({})\n",
            self.metric, self.pictures, self.allowed, self.metric, self.clock
        );
        let _ = writeln!(
            out,
            "  fp32            0  {:>12.4}          {:>8.1}",
            self.baseline, self.baseline_microseconds
        );
        for (i, s) in self.steps.iter().enumerate() {
            let names = match s.put_back.as_slice() {
                [] => String::new(),
                [one] => format!("  put back: {one}"),
                [one, rest @ ..] => format!("  put back: {one} and {} more", rest.len()),
            };
            let _ = writeln!(
                out,
                "  {i:>4}  {:>11}  {:>12.4}  {:>6.4}  {:>8.1}{names}",
                s.int8_layers, s.value, s.drop, s.microseconds
            );
        }
        let verdict = if self.holds { "holds" } else { "does NOT hold" };
        let _ = writeln!(out, "  the gate {verdict}");
        out
    }
}
