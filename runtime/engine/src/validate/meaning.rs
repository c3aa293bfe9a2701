//! Task, preprocessing and labels: do they fit the inputs and outputs?

use super::{inconsistent, limit, limits};
use crate::error::shown;
use crate::{ChannelOrder, Detect, EngineError, Manifest, Port, Preprocess, Task};

pub(super) fn check(manifest: &Manifest) -> Result<(), EngineError> {
    let classes = match &manifest.task {
        Task::Detect(detect) => {
            self::detect(manifest, detect).map_err(|e| e.at("detection"))?;
            Some(detect.classes)
        }
        Task::Classify { output } => {
            let port = port("output", &manifest.outputs, *output)
                .and_then(|port| floats(port).map(|()| port))
                .map_err(|e| e.at("classification"))?;
            let [_, classes] = port.shape[..] else {
                return Err(inconsistent(format!(
                    "output {} has the shape {:?}, not [N, classes]",
                    shown(&port.name),
                    port.shape
                ))
                .at("classification"));
            };
            Some(classes)
        }
        Task::Tensors => None,
    };
    limit("labels", manifest.labels.len() as u64, limits::LABELS as u64)?;
    if let Some(classes) = classes
        && !manifest.labels.is_empty()
        && manifest.labels.len() != classes
    {
        return Err(inconsistent(format!(
            "{} labels for {classes} classes",
            manifest.labels.len()
        )));
    }
    match &manifest.preprocess {
        Some(preprocess) => {
            self::preprocess(manifest, preprocess).map_err(|e| e.at("preprocessing"))
        }
        None => Ok(()),
    }
}

fn port<'a>(what: &str, ports: &'a [Port], i: usize) -> Result<&'a Port, EngineError> {
    ports
        .get(i)
        .ok_or_else(|| inconsistent(format!("{what} {i} is named; there are {}", ports.len())))
}

fn floats(port: &Port) -> Result<(), EngineError> {
    if port.dtype.is_float() {
        return Ok(());
    }
    Err(inconsistent(format!("{} is {}, not f32 or f16", shown(&port.name), port.dtype)))
}

fn detect(manifest: &Manifest, detect: &Detect) -> Result<(), EngineError> {
    let port = port("output", &manifest.outputs, detect.output)?;
    floats(port)?;
    let rows = match (&port.shape[..], detect.transposed) {
        (&[_, rows, _], false) | (&[_, _, rows], true) => Some(rows),
        _ => None,
    };
    if detect.classes == 0 {
        return Err(inconsistent("no classes"));
    }
    if rows.is_none() || rows != detect.classes.checked_add(4) {
        let form = if detect.transposed {
            "[N, anchors, 4 + classes]"
        } else {
            "[N, 4 + classes, anchors]"
        };
        return Err(inconsistent(format!(
            "output {} has the shape {:?}, which is not {form} for {} classes",
            shown(&port.name),
            port.shape,
            detect.classes
        )));
    }
    for (what, x) in
        [("score threshold", detect.score_threshold), ("overlap threshold", detect.iou_threshold)]
    {
        if !(0.0..=1.0).contains(&x) {
            return Err(inconsistent(format!("the {what} is {x}, not within 0..=1")));
        }
    }
    if detect.max_detections == 0 {
        return Err(inconsistent("at most 0 detections are kept"));
    }
    limit("detections kept", detect.max_detections as u64, limits::DETECTIONS as u64)
}

fn preprocess(manifest: &Manifest, p: &Preprocess) -> Result<(), EngineError> {
    let port = port("input", &manifest.inputs, p.input)?;
    floats(port)?;
    let channels = match p.channels {
        ChannelOrder::Gray => 1,
        ChannelOrder::Rgb | ChannelOrder::Bgr => 3,
    };
    match port.shape[..] {
        [n, c, h, w] if c == channels && n > 0 && h > 0 && w > 0 => (),
        _ => {
            return Err(inconsistent(format!(
                "input {} has the shape {:?}, not [N, {channels}, H, W]",
                shown(&port.name),
                port.shape
            )));
        }
    }
    for (what, values) in [("mean", &p.mean), ("std", &p.std)] {
        if values.len() != channels {
            return Err(inconsistent(format!(
                "{what} has {} values for {channels} channels",
                values.len()
            )));
        }
        if values.iter().any(|x| !x.is_finite()) {
            return Err(inconsistent(format!("{what} is {values:?}")));
        }
    }
    // Divided by: zero, or so small that the quotient is infinite, gives no picture.
    if p.std.iter().any(|x| !(1.0 / x).is_finite()) {
        return Err(inconsistent(format!("std is {:?}: dividing by it overflows", p.std)));
    }
    Ok(())
}
