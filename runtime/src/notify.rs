//! What a service manager is told: systemd's notification protocol (sd_notify(3)), datagrams of
//! `KEY=VALUE` lines to the socket that `$NOTIFY_SOCKET` names. No library is needed for it.

use std::ffi::OsStr;
use std::io::{Cursor, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tobiuo_capture::monotonic_ns;

use crate::{Error, ErrorKind};

/// Tells a service manager that the first result is there, that frames keep coming, what is
/// wrong with the camera, and the end.
///
/// The watchdog is fed by the frame loop itself: by every frame whose result was given out, and
/// while a camera that is lost is known to be not there. A loop that hangs, in the camera's
/// driver, on the GPU or in a sink, feeds nothing, and the manager starts the program anew.
/// Nothing here allocates or waits.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    to: SocketAddr,
    /// How often the watchdog wants to be fed at least.
    watchdog: Option<Duration>,
    fed_ns: AtomicU64,
    ready: AtomicBool,
    frames: AtomicU64,
    /// Time and frames at the last status.
    status_ns: AtomicU64,
    status_frames: AtomicU64,
}

/// How often the status line says the rate.
const STATUS_EVERY: Duration = Duration::from_secs(5);

impl Notifier {
    /// The manager that started this process, by `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and
    /// `$WATCHDOG_PID`; `None` where there is none.
    pub fn from_env() -> Result<Option<Notifier>, Error> {
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()) else {
            return Ok(None);
        };
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| *us > 0 && mine);
        Notifier::new(&socket, watchdog.map(Duration::from_micros)).map(Some)
    }

    /// A manager's socket, a path or, behind `@`, an abstract name.
    pub fn new(socket: &OsStr, watchdog: Option<Duration>) -> Result<Notifier, Error> {
        let failed = |e| {
            let what = format!("the service manager's socket {socket:?} ($NOTIFY_SOCKET)");
            Error::caused(ErrorKind::Other, what, e)
        };
        let to = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(socket),
        };
        let to = to.map_err(failed)?;
        let socket = UnixDatagram::unbound().map_err(failed)?;
        // A manager that does not read must not stop the frames.
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Notifier {
            socket,
            to,
            watchdog,
            fed_ns: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            status_ns: AtomicU64::new(monotonic_ns()),
            status_frames: AtomicU64::new(0),
        })
    }

    fn send(&self, message: &[u8]) -> bool {
        self.socket.send_to_addr(message, &self.to).is_ok()
    }

    /// One line for people; what does not fit is cut off.
    pub fn status(&self, text: impl std::fmt::Display) {
        let mut line = [0u8; 256];
        let mut out = Cursor::new(&mut line[..]);
        let _ = write!(out, "STATUS={text}");
        let end = out.position() as usize;
        // The protocol's lines end at a newline; errors may have some.
        line[..end].iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = b' ');
        self.send(String::from_utf8_lossy(&line[..end]).as_bytes());
    }

    /// A frame's result was given out: READY with the first, the watchdog's food with the others.
    pub(crate) fn frame(&self, dropped: u64) {
        // Again with the next frame where the manager was too busy to take it.
        if !self.ready.load(Ordering::Relaxed) && self.send(b"READY=1\nSTATUS=running") {
            self.ready.store(true, Ordering::Relaxed);
        }
        let frames = 1 + self.frames.fetch_add(1, Ordering::Relaxed);
        self.alive();
        let now = monotonic_ns();
        let before = self.status_ns.load(Ordering::Relaxed);
        if now.saturating_sub(before) >= STATUS_EVERY.as_nanos() as u64 {
            let seconds = (now - before) as f64 / 1e9;
            let done = frames - self.status_frames.swap(frames, Ordering::Relaxed);
            self.status_ns.store(now, Ordering::Relaxed);
            self.status(format_args!(
                "{:.1} frames/s, {frames} processed, {dropped} dropped",
                done as f64 / seconds
            ));
        }
    }

    /// Feeds the watchdog, four times as often as it wants at most.
    pub(crate) fn alive(&self) {
        let Some(every) = self.watchdog else { return };
        let now = monotonic_ns();
        let due = self.fed_ns.load(Ordering::Relaxed) + every.as_nanos() as u64 / 4;
        if now >= due && self.send(b"WATCHDOG=1") {
            self.fed_ns.store(now, Ordering::Relaxed);
        }
    }

    /// The end begins.
    pub(crate) fn stopping(&self) {
        self.send(b"STOPPING=1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_datagrams_of_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let next = || {
            let mut buffer = [0; 512];
            manager.set_nonblocking(true).unwrap();
            let n = manager.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..n].to_vec()).unwrap())
        };
        let notifier = Notifier::new(path.as_os_str(), Some(Duration::from_secs(3600))).unwrap();
        notifier.frame(0);
        notifier.frame(0);
        assert_eq!(next().as_deref(), Some("READY=1\nSTATUS=running"));
        assert_eq!(next().as_deref(), Some("WATCHDOG=1"));
        assert_eq!(next(), None, "an hour's watchdog is fed once");
        notifier.status(format_args!("a\nb{}", "é".repeat(300)));
        let status = next().unwrap();
        assert!(status.starts_with("STATUS=a bé") && status.len() < 300, "{status}");
        notifier.stopping();
        assert_eq!(next().as_deref(), Some("STOPPING=1"));
        // Nobody is there any more, or nobody reads: no error, no waiting.
        drop(manager);
        notifier.frame(0);
        assert!(Notifier::new(OsStr::new(&"x".repeat(300)), None).is_err());
    }
}
