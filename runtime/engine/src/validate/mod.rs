//! Is what a manifest says possible? Nothing in it is used before this says so.

mod cuda;
mod flow;
mod meaning;

use std::collections::HashSet;

use tobiuo_ops::{Fact, infer};

use crate::error::shown;
use crate::{
    DeviceKey, EngineError, EngineErrorKind, Manifest, Place, Plan, Port, Program, Step,
    TENSOR_ALIGN, TensorDesc,
};

/// More of something than these is refused.
pub mod limits {
    /// Plans of an engine.
    pub const PLANS: usize = 64;
    /// Inputs, and outputs, of an engine.
    pub const PORTS: usize = 4096;
    /// Tensors of all plans together.
    pub const TENSORS: usize = 1_000_000;
    /// Steps of all plans together.
    pub const STEPS: usize = 1_000_000;
    /// Bytes of an arena: 64 GiB.
    pub const ARENA: u64 = 64 << 30;
    /// Items of a batch.
    pub const BATCH: usize = 65_536;
    /// Class names.
    pub const LABELS: usize = 1_000_000;
    /// Launches of all plans together, and modules of all plans together.
    pub const LAUNCHES: usize = 1_000_000;
    /// Launches that others come after, counted once for each that does.
    pub const WAITS: usize = 4_000_000;
    /// Streams of a plan.
    pub const STREAMS: u32 = 64;
    /// Arguments of a kernel.
    pub const ARGUMENTS: usize = 16;
    /// Detections kept per picture.
    pub const DETECTIONS: usize = 1_000_000;
}

/// Where a plan's tensor lies, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) in_arena: bool,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) fn overlaps(self, other: Range) -> bool {
        self.in_arena == other.in_arena && self.start.max(other.start) < self.end.min(other.end)
    }

    pub(crate) fn contains(self, other: Range) -> bool {
        self.in_arena == other.in_arena && self.start <= other.start && other.end <= self.end
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

fn inconsistent(reason: impl Into<String>) -> EngineError {
    EngineError::new(EngineErrorKind::Inconsistent, reason)
}

/// At most `most`, or an error that says what there is too much of.
fn limit(what: &str, is: u64, most: u64) -> Result<(), EngineError> {
    if is <= most {
        return Ok(());
    }
    Err(EngineError::new(EngineErrorKind::Limit, format!("{what}: {is}; at most {most}")))
}

/// Checks a manifest against itself and against the lengths of the weights section and of the
/// code section, which CUDA engines have.
///
/// After it, for the CPU device: every tensor lies in bounds and aligned; every index is in range; every step's
/// outputs are what its op gives for its inputs; outputs overlap inputs only as [`Step`]
/// allows; every tensor that is read was written before, and not overwritten since; inputs,
/// outputs, task, preprocessing and labels agree with each other in every plan. For a CUDA
/// device: every module lies in the code section; every launch has a geometry that devices
/// can have and waits only for earlier ones; every argument's bytes lie inside its region; every
/// output is given to a launch; the tensors are exactly the inputs and outputs.
///
/// The error names the plan and step by number and name.
pub fn validate(
    manifest: &Manifest,
    weights_len: u64,
    code_len: Option<u64>,
) -> Result<(), EngineError> {
    ports("input", &manifest.inputs)?;
    ports("output", &manifest.outputs)?;
    if manifest.outputs.is_empty() {
        return Err(inconsistent("no outputs"));
    }
    if manifest.plans.is_empty() {
        return Err(inconsistent("no plans"));
    }
    limit("plans", manifest.plans.len() as u64, limits::PLANS as u64)?;
    let total = |count: fn(&Plan) -> usize| manifest.plans.iter().map(count).sum::<usize>() as u64;
    limit("tensors", total(|p| p.tensors.len()), limits::TENSORS as u64)?;
    limit("steps", total(|p| p.steps().len()), limits::STEPS as u64)?;
    cuda::limits(manifest)?;
    let mut before = 0;
    for plan in &manifest.plans {
        if plan.batch <= before {
            return Err(inconsistent(format!(
                "the plans' batches are not ascending: {} after {before}",
                plan.batch
            )));
        }
        limit("batch", plan.batch as u64, limits::BATCH as u64)?;
        before = plan.batch;
        self::plan(manifest, plan, weights_len, code_len)?;
    }
    if code_len.is_some() != matches!(manifest.device, DeviceKey::Cuda(_)) {
        return Err(inconsistent(match code_len {
            Some(_) => "a code section in an engine for the CPU device",
            None => "no code section in an engine for a CUDA device",
        }));
    }
    meaning::check(manifest)
}

fn ports(what: &str, ports: &[Port]) -> Result<(), EngineError> {
    limit(&format!("{what}s"), ports.len() as u64, limits::PORTS as u64)?;
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        if port.name.is_empty() {
            return Err(inconsistent("it has no name").at(format!("{what} {i}")));
        }
        if !names.insert(&port.name) {
            return Err(inconsistent(format!("two {what}s have the name {}", shown(&port.name))));
        }
    }
    Ok(())
}

