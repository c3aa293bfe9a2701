use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tobiuo_capture::{Read, SourceConfig};

use super::{Annotations, Evaluator, Report};
use crate::context::ContextOptions;
use crate::vision::{DetectOverrides, Vision};
use crate::{Engine, Error, ErrorKind};

/// How an engine is evaluated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EvalOptions {
    /// Boxes with a lower score do not count; low, so that the whole curve is seen.
    pub score_threshold: f32,
    /// The suppression's IoU threshold.
    pub iou_threshold: f32,
    /// At most so many detections per picture.
    pub max_detections: usize,
    /// Batch and threads.
    pub context: ContextOptions,
}

impl Default for EvalOptions {
    /// The settings of Ultralytics' `val`: 0.001, 0.7, 300.
    fn default() -> Self {
        EvalOptions {
            score_threshold: 0.001,
            iou_threshold: 0.7,
            max_detections: 300,
            context: ContextOptions::default(),
        }
    }
}

/// Runs a detector on all pictures of `annotations`, which lie in `folder`, and computes its
/// average precision. Every class above the threshold makes a box, not only an anchor's best.
///
/// `progress` is told how many pictures are done, of how many. Fails with
/// [`ErrorKind::Unsupported`] for an engine that is no detector, with [`ErrorKind::Usage`]
/// when the categories are not its classes, with [`ErrorKind::Input`] when a picture cannot
/// be read.
pub fn evaluate(
    engine: &Engine,
    folder: &Path,
    mut annotations: Annotations,
    options: &EvalOptions,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Report, Error> {
    let Some(detect) = engine.detect() else {
        let path = engine.file().path().display();
        let message = format!("{path}: not a detector, so there is no average precision");
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    annotations.map_to_labels(engine.labels(), detect.classes)?;
    let overrides = DetectOverrides {
        score_threshold: Some(options.score_threshold),
        iou_threshold: Some(options.iou_threshold),
        max_detections: Some(options.max_detections),
        multi_label: true,
    };
    let mut vision = Vision::new(engine, &options.context, overrides)?;
    let mut evaluator = Evaluator::new(detect.classes);
    let (mut detections, mut classes) = (Vec::new(), Vec::new());
    let mut pixels = Vec::new();
    let total = annotations.pictures.len();
    for (done, picture) in annotations.pictures.iter().enumerate() {
        progress(done, total);
        let path = folder.join(&picture.file_name);
        let uri = format!("file://{}", path.display());
        let mut source = tobiuo_capture::open(&uri, &SourceConfig::default())?;
        pixels.resize(source.max_frame_bytes().max(pixels.len()), 0);
        let Read::Frame(meta) = source.read(&mut pixels, stop)? else {
            let message = format!("{}: there is no picture in it", path.display());
            return Err(Error::new(ErrorKind::Input, message));
        };
        let said = (picture.width.unwrap_or(meta.format.width), picture.height);
        let said = (said.0, said.1.unwrap_or(meta.format.height));
        if said != (meta.format.width, meta.format.height) {
            let message = format!(
                "{}: {}x{} pixels, its annotation says {}x{}",
                path.display(),
                meta.format.width,
                meta.format.height,
                said.0,
                said.1
            );
            return Err(Error::new(ErrorKind::Input, message));
        }
        let bytes = meta.format.frame_bytes().unwrap_or(0);
        vision.run(meta.format, &pixels[..bytes], &mut detections, &mut classes)?;
        evaluator.add(&picture.truths, &detections);
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Other, "stopped before all pictures were seen"));
        }
    }
    progress(total, total);
    Ok(evaluator.report())
}
