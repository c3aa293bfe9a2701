//! The command line: arguments in, words and documents out.

mod args;
mod interrupt;
mod print;
mod provision;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::prelude::*;
use serde::Serialize;
use tobiuo::console;
use tobiuo_engine::EngineFile;
use tobiuo_tensor::{file, npy};

use crate::BuildError;
use crate::build::{Cached, build, build_cached};
use crate::draw::Drawing;
use crate::import::{self, ImportOptions};
use crate::options::{BuildOptions, DeviceChoice};
use crate::passes::optimise;
use crate::progress::{Progress, Terminal};
use crate::verify::{VerifyOptions, verify};

const HELP: &str = "\
tobiuo-builder: turns a trained model into an engine made for this device

usage:
  tobiuo-builder build MODEL -o ENGINE [options]   build an engine
  tobiuo-builder check MODEL [options]             every node: supported, or why not
  tobiuo-builder verify ENGINE MODEL [options]     outputs against the FP32 CPU reference
  tobiuo-builder draw MODEL|ENGINE -o FILE         the graph as .svg or .dot
  tobiuo-builder provision MODEL -o ENGINE         keep the engine of a device current
  tobiuo-builder help [COMMAND] | --version

exit status: 0 ok, 2 usage, 3 engine made for another device, 4 damaged file, 5 no usable
device, 6 nothing to calibrate on that can be read, 7 accuracy gate, 8 memory or time limit,
9 model not supported, 1 anything else
";

