//! Which layers may run side by side, and on which stream each is launched.
//!
//! Layers depend on each other through the memory they touch. A schedule gives each a stream;
//! on one stream layers follow one another in the lowering's order, across streams a layer waits
//! for those it depends on.

use serde::{Deserialize, Serialize};

use super::lower::{Lowering, Operand};
use super::view::View;

/// Where a layer is launched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The stream; 0 is the main one, on which the last layer runs.
    pub stream: usize,
    /// Layers of other streams that must have ended, ascending.
    pub after: Vec<usize>,
}

/// A stream for every layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// By layer.
    pub slots: Vec<Slot>,
    /// Number of streams.
    pub streams: usize,
    /// What all kernels prefer as shared memory, percent ([`tobiuo_engine::CudaProgram`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carveout: Option<u8>,
}

impl Schedule {
    /// One stream for all of `layers` layers.
    pub fn serial(layers: usize) -> Schedule {
        Schedule { slots: vec![Slot::default(); layers], streams: 1, carveout: None }
    }

    /// True when it is one of so many layers that could run: layers wait for earlier ones only,
    /// and the last is on the main stream.
    pub fn is_sound(&self, layers: usize) -> bool {
        let fine =
            |(i, s): (usize, &Slot)| s.stream < self.streams && s.after.iter().all(|&a| a < i);
        self.slots.len() == layers
            && self.streams <= layers.max(1)
            && self.carveout.is_none_or(|percent| percent <= 100)
            && self.slots.iter().enumerate().all(fine)
            && self.slots.last().is_none_or(|s| s.stream == 0)
    }

    /// At most `streams` streams: each layer goes where it can start first, when waiting for a
    /// layer of another stream costs `crossing_us` (list scheduling: Topcuoglu et al. 2002,
    /// "HEFT"). `times` are the layers' own, microseconds.
    pub fn parallel(
        lowering: &Lowering,
        times: &[f64],
        crossing_us: f64,
        streams: usize,
    ) -> Schedule {
        let before = dependencies(lowering);
        let n = before.len();
        let mut slots = vec![Slot::default(); n];
        let mut last: Vec<Option<usize>> = vec![None; streams];
        let mut end = vec![0.0f64; n];
        for i in 0..n {
            // All streams meet on the main one at the end.
            let allowed = if i + 1 == n { 1 } else { streams };
            let start_on = |s: usize| {
                let free = last[s].map_or(0.0, |l: usize| end[l]);
                let waits = before[i]
                    .iter()
                    .map(|&p| end[p] + if slots[p].stream == s { 0.0 } else { crossing_us });
                waits.fold(free, f64::max)
            };
            let follows = |s: usize| last[s].is_some_and(|l| before[i].contains(&l));
            let best = (0..allowed)
                .min_by(|&a, &b| {
                    let key = |s: usize| (start_on(s), !follows(s));
                    key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
                })
                .unwrap_or(0);
            end[i] = start_on(best) + times[i];
            slots[i].stream = best;
            last[best] = Some(i);
        }
        let mut schedule = Schedule { slots, streams, carveout: None };
        schedule.wait_for(&before);
        schedule
    }

    /// Fills in `after`: dependencies on other streams that nothing else implies, and, for the
    /// last layer, the ends of all other streams.
    fn wait_for(&mut self, before: &[Vec<usize>]) {
        let n = self.slots.len();
        // For each layer and stream: one more than the last layer there that is known to have
        // ended when it starts.
        let mut known: Vec<Vec<usize>> = Vec::with_capacity(n);
        let mut previous: Vec<Option<usize>> = vec![None; self.streams];
        for (i, needed) in before.iter().enumerate() {
            let stream = self.slots[i].stream;
            let mut ended = previous[stream].map_or(vec![0; self.streams], |p| known[p].clone());
            if let Some(p) = previous[stream] {
                ended[stream] = p + 1;
            }
            let mut wanted = needed.clone();
            if i + 1 == n {
                wanted.extend(previous.iter().flatten());
            }
            wanted.sort_unstable();
            wanted.dedup();
            let mut after = Vec::new();
            for &p in wanted.iter().rev() {
                let other = self.slots[p].stream;
                if other == stream || ended[other] > p {
                    continue;
                }
                after.push(p);
                for s in 0..self.streams {
                    ended[s] = ended[s].max(known[p][s]);
                }
                ended[other] = ended[other].max(p + 1);
            }
            // A stream begins behind something of the main one.
            if previous[stream].is_none() && stream != 0 && after.is_empty() {
                after.push(0);
            }
            after.reverse();
            self.slots[i].after = after;
            known.push(ended);
            previous[stream] = Some(i);
        }
    }

