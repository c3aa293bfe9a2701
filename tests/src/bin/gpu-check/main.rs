//! Every kernel candidate against its layer's plain reference, on this machine's GPU.
//!
//! Fresh random inputs, outputs and scratch memory poisoned, guard bytes around everything;
//! each candidate is run three times. Needs the driver and NVRTC, nothing else.

#![forbid(unsafe_code)]

mod collect;
mod compare;
mod device;
mod report;
mod sanitize;
mod supervise;
mod unit;
mod worker;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use tobiuo::console;
use tobiuo_engine::Precision;
use tobiuo_gpu::DeviceInfo;
use tobiuo_kernels::Layer;

use collect::{Found, Layers};
use report::Report;
use unit::{Choice, Goal, Unit};

const HELP: &str = "\
gpu-check: every kernel candidate against its layer's reference, on this machine's GPU

usage: gpu-check [OPTIONS] [MODEL.onnx ...]

  MODEL.onnx            also the layers that this model is lowered to
  --layers FILE         also the layers of this file, one as JSON per line
  --random N            random layers of each family (default 12)
  --seed S              for all that is random (default: from the clock; printed)
  --families A,B        only these families
  --precision A,B       how models are lowered: fp32, tf32, fp16 (default fp16)
  --candidates CHOICE   of each layer: all, tried (by a build of default
                        effort), first:N, sample:N, or part:I/N, a share of
                        them all (default all)
  --random-candidates CHOICE   of each random layer (default: as --candidates)
  --targets A,B         native; or 87, 80, ...: PTX made for that GPU, assembled by the driver
                        for this one (default native)
  --seconds T           stop after this time (default: when done)
  --jobs N              worker processes (default: one per core)
  --device N            CUDA device (default 0)
  --json FILE           the results for machines
  --layer JSON          only this layer, with memory from --seed
  --only LABEL          only the candidates with this label
  --list                say what would be checked, and stop; needs no GPU
  --sanitize            a short list in one process, to be run under compute-sanitizer

exit status: 0 all right, 1 a kernel is wrong, 2 usage, 5 no usable device
";

struct Options {
    models: Vec<PathBuf>,
    files: Vec<PathBuf>,
    random: usize,
    seed: u64,
    families: Option<Vec<String>>,
    precisions: Vec<Precision>,
    choice: Choice,
    random_choice: Option<Choice>,
    goals: Vec<Goal>,
    seconds: Option<u64>,
    jobs: Option<usize>,
    device: usize,
    json: Option<PathBuf>,
    layer: Option<String>,
    only: Option<String>,
    mode: Mode,
}

#[derive(PartialEq)]
enum Mode {
    Check,
    List,
    Sanitize,
    Worker,
    Help,
}

