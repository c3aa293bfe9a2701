//! Values of options.

use lexopt::prelude::*;
use tobiuo_engine::{ChannelOrder, Fit};

use super::Stop;
use crate::BuildError;
use crate::options::{BuildOptions, TaskChoice};

fn bad<T>(what: String) -> Result<T, Stop> {
    Err(Stop::Args(what))
}

/// `NAME=VALUE`, at the last `=` that leaves a value, so that names may hold one.
pub(super) fn split<'a>(
    text: &'a str,
    option: &str,
    form: &str,
) -> Result<(&'a str, &'a str), Stop> {
    match text.rsplit_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
        _ => bad(format!("{option} {text}: {form} is wanted")),
    }
}

/// Numbers with commas between.
pub(super) fn list<T: std::str::FromStr>(text: &str, option: &str) -> Result<Vec<T>, Stop> {
    let numbers: Result<Vec<T>, _> = text.split(',').map(|p| p.trim().parse()).collect();
    numbers.map_err(|_| Stop::Args(format!("{option} {text}: numbers with commas between")))
}

/// `NAME=1x3x640x640`.
pub(super) fn input_shape(text: &str) -> Result<(String, Vec<usize>), Stop> {
    let (name, shape) = split(text, "--input-shape", "NAME=1x3x640x640")?;
    let shape: Result<Vec<usize>, _> =
        shape.split(['x', 'X', ',']).map(|d| d.trim().parse()).collect();
    match shape {
        Ok(shape) if shape.iter().all(|&d| d > 0) => Ok((name.into(), shape)),
        _ => bad(format!("--input-shape {text}: NAME=1x3x640x640 is wanted")),
    }
}

/// Options of `build` with a value that only go into the options; false for any other.
pub(super) fn build_option(
    name: &str,
    parser: &mut lexopt::Parser,
    options: &mut BuildOptions,
) -> Result<bool, Stop> {
    const KNOWN: &[&str] = &[
        "input-shape",
        "task",
        "score-threshold",
        "iou-threshold",
        "max-detections",
        "mean",
        "std",
        "fit",
        "channels",
        "pad-value",
        "passes-until",
        "with-pass",
    ];
    if !KNOWN.contains(&name) {
        return Ok(false);
    }
    let value = parser.value()?.string()?;
    let wrong = |wanted: &str| Stop::Args(format!("--{name} {value}: {wanted} is wanted"));
    let number = || value.parse::<f32>().ok().filter(|v| v.is_finite());
    let floats = || {
        let numbers: Vec<f32> = list(&value, &format!("--{name}"))?;
        let fine = numbers.iter().all(|v| v.is_finite());
        if fine { Ok(numbers) } else { Err(wrong("finite numbers with commas between")) }
    };
    match name {
        "input-shape" => options.input_shapes.push(input_shape(&value)?),
        "task" => {
            options.task = match value.as_str() {
                "auto" => TaskChoice::Auto,
                "detect" => TaskChoice::Detect,
                "classify" => TaskChoice::Classify,
                "tensors" => TaskChoice::Tensors,
                _ => return Err(wrong("auto, detect, classify or tensors")),
            }
        }
        "score-threshold" => {
            options.score_threshold = Some(number().ok_or_else(|| wrong("a number"))?);
        }
        "iou-threshold" => {
            options.iou_threshold = Some(number().ok_or_else(|| wrong("a number"))?);
        }
        "max-detections" => {
            options.max_detections = Some(value.parse().map_err(|_| wrong("a number"))?);
        }
        "mean" => options.preprocess.mean = Some(floats()?),
        "std" => options.preprocess.std = Some(floats()?),
        "fit" => {
            options.preprocess.fit = Some(match value.as_str() {
                "letterbox" => Fit::Letterbox,
                "stretch" => Fit::Stretch,
                "center-crop" | "crop" => Fit::CenterCrop,
                _ => return Err(wrong("letterbox, stretch or center-crop")),
            });
        }
        "channels" => {
            options.preprocess.channels = Some(match value.as_str() {
                "rgb" => ChannelOrder::Rgb,
                "bgr" => ChannelOrder::Bgr,
                "gray" | "grey" => ChannelOrder::Gray,
                _ => return Err(wrong("rgb, bgr or gray")),
            });
        }
        "pad-value" => {
            options.preprocess.pad_value = Some(value.parse().map_err(|_| wrong("0 to 255"))?);
        }
        "passes-until" => options.passes.until = Some(value),
        _ => options.passes.with.push(value),
    }
    Ok(true)
}

/// This build of the program has the CPU device and no other.
pub(super) fn check_device(device: &str) -> Result<(), Stop> {
    match device {
        "auto" | "cpu" => Ok(()),
        other => Err(BuildError::NoDevice(format!(
            "device '{other}': this build of tobiuo-builder has the CPU device only; \
             --device cpu builds for it"
        ))
        .into()),
    }
}

pub(super) fn check_precision(precision: &str) -> Result<(), Stop> {
    match precision {
        "fp32" | "float32" => Ok(()),
        "fp16" | "int8" => bad(format!(
            "precision {precision}: the CPU device computes in fp32 only, as the reference that \
             others are checked against; leave the option out"
        )),
        other => bad(format!("precision '{other}': fp32 is wanted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_by_name() {
        let of = |t| input_shape(t).ok();
        assert_eq!(of("x=1x3x8x8"), Some(("x".into(), vec![1, 3, 8, 8])));
        assert_eq!(of("a=b=2,4"), Some(("a=b".into(), vec![2, 4])));
        for bad in ["", "x", "x=", "=1", "x=1x", "x=-1", "x=0x2", "x=1x99999999999999999999"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
