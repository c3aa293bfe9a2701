//! Which tensors share bytes.
//!
//! Every tensor starts in a buffer of its own. Then buffers are merged, in this order:
//!
//! - **Views.** An op whose output's elements follow one another in its operand (Reshape, a
//!   contiguous Slice, ...) is no step at all: its output is a part of the operand's buffer.
//! - **Concatenations** along an axis with nothing but 1s before it: the operands' buffers
//!   become parts of the result's, so that their producers write where the result is read.
//!   An operand that cannot move there (an input, a constant, one that already lies
//!   elsewhere) is copied by a step of its own.
//! - **In place.** An op that computes each element from that element alone overwrites an
//!   operand that nobody needs afterwards.
//!
//! Each merge keeps every tensor 64-byte aligned within its buffer, or does not happen.

use std::sync::Arc;

use tobiuo_engine::TENSOR_ALIGN;
use tobiuo_ops::{Fact, Op, in_place_inputs, view_offset};
use tobiuo_tensor::{Tensor, checked_numel};

use super::PlanError;
use super::arena::Interval;
use crate::graph::Graph;

/// Why a tensor keeps its bytes for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Pin {
    Input,
    Output,
}

/// A tensor of the plan.
#[derive(Clone, Debug)]
pub struct PlanTensor {
    /// Its name in the graph.
    pub name: String,
    /// Type and shape.
    pub fact: Fact,
    /// Its elements when it is a constant.
    pub constant: Option<Arc<Tensor>>,
    bytes: u64,
    buffer: usize,
    offset: u64,
}

/// A step over tensors by number.
#[derive(Clone, Debug)]
pub struct PlanStep {
    /// The layer's name.
    pub name: String,
    /// The operator.
    pub op: Op,
    /// Tensors read.
    pub inputs: Vec<usize>,
    /// Tensors written.
    pub outputs: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Buffer {
    size: u64,
    pin: Option<Pin>,
    /// Tensors in it; empty when it was merged into another or is no buffer.
    members: Vec<usize>,
}

/// Tensors, where they lie in which buffer, and the steps that are left.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Every tensor the steps name.
    pub tensors: Vec<PlanTensor>,
    /// What runs, in order.
    pub steps: Vec<PlanStep>,
    /// Nodes that became views.
    pub views: usize,
    /// Concatenations that became free.
    pub free_concats: usize,
    /// Operands copied into such concatenations.
    pub copies: usize,
    /// Steps that overwrite an operand.
    pub in_place: usize,
    buffers: Vec<Buffer>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    /// Union-find over tensors that hold the same data: views and parts of a concatenation.
    same_data: Vec<usize>,
}

fn aligned(offset: u64) -> bool {
    offset.is_multiple_of(TENSOR_ALIGN)
}

impl Storage {
    /// The storage of a graph, each of whose outputs is a tensor of its own.
    pub fn of(graph: &Graph) -> Result<Storage, PlanError> {
        let mut tensors = Vec::new();
        let mut buffers = Vec::new();
        for (_, value) in graph.values() {
            let elements = checked_numel(&value.fact.shape);
            let bytes = elements.and_then(|n| n.checked_mul(value.fact.dtype.size()));
            let bytes = bytes.and_then(|b| u64::try_from(b).ok()).filter(|&b| b < 1 << 40);
            let bytes = bytes.ok_or_else(|| {
                PlanError::TooLarge(format!(
                    "tensor '{}' of shape {:?} is larger than 1 TiB",
                    value.name, value.fact.shape
                ))
            })?;
            let t = tensors.len();
            tensors.push(PlanTensor {
                name: value.name.clone(),
                fact: value.fact.clone(),
                constant: value.constant.clone(),
                bytes,
                buffer: t,
                offset: 0,
            });
            let members = if value.constant.is_some() { vec![] } else { vec![t] };
            buffers.push(Buffer { size: bytes, pin: None, members });
        }
        let steps = graph.nodes.iter().map(|n| PlanStep {
            name: n.name.clone(),
            op: n.op.clone(),
            inputs: n.inputs.iter().map(|v| v.0 as usize).collect(),
            outputs: n.outputs.iter().map(|v| v.0 as usize).collect(),
        });
        let mut storage = Storage {
            same_data: (0..tensors.len()).collect(),
            tensors,
            steps: steps.collect(),
            views: 0,
            free_concats: 0,
            copies: 0,
            in_place: 0,
            buffers,
            inputs: graph.inputs.iter().map(|v| v.0 as usize).collect(),
            outputs: graph.outputs.iter().map(|(_, v)| v.0 as usize).collect(),
        };
        for i in storage.inputs.clone() {
            storage.buffers[i].pin = Some(Pin::Input);
        }
        for o in storage.outputs.clone() {
            storage.buffers[o].pin = Some(Pin::Output);
        }
        storage.take_views();
        storage.free_concatenations();
        storage.overwrite_operands();
        Ok(storage)
    }

