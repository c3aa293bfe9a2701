//! A source's frames through an engine, on three threads.
//!
//! ```text
//! capture thread           inference thread            the caller's thread
//! source.read() ─► slot ─► preprocess, network, ─► result ─► sinks, next()
//!                          boxes
//! ```
//!
//! There are two slots: the frame that the network works on and the newest one, which waits.
//! (The frame that is being captured is the capture thread's own until it is whole; then the
//! two change places, without a copy.) A live source never waits: its newest frame takes the
//! place of the waiting one, and the drop is counted. A file's frames all get their turn.
//! Two results circulate on the other side in the same way. All memory is taken before the
//! first frame: once the first result was given out (`READY`), no thread allocates.
//!
//! On a CUDA device all of a frame's work is queued there, and two frames are under way at once:
//!
//! ```text
//! capture thread           submit thread    finish thread      the caller's thread
//! source.read() ─► slot ─► queue ─────────► wait, read ──► result ─► sinks, next()
//!    device:  uploads     │ frame n+1 │
//!             compute  │ preprocess, network, boxes of frame n │
//!             downloads       │ results of frame n-1 │
//! ```
//!
//! Frames are captured into memory that the device reads from, without a copy in between. When
//! the device is lost in the middle, its context and all on it are made anew, once; the frames
//! that were on it are counted as lost.

mod builder;
mod capture;
#[cfg(feature = "cuda")]
mod device;
mod exchange;
mod inference;
mod result;
mod summary;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tobiuo_capture::{CaptureError, monotonic_ns};

pub use builder::PipelineBuilder;
use capture::Counters;
use exchange::{Exchange, Taken};
use inference::Progress;
use result::Frame;
pub use result::{Classification, FrameResult, Latency};
pub use summary::{STAGES, Summary};

use crate::sink::Sink;
use crate::timeline::{Recorder, Timeline, Track};
use crate::{Engine, Error, Notifier};

/// A running pipeline: take its results with [`next`](Self::next) or [`run`](Self::run).
///
/// ```no_run
/// use tobiuo::{Engine, Pipeline};
///
/// let engine = Engine::open("detector.tobiuo")?;
/// let mut pipeline = Pipeline::builder(&engine, "/dev/video0").start()?;
/// while let Some(result) = pipeline.next()? {
///     for d in result.detections() {
///         println!("{} {:.2} at {}, {}", engine.label(d.class), d.score, d.left, d.top);
///     }
/// }
/// println!("{}", pipeline.finish()?);
/// # Ok::<(), tobiuo::Error>(())
/// ```
pub struct Pipeline {
    engine: Engine,
    uri: String,
    description: String,
    device: String,
    stop: Arc<AtomicBool>,
    frames: Arc<Exchange<Frame>>,
    results: Arc<Exchange<FrameResult>>,
    counters: Arc<Counters>,
    progress: Arc<Mutex<Progress>>,
    sinks: Vec<Box<dyn Sink>>,
    /// The result that the caller looks at.
    current: Option<FrameResult>,
    capture: Option<JoinHandle<Result<(), CaptureError>>>,
    inference: Option<JoinHandle<Result<(), Error>>>,
    /// Takes the results from a CUDA device.
    finish: Option<JoinHandle<Result<(), Error>>>,
    recorder: Arc<Recorder>,
    notifier: Option<Arc<Notifier>>,
    ready: bool,
    ended: bool,
}

