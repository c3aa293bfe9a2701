//! What the caller asks of a source.

use std::path::PathBuf;
use std::time::Duration;

/// What the caller asks of a source. Fields that a source has no use for are ignored by it.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The wanted width in pixels; `None` takes the source's own, or its default.
    pub width: Option<u32>,
    /// The wanted height in pixels; `None` takes the source's own, or its default.
    pub height: Option<u32>,
    /// The wanted frames a second; `None` takes the source's own, or 30 for cameras.
    pub rate: Option<f64>,
    /// Starts a file or a list of pictures again at its end.
    pub loop_: bool,
    /// Delivers frames of files at their own rate (pictures: at `rate`) instead of as fast as
    /// they are read.
    pub realtime: bool,
    /// How long a read, or the opening of a stream, waits for a frame.
    pub timeout: Duration,
    /// Ends the source after so many frames.
    pub frames: Option<u64>,
    /// Damaged pictures, and damaged frames of files, are warned about, counted in
    /// [`FrameMeta::dropped_before`](crate::FrameMeta::dropped_before) and passed over instead of
    /// being an error. Damaged frames of cameras always are.
    pub skip_damaged: bool,
    /// The GStreamer launcher to run for CSI, RTSP, coded video and `gst://`.
    pub gst_launch: PathBuf,
}

impl Default for SourceConfig {
    /// The source's own size and rate, once, unpaced, 5 s of patience, no limit.
    fn default() -> Self {
        Self {
            width: None,
            height: None,
            rate: None,
            loop_: false,
            realtime: false,
            timeout: Duration::from_secs(5),
            frames: None,
            skip_damaged: false,
            gst_launch: PathBuf::from("gst-launch-1.0"),
        }
    }
}
