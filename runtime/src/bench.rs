//! How fast an engine is on this machine.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tobiuo_engine::manifest::Program;
use tobiuo_tensor::{DType, Tensor, TensorData};

use crate::stats::{Distribution, Percentiles};
use crate::{ContextOptions, Engine, Error, ExecutionContext, process};

/// What is measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BenchOptions {
    /// Runs that count.
    pub iterations: u64,
    /// Runs before them that do not.
    pub warmup: u64,
    /// Batch and threads.
    pub context: ContextOptions,
}

impl Default for BenchOptions {
    /// 100 runs after 10.
    fn default() -> Self {
        BenchOptions { iterations: 100, warmup: 10, context: ContextOptions::default() }
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
    /// Time of one run, inputs in place.
    pub latency: Percentiles,
    /// From the process's start to the first result.
    pub setup: Duration,
    /// The most memory that was resident at once, MiB.
    pub peak_rss_mib: Option<f64>,
    /// Mean time of each layer.
    pub layers: Vec<LayerTime>,
}

/// Mean time of one layer.
#[derive(Clone, Debug)]
pub struct LayerTime {
    /// The layer's name in the model.
    pub name: String,
    /// Its operator.
    pub op: &'static str,
    /// Its first output's shape.
    pub shape: Vec<usize>,
    /// Mean time per run.
    pub mean: Duration,
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
    for _ in 1..options.warmup {
        fill(&mut context)?;
        context.run()?;
    }
    let iterations = options.iterations.max(1);
    let mut runs = Distribution::new();
    let mut layers = vec![Duration::ZERO; context.layer_times().len()];
    for _ in 0..iterations {
        fill(&mut context)?;
        let begin = Instant::now();
        context.run()?;
        runs.record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        layers.iter_mut().zip(context.layer_times()).for_each(|(sum, &t)| *sum += t);
    }
    let plan = context.plan();
    let steps = match &plan.program {
        Program::Cpu(steps) => &steps[..],
        _ => &[],
    };
    let layers = steps
        .iter()
        .zip(layers)
        .map(|(step, sum)| LayerTime {
            name: step.name.clone(),
            op: step.op.name(),
            shape: step
                .outputs
                .first()
                .map_or(Vec::new(), |&t| plan.tensors[t as usize].shape.clone()),
            mean: sum.div_f64(iterations as f64),
        })
        .collect();
    Ok(BenchReport {
        device: context.device(),
        precision: engine.manifest().precision.to_string(),
        batch: context.batch(),
        iterations,
        latency: runs.summary().expect("one run or more"),
        setup,
        peak_rss_mib: process::peak_rss_mib(),
        layers,
    })
}

impl BenchReport {
    /// The report as a document: `device`, `precision`, `batch`, `iterations`, `latency_us`
    /// {`min`, `mean`, `p50`, `p90`, `p95`, `p99`, `max`}, `items_per_second`, `setup_ms`
    /// (process start to first result), `peak_rss_mib`, and with `layers` also `layers`
    /// [{`name`, `op`, `shape`, `mean_us`}].
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
        if layers {
            let rows = self.layers.iter().map(|l| {
                json!({
                    "name": l.name,
                    "op": l.op,
                    "shape": l.shape,
                    "mean_us": tenth(l.mean.as_secs_f64() * 1e6),
                })
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
