use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use tobiuo_engine::manifest::{Place, Plan, Program, Step, TENSOR_ALIGN, TensorDesc};
use tobiuo_ops::{Fact, Op, in_place_inputs, infer, view_offset};
use tobiuo_tensor::{TensorView, TensorViewMut, ViewData, ViewDataMut, checked_numel};

use crate::executor::State;
use crate::{CpuError, Inputs, Kernel, Threads, prepare};

/// The bytes of an engine's weights section, shared by all who read them.
pub type Weights = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Most outputs of one step.
const MAX_OUTPUTS: usize = 8;

/// A plan made ready to run: its steps' kernels with their packed weights. Immutable; the
/// executors of an engine share it.
pub struct CpuProgram {
    plan: Plan,
    weights: Weights,
    kernels: Vec<Prepared>,
    scratch: usize,
}

/// A step made ready.
struct Prepared {
    /// `None`: the outputs' bytes are the inputs', nothing is to be done.
    kernel: Option<Box<dyn Kernel>>,
    inputs: Vec<Source>,
    /// Output indices by ascending place in the arena, with their bytes.
    outputs: Vec<(usize, Range<usize>)>,
}

/// Where a step finds an operand.
enum Source {
    Weights(Range<usize>),
    /// In the arena, before the first output (0), between outputs, or behind the last;
    /// the range counts from that part's begin.
    Arena(usize, Range<usize>),
    /// It is output 0's bytes.
    InPlace,
}

/// Bytes of a tensor whose descriptor was checked.
pub(crate) fn bytes_of(desc: &TensorDesc) -> usize {
    desc.shape.iter().product::<usize>() * desc.dtype.size()
}

fn err<T>(what: String) -> Result<T, CpuError> {
    Err(CpuError(what))
}

