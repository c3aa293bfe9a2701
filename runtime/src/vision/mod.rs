//! One frame at a time through preprocessing, network and postprocessing.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod host;

use std::time::Duration;

use tobiuo_capture::FrameFormat;

use crate::context::ContextOptions;
use crate::detect::{DetectOptions, Detection};
use crate::pipeline::Classification;
use crate::{Engine, Error};

pub(crate) use host::HostVision;

/// Classes that are reported for a picture.
const TOP_CLASSES: usize = 5;

/// Time of each stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StageTimes {
    /// On a CUDA device: from the host's memory to its own.
    pub upload: Duration,
    pub preprocess: Duration,
    pub network: Duration,
    pub postprocess: Duration,
    /// On a CUDA device: the results to the host.
    pub download: Duration,
}

/// An engine that looks at frames, with all the memory it needs.
pub(crate) enum Vision {
    Host(Box<HostVision>),
    /// All of it on the device.
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::CudaVision>),
}

macro_rules! each {
    ($self:expr, $v:ident => $body:expr) => {
        match $self {
            Vision::Host($v) => $body,
            #[cfg(feature = "cuda")]
            Vision::Cuda($v) => $body,
        }
    };
}

impl Vision {
    /// Fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the engine does
    /// not take a picture, or when its outputs are neither boxes nor class scores.
    pub fn new(
        engine: &Engine,
        context: &ContextOptions,
        options: DetectOverrides,
    ) -> Result<Vision, Error> {
        #[cfg(feature = "cuda")]
        if let Some(vision) = cuda::CudaVision::new(engine, context, options)? {
            return Ok(Vision::Cuda(Box::new(vision)));
        }
        HostVision::new(engine, context, options).map(Box::new).map(Vision::Host)
    }

    /// What it runs on, for people.
    pub fn device(&self) -> String {
        each!(self, v => v.device())
    }

    /// Most detections or classes of one frame.
    pub fn max_results(&self) -> usize {
        each!(self, v => v.max_results())
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        each!(self, v => v.classes())
    }

    /// Looks at one frame and waits. Results of a detector go to `detections`, those of a
    /// classifier to `classes`; both are cleared first.
    pub fn run(
        &mut self,
        format: FrameFormat,
        pixels: &[u8],
        detections: &mut Vec<Detection>,
        classes: &mut Vec<Classification>,
    ) -> Result<StageTimes, Error> {
        each!(self, v => v.run(format, pixels, detections, classes))
    }
}

/// What the user says instead of the engine's own settings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DetectOverrides {
    pub score_threshold: Option<f32>,
    pub iou_threshold: Option<f32>,
    pub max_detections: Option<usize>,
    pub multi_label: bool,
}

impl DetectOverrides {
    pub fn apply(self, own: DetectOptions) -> DetectOptions {
        DetectOptions {
            score_threshold: self.score_threshold.unwrap_or(own.score_threshold),
            iou_threshold: self.iou_threshold.unwrap_or(own.iou_threshold),
            max_detections: self.max_detections.unwrap_or(own.max_detections),
            multi_label: self.multi_label,
        }
    }
}
