//! Baseline JPEG, both ways, without a heap allocation per picture.
//!
//! Library codecs make their buffers anew for every picture. The frame loop of a camera program
//! must not touch the allocator, so [`Decoder`] and [`Encoder`] keep theirs: after the first
//! picture of a size, neither allocates. Progressive and other rare sorts are for the `image`
//! crate, which the pictures source uses; they do not occur in Motion-JPEG.
//!
//! The arithmetic is that of libjpeg's default (its accurate integer DCT, its "fancy" triangular
//! chroma upsampling, its 16-bit fixed point colours), so a frame decoded here is the frame that
//! a training pipeline saw, not one a level away from it.

mod color;
mod dct;
mod decode;
mod encode;
mod fdct;
mod header;
mod huffman;
mod idct;
mod tables;

use std::fmt;

pub use decode::{Decoder, dimensions};
pub use encode::Encoder;

/// Why bytes could not be decoded as a baseline JPEG. It holds no text of its own, so making one
/// allocates nothing: a camera may send damaged frames for hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JpegError {
    /// The sort of failure.
    pub kind: JpegErrorKind,
    /// The byte at which it was noticed.
    pub offset: usize,
}

/// The sorts of [`JpegError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JpegErrorKind {
    /// The bytes do not start with the SOI marker.
    NotJpeg,
    /// The data ends before the picture is whole.
    Truncated,
    /// A marker segment is not what the standard says; the text says which.
    Segment(&'static str),
    /// The coded data is not what the standard says; the text says how.
    Scan(&'static str),
    /// A right JPEG of a sort that is not decoded here; the text says which.
    Unsupported(&'static str),
    /// The picture passes [`MAX_SIDE`](crate::MAX_SIDE) or
    /// [`MAX_FRAME_BYTES`](crate::MAX_FRAME_BYTES).
    TooLarge,
    /// The caller's buffer is smaller than the picture.
    SmallBuffer,
}

impl fmt::Display for JpegError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.kind {
            JpegErrorKind::NotJpeg => write!(f, "no JPEG start marker (ff d8) at byte {at}"),
            JpegErrorKind::Truncated => write!(f, "JPEG data ends too early, at byte {at}"),
            JpegErrorKind::Segment(what) => write!(f, "bad JPEG header at byte {at}: {what}"),
            JpegErrorKind::Scan(what) => write!(f, "bad JPEG data at byte {at}: {what}"),
            JpegErrorKind::Unsupported(what) => {
                write!(f, "{what} JPEG is not supported in a stream (byte {at})")
            }
            JpegErrorKind::TooLarge => write!(f, "JPEG of over 16384 pixels a side or 256 MiB"),
            JpegErrorKind::SmallBuffer => write!(f, "JPEG larger than the frame buffer"),
        }
    }
}

impl std::error::Error for JpegError {}

/// A JPEG error at a byte.
fn error<T>(kind: JpegErrorKind, offset: usize) -> Result<T, JpegError> {
    Err(JpegError { kind, offset })
}