const HELP_BUILD: &str = "\
usage: tobiuo-builder build MODEL -o ENGINE [options]

  -i, --model MODEL          the model: an ONNX file, or the folder of a chainer-trt dump (with its
                             model.json); as the first argument, too
  -o, --output ENGINE        the engine to write
      --device D             the device to build for:
                               auto     the first GPU, the CPU where there is none (default)
                               cpu
                               cuda[:N] GPU N (0); kernels are chosen by timing them on it
                               sm_87    an Orin that is not here (also sm_72, sm_90, sm_110):
                                        an untuned engine, kernels chosen by a cost model
                               orin-nano-8gb and other Jetsons that are not here: the same
                                        for that module's data sheet
  -m, --mode, --precision P  fp32, tf32 (matrix products only), fp16 or int8 (fp16 on a GPU,
                             fp32 on the CPU, which has int8 beside it; a model that comes
                             quantised is int8)
  -b, --batch N[,N...]       batch sizes, one plan each (1)
      --input-shape NAME=1x3x640x640
                             shape of an input that the model leaves open; may repeat
      --labels FILE          class names, one a line (default: the model's own)
      --task auto|detect|classify|tensors
                             what the outputs mean (auto: from the model)
      --score-threshold X    detectors: drop boxes with a lower score (0.25)
      --iou-threshold X      detectors: overlap at which boxes exclude each other (0.7)
      --max-detections N     detectors: boxes kept at most (300)
      --mean A[,B,C]         picture: (pixel / 255 - mean) / std per channel (0)
      --std A[,B,C]          (1)
      --fit letterbox|stretch|center-crop
                             how a frame meets the input's size
      --channels rgb|bgr|gray
      --pad-value N          letterbox border, 0..255 (114)
      --passes-until NAME    stop after this pass, to find one that goes wrong
      --with-pass NAME       run an optional pass (merge-siblings)
      --no-cache             build even if ENGINE is what this build would make
INT8:
      --calibration DIR|LIST|CLIP|FILE.npz
                             pictures like those the network will see (200 to 1000): a folder,
                             a glob in quotes, a list of files (.txt, .lst, .list, .csv), a
                             clip; or inputs as arrays (.npz, .npy), samples along axis 0
      --calibration-cache FILE
                             read when it is there, so that no pictures are needed, else
                             written; TensorRT's caches are read, too
      --calibrator auto|entropy|minmax|percentile[-99.9]|mse
                             how far tensors are cut off (auto: all are tried on pictures held
                             back, the one with the smallest output error is kept); a cache
                             that is read must be of it
      --samples N            at most (500)
      --seed N               chooses them (1)
      --accuracy-drop X      layers go back to floats until the loss is at most X: of AP50:95
                             or top-1 where there are annotations, else of the outputs, noise
                             over signal (0.01 is 40 dB)
      --annotations FILE     COCO.json of a detector; of a classifier a list: picture, class
      --images DIR           where the annotated pictures are (beside FILE, or in images there)
      --accuracy-svg FILE    a picture of accuracy against latency, step by step
CUDA engines:
      --effort fast|default|max
                             kernels timed for a layer: none (the cost model's choice), some,
                             all
      --tactic-cache FILE|none
                             measured times, which make later builds fast; compiled kernels
                             are kept beside it in a folder of that name, ending in .cubins
                             ($XDG_CACHE_HOME or ~/.cache, tobiuo/tactics.jsonl)
      --record FILE          write what was chosen, with times
      --replay FILE          choose what was recorded: the same engine, byte for byte, also
                             where the device is not (with --device sm_XX)
      --memory-limit SIZE    device memory at most, of the engine with one context (weights,
                             arena, scratch, inputs, outputs) and of timing: 512M, 1.5G
  -w, --workspace GIB        scratch memory at most
      --time-limit TIME      how long kernels are compiled and timed (90s, 5m), the heaviest
                             layers first; then the best so far is taken, and the next build
                             goes on where this one stopped
reports:
      --json                 one document on stdout
  -q, --quiet                no progress

  -g, --gpu N                the same as --device cuda:N

-i, -o, -m, -g, -b, -w are chainer-trt's flags: a command line of tensorrt_builder works without
the word 'build', too, with --dir for the dump and --model for the engine. NVRTC, which compiles kernels, is looked for by
the dynamic linker, in CUDA's folders and in Python's packages; TOBIUO_NVRTC names it.
";

const HELP_CHECK: &str = "\
usage: tobiuo-builder check MODEL [--batch N] [--input-shape NAME=1x3x640x640] [--json]

Looks at every node of the model. Exit status 0 when all are supported, else 9.
";

const HELP_VERIFY: &str = "\
usage: tobiuo-builder verify ENGINE MODEL [options]

Runs the engine on its device and the model, as imported and before any pass, op by op on the
FP32 CPU reference, and compares outputs: relative L2 error and largest absolute error.

      --layers               every layer, and the first that differs (on a GPU each by itself,
                             on the operands that it had)
      --samples N            random inputs (3)
      --seed N               of the random inputs (1)
      --tolerance X          largest relative L2 error (fp32: 1e-4, a layer on a GPU 1e-5; fp16
                             and tf32: 1e-2, a layer 2e-3; int8: 0.25, a layer 2e-3, integers
                             bit for bit)
      --calibration-cache FILE
                             with --layers, of a calibrated INT8 engine: what its build wrote
      --input NAME=FILE.npy  an input instead of a random one; may repeat
      --input-shape NAME=... as at the build
      --json                 one document on stdout

Exit status 7 when anything is over the tolerance.
";

const HELP_DRAW: &str = "\
usage: tobiuo-builder draw MODEL|ENGINE -o FILE.svg|FILE.dot [options]

      --optimised            a model's graph after the passes
      --batch N              a model's batch, or which plan of an engine (the first)
      --input-shape NAME=... shape of an input that the model leaves open
";

/// Why a command ends early.
enum Stop {
    Error(BuildError),
    Args(String),
    /// Done, with this status.
    Status(u8),
}

impl From<BuildError> for Stop {
    fn from(e: BuildError) -> Self {
        Stop::Error(e)
    }
}

impl From<lexopt::Error> for Stop {
    fn from(e: lexopt::Error) -> Self {
        Stop::Args(e.to_string())
    }
}

/// Runs the program on its arguments, the program's name not among them.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let json = arguments.iter().any(|a| a == "--json");
    let status = match command(arguments) {
        Ok(()) => 0,
        Err(Stop::Status(status)) => status,
        Err(Stop::Args(what)) => {
            console::say(format_args!(
                "error: {what}\n`tobiuo-builder help` lists commands and options"
            ));
            if json {
                let _ = emit(&print::usage_error(&what));
            }
            2
        }
        Err(Stop::Error(e)) => {
            console::say(format_args!("error: {e}"));
            if json {
                let document = print::error(&e);
                let _ = emit(&document);
            }
            e.exit_status()
        }
    };
    ExitCode::from(status)
}

/// True for a command line of chainer-trt's tensorrt_builder, which has no commands.
fn is_tensorrt_builder(arguments: &[OsString]) -> bool {
    let first = arguments.first().and_then(|a| a.to_str()).unwrap_or("");
    let long = ["dir", "model", "mode", "gpu", "max-batch", "workspace"];
    let name = first.strip_prefix("--").and_then(|f| f.split('=').next());
    name.is_some_and(|name| long.contains(&name))
        || ["-i", "-o", "-m", "-g", "-b", "-w"].iter().any(|f| first.starts_with(f))
}

fn command(arguments: Vec<OsString>) -> Result<(), Stop> {
    if is_tensorrt_builder(&arguments) {
        return build_command(lexopt::Parser::from_args(arguments));
    }
    let mut parser = lexopt::Parser::from_args(arguments);
    let name = match parser.next()? {
        None => {
            console::say(HELP.trim_end());
            return Err(Stop::Status(2));
        }
        Some(Short('h') | Long("help")) => return print(HELP),
        Some(Short('V') | Long("version")) => {
            return print(&format!("{}\n", crate::build::VERSION));
        }
        Some(Value(name)) => name.to_string_lossy().into_owned(),
        Some(other) => return Err(other.unexpected().into()),
    };
    match name.as_str() {
        "build" => build_command(parser),
        "check" => check_command(parser),
        "verify" => verify_command(parser),
        "draw" => draw_command(parser),
        "provision" => provision::command(parser),
        "help" => match parser.next()? {
            Some(Value(v)) => print(match v.to_string_lossy().as_ref() {
                "build" => HELP_BUILD,
                "check" => HELP_CHECK,
                "verify" => HELP_VERIFY,
                "draw" => HELP_DRAW,
                "provision" => provision::HELP,
                other => return Err(Stop::Args(format!("there is no command '{other}'"))),
            }),
            _ => print(HELP),
        },
        other => Err(Stop::Args(format!(
            "there is no command '{other}'; there are build, check, verify, draw, provision, help"
        ))),
    }
}

/// Writes to stdout.
fn print(text: &str) -> Result<(), Stop> {
    console::print(text)
        .map_err(|error| BuildError::Io { path: "standard output".into(), error }.into())
}

fn emit(document: &impl Serialize) -> Result<(), Stop> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|e| Stop::Args(format!("cannot write the document: {e}")))?;
    print(&format!("{text}\n"))
}

