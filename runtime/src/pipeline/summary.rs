use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Latency;
use crate::stats::{Distribution, Percentiles};

/// The stages in the order of the frame's way, as they are named in reports. Uploads and downloads
/// are measured on CUDA devices alone.
pub const STAGES: [&str; 7] =
    ["capture", "upload", "preprocess", "network", "postprocess", "download", "total"];

/// The stages' clocks; recording allocates nothing.
pub(crate) struct Clocks([Distribution; 7]);

impl Clocks {
    pub fn new() -> Clocks {
        Clocks(std::array::from_fn(|_| Distribution::new()))
    }

    pub fn record(&mut self, l: &Latency) {
        let transfers = !(l.upload.is_zero() && l.download.is_zero());
        let stages =
            [l.capture, l.upload, l.preprocess, l.network, l.postprocess, l.download, l.total];
        for (i, (clock, took)) in self.0.iter_mut().zip(stages).enumerate() {
            if matches!(i, 1 | 5) && !transfers {
                continue;
            }
            clock.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    pub fn processed(&self) -> u64 {
        self.0[0].count()
    }

    pub fn summaries(&self) -> [Option<Percentiles>; 7] {
        std::array::from_fn(|i| self.0[i].summary())
    }
}

/// What a pipeline did, in figures.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The source's URI.
    pub source: String,
    /// What it ran on.
    pub device: String,
    /// Frames that the source delivered.
    pub frames_in: u64,
    /// Frames whose result was ready.
    pub processed: u64,
    /// Frames that gave way to a newer one.
    pub dropped: u64,
    /// Frames that the camera or its driver lost, as it tells itself.
    pub device_dropped: u64,
    /// Frames whose work went with a CUDA device that was lost.
    pub lost: u64,
    /// How often the source was lost and opened again.
    pub reconnects: u64,
    /// From the pipeline's start to the last result.
    pub elapsed: Duration,
    /// From the pipeline's start to the first result.
    pub ready: Option<Duration>,
    /// The clock of each of [`STAGES`].
    pub stages: [Option<Percentiles>; 7],
}

impl Summary {
    /// Results per second, from the first result on.
    pub fn frames_per_second(&self) -> Option<f64> {
        let from = self.ready?;
        let seconds = self.elapsed.checked_sub(from)?.as_secs_f64();
        (self.processed > 1 && seconds > 0.0).then(|| (self.processed - 1) as f64 / seconds)
    }

    /// The summary as a document: `source`, `device`, `frames_in`, `processed`, `dropped`,
    /// `device_dropped`, `lost`, `reconnects`, `seconds`, `ready_ms`, `frames_per_second`, and
    /// `latency_us` {stage: {`min`, `mean`, `p50`, `p90`, `p95`, `p99`, `max`}}; null where
    /// nothing was measured.
    pub fn to_json(&self) -> Value {
        let round = |v: f64| (v * 1e3).round() / 1e3;
        let stages: serde_json::Map<String, Value> = STAGES
            .iter()
            .zip(&self.stages)
            .map(|(name, p)| (name.to_string(), p.map_or(Value::Null, |p| p.to_json())))
            .collect();
        json!({
            "source": self.source,
            "device": self.device,
            "frames_in": self.frames_in,
            "processed": self.processed,
            "dropped": self.dropped,
            "device_dropped": self.device_dropped,
            "lost": self.lost,
            "reconnects": self.reconnects,
            "seconds": round(self.elapsed.as_secs_f64()),
            "ready_ms": self.ready.map(|r| round(r.as_secs_f64() * 1e3)),
            "frames_per_second": self.frames_per_second().map(round),
            "latency_us": stages,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<13}{:>9}{:>9}{:>9}  milliseconds", "", "p50", "p90", "p99")?;
        for (name, p) in STAGES.iter().zip(&self.stages) {
            match p {
                Some(p) => {
                    let [a, b, c] = [p.p50, p.p90, p.p99].map(|us| us / 1e3);
                    writeln!(f, "{name:<13}{a:>9.2}{b:>9.2}{c:>9.2}")?;
                }
                // Never where nothing is transferred; any other only when no frame came.
                None if matches!(*name, "upload" | "download") => {}
                None => writeln!(f, "{name:<13}{:>9}{:>9}{:>9}", "-", "-", "-")?,
            }
        }
        write!(
            f,
            "frames: {} in, {} processed, {} dropped",
            self.frames_in, self.processed, self.dropped
        )?;
        if self.device_dropped > 0 {
            write!(f, ", {} lost by the camera", self.device_dropped)?;
        }
        if self.lost > 0 {
            write!(f, ", {} lost with the device", self.lost)?;
        }
        if self.reconnects > 0 {
            write!(f, "; source lost and reopened {} times", self.reconnects)?;
        }
        if let Some(rate) = self.frames_per_second() {
            write!(f, "; {rate:.1} frames/s")?;
        }
        write!(f, " on {}", self.device)
    }
}
