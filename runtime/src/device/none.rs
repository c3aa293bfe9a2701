//! What a build without the CPU device has instead of its parts.

use tobiuo_capture::FrameFormat;
use tobiuo_engine::manifest::Preprocess;
use tobiuo_tensor::TensorViewMut;

use crate::detect::Placement;
use crate::{Error, ErrorKind};

/// Cannot be made: frames are turned into pictures by the CPU device.
pub enum Preprocessor {}

impl Preprocessor {
    /// Fails with [`ErrorKind::NoDevice`].
    pub fn new(_: &Preprocess, _: &[usize]) -> Result<Preprocessor, Error> {
        Err(Error::new(
            ErrorKind::NoDevice,
            "this tobiuo was built without the CPU device, which turns frames into pictures; build \
             it with `--features cpu`",
        ))
    }

    /// There is none to run.
    pub fn run(
        &mut self,
        _: FrameFormat,
        _: &[u8],
        _: usize,
        _: TensorViewMut<'_>,
    ) -> Result<Placement, Error> {
        match *self {}
    }
}
