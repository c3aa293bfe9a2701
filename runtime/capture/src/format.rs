//! How a frame is laid out in memory, and what is known about it.

use std::fmt;
use std::str::FromStr;

/// The widest and highest picture that is accepted from any source, in pixels.
pub const MAX_SIDE: u32 = 16384;

/// The most bytes one frame may take (256 MiB), whatever a file's header says.
pub const MAX_FRAME_BYTES: usize = 256 << 20;

/// How the bytes of a frame are laid out.
///
/// Rows are tightly packed, top row first. The YCbCr formats carry BT.601 colours in video
/// range (luma 16..=235, chroma 16..=240), which is what USB cameras send; a source whose
/// colours are coded otherwise (JPEG, full-range Y4M) is converted to [`Rgb8`](Self::Rgb8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// R, G, B bytes: 3 bytes a pixel.
    Rgb8,
    /// B, G, R bytes: 3 bytes a pixel.
    Bgr8,
    /// One luma byte a pixel.
    Gray8,
    /// 4:2:2 packed as Y0 Cb Y1 Cr: 2 bytes a pixel, even width.
    Yuyv,
    /// 4:2:2 packed as Cb Y0 Cr Y1: 2 bytes a pixel, even width.
    Uyvy,
    /// 4:2:0: a luma plane, then one plane of interleaved Cb Cr pairs of half the width and
    /// height, both rounded up.
    Nv12,
    /// 4:2:0: a luma plane, then a Cb plane, then a Cr plane, each of half the width and height,
    /// both rounded up.
    I420,
}

impl PixelFormat {
    /// Every format, in the order of declaration.
    pub const ALL: [Self; 7] =
        [Self::Rgb8, Self::Bgr8, Self::Gray8, Self::Yuyv, Self::Uyvy, Self::Nv12, Self::I420];

    /// The bytes of a frame of `width` x `height` pixels; `None` when a side is 0, when the
    /// format cannot have this width (packed 4:2:2 needs an even one), or when the sizes pass
    /// [`MAX_SIDE`] or [`MAX_FRAME_BYTES`].
    pub fn frame_bytes(self, width: u32, height: u32) -> Option<usize> {
        if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return None;
        }
        let (w, h) = (width as usize, height as usize);
        let bytes = match self {
            Self::Rgb8 | Self::Bgr8 => w * h * 3,
            Self::Gray8 => w * h,
            Self::Yuyv | Self::Uyvy if w % 2 == 1 => return None,
            Self::Yuyv | Self::Uyvy => w * h * 2,
            Self::Nv12 | Self::I420 => w * h + 2 * w.div_ceil(2) * h.div_ceil(2),
        };
        (bytes <= MAX_FRAME_BYTES).then_some(bytes)
    }

    /// The short lower-case name used in URIs, reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb8 => "rgb",
            Self::Bgr8 => "bgr",
            Self::Gray8 => "gray",
            Self::Yuyv => "yuyv",
            Self::Uyvy => "uyvy",
            Self::Nv12 => "nv12",
            Self::I420 => "i420",
        }
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PixelFormat {
    type Err = String;

    /// Reads [`PixelFormat::name`], in any case; `rgb8`, `bgr8`, `gray8`, `grey` and `yuy2` too.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let name = match lower.as_str() {
            "rgb8" => "rgb",
            "bgr8" => "bgr",
            "gray8" | "grey" | "mono" => "gray",
            "yuy2" => "yuyv",
            other => other,
        };
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            format!("unknown pixel format `{text}`: rgb, bgr, gray, yuyv, uyvy, nv12 or i420")
        })
    }
}

/// The layout and size of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameFormat {
    /// The layout.
    pub pixel: PixelFormat,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl FrameFormat {
    /// A format of these pixels and this size.
    pub fn new(pixel: PixelFormat, width: u32, height: u32) -> Self {
        Self { pixel, width, height }
    }

    /// The bytes of one frame; see [`PixelFormat::frame_bytes`].
    pub fn frame_bytes(&self) -> Option<usize> {
        self.pixel.frame_bytes(self.width, self.height)
    }
}

impl fmt::Display for FrameFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.width, self.height, self.pixel)
    }
}

/// What is known about one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameMeta {
    /// Its layout and size.
    pub format: FrameFormat,
    /// Its number, from 0. Frames that were lost have numbers too, so a gap of n means that n
    /// frames are missing.
    pub sequence: u64,
    /// When it was captured, in nanoseconds of `CLOCK_MONOTONIC` (for a file: when it was read,
    /// or was due).
    pub timestamp_ns: u64,
    /// Frames that the device or the source lost or passed over since the last one delivered.
    pub dropped_before: u32,
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A frame lies at the start of the slot.
    Frame(FrameMeta),
    /// The source has ended (a file) or the asked number of frames has been read.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_bytes_of_every_format() {
        let bytes = |pixel: PixelFormat| pixel.frame_bytes(640, 480);
        assert_eq!(bytes(PixelFormat::Rgb8), Some(921_600));
        assert_eq!(bytes(PixelFormat::Bgr8), Some(921_600));
        assert_eq!(bytes(PixelFormat::Gray8), Some(307_200));
        assert_eq!(bytes(PixelFormat::Yuyv), Some(614_400));
        assert_eq!(bytes(PixelFormat::Uyvy), Some(614_400));
        assert_eq!(bytes(PixelFormat::Nv12), Some(460_800));
        assert_eq!(bytes(PixelFormat::I420), Some(460_800));
    }

    #[test]
    fn odd_sizes_round_chroma_up() {
        assert_eq!(PixelFormat::Nv12.frame_bytes(3, 3), Some(9 + 2 * 4));
        assert_eq!(PixelFormat::I420.frame_bytes(1, 1), Some(3));
        assert_eq!(PixelFormat::Yuyv.frame_bytes(3, 2), None);
    }

    #[test]
    fn limits_hold() {
        assert_eq!(PixelFormat::Gray8.frame_bytes(0, 5), None);
        assert_eq!(PixelFormat::Gray8.frame_bytes(16385, 1), None);
        assert_eq!(PixelFormat::Gray8.frame_bytes(16384, 16384), Some(256 << 20));
        assert_eq!(PixelFormat::Rgb8.frame_bytes(16384, 16384), None);
        assert_eq!(PixelFormat::Rgb8.frame_bytes(u32::MAX, u32::MAX), None);
    }

    #[test]
    fn names_read_back() {
        for format in PixelFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("YUY2".parse(), Ok(PixelFormat::Yuyv));
        assert!("p010".parse::<PixelFormat>().unwrap_err().contains("nv12"));
    }
}
