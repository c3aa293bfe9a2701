//! From a lowering and its kernels to what an engine holds: a plan, code and weights.
//!
//! The graph's inputs and outputs are memory of their own that a context binds; everything
//! else a launch writes for a later one lies in the arena, where buffers that are never in use
//! at once share bytes. The scratch memory begins with the tickets of every layer (zero before
//! the first run, and left zero), then has one region of partial sums for each stream: launches
//! of a stream follow one another.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;
use tobiuo_engine::{
    CudaArgument, CudaLaunch, CudaModule, CudaProgram, Place, Plan, Program, TensorDesc,
};
use tobiuo_kernels::{Argument, ENTRY, Target};

use super::lower::{Lowering, Operand};
use super::schedule::Schedule;
use super::sections::Sections;
use super::view::View;
use crate::graph::Graph;
use crate::plan::arena::{Interval, Packing, pack};
use crate::tactics::Tactic;

/// Alignment of buffers in arena and scratch memory, bytes.
const ALIGN: u64 = 256;

/// What a plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The graph after the passes.
    pub graph: &'a Graph,
    /// Items per run.
    pub batch: usize,
    /// The graph as layers over memory.
    pub lowering: &'a Lowering,
    /// A kernel for each layer.
    pub tactics: &'a [Tactic],
    /// Where each layer runs.
    pub schedule: &'a Schedule,
    /// The device.
    pub target: &'a Target,
    /// No two buffers share memory, so that every value can be read after a run.
    pub keep: bool,
}

/// Where a buffer of the lowering lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Home {
    Arena { offset: u64 },
    Input { index: u32 },
    Output { index: u32 },
}

/// A plan, and where each buffer of its lowering lies.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// What the engine holds.
    pub plan: Plan,
    /// One per buffer.
    pub homes: Vec<Home>,
    /// Sizes.
    pub memory: Memory,
}

/// Memory of a plan, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The arena.
    pub arena: u64,
    /// Largest sum of what is in use at once: no arrangement needs less.
    pub arena_lower_bound: u64,
    /// What all buffers would take without sharing.
    pub arena_unshared: u64,
    /// Scratch memory.
    pub scratch: u64,
    /// Inputs and outputs.
    pub bound: u64,
}

/// A kernel touches memory beyond what it is given: a mistake of the builder, never written
/// into an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssembleError {
    /// The layer's name.
    pub layer: String,
    /// Which argument, and how far it goes.
    pub what: String,
}

impl fmt::Display for AssembleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer '{}': {}; this is a mistake in tobiuo-builder", self.layer, self.what)
    }
}

impl std::error::Error for AssembleError {}

/// The launches that touch each buffer, ascending.
fn touched(lowering: &Lowering) -> Vec<Vec<usize>> {
    let mut out = vec![Vec::new(); lowering.buffers.len()];
    for (i, layer) in lowering.layers.iter().enumerate() {
        let views = layer.operands.iter().filter_map(|o| match o {
            Operand::View(v) => Some(v),
            Operand::Constant(_) => None,
        });
        for view in views.chain(&layer.outputs) {
            let launches: &mut Vec<usize> = &mut out[view.buffer.0];
            if launches.last() != Some(&i) {
                launches.push(i);
            }
        }
    }
    out
}

/// Between which places of the schedule each buffer of the arena is in use. Buffers that are
/// bound, or that no launch touches, take no bytes.
fn intervals(parts: &Parts, homes: &[Option<Home>]) -> Vec<Interval> {
    let places = parts.schedule.places();
    let end = parts.lowering.layers.len();
    let touched = touched(parts.lowering);
    (parts.lowering.buffers.iter().zip(&touched).zip(homes))
        .map(|((buffer, launches), home)| {
            let first = launches.iter().map(|&i| places[i].0).min();
            let last = launches.iter().map(|&i| places[i].1).max();
            match (home, first, last) {
                (None, Some(first), Some(last)) => Interval {
                    size: (buffer.bytes as u64).next_multiple_of(ALIGN),
                    first: if parts.keep { 0 } else { first },
                    last: if parts.keep { end } else { last },
                },
                _ => Interval { size: 0, first: 0, last: 0 },
            }
        })
        .collect()
}

fn tensor(name: &str, view: &View) -> TensorDesc {
    TensorDesc {
        name: name.into(),
        dtype: view.dtype,
        shape: view.shape.clone(),
        place: Place::Bound,
    }
}

