//! What was called, what went wrong, and the report of it.

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// Names the file to which a report is appended as one line of JSON when the process ends.
pub(crate) const VARIABLE: &str = "TOBIUO_STANDIN_REPORT";
/// Set to anything: the report lists every call with what it returned.
pub(crate) const TRACE: &str = "TOBIUO_STANDIN_TRACE";

/// What happened in one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// Calls of the driver and of NVRTC.
    pub calls: u64,
    /// Calls of each function.
    pub functions: BTreeMap<String, u64>,
    /// Kernels executed.
    pub kernels: u64,
    /// The most device memory that was in use, bytes.
    pub peak_bytes: u64,
    /// Failures made on demand.
    pub injected: Vec<String>,
    /// Leaks, double frees, uses after an end, accesses outside of allocations, calls that are
    /// not allowed where they were made. Empty in a program without faults.
    pub problems: Vec<String>,
    /// What is left because a call that the clean-up cannot do without was made to fail.
    pub excused: Vec<String>,
    /// Every call, when asked for.
    pub trace: Vec<(String, Status)>,
}

/// The entries while they are written.
pub(crate) struct Ledger {
    pub entries: Entries,
    traced: bool,
}

impl Ledger {
    pub fn from_environment() -> Ledger {
        Ledger { entries: Entries::default(), traced: std::env::var_os(TRACE).is_some() }
    }

    /// Counts a call; how many of all and of this function there were with it.
    pub fn count(&mut self, name: &str) -> (u64, u64) {
        self.entries.calls += 1;
        let of_it = match self.entries.functions.get_mut(name) {
            Some(n) => n,
            None => self.entries.functions.entry(name.to_string()).or_default(),
        };
        *of_it += 1;
        (self.entries.calls, *of_it)
    }

    pub fn returned(&mut self, name: &str, status: Status) {
        if self.traced {
            self.entries.trace.push((name.to_string(), status));
        }
    }

    pub fn problem(&mut self, what: impl Into<String>) {
        let what = what.into();
        if std::env::var_os(VARIABLE).is_none() {
            eprintln!("stand-in driver: {what}");
        }
        // A program that goes on after a fault would repeat it without end.
        if self.entries.problems.len() < 100 {
            self.entries.problems.push(what);
        }
    }

    /// Appends the report to the file that the environment names.
    pub fn write(&self) {
        let Some(path) = std::env::var_os(VARIABLE) else { return };
        let mut line = serde_json::to_string(&self.entries).expect("entries are plain data");
        line.push('\n');
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(e) = file.and_then(|mut f| f.write_all(line.as_bytes())) {
            eprintln!("stand-in driver: the report {} cannot be written: {e}", path.display());
        }
    }
}
