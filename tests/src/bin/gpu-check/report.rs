//! What was checked, as a table and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tobiuo::console;
use tobiuo_kernels::Layer;

use crate::unit::{Goal, Unit};

/// Failures printed; the JSON has all.
const SHOWN: usize = 10;

/// A candidate that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub family: &'static str,
    pub from: String,
    pub goal: String,
    pub label: String,
    pub why: String,
    pub seed: u64,
    pub layer: Layer,
}

impl Failure {
    pub fn of(unit: &Unit, goal: Goal, label: &str, why: String) -> Failure {
        Failure {
            family: unit.layer.family(),
            from: unit.from.clone(),
            goal: goal.to_string(),
            label: label.to_string(),
            why,
            seed: unit.seed,
            layer: unit.layer.clone(),
        }
    }
}

/// One family on one target.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub layers: usize,
    pub candidates: usize,
    pub failed: usize,
    pub worst: f64,
    pub worst_at: String,
    seen: BTreeSet<String>,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Report {
    pub rows: BTreeMap<(String, Goal), Row>,
    pub failures: Vec<Failure>,
    pub left: usize,
    reference: f64,
    compile: f64,
    run: f64,
}

impl Report {
    fn row(&mut self, unit: &Unit, goal: Goal) -> &mut Row {
        self.rows.entry((unit.layer.family().to_string(), goal)).or_default()
    }

    pub fn passed(&mut self, unit: &Unit, goal: Goal, label: &str, error: f64) {
        let row = self.row(unit, goal);
        row.candidates += 1;
        row.seen.insert(label.to_string());
        if error >= row.worst {
            row.worst = error;
            row.worst_at = format!("{label} of {}", unit.from);
        }
    }

    pub fn failed(&mut self, failure: Failure) {
        if self.failures.len() < 10 {
            console::say(format_args!(
                "FAILED {} {} [{}]: {}",
                failure.family, failure.goal, failure.label, failure.why
            ));
        }
        let goal = match failure.goal.strip_prefix("ptx sm_").and_then(|s| s.parse().ok()) {
            Some(sm) => Goal::Ptx(sm),
            None => Goal::Native,
        };
        let row = self.rows.entry((failure.family.to_string(), goal)).or_default();
        row.candidates += 1;
        row.failed += 1;
        row.seen.insert(failure.label.clone());
        self.failures.push(failure);
    }

    /// A layer that could not be checked at all.
    pub fn broken(&mut self, unit: &Unit, why: String) {
        console::say(format_args!("FAILED {}: {why}", unit.layer.family()));
        let goal = unit.goals.first().copied().unwrap_or(Goal::Native);
        self.row(unit, goal).failed += 1;
        self.failures.push(Failure::of(unit, goal, "", why));
    }

    pub fn layer_done(&mut self, unit: &Unit) {
        for &goal in &unit.goals {
            self.row(unit, goal).layers += 1;
        }
    }

    pub fn seconds(&mut self, reference: f64, compile: f64, run: f64) {
        self.reference += reference;
        self.compile += compile;
        self.run += run;
    }

    /// Progress in a few words.
    pub fn line(&self) -> String {
        let candidates: usize = self.rows.values().map(|r| r.candidates).sum();
        format!("{candidates} candidates, {} failures", self.failures.len())
    }

    /// The first failures, and the table.
    pub fn print(&self) -> std::io::Result<()> {
        for f in self.failures.iter().take(SHOWN) {
            let layer = serde_json::to_string(&f.layer).expect("layers are plain data");
            let target = f.goal.strip_prefix("ptx ").unwrap_or("native");
            console::print(format_args!(
                "{} ({}) {} [{}]\n  {}\n",
                f.family, f.from, f.goal, f.label, f.why
            ))?;
            console::print(format_args!(
                "  again: gpu-check --layer '{layer}' --seed {} --targets {target} --only '{}'\n",
                f.seed, f.label
            ))?;
        }
        if self.failures.len() > SHOWN {
            console::print(format_args!("and {} more failures\n", self.failures.len() - SHOWN))?;
        }
        console::print(format_args!(
            "{:14} {:10} {:>7} {:>8} {:>7} {:>12} {:>7}  worst at\n",
            "family", "target", "layers", "kernels", "labels", "worst error", "failed"
        ))?;
        for ((family, goal), row) in &self.rows {
            console::print(format_args!(
                "{family:14} {goal:10} {:7} {:8} {:7} {:12.2e} {:7}  {}\n",
                row.layers,
                row.candidates,
                row.seen.len(),
                row.worst,
                row.failed,
                row.worst_at
            ))?;
        }
        console::print(format_args!(
            "core seconds: reference {:.0}, compile {:.0}, run and compare {:.0}\n",
            self.reference, self.compile, self.run
        ))?;
        if self.left > 0 {
            console::print(format_args!(
                "{} layers were not finished in the time given\n",
                self.left
            ))?;
        }
        Ok(())
    }

    /// Everything, for machines.
    pub fn json(&self, seed: u64, device: &str) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|((family, goal), row)| {
                let labels = row.seen.len();
                serde_json::json!({
                    "family": family, "target": goal.to_string(), "layers": row.layers,
                    "candidates": row.candidates, "labels": labels, "failed": row.failed,
                    "worst_error": row.worst, "worst_at": row.worst_at,
                })
            })
            .collect();
        serde_json::json!({
            "device": device, "seed": seed, "families": rows, "layers_left": self.left,
            "failures": self.failures,
            "core_seconds": {
                "reference": self.reference, "compile": self.compile, "run": self.run,
            },
        })
    }
}
