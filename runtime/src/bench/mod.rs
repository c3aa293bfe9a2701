//! How fast an engine is on this machine.

mod timeline;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tobiuo_engine::manifest::{Plan, Program};
use tobiuo_jetson::{Readings, Root};
use tobiuo_tensor::{DType, Tensor, TensorData};

use crate::machine::Machine;
use crate::stats::{Distribution, Percentiles};
use crate::{ContextOptions, Engine, Error, ExecutionContext, process};

pub use timeline::{TimelineOptions, TimelineReport, timeline};

/// What is measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BenchOptions {
    /// Runs that count.
    pub iterations: u64,
    /// Runs before them that do not.
    pub warmup: u64,
    /// Batch, threads, device.
    pub context: ContextOptions,
    /// Measure the layers of a CUDA engine too, each alone, after the runs.
    pub layers: bool,
    /// Whose files tell clocks, heat and power.
    pub root: Root,
}

impl Default for BenchOptions {
    /// 100 runs after 10.
    fn default() -> Self {
        BenchOptions {
            iterations: 100,
            warmup: 10,
            context: ContextOptions::default(),
            layers: false,
            root: Root::default(),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct BenchReport {
    /// What it ran on.
    pub device: String,
    /// Precision of the heavy layers.
    pub precision: String,
    /// Items per run.
    pub batch: usize,
    /// Runs that were measured.
    pub iterations: u64,
    /// Time of one run, inputs in place in host memory.
    pub latency: Percentiles,
    /// The parts of a run by the device's own clock; `None` on the CPU.
    pub parts: Option<PartTimes>,
    /// The network alone, queued on an idle CUDA device with its inputs in place there: as
    /// `parts.compute`, and the start that an upload hides.
    pub replay: Option<Percentiles>,
    /// From the process's start to the first result.
    pub setup: Duration,
    /// The most memory that was resident at once, MiB.
    pub peak_rss_mib: Option<f64>,
    /// Clocks, heat and power right after the runs, where the machine tells.
    pub machine: Option<Machine>,
    /// Time of each layer; on a CUDA device only where it was asked for.
    pub layers: Vec<LayerTime>,
}

/// The parts of a run on a CUDA device.
#[derive(Clone, Copy, Debug)]
pub struct PartTimes {
    /// Inputs from the host to the device.
    pub upload: Percentiles,
    /// The network.
    pub compute: Percentiles,
    /// Outputs from the device to the host.
    pub download: Percentiles,
}

/// Time of one layer.
#[derive(Clone, Debug)]
pub struct LayerTime {
    /// The layer's name in the model.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// Its first output's shape; empty where a launch does not tell.
    pub shape: Vec<usize>,
    /// On the CPU the mean per run; on a CUDA device that of the launch alone, measured there.
    pub mean: Duration,
    /// The kernel, on a CUDA device.
    pub kernel: Option<KernelInfo>,
}

/// Which kernel runs a layer.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// Its family.
    pub family: String,
    /// Which of the family's candidates.
    pub tactic: String,
    /// Its time when the engine was built; `None`: it was not measured.
    pub built: Option<Duration>,
}

/// Runs an engine on random inputs and measures. Inputs are filled anew before each run,
/// outside the clock, because a run may overwrite them.
pub fn bench(engine: &Engine, options: &BenchOptions) -> Result<BenchReport, Error> {
    let mut context = ExecutionContext::new(engine, &options.context)?;
    let inputs: Vec<Tensor> = engine
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, port)| random(port.dtype, context.input_shape(i).to_vec(), i as u64))
        .collect();
    let fill = |context: &mut ExecutionContext| {
        inputs
            .iter()
            .zip(engine.inputs())
            .try_for_each(|(tensor, port)| context.set_input(&port.name, tensor))
    };
    fill(&mut context)?;
    context.run()?;
    let setup = process::age();
    // A run on the CPU may overwrite its inputs; one on a CUDA device takes a copy.
    let keeps_inputs = context.transfer_times().is_some();
    let prepare = |context: &mut ExecutionContext| match keeps_inputs {
        true => Ok(()),
        false => fill(context),
    };
    for _ in 1..options.warmup {
        prepare(&mut context)?;
        context.run()?;
    }
    let iterations = options.iterations.max(1);
    let before = Readings::read(&options.root);
    let mut runs = Distribution::new();
    let mut parts = [Distribution::new(), Distribution::new(), Distribution::new()];
    let nanoseconds = |t: Duration| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
    let mut layers = Vec::new();
    for _ in 0..iterations {
        prepare(&mut context)?;
        let begin = Instant::now();
        context.run()?;
        runs.record(nanoseconds(begin.elapsed()));
        match context.transfer_times() {
            Some(t) => parts
                .iter_mut()
                .zip([t.upload, t.compute, t.download])
                .for_each(|(part, t)| part.record(nanoseconds(t))),
            None => {
                let times = context.layer_times()?;
                layers.resize(times.len(), Duration::ZERO);
                layers.iter_mut().zip(times).for_each(|(sum, t)| *sum += t);
            }
        }
    }
    // Before anything else: clocks fall soon when nothing runs.
    let machine = Machine::since(&before, &options.root);
    layers.iter_mut().for_each(|sum| *sum = sum.div_f64(iterations as f64));
    let mut replays = Distribution::new();
    for time in context.replay_times(options.warmup as usize, iterations as usize)? {
        replays.record(nanoseconds(time));
    }
    if keeps_inputs && options.layers {
        layers = context.layer_times()?;
    }
    let [upload, compute, download] = parts.map(|part| part.summary());
    let parts = match (upload, compute, download) {
        (Some(upload), Some(compute), Some(download)) => {
            Some(PartTimes { upload, compute, download })
        }
        _ => None,
    };
    let layers = layer_times(context.plan(), layers);
    Ok(BenchReport {
        device: context.device(),
        precision: engine.manifest().precision.to_string(),
        batch: context.batch(),
        iterations,
        latency: runs.summary().expect("one run or more"),
        parts,
        replay: replays.summary(),
        setup,
        peak_rss_mib: process::peak_rss_mib(),
        machine,
        layers,
    })
}

