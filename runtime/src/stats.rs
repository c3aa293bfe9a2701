//! Distributions of durations, recorded without allocating.

use serde_json::{Value, json};

/// Samples that are kept one by one; beyond them percentiles come from the histogram.
const EXACT: usize = 100_000;

/// Linear steps per power of two in the histogram: a bucket is at most 1/128 (0.8 %) wide.
const STEPS_BITS: u32 = 7;
const STEPS: usize = 1 << STEPS_BITS;
/// Buckets: values below `STEPS` one by one, then `STEPS` per power of two up to 2^64.
const BUCKETS: usize = STEPS + (64 - STEPS_BITS as usize) * STEPS;

/// A distribution of durations in nanoseconds.
///
/// [`record`](Self::record) never allocates. Percentiles are exact up to 100,000 samples;
/// beyond, they come from a log-linear histogram (after HdrHistogram by Gil Tene) whose
/// buckets are 0.8 % wide. Count, mean, minimum and maximum are always exact.
#[derive(Clone)]
pub struct Distribution {
    samples: Vec<u64>,
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Distribution").field(&self.summary()).finish()
    }
}

impl Distribution {
    /// An empty distribution with all the memory it will ever use.
    pub fn new() -> Self {
        Self {
            samples: Vec::with_capacity(EXACT),
            buckets: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    /// Adds a duration, in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        if self.samples.len() < EXACT {
            self.samples.push(ns);
        }
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum += u128::from(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The distribution in figures; `None` when nothing was recorded.
    pub fn summary(&self) -> Option<Percentiles> {
        if self.count == 0 {
            return None;
        }
        let us = |ns: u64| ns as f64 / 1e3;
        let mut at: Box<dyn FnMut(f64) -> u64> = if self.count <= EXACT as u64 {
            let mut sorted = self.samples.clone();
            sorted.sort_unstable();
            Box::new(move |q| sorted[rank(q, sorted.len() as u64) as usize - 1])
        } else {
            Box::new(|q| self.histogram_at(rank(q, self.count)))
        };
        Some(Percentiles {
            count: self.count,
            min: us(self.min),
            mean: self.sum as f64 / self.count as f64 / 1e3,
            p50: us(at(0.50)),
            p90: us(at(0.90)),
            p95: us(at(0.95)),
            p99: us(at(0.99)),
            max: us(self.max),
        })
    }

    /// The upper end of the bucket that holds the sample of a rank (from 1).
    fn histogram_at(&self, rank: u64) -> u64 {
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return bucket_end(i).clamp(self.min, self.max);
            }
        }
        self.max
    }
}

/// The nearest rank of a quantile among `n` sorted samples, from 1.
fn rank(q: f64, n: u64) -> u64 {
    ((q * n as f64).ceil() as u64).clamp(1, n)
}

fn bucket(v: u64) -> usize {
    let bits = 64 - v.leading_zeros();
    if bits <= STEPS_BITS {
        return v as usize;
    }
    // The leading bit gives the power of two, the next STEPS_BITS bits the step in it.
    let shift = bits - 1 - STEPS_BITS;
    let step = (v >> shift) as usize - STEPS;
    STEPS + shift as usize * STEPS + step
}

/// The largest value that falls in a bucket.
fn bucket_end(i: usize) -> u64 {
    if i < STEPS {
        return i as u64;
    }
    let (shift, step) = ((i - STEPS) / STEPS, (i - STEPS) % STEPS);
    let first = ((STEPS + step) as u64) << shift;
    first + ((1u64 << shift) - 1)
}

/// A distribution in figures. Durations are in microseconds; percentiles are nearest ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    /// `{"min", "mean", "p50", "p90", "p95", "p99", "max"}` in microseconds, to 0.1.
    pub fn to_json(&self) -> Value {
        let tenth = |v: f64| (v * 10.0).round() / 10.0;
        json!({
            "min": tenth(self.min),
            "mean": tenth(self.mean),
            "p50": tenth(self.p50),
            "p90": tenth(self.p90),
            "p95": tenth(self.p95),
            "p99": tenth(self.p99),
            "max": tenth(self.max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_percentiles_are_nearest_ranks() {
        let mut d = Distribution::new();
        for i in (1..=100u64).rev() {
            d.record(i * 1000);
        }
        let p = d.summary().unwrap();
        assert_eq!((p.min, p.p50, p.p90, p.p95, p.p99, p.max), (1., 50., 90., 95., 99., 100.));
        assert_eq!(p.mean, 50.5);
        assert_eq!(p.count, 100);
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let mut d = Distribution::new();
        assert_eq!(d.summary(), None);
        d.record(1500);
        let p = d.summary().unwrap();
        assert_eq!((p.min, p.mean, p.p50, p.p99, p.max), (1.5, 1.5, 1.5, 1.5, 1.5));
    }

    #[test]
    fn buckets_cover_every_value_and_are_narrow() {
        let mut values: Vec<u64> = (0..64)
            .flat_map(|b| [1u64 << b, (1u64 << b) - 1, (1u64 << b) | (1u64 << (b / 2))])
            .collect();
        values.extend([0, u64::MAX]);
        values.sort_unstable();
        let mut last = 0;
        for v in values {
            let b = bucket(v);
            assert!(b < BUCKETS && b >= last, "{v} in {b}");
            last = b;
            let end = bucket_end(b);
            assert!(end >= v && end - v <= v / STEPS as u64, "{v} ends at {end}");
            assert!(b == 0 || bucket_end(b - 1) < v);
        }
    }

    #[test]
    fn beyond_the_exact_samples_percentiles_stay_close() {
        let mut d = Distribution::new();
        let n = 3 * EXACT as u64;
        for i in 0..n {
            // A permutation of 0..n, so that the first EXACT samples are not special.
            d.record((i * 7919) % n * 100);
        }
        let p = d.summary().unwrap();
        for (q, got) in [(0.5, p.p50), (0.9, p.p90), (0.99, p.p99)] {
            let want = (q * n as f64 - 1.0) * 100.0 / 1e3;
            assert!((got - want).abs() / want < 0.009, "{q}: {got} for {want}");
        }
        assert_eq!(p.max, (n - 1) as f64 * 100.0 / 1e3);
        assert_eq!(p.min, 0.0);
    }

    #[test]
    fn recording_keeps_its_memory() {
        let mut d = Distribution::new();
        let before = (d.samples.as_ptr(), d.samples.capacity(), d.buckets.as_ptr());
        for i in 0..EXACT as u64 + 10 {
            d.record(i);
        }
        assert_eq!(before, (d.samples.as_ptr(), d.samples.capacity(), d.buckets.as_ptr()));
    }
}
