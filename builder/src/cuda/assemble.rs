//! From a lowering and its kernels to what an engine holds: a plan, code and weights.

use std::collections::HashMap;
use std::fmt;

use tobiuo_engine::{CudaLaunch, CudaModule, CudaProgram, Place, Plan, Program, TensorDesc};
use tobiuo_kernels::{ENTRY, Target};

pub use super::layout::{Home, Memory};

use super::layout::Layout;
use super::lower::Lowering;
use super::schedule::Schedule;
use super::sections::Sections;
use super::view::View;
use crate::graph::Graph;
use crate::tactics::Tactic;

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

fn tensor(name: &str, view: &View) -> TensorDesc {
    TensorDesc {
        name: name.into(),
        dtype: view.dtype,
        shape: view.shape.clone(),
        place: Place::Bound,
    }
}

/// Makes a plan; its constants and code join those of the engine's other plans.
pub fn assemble(parts: &Parts, sections: &mut Sections) -> Result<Assembled, AssembleError> {
    let Parts { graph, lowering, tactics, schedule, .. } = *parts;
    let candidates: Vec<_> = tactics.iter().map(|t| vec![&t.candidate]).collect();
    let layout = Layout::new(lowering, schedule, &candidates, parts.keep, &mut sections.weights);
    let mut modules: Vec<CudaModule> = Vec::new();
    let mut known: HashMap<u64, u32> = HashMap::new();
    let mut launches = Vec::with_capacity(tactics.len());
    for (i, (layer, tactic)) in lowering.layers.iter().zip(tactics).enumerate() {
        let offset = sections.code.add(&tactic.code.cubin);
        let module = *known.entry(offset).or_insert_with(|| {
            modules.push(CudaModule { offset, bytes: tactic.code.cubin.len() as u64 });
            modules.len() as u32 - 1
        });
        let slot = &schedule.slots[i];
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
            arguments: layout.arguments(lowering, i, slot.stream, &tactic.candidate)?,
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
    let Layout { homes, memory, .. } = layout;
    let program = CudaProgram {
        modules,
        scratch: memory.scratch,
        zeroed: memory.zeroed,
        carveout: schedule.carveout,
        launches,
        vision: None,
    };
    let plan = Plan {
        batch: parts.batch,
        arena: memory.arena,
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
