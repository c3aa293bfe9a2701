//! This process: how old it is, how much memory it took, and how it is asked to stop.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::{Error, ErrorKind};

/// Seconds that may pass between a program's start and its first instruction here.
const PLAUSIBLE: f64 = 1.0;

/// The time since the system started this process, by `/proc/self/stat`; its resolution is
/// that of the system's tick, 10 ms, rounded up. Where `/proc` cannot be read, or the process
/// ran another program before (`cargo run` becomes what it has built, and keeps its start), it
/// counts from the first call, which is the first thing that the programs do.
pub fn age() -> Duration {
    static FIRST: OnceLock<(Instant, Duration)> = OnceLock::new();
    let (seen, before) = FIRST.get_or_init(|| {
        let started = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|stat| start_ticks(&stat))
            .map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        let now = clock_gettime(ClockId::Boottime);
        let now = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
        let age = started.map(|s| now - s).filter(|age| (0.0..PLAUSIBLE).contains(age));
        (Instant::now(), Duration::from_secs_f64(age.unwrap_or(0.0)))
    });
    seen.elapsed() + *before
}

/// Field 22 of `/proc/PID/stat`, in ticks since boot. The program's name in field 2 may hold
/// spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The most memory that was resident at once, MiB (`VmHWM`); `None` where `/proc` cannot be
/// read.
pub fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// A flag that SIGINT and SIGTERM set. The second such signal ends the process at once, with
/// the status that shells give it (128 + the signal).
pub fn stop_on_signals() -> Result<Arc<AtomicBool>, Error> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: on the first signal the flag is still unset when it is looked at.
        flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()))
            .map_err(|e| Error::caused(ErrorKind::Other, "cannot handle signals", e))?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = format!("12 (a) b (c) S {} 4711 rest", ["1"; 18].join(" "));
        assert_eq!(start_ticks(&stat), Some(4711));
        assert_eq!(start_ticks("12 (a"), None);
    }

    #[test]
    fn age_grows_and_is_sane() {
        let a = age();
        std::thread::sleep(Duration::from_millis(5));
        let b = age();
        assert!(b - a >= Duration::from_millis(5));
        assert!(a < Duration::from_secs(3600));
        assert!(peak_rss_mib().unwrap() > 0.5);
    }
}
