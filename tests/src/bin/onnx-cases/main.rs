//! Runs the cases of the onnx package's backend test and compares what passes with the manifest.
//!
//! Rules and manifest are in the program: beside it a machine needs the folder of cases only.

#![forbid(unsafe_code)]

mod supervise;

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conformance::onnx::manifest::{self, Case, Verdict};
use conformance::onnx::run::{Device, Runner};
use conformance::onnx::scope::{self, Scope};
use conformance::onnx::table;
use lexopt::prelude::*;
use tobiuo::console;
use tobiuo_engine::Precision;

const HELP: &str = "\
onnx-cases: the onnx package's own cases, or dumps, on one device after another

usage: onnx-cases DIR [OPTIONS]

  DIR                   what tests/onnx/make_cases.py wrote; or dumps with every layer's output
                        beside them (tests/fixtures/chainer), of which each layer is compared:
                        relative L2 error 1e-5 in fp32, 2e-3 in tf32 and fp16
  --device A,B          cpu: engines for the CPU device; lowered: the CUDA lowering, its layers
                        run by their references; cuda[:N]: engines for GPU N; reference: the
                        graph as it is imported (default cpu,lowered)
  --precision P         of lowered and cuda: fp32, tf32 or fp16 (default fp32)
  --only PATTERN        only cases of these names, * stands for anything; they need not be in
                        scope
  --jobs N              worker processes (default: one per core)
  --limit SECONDS       of one case, after which it counts as hanging (default 60)
  --write               write tests/onnx/cases.tsv and the README's table; run in the checkout
  --quiet               do not name the cases that fail as the manifest says

exit status: 0 as the manifest says (dumps: all agree), 1 not so, 2 usage
";

struct Options {
    folder: PathBuf,
    devices: Vec<String>,
    precision: Precision,
    only: Option<String>,
    jobs: usize,
    limit: Duration,
    write: bool,
    quiet: bool,
    worker: bool,
}

fn parse() -> Result<Option<Options>, Box<dyn Error>> {
    let mut folder = None;
    let mut o = Options {
        folder: PathBuf::new(),
        devices: vec!["cpu".into(), "lowered".into()],
        precision: Precision::Fp32,
        only: None,
        jobs: std::thread::available_parallelism().map_or(1, Into::into),
        limit: Duration::from_secs(60),
        write: false,
        quiet: false,
        worker: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(path) if folder.is_none() => folder = Some(path.into()),
            Long("device") => {
                o.devices = parser.value()?.string()?.split(',').map(str::to_string).collect();
            }
            Long("precision") => {
                o.precision = match parser.value()?.string()?.as_str() {
                    "fp32" => Precision::Fp32,
                    "tf32" => Precision::Tf32,
                    "fp16" => Precision::Fp16,
                    other => return Err(format!("--precision {other}: fp32, tf32, fp16").into()),
                }
            }
            Long("only") => o.only = Some(parser.value()?.string()?),
            Long("jobs") => o.jobs = parser.value()?.parse()?,
            Long("limit") => o.limit = Duration::from_secs(parser.value()?.parse()?),
            Long("write") => o.write = true,
            Long("quiet") => o.quiet = true,
            Long("worker") => o.worker = true,
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    o.folder = folder.ok_or("the folder of cases is missing")?;
    Ok(Some(o))
}

fn device(name: &str, precision: Precision) -> Result<Device, String> {
    Ok(match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Device::Cpu,
        ("reference", "0") => Device::Reference,
        ("lowered", "0") => Device::Lowered(precision),
        ("cuda", n) => Device::Cuda(n.parse().map_err(|_| format!("no GPU {n}"))?, precision),
        _ => return Err(format!("--device {name}: cpu, lowered, cuda[:N] or reference")),
    })
}

