//! A camera as a source.

use std::io;
use std::sync::atomic::AtomicBool;

use super::device::{Camera, Device};
use super::mode::{Coding, FourCc, Mode, choose};
use super::stream::Stream;
use super::sys;
use crate::error::{CaptureError, CaptureErrorKind as Kind};
use crate::format::Read;
use crate::uri::{BufferMemory, CameraAddress};
use crate::{Source, SourceConfig};

/// How many buffers the driver fills in turn.
const BUFFERS: u32 = 4;

/// What is taken when nothing is asked for.
const SIZE: (u32, u32) = (640, 480);
const RATE: f64 = 30.0;

struct V4l2 {
    stream: Stream<Device>,
    description: String,
    rate: Option<f64>,
    name: String,
}

/// Opens a camera in the best of its modes and starts it.
pub(crate) fn open(
    camera: &CameraAddress,
    cfg: &SourceConfig,
) -> Result<Box<dyn Source>, CaptureError> {
    let CameraAddress { path, memory, fourcc } = camera;
    let name = path.display().to_string();
    let fail = |call, error| opening(&name, call, error);
    let mut device = Device::open(path, *memory).map_err(|error| fail("open", error))?;
    let identity = device.identity().map_err(|error| fail("VIDIOC_QUERYCAP", error))?;
    let caps = identity.capabilities;
    let refuse = |reason: String| CaptureError::new(Kind::Unsupported, &name, reason);
    if caps & sys::CAP_CAPTURE == 0 {
        let error = refuse(format!("`{}` is not a plain capture device", identity.card));
        return Err(match caps & sys::CAP_CAPTURE_MPLANE {
            0 => error.remedy("see `tobiuo cameras` for the nodes that are"),
            _ => error.remedy("it is multi-planar; use csi:// or gst://v4l2src device=…"),
        });
    }
    if caps & sys::CAP_STREAMING == 0 {
        return Err(refuse(format!("`{}` cannot stream into mapped buffers", identity.card)));
    }
    let (width, height) = (cfg.width.unwrap_or(SIZE.0), cfg.height.unwrap_or(SIZE.1));
    let rate = cfg.rate.unwrap_or(RATE);
    let mut modes =
        device.modes((width, height)).map_err(|error| fail("VIDIOC_ENUM_FMT", error))?;
    if let Some(fourcc) = fourcc.map(FourCc) {
        if !modes.iter().any(|mode| mode.fourcc == fourcc) {
            let offered = formats(&modes);
            return Err(refuse(format!("it has no format {fourcc}; it offers {offered}")));
        }
        modes.retain(|mode| mode.fourcc == fourcc);
    }
    let Some(mode) = choose(&modes, width, height, rate) else {
        return Err(no_mode(&name, &modes));
    };
    let agreed = device.set_format(mode).map_err(|error| fail("VIDIOC_S_FMT", error))?;
    let Some(coding) = agreed.fourcc.coding() else {
        return Err(refuse(format!("asked for {}, it chose {}", mode.fourcc, agreed.fourcc)));
    };
    if agreed.interlaced {
        log::warn!("{name}: interlaced; its frames are shown with both fields");
    }
    if let (Some(asked_w), Some(asked_h)) = (cfg.width, cfg.height)
        && (asked_w, asked_h) != (agreed.width, agreed.height)
    {
        let (w, h) = (agreed.width, agreed.height);
        log::warn!(
            "{name}: gives {w}x{h} pixels, the closest to the {asked_w}x{asked_h} asked for"
        );
    }
    // Some drivers have no rate to set; they run at their own.
    let set = device.set_rate(rate).unwrap_or_else(|error| {
        log::debug!("{name}: VIDIOC_S_PARM: {error}");
        None
    });
    if let (Some(set), Some(asked)) = (set, cfg.rate)
        && set < asked * 0.98
    {
        log::warn!("{name}: gives {set:.1} frames/s in this mode, not the {asked} asked for");
    }
    let buffers = device.start(BUFFERS).map_err(|(call, error)| {
        let invalid = error.kind() == io::ErrorKind::InvalidInput;
        let made = fail(call, error);
        match (call, memory) {
            ("VIDIOC_REQBUFS", BufferMemory::User) if invalid => made
                .of_kind(Kind::Unsupported)
                .remedy("its driver does not fill user memory; leave memory=userptr out"),
            _ => made,
        }
    })?;
    if buffers < 2 {
        return Err(refuse(format!("the driver gives {buffers} buffers, and two are needed")));
    }
    let decoded = if coding == Coding::Jpeg { " decoded to rgb" } else { "" };
    let into = if *memory == BufferMemory::User { " into user memory" } else { "" };
    let description = format!(
        "{name}: {} ({}), {}x{} {}{decoded}{}{into}",
        identity.card,
        identity.driver,
        agreed.width,
        agreed.height,
        agreed.fourcc,
        set.map_or(String::new(), |rate| format!(", {rate:.3} frames/s")),
    );
    let stream = Stream::new(&name, device, &agreed, coding, cfg.timeout)?;
    Ok(Box::new(V4l2 { stream, description, rate: set, name }))
}