    /// Buffer and offset in it of a tensor that is no constant.
    pub fn place(&self, tensor: usize) -> (usize, u64) {
        (self.tensors[tensor].buffer, self.tensors[tensor].offset)
    }

    /// The graph's inputs or outputs, as tensors.
    pub fn pinned(&self, pin: Pin) -> &[usize] {
        match pin {
            Pin::Input => &self.inputs,
            Pin::Output => &self.outputs,
        }
    }

    fn root(&mut self, mut t: usize) -> usize {
        while self.same_data[t] != t {
            self.same_data[t] = self.same_data[self.same_data[t]];
            t = self.same_data[t];
        }
        t
    }

    fn join_data(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.same_data[a] = b;
    }

    /// Makes buffer `from` the part of buffer `into` at `at`.
    fn merge(&mut self, from: usize, into: usize, at: u64) {
        debug_assert!(from != into && at + self.buffers[from].size <= self.buffers[into].size);
        let members = std::mem::take(&mut self.buffers[from].members);
        for &t in &members {
            self.tensors[t].buffer = into;
            self.tensors[t].offset += at;
        }
        self.buffers[into].members.extend(members);
        let pin = self.buffers[from].pin.take();
        self.buffers[into].pin = self.buffers[into].pin.or(pin);
        self.buffers[from].size = 0;
    }

    fn facts(&self, tensors: &[usize]) -> Vec<Fact> {
        tensors.iter().map(|&t| self.tensors[t].fact.clone()).collect()
    }

    fn take_views(&mut self) {
        for step in std::mem::take(&mut self.steps) {
            if !self.view(&step) {
                self.steps.push(step);
            }
        }
    }

    /// Makes a step's output a view, if it can be one.
    fn view(&mut self, step: &PlanStep) -> bool {
        let (&[out], Some(&x)) = (&step.outputs[..], step.inputs.first()) else { return false };
        let Some(elements) = view_offset(&step.op, &self.facts(&step.inputs)) else { return false };
        if self.tensors[x].constant.is_some() {
            return false;
        }
        let offset = (elements * self.tensors[x].fact.dtype.size()) as u64;
        let (buffer, base) = self.place(x);
        let fits = base + offset + self.tensors[out].bytes <= self.buffers[buffer].size;
        // Two pinned tensors do not share.
        let pins = self.buffers[out].pin.is_some() && self.buffers[buffer].pin.is_some();
        if !fits || !aligned(base + offset) || pins {
            return false;
        }
        self.merge(out, buffer, base + offset);
        self.join_data(out, x);
        self.views += 1;
        true
    }

    fn free_concatenations(&mut self) {
        for step in std::mem::take(&mut self.steps) {
            if !self.free_concatenation(&step) {
                self.steps.push(step);
            }
        }
    }

    /// Replaces a Concat by its operands' new places and copies of those that cannot move.
    fn free_concatenation(&mut self, step: &PlanStep) -> bool {
        let (Op::Concat { axis }, &[out]) = (&step.op, &step.outputs[..]) else { return false };
        if self.tensors[out].fact.shape[..*axis].iter().any(|&d| d != 1) {
            return false;
        }
        let mut at = 0;
        let mut parts = Vec::new();
        for &t in &step.inputs {
            if self.tensors[t].bytes > 0 {
                parts.push((t, at));
            }
            at += self.tensors[t].bytes;
        }
        let (out_buffer, out_base) = self.place(out);
        if parts.iter().any(|&(_, at)| !aligned(out_base + at)) {
            return false;
        }
        let mut left = Vec::new();
        for &(t, at) in &parts {
            self.move_part(t, at, &parts, out);
            if self.tensors[t].constant.is_none() && self.place(t) == (out_buffer, out_base + at) {
                self.join_data(t, out);
            } else {
                left.push((t, at));
            }
        }
        if left.len() == parts.len() && parts.len() > 1 {
            return false; // Nothing gained over one step that copies all.
        }
        for (t, at) in left {
            let copy = self.tensors.len();
            let shape = self.tensors[t].fact.shape.clone();
            self.tensors.push(PlanTensor {
                name: format!("{}/{}", self.tensors[out].name, self.tensors[t].name),
                constant: None,
                buffer: out_buffer,
                offset: out_base + at,
                ..self.tensors[t].clone()
            });
            self.buffers[out_buffer].members.push(copy);
            self.same_data.push(copy);
            self.join_data(copy, out);
            self.steps.push(PlanStep {
                name: format!("{} (copy)", step.name),
                op: Op::Reshape { shape },
                inputs: vec![t],
                outputs: vec![copy],
            });
            self.copies += 1;
        }
        self.free_concats += 1;
        true
    }

