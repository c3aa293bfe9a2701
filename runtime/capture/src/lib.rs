#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod avi;
mod clock;
mod config;
mod error;
mod file;
mod format;
mod gst;
pub mod jpeg;
mod limit;
mod mjpeg;
mod motion;
mod pictures;
pub mod scene;
mod synthetic;
mod uri;
mod v4l2;
mod y4m;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

pub mod cameras {
    //! Which cameras are connected, and what they offer.
    pub use crate::v4l2::cameras::{Camera, Mode, list};
}

pub use avi::Writer as AviWriter;
pub use clock::monotonic_ns;
pub use config::SourceConfig;
pub use error::{CaptureError, CaptureErrorKind};
pub use format::{FrameFormat, FrameMeta, MAX_FRAME_BYTES, MAX_SIDE, PixelFormat, Read};

use gst::{Gst, What};
use uri::Address;

/// Something that frames come from.
pub trait Source: Send {
    /// One line: the URI, the mode that was chosen, the rate.
    fn describe(&self) -> String;

    /// The most bytes a frame of this source takes: slots are allocated once, of this size.
    fn max_frame_bytes(&self) -> usize;

    /// Frames a second, when the source has a rate of its own or is paced.
    fn frame_rate(&self) -> Option<f64>;

    /// Whether time goes on without the reader. A live source delivers its newest frame and
    /// counts those it passed over; any other delivers every frame.
    fn is_live(&self) -> bool;

    /// Waits for the next frame and puts it at the start of `slot`, which has at least
    /// [`max_frame_bytes`](Self::max_frame_bytes) bytes; or tells that the source has ended.
    ///
    /// Fails with [`Stopped`](CaptureErrorKind::Stopped) soon after `stop` is set and with
    /// [`Timeout`](CaptureErrorKind::Timeout) after [`SourceConfig::timeout`]. After a
    /// [`Damaged`](CaptureErrorKind::Damaged) frame of a file, the next call goes on behind it.
    ///
    /// Streams (all but pictures) allocate no memory here once their first frame was read.
    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError>;

    /// The file name of the frame just read, for pictures.
    fn frame_name(&self) -> Option<&str> {
        None
    }
}

/// Opens a source by its URI; the crate's documentation lists the forms.
pub fn open(uri: &str, cfg: &SourceConfig) -> Result<Box<dyn Source>, CaptureError> {
    let source: Box<dyn Source> = match Address::parse(uri)? {
        Address::Test(address) => Box::new(synthetic::Synthetic::open(&address, cfg)?),
        Address::Pictures(files) => Box::new(pictures::Pictures::open(uri, files, cfg)?),
        Address::Avi(path) => match avi::open(&path, cfg) {
            // Another codec than Motion-JPEG.
            Err(error) if error.kind() == CaptureErrorKind::Unsupported => {
                log::info!("{error}; trying GStreamer");
                Box::new(Gst::open(uri, What::Clip(path), cfg)?)
            }
            opened => opened?,
        },
        Address::Mjpeg(path) => mjpeg::open(&path, cfg)?,
        Address::Y4m(path) => Box::new(y4m::Y4m::open(&path, cfg)?),
        Address::Csi(sensor) => Box::new(Gst::open(uri, What::Csi(sensor), cfg)?),
        Address::Rtsp(address) => Box::new(Gst::open(uri, What::Rtsp(address), cfg)?),
        Address::Clip(path) => Box::new(Gst::open(uri, What::Clip(path), cfg)?),
        Address::Gst(pipeline) => Box::new(Gst::open(uri, What::Pipeline(pipeline), cfg)?),
        Address::V4l2(camera) => v4l2::open(&camera, cfg)?,
    };
    Ok(match cfg.frames {
        Some(frames) => Box::new(limit::Limit::new(source, frames)),
        None => source,
    })
}

/// The picture files that a URI means (one, a folder's, a glob's), in the order in which
/// [`open`] shows them; `None` where it means something else.
pub fn picture_files(uri: &str) -> Result<Option<Vec<PathBuf>>, CaptureError> {
    Ok(match Address::parse(uri)? {
        Address::Pictures(files) => Some(files),
        _ => None,
    })
}
