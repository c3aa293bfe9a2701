//! The object detector on camera frames: copy this page and change it.
//!
//! ```text
//! cargo run --release -p camera                    the bundled clip
//! cargo run --release -p camera -- /dev/video0     a camera, or any input that tobiuo reads
//! ```

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tobiuo::capture::SourceConfig;
use tobiuo::eval::{Annotations, Evaluator};
use tobiuo::sink::{self, JsonLines, Pictures, TextLines, Video};
use tobiuo::{Engine, ErrorKind, MemoryPath, Notifier, Pipeline, console, exit, logging, process};
use tobiuo_builder::options::DeviceChoice;
use tobiuo_builder::progress::Terminal;
use tobiuo_builder::{BuildError, BuildOptions, build_cached};

const HELP: &str = "\
usage: camera [INPUT [OUTPUT…]] [options]
  INPUT            /dev/video0, csi://0, rtsp://…, a video, pictures; else the bundled clip
  OUTPUT           out.avi, out_%i.jpg, out.jsonl, …; else a video and some pictures
  --model FILE     your own YOLO, as ONNX, instead of the bundled detector
  --device D       cpu, cuda (its kernels are chosen by timing them on it), cuda:N, or auto: the
                   GPU where there is one, else the CPU; cpu unless given
  --integrated     frames reach the GPU through mapped memory, as on a Jetson, where that is the way
                   anyhow
  --threshold S    lowest score of a detection, 0..1
  --frames N       ends after N frames
  --json           one JSON line per frame, and one with the summary
  --check          compares what is found on the bundled clip with what is there; exit
                   status 7 when that is too little
";

/// Where this was built.
const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The least AP50 over the bundled clip that `--check` takes.
const LEAST_AP50: f64 = 0.90;

#[derive(Default)]
struct Options {
    input: Option<String>,
    outputs: Vec<String>,
    model: Option<PathBuf>,
    device: DeviceChoice,
    integrated: bool,
    threshold: Option<f32>,
    frames: Option<u64>,
    json: bool,
    check: bool,
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    // 1. The engine: built for this machine from the model, or kept from the last time.
    let folder = output_folder();
    std::fs::create_dir_all(&folder)?;
    let assets = assets();
    let model = options.model.unwrap_or_else(|| assets.join("detector.onnx"));
    let file = folder.join(model.file_stem().unwrap_or_default()).with_extension("tobiuo");
    let build = BuildOptions { device: options.device, ..BuildOptions::default() };
    build_cached(&model, &file, &build, &mut Terminal::new())?;
    let engine = Engine::open(&file)?;

    // 2. The pipeline: where frames come from, where results go.
    let clip = assets.join("clip.avi").display().to_string();
    let input = options.input.unwrap_or(clip);
    let mut builder = Pipeline::builder(&engine, input)
        .source_config(SourceConfig { frames: options.frames, ..SourceConfig::default() })
        .stop_flag(process::stop_on_signals()?);
    if options.json {
        builder = builder.sink(Box::new(JsonLines::stdout()));
    } else if !options.check {
        builder = builder.sink(Box::new(TextLines::stdout()));
    }
    for output in &options.outputs {
        builder = builder.sink(sink::open(output)?);
    }
    if options.outputs.is_empty() && !options.check {
        let pictures = Pictures::pattern(&folder.join("frame_%03i.jpg").to_string_lossy())?;
        builder = builder.sink(Box::new(Video::new(folder.join("annotated.avi"))?));
        builder = builder.sink(Box::new(pictures.every(30)));
    }
    if options.integrated {
        builder = builder.memory(MemoryPath::Integrated);
    }
    if let Some(threshold) = options.threshold {
        builder = builder.score_threshold(threshold);
    }
    // As a systemd service of Type=notify: ready with the first frame, its watchdog fed by frames.
    if let Some(notifier) = Notifier::from_env()? {
        builder = builder.notifier(notifier);
    }
    let mut pipeline = builder.start()?;

    // 3. The results, frame by frame. The sinks have had them already; the rest is yours.
    let read = || Annotations::read(&assets.join("clip.json"));
    let truth = options.check.then(read).transpose()?;
    let mut evaluator = Evaluator::new(engine.labels().len());
    while let Some(result) = pipeline.next()? {
        if let Some(truth) = &truth {
            let picture = &truth.pictures[result.number() as usize];
            evaluator.add(&picture.truths, result.detections());
        }
    }

    // 4. What it did: the time of each stage, what there is to look at.
    let outputs = pipeline.outputs();
    let summary = pipeline.finish()?;
    if options.json {
        console::print(format_args!("{}\n", serde_json::json!({ "summary": summary.to_json() })))?;
    } else {
        console::say(format_args!("\n{summary}"));
    }
    outputs.iter().for_each(|made| console::say(format_args!("open {made}")));
    let Some(truth) = truth else { return Ok(()) };
    let unseen = &truth.pictures[summary.processed as usize..];
    unseen.iter().for_each(|picture| evaluator.add(&picture.truths, &[]));
    let ap50 = evaluator.report().ap50.unwrap_or(0.0);
    let text = format!("AP50 on the bundled clip: {ap50:.3}, at least {LEAST_AP50:.3} is wanted");
    if ap50 < LEAST_AP50 {
        return Err(tobiuo::Error::new(ErrorKind::Accuracy, text).into());
    }
    console::say(format_args!("{text}"));
    Ok(())
}

/// The folder of the model, the clip and what is on it: in the clone that this was built in, else
/// beside the program, where `cross/build` puts it.
fn assets() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let places = [Path::new(HERE).join("assets"), program.with_file_name("assets")];
    let there = places.iter().find(|place| place.is_dir());
    there.unwrap_or(&places[0]).clone()
}

/// `target/camera` of the clone that this was built in, else a folder of the user's cache.
fn output_folder() -> PathBuf {
    let clone = Path::new(HERE).ancestors().nth(2).filter(|root| root.is_dir());
    let cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(std::env::temp_dir, Into::into);
    clone.map_or_else(|| cache().join("tobiuo-camera"), |root| root.join("target/camera"))
}

fn parse() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut options, mut parser) = (Options::default(), lexopt::Parser::from_env());
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if options.input.is_none() => options.input = Some(v.string()?),
            Value(v) => options.outputs.push(v.string()?),
            Long("model") => options.model = Some(parser.value()?.into()),
            Long("device") => options.device = parser.value()?.parse()?,
            Long("integrated") => options.integrated = true,
            Long("threshold") | Short('t') => options.threshold = Some(parser.value()?.parse()?),
            Long("frames") => options.frames = Some(parser.value()?.parse()?),
            Long("json") => options.json = true,
            Long("check") => options.check = true,
            Long("help") | Short('h') => {
                let _ = console::print(HELP);
                std::process::exit(0)
            }
            other => return Err(other.unexpected()),
        }
    }
    if options.check && options.input.is_some() {
        return Err("--check is for the bundled clip, so it takes no input".into());
    }
    Ok(options)
}

fn main() -> ExitCode {
    logging::start(false);
    let Err(e) = parse().map_err(Into::into).and_then(run) else { return ExitCode::SUCCESS };
    // Who read our output has seen enough: `camera … | head`.
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
    console::say(format_args!("camera: {e}"));
    ExitCode::from(status)
}
