//! Timing the candidates of one layer.

use tobiuo_gpu::{Context, DeviceBuffer, Event, Function, GpuError, Graph, Stream};
use tobiuo_nvrtc::Compiled;

use super::{TacticError, geometry, load, target_of};
use crate::cuda::lower::{Lowered, Lowering, Operand};
use tobiuo_kernels::{Argument, Candidate};

/// Launches in one captured graph.
const CHAIN: usize = 16;
/// Rounds; the median counts.
const ROUNDS: usize = 7;
/// Launches of one candidate in all.
pub(super) const LAUNCHES: usize = CHAIN * (ROUNDS + 1);

struct Timed {
    graph: Graph,
    // Kept alive for the graph.
    _scratch: DeviceBuffer,
    _function: Function,
}

/// Time of each candidate in microseconds.
pub(super) fn time_candidates(
    context: &Context,
    lowering: &Lowering,
    layer: &Lowered,
    candidates: &[(Candidate, Compiled)],
    memory_limit: Option<u64>,
) -> Result<Vec<f64>, TacticError> {
    let stream = Stream::new(context)?;
    let noise = |bytes: usize| -> Result<DeviceBuffer, GpuError> {
        let buffer = DeviceBuffer::new(context, bytes + 512)?;
        // Small finite numbers, as f16 and as f32: 0x2c2c is 0.0653, 0x2c2c2c2c is 2.4e-12.
        buffer.fill(0, bytes + 512, 0x2c, &stream)?;
        Ok(buffer)
    };
    let mut memory = Vec::new();
    let mut inputs = Vec::new();
    for operand in &layer.operands {
        match operand {
            Operand::View(view) => {
                let buffer = noise(lowering.buffers[view.buffer.0].bytes)?;
                inputs.push(
                    buffer.address() + (view.offset.max(0) as u64) * view.dtype.size() as u64,
                );
                memory.push(buffer);
            }
            Operand::Constant(c) => {
                let buffer = noise(lowering.constants[*c].len())?;
                buffer.write(0, &lowering.constants[*c], &stream)?;
                inputs.push(buffer.address());
                memory.push(buffer);
            }
        }
    }
    let mut outputs = Vec::new();
    for view in &layer.outputs {
        let buffer = noise(lowering.buffers[view.buffer.0].bytes)?;
        outputs.push(buffer.address() + view.offset.max(0) as u64 * view.dtype.size() as u64);
        memory.push(buffer);
    }
    // Copies of the constants, enough to be larger than the cache together.
    let total: usize = layer.constants.iter().map(|&c| lowering.constants[c].len()).sum();
    let l2 = context.device().l2_bytes as usize;
    let copies = (l2 * 3 / 2).div_ceil(total.max(1)).clamp(1, CHAIN);
    // Half of what may be used, the rest for activations and scratch memory.
    let fit = memory_limit.map_or(CHAIN, |limit| (limit / 2 / total.max(1) as u64) as usize);
    let copies = if total == 0 { 1 } else { copies.min(fit.max(1)) };
    let mut constants = Vec::new();
    for _ in 0..copies {
        let mut set = Vec::new();
        for &c in &layer.constants {
            let bytes = &lowering.constants[c];
            let buffer = noise(bytes.len())?;
            buffer.write(0, bytes, &stream)?;
            set.push(buffer.address());
            memory.push(buffer);
        }
        constants.push(set);
    }
    let mut timed: Vec<Option<Timed>> = Vec::new();
    for (candidate, code) in candidates {
        timed.push(
            match prepare(context, &stream, candidate, code, &inputs, &outputs, &constants) {
                Ok(ready) => Some(ready),
                Err(e) => {
                    log::debug!("{}: {} cannot run: {e}", layer.name, candidate.label);
                    None
                }
            },
        );
    }
    let (begin, end) = (Event::timed(context)?, Event::timed(context)?);
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    for round in 0..ROUNDS + 1 {
        for (ready, samples) in timed.iter_mut().zip(&mut samples) {
            let Some(ready) = ready else { continue };
            begin.record(&stream)?;
            ready.graph.launch(&stream)?;
            end.record(&stream)?;
            end.synchronize()?;
            if round > 0 {
                samples.push(begin.microseconds_to(&end)? / CHAIN as f64);
            }
        }
    }
    stream.synchronize()?;
    Ok(samples
        .into_iter()
        .map(|mut s| {
            s.sort_by(f64::total_cmp);
            s.get(s.len() / 2).copied().unwrap_or(f64::INFINITY)
        })
        .collect())
}

#[allow(clippy::too_many_arguments)]
fn prepare(
    context: &Context,
    stream: &Stream,
    candidate: &Candidate,
    code: &Compiled,
    inputs: &[u64],
    outputs: &[u64],
    constants: &[Vec<u64>],
) -> Result<Timed, GpuError> {
    let (_, function) = load(context, (candidate, code))?;
    let scratch = DeviceBuffer::new(context, candidate.scratch)?;
    scratch.fill(0, candidate.zeroed, 0, stream)?;
    stream.synchronize()?;
    let launch = geometry(candidate, &target_of(context), true);
    let graph = stream.capture(|| {
        for i in 0..CHAIN {
            let arguments: Vec<u64> = candidate
                .arguments
                .iter()
                .map(|a| match *a {
                    Argument::Input(k) => inputs[k],
                    Argument::Output(k) => outputs[k],
                    Argument::Constant(k) => constants[i % constants.len()][k],
                    Argument::Scratch(at) => scratch.address() + at as u64,
                    Argument::Null => 0,
                })
                .collect();
            // SAFETY: the arguments are what the candidate says its kernel takes; every buffer
            // has the size the lowering gave it and lives as long as the graph; launches of
            // one stream follow one another.
            unsafe { function.launch(&launch, &arguments, stream)? };
        }
        Ok(())
    })?;
    Ok(Timed { graph, _scratch: scratch, _function: function })
}
