//! The inference thread: from a frame to its result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tobiuo_capture::monotonic_ns;

use super::capture::Counters;
use super::exchange::{Exchange, Taken};
use super::result::{Frame, FrameResult, Latency};
use super::summary::Clocks;
use crate::Error;
use crate::timeline::{Recorder, Track};
use crate::vision::HostVision;

pub(crate) struct InferenceThread {
    pub vision: HostVision,
    pub frames: Arc<Exchange<Frame>>,
    pub results: Arc<Exchange<FrameResult>>,
    pub progress: Arc<Mutex<Progress>>,
    pub counters: Arc<Counters>,
    pub stop: Arc<AtomicBool>,
    /// After so long without a frame a live source is said to be silent.
    pub watchdog: Duration,
    pub uri: String,
    pub recorder: Arc<Recorder>,
}

/// What the inference thread measures.
pub(crate) struct Progress {
    pub clocks: Clocks,
    pub start: Instant,
    /// From the start to the first and the last result.
    pub first: Option<Duration>,
    pub last: Duration,
}

impl Progress {
    pub fn new() -> Progress {
        let start = Instant::now();
        Progress { clocks: Clocks::new(), start, first: None, last: Duration::ZERO }
    }

    /// A result is ready.
    pub fn record(&mut self, latency: &Latency) {
        self.clocks.record(latency);
        self.last = self.start.elapsed();
        self.first = self.first.or(Some(self.last));
    }
}

impl InferenceThread {
    /// Turns frames into results until none come any more; then closes both exchanges.
    pub fn run(mut self) -> Result<(), Error> {
        let outcome = self.infer();
        // The capture thread ends too, also when it is waiting for a camera.
        if outcome.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.frames.close();
        while let Taken::Buffer(_) = self.frames.take(Duration::ZERO) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.results.close();
        outcome
    }

    fn infer(&mut self) -> Result<(), Error> {
        let mut silent = Duration::ZERO;
        // The result's place first, the frame after: a frame that is taken is the newest at
        // the moment when the network starts on it, however slow the sinks are.
        while let Some(mut result) = self.results.acquire() {
            let mut frame = loop {
                match self.frames.take(self.watchdog) {
                    Taken::Buffer(frame) => break frame,
                    Taken::Closed => return Ok(()),
                    Taken::Timeout => {
                        silent += self.watchdog;
                        log::warn!("{}: no frame for {:.0} s", self.uri, silent.as_secs_f64());
                    }
                }
            };
            silent = Duration::ZERO;
            let begin = monotonic_ns();
            let format = frame.meta.format;
            let size = format.frame_bytes().unwrap_or(0).min(frame.pixels.len());
            let times = self.vision.run(
                format,
                &frame.pixels[..size],
                &mut result.detections,
                &mut result.classes,
            )?;
            let ready = monotonic_ns();
            let number = frame.meta.sequence;
            let mut at = begin;
            for (name, took) in [
                ("preprocess", times.preprocess),
                ("network", times.network),
                ("postprocess", times.postprocess),
            ] {
                let end = at + took.as_nanos() as u64;
                self.recorder.add(Track::Inference, name, number, [at, end]);
                at = end;
            }
            let l = &mut result.latency;
            l.capture = Duration::from_nanos(frame.captured_ns.saturating_sub(frame.begin_ns));
            (l.upload, l.download) = (times.upload, times.download);
            l.preprocess = times.preprocess;
            l.network = times.network;
            l.postprocess = times.postprocess;
            l.total = Duration::from_nanos(ready.saturating_sub(frame.begin_ns.min(begin)));
            self.progress.lock().unwrap_or_else(PoisonError::into_inner).record(l);
            // The result takes the frame's memory and gives its own for it: no copy.
            std::mem::swap(&mut result.frame, &mut frame);
            self.frames.give_back(frame);
            self.results.put(result);
        }
        Ok(())
    }
}