impl CpuProgram {
    /// Checks a plan, whatever it holds, and prepares its kernels on all `threads`.
    ///
    /// `weights` is the engine's weights section, aligned to 64 bytes. Kernels that pack
    /// their weights do not read the original again: `release` is told its byte range in the
    /// section, so that the pages of a mapped file can be given back at once.
    pub fn new(
        plan: Plan,
        weights: Weights,
        threads: &Threads,
        release: &(dyn Fn(Range<u64>) + Sync),
    ) -> Result<Arc<CpuProgram>, CpuError> {
        let Program::Cpu(steps) = &plan.program else {
            return err("the plan's program is not one of the CPU device".into());
        };
        check_tensors(&plan, (*weights).as_ref())?;
        // How many steps may still read a weight tensor's bytes.
        let mut readers: Vec<AtomicUsize> = Vec::new();
        readers.resize_with(plan.tensors.len(), AtomicUsize::default);
        for step in steps {
            for &t in &step.inputs {
                if let Some(count) = readers.get(t as usize) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for &t in &plan.outputs {
            readers[t as usize].fetch_add(1, Ordering::Relaxed);
        }
        let kernels = threads.install(|| {
            steps
                .par_iter()
                .enumerate()
                .map(|(i, step)| {
                    let prepared = prepare_step(&plan, (*weights).as_ref(), step).map_err(|e| {
                        CpuError(format!("step {i} '{}' ({}): {e}", step.name, step.op.name()))
                    })?;
                    for (operand, &t) in step.inputs.iter().enumerate() {
                        let desc = &plan.tensors[t as usize];
                        let Place::Weights(at) = desc.place else { continue };
                        let packed = prepared.kernel.as_ref().is_none_or(|k| !k.reads(operand));
                        let count = &readers[t as usize];
                        if packed && count.fetch_sub(1, Ordering::AcqRel) == 1 {
                            release(at..at + bytes_of(desc) as u64);
                        }
                    }
                    Ok(prepared)
                })
                .collect::<Result<Vec<_>, CpuError>>()
        })??;
        let scratch = kernels.iter().flat_map(|k| &k.kernel).map(|k| k.scratch_bytes()).max();
        Ok(Arc::new(CpuProgram { scratch: scratch.unwrap_or(0), plan, weights, kernels }))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The plan's steps.
    pub fn steps(&self) -> &[Step] {
        match &self.plan.program {
            Program::Cpu(steps) => steps,
            _ => &[],
        }
    }

    /// The weights section.
    pub(crate) fn weights(&self) -> &[u8] {
        (*self.weights).as_ref()
    }

    /// Working memory of the neediest kernel, bytes.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Runs steps, on a thread of the pool.
    pub(crate) fn run_steps(&self, state: &mut State, steps: Range<usize>) {
        let State { arena, scratch, times } = state;
        for i in steps {
            let begin = Instant::now();
            self.run_step(i, arena.bytes_mut(), scratch.bytes_mut());
            times[i] = begin.elapsed();
        }
    }

    fn run_step(&self, i: usize, arena: &mut [u8], scratch: &mut [u8]) {
        let prepared = &self.kernels[i];
        let Some(kernel) = &prepared.kernel else { return };
        let step = &self.steps()[i];
        let desc = |t: u32| &self.plan.tensors[t as usize];
        const ALIGNED: &str = "checked: aligned";

        let mut outs: [TensorViewMut<'_>; MAX_OUTPUTS] =
            std::array::from_fn(|_| TensorViewMut { shape: &[0], data: ViewDataMut::U8(&mut []) });
        let mut parts: [&[u8]; MAX_OUTPUTS + 1] = [&[]; MAX_OUTPUTS + 1];
        let mut rest = arena;
        let mut done = 0;
        for (n, (o, range)) in prepared.outputs.iter().enumerate() {
            let (before, tail) = rest.split_at_mut(range.start - done);
            let (bytes, tail) = tail.split_at_mut(range.len());
            let out = desc(step.outputs[*o]);
            let data = ViewDataMut::from_bytes(out.dtype, bytes).expect(ALIGNED);
            outs[*o] = TensorViewMut { shape: &out.shape, data };
            parts[n] = before;
            rest = tail;
            done = range.end;
        }
        parts[prepared.outputs.len()] = rest;
        let get = |operand: usize| {
            let bytes = match &prepared.inputs[operand] {
                Source::Weights(range) => &self.weights()[range.clone()],
                Source::Arena(part, range) => &parts[*part][range.clone()],
                Source::InPlace => return None,
            };
            let x = desc(step.inputs[operand]);
            let data = ViewData::from_bytes(x.dtype, bytes).expect(ALIGNED);
            Some(TensorView { shape: &x.shape, data })
        };
        let inputs = Inputs::new(step.inputs.len(), &get);
        kernel.run(inputs, &mut outs[..step.outputs.len()], scratch);
    }
}

/// Every tensor lies inside its section, aligned; inputs and outputs exist.
fn check_tensors(plan: &Plan, weights: &[u8]) -> Result<(), CpuError> {
    if weights.as_ptr().align_offset(TENSOR_ALIGN as usize) != 0 {
        return err(format!("the weights section is not aligned to {TENSOR_ALIGN} bytes"));
    }
    for (i, t) in plan.tensors.iter().enumerate() {
        let bytes = checked_numel(&t.shape)
            .and_then(|n| n.checked_mul(t.dtype.size()))
            .filter(|&n| isize::try_from(n).is_ok());
        let (section, at, len) = match t.place {
            Place::Arena(at) => ("arena", at, plan.arena),
            Place::Weights(at) => ("weights", at, weights.len() as u64),
            Place::Bound => return err(format!("tensor {i} '{}' has no place", t.name)),
        };
        let fits = bytes
            .and_then(|n| at.checked_add(n as u64))
            .is_some_and(|end| at % TENSOR_ALIGN == 0 && end <= len);
        if !fits {
            return err(format!(
                "tensor {i} '{}': {} {:?} at byte {at} does not lie aligned inside the {section} \
                 of {len} bytes",
                t.name, t.dtype, t.shape
            ));
        }
    }
    for (what, list) in [("input", &plan.inputs), ("output", &plan.outputs)] {
        for (i, &t) in list.iter().enumerate() {
            match plan.tensors.get(t as usize).map(|d| d.place) {
                None => return err(format!("{what} {i}: there is no tensor {t}")),
                Some(Place::Weights(_)) if what == "input" => {
                    return err(format!("input {i}: tensor {t} is a weight"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Checks a step against the rules of [`Step`] and prepares its kernel.
fn prepare_step(plan: &Plan, weights: &[u8], step: &Step) -> Result<Prepared, CpuError> {
    let find = |t: &u32| {
        plan.tensors
            .get(*t as usize)
            .ok_or_else(|| CpuError(format!("there is no tensor {t} in the plan")))
    };
    let inputs: Vec<&TensorDesc> = step.inputs.iter().map(find).collect::<Result<_, _>>()?;
    let outputs: Vec<&TensorDesc> = step.outputs.iter().map(find).collect::<Result<_, _>>()?;
    let fact = |d: &&TensorDesc| Fact { dtype: d.dtype, shape: d.shape.clone() };
    let facts: Vec<Fact> = inputs.iter().map(fact).collect();
    let expected = infer(&step.op, &facts).map_err(CpuError)?;
    let given: Vec<Fact> = outputs.iter().map(fact).collect();
    if expected != given {
        return err(format!("its outputs are {given:?}, the plan should say {expected:?}"));
    }
    if outputs.len() > MAX_OUTPUTS {
        return err(format!("{} outputs; at most {MAX_OUTPUTS} are supported", outputs.len()));
    }

    let mut placed = Vec::new();
    for (o, d) in outputs.iter().enumerate() {
        let Place::Arena(at) = d.place else {
            return err(format!("output '{}' lies among the weights", d.name));
        };
        placed.push((o, at as usize..at as usize + bytes_of(d)));
    }
    placed.sort_by_key(|(_, r)| (r.start, r.end));
    if let Some(w) = placed.windows(2).find(|w| w[0].1.end > w[1].1.start) {
        let name = |i: usize| &outputs[w[i].0].name;
        return err(format!("outputs '{}' and '{}' overlap", name(0), name(1)));
    }
    if is_view(&step.op, &facts, &inputs, &outputs) {
        return Ok(Prepared { kernel: None, inputs: Vec::new(), outputs: Vec::new() });
    }

    let in_place = expected.first().map_or(Vec::new(), |o| in_place_inputs(&step.op, &facts, o));
    let mut sources = Vec::new();
    for (i, d) in inputs.iter().enumerate() {
        let len = bytes_of(d);
        sources.push(match d.place {
            Place::Weights(at) => Source::Weights(at as usize..at as usize + len),
            Place::Bound => return err(format!("tensor '{}' has no place", d.name)),
            Place::Arena(at) => {
                let range = at as usize..at as usize + len;
                // Empty ranges overlap nothing, but must still lie in one part.
                let hit = placed.iter().find(|(_, r)| {
                    if range.is_empty() {
                        r.start < range.start && range.start < r.end
                    } else {
                        !r.is_empty() && range.start < r.end && r.start < range.end
                            || r.is_empty() && range.start < r.start && r.start < range.end
                    }
                });
                match hit {
                    None => {
                        let part = placed.iter().filter(|(_, r)| r.end <= range.start).count();
                        let base = if part == 0 { 0 } else { placed[part - 1].1.end };
                        Source::Arena(part, range.start - base..range.end - base)
                    }
                    Some((0, r)) if *r == range && in_place.contains(&i) => Source::InPlace,
                    Some((o, _)) => {
                        return err(format!(
                            "input {i} '{}' overlaps output '{}' in a way that {} cannot run in",
                            d.name,
                            outputs[*o].name,
                            step.op.name()
                        ));
                    }
                }
            }
        });
    }

    let constants: Vec<Option<TensorView<'_>>> = inputs
        .iter()
        .zip(&sources)
        .map(|(d, s)| match s {
            Source::Weights(range) => ViewData::from_bytes(d.dtype, &weights[range.clone()])
                .map(|data| TensorView { shape: &d.shape, data }),
            _ => None,
        })
        .collect();
    let kernel = prepare(&step.op, &facts, &constants)?;
    Ok(Prepared { kernel: Some(kernel), inputs: sources, outputs: placed })
}

/// True when the output's bytes are already where the step would write them: a Reshape at its
/// input's place, a Slice that is one run of its input, a Concat whose producers wrote its
/// parts.
fn is_view(op: &Op, facts: &[Fact], inputs: &[&TensorDesc], outputs: &[&TensorDesc]) -> bool {
    let [out] = outputs else { return false };
    let at = |d: &TensorDesc| match d.place {
        Place::Arena(at) => Some(at as usize),
        Place::Weights(_) | Place::Bound => None,
    };
    let Some(base) = at(out) else { return false };
    match (op, inputs) {
        (Op::Concat { axis }, parts) => {
            let mut next = base;
            out.shape[..*axis].iter().all(|&n| n == 1)
                && parts.iter().all(|x| {
                    let here = at(x) == Some(next);
                    next += bytes_of(x);
                    here
                })
        }
        (_, [x, ..]) => view_offset(op, facts)
            .is_some_and(|skip| at(x).map(|a| a + skip * x.dtype.size()) == Some(base)),
        _ => false,
    }
}
