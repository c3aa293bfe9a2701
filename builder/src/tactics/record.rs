//! Tactic records: what a build chose, to build the same engine again without measuring.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tobiuo_engine::{CudaKey, Precision};
use tobiuo_kernels::Target;

use super::choose::source_key;
use super::compile::{Compiler, Source};
use super::{Effort, Tactic, TacticError};
use crate::cuda::joins::Names;
use crate::cuda::lower::Lowering;
use crate::cuda::schedule::{Schedule, Slot};
use crate::progress::Progress;
use crate::quantize::report::{GateReport, SpeedReport};

/// The format this builder writes and reads.
const FORMAT: u32 = 1;

/// Everything that a build decided by measuring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this file's form.
    pub format: u32,
    /// The builder's version.
    pub builder: String,
    /// NVRTC's version.
    pub nvrtc: (u32, u32),
    /// The model's file, for people.
    pub model: String,
    /// Hash of graph and weights.
    pub model_hash: String,
    /// The device.
    pub device: CudaKey,
    /// The device as the kernel families saw it.
    pub target: Target,
    /// Precision of the heavy layers.
    pub precision: Precision,
    /// How many candidates were tried.
    pub effort: Effort,
    /// The options that shaped the engine, as its provenance says them.
    pub options: String,
    /// Which layers the accuracy gate put back, of a network that was calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8: Option<RecordedInt8>,
    /// One per batch size.
    pub plans: Vec<RecordedPlan>,
}

/// What the accuracy gate decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedInt8 {
    /// Layers that stay in floats, with the reason.
    pub floats: BTreeMap<String, String>,
    /// What was measured.
    pub gate: Option<GateReport>,
}

/// What was chosen for one plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedPlan {
    /// Items per run.
    pub batch: usize,
    /// What is in FP16 because it is faster there, of a network that may be mixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<SpeedReport>,
    /// Layers that are one, by the names of all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Names>,
    /// What all kernels prefer as shared memory, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carveout: Option<u8>,
    /// In the order they run.
    pub layers: Vec<RecordedLayer>,
}

/// What was chosen for one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedLayer {
    /// The layer's name.
    pub name: String,
    /// The kernel's source, as [`source_key`] names it.
    pub source: String,
    /// Label, time and runners-up.
    pub tactic: tobiuo_engine::Tactic,
    /// The stream.
    pub stream: usize,
    /// Layers of other streams that it waits for.
    pub after: Vec<usize>,
}

impl RecordedPlan {
    /// What was chosen for a lowering.
    pub fn of(
        batch: usize,
        lowering: &Lowering,
        tactics: &[Tactic],
        schedule: &Schedule,
        speed: Option<&SpeedReport>,
    ) -> RecordedPlan {
        let layers = lowering.layers.iter().zip(tactics).zip(&schedule.slots);
        RecordedPlan {
            batch,
            speed: speed.cloned(),
            joined: Vec::new(),
            carveout: schedule.carveout,
            layers: layers
                .map(|((layer, tactic), slot)| RecordedLayer {
                    name: layer.name.clone(),
                    source: source_key(&tactic.candidate.source),
                    tactic: tactic.describe(),
                    stream: slot.stream,
                    after: slot.after.clone(),
                })
                .collect(),
        }
    }

