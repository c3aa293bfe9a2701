//! Running programs on the stand-in, for tests.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::config::{self, Description};
use crate::ledger;
use crate::{faults, kernel, nvrtc};

pub use crate::ledger::Entries as Report;

/// The stand-in libraries in a folder of their own, and what they are to do. Each program it
/// runs is a process of its own: a driver is loaded once and stays.
pub struct Standin {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// A program's end.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// The stand-in's report; `None` when the library was not used, or the process did not end
    /// by itself.
    pub report: Option<Report>,
}

impl Standin {
    /// An Orin with a driver of CUDA 12.6 and NVRTC 12.6.
    pub fn new() -> Standin {
        let folder = tempfile::tempdir().expect("a folder for the libraries");
        if is_child() {
            return Standin { folder, variables: Vec::new() };
        }
        let library = library();
        for name in ["libcuda.so.1", "libnvrtc.so.12"] {
            std::os::unix::fs::symlink(&library, folder.path().join(name)).expect("a link");
        }
        Standin { folder, variables: Vec::new() }
    }

    /// Another driver or other devices.
    pub fn with(self, description: &Description) -> Standin {
        let text = serde_json::to_string(description).expect("descriptions are plain data");
        self.variable(config::VARIABLE, text)
    }

    /// A device by the name of its preset: `orin`, `xavier`, `thor`, `h200`, `none`.
    pub fn device(self, preset: &str) -> Standin {
        assert!(Description::preset(preset).is_some(), "no device is called '{preset}'");
        self.variable(config::VARIABLE, preset.to_string())
    }

    /// Failures, as `TOBIUO_STANDIN_FAIL` has them: `17:2`, `cuMemAlloc_v2#3:2`, `17+:999`,
    /// `kernel#3:700`.
    pub fn fail(self, failures: &str) -> Standin {
        self.variable(faults::VARIABLE, failures.to_string())
    }

    /// Compilations that fail: `3:words` the third with these words, `0:words` every one.
    pub fn fail_compiling(self, which: &str) -> Standin {
        self.variable(nvrtc::FAIL, which.to_string())
    }

    /// NVRTC `12.6` or `13.0`.
    pub fn nvrtc(self, version: &str) -> Standin {
        self.variable(nvrtc::VERSION, version.to_string())
    }

    /// Kernels with these texts in their layer's description take so many times as long:
    /// `20:text&text;3:text`.
    pub fn slow(self, rules: &str) -> Standin {
        self.variable(kernel::SLOW, rules.to_string())
    }

    /// Kernels take their time and compute nothing: for builds of which only the choice counts.
    pub fn idle(self) -> Standin {
        self.variable(kernel::IDLE, "1".to_string())
    }

    /// The report lists every call.
    pub fn traced(self) -> Standin {
        self.variable(ledger::TRACE, "1".to_string())
    }

    fn variable(mut self, name: &'static str, value: String) -> Standin {
        self.variables.retain(|(n, _)| *n != name);
        self.variables.push((name, value));
        self
    }

    /// Takes a function out of the driver, as an older driver would lack it: its name is
    /// overwritten in a copy of the library.
    pub fn without(self, function: &str) -> Standin {
        if is_child() {
            return self;
        }
        let file = self.folder.path().join("libcuda.so.1");
        let mut bytes = std::fs::read(&file).expect("the library is there");
        let name = [&[0], function.as_bytes(), &[0]].concat();
        let places: Vec<usize> = bytes
            .windows(name.len())
            .enumerate()
            .filter_map(|(i, w)| (w == name).then_some(i + 1))
            .collect();
        assert!(!places.is_empty(), "the stand-in has no function {function}");
        places.iter().for_each(|&at| bytes[at..at + 2].copy_from_slice(b"no"));
        std::fs::remove_file(&file).expect("the link is there");
        std::fs::write(&file, bytes).expect("the copy is written");
        self
    }

    /// No NVRTC: `TOBIUO_NVRTC` names a folder without it.
    pub fn without_nvrtc(self) -> Standin {
        if is_child() {
            return self;
        }
        std::fs::remove_file(self.folder.path().join("libnvrtc.so.12")).expect("the link is there");
        self
    }

    /// No driver library of the stand-in. (One that is installed would be found.)
    pub fn without_driver(self) -> Standin {
        if is_child() {
            return self;
        }
        std::fs::remove_file(self.folder.path().join("libcuda.so.1")).expect("the link is there");
        self
    }

