//! Parsing of the options, which mean the same in every command that knows them.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::ValueExt;
use tobiuo::jetson::Root;
use tobiuo::{ContextOptions, DeviceChoice, Engine, Error, ErrorKind, MemoryPath};

/// What was given on the command line, behind the command.
#[derive(Debug, Default)]
pub struct Args {
    pub values: Vec<OsString>,
    pub json: bool,
    pub quiet: bool,
    pub layers: bool,
    pub loop_: bool,
    pub realtime: bool,
    pub skip_damaged: bool,
    pub threshold: Option<f32>,
    pub iou: Option<f32>,
    pub max_detections: Option<usize>,
    pub frames: Option<u64>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub rate: Option<f64>,
    pub timeout: Option<f64>,
    pub threads: Option<NonZeroUsize>,
    pub device: DeviceChoice,
    pub memory: MemoryPath,
    pub batch: Option<usize>,
    pub iterations: Option<u64>,
    pub warmup: Option<u64>,
    pub inputs: Vec<OsString>,
    pub output_dir: Option<PathBuf>,
    pub timeline: Option<PathBuf>,
    pub images: Option<PathBuf>,
    pub annotations: Option<PathBuf>,
    pub cache: Option<PathBuf>,
    root: Option<PathBuf>,
    /// Long names of the options that were given.
    given: Vec<&'static str>,
}

/// An error of the command line's form.
pub fn usage(e: lexopt::Error) -> Error {
    Error::new(ErrorKind::Usage, format!("{e}; `tobiuo help` shows the commands"))
}

impl Args {
    /// Reads the options; `None` when help is asked for.
    pub fn parse(mut parser: lexopt::Parser) -> Result<Option<Args>, Error> {
        use lexopt::Arg::{Long, Short, Value};
        let mut a = Args::default();
        while let Some(arg) = parser.next().map_err(usage)? {
            let (name, short): (String, bool) = match arg {
                Value(value) => {
                    a.values.push(value);
                    continue;
                }
                Long(name) => (name.to_string(), false),
                Short(c) => (c.to_string(), true),
            };
            let known = match name.as_str() {
                "h" if short => "help",
                "q" if short => "quiet",
                "t" if short => "threshold",
                "n" if short => "iterations",
                "b" if short => "batch",
                "g" if short => "gpu",
                _ if short => "",
                long => OPTIONS.iter().find(|o| **o == long).copied().unwrap_or(""),
            };
            a.given.push(known);
            let p = &mut parser;
            match known {
                "help" => return Ok(None),
                "quiet" => a.quiet = true,
                "json" => a.json = true,
                "layers" => a.layers = true,
                "loop" => a.loop_ = true,
                "realtime" => a.realtime = true,
                "skip-damaged" => a.skip_damaged = true,
                "threshold" => a.threshold = Some(fraction(p, known)?),
                "iou" => a.iou = Some(fraction(p, known)?),
                "max-detections" => a.max_detections = Some(positive(p, known)?.get()),
                "frames" => a.frames = Some(positive(p, known)?.get() as u64),
                "width" => a.width = Some(number(p, known)?),
                "height" => a.height = Some(number(p, known)?),
                "rate" => a.rate = Some(seconds(p, known)?),
                "timeout" => a.timeout = Some(seconds(p, known)?),
                "device" => a.device = text(p, known)?.parse()?,
                "gpu" => a.device = DeviceChoice::Cuda(number(p, known)?),
                "integrated" => a.memory = MemoryPath::Integrated,
                "memory" => {
                    let given = text(p, known)?;
                    a.memory = match given.as_str() {
                        "auto" => MemoryPath::Auto,
                        "discrete" => MemoryPath::Discrete,
                        "integrated" => MemoryPath::Integrated,
                        _ => return Err(bad(known, "auto, discrete or integrated", &given)),
                    };
                }
                "threads" => a.threads = Some(positive(p, known)?),
                "batch" => a.batch = Some(positive(p, known)?.get()),
                "iterations" => a.iterations = Some(positive(p, known)?.get() as u64),
                "warmup" => a.warmup = Some(number(p, known)?),
                "input" => a.inputs.push(p.value().map_err(usage)?),
                "output-dir" => a.output_dir = Some(p.value().map_err(usage)?.into()),
                "timeline" => a.timeline = Some(p.value().map_err(usage)?.into()),
                "images" => a.images = Some(p.value().map_err(usage)?.into()),
                "cache" => a.cache = Some(p.value().map_err(usage)?.into()),
                "root" => a.root = Some(p.value().map_err(usage)?.into()),
                "annotations" => a.annotations = Some(p.value().map_err(usage)?.into()),
                _ => {
                    let dashes = if short { "-" } else { "--" };
                    return Err(Error::new(
                        ErrorKind::Usage,
                        format!("there is no option {dashes}{name}; see --help"),
                    ));
                }
            }
        }
        Ok(Some(a))
    }