fn parse() -> Result<Options, Box<dyn Error>> {
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
    let mut o = Options {
        models: Vec::new(),
        files: Vec::new(),
        random: 12,
        seed: clock % 1_000_000_007,
        families: None,
        precisions: vec![Precision::Fp16],
        choice: Choice::All,
        random_choice: None,
        goals: vec![Goal::Native],
        seconds: None,
        jobs: None,
        device: 0,
        json: None,
        layer: None,
        only: None,
        mode: Mode::Check,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let name = match argument {
            Value(path) => {
                o.models.push(path.into());
                continue;
            }
            Short('h') => "help".to_string(),
            Long(name) => name.to_string(),
            other => return Err(other.unexpected().into()),
        };
        let mut text = || parser.value()?.string();
        let choice = |t: &str| {
            Choice::parse(t).ok_or(format!("{t}: all, tried, first:N, sample:N or part:I/N"))
        };
        match name.as_str() {
            "layers" => o.files.push(text()?.into()),
            "random" => o.random = text()?.parse()?,
            "seed" => o.seed = text()?.parse()?,
            "families" => {
                o.families = Some(text()?.split(',').map(str::to_string).collect());
            }
            "precision" => {
                let one = |p: &str| match p {
                    "fp16" => Ok(Precision::Fp16),
                    "tf32" => Ok(Precision::Tf32),
                    "fp32" => Ok(Precision::Fp32),
                    other => Err(format!("--precision {other}: fp32, tf32 or fp16")),
                };
                o.precisions = text()?.split(',').map(one).collect::<Result<_, _>>()?;
            }
            "candidates" => o.choice = choice(&text()?)?,
            "random-candidates" => o.random_choice = Some(choice(&text()?)?),
            "targets" => {
                let one = |t: &str| match t {
                    "native" => Ok(Goal::Native),
                    sm => sm.trim_start_matches("sm_").parse().map(Goal::Ptx),
                };
                o.goals = text()?.split(',').map(one).collect::<Result<_, _>>()?;
            }
            "seconds" => o.seconds = Some(text()?.parse()?),
            "jobs" => o.jobs = Some(text()?.parse()?),
            "device" => o.device = text()?.parse()?,
            "json" => o.json = Some(text()?.into()),
            "layer" => o.layer = Some(text()?),
            "only" => o.only = Some(text()?),
            "list" => o.mode = Mode::List,
            "sanitize" => o.mode = Mode::Sanitize,
            "worker" => o.mode = Mode::Worker,
            "help" => o.mode = Mode::Help,
            other => return Err(format!("there is no option --{other}").into()),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    env_logger::init();
    let options = match parse() {
        Ok(options) => options,
        Err(e) => {
            console::say(format_args!("gpu-check: {e}\nTry gpu-check --help."));
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let wanted = |family: &str| {
        options.families.as_ref().is_none_or(|f| f.iter().any(|name| name == family))
    };
    let done = match options.mode {
        Mode::Help => console::print(HELP).map(|()| true).map_err(Into::into),
        Mode::Worker => worker::serve(options.device).map(|()| true),
        Mode::Sanitize => options.goals.iter().try_fold(true, |good, &goal| {
            let failures = sanitize::run(options.device, options.seed, goal, &wanted)?;
            Ok(good && failures == 0)
        }),
        Mode::List | Mode::Check => check(&options, begun, &wanted),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            console::say(format_args!("gpu-check: {e}"));
            let no_device = e.downcast_ref::<tobiuo_gpu::GpuError>().is_some();
            ExitCode::from(if no_device { 5 } else { 1 })
        }
    }
}

fn gather(options: &Options, wanted: &dyn Fn(&str) -> bool) -> Result<Layers, Box<dyn Error>> {
    let mut layers = Layers::default();
    if let Some(json) = &options.layer {
        let layer: Layer = serde_json::from_str(json).map_err(|e| format!("--layer: {e}"))?;
        layers.all.push(Found { from: "given".into(), layer, seed: options.seed });
        return Ok(layers);
    }
    for file in &options.files {
        layers.lines(file, options.seed)?;
    }
    for model in &options.models {
        let lowered = layers.model(model, &options.precisions, options.seed);
        lowered.map_err(|e| format!("{}: {e}", model.display()))?;
    }
    layers.all.retain(|f| wanted(f.layer.family()));
    layers.random(options.random, options.seed, wanted);
    Ok(layers)
}

/// The device, or for a list on a machine without one a description to make candidates for.
fn device(options: &Options) -> Result<DeviceInfo, Box<dyn Error>> {
    let found = tobiuo_gpu::devices()?;
    let missing = || format!("there is no CUDA device {}", options.device);
    Ok(found.into_iter().nth(options.device).ok_or_else(missing)?)
}

fn check(
    options: &Options,
    begun: Instant,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<bool, Box<dyn Error>> {
    let layers = gather(options, wanted)?;
    if options.mode == Mode::List {
        for found in &layers.all {
            let layer = serde_json::to_string(&found.layer)?;
            console::print(format_args!(
                "{} {} {} {layer}\n",
                found.from,
                found.layer.family(),
                found.seed
            ))?;
        }
        return Ok(true);
    }
    let device = device(options)?;
    let mut units: Vec<(usize, Unit)> = layers
        .all
        .into_iter()
        .map(|found| {
            let random = found.from == "random";
            let own = options.random_choice.filter(|_| random);
            let unit = Unit {
                from: found.from,
                layer: found.layer,
                seed: found.seed,
                goals: options.goals.clone(),
                choice: own.unwrap_or(options.choice),
                only: options.only.clone(),
                begin: (0, 0),
            };
            let count = |g: &Goal| unit.candidates(&g.target(&device)).len();
            (options.goals.iter().map(count).sum(), unit)
        })
        .collect();
    // Families with few candidates first, so that a time limit leaves none out; then the
    // longest work first, so that all cores end together.
    units.sort_by_key(|(n, _)| (*n > 12, std::cmp::Reverse(*n)));
    let kernels: usize = units.iter().map(|(n, _)| n).sum();
    let jobs =
        options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    console::print(format_args!(
        "{}, {} layers, {kernels} kernels, seed {}, {jobs} workers\n",
        device.name,
        units.len(),
        options.seed
    ))?;
    let limit = Duration::from_secs(options.seconds.unwrap_or(7 * 86400));
    let report = Mutex::new(Report::default());
    let units = units.into_iter().map(|(_, unit)| unit).collect();
    supervise::run(units, jobs, options.device, begun + limit, &report);
    let report = report.into_inner().expect("no thread panics holding it");
    report.print()?;
    console::print(format_args!("{:.0} s\n", begun.elapsed().as_secs_f64()))?;
    if let Some(path) = &options.json {
        write_json(path, &report.json(options.seed, &device.name))?;
    }
    Ok(report.failures.is_empty())
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Box<dyn Error>> {
    std::fs::write(path, format!("{value:#}\n"))
        .map_err(|e| format!("{} cannot be written: {e}", path.display()).into())
}
