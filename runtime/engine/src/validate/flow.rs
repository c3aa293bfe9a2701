//! Data flow through the arena: nothing is read that was not written, or was overwritten.
//!
//! A tensor is defined once, as an input or by a step that writes all of its bytes (or, for
//! a view, whose inputs' bytes are already its own). From then on it may be read until any
//! of its bytes is written again. So it is enough to know, for every byte, the last step that
//! wrote it: a tensor is whole as long as none of its bytes was written after its definition.

use tobiuo_ops::{Fact, Op, in_place_inputs, view_offset};

use super::{Range, inconsistent, tensor_name};
use crate::{EngineError, Plan, Step};

pub(super) struct Flow<'a> {
    plan: &'a Plan,
    ranges: &'a [Range],
    /// Per tensor, when it was defined: 0 for inputs, `i + 1` by step `i`.
    defined: Vec<Option<u32>>,
    written: LastWrites,
    now: u32,
}

impl<'a> Flow<'a> {
    pub(super) fn new(plan: &'a Plan, ranges: &'a [Range]) -> Flow<'a> {
        Flow {
            plan,
            ranges,
            defined: vec![None; ranges.len()],
            written: LastWrites::new(ranges.iter().filter(|r| r.in_arena)),
            now: 0,
        }
    }

    fn range(&self, t: u32) -> Range {
        self.ranges[t as usize]
    }

    fn name(&self, t: u32) -> String {
        tensor_name(self.plan, t)
    }

    /// Defines the engine's inputs.
    pub(super) fn inputs(&mut self, inputs: &[u32]) -> Result<(), EngineError> {
        let mut sorted: Vec<u32> = inputs.to_vec();
        sorted.sort_unstable_by_key(|&t| (self.range(t).start, self.range(t).end));
        for pair in sorted.windows(2) {
            if self.range(pair[0]).overlaps(self.range(pair[1])) {
                return Err(inconsistent(format!(
                    "the inputs {} and {} overlap",
                    self.name(pair[0]),
                    self.name(pair[1])
                )));
            }
        }
        inputs.iter().try_for_each(|&t| self.define(t))
    }

    /// One step: reads its inputs, writes its outputs.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), EngineError> {
        self.now += 1;
        step.inputs.iter().try_for_each(|&t| self.read(t))?;
        for (i, &a) in step.outputs.iter().enumerate() {
            for &b in &step.outputs[..i] {
                if a == b || self.range(a).overlaps(self.range(b)) {
                    return Err(inconsistent(format!(
                        "the outputs {} and {} overlap",
                        self.name(b),
                        self.name(a)
                    )));
                }
            }
        }
        let view = self.is_view(step);
        if !view {
            self.check_overlaps(step)?;
        }
        for &t in &step.outputs {
            self.define(t)?;
            if !view {
                self.written.set(self.range(t), self.now);
            }
        }
        Ok(())
    }

    /// The engine's outputs are whole when everything ran.
    pub(super) fn outputs(&self, outputs: &[u32]) -> Result<(), EngineError> {
        outputs.iter().try_for_each(|&t| self.read(t))
    }

    fn define(&mut self, t: u32) -> Result<(), EngineError> {
        if !self.range(t).in_arena {
            return Err(inconsistent(format!(
                "{} is written, but lies among the weights",
                self.name(t)
            )));
        }
        match self.defined[t as usize].replace(self.now) {
            None => Ok(()),
            Some(0) => Err(inconsistent(format!(
                "{} is written, but is an input or written twice",
                self.name(t)
            ))),
            Some(step) => Err(inconsistent(format!(
                "{} is written, but step {} wrote it already",
                self.name(t),
                step - 1
            ))),
        }
    }

    fn read(&self, t: u32) -> Result<(), EngineError> {
        let range = self.range(t);
        if !range.in_arena {
            return Ok(());
        }
        let Some(defined) = self.defined[t as usize] else {
            return Err(inconsistent(format!(
                "{} is read, but no input or earlier step writes it (a tensor made of others' \
                 bytes needs its Concat, Slice or Reshape step, which then costs nothing)",
                self.name(t)
            )));
        };
        let last = self.written.last(range);
        if last > defined {
            return Err(inconsistent(format!(
                "{} is read, but step {} wrote over its bytes",
                self.name(t),
                last - 1
            )));
        }
        Ok(())
    }

    /// True when the step's output is where its inputs' bytes are, so that nothing is done.
    fn is_view(&self, step: &Step) -> bool {
        let [out] = step.outputs[..] else { return false };
        let to = self.range(out);
        if to.is_empty() {
            return false;
        }
        match &step.op {
            Op::Concat { axis } => {
                let shape = &self.plan.tensors[out as usize].shape;
                let mut next = to.start;
                shape.iter().take(*axis).all(|&d| d == 1)
                    && step.inputs.iter().all(|&t| {
                        let part = self.range(t);
                        let here = part.in_arena && part.start == next;
                        next = part.end;
                        here
                    })
            }
            Op::Reshape { .. } | Op::Slice(_) => {
                let [input] = step.inputs[..] else { return false };
                let from = self.range(input);
                let tensor = &self.plan.tensors[input as usize];
                let skipped = view_offset(&step.op, &[tensor.fact()])
                    .map(|elements| (elements * tensor.dtype.size()) as u64);
                from.in_arena && skipped.is_some_and(|n| from.start + n == to.start)
            }
            _ => false,
        }
    }

    /// Inputs and outputs are apart, or exactly the same bytes where the op allows it.
    fn check_overlaps(&self, step: &Step) -> Result<(), EngineError> {
        let apart = step
            .outputs
            .iter()
            .all(|&o| step.inputs.iter().all(|&t| !self.range(o).overlaps(self.range(t))));
        let (false, Some(&first)) = (apart, step.outputs.first()) else { return Ok(()) };
        let fact = |&t: &u32| self.plan.tensors[t as usize].fact();
        let inputs: Vec<Fact> = step.inputs.iter().map(fact).collect();
        let mut allowed = vec![false; inputs.len()];
        in_place_inputs(&step.op, &inputs, &fact(&first))
            .into_iter()
            .for_each(|i| allowed[i] = true);
        for &o in &step.outputs {
            for (i, &t) in step.inputs.iter().enumerate() {
                let (from, to) = (self.range(t), self.range(o));
                if from.overlaps(to) && !(from == to && o == first && allowed[i]) {
                    let how = if from == to { "is at the place of" } else { "overlaps" };
                    return Err(inconsistent(format!(
                        "output {} {how} input {i} {}, which this op cannot work with",
                        self.name(o),
                        self.name(t)
                    )));
                }
            }
        }
        Ok(())
    }
}