impl Pipeline {
    /// A pipeline from a source's URI through an engine, to be configured and started. The
    /// URI's forms are those of [`tobiuo_capture`].
    pub fn builder(engine: &Engine, uri: impl Into<String>) -> PipelineBuilder {
        PipelineBuilder::new(engine, uri.into())
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the source is and the mode it runs in, for people.
    pub fn source(&self) -> &str {
        &self.description
    }

    /// Waits for the next result, gives it to the sinks, and lends it to the caller until
    /// the next call; `None` when the source has ended or the pipeline was stopped.
    ///
    /// Fails when the source, the network or a sink fails; the pipeline has then stopped.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<&FrameResult>, Error> {
        if let Some(done) = self.current.take() {
            self.results.give_back(done);
        }
        if self.ended {
            return Ok(None);
        }
        let result = loop {
            match self.results.take(Duration::from_secs(3600)) {
                Taken::Buffer(result) => break result,
                Taken::Timeout => continue,
                Taken::Closed => {
                    self.end()?;
                    return Ok(None);
                }
            }
        };
        let begin = monotonic_ns();
        for sink in &mut self.sinks {
            if let Err(e) = sink.write(&result) {
                self.results.give_back(result);
                let _ = self.end();
                return Err(e);
            }
        }
        self.recorder.add(Track::Sinks, "sinks", result.number(), [begin, monotonic_ns()]);
        if !self.ready {
            self.ready = true;
            let ms = crate::process::age().as_secs_f64() * 1e3;
            log::info!("READY: first result {ms:.0} ms after the process started");
        }
        if let Some(notifier) = &self.notifier {
            notifier.frame(self.counters.dropped.load(Ordering::Relaxed));
        }
        Ok(Some(self.current.insert(result)))
    }

    /// Takes all results, in order; `each` gets every one after the sinks, and stops the
    /// pipeline when it returns an error.
    pub fn run(
        &mut self,
        mut each: impl FnMut(&FrameResult) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while let Some(result) = self.next()? {
            if let Err(e) = each(result) {
                let _ = self.end();
                return Err(e);
            }
        }
        Ok(())
    }

    /// The flag that stops the pipeline when it is set, from any thread or a signal handler.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// What was done so far, in figures.
    pub fn summary(&self) -> Summary {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        Summary {
            source: self.uri.clone(),
            device: self.device.clone(),
            frames_in: count(&self.counters.frames_in),
            processed: progress.clocks.processed(),
            dropped: count(&self.counters.dropped),
            device_dropped: count(&self.counters.device_dropped),
            lost: count(&self.counters.lost),
            reconnects: count(&self.counters.reconnects),
            elapsed: progress.last,
            ready: progress.first,
            stages: progress.clocks.summaries(),
        }
    }

    /// What was done when; `None` unless it was asked for
    /// ([`PipelineBuilder::timeline`]).
    pub fn timeline(&self) -> Option<Timeline> {
        self.recorder.timeline(&self.device)
    }

    /// What the sinks made, for people.
    pub fn outputs(&self) -> Vec<String> {
        self.sinks.iter().map(|s| s.describe()).filter(|d| !d.is_empty()).collect()
    }

    /// Stops the pipeline if it still runs, completes the sinks' files, and sums up.
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.end()?;
        Ok(self.summary())
    }

    /// Stops the threads and finishes the sinks; the first error of them all.
    fn end(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        if let Some(notifier) = &self.notifier {
            notifier.stopping();
        }
        self.halt();
        let mut outcome = Ok(());
        let mut note = |o: Result<(), Error>| {
            if outcome.is_ok() {
                outcome = o;
            }
        };
        // The cause before the effect: what fails in the network ends the capture too.
        note(joined(self.inference.take(), "inference"));
        note(joined(self.finish.take(), "finish"));
        note(joined(self.capture.take(), "capture"));
        for sink in &mut self.sinks {
            note(sink.finish());
        }
        outcome
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.frames.close();
        self.results.close();
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.current = None;
        if let Err(e) = self.end() {
            log::warn!("{e}");
        }
    }
}

fn joined<E: Into<Error>>(
    thread: Option<JoinHandle<Result<(), E>>>,
    name: &str,
) -> Result<(), Error> {
    match thread.map(JoinHandle::join) {
        None => Ok(()),
        Some(Ok(outcome)) => outcome.map_err(Into::into),
        Some(Err(_)) => Err(Error::new(
            crate::ErrorKind::Other,
            format!("the {name} thread panicked; this is a bug of tobiuo, please report it"),
        )),
    }
}
