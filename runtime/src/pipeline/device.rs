//! Frames through a CUDA device: one thread gives them to it, another takes the results, so that
//! a frame's upload and another's results go on beside the network on a third.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tobiuo_capture::monotonic_ns;
use tobiuo_cuda::{DeviceTimes, Slot};

use super::capture::Counters;
use super::exchange::{Exchange, Taken};
use super::inference::Progress;
use super::result::{Frame, FrameResult};
use crate::timeline::{Recorder, Track};
use crate::vision::cuda::{CudaVision, frame_size, read};
use crate::{Engine, Error, ErrorKind};

/// Frames on the device at once: one that is uploaded while the network runs on another.
pub(crate) const SLOTS: usize = 2;

/// A slot, and the frame whose work is queued in it.
pub(crate) struct Flight {
    slot: Slot,
    work: Option<Work>,
    /// Why the work was lost.
    error: Option<Error>,
}

/// A frame without its bytes, which the slot has, and the place for its result.
struct Work {
    frame: Frame,
    result: FrameResult,
}

impl Flight {
    pub fn new(slot: Slot) -> Flight {
        Flight { slot, work: None, error: None }
    }
}

/// Gives frames to the device.
pub(crate) struct SubmitThread {
    pub vision: Box<CudaVision>,
    pub frames: Arc<Exchange<Frame>>,
    pub flights: Arc<Exchange<Flight>>,
    pub results: Arc<Exchange<FrameResult>>,
    pub counters: Arc<Counters>,
    pub stop: Arc<AtomicBool>,
    pub watchdog: Duration,
    pub uri: String,
    /// The most bytes of a frame, as it was when slots were made.
    pub frame_bytes: usize,
    /// The context was made anew already.
    pub rebuilt: bool,
    pub recorder: Arc<Recorder>,
    /// The host's clock at the device's time 0.
    pub origin: Arc<AtomicU64>,
}

impl SubmitThread {
    /// Queues frames until none come any more, then waits for what is under way.
    pub fn run(mut self) -> Result<(), Error> {
        let mut outcome = self.submit();
        if outcome.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.frames.close();
        // What is still under way ends before the device's memory goes.
        let mut held = Vec::with_capacity(SLOTS);
        while held.len() < SLOTS {
            let Some(mut flight) = self.flights.acquire() else { break };
            match flight.error.take() {
                Some(e) if e.kind() == ErrorKind::DeviceLost && !self.rebuilt => {
                    log::error!("{e}; no frame comes any more that would need it");
                }
                Some(e) if outcome.is_ok() => outcome = Err(e),
                _ => {}
            }
            held.push(flight);
        }
        self.flights.close();
        while let Taken::Buffer(_) = self.frames.take(Duration::ZERO) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn submit(&mut self) -> Result<(), Error> {
        let mut silent = Duration::ZERO;
        // First a slot, then the result's place, the frame last: a frame that is taken is the
        // newest at the moment when the device can have it.
        while let Some(mut flight) = self.flights.acquire() {
            if let Some(error) = flight.error.take() {
                self.recover(flight, error)?;
                continue;
            }
            let Some(result) = self.results.acquire() else {
                self.flights.give_back(flight);
                return Ok(());
            };
            let mut frame = loop {
                match self.frames.take(self.watchdog) {
                    Taken::Buffer(frame) => break frame,
                    Taken::Closed => {
                        self.results.give_back(result);
                        self.flights.give_back(flight);
                        return Ok(());
                    }
                    Taken::Timeout => {
                        silent += self.watchdog;
                        log::warn!("{}: no frame for {:.0} s", self.uri, silent.as_secs_f64());
                    }
                }
            };
            silent = Duration::ZERO;
            let begin = monotonic_ns();
            let size = frame_size(frame.meta.format);
            let pixels = std::mem::take(&mut frame.pixels);
            let submitted = self.vision.camera().submit(&mut flight.slot, pixels, size);
            let number = frame.meta.sequence;
            self.recorder.add(Track::Submit, "submit", number, [begin, monotonic_ns()]);
            match submitted {
                Ok(()) => {
                    flight.work = Some(Work { frame, result });
                    self.flights.put(flight);
                }
                Err(e) => {
                    frame.pixels = flight.slot.finish().0.unwrap_or_default();
                    self.counters.lost.fetch_add(1, Ordering::Relaxed);
                    self.results.give_back(result);
                    self.frames.give_back(frame);
                    self.recover(flight, e.into())?;
                }
            }
        }
        Ok(())
    }

    /// Makes the context and all on it anew, once; the frames on the device are lost.
    fn recover(&mut self, flight: Flight, error: Error) -> Result<(), Error> {
        if error.kind() != ErrorKind::DeviceLost || self.rebuilt {
            self.flights.give_back(flight);
            return Err(match error.kind() {
                ErrorKind::DeviceLost => Error::new(
                    ErrorKind::DeviceLost,
                    format!("{error}; it was lost before in this run, and its context made anew"),
                ),
                _ => error,
            });
        }
        self.rebuilt = true;
        log::error!("{error}; its context is made anew");
        let mut old = vec![flight];
        while old.len() < SLOTS {
            let Some(flight) = self.flights.acquire() else { return Err(error) };
            old.push(flight);
        }
        drop(old);
        let made = self.vision.rebuild().and_then(|()| {
            self.origin.store(mark(&mut self.vision)?, Ordering::Relaxed);
            self.vision.slots(SLOTS, self.frame_bytes)
        });
        let again = |e: Error| {
            let what = format!("{error}; and its context cannot be made anew: {e}");
            Error::new(ErrorKind::DeviceLost, what)
        };
        match made {
            Ok(slots) => {
                slots.into_iter().for_each(|slot| self.flights.give_back(Flight::new(slot)));
                Ok(())
            }
            Err(e) => {
                // There are no slots any more to wait for.
                self.flights.close();
                Err(again(e))
            }
        }
    }
}

/// Sets the device's time 0 and gives the host's clock at that moment.
pub(crate) fn mark(vision: &mut CudaVision) -> Result<u64, Error> {
    vision.camera().mark_origin()?;
    Ok(monotonic_ns())
}

/// Takes the results from the device.
pub(crate) struct FinishThread {
    pub engine: Engine,
    pub frames: Arc<Exchange<Frame>>,
    pub flights: Arc<Exchange<Flight>>,
    pub results: Arc<Exchange<FrameResult>>,
    pub progress: Arc<Mutex<Progress>>,
    pub counters: Arc<Counters>,
    pub recorder: Arc<Recorder>,
    pub origin: Arc<AtomicU64>,
}

impl FinishThread {
    /// Completes results until no more work is queued; then closes the results' exchange.
    pub fn run(self) -> Result<(), Error> {
        loop {
            match self.flights.take(Duration::from_secs(3600)) {
                Taken::Buffer(flight) => self.finish(flight),
                Taken::Timeout => {}
                Taken::Closed => return Ok(()),
            }
        }
    }

