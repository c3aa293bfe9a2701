//! Which cameras are connected, and what they offer.

use std::fs;
use std::path::PathBuf;

use super::device::Device;
use super::source::opening;
use super::sys;
use crate::error::CaptureError;
use crate::uri::BufferMemory;

/// A V4L2 capture node.
#[derive(Debug)]
pub struct Camera {
    /// Its path, `/dev/videoN`.
    pub path: PathBuf,
    /// Its own name.
    pub card: String,
    /// The name of its driver.
    pub driver: String,
    /// Where it is connected.
    pub bus: String,
    /// What it offers.
    pub modes: Vec<Mode>,
    /// Why it could not be asked; the other fields but `path` are then empty.
    pub problem: Option<CaptureError>,
}

/// A format and size that a camera offers.
#[derive(Debug, Clone, PartialEq)]
pub struct Mode {
    /// The four characters of V4L2's pixel format, as `YUYV`.
    pub format: String,
    /// Pixels in a row. Of a driver that takes any size in a range, one of them.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames a second, the highest first; empty when the driver does not tell.
    pub rates: Vec<f64>,
    /// Whether [`open`](crate::open) can take it.
    pub supported: bool,
}

/// The capture nodes of this machine in the order of their numbers; nodes that are no cameras
/// (metadata, outputs) are left out, those that cannot be opened are not.
pub fn list() -> Vec<Camera> {
    let mut nodes: Vec<(u32, PathBuf)> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("video")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    nodes.sort();
    nodes.into_iter().filter_map(|(_, path)| look(path)).collect()
}

/// What is at a node; `None` when it is no camera.
fn look(path: PathBuf) -> Option<Camera> {
    let name = path.display().to_string();
    let empty = |path, problem| Camera {
        path,
        card: String::new(),
        driver: String::new(),
        bus: String::new(),
        modes: Vec::new(),
        problem,
    };
    let device = match Device::open(&path, BufferMemory::Mapped) {
        Ok(device) => device,
        Err(error) => return Some(empty(path, Some(opening(&name, "open", error)))),
    };
    let identity = match device.identity() {
        Ok(identity) => identity,
        Err(error) => return Some(empty(path, Some(opening(&name, "VIDIOC_QUERYCAP", error)))),
    };
    if identity.capabilities & (sys::CAP_CAPTURE | sys::CAP_CAPTURE_MPLANE) == 0 {
        return None;
    }
    let (modes, problem) = match device.modes((640, 480)) {
        Ok(modes) => (modes, None),
        Err(error) => (Vec::new(), Some(opening(&name, "VIDIOC_ENUM_FMT", error))),
    };
    let modes = modes.into_iter().map(|mode| Mode {
        format: mode.fourcc.to_string(),
        width: mode.width,
        height: mode.height,
        rates: mode.rates,
        supported: mode.fourcc.coding().is_some(),
    });
    Some(Camera {
        path,
        card: identity.card,
        driver: identity.driver,
        bus: identity.bus,
        modes: modes.collect(),
        problem,
    })
}
