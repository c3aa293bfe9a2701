use std::fmt::Write as _;

use tobiuo::Error;
use tobiuo::bench::{BenchOptions, BenchReport, bench};

use super::args::Args;
use super::{Command, print, print_json};

pub const COMMAND: Command = Command {
    name: "bench",
    synopsis: "ENGINE",
    summary: "measures the latency of an engine on random inputs",
    options: "
  -n, --iterations N  runs that are measured; 100
  --warmup N          runs before them; 10
  --layers            also the mean time of each layer
  -b, --batch N       items per run; 1
  --threads N         threads that the network computes on; all cores unless given
",
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only("bench", &["iterations", "warmup", "layers", "batch", "threads"])?;
    let (engine, _) = args.engine("bench", 1)?;
    let mut options = BenchOptions::default();
    options.iterations = args.iterations.unwrap_or(options.iterations);
    options.warmup = args.warmup.unwrap_or(options.warmup);
    options.context = args.context();
    let report = bench(&engine, &options)?;
    if args.json {
        print_json(&report.to_json(args.layers))
    } else {
        print(&table(&report, args.layers))
    }
}

fn table(r: &BenchReport, layers: bool) -> String {
    let l = &r.latency;
    let mut t = String::new();
    let _ = writeln!(t, "device      {}", r.device);
    let _ = writeln!(t, "precision   {}", r.precision);
    let _ = writeln!(t, "batch       {}", r.batch);
    let _ = writeln!(t, "iterations  {}", r.iterations);
    let _ = write!(t, "latency     ");
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
    let _ = writeln!(t, "throughput  {:.1} items/s", r.batch as f64 * 1e6 / l.mean);
    let _ = writeln!(
        t,
        "setup       {:.0} ms, process start to first result",
        r.setup.as_secs_f64() * 1e3
    );
    if let Some(mib) = r.peak_rss_mib {
        let _ = writeln!(t, "peak RSS    {mib:.1} MiB");
    }
    if layers {
        let total: f64 = r.layers.iter().map(|l| l.mean.as_secs_f64()).sum();
        let _ = writeln!(t, "\n{:>10} {:>6}  {:<16} {:<24} layer", "us", "%", "op", "output");
        for l in &r.layers {
            let s = l.mean.as_secs_f64();
            let percent = if total > 0.0 { s / total * 100.0 } else { 0.0 };
            let shape = format!("{:?}", l.shape);
            let _ = writeln!(
                t,
                "{:>10.1} {percent:>6.1}  {:<16} {shape:<24} {}",
                s * 1e6,
                l.op,
                l.name
            );
        }
    }
    t
}
