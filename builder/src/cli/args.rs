//! Values of options.

use std::path::Path;
use std::time::Duration;

use lexopt::prelude::*;
use tobiuo_engine::{ChannelOrder, Fit, Precision};

use super::Stop;
use crate::labels;
use crate::options::{BuildOptions, CacheChoice, CudaOptions, DeviceChoice, TaskChoice};
use crate::quantize::Int8Options;
use crate::quantize::calibrators::Calibrator;
use crate::tactics::Effort;

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

/// An option's name, and whether it is the short one.
pub(super) type Flag = (String, bool);

/// The name of an option; a value is one too many.
pub(super) fn flag(arg: lexopt::Arg) -> Result<Flag, Stop> {
    match arg {
        Long(name) => Ok((name.to_string(), false)),
        Short(c) => Ok((c.to_string(), true)),
        Value(_) => Err(arg.unexpected().into()),
    }
}

/// Any option that shapes an engine, as `build` and `provision` take them.
pub(super) fn any_build_option(
    (name, short): Flag,
    options: &mut BuildOptions,
    parser: &mut lexopt::Parser,
) -> Result<(), Stop> {
    match (name.as_str(), short) {
        ("device", false) => options.device = device(&parser.value()?.string()?)?,
        ("g", true) | ("gpu", false) => options.device = gpu(&parser.value()?.string()?)?,
        ("m", true) | ("mode" | "precision", false) => {
            options.precision = Some(precision(&parser.value()?.string()?)?);
        }
        ("b", true) | ("batch" | "max-batch", false) => {
            options.batches = list(&parser.value()?.string()?, "--batch")?;
        }
        ("w", true) | ("workspace", false) => {
            let value = format!("{}G", parser.value()?.string()?);
            options.cuda.scratch_limit = Some(size(&value, "--workspace")?);
        }
        ("labels", false) => {
            options.labels = Some(labels::read(Path::new(&parser.value()?))?);
        }
        (long, false)
            if build_option(long, parser, options)?
                || int8_option(long, parser, &mut options.int8)?
                || cuda_option(long, parser, &mut options.cuda)? => {}
        (long, false) => return Err(Long(long).unexpected().into()),
        (_, true) => {
            return Err(Short(name.chars().next().unwrap_or('?')).unexpected().into());
        }
    }
    Ok(())
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

/// `auto`, `cpu`, `cuda`, `cuda:1`, `sm_87` or a Jetson module's name.
pub(super) fn device(text: &str) -> Result<DeviceChoice, Stop> {
    text.parse().map_err(|e| Stop::Args(format!("--device: {e}")))
}

/// The GPU's number alone, as chainer-trt's `-g` takes it.
pub(super) fn gpu(text: &str) -> Result<DeviceChoice, Stop> {
    let number = text.parse::<u32>();
    number
        .map(|n| DeviceChoice::Cuda(n as usize))
        .map_err(|_| Stop::Args(format!("--gpu {text}: the GPU's number is wanted")))
}

pub(super) fn precision(text: &str) -> Result<Precision, Stop> {
    match text {
        "fp32" | "float32" => Ok(Precision::Fp32),
        "tf32" => Ok(Precision::Tf32),
        "fp16" | "float16" | "half" => Ok(Precision::Fp16),
        "int8" => Ok(Precision::Int8),
        other => bad(format!("precision '{other}': fp32, tf32, fp16 or int8 is wanted")),
    }
}

pub(super) fn effort(text: &str) -> Result<Effort, Stop> {
    match text {
        "fast" => Ok(Effort::Fast),
        "default" => Ok(Effort::Default),
        "max" => Ok(Effort::Max),
        other => bad(format!("--effort {other}: fast, default or max is wanted")),
    }
}

/// Bytes: a number, with `K`, `M` or `G` behind it in units of 1024.
pub(super) fn size(text: &str, option: &str) -> Result<u64, Stop> {
    let upper = text.to_ascii_uppercase();
    let plain = upper.strip_suffix("IB").or(upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, shift) = match plain.char_indices().last() {
        Some((at, 'K')) => (&plain[..at], 10),
        Some((at, 'M')) => (&plain[..at], 20),
        Some((at, 'G')) => (&plain[..at], 30),
        _ => (plain, 0),
    };
    let bytes = digits.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    let bytes = bytes.map(|n| n * f64::from(1u32 << shift)).filter(|b| *b >= 1.0 && *b < 1e18);
    bytes.map(|b| b as u64).ok_or_else(|| {
        Stop::Args(format!("{option} {text}: a size such as 512M or 1.5G is wanted"))
    })
}

/// A time: seconds, or with `s`, `m` or `h` behind it.
pub(super) fn duration(text: &str, option: &str) -> Result<Duration, Stop> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = digits.trim().parse::<f64>().ok().map(|n| n * unit);
    let seconds = seconds.filter(|s| (0.0..1e7).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| Stop::Args(format!("{option} {text}: a time such as 90s or 5m is wanted")))
}

