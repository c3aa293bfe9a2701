//! Data flow through the arena: nothing is read that was not written, or was overwritten.
//!
//! A tensor is defined once, as an input or by a step that writes all of its bytes (or, for
//! a view, whose inputs' bytes are already its own). From then on it may be read until any
//! of its bytes is written again.
//!
//! A tensor without a step is a part of another, or composed of others: when it is read, all
//! its bytes have been written, by tensors of its type that lie within it or that it lies
//! within (or that lie, as it does, within another view), and they have not
//! changed since it was first read.
//!
//! All that follows from knowing, for every byte, which step wrote it last.

use std::collections::BTreeMap;

use tobiuo_ops::{Fact, Op, in_place_inputs, view_offset};

use super::{Range, inconsistent, tensor_name};
use crate::error::shown;
use crate::{EngineError, EngineErrorKind, Plan, Step};

/// Pieces of memory that checking a plan may look at: a plan of thousands of layers needs
/// some ten thousand, and this many take well under a second.
const MOST_VISITS: u64 = 20_000_000;

/// When something happened: 0 before the first step, `i + 1` in step `i`.
type Time = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A step will write it; none has.
    Undefined,
    Defined(Time),
    /// No step writes it. When it was first read, its bytes were last written at this time.
    Composed(Option<Time>),
}

pub(super) struct Flow<'a> {
    plan: &'a Plan,
    ranges: &'a [Range],
    states: Vec<State>,
    /// The tensors of the arena that no step writes, and the outputs of views so far.
    views: Vec<u32>,
    written: LastWrites,
    now: Time,
}