fn build_command(mut parser: lexopt::Parser) -> Result<(), Stop> {
    let mut options = BuildOptions::default();
    let (mut model, mut output): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let (mut dir, mut named): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let (mut json, mut quiet, mut cache) = (false, false, true);
    options.device = DeviceChoice::Auto;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if model.is_none() => model = Some(v.into()),
            Short('i') | Long("dir") => dir = Some(parser.value()?.into()),
            Long("model") => named = Some(parser.value()?.into()),
            Short('o') | Long("output") => output = Some(parser.value()?.into()),
            Long("no-cache") => cache = false,
            Long("json") => json = true,
            Short('q') | Long("quiet") => quiet = true,
            Short('h') | Long("help") => return print(HELP_BUILD),
            other => {
                let flag = args::flag(other)?;
                args::any_build_option(flag, &mut options, &mut parser)?;
            }
        }
    }
    // chainer-trt's --model is what is written, beside --dir.
    if dir.is_some() && output.is_none() {
        output = named.take();
    }
    let model = dir.or(named).or(model);
    let model = model.ok_or_else(|| Stop::Args("build: no model is named".into()))?;
    let output =
        output.ok_or_else(|| Stop::Args("build: no engine is named; -o ENGINE names it".into()))?;
    let mut written = vec![output.clone()];
    written.extend(options.cuda.record.clone());
    written.extend(options.cuda.cache_file());
    interrupt::clean_up_on_signals(written);
    let mut bar: Box<dyn Progress> = if quiet { Box::new(()) } else { Box::new(Terminal::new()) };
    let report = if cache {
        match build_cached(&model, &output, &options, &mut *bar)? {
            Cached::Built(report) | Cached::Reused(report) => report,
        }
    } else {
        build(&model, &output, &options, &mut *bar)?
    };
    drop(bar);
    if !quiet {
        print::build(&report);
    }
    if json { emit(&report) } else { Ok(()) }
}

fn check_command(mut parser: lexopt::Parser) -> Result<(), Stop> {
    let mut model: Option<PathBuf> = None;
    let mut options = ImportOptions::default();
    let mut json = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if model.is_none() => model = Some(v.into()),
            Short('i') | Long("model") => model = Some(parser.value()?.into()),
            Short('b') | Long("batch") => options.batch = parser.value()?.parse()?,
            Long("input-shape") => {
                options.input_shapes.push(args::input_shape(&parser.value()?.string()?)?);
            }
            Long("json") => json = true,
            Short('h') | Long("help") => return print(HELP_CHECK),
            other => return Err(other.unexpected().into()),
        }
    }
    let model = model.ok_or_else(|| Stop::Args("check: no model is named".into()))?;
    let report = import::check(&model, &options).map_err(BuildError::from)?;
    if json {
        emit(&report)?;
    } else {
        print(&print::check(&report))?;
    }
    if report.supported { Ok(()) } else { Err(Stop::Status(print::check_status(&report))) }
}

