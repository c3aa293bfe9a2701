//! The pipeline on frames that are there as fast as they can be copied, and what it does when.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tobiuo_capture::{
    CaptureError, FrameFormat, FrameMeta, Read, Source, SourceConfig, monotonic_ns,
};

use crate::timeline::Timeline;
use crate::{ContextOptions, Engine, Error, ErrorKind, Pipeline, Summary};

/// Frames that are read beforehand, then repeated.
const REPEATED: usize = 8;

/// How a pipeline is measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TimelineOptions {
    /// Frames whose work is noted.
    pub frames: u64,
    /// Frames before them.
    pub warmup: u64,
    /// Threads, device, memory path.
    pub context: ContextOptions,
}

impl Default for TimelineOptions {
    /// 100 frames after 10.
    fn default() -> Self {
        TimelineOptions { frames: 100, warmup: 10, context: ContextOptions::default() }
    }
}

/// What a pipeline did.
#[derive(Clone, Debug)]
pub struct TimelineReport {
    /// Its stages' times; the frames before the noted ones are in it too.
    pub summary: Summary,
    /// What was done when.
    pub timeline: Timeline,
}

/// Copies frames that it has.
struct Repeat {
    frames: Vec<(FrameFormat, Vec<u8>)>,
    next: u64,
    count: u64,
}

impl Source for Repeat {
    fn describe(&self) -> String {
        format!("{} frames, repeated", self.frames.len())
    }

    fn max_frame_bytes(&self) -> usize {
        self.frames.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
    }

    fn frame_rate(&self) -> Option<f64> {
        None
    }

    fn is_live(&self) -> bool {
        false
    }

    fn read(&mut self, slot: &mut [u8], _: &AtomicBool) -> Result<Read, CaptureError> {
        if self.next == self.count {
            return Ok(Read::End);
        }
        let (format, bytes) = &self.frames[self.next as usize % self.frames.len()];
        slot[..bytes.len()].copy_from_slice(bytes);
        self.next += 1;
        let (sequence, timestamp_ns) = (self.next - 1, monotonic_ns());
        Ok(Read::Frame(FrameMeta { format: *format, sequence, timestamp_ns, dropped_before: 0 }))
    }
}

/// Runs an engine's pipeline on some frames of an input, again and again.
///
/// Fails as [`PipelineBuilder::start`](crate::pipeline::PipelineBuilder::start) and
/// [`Pipeline::next`] do, and with [`ErrorKind::Input`] when the input has no frame.
pub fn timeline(
    engine: &Engine,
    input: &str,
    options: &TimelineOptions,
) -> Result<TimelineReport, Error> {
    let stop = AtomicBool::new(false);
    let mut source = tobiuo_capture::open(input, &SourceConfig::default())?;
    let mut frames = Vec::with_capacity(REPEATED);
    let mut slot = vec![0; source.max_frame_bytes()];
    while frames.len() < REPEATED {
        match source.read(&mut slot, &stop)? {
            Read::Frame(meta) => {
                let bytes = meta.format.frame_bytes().unwrap_or(0).min(slot.len());
                frames.push((meta.format, slot[..bytes].to_vec()));
            }
            Read::End => break,
        }
    }
    drop(source);
    if frames.is_empty() {
        return Err(Error::new(ErrorKind::Input, format!("{input}: there is no frame in it")));
    }
    let count = options.warmup.saturating_add(options.frames);
    let mut builder = Pipeline::builder(engine, input)
        .source(move || Ok(Box::new(Repeat { frames: frames.clone(), next: 0, count })))
        .memory(options.context.memory)
        .timeline(usize::try_from(count).unwrap_or(usize::MAX));
    if let Some(threads) = options.context.threads {
        builder = builder.threads(threads);
    }
    let mut pipeline = builder.start()?;
    pipeline.run(|_| Ok(()))?;
    let timeline = pipeline.timeline();
    stop.store(true, Ordering::Relaxed);
    let summary = pipeline.finish()?;
    let timeline = timeline.expect("it was asked for").from_frame(options.warmup);
    Ok(TimelineReport { summary, timeline })
}

impl TimelineReport {
    /// Microseconds per frame in which the network ran and something of another frame went on
    /// beside it: an upload or download, a capture.
    fn overlaps(&self) -> [f64; 2] {
        let spans = self.timeline.spans();
        let frames = spans.iter().filter(|s| s.name == "network").count().max(1) as f64;
        let us = |names: &[&str]| self.timeline.overlap(names, &["network"]) as f64 / 1e3 / frames;
        [us(&["upload", "download"]), us(&["capture"])]
    }

    /// The summary as [`Summary::to_json`], and `overlap_us` {`transfers`, `capture`}: how much
    /// of them goes on beside the network on another frame, per frame.
    pub fn to_json(&self) -> Value {
        let [transfers, capture] = self.overlaps();
        let mut document = self.summary.to_json();
        document["overlap_us"] = json!({ "transfers": transfers, "capture": capture });
        document
    }
}

impl fmt::Display for TimelineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [transfers, capture] = self.overlaps();
        writeln!(f, "{}", self.summary)?;
        writeln!(
            f,
            "beside the network on another frame, per frame: {transfers:.1} us of upload and \
             download, {capture:.1} us of capture"
        )
    }
}