    /// Moves the buffer of part `t` of a concatenation to where the result has it, if that
    /// buffer is nothing but parts of this concatenation in the right order.
    fn move_part(&mut self, t: usize, at: u64, parts: &[(usize, u64)], out: usize) {
        if self.tensors[t].constant.is_some() {
            return;
        }
        let (buffer, offset) = self.place(t);
        let (out_buffer, out_base) = self.place(out);
        let size = self.buffers[buffer].size;
        if buffer == out_buffer || self.buffers[buffer].pin.is_some() || at < offset {
            return;
        }
        let base = at - offset;
        if base + size > self.tensors[out].bytes || !aligned(out_base + base) {
            return;
        }
        let mine = parts.iter().all(|&(other, other_at)| {
            let apart = other_at >= base + size || other_at + self.tensors[other].bytes <= base;
            let right = other_at >= base
                && self.tensors[other].constant.is_none()
                && self.place(other) == (buffer, other_at - base);
            apart || right
        });
        if mine {
            self.merge(buffer, out_buffer, out_base + base);
        }
    }

    /// Last step that reads each tensor's data, through whatever name; `usize::MAX` for the
    /// graph's inputs and outputs.
    fn data_ends(&mut self) -> Vec<usize> {
        let mut ends = vec![0; self.tensors.len()];
        for s in 0..self.steps.len() {
            for k in 0..self.steps[s].inputs.len() {
                let root = self.root(self.steps[s].inputs[k]);
                ends[root] = s;
            }
        }
        for t in self.inputs.clone().into_iter().chain(self.outputs.clone()) {
            let root = self.root(t);
            ends[root] = usize::MAX;
        }
        (0..self.tensors.len()).map(|t| ends[self.root(t)]).collect()
    }

    fn overwrite_operands(&mut self) {
        let ends = self.data_ends();
        for s in 0..self.steps.len() {
            let step = self.steps[s].clone();
            let &[out] = &step.outputs[..] else { continue };
            let facts = self.facts(&step.inputs);
            let allowed = in_place_inputs(&step.op, &facts, &self.tensors[out].fact);
            let may = |k: usize| allowed.contains(&k);
            for k in allowed.clone() {
                let x = step.inputs[k];
                let free = self.tensors[x].constant.is_none() && ends[x] == s;
                if free && self.others_apart(&step, x, &may) && self.share(out, x) {
                    self.in_place += 1;
                    break;
                }
            }
        }
    }

    /// True when every other operand either is exactly `x`'s bytes, and may be, or none of
    /// them.
    fn others_apart(&self, step: &PlanStep, x: usize, may: &dyn Fn(usize) -> bool) -> bool {
        let (buffer, offset) = self.place(x);
        let bytes = self.tensors[x].bytes;
        step.inputs.iter().enumerate().all(|(k, &t)| {
            let other = &self.tensors[t];
            let apart = other.constant.is_some()
                || other.buffer != buffer
                || other.offset >= offset + bytes
                || other.offset + other.bytes <= offset;
            apart || (other.offset == offset && other.bytes == bytes && may(k))
        })
    }

    /// Puts `out` where `x`, which dies, is.
    fn share(&mut self, out: usize, x: usize) -> bool {
        let (from, from_at) = self.place(out);
        let (into, into_at) = self.place(x);
        let bytes = self.tensors[x].bytes;
        if from == into || bytes != self.tensors[out].bytes || self.buffers[into].pin.is_some() {
            return false;
        }
        if self.buffers[into].size == bytes && into_at == 0 {
            // The operand's whole buffer becomes the part where the output is.
            self.merge(into, from, from_at);
            true
        } else {
            false
        }
    }

    /// For each buffer, its size and the steps it is live from and to; merged buffers and
    /// constants have size 0.
    pub fn intervals(&self) -> Vec<Interval> {
        let last = self.steps.len();
        let mut out: Vec<Interval> = self
            .buffers
            .iter()
            .map(|b| match (b.members.is_empty(), b.pin) {
                (true, _) => Interval { size: 0, first: 0, last: 0 },
                (false, Some(_)) => Interval { size: b.size, first: 0, last },
                (false, None) => Interval { size: b.size, first: last, last: 0 },
            })
            .collect();
        for (s, step) in self.steps.iter().enumerate() {
            for &t in step.inputs.iter().chain(&step.outputs) {
                if self.tensors[t].constant.is_none() {
                    let interval = &mut out[self.tensors[t].buffer];
                    interval.first = interval.first.min(s);
                    interval.last = interval.last.max(s);
                }
            }
        }
        for interval in &mut out {
            interval.size = interval.size.next_multiple_of(TENSOR_ALIGN);
        }
        out
    }
}
