//! The cheapest of all ways to divide things between two sides.
//!
//! Costs of a thing on a side, and of two things on different sides, make a network of pipes; its
//! smallest cut is the cheapest division (Greig, Porteous and Seheult 1989; Kolmogorov and Zabih
//! 2004, "What energy functions can be minimized via graph cuts?"). The largest flow finds it,
//! along shortest paths (Edmonds and Karp 1972).

use std::collections::VecDeque;

/// Capacity of what must not be cut; sums of it do not overflow.
const WHOLE: u64 = 1 << 50;

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: usize,
    /// What still fits.
    left: u64,
}

/// Things to divide: the first side is where the source is, the second where the sink is.
#[derive(Clone, Debug)]
pub struct Division {
    /// In pairs: an edge and its reverse.
    edges: Vec<Edge>,
    of: Vec<Vec<usize>>,
}

const SOURCE: usize = 0;
const SINK: usize = 1;

/// Microseconds as whole picoseconds.
fn whole(us: f64) -> u64 {
    if us.is_finite() { (us.max(0.0) * 1e6).round() as u64 } else { WHOLE }.min(WHOLE)
}

impl Division {
    /// `count` things, numbered from 0.
    pub fn new(count: usize) -> Division {
        Division { edges: Vec::new(), of: vec![Vec::new(); count + 2] }
    }

    /// Another thing; its number.
    pub fn add(&mut self) -> usize {
        self.of.push(Vec::new());
        self.of.len() - 3
    }

    fn edge(&mut self, from: usize, to: usize, capacity: u64) {
        for (from, to, left) in [(from, to, capacity), (to, from, 0)] {
            self.of[from].push(self.edges.len());
            self.edges.push(Edge { to, left });
        }
    }

    /// What a thing costs on the first and on the second side.
    pub fn costs(&mut self, thing: usize, first: f64, second: f64) {
        // What both cost decides nothing.
        let (first, second) = (whole(first), whole(second));
        let common = first.min(second);
        self.edge(SOURCE, thing + 2, second - common);
        self.edge(thing + 2, SINK, first - common);
    }

    /// A cost of `a` on the first side with `b` on the second; infinite: it cannot be.
    pub fn apart(&mut self, a: usize, b: usize, cost: f64) {
        self.edge(a + 2, b + 2, whole(cost));
    }

    /// The cheapest division, of several the one with the fewest on the first side: true for
    /// what is there.
    pub fn first_side(mut self) -> Vec<bool> {
        loop {
            let (reached, by) = self.reach();
            if !reached[SINK] {
                return reached[2..].to_vec();
            }
            let mut least = u64::MAX;
            let mut at = SINK;
            while at != SOURCE {
                let e = by[at];
                least = least.min(self.edges[e].left);
                at = self.edges[e ^ 1].to;
            }
            let mut at = SINK;
            while at != SOURCE {
                let e = by[at];
                self.edges[e].left -= least;
                self.edges[e ^ 1].left += least;
                at = self.edges[e ^ 1].to;
            }
        }
    }

    /// What the source reaches, and the edge by which each was reached first.
    fn reach(&self) -> (Vec<bool>, Vec<usize>) {
        let mut reached = vec![false; self.of.len()];
        let mut by = vec![usize::MAX; self.of.len()];
        let mut open = VecDeque::from([SOURCE]);
        reached[SOURCE] = true;
        while let Some(at) = open.pop_front() {
            for &e in &self.of[at] {
                let Edge { to, left } = self.edges[e];
                if left > 0 && !reached[to] {
                    reached[to] = true;
                    by[to] = e;
                    open.push_back(to);
                }
            }
        }
        (reached, by)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_dear_to_part_goes_together() {
        // A chain of three; the middle one alone would be cheaper on the first side.
        let divide = |parting: f64| {
            let mut d = Division::new(3);
            d.costs(0, 5.0, 2.0);
            d.costs(1, 1.0, 2.5);
            d.costs(2, 5.0, 2.0);
            for (a, b) in [(0, 1), (1, 2)] {
                d.apart(a, b, parting);
                d.apart(b, a, parting);
            }
            d.first_side()
        };
        assert_eq!(divide(0.5), [false, true, false]);
        assert_eq!(divide(1.0), [false; 3]);
        let mut d = Division::new(2);
        d.costs(0, 0.0, 1.0);
        d.costs(1, 9.0, 0.0);
        d.apart(0, 1, f64::INFINITY);
        assert_eq!(d.first_side(), [false, false]);
    }

    #[test]
    fn what_costs_the_same_is_on_the_second_side() {
        let mut d = Division::new(2);
        d.costs(0, 1.0, 1.0);
        assert_eq!(d.first_side(), [false, false]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// No other division of up to 8 things is cheaper.
        #[test]
        fn nothing_is_cheaper(
            costs in prop::collection::vec((0u32..50, 0u32..50), 1..8),
            apart in prop::collection::vec((0usize..8, 0usize..8, 0u32..30), 0..20),
        ) {
            let n = costs.len();
            let mut d = Division::new(n);
            for (i, &(a, b)) in costs.iter().enumerate() {
                d.costs(i, f64::from(a), f64::from(b));
            }
            let apart: Vec<_> =
                apart.into_iter().map(|(a, b, c)| (a % n, b % n, c)).filter(|e| e.0 != e.1).collect();
            for &(a, b, c) in &apart {
                d.apart(a, b, f64::from(c));
            }
            let cost = |first: &dyn Fn(usize) -> bool| -> u32 {
                let own = (0..n).map(|i| if first(i) { costs[i].0 } else { costs[i].1 });
                let between = apart.iter().filter(|e| first(e.0) && !first(e.1)).map(|e| e.2);
                own.sum::<u32>() + between.sum::<u32>()
            };
            let found = d.first_side();
            let least = (0u32..1 << n).map(|set| cost(&|i| set >> i & 1 == 1)).min();
            prop_assert_eq!(Some(cost(&|i| found[i])), least);
        }
    }
}
