//! Worker processes that are given lines and answer with lines: whatever faults or hangs in one
//! takes nothing else along.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// This program, started again with other arguments.
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// No process can be started.
    pub fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> std::io::Result<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Worker { child, stdin, lines })
    }

    /// Sends a line.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub fn send(&mut self, line: &str) -> std::io::Result<()> {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush())
    }

    /// The next line that it says within a time.
    ///
    /// # Errors
    ///
    /// The time is over, or the process has ended.
    pub fn line(&self, limit: Duration) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(limit)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be hanging in a kernel; whether it had ended already does not matter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