fn verify_command(mut parser: lexopt::Parser) -> Result<(), Stop> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut options = VerifyOptions::default();
    let mut json = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if files.len() < 2 => files.push(v.into()),
            Long("layers") => options.layers = true,
            Long("samples") => options.samples = parser.value()?.parse()?,
            Long("seed") => options.seed = parser.value()?.parse()?,
            Long("tolerance") => options.tolerance = Some(parser.value()?.parse()?),
            Long("calibration-cache") => options.calibration = Some(parser.value()?.into()),
            Long("input") => {
                let text = parser.value()?.string()?;
                let (name, path) = args::split(&text, "--input", "NAME=FILE.npy")?;
                let tensor = npy::read(Path::new(path))
                    .map_err(|e| BuildError::Damaged(format!("--input {name}: {e}")))?;
                options.inputs.push((name.into(), tensor));
            }
            Long("input-shape") => {
                options.input_shapes.push(args::input_shape(&parser.value()?.string()?)?);
            }
            Long("json") => json = true,
            Short('h') | Long("help") => return print(HELP_VERIFY),
            other => return Err(other.unexpected().into()),
        }
    }
    let [first, second] = &files[..] else {
        return Err(Stop::Args("verify: an engine and a model are wanted".into()));
    };
    // Either order: an engine says what it is, a damaged one at least what it is not.
    let model = |p: &PathBuf| p.extension().is_some_and(|e| e == "onnx") || p.is_dir();
    let swapped = !is_engine(first)? && (is_engine(second)? || model(first));
    let (engine, model) = if swapped { (second, first) } else { (first, second) };
    if options.samples == 0 || options.tolerance.is_some_and(|t| t.is_nan() || t < 0.0) {
        return Err(Stop::Args("verify: --samples from 1 and --tolerance from 0 on".into()));
    }
    let report = verify(model, engine, &options)?;
    if json {
        emit(&report)?;
    } else {
        print(&print::verify(&report))?;
    }
    if report.ok { Ok(()) } else { Err(Stop::Status(7)) }
}

fn draw_command(mut parser: lexopt::Parser) -> Result<(), Stop> {
    let (mut input, mut output): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let mut options = BuildOptions::default();
    let mut import_options = ImportOptions::default();
    let mut batch = None;
    let mut optimised = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if input.is_none() => input = Some(v.into()),
            Short('o') | Long("output") => output = Some(parser.value()?.into()),
            Long("optimised" | "optimized") => optimised = true,
            Short('b') | Long("batch") => batch = Some(parser.value()?.parse::<usize>()?),
            Long("input-shape") => {
                import_options.input_shapes.push(args::input_shape(&parser.value()?.string()?)?);
            }
            Long("passes-until") => {
                optimised = true;
                options.passes.until = Some(parser.value()?.string()?);
            }
            Short('h') | Long("help") => return print(HELP_DRAW),
            other => return Err(other.unexpected().into()),
        }
    }
    let input = input.ok_or_else(|| Stop::Args("draw: no model or engine is named".into()))?;
    let output = output.ok_or_else(|| Stop::Args("draw: -o FILE.svg or -o FILE.dot".into()))?;
    let extension = output.extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
    let svg = match extension.as_str() {
        "svg" => true,
        "dot" | "gv" => false,
        _ => {
            return Err(Stop::Args(format!(
                "draw: {}: the name must end in .svg or .dot",
                output.display()
            )));
        }
    };
    let drawing = if is_engine(&input)? {
        let engine = EngineFile::open(&input).map_err(BuildError::from)?;
        let plans = &engine.manifest().plans;
        let plan = plans.iter().find(|p| batch.is_none_or(|b| p.batch == b)).ok_or_else(|| {
            let has: Vec<String> = plans.iter().map(|p| p.batch.to_string()).collect();
            Stop::Args(format!("draw: the engine has plans for batch {}", has.join(", ")))
        })?;
        Drawing::of_plan(plan)
    } else {
        import_options.batch = batch.unwrap_or(1);
        let mut graph = import::import(&input, &import_options).map_err(BuildError::from)?;
        if optimised {
            let passes = optimise(graph, &options.passes, &mut |_| ());
            graph = passes.map_err(BuildError::from)?.0;
        }
        Drawing::of_graph(&graph)
    };
    let text = if svg { drawing.to_svg() } else { drawing.to_dot() };
    file::replace(&output, text.as_bytes())
        .map_err(|error| BuildError::Io { path: output.clone(), error })?;
    console::say(format_args!("{}: {} boxes", output.display(), drawing.boxes.len()));
    Ok(())
}

/// True when a file begins like an engine.
fn is_engine(path: &Path) -> Result<bool, Stop> {
    use std::io::Read;
    let magic = tobiuo_engine::format::MAGIC;
    let mut begin = vec![0; magic.len()];
    let mut file =
        std::fs::File::open(path).map_err(|error| BuildError::Io { path: path.into(), error })?;
    Ok(file.read_exact(&mut begin).is_ok() && begin == magic)
}
