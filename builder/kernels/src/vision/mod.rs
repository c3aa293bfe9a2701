//! The camera pipeline's kernels: from a frame to the network's picture, and from its output to
//! boxes or classes (`cuda/preprocess.cu`, `decode.cu`, `nms.cu`, `top.cu`).
//!
//! Unlike a layer's, their work depends on the run: the frame's format and size, thresholds. So
//! they are a module of their own, with functions of fixed names, and their references work on
//! the device's memory by address.

mod reference;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::Target;
use super::defines::{Defines, ceil_div};

pub use reference::DeviceMemory;

/// What the module's source begins with: this, the [`VisionModule`] as JSON, and a line's end.
pub const VISION_MARK: &str = "// vision: ";

/// Classes that are reported for a picture.
pub const TOP: usize = 5;

/// Bytes in front of the keys of candidates, and of the entries of results.
pub const LIST_HEADER: usize = 16;

/// Bytes of a candidate's key.
pub const KEY_BYTES: usize = 8;

/// Bytes of a result.
pub const RESULT_BYTES: usize = 32;

/// The order of the network's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Channels {
    Rgb,
    Bgr,
    Gray,
}

/// The network's picture in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    /// What they are.
    pub channels: Channels,
    /// Rows.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// f16 or f32.
    pub dtype: DType,
    /// Elements from one channel, row and column to the next.
    pub strides: [u64; 3],
    /// Channels that are stored; those beyond the picture's are zeros.
    pub stored: usize,
    /// Its address is a multiple of 16.
    pub aligned: bool,
}

/// How the network's output is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// Boxes and class scores: per anchor centre x, centre y, width, height, then scores.
    Detect {
        /// Number of classes.
        classes: usize,
        /// Number of boxes.
        anchors: usize,
        /// Elements from one row (coordinate or class) to the next.
        row_stride: u64,
        /// Elements from one anchor to the next.
        anchor_stride: u64,
        /// f16 or f32.
        dtype: DType,
    },
    /// Class scores.
    Classify {
        /// Number of classes.
        classes: usize,
        /// Elements from one class to the next.
        stride: u64,
        /// f16 or f32.
        dtype: DType,
    },
}

/// The pipeline's kernels for one plan, all that is static about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionModule {
    /// Where the picture goes.
    pub picture: Picture,
    /// What is made of the output; `None`: it is left to the host.
    pub head: Option<Head>,
}

/// A kernel of the module and how it is launched; its arguments are documented with the
/// sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionKernel {
    /// Its name.
    pub function: &'static str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x.
    pub block: u32,
}

impl Picture {
    fn channel_count(&self) -> usize {
        if self.channels == Channels::Gray { 1 } else { 3 }
    }

    /// Whole pixels can be stored four channels at a time.
    fn vector(&self) -> bool {
        let [channel, row, column] = self.strides;
        self.aligned
            && channel == 1
            && self.stored.is_multiple_of(4)
            && row.is_multiple_of(4)
            && column.is_multiple_of(4)
    }

    /// Bytes from its address to the end of its last pixel.
    pub fn extent(&self) -> u64 {
        let last = [self.stored - 1, self.height - 1, self.width - 1];
        let reach: u64 = last.iter().zip(self.strides).map(|(&i, s)| i as u64 * s).sum();
        (reach + 1) * self.dtype.size() as u64
    }
}

impl Head {
    /// Bytes from the output's address that are read.
    pub fn extent(&self) -> u64 {
        match *self {
            Head::Detect { classes, anchors, row_stride, anchor_stride, dtype } => {
                let reach =
                    (classes as u64 + 3) * row_stride + (anchors as u64 - 1) * anchor_stride;
                (reach + 1) * dtype.size() as u64
            }
            Head::Classify { classes, stride, dtype } => {
                ((classes as u64 - 1) * stride + 1) * dtype.size() as u64
            }
        }
    }
}

impl VisionModule {
    /// The complete CUDA C++.
    pub fn source(&self, target: &Target) -> String {
        let p = &self.picture;
        let mut d = Defines::new(target, true);
        let order = match p.channels {
            Channels::Rgb => 0,
            Channels::Bgr => 1,
            Channels::Gray => 2,
        };
        d.all(&[
            ("P_ORDER", order),
            ("P_CHANNELS", p.channel_count()),
            ("P_W", p.width),
            ("P_H", p.height),
            ("P_F16", usize::from(p.dtype == DType::F16)),
            ("P_STORED", p.stored),
            ("P_VECTOR", usize::from(p.vector())),
        ]);
        for (name, stride) in ["P_SC", "P_SY", "P_SX"].into_iter().zip(p.strides) {
            d.set(name, format_args!("{stride}ull"));
        }
        let mut parts = vec![include_str!("../../cuda/preprocess.cu")];
        let f16 = |dtype: DType| usize::from(dtype == DType::F16);
        match self.head {
            None => {}
            Some(Head::Detect { classes, anchors, row_stride, anchor_stride, dtype }) => {
                d.all(&[("CLASSES", classes), ("ANCHORS", anchors), ("O_F16", f16(dtype))]);
                d.set("O_ROW", row_stride).set("O_ANCHOR", anchor_stride);
                parts.push(include_str!("../../cuda/scores.cuh"));
                parts.push(include_str!("../../cuda/decode.cu"));
                parts.push(include_str!("../../cuda/nms.cu"));
            }
            Some(Head::Classify { classes, stride, dtype }) => {
                d.all(&[("CLASSES", classes), ("O_F16", f16(dtype)), ("TOP", TOP)]);
                d.set("O_ROW", stride);
                parts.push(include_str!("../../cuda/scores.cuh"));
                parts.push(include_str!("../../cuda/top.cu"));
            }
        }
        let json = serde_json::to_string(self).expect("modules are plain data");
        format!("{VISION_MARK}{json}\n{}", d.source(&parts))
    }

    /// The module that a source says it is.
    pub fn of_source(source: &str) -> Option<VisionModule> {
        let line = source.lines().next()?.strip_prefix(VISION_MARK)?;
        serde_json::from_str(line).ok()
    }

    /// Reads a frame of host memory: `upload(host, frame, bytes)`.
    pub fn upload(&self) -> VisionKernel {
        VisionKernel { function: "upload", grid: [64, 1, 1], block: 256 }
    }

    /// `preprocess(frame, geometry, picture)`.
    pub fn preprocess(&self) -> VisionKernel {
        let grid = [ceil_div(self.picture.width, 32), ceil_div(self.picture.height, 8), 1];
        VisionKernel { function: "preprocess", grid: grid.map(|n| n as u32), block: 256 }
    }

    /// Detectors: `decode(output, candidates, score threshold, multi label)`.
    pub fn decode(&self) -> Option<VisionKernel> {
        let Some(Head::Detect { anchors, .. }) = self.head else { return None };
        let grid = [ceil_div(anchors, 32) as u32, 1, 1];
        Some(VisionKernel { function: "decode", grid, block: 256 })
    }

    /// Detectors: `suppress(output, candidates, results, iou threshold, most boxes, most
    /// candidates)`; classifiers: `top(output, results)`.
    pub fn select(&self) -> Option<VisionKernel> {
        let function = match self.head.as_ref()? {
            Head::Detect { .. } => "suppress",
            Head::Classify { .. } => "top",
        };
        Some(VisionKernel { function, grid: [1; 3], block: 1024 })
    }
}
