//! The child process: its frames on one pipe, its words on another.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child as Process, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::pipeline::caps;
use crate::clock::SLICE;
use crate::format::FrameFormat;

/// How many of the child's last lines are kept, and how much of each.
const LINES: usize = 8;
const LINE_BYTES: usize = 500;

/// How long a child may take to end by itself before it is killed. A camera daemon whose client
/// is killed may need a restart, so this is patient.
const GRACE: Duration = Duration::from_millis(1500);

/// What the child has said.
#[derive(Default)]
struct Said {
    caps: Option<(FrameFormat, Option<f64>)>,
    last: VecDeque<String>,
    /// Its output has ended.
    over: bool,
}

/// A running `gst-launch-1.0`.
pub(super) struct Child {
    process: Process,
    frames: Option<ChildStdout>,
    said: Arc<(Mutex<Said>, Condvar)>,
    listener: Option<JoinHandle<()>>,
}

/// What a wait for bytes gave.
pub(super) enum Bytes {
    /// The buffer is full.
    Full,
    /// The child's output ended after so many bytes.
    Ended(usize),
    /// The time was over after so many bytes.
    TimedOut(usize),
    /// The stop flag was set after so many bytes.
    Stopped(usize),
}

impl Child {
    /// Starts `program` with these arguments. Frames come on its file descriptor 3; what it
    /// prints on standard output or error is listened to.
    pub(super) fn start(program: &Path, arguments: &[String]) -> io::Result<Self> {
        // A shell puts the pipes where they belong and is then replaced by the program: frames
        // to 3, words to 2. It also says, by its status, when there is no such program.
        let mut process = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3>&1 1>&2"])
            .arg(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let frames = process.stdout.take();
        let words = process.stderr.take();
        if let Some(frames) = &frames {
            // As large as an unprivileged process may have it; smaller works, only slower.
            let _ = rustix::pipe::fcntl_setpipe_size(frames, 1 << 20);
        }
        let said = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let listener = words.map(|words| {
            let said = Arc::clone(&said);
            thread::spawn(move || listen(words, &said))
        });
        Ok(Self { process, frames, said, listener })
    }

    /// Waits until the child has told the format of its frames; `None` when it ended before or
    /// `timeout` passed.
    pub(super) fn wait_caps(&self, timeout: Duration) -> Option<(FrameFormat, Option<f64>)> {
        let (said, changed) = &*self.said;
        let said = lock(said);
        let waiting = |said: &mut Said| said.caps.is_none() && !said.over;
        let (said, _) = changed
            .wait_timeout_while(said, timeout, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        said.caps
    }

    /// The format last told.
    pub(super) fn caps(&self) -> Option<(FrameFormat, Option<f64>)> {
        lock(&self.said.0).caps
    }

    /// Fills `into` from `done` on.
    pub(super) fn read(
        &mut self,
        into: &mut [u8],
        mut done: usize,
        deadline: Instant,
        stop: &AtomicBool,
    ) -> io::Result<Bytes> {
        let Some(frames) = &mut self.frames else { return Ok(Bytes::Ended(done)) };
        while done < into.len() {
            if stop.load(Ordering::Relaxed) {
                return Ok(Bytes::Stopped(done));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Bytes::TimedOut(done));
            }
            let slice = left.min(SLICE);
            let slice = Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() };
            let ready = poll(&mut [PollFd::new(frames, PollFlags::IN)], Some(&slice));
            match ready {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            match frames.read(&mut into[done..]) {
                Ok(0) => return Ok(Bytes::Ended(done)),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Bytes::Full)
    }

    /// How many bytes wait in the pipe.
    pub(super) fn waiting(&self) -> usize {
        let waiting = self.frames.as_ref().map(|frames| rustix::io::ioctl_fionread(frames.as_fd()));
        waiting.and_then(Result::ok).map_or(0, |bytes| bytes as usize)
    }

    /// Ends the child, which may have ended already, and waits for it. Gives its status, and its
    /// last line about an error, or its last line.
    pub(super) fn end(&mut self) -> (Option<ExitStatus>, String) {
        let status = self.reap();
        if let Some(listener) = self.listener.take() {
            // A grandchild that outlives it could hold the pipe: do not wait for that.
            let until = Instant::now() + Duration::from_millis(200);
            while !listener.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let said = lock(&self.said.0);
        let is_error = |line: &&String| line.contains("ERROR") || line.contains("erroneous");
        let line = said.last.iter().find(is_error).or(said.last.back());
        (status, line.cloned().unwrap_or_default())
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        // With its reader gone, a child that is about to write ends by that.
        let had_reader = self.frames.take().is_some();
        let until = Instant::now() + if had_reader { GRACE } else { Duration::ZERO };
        let mut asked = false;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => {}
                _ => break,
            }
            if !asked {
                // As Ctrl-C would: gst-launch then closes its pipeline in order.
                if let Some(pid) = Pid::from_raw(self.process.id() as i32) {
                    let _ = kill_process(pid, Signal::INT);
                }
                asked = true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        self.process.wait().ok()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.reap();
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears what the child says until its end.
fn listen(words: ChildStderr, said: &(Mutex<Said>, Condvar)) {
    let mut words = BufReader::new(words);
    let mut line = Vec::new();
    loop {
        line.clear();
        match words.by_ref().take(64 << 10).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        let caps = caps(text);
        log::trace!("gst-launch: {text}");
        let mut now = lock(&said.0);
        if caps.is_some() {
            now.caps = caps;
            said.1.notify_all();
        } else if !text.is_empty() && !text.contains("caps = ") {
            if now.last.len() == LINES {
                now.last.pop_front();
            }
            now.last.push_back(text.chars().take(LINE_BYTES).collect());
        }
    }
    lock(&said.0).over = true;
    said.1.notify_all();
}