/// Scratch memory of each layer.
struct Scratch {
    /// First ticket of each layer.
    tickets: Vec<u64>,
    /// Bytes of all tickets.
    zeroed: u64,
    /// First partial sum of each stream.
    partial: Vec<u64>,
    bytes: u64,
}

impl Scratch {
    fn of(tactics: &[Tactic], schedule: &Schedule) -> Scratch {
        let mut zeroed = 0;
        let tickets = (tactics.iter())
            .map(|t| {
                let here = zeroed;
                zeroed += (t.candidate.zeroed as u64).next_multiple_of(ALIGN);
                here
            })
            .collect();
        let mut bytes = zeroed;
        let partial = (0..schedule.streams)
            .map(|stream| {
                let here = bytes;
                let of_stream = tactics.iter().zip(&schedule.slots);
                let most = of_stream
                    .filter(|(_, slot)| slot.stream == stream)
                    .map(|(t, _)| (t.candidate.scratch - t.candidate.zeroed) as u64)
                    .max();
                bytes += most.unwrap_or(0).next_multiple_of(ALIGN);
                here
            })
            .collect();
        Scratch { tickets, zeroed, partial, bytes }
    }

    fn argument(&self, layer: usize, stream: usize, tactic: &Tactic, at: usize) -> CudaArgument {
        let (at, zeroed) = (at as u64, tactic.candidate.zeroed as u64);
        if at < zeroed {
            CudaArgument::Scratch { offset: self.tickets[layer] + at, bytes: zeroed - at }
        } else {
            CudaArgument::Scratch {
                offset: self.partial[stream] + at - zeroed,
                bytes: tactic.candidate.scratch as u64 - at,
            }
        }
    }
}

/// Scratch memory of a plan, bytes.
pub fn scratch_bytes(tactics: &[Tactic], schedule: &Schedule) -> u64 {
    Scratch::of(tactics, schedule).bytes
}

/// Where each buffer lies that a context binds; `None`: in the arena.
fn bound(lowering: &Lowering) -> Vec<Option<Home>> {
    let mut bound = vec![None; lowering.buffers.len()];
    for (i, view) in lowering.inputs.iter().enumerate() {
        bound[view.buffer.0] = Some(Home::Input { index: i as u32 });
    }
    for (i, view) in lowering.outputs.iter().enumerate() {
        bound[view.buffer.0] = Some(Home::Output { index: i as u32 });
    }
    bound
}

fn bytes_of(view: &View) -> u64 {
    (view.shape.iter().product::<usize>() * view.dtype.size()) as u64
}

/// Memory of a plan before its kernels are chosen: all but the scratch memory.
pub fn memory(parts: &Parts) -> Memory {
    let lowering = parts.lowering;
    let intervals = intervals(parts, &bound(lowering));
    memory_of(lowering, &intervals, &pack(&intervals), 0)
}

fn memory_of(
    lowering: &Lowering,
    intervals: &[Interval],
    packing: &Packing,
    scratch: u64,
) -> Memory {
    Memory {
        arena: packing.size,
        arena_lower_bound: packing.lower_bound,
        arena_unshared: intervals.iter().map(|i| i.size).sum(),
        scratch,
        bound: lowering.inputs.iter().chain(&lowering.outputs).map(bytes_of).sum(),
    }
}

/// An address in a buffer, and the bytes touched from there.
fn address(
    lowering: &Lowering,
    homes: &[Home],
    view: &View,
    touched: usize,
) -> Result<CudaArgument, String> {
    let capacity = match homes[view.buffer.0] {
        Home::Arena { .. } => lowering.buffers[view.buffer.0].bytes as u64,
        Home::Input { index } => bytes_of(&lowering.inputs[index as usize]),
        Home::Output { index } => bytes_of(&lowering.outputs[index as usize]),
    };
    let at = u64::try_from(view.offset).ok().and_then(|o| o.checked_mul(view.dtype.size() as u64));
    let at = at.filter(|&at| at <= capacity);
    let at = at.ok_or_else(|| format!("a view begins at element {} of a buffer", view.offset))?;
    let bytes = touched as u64;
    if bytes > capacity - at {
        return Err(format!("it touches {bytes} bytes where {} are left", capacity - at));
    }
    Ok(match homes[view.buffer.0] {
        Home::Arena { offset } => CudaArgument::Arena { offset: offset + at, bytes },
        Home::Input { index } => CudaArgument::Input { index, offset: at, bytes },
        Home::Output { index } => CudaArgument::Output { index, offset: at, bytes },
    })
}

