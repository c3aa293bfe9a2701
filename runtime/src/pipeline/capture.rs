//! The capture thread: from the source into the newest slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tobiuo_capture::{CaptureError, CaptureErrorKind, FrameMeta, Read, Source, monotonic_ns};

use super::exchange::Exchange;
use super::result::{Frame, pixels};
use crate::Notifier;
use crate::timeline::{Recorder, Track};

/// Opens the source, also after it was lost.
pub(crate) type Opener = Box<dyn FnMut() -> Result<Box<dyn Source>, CaptureError> + Send>;

/// The first and the longest wait before a lost source is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Frames counted where they come in.
#[derive(Default)]
pub(crate) struct Counters {
    pub frames_in: AtomicU64,
    pub dropped: AtomicU64,
    pub device_dropped: AtomicU64,
    pub reconnects: AtomicU64,
    /// Frames whose work went with a device that was lost.
    pub lost: AtomicU64,
}

pub(crate) struct CaptureThread {
    /// `None` while it is lost: a camera is not opened again before it was closed.
    pub source: Option<Box<dyn Source>>,
    pub opener: Opener,
    pub uri: String,
    /// The newest frame wins; otherwise every frame waits for its turn.
    pub live: bool,
    /// Ends after so many frames, however often the source was opened for them.
    pub limit: Option<u64>,
    /// A lost source is opened again.
    pub reconnect: bool,
    /// The first wait before that; tests shorten it.
    pub backoff: Duration,
    pub frames: Arc<Exchange<Frame>>,
    /// The memory of the first frame.
    pub first: Frame,
    pub counters: Arc<Counters>,
    pub stop: Arc<AtomicBool>,
    pub recorder: Arc<Recorder>,
    pub notifier: Option<Arc<Notifier>>,
}

impl CaptureThread {
    /// Captures until the source ends, fails or is stopped; then closes the exchange.
    pub fn run(mut self) -> Result<(), CaptureError> {
        let outcome = self.capture();
        self.frames.close();
        outcome
    }

    fn capture(&mut self) -> Result<(), CaptureError> {
        // The frame that is being filled belongs to this thread alone. With it there are
        // three: a thread that waits for the camera inside the slot that holds the newest
        // frame would keep that frame from an idle network.
        let mut frame = std::mem::replace(&mut self.first, Frame::new(0));
        // Numbers go on where a reopened source starts again at 0.
        let (mut offset, mut next) = (0, 0);
        while self.limit.is_none_or(|n| self.counters.frames_in.load(Ordering::Relaxed) < n) {
            // A file can wait: a frame that is read when its slot is free does not grow old in
            // front of a busy network, and reading it still overlaps the one before.
            if !self.live && !self.frames.wait_for_room() {
                return Ok(());
            }
            let Some(source) = &mut self.source else { return Ok(()) };
            let begin = monotonic_ns();
            match source.read(&mut frame.pixels, &self.stop) {
                Ok(Read::Frame(meta)) => {
                    let captured = monotonic_ns();
                    let meta = FrameMeta { sequence: offset + meta.sequence, ..meta };
                    next = meta.sequence + 1;
                    self.recorder.add(Track::Capture, "capture", next - 1, [begin, captured]);
                    frame.meta = meta;
                    frame.name.clear();
                    frame.name.push_str(source.frame_name().unwrap_or(""));
                    frame.captured_ns = captured;
                    // A file's frame begins when reading begins, a live one when it was seen.
                    frame.begin_ns =
                        if self.live { meta.timestamp_ns.min(captured) } else { begin };
                    let c = &self.counters;
                    c.frames_in.fetch_add(1, Ordering::Relaxed);
                    c.device_dropped.fetch_add(meta.dropped_before.into(), Ordering::Relaxed);
                    let handed = if self.live {
                        self.frames.put_newest(frame).map(|(next, dropped)| {
                            c.dropped.fetch_add(dropped.into(), Ordering::Relaxed);
                            next
                        })
                    } else {
                        self.frames.put_waiting(frame)
                    };
                    match handed {
                        Some(next) => frame = next,
                        None => {
                            // The other side has gone: nobody will see this frame.
                            c.dropped.fetch_add(1, Ordering::Relaxed);
                            return Ok(());
                        }
                    }
                }
                Ok(Read::End) => return Ok(()),
                Err(e) if e.kind() == CaptureErrorKind::Stopped => return Ok(()),
                Err(e) if self.reconnect && may_come_back(e.kind()) => {
                    log::warn!("source lost: {e}");
                    if let Some(notifier) = &self.notifier {
                        notifier.status(format_args!("source lost: {e}"));
                    }
                    if !self.reopen() {
                        return Ok(());
                    }
                    offset = next;
                }
                Err(e) => return Err(e),
            }
            // A reopened camera may deliver larger frames than the slots were made for.
            let need = self.source.as_ref().map_or(0, |source| source.max_frame_bytes());
            if frame.pixels.len() < need {
                frame.pixels = pixels(need);
            }
        }
        Ok(())
    }

    /// Closes the source and opens it again, with growing patience; false when stopped meanwhile.
    fn reopen(&mut self) -> bool {
        self.source = None;
        let mut wait = self.backoff;
        // A source that opens and then gives nothing must not look alive.
        let mut known_gone = false;
        loop {
            log::warn!("{}: opening again in {:.1} s", self.uri, wait.as_secs_f64());
            if !self.sleep(wait, known_gone) {
                return false;
            }
            match (self.opener)() {
                Ok(source) => {
                    self.counters.reconnects.fetch_add(1, Ordering::Relaxed);
                    log::warn!("source is back: {}", source.describe());
                    if let Some(notifier) = &self.notifier {
                        notifier.status("source is open again, waiting for a frame");
                    }
                    self.source = Some(source);
                    return true;
                }
                Err(e) if e.kind() == CaptureErrorKind::Stopped => return false,
                Err(e) => {
                    known_gone = true;
                    log::warn!("source still lost: {e}");
                }
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    fn sleep(&self, wait: Duration, alive: bool) -> bool {
        const SLICE: Duration = Duration::from_millis(20);
        let mut left = wait;
        while !self.stop.load(Ordering::Relaxed) {
            if left.is_zero() {
                return true;
            }
            let slice = left.min(SLICE);
            if let (true, Some(notifier)) = (alive, &self.notifier) {
                notifier.alive();
            }
            std::thread::sleep(slice);
            left -= slice;
        }
        false
    }
}

/// The first wait before a lost source is opened again.
pub(crate) const FIRST_BACKOFF: Duration = BACKOFF.0;

/// Whether opening the source again may help.
fn may_come_back(kind: CaptureErrorKind) -> bool {
    use CaptureErrorKind as Kind;
    matches!(kind, Kind::Lost | Kind::Timeout | Kind::Io | Kind::NotFound | Kind::Busy)
}
