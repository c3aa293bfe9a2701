//! Where everything of a plan lies: buffers in the arena, constants in the weights section,
//! tickets and partial sums in the scratch memory.
//!
//! The graph's inputs and outputs are memory of their own that a context binds; everything
//! else a launch writes for a later one lies in the arena, where buffers that are never in use
//! at once share bytes. The scratch memory begins with the tickets of every layer (zero before
//! the first run, and left zero), then has one region of partial sums for each stream: launches
//! of a stream follow one another.

use serde::Serialize;
use tobiuo_engine::CudaArgument;
use tobiuo_kernels::{Argument, Candidate};

use super::assemble::AssembleError;
use super::lower::{Lowering, Operand};
use super::schedule::Schedule;
use super::sections::Section;
use super::view::View;
use crate::plan::arena::{Interval, pack};

/// Alignment of buffers in arena and scratch memory, bytes.
const ALIGN: u64 = 256;

/// Where a buffer of the lowering lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Home {
    Arena { offset: u64 },
    Input { index: u32 },
    Output { index: u32 },
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
    /// Its first bytes, which are zero before the first run.
    pub zeroed: u64,
    /// Inputs and outputs.
    pub bound: u64,
}

/// Where everything of a plan lies.
#[derive(Clone, Debug)]
pub struct Layout {
    /// One per buffer.
    pub homes: Vec<Home>,
    /// Sizes.
    pub memory: Memory,
    weights: Vec<u64>,
    /// First ticket of each layer.
    tickets: Vec<u64>,
    /// First partial sum of each stream.
    partial: Vec<u64>,
}

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
fn intervals(
    lowering: &Lowering,
    schedule: &Schedule,
    keep: bool,
    bound: &[Option<Home>],
) -> Vec<Interval> {
    let places = schedule.places();
    let end = lowering.layers.len();
    (lowering.buffers.iter().zip(&touched(lowering)).zip(bound))
        .map(|((buffer, launches), home)| {
            let first = launches.iter().map(|&i| places[i].0).min();
            let last = launches.iter().map(|&i| places[i].1).max();
            match (home, first, last) {
                (None, Some(first), Some(last)) => Interval {
                    size: (buffer.bytes as u64).next_multiple_of(ALIGN),
                    first: if keep { 0 } else { first },
                    last: if keep { end } else { last },
                },
                _ => Interval { size: 0, first: 0, last: 0 },
            }
        })
        .collect()
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

/// Bytes of a dense view's elements.
pub fn bytes_of(view: &View) -> u64 {
    (view.shape.iter().product::<usize>() * view.dtype.size()) as u64
}

impl Layout {
    /// Lays out a lowering for a schedule. `candidates` are those that may run for each layer,
    /// none where they are not chosen yet; with `keep` no two buffers share memory, so that
    /// every value can be read after a run. Constants join `weights`.
    pub fn new(
        lowering: &Lowering,
        schedule: &Schedule,
        candidates: &[Vec<&Candidate>],
        keep: bool,
        weights: &mut Section,
    ) -> Layout {
        let bound = bound(lowering);
        let intervals = intervals(lowering, schedule, keep, &bound);
        let packing = pack(&intervals);
        let mut zeroed = 0;
        let tickets: Vec<u64> = (candidates.iter())
            .map(|list| {
                let here = zeroed;
                let most = list.iter().map(|c| c.zeroed as u64).max().unwrap_or(0);
                zeroed += most.next_multiple_of(ALIGN);
                here
            })
            .collect();
        let mut scratch = zeroed;
        let partial = (0..schedule.streams)
            .map(|stream| {
                let here = scratch;
                let of_stream = candidates.iter().zip(&schedule.slots);
                let most = (of_stream.filter(|(_, slot)| slot.stream == stream))
                    .flat_map(|(list, _)| list.iter().map(|c| (c.scratch - c.zeroed) as u64))
                    .max();
                scratch += most.unwrap_or(0).next_multiple_of(ALIGN);
                here
            })
            .collect();
        Layout {
            homes: (bound.iter().zip(&packing.offsets))
                .map(|(bound, &offset)| bound.unwrap_or(Home::Arena { offset }))
                .collect(),
            memory: Memory {
                arena: packing.size,
                arena_lower_bound: packing.lower_bound,
                arena_unshared: intervals.iter().map(|i| i.size).sum(),
                scratch,
                zeroed,
                bound: lowering.inputs.iter().chain(&lowering.outputs).map(bytes_of).sum(),
            },
            weights: lowering.constants.iter().map(|c| weights.add(c)).collect(),
            tickets,
            partial,
        }
    }

    /// What a candidate's kernel is given when it runs as layer `i` on a stream.
    pub fn arguments(
        &self,
        lowering: &Lowering,
        i: usize,
        stream: usize,
        candidate: &Candidate,
    ) -> Result<Vec<CudaArgument>, AssembleError> {
        let layer = &lowering.layers[i];
        let extents = layer.layer.extents();
        let constant = |c: usize, touched: usize| {
            let capacity = lowering.constants[c].len();
            if touched > capacity {
                return Err(format!("it touches {touched} bytes of a constant of {capacity}"));
            }
            Ok(CudaArgument::Weights { offset: self.weights[c], bytes: touched as u64 })
        };
        let argument = |a: &Argument| match *a {
            Argument::Input(k) => match &layer.operands[k] {
                Operand::View(view) => self.address(lowering, view, extents.inputs[k]),
                Operand::Constant(c) => constant(*c, extents.inputs[k]),
            },
            Argument::Output(k) => self.address(lowering, &layer.outputs[k], extents.outputs[k]),
            Argument::Constant(k) => constant(layer.constants[k], extents.constants[k]),
            Argument::Scratch(at) => {
                let (at, zeroed) = (at as u64, candidate.zeroed as u64);
                Ok(if at < zeroed {
                    CudaArgument::Scratch { offset: self.tickets[i] + at, bytes: zeroed - at }
                } else {
                    CudaArgument::Scratch {
                        offset: self.partial[stream] + at - zeroed,
                        bytes: candidate.scratch as u64 - at,
                    }
                })
            }
            Argument::Null => Ok(CudaArgument::Null),
        };
        let number = |(number, a)| {
            argument(a).map_err(|why| AssembleError {
                layer: layer.name.clone(),
                what: format!("argument {number} of {}: {why}", candidate.label),
            })
        };
        candidate.arguments.iter().enumerate().map(number).collect()
    }

    /// An address in a buffer, and the bytes touched from there.
    fn address(
        &self,
        lowering: &Lowering,
        view: &View,
        touched: usize,
    ) -> Result<CudaArgument, String> {
        let home = self.homes[view.buffer.0];
        let capacity = match home {
            Home::Arena { .. } => lowering.buffers[view.buffer.0].bytes as u64,
            Home::Input { index } => bytes_of(&lowering.inputs[index as usize]),
            Home::Output { index } => bytes_of(&lowering.outputs[index as usize]),
        };
        let first = u64::try_from(view.offset).ok();
        let at = first.and_then(|o| o.checked_mul(view.dtype.size() as u64));
        let at = at.filter(|&at| at <= capacity).ok_or_else(|| {
            format!("a view begins at element {} of a buffer of {capacity} bytes", view.offset)
        })?;
        let bytes = touched as u64;
        if bytes > capacity - at {
            return Err(format!("it touches {bytes} bytes where {} are left", capacity - at));
        }
        Ok(match home {
            Home::Arena { offset } => CudaArgument::Arena { offset: offset + at, bytes },
            Home::Input { index } => CudaArgument::Input { index, offset: at, bytes },
            Home::Output { index } => CudaArgument::Output { index, offset: at, bytes },
        })
    }
}

#[cfg(test)]
pub(super) fn touched_by(lowering: &Lowering) -> Vec<Vec<usize>> {
    touched(lowering)
}
