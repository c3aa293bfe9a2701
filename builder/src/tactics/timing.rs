//! Timing the candidates of one layer.

use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, Event, GpuError, Graph, KernelArgument, Stream,
};
use tobiuo_nvrtc::Compiled;

use super::{TacticError, geometry, load, target_of};
use crate::cuda::lower::{Lowered, Lowering, Operand};
use crate::cuda::view::View;
use tobiuo_kernels::{Argument, Candidate, Extents};

/// Launches in one captured graph.
const CHAIN: usize = 16;
/// Rounds; the median counts.
const ROUNDS: usize = 7;
/// Launches of one candidate in all.
pub(super) const LAUNCHES: usize = CHAIN * (ROUNDS + 1);

/// Memory of a layer that is timed alone.
struct Memory {
    inputs: Vec<DeviceSlice>,
    outputs: Vec<DeviceSlice>,
    /// Copies of the constants.
    constants: Vec<Vec<DeviceSlice>>,
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
    let memory = memory(context, &stream, lowering, layer, memory_limit)
        .map_err(|e| e.at(format_args!("memory to time layer '{}'", layer.name)))?;
    let mut timed: Vec<Option<Graph>> = Vec::new();
    for (candidate, code) in candidates {
        timed.push(match prepare(context, &stream, candidate, code, &memory) {
            Ok(ready) => Some(ready),
            Err(e) => {
                log::debug!("{}: {} cannot run: {e}", layer.name, candidate.label);
                None
            }
        });
    }
    let (begin, end) = (Event::timed(context)?, Event::timed(context)?);
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    for round in 0..ROUNDS + 1 {
        let each = timed.iter_mut().zip(&mut samples).zip(candidates);
        for ((ready, samples), (candidate, _)) in each {
            let Some(ready) = ready else { continue };
            let mut time = || {
                begin.record(&stream)?;
                ready.launch(&stream)?;
                end.record(&stream)?;
                end.synchronize()?;
                begin.microseconds_to(&end)
            };
            // A kernel that faults takes the context with it: which one it was must be said.
            let microseconds = time().map_err(|e: GpuError| {
                let family = layer.layer.family();
                e.at(format_args!(
                    "timing layer '{}' with {family} {}",
                    layer.name, candidate.label
                ))
            })?;
            if round > 0 {
                samples.push(microseconds / CHAIN as f64);
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

fn memory(
    context: &Context,
    stream: &Stream,
    lowering: &Lowering,
    layer: &Lowered,
    limit: Option<u64>,
) -> Result<Memory, GpuError> {
    let noise = |bytes: usize| -> Result<DeviceBuffer, GpuError> {
        let buffer = DeviceBuffer::new(context, bytes)?;
        // Small finite numbers, as f16 and as f32: 0x2c2c is 0.0653, 0x2c2c2c2c is 2.4e-12.
        buffer.fill(0, bytes, 0x2c, stream)?;
        Ok(buffer)
    };
    let filled = |bytes: &[u8], touched: usize| -> Result<DeviceSlice, GpuError> {
        let buffer = DeviceBuffer::new(context, bytes.len())?;
        buffer.write(0, bytes, stream)?;
        Ok(buffer.slice(0..touched))
    };
    let Extents { inputs, constants, outputs } = layer.layer.extents();
    let view = |view: &View, touched: usize| -> Result<DeviceSlice, GpuError> {
        let first = view.offset.max(0) as usize * view.dtype.size();
        let bytes = lowering.buffers[view.buffer.0].bytes.max(first + touched);
        Ok(noise(bytes)?.slice(first..first + touched))
    };
    let operand = |(operand, &touched): (&Operand, &usize)| match operand {
        Operand::View(v) => view(v, touched),
        Operand::Constant(c) => filled(&lowering.constants[*c], touched),
    };
    // Copies of the constants, enough to be larger than the cache together.
    let total: usize = layer.constants.iter().map(|&c| lowering.constants[c].len()).sum();
    let l2 = context.device().l2_bytes as usize;
    let copies = (l2 * 3 / 2).div_ceil(total.max(1)).clamp(1, CHAIN);
    // Half of what may be used, the rest for activations and scratch memory.
    let fit = limit.map_or(CHAIN, |limit| (limit / 2 / total.max(1) as u64) as usize);
    let copies = if total == 0 { 1 } else { copies.min(fit.max(1)) };
    let set = || -> Result<Vec<DeviceSlice>, GpuError> {
        let each = layer.constants.iter().zip(&constants);
        each.map(|(&c, &touched)| filled(&lowering.constants[c], touched)).collect()
    };
    Ok(Memory {
        inputs: layer.operands.iter().zip(&inputs).map(operand).collect::<Result<_, _>>()?,
        outputs: (layer.outputs.iter().zip(&outputs))
            .map(|(v, &touched)| view(v, touched))
            .collect::<Result<_, _>>()?,
        constants: (0..copies).map(|_| set()).collect::<Result<_, _>>()?,
    })
}

/// A chain of launches of one candidate, each with the next copy of the constants.
fn prepare(
    context: &Context,
    stream: &Stream,
    candidate: &Candidate,
    code: &Compiled,
    memory: &Memory,
) -> Result<Graph, GpuError> {
    let (_, function) = load(context, (candidate, code))?;
    let scratch = DeviceBuffer::new(context, candidate.scratch)?;
    scratch.fill(0, candidate.zeroed, 0, stream)?;
    stream.synchronize()?;
    let launch = geometry(candidate, &target_of(context), true);
    let mut list = CommandList::new(context)?;
    for i in 0..CHAIN {
        let constants = &memory.constants[i % memory.constants.len()];
        let arguments: Vec<KernelArgument> = (candidate.arguments.iter())
            .map(|a| match *a {
                Argument::Input(k) => KernelArgument::Memory(memory.inputs[k].clone()),
                Argument::Output(k) => KernelArgument::Memory(memory.outputs[k].clone()),
                Argument::Constant(k) => KernelArgument::Memory(constants[k].clone()),
                Argument::Scratch(at) => {
                    KernelArgument::Memory(scratch.slice(at..candidate.scratch))
                }
                Argument::Null => KernelArgument::Null,
            })
            .collect();
        list.launch(&function, launch, &arguments, 0, &[])?;
    }
    list.capture()
}