fn main() -> ExitCode {
    env_logger::init();
    match parse() {
        Ok(None) => {
            let _ = console::print(HELP);
        }
        Err(e) => {
            console::say(format_args!("onnx-cases: {e}\n\n{HELP}"));
            return ExitCode::from(2);
        }
        Ok(Some(options)) => {
            let done = match options.worker {
                true => serve(&options),
                false if options.folder.join("cases.tsv").exists() => check(&options),
                false => compare_dumps(&options),
            };
            match done {
                Ok(true) => {}
                Ok(false) => return ExitCode::FAILURE,
                Err(e) => {
                    console::say(format_args!("onnx-cases: {e}"));
                    return ExitCode::from(2);
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// A worker: runs the cases whose names come in, until one fails on a GPU, whose context may then
/// be lost. An answer is `pass`, or why not.
fn serve(o: &Options) -> Result<bool, Box<dyn Error>> {
    let device = device(&o.devices[0], o.precision)?;
    let mut out = std::io::stdout();
    let runner = Runner::new(device);
    for line in std::io::stdin().lock().lines() {
        let made = match &runner {
            Ok(runner) => runner.run(&o.folder.join(line?)),
            Err(e) => Err(e.clone()),
        };
        writeln!(out, "{}", made.as_ref().err().map_or("pass", String::as_str))?;
        out.flush()?;
        if made.is_err() && matches!(device, Device::Cuda(..)) {
            break;
        }
    }
    Ok(true)
}

/// Runs all that is in scope; true where it is as the manifest says.
fn check(o: &Options) -> Result<bool, Box<dyn Error>> {
    let list = o.folder.join("cases.tsv");
    let text = std::fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let cases = manifest::written(&text)?;
    let scope = Scope::parse(scope::CHECKED_IN)?;
    if let Some(pattern) = &o.only {
        let chosen = cases.iter().filter(|c| scope::matches(pattern, &c.name));
        return only(o, &chosen.collect::<Vec<_>>(), &scope);
    }
    let mut verdicts = Vec::new();
    for case in cases {
        let out = scope.out(&case)?.is_some();
        verdicts.push((case, if out { Verdict::Out } else { Verdict::Fail }));
    }
    let inside = |(c, v): &(Case, Verdict)| (*v != Verdict::Out).then(|| c.name.clone());
    let names: Vec<String> = verdicts.iter().filter_map(inside).collect();
    let expected = manifest::parse(manifest::CHECKED_IN)?;
    let says = |name: &str| expected.iter().find(|(c, _)| c.name == name).map(|(_, v)| *v);
    let mut as_expected = true;
    let mut everywhere: Vec<bool> = vec![true; names.len()];
    for device in &o.devices {
        let begun = Instant::now();
        let results = results(o, device, &names)?;
        for ((name, result), passes) in names.iter().zip(&results).zip(&mut everywhere) {
            let Err(why) = result else { continue };
            *passes = false;
            let what = match says(name) {
                Some(Verdict::Fail) if o.quiet => continue,
                Some(Verdict::Fail) => "fails, as the manifest says",
                Some(Verdict::Pass) => "used to pass and fails",
                _ => "fails, and the manifest does not know it: add it by --write",
            };
            as_expected &= says(name) == Some(Verdict::Fail);
            console::print(format_args!("{device}: {name} {what}: {why}\n"))?;
        }
        console::print(format_args!(
            "{device}: {} of {} cases in scope pass, {} in all; {:.1} s\n",
            results.iter().filter(|r| r.is_ok()).count(),
            names.len(),
            verdicts.len(),
            begun.elapsed().as_secs_f64()
        ))?;
    }
    for (name, passes) in names.iter().zip(&everywhere) {
        if *passes && says(name) != Some(Verdict::Pass) {
            console::print(format_args!(
                "{name} passes, and the manifest does not say so: add it by --write\n"
            ))?;
            as_expected = false;
        }
    }
    let mut passed = names.iter().zip(everywhere);
    for (case, verdict) in verdicts.iter_mut().filter(|(_, v)| *v != Verdict::Out) {
        let (name, passed) = passed.next().expect("one result per case in scope");
        assert_eq!(*name, case.name, "results are in order");
        *verdict = if passed { Verdict::Pass } else { Verdict::Fail };
    }
    if o.write {
        let readme = Path::new("README.md");
        let text = std::fs::read_to_string(readme).map_err(|e| format!("README.md: {e}"))?;
        let text = table::replaced(&text, &table::table(&verdicts))?;
        std::fs::write("tests/onnx/cases.tsv", manifest::text(&verdicts))?;
        std::fs::write(readme, text)?;
        return Ok(true);
    }
    let listed = |cases: &[(Case, Verdict)]| {
        cases.iter().map(|(c, v)| (c.name.clone(), *v == Verdict::Out)).collect::<Vec<_>>()
    };
    if listed(&verdicts) != listed(&expected) {
        console::print(format_args!(
            "the manifest lists other cases, or others in scope: write it again by --write\n"
        ))?;
        as_expected = false;
    }
    Ok(as_expected)
}

/// Compares dumps layer by layer; true where all agree.
fn compare_dumps(o: &Options) -> Result<bool, Box<dyn Error>> {
    if o.write {
        return Err("--write is for the onnx package's cases".into());
    }
    let entries = std::fs::read_dir(&o.folder).map_err(|e| format!("{}: {e}", o.folder.display()));
    let mut names = Vec::new();
    for entry in entries? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = o.only.as_ref().is_none_or(|pattern| scope::matches(pattern, &name));
        if wanted && entry.path().join("model.json").is_file() {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() {
        let folder = o.folder.display();
        return Err(format!("{folder}: neither cases.tsv nor folders with a model.json").into());
    }
    let mut all = true;
    for device in &o.devices {
        let begun = Instant::now();
        let results = results(o, device, &names)?;
        for (name, result) in names.iter().zip(&results) {
            if let Err(why) = result {
                console::print(format_args!("{device}: {name} differs: {why}\n"))?;
            }
        }
        let agree = results.iter().filter(|r| r.is_ok()).count();
        all &= agree == names.len();
        let seconds = begun.elapsed().as_secs_f64();
        console::print(format_args!(
            "{device}: {agree} of {} dumps agree in every layer; {seconds:.1} s\n",
            names.len()
        ))?;
    }
    Ok(all)
}

/// Runs chosen cases; true where all of them pass.
fn only(o: &Options, cases: &[&Case], scope: &Scope) -> Result<bool, Box<dyn Error>> {
    let written = cases.iter().filter(|c| c.unwritten.is_empty());
    let names: Vec<String> = written.map(|c| c.name.clone()).collect();
    for case in cases {
        if !case.unwritten.is_empty() {
            console::print(format_args!("{}: not written: {}\n", case.name, case.unwritten))?;
        }
        if let Some(reason) = scope.out(case)? {
            console::print(format_args!("{}: not in scope: {reason}\n", case.name))?;
        }
    }
    let mut all = true;
    for device in &o.devices {
        for (name, result) in names.iter().zip(results(o, device, &names)?) {
            all &= result.is_ok();
            console::print(format_args!(
                "{device}: {name}: {}\n",
                result.err().unwrap_or_else(|| "passes".into())
            ))?;
        }
    }
    Ok(all)
}

fn results(
    o: &Options,
    name: &str,
    names: &[String],
) -> Result<Vec<Result<(), String>>, Box<dyn Error>> {
    if let Device::Cuda(n, _) = device(name, o.precision)? {
        tobiuo_gpu::device(n)?;
    }
    let precision = match o.precision {
        Precision::Fp16 => "fp16",
        Precision::Tf32 => "tf32",
        _ => "fp32",
    };
    let folder = o.folder.to_str().ok_or("the folder's name is not UTF-8")?;
    let arguments = [folder, "--worker", "--device", name, "--precision", precision];
    Ok(supervise::run(name, &arguments, names, o))
}
