use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "cuda")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tobiuo_capture::{CaptureError, Source, SourceConfig};

use super::Pipeline;
use super::capture::{CaptureThread, Counters, FIRST_BACKOFF, Opener};
#[cfg(feature = "cuda")]
use super::device;
use super::exchange::Exchange;
use super::inference::{InferenceThread, Progress};
use super::result::{Frame, FrameResult};
use crate::MemoryPath;
use crate::context::ContextOptions;
use crate::sink::{Sink, StreamInfo};
use crate::timeline::Recorder;
use crate::vision::{DetectOverrides, Vision};
use crate::{Engine, Error, ErrorKind, Notifier};

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
    timeline: usize,
    notifier: Option<Arc<Notifier>>,
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
            timeline: 0,
            notifier: None,
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

    /// Notes what is done when, for so many frames; [`Pipeline::timeline`] gives it.
    pub fn timeline(mut self, frames: usize) -> Self {
        self.timeline = frames;
        self
    }

    /// Tells a service manager that the first result is there, that frames keep coming, and
    /// what is wrong with the source.
    pub fn notifier(mut self, notifier: Notifier) -> Self {
        self.notifier = Some(Arc::new(notifier));
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
        // Frames that are taken at once, and results that are under way beside those given out.
        let taken = match &vision {
            Vision::Host(_) => 1,
            #[cfg(feature = "cuda")]
            Vision::Cuda(_) => device::SLOTS,
        };
        let spare: Vec<Frame> = (0..=taken).map(|_| Frame::new(bytes)).collect();
        let first = Frame::new(bytes);
        let made: Vec<FrameResult> = (0..=taken.max(1)).map(|_| result()).collect();
        let device = vision.device();
        log::info!("device: {device}");
        let recorder = Arc::new(Recorder::new(self.timeline));
        #[cfg(feature = "cuda")]
        let (mut vision, mut flights, origin) = (vision, Vec::new(), Arc::new(AtomicU64::new(0)));
        #[cfg(feature = "cuda")]
        if let Vision::Cuda(vision) = &mut vision {
            for frame in spare.iter().chain([&first]).chain(made.iter().map(|r| &r.frame)) {
                vision.camera().adopt(&frame.pixels)?;
            }
            let slots = vision.slots(device::SLOTS, bytes)?;
            flights = slots.into_iter().map(device::Flight::new).collect();
            origin.store(device::mark(vision)?, Ordering::Relaxed);
        }
        let depth = made.len();
        let frames = Arc::new(Exchange::new(1, spare));
        let results = Arc::new(Exchange::new(depth, made));
        let counters = Arc::new(Counters::default());
        progress.start = std::time::Instant::now();
        let progress = Arc::new(Mutex::new(progress));
        let capture = CaptureThread {
            live: source.is_live() || realtime,
            limit,
            reconnect: self.reconnect && source.is_live(),
            source: Some(source),
            opener,
            uri: uri.clone(),
            backoff: self.backoff,
            frames: frames.clone(),
            first,
            counters: counters.clone(),
            stop: stop.clone(),
            recorder: recorder.clone(),
            notifier: self.notifier.clone(),
        };
        let spawned = |e| Error::caused(ErrorKind::Limit, "cannot start a thread", e);
        let mut pipeline = Pipeline {
            engine: engine.clone(),
            uri: uri.clone(),
            description,
            device,
            stop: stop.clone(),
            frames: frames.clone(),
            results: results.clone(),
            counters: counters.clone(),
            progress: progress.clone(),
            sinks,
            current: None,
            capture: None,
            inference: None,
            finish: None,
            recorder: recorder.clone(),
            notifier: self.notifier,
            ready: false,
            ended: false,
        };
        let named = |name: &str| thread::Builder::new().name(name.into());
        // Should a later one not start, dropping the pipeline ends those before.
        match vision {
            Vision::Host(vision) => {
                let inference = InferenceThread {
                    vision: *vision,
                    frames,
                    results,
                    progress,
                    counters,
                    stop,
                    watchdog: self.watchdog,
                    uri,
                    recorder,
                };
                let spawn = named("tobiuo-infer").spawn(move || inference.run());
                pipeline.inference = Some(spawn.map_err(spawned)?);
            }
            #[cfg(feature = "cuda")]
            Vision::Cuda(vision) => {
                let flights = Arc::new(Exchange::new(device::SLOTS, flights));
                let waiting = flights.clone();
                let submit = device::SubmitThread {
                    vision,
                    frames: frames.clone(),
                    flights: flights.clone(),
                    results: results.clone(),
                    counters: counters.clone(),
                    stop,
                    watchdog: self.watchdog,
                    uri,
                    frame_bytes: bytes,
                    rebuilt: false,
                    recorder: recorder.clone(),
                    origin: origin.clone(),
                };
                let finish = device::FinishThread {
                    engine,
                    frames,
                    flights,
                    results,
                    progress,
                    counters,
                    recorder,
                    origin,
                };
                let spawn = named("tobiuo-finish").spawn(move || finish.run());
                pipeline.finish = Some(spawn.map_err(spawned)?);
                let spawn = named("tobiuo-submit").spawn(move || submit.run());
                // Nobody else would end the thread that takes the results.
                let ended = |e| {
                    waiting.close();
                    spawned(e)
                };
                pipeline.inference = Some(spawn.map_err(ended)?);
            }
        }
        let spawn = named("tobiuo-capture").spawn(move || capture.run());
        pipeline.capture = Some(spawn.map_err(spawned)?);
        Ok(pipeline)
    }
}
