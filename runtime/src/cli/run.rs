use tobiuo::capture::SourceConfig;
use tobiuo::jetson::Readings;
use tobiuo::sink::{self, JsonLines, TextLines};
use tobiuo::{Error, ErrorKind, Machine, Notifier, Pipeline, process};

use super::args::Args;
use super::{Command, print, say};

pub const COMMAND: Command = Command {
    name: "run",
    synopsis: "ENGINE [INPUT [OUTPUT…]]",
    summary: "runs an engine on a camera, video or pictures; a line of detections per frame",
    options: "
  INPUT             /dev/video0 (the default), v4l2://…, csi://0, rtsp://…, gst://<pipeline>,
                    a picture, folder, glob, .avi, .mjpg, .y4m or other video, test://
  OUTPUT            out.avi, out_%i.jpg, out_%i.png, folder/, out.jsonl, kitti:folder, null
  -t, --threshold S lowest score of a detection, 0..1; the engine's own unless given
  --iou X           overlap above which the lower scored of two boxes goes, 0..1
  --max-detections N
  --frames N        ends after N frames
  --loop            starts a file again at its end
  --realtime        plays a file at its own rate, dropping frames that come too late
  --skip-damaged    passes over damaged pictures and frames of a file
  --width W --height H --rate R   what is asked of a camera
  --timeout S       how long a camera may be silent before it is opened again; 5 s
  --threads N       threads that the network computes on; all cores unless given
  --root FOLDER     where /sys and /proc are that tell clocks, heat and power; /
",
    device: true,
    run,
};

/// An output must not be what the input is read from.
fn refuse_input(input: &str, output: &str) -> Result<(), Error> {
    let file = |uri: &str| {
        let path = uri.strip_prefix("kitti:").unwrap_or(uri);
        std::fs::canonicalize(path.strip_prefix("file://").unwrap_or(path)).ok()
    };
    match (file(input), file(output)) {
        (Some(from), Some(to)) if from == to => Err(Error::new(
            ErrorKind::Usage,
            format!("output '{output}' is the input '{input}'; name another file or folder"),
        )),
        _ => Ok(()),
    }
}

fn run(args: Args) -> Result<(), Error> {
    args.only(
        "run",
        &[
            "threshold",
            "iou",
            "max-detections",
            "frames",
            "loop",
            "realtime",
            "skip-damaged",
            "width",
            "height",
            "rate",
            "timeout",
            "threads",
            "root",
        ],
    )?;
    let stop = process::stop_on_signals()?;
    let (engine, rest) = args.engine("run", usize::MAX)?;
    let mut rest = rest.into_iter();
    let input = rest.next().unwrap_or_else(|| "/dev/video0".into());
    let outputs: Vec<String> = rest.collect();

    let mut config = SourceConfig::default();
    config.width = args.width;
    config.height = args.height;
    config.rate = args.rate;
    config.loop_ = args.loop_;
    config.realtime = args.realtime;
    config.frames = args.frames;
    config.skip_damaged = args.skip_damaged;
    config.timeout = args.timeout().unwrap_or(config.timeout);

    let mut builder =
        Pipeline::builder(&engine, input.as_str()).source_config(config).stop_flag(stop);
    if let Some(threshold) = args.threshold {
        builder = builder.score_threshold(threshold);
    }
    if let Some(iou) = args.iou {
        builder = builder.iou_threshold(iou);
    }
    if let Some(count) = args.max_detections {
        builder = builder.max_detections(count);
    }
    if let Some(threads) = args.threads {
        builder = builder.threads(threads);
    }
    builder = builder.memory(args.memory());
    if args.json {
        builder = builder.sink(Box::new(JsonLines::stdout()));
    } else if !outputs.iter().any(|o| o == "-") && !args.quiet {
        builder = builder.sink(Box::new(TextLines::stdout()));
    }
    for output in &outputs {
        refuse_input(&input, output)?;
        builder = builder.sink(sink::open(output)?);
    }
    let root = args.root();
    let before = Readings::read(&root);
    if let Some(notifier) = Notifier::from_env()? {
        notifier.status("opening the source");
        builder = builder.notifier(notifier);
    }
    let mut pipeline = builder.start()?;
    let outcome = pipeline.run(|_| Ok(()));
    // What was measured is said also when the source failed in the middle.
    let summary = pipeline.summary();
    let machine = Machine::since(&before, &root);
    if args.json && outcome.is_ok() {
        let mut document = summary.to_json();
        if let Some(machine) = &machine {
            document["machine"] = machine.to_json();
        }
        print(&format!("{}\n", serde_json::json!({ "summary": document })))?;
    }
    if !args.quiet && !outcome.as_ref().is_err_and(Error::is_broken_pipe) {
        say(&summary);
        if let Some(machine) = &machine {
            say(format_args!("machine: {machine}"));
        }
        for output in pipeline.outputs() {
            say(format_args!("wrote {output}"));
        }
    }
    outcome
}