    /// The same choice again, compiled.
    pub fn replay(
        &self,
        lowering: &Lowering,
        target: &Target,
        compiler: &Compiler,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<(Vec<Tactic>, Schedule), TacticError> {
        if self.layers.len() != lowering.layers.len() {
            return Err(TacticError::Record(format!(
                "batch {}: it has {} layers, the network now has {}",
                self.batch,
                self.layers.len(),
                lowering.layers.len()
            )));
        }
        progress.stage("compiling kernels", share);
        let mut chosen = Vec::with_capacity(self.layers.len());
        for (recorded, lowered) in self.layers.iter().zip(&lowering.layers) {
            let same = lowered
                .layer
                .every_candidate(target)
                .into_iter()
                .find(|c| source_key(&c.source) == recorded.source);
            chosen.push(same.ok_or_else(|| {
                TacticError::Record(format!(
                    "layer '{}': this builder has no kernel '{}' with the source that was \
                     recorded for '{}'",
                    lowered.name, recorded.tactic.label, recorded.name
                ))
            })?);
        }
        let sources: Vec<Source> = chosen.iter().map(|c| (c.source.as_str(), c.specific)).collect();
        let count = sources.len();
        let codes = compiler.compile_all(&sources, target.sm, &mut |done| {
            progress.advance(done as f64 / count as f64, &format!("{done} of {count}"));
        });
        let mut tactics = Vec::with_capacity(count);
        for (i, (candidate, code)) in chosen.into_iter().zip(codes).enumerate() {
            let told = &self.layers[i].tactic;
            let microseconds = |ns: u64| ns as f64 / 1e3;
            tactics.push(Tactic {
                candidate,
                code: code?,
                time_us: told.nanoseconds.map(microseconds),
                runners_up: (told.runners_up.iter())
                    .map(|(label, ns)| (label.clone(), microseconds(*ns)))
                    .collect(),
                finalists: Vec::new(),
                distinct: i,
            });
        }
        let slots: Vec<Slot> = (self.layers.iter())
            .map(|l| Slot { stream: l.stream, after: l.after.clone() })
            .collect();
        let streams = slots.iter().map(|s| s.stream + 1).max().unwrap_or(1);
        let schedule = Schedule { slots, streams, carveout: self.carveout };
        if !schedule.is_sound(lowering.layers.len()) {
            return Err(TacticError::Record("its streams make no sense".into()));
        }
        Ok((tactics, schedule))
    }
}

/// What a record and this build have, where they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs.
    pub what: &'static str,
    /// In the record.
    pub recorded: String,
    /// In this build.
    pub here: String,
}

impl Record {
    /// An empty record of this format.
    pub const FORMAT: u32 = FORMAT;

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// `InvalidData` where it is no record that this builder can read, with the reason.
    pub fn read(path: &Path) -> io::Result<Record> {
        let bytes = fs::read(path)?;
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| invalid(format!("this is no tactic record: {e}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err(invalid(format!(
                    "a tactic record of format {format}; this builder reads {FORMAT}"
                )));
            }
            None => return Err(invalid("this is no tactic record".into())),
        }
        serde_json::from_value(value).map_err(|e| invalid(format!("a damaged tactic record: {e}")))
    }

    /// Writes it, all at once.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        tobiuo_tensor::file::replace(path, &text)
    }

    /// In what it differs from what a build is about to do; `device`: the one that is here, if
    /// it must be the same.
    pub fn differences(&self, here: &Here) -> Vec<Difference> {
        let mut out = Vec::new();
        let mut compare = |what, recorded: String, here: String| {
            if recorded != here {
                out.push(Difference { what, recorded, here });
            }
        };
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        compare("model", self.model_hash.clone(), here.model_hash.into());
        compare("builder", self.builder.clone(), here.builder.into());
        compare("NVRTC", version(self.nvrtc), version(here.nvrtc));
        compare("precision", self.precision.to_string(), here.precision.to_string());
        let batches: Vec<usize> = self.plans.iter().map(|p| p.batch).collect();
        compare("batch sizes", format!("{batches:?}"), format!("{:?}", here.batches));
        let architecture = |sm: u32| format!("sm_{sm}");
        compare("architecture", architecture(self.device.sm), architecture(here.sm));
        if let Some(d) = here.device {
            let r = &self.device;
            compare("device", r.name.clone(), d.name.clone());
            compare("multiprocessors", r.sm_count.to_string(), d.sm_count.to_string());
            let shared = |k: &CudaKey| k.shared_per_block.to_string();
            compare("shared memory of a block", shared(r), shared(d));
            compare("L2 cache", r.l2_bytes.to_string(), d.l2_bytes.to_string());
        }
        out
    }
}

/// A build that wants to replay a record.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Here<'a> {
    pub model_hash: &'a str,
    pub builder: &'a str,
    pub nvrtc: (u32, u32),
    pub precision: Precision,
    pub batches: &'a [usize],
    pub sm: u32,
    /// The device in this machine; `None`: only the architecture is given.
    pub device: Option<&'a CudaKey>,
}
