//! The command line.

use std::path::PathBuf;

use lexopt::prelude::*;
use tobiuo::console;
use tobiuo::manifest::{Fit, Precision};
use tobiuo_builder::options::DeviceChoice;

const HELP: &str = "\
usage: imagenet MODEL PICTURES… [options]
  MODEL              an engine; or an ONNX file or a dump's folder, from which an engine is built
                     beside it
  PICTURES           pictures, folders, patterns, videos: whatever tobiuo reads
      --list FILE    more pictures: a path a line, with its class's number behind it if known
      --base FOLDER  what paths of the list are relative to
  -l, --labels FILE  class names, one a line
  -k, --top N        classes to print (5)
  -b, --batch N      pictures at a time (1)
  -n, --streams N    batches at once, each by a context of its own (1)
  -r, --repeat N     runs of each batch, all of them in the average (1)
  -p, --profile F    the time of each layer, as a table: md or csv
      --json         one JSON line per picture, and one with the summary
when an engine is built:
      --caffe        numbers as Caffe's and Chainer's networks want them: BGR, 0..255 less the mean
      --torch        as PyTorch's want them: RGB, normalised
      --fit F        stretch, center-crop or letterbox
      --device D     auto, cpu, cuda, cuda:N (auto)
      --precision P  fp32, tf32, fp16
";

/// How pixels become numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    #[default]
    AsTheModelSays,
    Caffe,
    Torch,
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Markdown,
    Csv,
}

/// What the user wants.
#[derive(Debug)]
pub struct Options {
    pub model: PathBuf,
    pub pictures: Vec<String>,
    pub list: Option<PathBuf>,
    pub base: PathBuf,
    pub labels: Option<PathBuf>,
    pub top: usize,
    pub batch: usize,
    pub streams: usize,
    pub repeat: usize,
    pub profile: Option<Form>,
    pub json: bool,
    pub numbers: Numbers,
    pub fit: Option<Fit>,
    pub device: DeviceChoice,
    pub precision: Option<Precision>,
}

/// Reads the program's arguments.
pub fn parse() -> Result<Options, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut model = None;
    let mut o = Options {
        model: PathBuf::new(),
        pictures: Vec::new(),
        list: None,
        base: PathBuf::new(),
        labels: None,
        top: 5,
        batch: 1,
        streams: 1,
        repeat: 1,
        profile: None,
        json: false,
        numbers: Numbers::default(),
        fit: None,
        device: DeviceChoice::Auto,
        precision: None,
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if model.is_none() => model = Some(PathBuf::from(v)),
            Value(v) => o.pictures.push(v.string()?),
            Short('m') | Long("model") => model = Some(parser.value()?.into()),
            Short('i') | Long("images") => o.pictures.push(parser.value()?.string()?),
            Long("list") => o.list = Some(parser.value()?.into()),
            Long("base" | "base-path") => o.base = parser.value()?.into(),
            Short('l') | Long("labels" | "label") => o.labels = Some(parser.value()?.into()),
            Short('k') | Long("top") => o.top = count(&mut parser, "--top")?,
            Short('b') | Long("batch" | "batch-size") => o.batch = count(&mut parser, "--batch")?,
            Short('n') | Long("streams" | "n-stream") => {
                o.streams = count(&mut parser, "--streams")?;
            }
            Short('r') | Long("repeat" | "n-try") => o.repeat = count(&mut parser, "--repeat")?,
            Short('p') | Long("profile" | "prof") => {
                o.profile = Some(match parser.value()?.string()?.as_str() {
                    "md" | "markdown" => Form::Markdown,
                    "csv" => Form::Csv,
                    other => return Err(format!("--profile {other}: md or csv is wanted").into()),
                });
            }
            Long("json") => o.json = true,
            Long("caffe") => o.numbers = Numbers::Caffe,
            Long("torch") => o.numbers = Numbers::Torch,
            Long("fit") => {
                o.fit = Some(match parser.value()?.string()?.as_str() {
                    "stretch" => Fit::Stretch,
                    "center-crop" | "crop" => Fit::CenterCrop,
                    "letterbox" => Fit::Letterbox,
                    other => return Err(format!("--fit {other} is not known").into()),
                });
            }
            Long("device") => o.device = parser.value()?.parse()?,
            Long("precision") => {
                o.precision = Some(match parser.value()?.string()?.as_str() {
                    "fp32" => Precision::Fp32,
                    "tf32" => Precision::Tf32,
                    "fp16" => Precision::Fp16,
                    other => return Err(format!("--precision {other} is not known").into()),
                });
            }
            Short('h') | Long("help") => {
                let _ = console::print(HELP);
                std::process::exit(0)
            }
            other => return Err(other.unexpected()),
        }
    }
    o.model = model.ok_or("no model is named; --help tells more")?;
    if o.pictures.is_empty() && o.list.is_none() {
        return Err("no pictures are named; --help tells more".into());
    }
    Ok(o)
}

/// A number from 1 on.
fn count(parser: &mut lexopt::Parser, option: &str) -> Result<usize, lexopt::Error> {
    let text = parser.value()?.string()?;
    let number = text.parse().ok().filter(|n| (1..=1 << 20).contains(n));
    number.ok_or_else(|| format!("{option} {text}: a number from 1 on is wanted").into())
}
