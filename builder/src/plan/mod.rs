//! The plan: where every tensor lies, and what runs in which order.
//!
//! [`plan`] lays out one optimised graph for the CPU device: values that are the same bytes
//! share them ([`storage`]), what is left gets offsets in one arena ([`arena`]), constants go
//! to the weights section once each ([`weights`]).

pub mod arena;
pub mod storage;
pub mod weights;

use std::fmt;

use serde::Serialize;
use tobiuo_engine::{Place, Plan, Program, Step, TensorDesc};
use tobiuo_ops::Op;

use crate::graph::{Graph, GraphError};
use arena::Packing;
use storage::{Pin, Storage};
use weights::Weights;

/// What planning did, for people and reports. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanReport {
    /// Items per run.
    pub batch: usize,
    /// Steps that run.
    pub steps: usize,
    /// The arena.
    pub arena: u64,
    /// Largest sum of what is live at one step: no arrangement needs less.
    pub arena_lower_bound: u64,
    /// What all buffers would take without sharing.
    pub arena_unshared: u64,
    /// Nodes that became views of their operand's bytes.
    pub views: usize,
    /// Concatenations whose operands are written in place.
    pub free_concats: usize,
    /// Operands that had to be copied into such a concatenation after all.
    pub copies: usize,
    /// Steps that overwrite an operand.
    pub in_place: usize,
}

/// Why a graph cannot be planned.
#[derive(Debug)]
pub enum PlanError {
    /// A tensor or the arena is larger than an engine may say.
    TooLarge(String),
    /// A mistake of the builder.
    Graph(GraphError),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::TooLarge(what) => f.write_str(what),
            PlanError::Graph(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Gives every output of the graph a tensor of its own: one that is an input, a constant or
/// an output under another name too is copied.
fn separate_outputs(mut graph: Graph) -> Result<Graph, PlanError> {
    let mut seen = std::collections::HashSet::new();
    for i in 0..graph.outputs.len() {
        let (name, v) = graph.outputs[i].clone();
        let given = graph.inputs.contains(&v) || graph.constant(v).is_some();
        if given || !seen.insert(v) {
            let shape = graph.shape(v).to_vec();
            let copy = graph
                .push(&format!("copy to {name}"), Op::Reshape { shape }, &[v], &[&name])
                .map_err(PlanError::Graph)?[0];
            graph.outputs[i].1 = copy;
            seen.insert(copy);
        }
    }
    Ok(graph)
}

/// Plans a graph for the CPU device. Constants join `weights`, which several plans may share.
///
/// Inputs and outputs keep byte ranges of their own for the whole run: they can be written
/// and read at any time between runs, and an input still holds its elements afterwards.
pub fn plan(
    graph: Graph,
    batch: usize,
    weights: &mut Weights,
) -> Result<(Plan, PlanReport), PlanError> {
    let graph = separate_outputs(graph)?;
    let storage = Storage::of(&graph)?;
    let intervals = storage.intervals();
    let packing: Packing = arena::pack(&intervals);
    let mut tensors = Vec::with_capacity(storage.tensors.len());
    for (t, tensor) in storage.tensors.iter().enumerate() {
        let place = match &tensor.constant {
            Some(constant) => Place::Weights(weights.add(constant)),
            None => {
                let (buffer, offset) = storage.place(t);
                Place::Arena(packing.offsets[buffer] + offset)
            }
        };
        tensors.push(TensorDesc {
            name: tensor.name.clone(),
            dtype: tensor.fact.dtype,
            shape: tensor.fact.shape.clone(),
            place,
        });
    }
    let number = |t: &usize| *t as u32;
    let steps: Vec<Step> = storage
        .steps
        .iter()
        .map(|s| Step {
            name: s.name.clone(),
            op: s.op.clone(),
            inputs: s.inputs.iter().map(number).collect(),
            outputs: s.outputs.iter().map(number).collect(),
        })
        .collect();
    let report = PlanReport {
        batch,
        steps: steps.len(),
        arena: packing.size,
        arena_lower_bound: packing.lower_bound,
        arena_unshared: intervals.iter().map(|i| i.size).sum(),
        views: storage.views,
        free_concats: storage.free_concats,
        copies: storage.copies,
        in_place: storage.in_place,
    };
    let pinned = |pin| storage.pinned(pin).iter().map(number).collect::<Vec<u32>>();
    let plan = Plan {
        batch,
        arena: packing.size,
        inputs: pinned(Pin::Input),
        outputs: pinned(Pin::Output),
        tensors,
        program: Program::Cpu(steps),
    };
    Ok((plan, report))
}

#[cfg(test)]
mod tests;