    /// The folder of the libraries: `LD_LIBRARY_PATH` names it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn report_file(&self) -> PathBuf {
        self.folder.path().join("report.jsonl")
    }

    /// A command that finds the stand-in as its driver and its compiler.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let mut path = self.folder.path().as_os_str().to_owned();
        if let Some(more) = std::env::var_os("LD_LIBRARY_PATH").filter(|m| !m.is_empty()) {
            path.push(":");
            path.push(more);
        }
        command.env("LD_LIBRARY_PATH", path);
        let compiler = self.folder.path().join("libnvrtc.so.12");
        let compiler = if compiler.exists() { compiler } else { self.folder.path().into() };
        command.env("TOBIUO_NVRTC", compiler);
        command.env(ledger::VARIABLE, self.report_file());
        for name in [
            config::VARIABLE,
            faults::VARIABLE,
            nvrtc::FAIL,
            nvrtc::VERSION,
            ledger::TRACE,
            kernel::SLOW,
            kernel::IDLE,
        ] {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Runs the body of a test in this program started again, where the stand-in is the driver:
    /// there, runs the body and gives `None`; here, the outcome. `name` is the test's path as
    /// `cargo test` prints it. A test that is started by hand with `TOBIUO_STANDIN_REPORT` set
    /// runs its body with the machine's own driver.
    ///
    /// # Panics
    /// When the body does, with what it printed.
    pub fn test(&self, name: &str, body: impl FnOnce()) -> Option<Outcome> {
        if is_child() {
            body();
            return None;
        }
        let program = std::env::current_exe().expect("this program has a file");
        let mut command = self.command(program);
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        let outcome = self.run(&mut command, Duration::from_secs(120));
        let (out, err) = (&outcome.stdout, &outcome.stderr);
        assert!(
            outcome.status.success(),
            "{name} on the stand-in: {}\n{out}\n{err}",
            outcome.status
        );
        assert!(out.contains("1 passed"), "there is no test '{name}'");
        Some(outcome)
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it does not end within `limit`, or when there is more than one report.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Outcome {
        let place = |name: &str| self.folder.path().join(name);
        let file = |name: &str| std::fs::File::create(place(name)).expect("a file");
        let _ = std::fs::remove_file(self.report_file());
        let mut child = command
            .stdin(std::process::Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let begun = Instant::now();
        let text = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(place(name)).unwrap_or_default()).into_owned()
        };
        let status = loop {
            if let Some(status) = child.try_wait().expect("the child is ours") {
                break status;
            }
            if begun.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} hangs:\n{}\n{}", text("stdout"), text("stderr"));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let reports = text("report.jsonl");
        let mut reports = reports.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("a broken report: {e}\n{line}"))
        });
        let report: Option<Report> = reports.next();
        // A driver with a function taken out is another file than the compiler: two reports.
        let report = reports.fold(report, |sum, more: Report| sum.map(|s| s.with(more)));
        Outcome { status, stdout: text("stdout"), stderr: text("stderr"), report }
    }
}

impl Default for Standin {
    fn default() -> Standin {
        Standin::new()
    }
}

impl Report {
    /// Both together.
    fn with(mut self, more: Report) -> Report {
        self.calls += more.calls;
        self.kernels += more.kernels;
        self.peak_bytes = self.peak_bytes.max(more.peak_bytes);
        more.functions.into_iter().for_each(|(f, n)| *self.functions.entry(f).or_default() += n);
        self.injected.extend(more.injected);
        self.problems.extend(more.problems);
        self.excused.extend(more.excused);
        self.trace.extend(more.trace);
        self
    }
}

impl Outcome {
    /// The report of a program that used the stand-in and did nothing wrong with it: no leak,
    /// no double free, nothing used after its end.
    ///
    /// # Panics
    /// When there is no report, or a problem in it.
    pub fn clean_report(&self) -> &Report {
        let report = self.report.as_ref().unwrap_or_else(|| {
            panic!("no report: the library was not used, or the process died\n{self:#?}")
        });
        assert!(report.problems.is_empty(), "{:#?}\n{}", report.problems, self.stderr);
        report
    }
}

/// This process was started by a test for its body.
fn is_child() -> bool {
    std::env::var_os(ledger::VARIABLE).is_some()
}

/// The stand-in library's file: cargo puts it beside the test programs that depend on this crate.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("this program has a file");
    let folders = program.ancestors().skip(1).take(3);
    let places = folders.flat_map(|f| [f.to_path_buf(), f.join("deps")]);
    let mut files = places.map(|f| f.join("libtobiuo_standin.so"));
    files.find(|f| f.exists()).unwrap_or_else(|| {
        panic!(
            "no libtobiuo_standin.so beside {}: cargo build -p tobiuo-standin",
            program.display()
        )
    })
}
