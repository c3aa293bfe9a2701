//! Offsets in the arena: buffers that are never live at the same step may share bytes.
//!
//! This is dynamic storage allocation, which is NP-hard; greedy placement in a good order
//! comes within a few percent on networks (Pisarchyk and Lee, "Efficient Memory Management
//! for Deep Neural Net Inference", 2020: greedy by size, greedy by breadth). Both orders are
//! tried, then pseudo-random changes of the best one, until the lower bound (the largest sum
//! of live bytes) is met or the tries are used up. No clock and no thread has a say, so the
//! result is the same every time.

/// A buffer's size in bytes and the steps at which it is live, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Interval {
    pub size: u64,
    pub first: usize,
    pub last: usize,
}

impl Interval {
    fn meets(&self, other: &Interval) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// An offset for each buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Offset of each buffer, in the order given; 0 where its size is 0.
    pub offsets: Vec<u64>,
    /// Bytes of the arena.
    pub size: u64,
    /// Largest sum of live bytes.
    pub lower_bound: u64,
}

/// Comparisons that all tries together may take.
const WORK: usize = 40_000_000;
/// Pseudo-random orders tried at most.
const TRIES: usize = 400;

/// Packs buffers into one arena. Offsets are multiples of whatever all sizes are multiples of.
pub fn pack(intervals: &[Interval]) -> Packing {
    let items: Vec<usize> = (0..intervals.len()).filter(|&i| intervals[i].size > 0).collect();
    let lower_bound = lower_bound(intervals);
    let mut best = Packing { offsets: vec![0; intervals.len()], size: 0, lower_bound };
    if items.is_empty() {
        return best;
    }
    let mut by_size = items.clone();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].size), intervals[i].first, i));
    let mut order = by_size;
    best.size = u64::MAX;
    for candidate in [order.clone(), by_breadth(intervals, &items)] {
        let (offsets, size) = place(intervals, &candidate);
        if size < best.size {
            (best.offsets, best.size, order) = (offsets, size, candidate);
        }
    }
    let tries = TRIES.min(WORK / (items.len() * items.len()).max(1));
    let mut random = Random(0x7469_6e79_6669_7368);
    for _ in 0..tries {
        if best.size == lower_bound {
            break;
        }
        let mut changed = order.clone();
        // A few buffers move some places towards the front, where they choose first.
        for _ in 0..1 + random.below(4) {
            let from = random.below(changed.len());
            let to = random.below(from + 1);
            let item = changed.remove(from);
            changed.insert(to, item);
        }
        let (offsets, size) = place(intervals, &changed);
        if size <= best.size {
            (best.offsets, best.size, order) = (offsets, size, changed);
        }
    }
    best
}

/// Largest sum of sizes live at one step.
fn lower_bound(intervals: &[Interval]) -> u64 {
    let mut changes: Vec<(usize, bool, u64)> = Vec::new();
    for i in intervals.iter().filter(|i| i.size > 0) {
        changes.push((i.first, true, i.size));
        changes.push((i.last + 1, false, i.size));
    }
    // At one step, what ends before it goes first.
    changes.sort_unstable();
    let (mut live, mut most) = (0u64, 0u64);
    for (_, starts, size) in changes {
        if starts {
            live += size;
            most = most.max(live);
        } else {
            live -= size;
        }
    }
    most
}

/// Steps in the order of the bytes live at them, most first; at each, its buffers by size.
fn by_breadth(intervals: &[Interval], items: &[usize]) -> Vec<usize> {
    let steps = items.iter().map(|&i| intervals[i].last + 1).max().unwrap_or(0);
    if steps.saturating_mul(items.len()) > WORK {
        return items.to_vec();
    }
    let mut breadth = vec![0u64; steps];
    for &i in items {
        for b in &mut breadth[intervals[i].first..=intervals[i].last] {
            *b += intervals[i].size;
        }
    }
    let mut order: Vec<usize> = (0..steps).collect();
    order.sort_by_key(|&s| (std::cmp::Reverse(breadth[s]), s));
    let mut taken = vec![false; intervals.len()];
    let mut out = Vec::with_capacity(items.len());
    for s in order {
        let live = |i: &usize| intervals[*i].first <= s && s <= intervals[*i].last;
        let mut here: Vec<usize> = items.iter().copied().filter(live).collect();
        here.retain(|&i| !std::mem::replace(&mut taken[i], true));
        here.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].size), i));
        out.extend(here);
    }
    out
}

/// Gives each buffer, in order, the lowest offset at which it fits.
fn place(intervals: &[Interval], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0u64; intervals.len()];
    let mut end = 0;
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    for &i in order {
        let mut at = 0;
        // `placed` is sorted by offset: the first gap that is large enough.
        for &p in placed.iter().filter(|&&p| intervals[p].meets(&intervals[i])) {
            if offsets[p] >= at + intervals[i].size {
                break;
            }
            at = at.max(offsets[p] + intervals[p].size);
        }
        offsets[i] = at;
        end = end.max(at + intervals[i].size);
        let slot = placed.partition_point(|&p| offsets[p] <= at);
        placed.insert(slot, i);
    }
    (offsets, end)
}

/// xorshift64*, for orders only.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}
