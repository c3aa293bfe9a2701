//! The clock that frames are stamped with, and pacing by it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a wait goes on without a look at the stop flag.
pub(crate) const SLICE: Duration = Duration::from_millis(20);

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of [`FrameMeta::timestamp_ns`](crate::FrameMeta).
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Sleeps until the monotonic clock shows `due_ns`; false when `stop` was set first.
pub(crate) fn sleep_until(due_ns: u64, stop: &AtomicBool) -> bool {
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let now = monotonic_ns();
        if now >= due_ns {
            return true;
        }
        std::thread::sleep(Duration::from_nanos(due_ns - now).min(SLICE));
    }
}

/// Hands out the times at which frames of a given rate are due.
#[derive(Debug)]
pub(crate) struct Pacer {
    period_ns: u64,
    next_ns: Option<u64>,
}

impl Pacer {
    /// A pacer of `rate` frames a second; anything not between 0.001 and 1e6 is brought there.
    pub(crate) fn new(rate: f64) -> Self {
        let rate = if rate.is_finite() { rate.clamp(1e-3, 1e6) } else { 30.0 };
        Self { period_ns: (1e9 / rate) as u64, next_ns: None }
    }

    /// Waits for the next frame's time and gives it; every frame gets its turn, and a caller
    /// that is late is not hurried to catch up. `None` when `stop` was set.
    pub(crate) fn wait(&mut self, stop: &AtomicBool) -> Option<u64> {
        let due = self.next_ns.unwrap_or_else(monotonic_ns);
        if !sleep_until(due, stop) {
            return None;
        }
        let late = monotonic_ns() - due;
        self.next_ns = Some(due + self.period_ns + late.saturating_sub(self.period_ns));
        Some(due)
    }

    /// As [`wait`](Self::wait), but like a camera: frames whose whole period has passed are gone.
    /// Gives the time of the newest frame and how many were passed over.
    pub(crate) fn wait_live(&mut self, stop: &AtomicBool) -> Option<(u64, u32)> {
        let due = self.next_ns.unwrap_or_else(monotonic_ns);
        if !sleep_until(due, stop) {
            return None;
        }
        let missed = (monotonic_ns() - due) / self.period_ns;
        let shown = due + missed * self.period_ns;
        self.next_ns = Some(shown + self.period_ns);
        Some((shown, u32::try_from(missed).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pacing_takes_the_time_it_should() {
        let stop = AtomicBool::new(false);
        let mut pacer = Pacer::new(200.0);
        let start = monotonic_ns();
        for _ in 0..11 {
            pacer.wait(&stop).unwrap();
        }
        assert!(monotonic_ns() - start >= 50_000_000);
    }

    #[test]
    fn a_late_live_reader_misses_frames() {
        let stop = AtomicBool::new(false);
        let mut pacer = Pacer::new(100.0);
        let (first, _) = pacer.wait_live(&stop).unwrap();
        std::thread::sleep(Duration::from_millis(45));
        let (second, missed) = pacer.wait_live(&stop).unwrap();
        assert!(missed >= 3, "{missed}");
        assert_eq!(second - first, 10_000_000 * (1 + u64::from(missed)));
    }

    #[test]
    fn stop_ends_a_wait() {
        let stop = AtomicBool::new(true);
        assert_eq!(Pacer::new(1.0).wait(&stop), None);
        assert!(!sleep_until(u64::MAX, &stop));
    }

    #[test]
    fn odd_rates_are_harmless() {
        for rate in [0.0, -5.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(Pacer::new(rate).period_ns > 0);
        }
    }
}
