//! Classifies pictures with an ImageNet network: copy this program and change it.
//!
//! ```text
//! cargo run --release -p imagenet -- resnet50_dump/ cat.jpg dog.jpg --caffe --labels names.txt
//! cargo run --release -p imagenet -- resnet50.tobiuo --list val.txt --base val/ -b 8 -n 2
//! ```

#![forbid(unsafe_code)]

mod classify;
mod feed;
mod options;
mod profile;

use std::error::Error;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tobiuo::manifest::ChannelOrder;
use tobiuo::{Engine, ErrorKind, console, exit, logging};
use tobiuo_builder::options::{PreprocessOptions, TaskChoice};
use tobiuo_builder::progress::Terminal;
use tobiuo_builder::{BuildError, BuildOptions, build_cached, labels};

use classify::{Answer, Report, classify};
use feed::Feed;
use options::{Numbers, Options, parse};

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    // 1. The engine: given, or built for this machine from the model, or kept from the last time.
    let file = if is_model(&options.model) { made(options)? } else { options.model.clone() };
    let engine = Engine::open(&file)?;
    let names = match &options.labels {
        Some(path) => labels::read(path)?,
        None => engine.labels().to_vec(),
    };

    // 2. The pictures, through the network, several batches at once.
    let feed = Feed::new(&options.pictures, options.list.as_deref(), &options.base)?;
    let mut out = stdout().lock();
    let report = classify(&engine, feed, options, &mut |answer| {
        let told = match options.json {
            true => writeln!(out, "{}", answer.to_json(&names)),
            false => print(&mut out, answer, &names),
        };
        told.map_err(|e| tobiuo::Error::caused(ErrorKind::Other, "standard output", e))
    })?;

    // 3. How fast, how often right, and where the time goes.
    if options.json {
        writeln!(out, "{}", serde_json::json!({ "summary": report.to_json() }))?;
    } else {
        summarise(&report);
    }
    if let Some(form) = options.profile {
        profile::write(&mut out, &engine, options, form)?;
    }
    Ok(())
}

/// True for what an engine is built from.
fn is_model(path: &Path) -> bool {
    path.is_dir()
        || path.extension().is_some_and(|e| e == "onnx")
        || path.file_name().is_some_and(|n| n == "model.json")
}

/// The engine of a model, beside it.
fn made(options: &Options) -> Result<PathBuf, BuildError> {
    let whole = options.model.canonicalize().unwrap_or_else(|_| options.model.clone());
    let file = whole.with_extension("tobiuo");
    let mut batches = vec![1, options.batch];
    batches.dedup();
    // What networks of Caffe and Chainer, and those of PyTorch, were trained on.
    let preprocess = match options.numbers {
        Numbers::AsTheModelSays => PreprocessOptions::default(),
        Numbers::Caffe => PreprocessOptions {
            mean: Some([103.939, 116.779, 123.68].map(|m| m / 255.0).to_vec()),
            std: Some(vec![1.0 / 255.0]),
            channels: Some(ChannelOrder::Bgr),
            ..PreprocessOptions::default()
        },
        Numbers::Torch => PreprocessOptions {
            mean: Some(vec![0.485, 0.456, 0.406]),
            std: Some(vec![0.229, 0.224, 0.225]),
            ..PreprocessOptions::default()
        },
    };
    let preprocess = PreprocessOptions { fit: options.fit, ..preprocess };
    let build = BuildOptions {
        batches,
        device: options.device,
        precision: options.precision,
        task: TaskChoice::Classify,
        preprocess,
        ..BuildOptions::default()
    };
    build_cached(&options.model, &file, &build, &mut Terminal::new())?;
    Ok(file)
}

fn print(out: &mut impl Write, answer: &Answer, names: &[String]) -> std::io::Result<()> {
    writeln!(out, "{}", answer.name)?;
    for (i, best) in answer.best.iter().enumerate() {
        let right = if answer.wanted == Some(best.class as usize) { "  <- right" } else { "" };
        let name = names.get(best.class as usize).map_or("", String::as_str);
        writeln!(out, "  {}. {:>6.4}  class {:>4} {name}{right}", i + 1, best.score, best.class)?;
    }
    Ok(())
}

fn summarise(report: &Report) {
    console::say(format_args!(
        "\n{} pictures in {:.2} s: {:.1} a second",
        report.pictures,
        report.seconds,
        report.rate()
    ));
    console::say(format_args!(
        "{}, {} streams of batches of {}",
        report.device, report.streams, report.batch
    ));
    if let Some([first, five]) = report.accuracy() {
        console::say(format_args!(
            "right: {:.2} % at once, {:.2} % among the best five",
            first * 100.0,
            five * 100.0
        ));
    }
    let us = |ns: f64| ns / 1e3;
    console::say(format_args!("a batch takes {:.1} us on average", us(report.with_copies)));
    if let Some(alone) = report.without_copies {
        console::say(format_args!("  {:.1} us without copying inputs and outputs", us(alone)));
    }
}

fn main() -> ExitCode {
    logging::start(false);
    let Err(e) = parse().map_err(Into::into).and_then(|options| run(&options)) else {
        return ExitCode::SUCCESS;
    };
    // Who read our output has seen enough: `imagenet … | head`.
    if console::is_broken_pipe(&*e) {
        return ExitCode::SUCCESS;
    }
    // Each error knows the status that a program should end with.
    let status = match (e.downcast_ref::<tobiuo::Error>(), e.downcast_ref::<BuildError>()) {
        (Some(e), _) => e.exit_status(),
        (_, Some(e)) => e.exit_status(),
        _ if e.is::<lexopt::Error>() => exit::USAGE,
        _ => exit::OTHER,
    };
    console::say(format_args!("imagenet: {e}"));
    ExitCode::from(status)
}