/// Options of calibration and accuracy; false for any other.
pub(super) fn int8_option(
    name: &str,
    parser: &mut lexopt::Parser,
    options: &mut Int8Options,
) -> Result<bool, Stop> {
    match name {
        "calibration" | "calib" => options.calibration = Some(parser.value()?.into()),
        "calibration-cache" => options.cache = Some(parser.value()?.into()),
        "calibrator" => options.calibrator = calibrator(&parser.value()?.string()?)?,
        "samples" => {
            let text = parser.value()?.string()?;
            let n = text.parse().ok().filter(|n| *n > 0);
            options.samples =
                n.ok_or_else(|| Stop::Args(format!("--samples {text}: a number from 1 on")))?;
        }
        "seed" => options.seed = parser.value()?.parse()?,
        "accuracy-drop" => {
            let text = parser.value()?.string()?;
            let drop = text.parse::<f64>().ok().filter(|d| (0.0..1.0).contains(d));
            options.accuracy_drop = Some(drop.ok_or_else(|| {
                Stop::Args(format!("--accuracy-drop {text}: a share such as 0.01 is wanted"))
            })?);
        }
        "annotations" => options.annotations = Some(parser.value()?.into()),
        "images" => options.images = Some(parser.value()?.into()),
        "accuracy-svg" => options.svg = Some(parser.value()?.into()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// A calibrator by name; `None` tries all.
fn calibrator(text: &str) -> Result<Option<Calibrator>, Stop> {
    let known = match text {
        "auto" => return Ok(None),
        "entropy" => Some(Calibrator::Entropy),
        "minmax" | "max" => Some(Calibrator::MinMax),
        "mse" => Some(Calibrator::Mse),
        "percentile" => Some(Calibrator::Percentile(99.99)),
        other => (other.strip_prefix("percentile-"))
            .and_then(|p| p.parse().ok())
            .filter(|p| *p > 50.0 && *p <= 100.0)
            .map(Calibrator::Percentile),
    };
    match known {
        Some(c) => Ok(Some(c)),
        None => bad(format!(
            "--calibrator {text}: auto, entropy, minmax, percentile, percentile-99.9 or mse is \
             wanted"
        )),
    }
}

/// Options that only concern CUDA engines; false for any other.
pub(super) fn cuda_option(
    name: &str,
    parser: &mut lexopt::Parser,
    options: &mut CudaOptions,
) -> Result<bool, Stop> {
    match name {
        "effort" => options.effort = effort(&parser.value()?.string()?)?,
        "tactic-cache" => {
            let value = parser.value()?;
            options.cache = match value.to_str() {
                Some("none") => CacheChoice::None,
                _ => CacheChoice::File(value.into()),
            };
        }
        "record" => options.record = Some(parser.value()?.into()),
        "replay" => options.replay = Some(parser.value()?.into()),
        "memory-limit" => {
            options.memory_limit = Some(size(&parser.value()?.string()?, "--memory-limit")?);
        }
        "time-limit" => {
            options.time_limit = Some(duration(&parser.value()?.string()?, "--time-limit")?);
        }
        _ => return Ok(false),
    }
    Ok(true)
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

    #[test]
    fn sizes_in_units() {
        let of = |t| size(t, "--memory-limit").ok();
        assert_eq!(of("4096"), Some(4096));
        assert_eq!(of("1k"), Some(1024));
        assert_eq!(of("1.5G"), Some(3 << 29));
        assert_eq!(of("512MiB"), Some(512 << 20));
        assert_eq!(of("512MB"), Some(512 << 20));
        for bad in ["", "G", "-1", "0", "nan", "inf", "1T", "1e30", "four", "0.1", "é", "1é"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_in_units() {
        let of = |t| duration(t, "--time-limit").ok().map(|d| d.as_secs_f64());
        assert_eq!((of("90"), of("1.5s"), of("5m")), (Some(90.0), Some(1.5), Some(300.0)));
        assert_eq!((of("0"), of("2h")), (Some(0.0), Some(7200.0)));
        for bad in ["", "s", "-1", "nan", "inf", "1e9", "1d", "é"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn devices_by_name() {
        let of = |t| device(t).ok();
        assert_eq!(of("cuda"), Some(DeviceChoice::Cuda(0)));
        assert_eq!(of("cuda:3"), Some(DeviceChoice::Cuda(3)));
        assert_eq!(of("sm_87"), Some(DeviceChoice::Sm(87)));
        assert_eq!(of("orin-nano-8gb"), Some(DeviceChoice::Module("orin-nano-8gb")));
        for bad in ["", "cuda:", "cuda:-1", "cuda:99999999999", "sm_", "sm_x", "tpu", "CUDA"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
