//! A source that ends after a number of frames.

use std::sync::atomic::AtomicBool;

use crate::{CaptureError, Read, Source};

/// Ends another source after so many frames.
pub(crate) struct Limit {
    source: Box<dyn Source>,
    left: u64,
}

impl Limit {
    pub(crate) fn new(source: Box<dyn Source>, frames: u64) -> Self {
        Self { source, left: frames }
    }
}

impl Source for Limit {
    fn describe(&self) -> String {
        format!("{}, at most {} frames", self.source.describe(), self.left)
    }

    fn max_frame_bytes(&self) -> usize {
        self.source.max_frame_bytes()
    }

    fn frame_rate(&self) -> Option<f64> {
        self.source.frame_rate()
    }

    fn is_live(&self) -> bool {
        self.source.is_live()
    }

    fn read(&mut self, slot: &mut [u8], stop: &AtomicBool) -> Result<Read, CaptureError> {
        if self.left == 0 {
            return Ok(Read::End);
        }
        let read = self.source.read(slot, stop)?;
        if matches!(read, Read::Frame(_)) {
            self.left -= 1;
        }
        Ok(read)
    }

    fn frame_name(&self) -> Option<&str> {
        self.source.frame_name()
    }
}