    /// Fails when an option was given that a command does not use.
    pub fn only(&self, command: &str, known: &[&str]) -> Result<(), Error> {
        let everywhere = ["help", "json", "quiet"];
        let device = super::find(command).is_ok_and(|c| c.device);
        let device: &[&str] = if device { &super::DEVICE_NAMES } else { &[] };
        let fits = |o: &&str| known.contains(o) || everywhere.contains(o) || device.contains(o);
        match self.given.iter().find(|o| !fits(o)) {
            None => Ok(()),
            Some(odd) => Err(Error::new(
                ErrorKind::Usage,
                format!("`tobiuo {command}` has no option --{odd}; see `tobiuo help {command}`"),
            )),
        }
    }

    /// Fails when there are more values than a command takes.
    pub fn values_at_most(&self, command: &str, most: usize) -> Result<(), Error> {
        match self.values.get(most) {
            None => Ok(()),
            Some(odd) => {
                let odd = odd.to_string_lossy();
                let text = format!("'{odd}' is one too many; see `tobiuo help {command}`");
                Err(Error::new(ErrorKind::Usage, text))
            }
        }
    }

    /// The engine's path, the first of at most `most` values, and the values behind it.
    pub fn engine_path(
        &self,
        command: &str,
        most: usize,
    ) -> Result<(&OsString, &[OsString]), Error> {
        self.values_at_most(command, most)?;
        self.values.split_first().ok_or_else(|| {
            let text = format!("no engine file is given; see `tobiuo help {command}`");
            Error::new(ErrorKind::Usage, text)
        })
    }

    /// The engine, the first of at most `most` values, and the values behind it.
    pub fn engine(&self, command: &str, most: usize) -> Result<(Engine, Vec<String>), Error> {
        let (engine, rest) = self.engine_path(command, most)?;
        let text = |value: &OsString| match value.to_str() {
            Some(value) => Ok(value.to_string()),
            None => Err(Error::new(ErrorKind::Usage, format!("{value:?} is not UTF-8"))),
        };
        let rest = rest.iter().map(text).collect::<Result<_, _>>()?;
        Ok((Engine::open_on(engine, self.device)?, rest))
    }

    /// How inputs and frames get to a CUDA device.
    pub fn memory(&self) -> MemoryPath {
        self.memory
    }

    /// Batch, threads and memory path.
    pub fn context(&self) -> ContextOptions {
        let mut options = ContextOptions::default();
        options.batch = self.batch.unwrap_or(options.batch);
        options.threads = self.threads;
        options.memory = self.memory();
        options
    }

    /// The file system that tells about the machine.
    pub fn root(&self) -> Root {
        self.root.clone().map_or_else(Root::default, Root::new)
    }

    /// `--timeout` as a duration.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs_f64)
    }
}

/// All long options.
const OPTIONS: [&str; 30] = [
    "help",
    "quiet",
    "json",
    "layers",
    "loop",
    "realtime",
    "skip-damaged",
    "threshold",
    "iou",
    "max-detections",
    "frames",
    "width",
    "height",
    "rate",
    "timeout",
    "threads",
    "device",
    "gpu",
    "integrated",
    "memory",
    "batch",
    "iterations",
    "warmup",
    "input",
    "output-dir",
    "timeline",
    "images",
    "annotations",
    "cache",
    "root",
];

fn bad(name: &str, wanted: &str, given: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("--{name} {given}: {wanted} is wanted"))
}

fn text(p: &mut lexopt::Parser, name: &str) -> Result<String, Error> {
    let value = p.value().map_err(usage)?;
    value.string().map_err(|_| bad(name, "text", "(not UTF-8)"))
}

fn number<T: std::str::FromStr>(p: &mut lexopt::Parser, name: &str) -> Result<T, Error> {
    let text = text(p, name)?;
    text.parse().map_err(|_| bad(name, "a whole number", &text))
}

fn positive(p: &mut lexopt::Parser, name: &str) -> Result<NonZeroUsize, Error> {
    let text = text(p, name)?;
    text.parse().map_err(|_| bad(name, "a whole number from 1 on", &text))
}

fn fraction(p: &mut lexopt::Parser, name: &str) -> Result<f32, Error> {
    let text = text(p, name)?;
    let value = text.parse().ok().filter(|v: &f32| (0.0..=1.0).contains(v));
    value.ok_or_else(|| bad(name, "a number from 0 to 1", &text))
}

fn seconds(p: &mut lexopt::Parser, name: &str) -> Result<f64, Error> {
    let text = text(p, name)?;
    let value = text.parse().ok().filter(|v: &f64| (1e-3..=1e6).contains(v));
    value.ok_or_else(|| bad(name, "a number from 0.001 to 1000000", &text))
}