    fn finish(&self, mut flight: Flight) {
        let Some(Work { mut frame, mut result }) = flight.work.take() else {
            return self.flights.give_back(flight);
        };
        let begin = monotonic_ns();
        let (pixels, times) = flight.slot.finish();
        frame.pixels = pixels.unwrap_or_default();
        let times = match times {
            Ok(times) => times,
            Err(e) => {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
                flight.error = Some(e.into());
                self.frames.give_back(frame);
                self.results.give_back(result);
                return self.flights.give_back(flight);
            }
        };
        let waited = monotonic_ns();
        let (format, number) = (frame.meta.format, frame.meta.sequence);
        let task = &self.engine.manifest().task;
        read(&flight.slot, format, task, &mut result.detections, &mut result.classes);
        let ready = monotonic_ns();
        self.recorder.add(Track::Finish, "wait", number, [begin, waited]);
        self.recorder.add(Track::Finish, "results", number, [waited, ready]);
        if self.recorder.is_on() {
            self.record(&flight.slot, number);
        }
        let DeviceTimes { upload, preprocess, network, decode, download } = times;
        let l = &mut result.latency;
        l.capture = Duration::from_nanos(frame.captured_ns.saturating_sub(frame.begin_ns));
        (l.upload, l.download) = (upload, download);
        (l.preprocess, l.network) = (preprocess, network);
        l.postprocess = decode + Duration::from_nanos(ready - waited);
        l.total = Duration::from_nanos(ready.saturating_sub(frame.begin_ns));
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).record(l);
        // The result takes the frame's memory and gives its own for it: no copy.
        std::mem::swap(&mut result.frame, &mut frame);
        self.frames.give_back(frame);
        self.flights.give_back(flight);
        self.results.put(result);
    }

    /// The device's spans, on the host's clock.
    fn record(&self, slot: &Slot, number: u64) {
        let Ok(spans) = slot.spans() else { return };
        let origin = self.origin.load(Ordering::Relaxed);
        let track = Track::Slot(slot.index() as u8);
        for (name, [begin, end]) in [
            ("upload", spans.upload),
            ("preprocess", spans.preprocess),
            ("network", spans.network),
            ("decode", spans.decode),
            ("download", spans.download),
        ] {
            let at = |us: f64| origin + (us.max(0.0) * 1e3) as u64;
            self.recorder.add(track, name, number, [at(begin), at(end)]);
        }
    }
}

impl Drop for FinishThread {
    fn drop(&mut self) {
        // Also when a panic ends the thread: nobody waits for it then.
        self.flights.close();
        self.results.close();
    }
}
