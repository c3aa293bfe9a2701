//! On which stream each launch runs, and what it waits for.

use crate::plan::arena::Interval;

/// Where one launch runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its stream; 0 is the main one.
    pub stream: u32,
    /// Earlier launches of other streams that must have ended before it starts.
    pub after: Vec<u32>,
}

/// Where every launch of a plan runs. Launches of one stream follow one another; those of
/// different streams may run at the same time unless one waits for the other, directly or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// One per launch.
    pub slots: Vec<Slot>,
}

impl Schedule {
    /// One after the other on the main stream.
    pub fn serial(launches: usize) -> Schedule {
        Schedule { slots: vec![Slot::default(); launches] }
    }

    /// Number of streams.
    pub fn streams(&self) -> usize {
        self.slots.iter().map(|s| s.stream as usize + 1).max().unwrap_or(0)
    }

    /// True when no launch of the same stream comes before this one.
    pub fn is_first_of_stream(&self, launch: usize) -> bool {
        self.slots[..launch].iter().all(|s| s.stream != self.slots[launch].stream)
    }

    /// For each launch, the last one that may run at the same time: itself when all later ones
    /// wait for it.
    pub fn last_beside(&self) -> Vec<usize> {
        let n = self.slots.len();
        let words = n.div_ceil(64);
        // Bit j of before[i]: launch j has ended when i starts.
        let mut before = vec![vec![0u64; words]; n];
        let mut newest = vec![None; self.streams()];
        for i in 0..n {
            let slot = &self.slots[i];
            let previous = newest[slot.stream as usize].replace(i);
            for j in slot.after.iter().map(|&j| j as usize).chain(previous) {
                debug_assert!(j < i, "launch {i} waits for a later one");
                let (earlier, later) = before.split_at_mut(i);
                later[0].iter_mut().zip(&earlier[j]).for_each(|(a, b)| *a |= b);
                later[0][j / 64] |= 1 << (j % 64);
            }
        }
        let ended = |j: usize, i: usize| before[i][j / 64] >> (j % 64) & 1 == 1;
        (0..n).map(|j| (j + 1..n).rev().find(|&i| !ended(j, i)).unwrap_or(j)).collect()
    }

    /// Makes intervals of launches in which memory is in use long enough for launches that run
    /// at the same time: two buffers whose intervals do not meet are never in use at once.
    pub fn extend(&self, intervals: &mut [Interval], touched: &[Vec<usize>]) {
        let beside = self.last_beside();
        for (interval, launches) in intervals.iter_mut().zip(touched) {
            let last = launches.iter().map(|&i| beside[i]).max();
            interval.last = interval.last.max(last.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(stream: u32, after: &[u32]) -> Slot {
        Slot { stream, after: after.to_vec() }
    }

    #[test]
    fn serial_launches_run_alone() {
        assert_eq!(Schedule::serial(4).last_beside(), [0, 1, 2, 3]);
        assert_eq!(Schedule::serial(0).streams(), 0);
    }

    /// 0 forks into 1, 2 on stream 0 and 3 on stream 1; 4 joins them, 5 follows.
    #[test]
    fn branches_overlap_until_they_join() {
        let fork = Schedule {
            slots: vec![
                slot(0, &[]),
                slot(0, &[]),
                slot(0, &[]),
                slot(1, &[0]),
                slot(0, &[3]),
                slot(0, &[]),
            ],
        };
        assert_eq!(fork.last_beside(), [0, 3, 3, 3, 4, 5]);
        assert_eq!(fork.streams(), 2);
        assert!(fork.is_first_of_stream(3) && !fork.is_first_of_stream(4));
        let mut intervals =
            vec![Interval { size: 1, first: 0, last: 1 }, Interval { size: 1, first: 0, last: 0 }];
        fork.extend(&mut intervals, &[vec![0, 1], vec![0]]);
        assert_eq!((intervals[0].last, intervals[1].last), (3, 0));
    }
}