impl Plan {
    /// The steps of the CPU device.
    pub fn steps(&self) -> &[Step] {
        match &self.program {
            Program::Cpu(steps) => steps,
            Program::Cuda(_) => &[],
        }
    }
}

impl TensorDesc {
    /// Type and shape.
    pub fn fact(&self) -> Fact {
        Fact { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// Bytes of its elements, or `None` when they do not fit 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        let size = self.dtype.size() as u64;
        self.shape.iter().try_fold(size, |n, &d| n.checked_mul(d as u64))
    }
}

/// A tensor as messages name it.
fn tensor_name(plan: &Plan, t: u32) -> String {
    format!("tensor {t} {}", shown(&plan.tensors[t as usize].name))
}

fn plan(
    manifest: &Manifest,
    plan: &Plan,
    weights_len: u64,
    code_len: Option<u64>,
) -> Result<(), EngineError> {
    let here = format!("plan for batch {}", plan.batch);
    limit("arena bytes", plan.arena, limits::ARENA).map_err(|e| e.at(&here))?;
    let key = match (&manifest.device, &plan.program) {
        (DeviceKey::Cpu { .. }, Program::Cpu(_)) => None,
        (DeviceKey::Cuda(key), Program::Cuda(program)) => Some((key, program)),
        (key, _) => {
            let reason =
                format!("it is for another kind of device than the engine, {}", key.name());
            return Err(inconsistent(reason).at(&here));
        }
    };
    if let Some((key, program)) = key {
        plan_ports(manifest, plan, "input", &manifest.inputs, &plan.inputs)
            .and_then(|()| plan_ports(manifest, plan, "output", &manifest.outputs, &plan.outputs))
            .map_err(|e| e.at(&here))?;
        let regions = cuda::Regions { weights: weights_len, code: code_len.unwrap_or(0) };
        return cuda::plan(manifest, plan, (key, program), regions, &here);
    }
    let mut ranges = Vec::with_capacity(plan.tensors.len());
    for (i, tensor) in plan.tensors.iter().enumerate() {
        ranges.push(
            place(tensor, plan.arena, weights_len)
                .map_err(|e| e.at(format!("{here}, tensor {i} {}", shown(&tensor.name))))?,
        );
    }
    plan_ports(manifest, plan, "input", &manifest.inputs, &plan.inputs)
        .and_then(|()| plan_ports(manifest, plan, "output", &manifest.outputs, &plan.outputs))
        .map_err(|e| e.at(&here))?;
    let at_step = |e: EngineError, i: usize, step: &Step| {
        e.at(format!("{here}, step {i} {} ({})", shown(&step.name), step.op.name()))
    };
    for (i, step) in plan.steps().iter().enumerate() {
        self::step(plan, step).map_err(|e| at_step(e, i, step))?;
    }
    let mut flow = flow::Flow::new(plan, &ranges);
    flow.inputs(&plan.inputs).map_err(|e| e.at(&here))?;
    for (i, step) in plan.steps().iter().enumerate() {
        flow.step(step).map_err(|e| at_step(e, i, step))?;
    }
    flow.outputs(&plan.outputs).map_err(|e| e.at(&here))
}

fn rank(tensor: &TensorDesc) -> Result<(), EngineError> {
    if tensor.shape.len() <= tobiuo_ops::MAX_RANK {
        return Ok(());
    }
    Err(EngineError::new(
        EngineErrorKind::Limit,
        format!("{} axes; at most {}", tensor.shape.len(), tobiuo_ops::MAX_RANK),
    ))
}

/// A tensor's bytes, when they lie in bounds and aligned.
fn place(tensor: &TensorDesc, arena: u64, weights_len: u64) -> Result<Range, EngineError> {
    rank(tensor)?;
    let (in_arena, start, len) = match tensor.place {
        Place::Arena(start) => (true, start, arena),
        Place::Weights(start) => (false, start, weights_len),
        Place::Bound => return Err(inconsistent("it has no place, in a plan for the CPU device")),
    };
    let region = if in_arena { "arena" } else { "weights section" };
    if start % TENSOR_ALIGN != 0 {
        return Err(inconsistent(format!(
            "it begins at byte {start} of the {region}, which is no multiple of {TENSOR_ALIGN}"
        )));
    }
    let end = tensor.bytes().and_then(|n| start.checked_add(n)).filter(|&end| end <= len);
    let Some(end) = end else {
        return Err(inconsistent(format!(
            "{} {:?} at byte {start} does not fit the {region}, which has {len} bytes",
            tensor.dtype, tensor.shape
        )));
    };
    Ok(Range { in_arena, start, end })
}

/// The plan's tensors of the engine's inputs or outputs: as many, in range, of the ports'
/// types and shapes. In a plan after the first, axis 0 is either the same or has grown as
/// the batch has.
fn plan_ports(
    manifest: &Manifest,
    plan: &Plan,
    what: &str,
    ports: &[Port],
    tensors: &[u32],
) -> Result<(), EngineError> {
    if ports.len() != tensors.len() {
        return Err(inconsistent(format!(
            "{} tensors for the engine's {} {what}s",
            tensors.len(),
            ports.len()
        )));
    }
    let first = manifest.plans[0].batch;
    for (port, &t) in ports.iter().zip(tensors) {
        let Some(tensor) = plan.tensors.get(t as usize) else {
            return Err(no_tensor(plan, t, &format!("{what} {}", shown(&port.name))));
        };
        let grown =
            |a: usize, b: usize| a as u128 * first as u128 == b as u128 * plan.batch as u128;
        let fits = tensor.dtype == port.dtype
            && match (&tensor.shape[..], &port.shape[..]) {
                (a, b) if a == b => true,
                ([a, x @ ..], [b, y @ ..]) => x == y && grown(*a, *b),
                _ => false,
            };
        if !fits {
            return Err(inconsistent(format!(
                "{what} {} is {} {:?} at batch {first}, but its {} is {} {:?} at batch {}",
                shown(&port.name),
                port.dtype,
                port.shape,
                tensor_name(plan, t),
                tensor.dtype,
                tensor.shape,
                plan.batch
            )));
        }
    }
    Ok(())
}

fn no_tensor(plan: &Plan, t: u32, who: &str) -> EngineError {
    inconsistent(format!("{who} is tensor {t}; the plan has {}", plan.tensors.len()))
}

/// A step's indices are in range and its outputs are what its op gives for its inputs.
fn step(plan: &Plan, step: &Step) -> Result<(), EngineError> {
    let fact = |what: &str, i: usize, t: u32| {
        let tensor = plan.tensors.get(t as usize);
        let tensor = tensor.ok_or_else(|| no_tensor(plan, t, &format!("{what} {i}")))?;
        Ok::<_, EngineError>(tensor.fact())
    };
    let facts = |what: &str, list: &[u32]| {
        list.iter().enumerate().map(|(i, &t)| fact(what, i, t)).collect::<Result<Vec<_>, _>>()
    };
    let inputs = facts("input", &step.inputs)?;
    let outputs = facts("output", &step.outputs)?;
    let expected = infer(&step.op, &inputs).map_err(inconsistent)?;
    if outputs.len() != expected.len() {
        return Err(inconsistent(format!(
            "it has {} outputs; the op gives {}",
            outputs.len(),
            expected.len()
        )));
    }
    for (i, (is, should)) in outputs.iter().zip(&expected).enumerate() {
        if is != should {
            return Err(inconsistent(format!("output {i} is {is}; the op gives {should}")));
        }
    }
    Ok(())
}
