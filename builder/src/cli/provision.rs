//! `provision`: what a device runs when it starts, by hand or from a systemd unit.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;
use serde::Serialize;
use tobiuo::console;

use super::{Stop, args, emit, interrupt, print};
use crate::BuildError;
use crate::options::{BuildOptions, DeviceChoice};
use crate::progress::{Progress, Terminal};
use crate::provision::{Job, Outcome, Report, read_folder};

pub(super) const HELP: &str = "\
usage: tobiuo-builder provision MODEL -o ENGINE [options] [build's options]
       tobiuo-builder provision --all FOLDER [options]

Keeps an engine current on the device that runs it. It is built where there is none, where it
is damaged or for another device, and where model, options or builder changed; a new engine is
run against the CPU reference first. ENGINE is the old engine or the new one, whole, at every
moment, also after a power cut; the one before is kept as ENGINE.previous and put back when
ENGINE is unusable. A failed build leaves the engine that was there.

      --seed ENGINE          an engine that came with the model, for this kind of device: used
                             at once, until --retune makes a better one
      --retune               build also where kernels were not, or not all, timed here
      --rollback             put ENGINE.previous back, and no more
      --no-check             do not run a new engine against the CPU reference
      --all FOLDER           every engine of FOLDER/*.conf: MODEL=, SEED=, BUILD_OPTIONS=, and
                             ENGINE= (CACHE/NAME.tobiuo)
      --cache CACHE          the folder of their engines ($CACHE_DIRECTORY, /var/cache/tobiuo)
      --json                 one document on stdout
  -q, --quiet                no progress

Exit status: as build's; not 0 also when an engine that was there before is kept.
";

/// One engine's line of the document.
#[derive(Serialize)]
struct Line {
    name: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// An engine that runs on this device is there.
    usable: bool,
    status: u8,
}

#[derive(Serialize)]
struct Document {
    engines: Vec<Line>,
}

pub(super) fn command(mut parser: lexopt::Parser) -> Result<(), Stop> {
    let (mut model, mut output, mut seed): (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>) =
        (None, None, None);
    let (mut all, mut cache): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let (mut retune, mut rollback, mut check) = (false, false, true);
    let (mut json, mut quiet) = (false, false);
    let mut options = BuildOptions { device: DeviceChoice::Auto, ..BuildOptions::default() };
    while let Some(arg) = parser.next()? {
        match arg {
            Value(v) if model.is_none() => model = Some(v.into()),
            Short('i') | Long("model") => model = Some(parser.value()?.into()),
            Short('o') | Long("output") => output = Some(parser.value()?.into()),
            Long("seed") => seed = Some(parser.value()?.into()),
            Long("all") => all = Some(parser.value()?.into()),
            Long("cache") => cache = Some(parser.value()?.into()),
            Long("retune") => retune = true,
            Long("rollback") => rollback = true,
            Long("no-check") => check = false,
            Long("json") => json = true,
            Short('q') | Long("quiet") => quiet = true,
            Short('h') | Long("help") => return print(HELP),
            other => {
                let flag = args::flag(other)?;
                args::any_build_option(flag, &mut options, &mut parser)?;
            }
        }
    }
    let jobs = match (all, model) {
        (Some(folder), None) => {
            if output.is_some() || seed.is_some() {
                let what = "provision: with --all the files name engine and seed";
                return Err(Stop::Args(what.into()));
            }
            let cache = cache.unwrap_or_else(cache_folder);
            let mut jobs = Vec::new();
            for entry in read_folder(&folder)? {
                let mut build = options.clone();
                let file = folder.join(format!("{}.conf", entry.name));
                options_of(&entry.options, &mut build).map_err(|e| in_file(e, &file))?;
                let engine =
                    entry.engine.unwrap_or_else(|| cache.join(format!("{}.tobiuo", entry.name)));
                let job = Job::new(entry.model, engine);
                jobs.push((entry.name, Job { seed: entry.seed, build, retune, check, ..job }));
            }
            if jobs.is_empty() {
                console::say(format_args!(
                    "{}: no file *.conf names a MODEL; nothing to do",
                    folder.display()
                ));
            }
            jobs
        }
        (None, Some(model)) => {
            let engine = output.ok_or_else(|| {
                Stop::Args("provision: no engine is named; -o ENGINE names it".into())
            })?;
            let name = engine.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let job = Job::new(model, engine);
            vec![(name, Job { seed, build: options, retune, check, ..job })]
        }
        _ => {
            let what = "provision: a model, or --all FOLDER, is wanted";
            return Err(Stop::Args(what.into()));
        }
    };
    let mut written: Vec<PathBuf> = Vec::new();
    for (_, job) in &jobs {
        written.extend([job.engine.clone(), hidden(&job.engine, ".candidate")]);
        written.extend(job.build.cuda.cache_file());
    }
    interrupt::clean_up_on_signals(written);
    let lines: Vec<Line> =
        jobs.into_iter().map(|(name, job)| run(name, &job, rollback, quiet)).collect();
    let status = lines.iter().map(|line| line.status).find(|status| *status != 0);
    if json {
        emit(&Document { engines: lines })?;
    }
    match status {
        None => Ok(()),
        Some(status) => Err(Stop::Status(status)),
    }
}

/// One engine: its words to stderr, its line of the document.
fn run(name: String, job: &Job, rollback: bool, quiet: bool) -> Line {
    let mut bar: Box<dyn Progress> = if quiet { Box::new(()) } else { Box::new(Terminal::new()) };
    let outcome = if rollback { job.roll_back().map_err(Into::into) } else { job.run(&mut *bar) };
    drop(bar);
    let engine = job.engine.display();
    match outcome {
        Ok(report) => {
            if !quiet {
                console::say(format_args!("{engine}: {}", words(&report)));
            }
            Line { name, report: Some(report), error: None, usable: true, status: 0 }
        }
        Err(failure) => {
            let status = failure.error.exit_status();
            let left = match failure.kept {
                true => "the engine that was there is kept and can run",
                false => "there is no engine that can run",
            };
            console::say(format_args!("error: {}\n{engine}: {left}", failure.error));
            let error = Some(failure.error.to_string());
            Line { name, report: None, error, usable: failure.kept, status }
        }
    }
}

fn words(report: &Report) -> String {
    let mut text = match report.outcome {
        Outcome::UpToDate => "up to date".to_string(),
        Outcome::Untuned => "untuned, of the right model; --retune times its kernels here".into(),
        Outcome::RolledBack => "the engine before is back".into(),
        Outcome::Built => {
            format!("built in {:.1} s ({})", report.seconds, report.why.as_deref().unwrap_or(""))
        }
    };
    if let (Some(from), true) = (report.adopted, report.outcome != Outcome::RolledBack) {
        text.push_str(&format!("; taken from its {from}"));
    }
    if let Some(error) = report.relative_l2 {
        text.push_str(&format!("; checked, relative L2 error {error:.1e}"));
    }
    text
}

/// Build options as a configuration has them.
fn options_of(words: &[String], options: &mut BuildOptions) -> Result<(), Stop> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(arg) = parser.next()? {
        let flag = args::flag(arg)?;
        args::any_build_option(flag, options, &mut parser)?;
    }
    Ok(())
}

fn in_file(stop: Stop, file: &std::path::Path) -> Stop {
    match stop {
        Stop::Args(what) => {
            BuildError::Usage(format!("{}: BUILD_OPTIONS: {what}", file.display())).into()
        }
        other => other,
    }
}

/// What systemd gives a unit with `CacheDirectory=`.
fn cache_folder() -> PathBuf {
    let given = std::env::var_os("CACHE_DIRECTORY").filter(|folder| !folder.is_empty());
    given.map_or_else(|| "/var/cache/tobiuo".into(), PathBuf::from)
}

fn hidden(engine: &std::path::Path, behind: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(engine.file_name().unwrap_or_default());
    name.push(behind);
    engine.with_file_name(name)
}
