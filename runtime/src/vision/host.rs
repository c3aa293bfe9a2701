//! Preprocessing and postprocessing on the host, the network wherever it runs.

use std::time::Instant;

use tobiuo_capture::FrameFormat;
use tobiuo_engine::manifest::Task;
use tobiuo_tensor::ViewData;

use super::{DetectOverrides, StageTimes, TOP_CLASSES};
use crate::context::{ContextOptions, ExecutionContext};
use crate::detect::{DetectOptions, Detection, Detector};
use crate::device::Preprocessor;
use crate::pipeline::Classification;
use crate::{Engine, Error, ErrorKind};

enum Head {
    Detect { output: usize, detector: Box<Detector> },
    Classify { output: usize },
}

/// An engine that looks at frames, with all the memory it needs.
pub(crate) struct HostVision {
    context: ExecutionContext,
    input: usize,
    preprocessor: Preprocessor,
    head: Head,
}

impl HostVision {
    /// Fails with [`ErrorKind::Unsupported`] when the engine does not take a picture, or when
    /// its outputs are neither boxes nor class scores.
    pub fn new(
        engine: &Engine,
        context: &ContextOptions,
        options: DetectOverrides,
    ) -> Result<HostVision, Error> {
        let unsupported = |what: &str| {
            let path = engine.file().path().display();
            Error::new(
                ErrorKind::Unsupported,
                format!("{path}: {what}; `tobiuo infer` runs it on tensors"),
            )
        };
        let Some(preprocess) = &engine.manifest().preprocess else {
            return Err(unsupported("no input of this engine is a picture"));
        };
        let context = ExecutionContext::new(engine, context)?;
        let shape_of = |output: usize| context.output_shape(output).to_vec();
        let head = match &engine.manifest().task {
            Task::Detect(detect) => {
                let (rows, anchors) = match shape_of(detect.output)[..] {
                    [_, anchors, rows] if detect.transposed => (rows, anchors),
                    [_, rows, anchors] => (rows, anchors),
                    _ => return Err(unsupported("its output is not boxes and class scores")),
                };
                if rows != 4 + detect.classes {
                    return Err(unsupported("its output's rows are not 4 + classes"));
                }
                let options = options.apply(DetectOptions::from(detect));
                let detector = Detector::new(detect.classes, anchors, detect.transposed, options);
                Head::Detect { output: detect.output, detector: Box::new(detector) }
            }
            Task::Classify { output } => Head::Classify { output: *output },
            _ => return Err(unsupported("its outputs are neither boxes nor class scores")),
        };
        let (Head::Detect { output, .. } | Head::Classify { output }) = &head;
        if !matches!(context.output_at(*output).data, ViewData::F32(_)) {
            return Err(unsupported("its output is not of f32"));
        }
        let input = preprocess.input;
        let preprocessor = Preprocessor::new(preprocess, context.input_shape(input))?;
        Ok(HostVision { context, input, preprocessor, head })
    }

    /// What it runs on, for people.
    pub fn device(&self) -> String {
        self.context.device()
    }

    /// Most detections or classes of one frame.
    pub fn max_results(&self) -> usize {
        match &self.head {
            Head::Detect { detector, .. } => detector.options().max_detections,
            Head::Classify { .. } => TOP_CLASSES,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match &self.head {
            Head::Detect { output, .. } => {
                let manifest = self.context.engine().manifest();
                match &manifest.task {
                    Task::Detect(d) if d.output == *output => d.classes,
                    _ => 0,
                }
            }
            Head::Classify { output } => {
                self.context.output_shape(*output).iter().skip(1).product()
            }
        }
    }

    /// Looks at one frame. Results of a detector go to `detections`, those of a classifier to
    /// `classes`; both are cleared first. Allocates nothing when they have room for
    /// [`max_results`](Self::max_results).
    pub fn run(
        &mut self,
        format: FrameFormat,
        pixels: &[u8],
        detections: &mut Vec<Detection>,
        classes: &mut Vec<Classification>,
    ) -> Result<StageTimes, Error> {
        let begin = Instant::now();
        let input = self.context.input_at(self.input);
        let placement = self.preprocessor.run(format, pixels, 0, input)?;
        let prepared = Instant::now();
        self.context.run()?;
        let ran = Instant::now();
        detections.clear();
        classes.clear();
        let (Head::Detect { output, .. } | Head::Classify { output }) = &self.head;
        let ViewData::F32(scores) = self.context.output_at(*output).data else {
            unreachable!("checked when it was made")
        };
        match &mut self.head {
            Head::Detect { detector, .. } => detector.decode(scores, &placement, detections),
            Head::Classify { .. } => Classification::best_of(scores, TOP_CLASSES, classes),
        }
        Ok(StageTimes {
            preprocess: prepared - begin,
            network: ran - prepared,
            postprocess: ran.elapsed(),
            ..StageTimes::default()
        })
    }
}
