use std::fmt::Write as _;
use std::path::Path;

use tobiuo::bench::{
    BenchOptions, BenchReport, LayerTime, TimelineOptions, bench, timeline as timeline_of,
};
use tobiuo::stats::Percentiles;
use tobiuo::timeline::Timeline;
use tobiuo::{Engine, Error, ErrorKind};

use super::args::Args;
use super::{Command, print, print_json, say};

pub const COMMAND: Command = Command {
    name: "bench",
    synopsis: "ENGINE [INPUT]",
    summary: "measures the latency of an engine on random inputs, or of its pipeline on frames",
    options: "
  -n, --iterations N  runs that are measured; 100
  --warmup N          runs before them; 10
  --layers            also the time of each layer; on a GPU that of each launch alone
  -b, --batch N       items per run; 1
  --threads N         threads that the network computes on; all cores unless given
  --root FOLDER       where /sys and /proc are that tell clocks, heat and power; /
  --timeline FILE     runs frames through the pipeline instead and notes what host threads and
                      device do when: Chrome trace JSON (chrome://tracing, Perfetto), or a
                      picture, FILE.svg
  INPUT               with --timeline: where its frames come from; some are read beforehand and
                      repeated; test://scene?width=1280&height=720&format=nv12 unless given
",
    device: true,
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only(
        "bench",
        &["iterations", "warmup", "layers", "batch", "threads", "timeline", "root"],
    )?;
    if let Some(file) = &args.timeline {
        if args.layers {
            return Err(Error::new(
                ErrorKind::Usage,
                "--layers is of a bench without --timeline, which times no layers; leave one out",
            ));
        }
        // Not after minutes of measuring.
        Timeline::try_write(file)?;
    }
    let (engine, rest) = args.engine("bench", if args.timeline.is_some() { 2 } else { 1 })?;
    if let Some(file) = &args.timeline {
        return timeline(&engine, &args, file, rest.first().map_or(FRAMES, String::as_str));
    }
    let mut options = BenchOptions::default();
    options.iterations = args.iterations.unwrap_or(options.iterations);
    options.warmup = args.warmup.unwrap_or(options.warmup);
    options.context = args.context();
    options.layers = args.layers;
    options.root = args.root();
    let report = bench(&engine, &options)?;
    if args.json {
        print_json(&report.to_json(args.layers))
    } else {
        print(&table(&report, args.layers))
    }
}

/// Frames of a usual camera.
const FRAMES: &str = "test://scene?width=1280&height=720&format=nv12";

fn timeline(engine: &Engine, args: &Args, file: &Path, input: &str) -> Result<(), Error> {
    let mut options = TimelineOptions::default();
    options.frames = args.iterations.unwrap_or(options.frames);
    options.warmup = args.warmup.unwrap_or(options.warmup);
    options.context = args.context();
    let report = timeline_of(engine, input, &options)?;
    report.timeline.write(file)?;
    if args.json {
        return print_json(&report.to_json());
    }
    say(format_args!("wrote {}", file.display()));
    print(&report.to_string())
}

fn table(r: &BenchReport, layers: bool) -> String {
    let l = &r.latency;
    let mut t = String::new();
    let _ = writeln!(t, "device      {}", r.device);
    let _ = writeln!(t, "precision   {}", r.precision);
    let _ = writeln!(t, "batch       {}", r.batch);
    let _ = writeln!(t, "iterations  {}", r.iterations);
    let mut times = |name: &str, l: &Percentiles| {
        let _ = write!(t, "{name:<12}");
        for (name, us) in [
            ("min", l.min),
            ("mean", l.mean),
            ("p50", l.p50),
            ("p90", l.p90),
            ("p95", l.p95),
            ("p99", l.p99),
            ("max", l.max),
        ] {
            let _ = write!(t, "{name} {:.3}  ", us / 1e3);
        }
        let _ = writeln!(t, "ms");
    };
    times("latency", l);
    if let Some(parts) = &r.parts {
        times("upload", &parts.upload);
        times("compute", &parts.compute);
        times("download", &parts.download);
    }
    if let Some(replay) = &r.replay {
        times("replay", replay);
    }
    let _ = writeln!(t, "throughput  {:.1} items/s", r.batch as f64 * 1e6 / l.mean);
    let _ = writeln!(
        t,
        "setup       {:.0} ms, process start to first result",
        r.setup.as_secs_f64() * 1e3
    );
    if let Some(mib) = r.peak_rss_mib {
        let _ = writeln!(t, "peak RSS    {mib:.1} MiB");
    }
    if let Some(machine) = &r.machine {
        let _ = writeln!(t, "machine     {machine}");
    }
    if layers {
        layer_table(&mut t, &r.layers);
    }
    t
}

fn layer_table(t: &mut String, layers: &[LayerTime]) {
    let total: f64 = layers.iter().map(|l| l.mean.as_secs_f64()).sum();
    let on_gpu = layers.iter().any(|l| l.kernel.is_some());
    let what = if on_gpu { "kernel and tactic (us when built)" } else { "output" };
    let detail = |l: &LayerTime| match &l.kernel {
        None => format!("{:?}", l.shape),
        Some(k) => {
            let built = k.built.map(|b| format!(" ({:.1})", b.as_secs_f64() * 1e6));
            format!("{} {}{}", k.family, k.tactic, built.unwrap_or_default())
        }
    };
    let details: Vec<String> = layers.iter().map(detail).collect();
    let width =
        details.iter().map(|d| d.chars().count()).max().unwrap_or(0).max(what.len()).max(24);
    let _ = writeln!(t, "\n{:>10} {:>6}  {:<16} {what:<width$} layer", "us", "%", "op");
    for (l, detail) in layers.iter().zip(&details) {
        let s = l.mean.as_secs_f64();
        let percent = if total > 0.0 { s / total * 100.0 } else { 0.0 };
        let decimals = if on_gpu { 2 } else { 1 };
        let line = format!(
            "{:>10.decimals$} {percent:>6.1}  {:<16} {detail:<width$} {}",
            s * 1e6,
            l.op,
            l.name
        );
        // Names come out of a file: nothing in them may steer the terminal.
        let _ = writeln!(t, "{}", line.replace(|c: char| c.is_control(), "?"));
    }
    if on_gpu {
        let _ = writeln!(t, "{:>10.2} {:>6}  total of the launches, each alone", total * 1e6, "");
    }
}
