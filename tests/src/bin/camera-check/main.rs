//! The camera kernels (preprocessing, upload through mapped memory, decoding, suppression, best
//! classes) against their references on this machine's GPU, bit for bit, and their times.

#![forbid(unsafe_code)]

mod device;
mod heads;
mod pictures;
mod random;

use std::error::Error;
use std::process::ExitCode;

use serde_json::json;
use tobiuo::console;
use tobiuo_gpu::Context;
use tobiuo_nvrtc::Nvrtc;

use device::Device;
use random::Random;

const HELP: &str = "\
camera-check: the camera pipeline's kernels against their references, on this machine's GPU

usage: camera-check [--rounds N] [--seed S] [--device N] [--target SM] [--times]

  --rounds N   modules of each kind, each with all pixel formats or several outputs (default 12)
  --seed S     for all that is random (default 1)
  --device N   CUDA device (default 0)
  --target SM  PTX made for that GPU, assembled by the driver for this one (87, 80, ...)
  --times      also what the kernels take for usual frames and heads

exit status: 0 all right, 1 a kernel is wrong, 5 no usable device
";

#[derive(Default)]
struct Tally {
    checked: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn note(&mut self, what: impl FnOnce() -> String, right: bool) {
        self.checked += 1;
        if !right {
            let what = what();
            console::say(format_args!("WRONG: {what}"));
            self.wrong.push(what);
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    use lexopt::prelude::*;
    let (mut rounds, mut seed, mut ordinal, mut target, mut times) = (12, 1, 0, None, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rounds") => rounds = parser.value()?.parse()?,
            Long("seed") => seed = parser.value()?.parse()?,
            Long("device") => ordinal = parser.value()?.parse()?,
            Long("target") => target = Some(parser.value()?.parse()?),
            Long("times") => times = true,
            Long("help") | Short('h') => {
                console::print(HELP)?;
                return Ok(true);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let context = Context::new(ordinal)?;
    let device = Device::new(&context, Nvrtc::open()?, target)?;
    console::say(format_args!("{:?}", context.device()));
    let mut random = Random::new(seed);
    let (mut frames, mut heads) = (Tally::default(), Tally::default());
    for round in 0..rounds {
        pictures::check(&device, &mut random, &mut frames)?;
        heads::check(&device, &mut random, round, &mut heads)?;
        console::say(format_args!(
            "round {}: {} frames, {} heads",
            round + 1,
            frames.checked,
            heads.checked
        ));
    }
    let mut measured = Vec::new();
    if times {
        measured.extend(pictures::times(&device)?);
        measured.extend(heads::times(&device, &mut random)?);
    }
    let wrong: Vec<&String> = frames.wrong.iter().chain(&heads.wrong).collect();
    console::print(format_args!(
        "{}\n",
        json!({
            "device": context.device().name,
            "target": target,
            "frames": frames.checked,
            "heads": heads.checked,
            "wrong": wrong,
            "times_us": measured.iter().cloned().collect::<serde_json::Map<_, _>>(),
        })
    ))?;
    Ok(wrong.is_empty())
}

fn main() -> ExitCode {
    env_logger::init();
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            console::say(format_args!("camera-check: {e}"));
            ExitCode::from(if e.is::<tobiuo_gpu::GpuError>() { 5 } else { 1 })
        }
    }
}
