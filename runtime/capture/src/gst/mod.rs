//! CSI cameras, RTSP, coded video and `gst://`, through a `gst-launch-1.0` child process.
//!
//! Nothing of GStreamer is linked: the child writes raw frames into a pipe and they are read
//! straight into the slot. What the child prints (`-v`) tells the size of its frames, and why it
//! ended.

mod child;
mod pipeline;
mod source;

pub(crate) use source::{Gst, What};
