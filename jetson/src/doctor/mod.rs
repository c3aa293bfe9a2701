//! What to look at when something is wrong, each with its remedy.

mod camera;
mod driver;
mod power;
mod system;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::{Identity, Root};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or soon not any more.
    Warn,
    /// It does not work.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The exit status of a program that fails because of it.
    #[serde(skip)]
    pub exit: u8,
}

/// Exit statuses, as Tobiuo's programs have them.
const NO_DEVICE: u8 = 5;
const CAMERA: u8 = 6;
const LIMIT: u8 = 8;
const OTHER: u8 = 1;

impl Check {
    fn ok(name: &'static str, text: impl Into<String>) -> Check {
        Check { name, status: Status::Ok, text: text.into(), remedy: None, exit: 0 }
    }

    fn warn(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Check {
        let remedy = Some(remedy.into());
        Check { name, status: Status::Warn, text: text.into(), remedy, exit: 0 }
    }

    fn fail(
        name: &'static str,
        exit: u8,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        let remedy = Some(remedy.into());
        Check { name, status: Status::Fail, text: text.into(), remedy, exit }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        // What files say may hold anything: nothing in it may steer a terminal.
        let plain = |s: &str| -> String {
            s.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
        };
        let indented = plain(&self.text).replace('\n', "\n                   ");
        write!(f, "{mark:<5} {:<12} {indented}", self.name)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n                   -> {}", plain(remedy)),
            None => Ok(()),
        }
    }
}

/// A GPU as the driver shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Gpu {
    pub name: String,
    /// Compute capability, `10 * major + minor`.
    pub sm: u32,
    /// Multiprocessors that are switched on.
    pub multiprocessors: u32,
    /// CUDA version of the driver, `1000 * major + 10 * minor`.
    pub driver: u32,
    /// Where engines for it need a newer driver: the oldest, and how to get one.
    pub outdated: Option<(u32, String)>,
    /// Free and all memory, bytes, where it could be asked.
    pub memory: Option<(u64, u64)>,
}

/// A camera as V4L2 shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Camera {
    pub path: String,
    pub name: String,
    /// Such as `YUYV 640x480 30`; those that can be read.
    pub modes: Vec<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// What only the running system knows.
#[derive(Clone, Debug)]
pub struct Live {
    /// The GPUs, or why there are none.
    pub gpus: Result<Vec<Gpu>, String>,
    /// The driver library that this process has loaded.
    pub loaded: Option<PathBuf>,
    /// The cameras.
    pub cameras: Vec<Camera>,
}

/// An engine that is to run here.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Its file.
    pub path: String,
    /// Why it cannot be opened, or does not fit this device, with the exit status of that.
    pub problem: Option<(String, u8)>,
    /// The GPU it is for: multiprocessors, and whether it was tuned on it. `None`: the CPU.
    pub gpu: Option<(u32, bool)>,
    /// Memory that it takes with one context, bytes.
    pub needs: u64,
}

/// What is looked at.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Whose files.
    pub root: Root,
    /// What the running system says; `None` of a recorded tree.
    pub live: Option<Live>,
    /// The engine.
    pub engine: Option<Engine>,
    /// The folder of provisioned engines.
    pub cache: PathBuf,
    /// `LD_LIBRARY_PATH`.
    pub library_path: Option<String>,
}

/// Looks at everything, in the order in which one thing needs the other.
pub fn examine(question: &Question) -> Vec<Check> {
    let identity = Identity::read(&question.root);
    let mut checks = vec![system::board(&identity)];
    checks.extend(driver::checks(question, &identity));
    checks.extend(system::groups(question, &identity));
    checks.push(system::memory(question));
    checks.extend(power::checks(question, &identity));
    checks.extend(camera::checks(question, &identity));
    checks.push(driver::compiler(question, &identity));
    checks.push(system::cache(question));
    checks
}

/// The worst of them all, and the exit status of a program that looked: of the first that failed.
pub fn verdict(checks: &[Check]) -> (Status, u8) {
    let worst = checks.iter().map(|c| c.status).max().unwrap_or(Status::Ok);
    let exit = checks.iter().find(|c| c.status == Status::Fail).map_or(0, |c| c.exit);
    (worst, exit)
}
