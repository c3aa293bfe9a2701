use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tobiuo_capture::{CaptureError, Source, SourceConfig};

use super::Pipeline;
use super::capture::{CaptureThread, Counters, FIRST_BACKOFF, Opener};
use super::exchange::Exchange;
use super::inference::{InferenceThread, Progress};
use super::result::{Frame, FrameResult};
use crate::MemoryPath;
use crate::context::ContextOptions;
use crate::sink::{Sink, StreamInfo};
use crate::vision::{DetectOverrides, Vision};
use crate::{Engine, Error, ErrorKind};

/// A pipeline to be; made by [`Pipeline::builder`].
#[must_use = "a pipeline runs when it is started"]
pub struct PipelineBuilder {
    engine: Engine,
    uri: String,
    config: SourceConfig,
    opener: Option<Opener>,
    context: ContextOptions,
    overrides: DetectOverrides,
    sinks: Vec<Box<dyn Sink>>,
    stop: Arc<AtomicBool>,
    reconnect: bool,
    backoff: Duration,
    watchdog: Duration,
}

impl PipelineBuilder {
    pub(crate) fn new(engine: &Engine, uri: String) -> Self {
        PipelineBuilder {
            engine: engine.clone(),
            uri,
            config: SourceConfig::default(),
            opener: None,
            context: ContextOptions::default(),
            overrides: DetectOverrides::default(),
            sinks: Vec::new(),
            stop: Arc::default(),
            reconnect: true,
            backoff: FIRST_BACKOFF,
            watchdog: Duration::from_secs(10),
        }
    }

    /// What is asked of the source: size, rate, looping, pacing, how many frames.
    pub fn source_config(mut self, config: SourceConfig) -> Self {
        self.config = config;
        self
    }

    /// Opens the source by `open` instead of by its URI, also after it was lost.
    pub fn source(
        mut self,
        open: impl FnMut() -> Result<Box<dyn Source>, CaptureError> + Send + 'static,
    ) -> Self {
        self.opener = Some(Box::new(open));
        self
    }

    /// Boxes with a lower score are dropped, instead of by the engine's own threshold.
    pub fn score_threshold(mut self, threshold: f32) -> Self {
        self.overrides.score_threshold = Some(threshold);
        self
    }

    /// Of two overlapping boxes of a class the lower scored goes above this IoU, instead of
    /// the engine's own threshold.
    pub fn iou_threshold(mut self, threshold: f32) -> Self {
        self.overrides.iou_threshold = Some(threshold);
        self
    }

    /// At most so many detections per frame, instead of the engine's own limit.
    pub fn max_detections(mut self, count: usize) -> Self {
        self.overrides.max_detections = Some(count);
        self
    }

    /// Threads that the network computes on; all cores unless said.
    pub fn threads(mut self, count: NonZeroUsize) -> Self {
        self.context.threads = Some(count);
        self
    }

    /// How inputs and frames get to a CUDA device.
    pub fn memory(mut self, memory: MemoryPath) -> Self {
        self.context.memory = memory;
        self
    }

    /// Gives every result to a sink.
    pub fn sink(mut self, sink: Box<dyn Sink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Stops when this flag is set, for example by a signal handler. The pipeline sets it too
    /// when it ends, so it belongs to one pipeline.
    pub fn stop_flag(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Whether a live source that is lost is opened again, as it is unless said; the first
    /// wait before that, which doubles up to 10 s.
    pub fn reconnect(mut self, reconnect: bool, first_wait: Duration) -> Self {
        self.reconnect = reconnect;
        self.backoff = first_wait;
        self
    }

    /// A warning is logged when no frame comes for so long; 10 s unless said.
    pub fn watchdog(mut self, patience: Duration) -> Self {
        self.watchdog = patience.max(Duration::from_millis(1));
        self
    }

    /// Opens the source, takes all memory, starts the threads.
    ///
    /// Fails with [`ErrorKind::Input`] when the source cannot be opened, with
    /// [`ErrorKind::Unsupported`] when the engine does not look at pictures, and as
    /// [`ExecutionContext::new`](crate::ExecutionContext::new) does.
    pub fn start(self) -> Result<Pipeline, Error> {
        let PipelineBuilder {
            engine, uri, mut config, context, overrides, mut sinks, stop, ..
        } = self;
        let mut progress = Progress::new();
        let vision = Vision::new(&engine, &context, overrides)?;
        let realtime = config.realtime;
        // Counted here, over all openings of a source that gets lost.
        let limit = config.frames.take();
        let mut opener = self.opener.unwrap_or_else(|| {
            let uri = uri.clone();
            Box::new(move || tobiuo_capture::open(&uri, &config))
        });
        let source = opener()?;
        let description = source.describe();
        log::info!("source: {description}");
        let info = StreamInfo {
            source: &uri,
            frame_rate: source.frame_rate(),
            labels: engine.labels(),
            classes: vision.classes(),
            max_results: vision.max_results(),
        };
        for sink in &mut sinks {
            sink.start(&info)?;
        }
        let bytes = source.max_frame_bytes();
        let result = || FrameResult::new(bytes, vision.max_results(), vision.max_results());
        let frames = Arc::new(Exchange::new(1, vec![Frame::new(bytes), Frame::new(bytes)]));
        let results = Arc::new(Exchange::new(2, vec![result(), result()]));
        let counters = Arc::new(Counters::default());
        let device = vision.context().device();
        log::info!("device: {device}");
        progress.start = std::time::Instant::now();
        let progress = Arc::new(Mutex::new(progress));
        let capture = CaptureThread {
            live: source.is_live() || realtime,
            limit,
            reconnect: self.reconnect && source.is_live(),
            source,
            opener,
            uri: uri.clone(),
            backoff: self.backoff,
            frames: frames.clone(),
            counters: counters.clone(),
            stop: stop.clone(),
        };
        let inference = InferenceThread {
            vision,
            frames: frames.clone(),
            results: results.clone(),
            progress: progress.clone(),
            counters: counters.clone(),
            stop: stop.clone(),
            watchdog: self.watchdog,
            uri: uri.clone(),
        };
        let spawned = |e| Error::caused(ErrorKind::Limit, "cannot start a thread", e);
        let mut pipeline = Pipeline {
            engine,
            uri,
            description,
            device,
            stop,
            frames,
            results,
            counters,
            progress,
            sinks,
            current: None,
            capture: None,
            inference: None,
            ready: false,
            ended: false,
        };
        // Should the second not start, dropping the pipeline ends the first.
        let thread = thread::Builder::new().name("tobiuo-infer".into());
        pipeline.inference = Some(thread.spawn(move || inference.run()).map_err(spawned)?);
        let thread = thread::Builder::new().name("tobiuo-capture".into());
        pipeline.capture = Some(thread.spawn(move || capture.run()).map_err(spawned)?);
        Ok(pipeline)
    }
}