/// Makes a plan; its constants and code join those of the engine's other plans.
pub fn assemble(parts: &Parts, sections: &mut Sections) -> Result<Assembled, AssembleError> {
    let Parts { graph, lowering, tactics, schedule, .. } = *parts;
    let bound = bound(lowering);
    let intervals = intervals(parts, &bound);
    let packing = pack(&intervals);
    let homes: Vec<Home> = (bound.iter().zip(&packing.offsets))
        .map(|(bound, &offset)| bound.unwrap_or(Home::Arena { offset }))
        .collect();
    let scratch = Scratch::of(tactics, schedule);
    let mut modules: Vec<CudaModule> = Vec::new();
    let mut known: HashMap<u64, u32> = HashMap::new();
    let weights: Vec<u64> = lowering.constants.iter().map(|c| sections.weights.add(c)).collect();
    let mut launches = Vec::with_capacity(tactics.len());
    for (i, (layer, tactic)) in lowering.layers.iter().zip(tactics).enumerate() {
        let offset = sections.code.add(&tactic.code.cubin);
        let module = *known.entry(offset).or_insert_with(|| {
            modules.push(CudaModule { offset, bytes: tactic.code.cubin.len() as u64 });
            modules.len() as u32 - 1
        });
        let slot = &schedule.slots[i];
        let extents = layer.layer.extents();
        let constant = |c: usize, touched: usize| {
            let capacity = lowering.constants[c].len();
            if touched > capacity {
                return Err(format!("it touches {touched} bytes of a constant of {capacity}"));
            }
            Ok(CudaArgument::Weights { offset: weights[c], bytes: touched as u64 })
        };
        let argument = |a: &Argument| match *a {
            Argument::Input(k) => match &layer.operands[k] {
                Operand::View(view) => address(lowering, &homes, view, extents.inputs[k]),
                Operand::Constant(c) => constant(*c, extents.inputs[k]),
            },
            Argument::Output(k) => address(lowering, &homes, &layer.outputs[k], extents.outputs[k]),
            Argument::Constant(k) => constant(layer.constants[k], extents.constants[k]),
            Argument::Scratch(at) => Ok(scratch.argument(i, slot.stream, tactic, at)),
            Argument::Null => Ok(CudaArgument::Null),
        };
        let mut arguments = Vec::with_capacity(tactic.candidate.arguments.len());
        for (number, a) in tactic.candidate.arguments.iter().enumerate() {
            arguments.push(argument(a).map_err(|why| AssembleError {
                layer: layer.name.clone(),
                what: format!("argument {number} of {}: {why}", tactic.candidate.label),
            })?);
        }
        launches.push(CudaLaunch {
            name: layer.name.clone(),
            op: layer.op.into(),
            family: layer.layer.family().into(),
            module,
            function: ENTRY.into(),
            grid: tactic.candidate.grid,
            block: [tactic.candidate.block, 1, 1],
            shared: tactic.candidate.shared,
            // What waits for another stream waits for the end of what is there, as usual.
            dependent: parts.target.dependent_launch()
                && slot.after.is_empty()
                && schedule.slots[..i].iter().any(|s| s.stream == slot.stream),
            stream: slot.stream as u32,
            after: slot.after.iter().map(|&p| p as u32).collect(),
            arguments,
            tactic: tactic.describe(),
            flops: layer.flops,
        });
    }
    let names = graph.inputs.iter().map(|&v| graph.value(v).name.as_str());
    let mut tensors: Vec<TensorDesc> =
        names.zip(&lowering.inputs).map(|(name, view)| tensor(name, view)).collect();
    let inputs: Vec<u32> = (0..tensors.len() as u32).collect();
    let names = graph.outputs.iter().map(|(name, _)| name.as_str());
    tensors.extend(names.zip(&lowering.outputs).map(|(name, view)| tensor(name, view)));
    let outputs = (inputs.len() as u32..tensors.len() as u32).collect();
    let memory = memory_of(lowering, &intervals, &packing, scratch.bytes);
    let program = CudaProgram {
        modules,
        scratch: scratch.bytes,
        zeroed: scratch.zeroed,
        launches,
        vision: None,
    };
    let plan = Plan {
        batch: parts.batch,
        arena: packing.size,
        tensors,
        inputs,
        outputs,
        program: Program::Cuda(program),
    };
    Ok(Assembled { plan, homes, memory })
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
