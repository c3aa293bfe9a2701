//! What INT8 came to, for people and programs.

use std::fmt::Write;

use serde::Serialize;

/// Layers that people are told of.
const WORST: usize = 5;

/// What calibration and gate did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Int8Report {
    /// What chose the magnitudes that are cut off.
    pub calibrator: String,
    /// Every calibrator that was tried, with the outputs' error on what was held back.
    pub tried: Vec<Tried>,
    /// Samples whose tensors were counted.
    pub pictures: usize,
    /// Samples held back to compare outputs on.
    pub held_back: usize,
    /// Files that could not be read, with the reason.
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

/// Accuracy against latency.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// From all layers on integers to what holds.
    pub steps: Vec<GateStep>,
    /// The last step is within what is allowed.
    pub holds: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateStep {
    /// Layers put back to floats in this step.
    pub put_back: Vec<String>,
    /// Layers on integers.
    pub int8_layers: usize,
    /// The metric.
    pub value: f64,
    /// The loss.
    pub drop: f64,
    /// The whole network, measured on the CPU device.
    pub microseconds: f64,
}

impl Int8Report {
    /// Lines for people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        if self.from_cache {
            let _ = writeln!(out, "calibration: from the cache ({})", self.calibrator);
        } else if !self.calibrator.is_empty() {
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
        if self.tried.len() > 1 {
            let best = self.tried.iter().map(|t| t.error).fold(f64::INFINITY, f64::min);
            for t in &self.tried {
                let mark = if t.error == best { "  <- kept" } else { "" };
                let db = -20.0 * t.error.log10();
                let _ = writeln!(
                    out,
                    "  {:<18} output error {:.4} ({db:.1} dB){mark}",
                    t.calibrator, t.error
                );
            }
        }
        if !self.skipped.is_empty() {
            let _ = writeln!(out, "{} files could not be read:", self.skipped.len());
            for s in self.skipped.iter().take(5) {
                let _ = writeln!(out, "  {s}");
            }
        }
        let int8 = self.layers.iter().filter(|l| l.int8).count();
        let _ = writeln!(out, "INT8: {int8} of {} heavy layers", self.layers.len());
        for l in self.layers.iter().filter(|l| !l.int8) {
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
        for n in &self.notes {
            let _ = writeln!(out, "note: {n}");
        }
        out
    }
}

impl GateReport {
    /// The table.
    pub fn to_text(&self) -> String {
        let mut out = format!(
            "{} on {} pictures, loss allowed {}\n  step  int8 layers  {:>12}    loss  CPU us\n",
            self.metric, self.pictures, self.allowed, self.metric
        );
        let _ = writeln!(
            out,
            "  fp32            0  {:>12.4}          {:>8.0}",
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
                "  {i:>4}  {:>11}  {:>12.4}  {:>6.4}  {:>8.0}{names}",
                s.int8_layers, s.value, s.drop, s.microseconds
            );
        }
        let verdict = if self.holds { "holds" } else { "does NOT hold" };
        let _ = writeln!(out, "  the gate {verdict}");
        out
    }
}
