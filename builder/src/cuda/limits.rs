//! Device memory that an engine may take.

use super::layout::{Layout, Memory};
use super::lower::Lowering;
use super::make::CudaPlanReport;
use super::schedule::Schedule;
use super::sections::Sections;
use crate::BuildError;
use crate::tactics::{Chooser, Tactic, Tuning};

/// How much memory may be used, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of the engine with one context, and of timing.
    pub memory: Option<u64>,
    /// Scratch memory, as the user asked.
    pub asked_scratch: Option<u64>,
}

impl Limits {
    /// What is left for scratch memory beside what is needed in any case.
    pub fn scratch(&self, fixed: u64) -> Option<u64> {
        let left = self.memory.map(|m| m.saturating_sub(fixed));
        match (left, self.asked_scratch) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// Memory that no choice of kernels changes, bytes; zero where there is no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    /// Weights of all plans.
    pub weights: u64,
    /// With arena, inputs and outputs of the largest plan.
    pub all: u64,
}

/// Weights, arena, inputs and outputs of the largest plan, if they are within the limit.
pub(super) fn fixed_memory(
    lowerings: &[&Lowering],
    limit: Option<u64>,
) -> Result<Fixed, BuildError> {
    let Some(limit) = limit else { return Ok(Fixed { weights: 0, all: 0 }) };
    let mut sections = Sections::default();
    let mut largest = Memory::default();
    for lowering in lowerings {
        let serial = Schedule::serial(lowering.layers.len());
        let weights = &mut sections.weights;
        let memory = Layout::new(lowering, &serial, &[], false, weights).memory;
        if total(&memory) > total(&largest) {
            largest = memory;
        }
    }
    let weights = sections.weights.bytes().len() as u64;
    let fixed = weights + largest.arena + largest.bound;
    if fixed > limit {
        return Err(BuildError::Memory(format!(
            "the engine needs {fixed} bytes of device memory at least ({weights} weights, {} \
             arena, {} inputs and outputs); --memory-limit allows {limit}. A smaller --batch or \
             --precision fp16 needs less",
            largest.arena, largest.bound
        )));
    }
    Ok(Fixed { weights, all: fixed })
}

/// What was chosen, the work it took, and the scratch memory it needs.
type Tried<T> = Result<(T, Tuning, u64), BuildError>;

/// Chooses with less and less scratch memory for one layer until all together fit: the tickets
/// of all layers lie beside the partial sums of the largest.
pub(super) fn fitting<T>(
    chooser: &mut Chooser,
    limits: &Limits,
    fixed: u64,
    choose: &mut dyn FnMut(&mut Chooser) -> Tried<T>,
) -> Result<(T, Tuning), BuildError> {
    let mut total = Tuning::default();
    loop {
        let (chosen, took, scratch) = choose(chooser)?;
        total.add(&took);
        let over = limits.scratch(fixed).map_or(0, |most| scratch.saturating_sub(most));
        if over == 0 {
            return Ok((chosen, total));
        }
        let now = chooser.scratch_limit.unwrap_or(0);
        if now == 0 {
            return Err(BuildError::Memory(format!(
                "{scratch} bytes of scratch memory are needed, {} are left beside {fixed} of \
                 weights, arena, inputs and outputs",
                limits.scratch(fixed).unwrap_or(0)
            )));
        }
        chooser.scratch_limit = Some(now.saturating_sub(over));
    }
}

/// Memory of one context.
pub(super) fn total(m: &Memory) -> u64 {
    m.arena + m.scratch + m.bound
}

/// Memory of a plan with these tactics.
pub(super) fn memory(lowering: &Lowering, schedule: &Schedule, tactics: &[Tactic]) -> Memory {
    let candidates: Vec<_> = tactics.iter().map(|t| vec![&t.candidate]).collect();
    let mut sections = Sections::default();
    Layout::new(lowering, schedule, &candidates, false, &mut sections.weights).memory
}

/// The numbers that were promised.
pub(super) fn check_limit(
    limit: u64,
    sections: &Sections,
    plans: &[CudaPlanReport],
) -> Result<(), BuildError> {
    let weights = sections.weights.bytes().len() as u64;
    let most = plans.iter().map(|p| p.memory).max_by_key(total).unwrap_or_default();
    let total = weights + total(&most);
    if total <= limit {
        return Ok(());
    }
    Err(BuildError::Memory(format!(
        "the engine takes {total} bytes of device memory ({weights} weights, {} arena, {} scratch, \
         {} inputs and outputs); --memory-limit allows {limit}",
        most.arena, most.scratch, most.bound
    )))
}