impl<'a> Flow<'a> {
    /// All of the plan's indices are in range.
    pub(super) fn new(plan: &'a Plan, ranges: &'a [Range]) -> Flow<'a> {
        let mut states = vec![State::Composed(None); ranges.len()];
        for &t in plan.inputs.iter().chain(plan.steps().iter().flat_map(|s| &s.outputs)) {
            states[t as usize] = State::Undefined;
        }
        let views = (0..ranges.len() as u32)
            .filter(|&t| ranges[t as usize].in_arena && states[t as usize] == State::Composed(None))
            .collect();
        Flow { plan, ranges, states, views, written: LastWrites::default(), now: 0 }
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
        inputs.iter().try_for_each(|&t| {
            self.define(t)?;
            self.written.set(self.range(t), self.now, t);
            Ok(())
        })
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
            if view {
                self.views.push(t);
            } else {
                self.written.set(self.range(t), self.now, t);
            }
        }
        Ok(())
    }

    /// The engine's outputs are whole when everything ran.
    pub(super) fn outputs(&mut self, outputs: &[u32]) -> Result<(), EngineError> {
        outputs.iter().try_for_each(|&t| self.read(t))
    }

    fn define(&mut self, t: u32) -> Result<(), EngineError> {
        if !self.range(t).in_arena {
            return Err(inconsistent(format!(
                "{} is written, but lies among the weights",
                self.name(t)
            )));
        }
        let state = std::mem::replace(&mut self.states[t as usize], State::Defined(self.now));
        match state {
            State::Defined(0) => {
                Err(inconsistent(format!("{} is written, but is an input", self.name(t))))
            }
            State::Defined(time) => Err(inconsistent(format!(
                "{} is written, but step {} wrote it already",
                self.name(t),
                time - 1
            ))),
            State::Undefined | State::Composed(_) => Ok(()),
        }
    }

    fn read(&mut self, t: u32) -> Result<(), EngineError> {
        let range = self.range(t);
        if !range.in_arena {
            return Ok(());
        }
        match self.states[t as usize] {
            State::Undefined => Err(inconsistent(format!(
                "{} is read before the step that writes it",
                self.name(t)
            ))),
            State::Defined(defined) => {
                let mut overwritten = 0;
                self.written.visit(range, |_, time, _| {
                    overwritten = time;
                    time <= defined
                })?;
                if overwritten > defined {
                    return Err(self.overwritten(t, overwritten));
                }
                Ok(())
            }
            State::Composed(first) => self.read_composed(t, first),
        }
    }

    fn overwritten(&self, t: u32, time: Time) -> EngineError {
        let step = &self.plan.steps()[time as usize - 1];
        inconsistent(format!(
            "{} is read, but step {} {} wrote over its bytes",
            self.name(t),
            time - 1,
            shown(&step.name)
        ))
    }

    fn read_composed(&mut self, t: u32, first: Option<Time>) -> Result<(), EngineError> {
        let range = self.range(t);
        let dtype = |t: u32| self.plan.tensors[t as usize].dtype;
        let (mut covered, mut last) = (range.start, 0);
        let (mut stranger, mut looked) = (None, 0);
        self.written.visit(range, |bytes, time, writer| {
            let source = self.ranges[writer as usize];
            let related = range.contains(source)
                || source.contains(range)
                || self.views.iter().any(|&c| {
                    looked += 1;
                    let whole = self.ranges[c as usize];
                    whole.contains(source) && whole.contains(range) && dtype(c) == dtype(t)
                });
            if !related || dtype(writer) != dtype(t) {
                stranger = Some(writer);
            } else if bytes.start <= covered {
                covered = bytes.end;
                last = last.max(time);
                return looked <= MOST_VISITS;
            }
            false
        })?;
        self.written.count(looked)?;
        if let Some(writer) = stranger {
            return Err(inconsistent(format!(
                "{} is read, which no step writes, and a part of its bytes was last written as \
                 {}, which is no part of it, nor it of that, nor both of a view",
                self.name(t),
                self.name(writer)
            )));
        }
        if covered < range.end {
            return Err(inconsistent(format!(
                "{} is read, but byte {covered} of the arena, which it contains, was not written",
                self.name(t)
            )));
        }
        if first.is_some_and(|first| first < last) {
            return Err(self.overwritten(t, last));
        }
        self.states[t as usize] = State::Composed(Some(last));
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
            op => {
                let Some(&input) = step.inputs.first() else { return false };
                let from = self.range(input);
                let size = self.plan.tensors[input as usize].dtype.size();
                let skipped = view_offset(op, &self.facts(&step.inputs));
                let skipped = skipped.map(|elements| (elements * size) as u64);
                from.in_arena && skipped.is_some_and(|n| from.start + n == to.start)
            }
        }
    }

    fn facts(&self, tensors: &[u32]) -> Vec<Fact> {
        tensors.iter().map(|&t| self.plan.tensors[t as usize].fact()).collect()
    }

    /// Inputs and outputs are apart, or exactly the same bytes where the op allows it.
    fn check_overlaps(&self, step: &Step) -> Result<(), EngineError> {
        let apart = step
            .outputs
            .iter()
            .all(|&o| step.inputs.iter().all(|&t| !self.range(o).overlaps(self.range(t))));
        let (false, Some(&first)) = (apart, step.outputs.first()) else { return Ok(()) };
        let inputs = self.facts(&step.inputs);
        let output = self.plan.tensors[first as usize].fact();
        let mut allowed = vec![false; inputs.len()];
        in_place_inputs(&step.op, &inputs, &output).into_iter().for_each(|i| allowed[i] = true);
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

/// For every byte of the arena, when it was last written, and as which tensor.
#[derive(Default)]
struct LastWrites {
    /// Disjoint pieces by their first byte.
    pieces: BTreeMap<u64, Piece>,
    visits: u64,
}

#[derive(Clone, Copy)]
struct Piece {
    end: u64,
    time: Time,
    tensor: u32,
}

impl LastWrites {
    fn set(&mut self, range: Range, time: Time, tensor: u32) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        // Every piece removed was put in once: in sum this is no more than the steps put in.
        while let Some((&start, _)) = self.pieces.range(range.start..range.end).next() {
            self.pieces.remove(&start);
        }
        self.pieces.insert(range.start, Piece { end: range.end, time, tensor });
    }

    /// Splits the piece that has `at` inside.
    fn cut(&mut self, at: u64) {
        if let Some((_, piece)) = self.pieces.range_mut(..at).next_back()
            && piece.end > at
        {
            let rest = *piece;
            piece.end = at;
            self.pieces.insert(at, rest);
        }
    }

    /// Calls `f` with the written pieces of a range in order, cut to it, until it says `false`.
    fn visit(
        &mut self,
        range: Range,
        mut f: impl FnMut(std::ops::Range<u64>, Time, u32) -> bool,
    ) -> Result<(), EngineError> {
        if range.is_empty() {
            return Ok(());
        }
        let before = self.pieces.range(..range.start).next_back();
        let before = before.filter(|(_, piece)| piece.end > range.start);
        for (&start, piece) in before.into_iter().chain(self.pieces.range(range.start..range.end)) {
            self.visits += 1;
            let bytes = start.max(range.start)..piece.end.min(range.end);
            if self.visits > MOST_VISITS || !f(bytes, piece.time, piece.tensor) {
                break;
            }
        }
        self.count(0)
    }

    /// Counts looks at something, which must not become too many.
    fn count(&mut self, looks: u64) -> Result<(), EngineError> {
        self.visits = self.visits.saturating_add(looks);
        if self.visits <= MOST_VISITS {
            return Ok(());
        }
        Err(EngineError::new(
            EngineErrorKind::Limit,
            "its tensors are composed of too many pieces to be checked in sensible time",
        ))
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
            let mut range = || {
                let (a, b) = (random(size + 1), random(size + 1));
                Range { in_arena: true, start: a.min(b), end: a.max(b) }
            };
            let mut writes = LastWrites::default();
            let mut plain = vec![None; size as usize];
            for now in 1..300 {
                let r = range();
                writes.set(r, now, now + 1000);
                plain[r.start as usize..r.end as usize].fill(Some((now, now + 1000)));
                for _ in 0..20 {
                    let r = range();
                    let mut seen = vec![None; (r.end - r.start) as usize];
                    let visit = writes.visit(r, |bytes, time, tensor| {
                        let (a, b) =
                            ((bytes.start - r.start) as usize, (bytes.end - r.start) as usize);
                        assert!(seen[a..b].iter().all(Option::is_none), "pieces do not overlap");
                        seen[a..b].fill(Some((time, tensor)));
                        true
                    });
                    visit.unwrap();
                    assert_eq!(seen, plain[r.start as usize..r.end as usize]);
                }
            }
        }
    }
}
