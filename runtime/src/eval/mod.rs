//! Average precision, as COCO defines it.
//!
//! After "Microsoft COCO: Common Objects in Context" (Lin et al., 2014) and its reference
//! program pycocotools: IoU thresholds 0.50 to 0.95 in steps of 0.05, precision interpolated
//! at 101 recalls, at most 100 detections per picture and class, boxes of every area;
//! regions marked `iscrowd` count neither way.

mod ap;
mod coco;
mod run;

pub use ap::{ClassReport, Evaluator, GroundTruth, Report};
pub use coco::{Annotations, Picture};
pub use run::{EvalOptions, evaluate};