    /// For each layer the first and the last place that it can have in an order in which the
    /// layers run. Memory used up to a place may be used again by what can only come later:
    /// when the last place of one layer is smaller than the first place of another, the one
    /// always ends before the other starts.
    pub fn places(&self) -> Vec<(usize, usize)> {
        let n = self.slots.len();
        let words = n.div_ceil(64);
        let mut ancestors = vec![vec![0u64; words]; n];
        let mut previous: Vec<Option<usize>> = vec![None; self.streams];
        for i in 0..n {
            let slot = &self.slots[i];
            let mut mine = vec![0u64; words];
            for &p in previous[slot.stream].iter().chain(&slot.after) {
                mine.iter_mut().zip(&ancestors[p]).for_each(|(m, a)| *m |= a);
                mine[p / 64] |= 1 << (p % 64);
            }
            ancestors[i] = mine;
            previous[slot.stream] = Some(i);
        }
        let mut descendants = vec![0usize; n];
        for set in &ancestors {
            for (p, count) in descendants.iter_mut().enumerate() {
                *count += (set[p / 64] >> (p % 64) & 1) as usize;
            }
        }
        let count = |set: &[u64]| set.iter().map(|w| w.count_ones() as usize).sum::<usize>();
        (0..n).map(|i| (count(&ancestors[i]), n - 1 - descendants[i])).collect()
    }
}

/// For each layer the earlier ones whose results it needs or whose memory it overwrites.
pub fn dependencies(lowering: &Lowering) -> Vec<Vec<usize>> {
    let reads = |i: usize| {
        lowering.layers[i].operands.iter().filter_map(|o| match o {
            Operand::View(v) => Some(v),
            Operand::Constant(_) => None,
        })
    };
    let writes = |i: usize| lowering.layers[i].outputs.iter();
    let n = lowering.layers.len();
    (0..n)
        .map(|i| {
            (0..i)
                .filter(|&p| {
                    let raw = reads(i).any(|v| writes(p).any(|w| overlap(v, w)));
                    let war = writes(i).any(|v| reads(p).any(|w| overlap(v, w)));
                    raw || war || writes(i).any(|v| writes(p).any(|w| overlap(v, w)))
                })
                .collect()
        })
        .collect()
}

/// False only when two views surely share no element: other buffers, other parts of one, or, counted
/// from every so many elements (a pixel, a plane), other parts of each, as channels of the same pixels
/// are.
fn overlap(a: &View, b: &View) -> bool {
    let apart = |&step: &i64| match (part(a, step), part(b, step)) {
        (Some((a0, a1)), Some((b0, b1))) => a1 <= b0 || b1 <= a0,
        _ => false,
    };
    a.buffer == b.buffer && !a.strides.iter().chain(&[i64::MAX]).any(apart)
}

/// Where the elements of a view lie in each `step` elements of its buffer, where they do so in all
/// alike and no run of them goes on in the next.
fn part(view: &View, step: i64) -> Option<(i64, i64)> {
    if step < 1 || view.offset < 0 || view.strides.iter().any(|&s| s < 0) {
        return None;
    }
    let (first, mut extent) = (view.offset % step, 1);
    for (axis, (&n, &stride)) in view.shape.iter().zip(&view.strides).enumerate() {
        // A pixel's padding is written too.
        let n = if axis == 1 && stride == 1 { n.max(view.channels_stored) } else { n };
        if stride % step != 0 {
            extent += (n.max(1) as i64 - 1) * stride;
        }
    }
    (first + extent <= step).then_some((first, first + extent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(list: &[(usize, &[usize])]) -> Schedule {
        let slots: Vec<Slot> =
            list.iter().map(|&(stream, after)| Slot { stream, after: after.to_vec() }).collect();
        let streams = slots.iter().map(|s| s.stream + 1).max().unwrap_or(1);
        Schedule { slots, streams, carveout: None }
    }

    #[test]
    fn one_stream_has_one_order() {
        let places = Schedule::serial(4).places();
        assert_eq!(places, [(0, 0), (1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn side_by_side_layers_share_their_places() {
        // 0, then 1 and 2 on stream 0 beside 3 on stream 1, then 4.
        let s = slots(&[(0, &[]), (0, &[]), (0, &[]), (1, &[0]), (0, &[3])]);
        assert_eq!(s.places(), [(0, 0), (1, 2), (2, 3), (1, 3), (4, 4)]);
    }

    #[test]
    fn only_waits_that_nothing_implies() {
        let before: Vec<Vec<usize>> = vec![vec![], vec![0], vec![0], vec![0, 2], vec![1, 3]];
        let mut s = slots(&[(0, &[]), (0, &[]), (1, &[]), (1, &[]), (0, &[])]);
        s.wait_for(&before);
        assert_eq!(s, slots(&[(0, &[]), (0, &[]), (1, &[0]), (1, &[]), (0, &[3])]));
    }
}
