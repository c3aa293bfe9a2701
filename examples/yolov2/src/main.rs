//! Finds objects on pictures with YOLOv2 as ChainerCV has it: copy this program and change it.
//!
//! ```text
//! cargo run --release -p yolov2 -- yolo_dump/ street.jpg -o found/
//! ```
//!
//! It shows how a network whose outputs Tobiuo does not know is decoded by a program's own code
//! ([`head`]) and goes on through Tobiuo's: thresholds, suppression, the way back to the frame,
//! drawing.

#![forbid(unsafe_code)]

mod head;

use std::error::Error;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use head::{ANCHORS, ANCHORS_TINY, Head};
use tobiuo::capture::{FrameFormat, PixelFormat};
use tobiuo::detect::{DetectOptions, Detector};
use tobiuo::draw::Canvas;
use tobiuo::manifest::{ChannelOrder, Fit, Preprocess};
use tobiuo::{Detection, Engine, ErrorKind, ExecutionContext, Preprocessor, ViewData};
use tobiuo::{console, exit, logging};
use tobiuo_builder::options::{DeviceChoice, TaskChoice};
use tobiuo_builder::progress::Terminal;
use tobiuo_builder::{BuildError, BuildOptions, build_cached, labels};

const HELP: &str = "\
usage: yolov2 MODEL PICTURES… [options]
  MODEL            a dump's folder of ChainerCV's YOLOv2 with outputs locs, objs, confs (or an ONNX
                   file), from which an engine is built beside it; or an engine
  PICTURES         JPEG or PNG files
  -o, --output DIR where pictures with boxes go (.)
  -l, --labels F   class names, one a line (the 20 of Pascal VOC)
  -t, --threshold S lowest score of a detection (0.5)
      --iou X      overlap at which boxes of a class exclude each other (0.45)
      --tiny       the anchors of YOLOv2Tiny
      --anchors H,W,H,W… anchors of your own, in cells
      --outputs L,O,C names of the three outputs (locs,objs,confs)
  -r, --repeat N   runs for each picture, all of them in the average (1)
      --device D   auto, cpu, cuda, cuda:N (auto)
      --json       one JSON line per picture, and one with the summary
";

/// The classes of Pascal VOC, in their order.
const VOC: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

struct Options {
    model: PathBuf,
    pictures: Vec<PathBuf>,
    output: PathBuf,
    labels: Option<PathBuf>,
    threshold: f32,
    iou: f32,
    anchors: Vec<[f32; 2]>,
    outputs: [String; 3],
    repeat: u32,
    device: DeviceChoice,
    json: bool,
}

fn failed(kind: ErrorKind, what: String) -> tobiuo::Error {
    tobiuo::Error::new(kind, what)
}

/// A network, its own decoding, and what is behind it.
struct Yolo {
    context: ExecutionContext,
    input: usize,
    preprocessor: Preprocessor,
    /// The places of locs, objs, confs among the outputs.
    outputs: [usize; 3],
    head: Head,
    detector: Detector,
    rows: Vec<f32>,
    classes: usize,
    runs: u32,
    with_copies: Duration,
    without_copies: Option<Duration>,
}

impl Yolo {
    fn new(engine: &Engine, options: &Options) -> Result<Yolo, tobiuo::Error> {
        let no = |what: String| {
            let path = engine.file().path().display();
            failed(ErrorKind::Unsupported, format!("{path}: {what}"))
        };
        let context = engine.context()?;
        // Grey of one half around the picture, numbers 0..1: what ChainerCV's YOLOv2 is fed.
        let pictures = |i: &usize| matches!(context.input_shape(*i), [1, 3, _, _]);
        let Some(input) = (0..engine.inputs().len()).find(pictures) else {
            return Err(no("no input is one picture, [1, 3, height, width]".into()));
        };
        let preprocess = Preprocess {
            input,
            fit: Fit::Letterbox,
            pad_value: 127,
            channels: ChannelOrder::Rgb,
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
        };
        let shape = context.input_shape(input).to_vec();
        let preprocessor = Preprocessor::new(&preprocess, &shape)?;
        let mut outputs = [0; 3];
        for (place, name) in outputs.iter_mut().zip(&options.outputs) {
            let found = engine.outputs().iter().position(|p| p.name == *name);
            *place = found.ok_or_else(|| {
                let have: Vec<&str> = engine.outputs().iter().map(|p| p.name.as_str()).collect();
                no(format!("there is no output '{name}'; --outputs names three of {have:?}"))
            })?;
        }
        let [locs, objs, confs] = outputs.map(|i| context.output_shape(i));
        let (&[1, boxes, 4], &[1, n], &[1, m, classes]) = (locs, objs, confs) else {
            return Err(no(format!("its outputs {locs:?}, {objs:?}, {confs:?} are not YOLOv2's")));
        };
        if n != boxes || m != boxes {
            return Err(no(format!("its outputs {locs:?}, {objs:?}, {confs:?} do not fit")));
        }
        let anchors = options.anchors.clone();
        let head = Head::new(anchors, boxes, classes, [shape[2], shape[3]]).map_err(no)?;
        let chosen = DetectOptions {
            score_threshold: options.threshold,
            iou_threshold: options.iou,
            max_detections: 300,
            multi_label: true,
        };
        Ok(Yolo {
            context,
            input,
            preprocessor,
            outputs,
            detector: Detector::new(classes, head.boxes(), true, chosen),
            head,
            rows: Vec::new(),
            classes,
            runs: 0,
            with_copies: Duration::ZERO,
            without_copies: None,
        })
    }