/// The plan's steps or launches with their times.
fn layer_times(plan: &Plan, times: Vec<Duration>) -> Vec<LayerTime> {
    match &plan.program {
        Program::Cpu(steps) => steps
            .iter()
            .zip(times)
            .map(|(step, mean)| LayerTime {
                name: step.name.clone(),
                op: step.op.name().into(),
                shape: step
                    .outputs
                    .first()
                    .map_or(Vec::new(), |&t| plan.tensors[t as usize].shape.clone()),
                mean,
                kernel: None,
            })
            .collect(),
        Program::Cuda(program) => program
            .launches
            .iter()
            .zip(times)
            .map(|(launch, mean)| LayerTime {
                name: launch.name.clone(),
                op: launch.op.clone(),
                shape: Vec::new(),
                mean,
                kernel: Some(KernelInfo {
                    family: launch.family.clone(),
                    tactic: launch.tactic.label.clone(),
                    built: launch.tactic.nanoseconds.map(Duration::from_nanos),
                }),
            })
            .collect(),
        _ => Vec::new(),
    }
}

impl BenchReport {
    /// The report as a document: `device`, `precision`, `batch`, `iterations`, `latency_us`
    /// {`min`, `mean`, `p50`, `p90`, `p95`, `p99`, `max`}, on a CUDA device `upload_us`,
    /// `compute_us`, `download_us` and `replay_us` with the same fields, `items_per_second`, `setup_ms`
    /// (process start to first result), `peak_rss_mib`, where it is known `machine` (see
    /// [`Machine`]), and with `layers` also `layers`
    /// [{`name`, `op`, `mean_us`, and on the CPU `shape`, on a CUDA device `family`, `tactic`,
    /// `built_us` (or null)}].
    pub fn to_json(&self, layers: bool) -> Value {
        let tenth = |v: f64| (v * 10.0).round() / 10.0;
        let mut document = json!({
            "device": self.device,
            "precision": self.precision,
            "batch": self.batch,
            "iterations": self.iterations,
            "latency_us": self.latency.to_json(),
            "items_per_second": tenth(self.batch as f64 * 1e6 / self.latency.mean),
            "setup_ms": tenth(self.setup.as_secs_f64() * 1e3),
            "peak_rss_mib": self.peak_rss_mib.map(tenth),
        });
        if let Some(parts) = &self.parts {
            document["upload_us"] = parts.upload.to_json();
            document["compute_us"] = parts.compute.to_json();
            document["download_us"] = parts.download.to_json();
        }
        if let Some(replay) = &self.replay {
            document["replay_us"] = replay.to_json();
        }
        if let Some(machine) = &self.machine {
            document["machine"] = machine.to_json();
        }
        if layers {
            let us = |t: Duration| t.as_secs_f64() * 1e6;
            let rows = self.layers.iter().map(|l| match &l.kernel {
                None => json!({
                    "name": l.name,
                    "op": l.op,
                    "shape": l.shape,
                    "mean_us": tenth(us(l.mean)),
                }),
                Some(kernel) => json!({
                    "name": l.name,
                    "op": l.op,
                    "family": kernel.family,
                    "tactic": kernel.tactic,
                    "mean_us": (us(l.mean) * 1e3).round() / 1e3,
                    "built_us": kernel.built.map(us),
                }),
            });
            document["layers"] = rows.collect();
        }
        document
    }
}

/// Values that a network may meet: floats in -1..1, indices 0, the rest all bits random.
fn random(dtype: DType, shape: Vec<usize>, seed: u64) -> Tensor {
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ seed;
    let mut next = move || {
        // xorshift64* (Vigna, 2014).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40
    };
    let mut unit = move || next() as f32 / (1u64 << 23) as f32 - 1.0;
    let n: usize = shape.iter().product();
    let data = match dtype {
        DType::F32 => TensorData::F32((0..n).map(|_| unit()).collect()),
        DType::F16 => {
            TensorData::F16((0..n).map(|_| tobiuo_tensor::f16::from_f32(unit())).collect())
        }
        DType::I8 => TensorData::I8((0..n).map(|_| (unit() * 127.0) as i8).collect()),
        DType::U8 => TensorData::U8((0..n).map(|_| (unit() * 127.0 + 128.0) as u8).collect()),
        // Indices and shapes: zero is in range everywhere.
        other => TensorData::zeros(other, n),
    };
    Tensor::new(shape, data)
}
