use std::time::Duration;

use tobiuo_capture::{FrameFormat, FrameMeta, PixelFormat};

use crate::detect::Detection;

/// Memory for a frame: what a CUDA device can read from, where this build has one.
#[cfg(feature = "cuda")]
pub(crate) type Pixels = tobiuo_gpu::HostBuffer;
#[cfg(not(feature = "cuda"))]
pub(crate) type Pixels = Vec<u8>;

/// `bytes` zeros.
pub(crate) fn pixels(bytes: usize) -> Pixels {
    #[cfg(feature = "cuda")]
    return tobiuo_gpu::HostBuffer::new(bytes);
    #[cfg(not(feature = "cuda"))]
    return vec![0; bytes];
}

/// A frame's bytes and what is known about it; its memory circulates between the threads.
#[derive(Debug)]
pub(crate) struct Frame {
    pub pixels: Pixels,
    pub meta: FrameMeta,
    /// The picture's file name, where the source has one.
    pub name: String,
    /// When the work on it began: when a live source captured it, when a file was read.
    pub begin_ns: u64,
    /// When it lay in `pixels`.
    pub captured_ns: u64,
}

impl Frame {
    pub fn new(bytes: usize) -> Frame {
        Frame {
            pixels: pixels(bytes),
            meta: FrameMeta {
                format: FrameFormat::new(PixelFormat::Rgb8, 0, 0),
                sequence: 0,
                timestamp_ns: 0,
                dropped_before: 0,
            },
            name: String::with_capacity(256),
            begin_ns: 0,
            captured_ns: 0,
        }
    }
}

/// A class that a picture may show, and how surely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classification {
    /// Class index.
    pub class: u32,
    /// The network's score for it; a probability where the network ends in a softmax.
    pub score: f32,
}

impl Classification {
    /// Puts the `count` classes with the highest scores into `best`, the highest first, of equal
    /// ones the first; its old content goes. Scores that are not finite are passed over.
    /// Allocates only while `best` has no room for `count`.
    pub fn best_of(scores: &[f32], count: usize, best: &mut Vec<Classification>) {
        best.clear();
        for (class, &score) in scores.iter().enumerate() {
            let at = best.partition_point(|c| c.score >= score);
            if at < count && score.is_finite() {
                if best.len() == count {
                    best.pop();
                }
                best.insert(at, Classification { class: class as u32, score });
            }
        }
    }
}

/// How long a frame took, stage by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// From the moment of capture (a file: from the begin of reading) until the frame lay in
    /// memory: transfer, decoding.
    pub capture: Duration,
    /// On a CUDA device: from the host's memory to its own; zero elsewhere.
    pub upload: Duration,
    /// Resizing, conversion, normalisation.
    pub preprocess: Duration,
    /// The network.
    pub network: Duration,
    /// Decoding of boxes and non-maximum suppression.
    pub postprocess: Duration,
    /// On a CUDA device: the results to the host; zero elsewhere.
    pub download: Duration,
    /// From the moment of capture until the result was ready, waiting included.
    pub total: Duration,
}

/// A frame and what was found on it.
#[derive(Debug)]
pub struct FrameResult {
    pub(crate) frame: Frame,
    pub(crate) detections: Vec<Detection>,
    pub(crate) classes: Vec<Classification>,
    pub(crate) latency: Latency,
}

impl FrameResult {
    pub(crate) fn new(bytes: usize, detections: usize, classes: usize) -> FrameResult {
        FrameResult {
            frame: Frame::new(bytes),
            detections: Vec::with_capacity(detections),
            classes: Vec::with_capacity(classes),
            latency: Latency::default(),
        }
    }

    /// The frame's number in its source, from 0. Dropped frames have numbers too.
    pub fn number(&self) -> u64 {
        self.frame.meta.sequence
    }

    /// When it was captured, nanoseconds of `CLOCK_MONOTONIC` (a file: when it was read).
    pub fn timestamp_ns(&self) -> u64 {
        self.frame.meta.timestamp_ns
    }

    /// The picture's file name, where the source is pictures.
    pub fn name(&self) -> Option<&str> {
        (!self.frame.name.is_empty()).then_some(&self.frame.name)
    }

    /// The frame's layout and size.
    pub fn format(&self) -> FrameFormat {
        self.frame.meta.format
    }

    /// The frame's bytes, laid out as [`format`](Self::format) says.
    pub fn pixels(&self) -> &[u8] {
        let bytes = self.frame.meta.format.frame_bytes().unwrap_or(0);
        &self.frame.pixels[..bytes.min(self.frame.pixels.len())]
    }

    /// The frame as packed R, G, B bytes in `rgb`, whose old content goes; allocates only
    /// while `rgb` grows.
    pub fn to_rgb(&self, rgb: &mut Vec<u8>) {
        if !crate::pixels::to_rgb(self.format(), self.pixels(), rgb) {
            rgb.clear();
        }
    }

    /// What a detector found, best first, in pixels of the frame.
    pub fn detections(&self) -> &[Detection] {
        &self.detections
    }

    /// The classes that a classifier gives the highest scores, best first.
    pub fn classes(&self) -> &[Classification] {
        &self.classes
    }

    /// How long it took.
    pub fn latency(&self) -> Latency {
        self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_classes_are_the_highest_in_order() {
        let scores = [0.1, 0.5, f32::INFINITY, 0.5, -1.0, 0.9, 0.2, 0.05];
        let mut best = Vec::with_capacity(5);
        Classification::best_of(&scores, 5, &mut best);
        let classes: Vec<u32> = best.iter().map(|c| c.class).collect();
        assert_eq!(classes, [5, 1, 3, 6, 0]);
        assert_eq!(best.capacity(), 5);
        Classification::best_of(&scores, 0, &mut best);
        assert!(best.is_empty());
    }
}