    /// What is on a picture, in its own pixels.
    fn run(
        &mut self,
        picture: &image::RgbImage,
        repeat: u32,
    ) -> Result<Vec<Detection>, tobiuo::Error> {
        let format = FrameFormat::new(PixelFormat::Rgb8, picture.width(), picture.height());
        let mut placement = None;
        for _ in 0..repeat {
            // Anew for each run, which may overwrite it.
            let input = self.context.input_at(self.input);
            placement = Some(self.preprocessor.run(format, picture.as_raw(), 0, input)?);
            let begun = Instant::now();
            self.context.run()?;
            self.runs += 1;
            self.with_copies += begun.elapsed();
            if let Some(parts) = self.context.transfer_times() {
                *self.without_copies.get_or_insert_default() += parts.compute;
            }
        }
        let tensors = self.outputs.map(|i| match self.context.output_at(i).data {
            ViewData::F32(values) => Some(values),
            _ => None,
        });
        let ([Some(locs), Some(objs), Some(confs)], Some(placement)) = (tensors, placement) else {
            return Err(failed(ErrorKind::Unsupported, "its outputs are not of f32".into()));
        };
        self.head.to_rows(locs, objs, confs, &mut self.rows);
        let mut found = Vec::new();
        self.detector.decode(&self.rows, &placement, &mut found);
        Ok(found)
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let model = options.model.canonicalize().unwrap_or_else(|_| options.model.clone());
    let mut file = model.clone();
    if model.is_dir() || model.extension().is_some_and(|e| e == "onnx") {
        file = model.with_extension("tobiuo");
        let task = TaskChoice::Tensors;
        let build = BuildOptions { device: options.device, task, ..BuildOptions::default() };
        build_cached(&options.model, &file, &build, &mut Terminal::new())?;
    }
    let engine = Engine::open(&file)?;
    let mut yolo = Yolo::new(&engine, options)?;
    let names = match &options.labels {
        Some(path) => labels::read(path)?,
        None if yolo.classes == VOC.len() => VOC.map(String::from).to_vec(),
        None => Vec::new(),
    };
    std::fs::create_dir_all(&options.output)
        .map_err(|e| tobiuo::Error::io(&options.output, "create", e))?;
    let mut out = stdout().lock();
    for path in &options.pictures {
        let bad =
            |e: image::ImageError| failed(ErrorKind::Input, format!("{}: {e}", path.display()));
        let mut picture = image::open(path).map_err(bad)?.to_rgb8();
        let found = yolo.run(&picture, options.repeat)?;
        let name = |class: u32| names.get(class as usize).cloned().unwrap_or(class.to_string());
        let (width, height) = picture.dimensions();
        if let Some(mut canvas) = Canvas::new(&mut picture, width, height) {
            // The surest on top.
            for d in found.iter().rev() {
                canvas.detection(d, &format!("{} {:.2}", name(d.class), d.score));
            }
        }
        let made = drawn_name(path, &options.output);
        picture
            .save(&made)
            .map_err(|e| failed(ErrorKind::Other, format!("{}: {e}", made.display())))?;
        if options.json {
            let boxes: Vec<_> = (found.iter())
                .map(|d| {
                    serde_json::json!({
                        "class": d.class, "name": name(d.class), "score": d.score,
                        "left": d.left, "top": d.top, "right": d.right, "bottom": d.bottom,
                    })
                })
                .collect();
            writeln!(
                out,
                "{}",
                serde_json::json!({ "picture": path, "drawn": made, "boxes": boxes })
            )?;
        } else {
            writeln!(
                out,
                "{}: {} objects, drawn in {}",
                path.display(),
                found.len(),
                made.display()
            )?;
            for d in &found {
                writeln!(
                    out,
                    "  {:<12} {:.3}  {:.0},{:.0} to {:.0},{:.0}",
                    name(d.class),
                    d.score,
                    d.left,
                    d.top,
                    d.right,
                    d.bottom
                )?;
            }
        }
    }
    let us = |t: Duration| t.as_secs_f64() * 1e6 / f64::from(yolo.runs.max(1));
    let (with, without) = (us(yolo.with_copies), yolo.without_copies.map(us));
    if options.json {
        let summary = serde_json::json!({
            "device": yolo.context.device(), "runs": yolo.runs, "run_us": with,
            "run_us_without_copies": without,
        });
        writeln!(out, "{}", serde_json::json!({ "summary": summary }))?;
    } else {
        console::say(format_args!(
            "{}: a run takes {with:.1} us on average",
            yolo.context.device()
        ));
        without.iter().for_each(|us| {
            console::say(format_args!("  {us:.1} us without copying inputs and outputs"))
        });
    }
    Ok(())
}

/// `street_boxes.png` for `street.png`, in a folder.
fn drawn_name(picture: &Path, folder: &Path) -> PathBuf {
    let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
    let png = picture.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    folder.join(format!("{stem}_boxes.{}", if png { "png" } else { "jpg" }))
}

fn parse() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_env();
    let mut model = None;
    let mut o = Options {
        model: PathBuf::new(),
        pictures: Vec::new(),
        output: PathBuf::from("."),
        labels: None,
        threshold: 0.5,
        iou: 0.45,
        anchors: ANCHORS.to_vec(),
        outputs: ["locs", "objs", "confs"].map(String::from),
        repeat: 1,
        device: DeviceChoice::Auto,
        json: false,
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if model.is_none() => model = Some(PathBuf::from(v)),
            Value(v) => o.pictures.push(v.into()),
            Short('o') | Long("output") => o.output = parser.value()?.into(),
            Short('l') | Long("labels") => o.labels = Some(parser.value()?.into()),
            Short('t') | Long("threshold") => o.threshold = parser.value()?.parse()?,
            Long("iou") => o.iou = parser.value()?.parse()?,
            Long("tiny") => o.anchors = ANCHORS_TINY.to_vec(),
            Long("anchors") => {
                let text = parser.value()?.string()?;
                let numbers: Result<Vec<f32>, _> = text.split(',').map(str::parse).collect();
                let numbers = numbers.map_err(|_| "--anchors: numbers are wanted")?;
                let (pairs, rest) = numbers.as_chunks::<2>();
                if pairs.is_empty()
                    || !rest.is_empty()
                    || numbers.iter().any(|v| !v.is_finite() || *v <= 0.0)
                {
                    return Err("--anchors: pairs of height and width are wanted".into());
                }
                o.anchors = pairs.to_vec();
            }
            Long("outputs") => {
                let text = parser.value()?.string()?;
                let names: Vec<String> = text.split(',').map(String::from).collect();
                o.outputs = names.try_into().map_err(|_| "--outputs: three names are wanted")?;
            }
            Short('r') | Long("repeat" | "n-try") => o.repeat = parser.value()?.parse()?,
            Long("device") => o.device = parser.value()?.parse()?,
            Long("json") => o.json = true,
            Short('h') | Long("help") => {
                let _ = console::print(HELP);
                std::process::exit(0)
            }
            other => return Err(other.unexpected()),
        }
    }
    let fine = |v: f32| (0.0..=1.0).contains(&v);
    if !fine(o.threshold) || !fine(o.iou) || o.repeat == 0 {
        return Err("--threshold and --iou are 0 to 1, --repeat is 1 or more".into());
    }
    o.model = model.ok_or("no model is named; --help tells more")?;
    if o.pictures.is_empty() {
        return Err("no pictures are named; --help tells more".into());
    }
    Ok(o)
}

fn main() -> ExitCode {
    logging::start(false);
    let Err(e) = parse().map_err(Into::into).and_then(|options| run(&options)) else {
        return ExitCode::SUCCESS;
    };
    // Who read our output has seen enough: `yolov2 … | head`.
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
    console::say(format_args!("yolov2: {e}"));
    ExitCode::from(status)
}