/// A failed call while opening.
pub(super) fn opening(name: &str, call: &str, error: io::Error) -> CaptureError {
    const ENXIO: i32 = 6;
    const EBUSY: i32 = 16;
    const ENODEV: i32 = 19;
    const ENOTTY: i32 = 25;
    let number = error.raw_os_error();
    let made = CaptureError::io(name, call, error);
    match number {
        Some(EBUSY) => made
            .of_kind(Kind::Busy)
            .remedy(format!("another program is using the camera; `fuser -v {name}` tells which")),
        Some(ENODEV | ENXIO) => made.of_kind(Kind::Lost).remedy("the camera is not connected"),
        Some(ENOTTY) => made.of_kind(Kind::Unsupported).remedy("this is not a V4L2 device"),
        _ => match made.kind() {
            Kind::PermissionDenied => made.remedy(
                "add the user to the group `video` (sudo usermod -aG video $USER), then log in \
                 again; in a container, pass --device and --group-add video",
            ),
            Kind::NotFound => made.remedy("see `tobiuo cameras` for what is connected"),
            _ => made,
        },
    }
}

/// No format of a camera can be taken: why, and what then?
fn no_mode(name: &str, modes: &[Mode]) -> CaptureError {
    let formats = formats(modes);
    if modes.iter().any(|mode| mode.fourcc.is_bayer()) {
        let reason = format!("a raw sensor ({formats}), whose pictures need an image processor");
        return CaptureError::new(Kind::Unsupported, name, reason)
            .remedy("on a Jetson use csi://0, which goes through it");
    }
    let reason = match formats.as_str() {
        "" => "the driver offers no formats".to_owned(),
        _ => format!("its formats ({formats}) cannot be taken"),
    };
    CaptureError::new(Kind::Unsupported, name, reason)
        .remedy("taken are YUYV UYVY NV12 YU12 RGB3 BGR3 GREY MJPG; try gst://v4l2src device=…")
}

/// The formats of modes, for people.
fn formats(modes: &[Mode]) -> String {
    let mut formats: Vec<String> = modes.iter().map(|mode| mode.fourcc.to_string()).collect();
    formats.dedup();
    formats.join(", ")
}

impl Source for V4l2 {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn max_frame_bytes(&self) -> usize {
        self.stream.format().frame_bytes().expect("checked when the stream was made")
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn is_live(&self) -> bool {
        true
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        let need = self.max_frame_bytes();
        if slot.len() < need {
            return Err(CaptureError::small_slot(&self.name, slot.len(), need));
        }
        self.stream.read(slot, stop).map(Read::Frame)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let error = |number| opening("/dev/video0", "open", io::Error::from_raw_os_error(number));
        assert_eq!(error(13).kind(), Kind::PermissionDenied);
        assert!(error(13).to_string().contains("group `video`"));
        assert_eq!(error(16).kind(), Kind::Busy);
        assert!(error(16).to_string().contains("fuser -v /dev/video0"));
        assert_eq!(error(19).kind(), Kind::Lost);
        assert_eq!(error(2).kind(), Kind::NotFound);
        assert_eq!(error(25).kind(), Kind::Unsupported);
        assert_eq!(error(22).kind(), Kind::Io);
    }

    #[test]
    fn raw_sensors_are_sent_to_csi() {
        let mode = |fourcc| Mode { fourcc: FourCc(fourcc), width: 1, height: 1, rates: vec![] };
        assert!(no_mode("x", &[mode(*b"RG10")]).to_string().contains("csi://0"));
        assert!(no_mode("x", &[mode(*b"H264")]).to_string().contains("H264"));
        assert_eq!(no_mode("x", &[]).kind(), Kind::Unsupported);
    }

    #[test]
    fn what_is_no_camera_is_refused() {
        let open = |path: &str| {
            let (path, memory) = (PathBuf::from(path), BufferMemory::Mapped);
            let camera = CameraAddress { path, memory, fourcc: None };
            open(&camera, &SourceConfig::default()).err().unwrap()
        };
        assert_eq!(open("/dev/null").kind(), Kind::Unsupported);
        assert_eq!(open("/dev/video99").kind(), Kind::NotFound);
    }
}