/// For every byte of the arena, the last step that wrote it. A segment tree over the places
/// where tensors begin and end, so that a plan made to be slow to check is not.
struct LastWrites {
    /// Sorted; elementary interval `i` is `cuts[i]..cuts[i + 1]`.
    cuts: Vec<u64>,
    /// Per node, the last write of all of it.
    whole: Vec<u32>,
    /// Per node, the last write of any of it, not counting its ancestors' `whole`.
    any: Vec<u32>,
}

impl LastWrites {
    fn new<'r>(ranges: impl Iterator<Item = &'r Range>) -> LastWrites {
        let mut cuts: Vec<u64> = ranges.flat_map(|r| [r.start, r.end]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let nodes = 2 * cuts.len().saturating_sub(1).next_power_of_two();
        LastWrites { cuts, whole: vec![0; nodes], any: vec![0; nodes] }
    }

    fn leaves(&self) -> usize {
        self.whole.len() / 2
    }

    /// The elementary intervals of a tensor's range.
    fn span(&self, range: Range) -> std::ops::Range<usize> {
        let index = |at: u64| self.cuts.binary_search(&at).expect("every tensor's ends are cuts");
        index(range.start)..index(range.end)
    }

    /// `now` is later than all before.
    fn set(&mut self, range: Range, now: u32) {
        let span = self.span(range);
        let (mut l, mut r) = (span.start + self.leaves(), span.end + self.leaves());
        while l < r {
            if l & 1 == 1 {
                self.cover(l, now);
                l += 1;
            }
            if r & 1 == 1 {
                r -= 1;
                self.cover(r, now);
            }
            (l, r) = (l / 2, r / 2);
        }
    }

    fn cover(&mut self, mut node: usize, now: u32) {
        self.whole[node] = now;
        while node > 0 {
            self.any[node] = now;
            node /= 2;
        }
    }

    fn last(&self, range: Range) -> u32 {
        let span = self.span(range);
        let (mut l, mut r) = (span.start + self.leaves(), span.end + self.leaves());
        let mut last = 0;
        while l < r {
            if l & 1 == 1 {
                last = last.max(self.with_ancestors(l));
                l += 1;
            }
            if r & 1 == 1 {
                r -= 1;
                last = last.max(self.with_ancestors(r));
            }
            (l, r) = (l / 2, r / 2);
        }
        last
    }

    fn with_ancestors(&self, node: usize) -> u32 {
        let mut last = self.any[node];
        let mut above = node / 2;
        while above > 0 {
            last = last.max(self.whole[above]);
            above /= 2;
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain array with one entry per byte.
    #[test]
    fn last_writes_are_those_of_a_plain_array() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for size in [1, 2, 3, 40, 200] {
            let ranges: Vec<Range> = (0..60)
                .map(|_| {
                    let (a, b) = (random(size + 1), random(size + 1));
                    Range { in_arena: true, start: a.min(b), end: a.max(b) }
                })
                .collect();
            let mut tree = LastWrites::new(ranges.iter());
            let mut plain = vec![0u32; size as usize];
            for now in 1..300 {
                let bytes = |r: Range| r.start as usize..r.end as usize;
                let r = ranges[random(60) as usize];
                tree.set(r, now);
                plain[bytes(r)].fill(now);
                for &r in &ranges {
                    let want = plain[bytes(r)].iter().copied().max().unwrap_or(0);
                    assert_eq!(tree.last(r), want);
                }
            }
        }
    }
}
