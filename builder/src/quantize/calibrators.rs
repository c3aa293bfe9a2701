//! From a histogram to the magnitude that is cut off.

use super::histogram::{BINS, Histogram};

/// How the magnitude is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Calibrator {
    /// The one under which the clipped distribution keeps the most information: the smallest
    /// Kullback-Leibler divergence from what 128 levels tell of it (Migacz, "8-bit inference
    /// with TensorRT", GTC 2017).
    Entropy,
    /// The largest magnitude.
    MinMax,
    /// The one that this share of all elements, in percent, does not exceed.
    Percentile(f32),
    /// The one with the smallest mean squared error of rounding and clipping.
    Mse,
}

/// What `auto` tries.
pub const ALL: [Calibrator; 6] = [
    Calibrator::MinMax,
    Calibrator::Percentile(99.999),
    Calibrator::Percentile(99.99),
    Calibrator::Percentile(99.9),
    Calibrator::Entropy,
    Calibrator::Mse,
];

impl std::fmt::Display for Calibrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Calibrator::Entropy => f.write_str("entropy"),
            Calibrator::MinMax => f.write_str("minmax"),
            Calibrator::Percentile(p) => write!(f, "percentile-{p}"),
            Calibrator::Mse => f.write_str("mse"),
        }
    }
}

impl Calibrator {
    /// The magnitude beyond which elements are cut off, when they are stored in one of two ways:
    /// `low` is `None` for 127 levels on either side of 0, else the smallest of 256 levels (0 or
    /// below), whatever the largest is.
    pub fn clip(self, h: &Histogram, low: Option<f32>) -> f32 {
        let largest = h.largest();
        if largest == 0.0 || h.width == 0.0 {
            return 0.0;
        }
        let edge = match self {
            Calibrator::MinMax => return largest,
            Calibrator::Percentile(p) => percentile(h, f64::from(p)),
            Calibrator::Entropy => entropy(h, if low.is_some() { 256 } else { 128 }),
            Calibrator::Mse => mse(h, low.map(|l| f64::from(-l / h.width))),
        };
        (edge as f32 * h.width).min(largest)
    }
}

/// Edges that are tried, from the first above the largest magnitude down: each `1 / share`
/// nearer to 0, none below `least` bins.
fn edges(h: &Histogram, share: usize, least: usize) -> impl Iterator<Item = usize> {
    let top = h.bins.iter().rposition(|&n| n > 0).unwrap_or(0) + 1;
    let next = move |&end: &usize| Some(end - end.div_ceil(share)).filter(|&e| e >= least);
    std::iter::successors(Some(top), next)
}

/// The first edge below which `percent` of all elements lie.
fn percentile(h: &Histogram, percent: f64) -> usize {
    let wanted = h.count as f64 * percent / 100.0;
    let mut sum = 0;
    for (i, n) in h.bins.iter().enumerate() {
        sum += n;
        if sum as f64 >= wanted {
            return i + 1;
        }
    }
    BINS
}

/// The edge with the smallest divergence. Zeros say nothing about where to cut (a rectifier
/// makes many): the first bin counts as the second.
fn entropy(h: &Histogram, levels: usize) -> usize {
    let mut bins: Vec<f64> = h.bins.iter().map(|&n| n as f64).collect();
    bins[0] = bins[1];
    let mut best = (f64::INFINITY, BINS);
    for end in edges(h, 128, levels) {
        let cut = bins[end..].iter().sum();
        let divergence = divergence(&bins[..end], cut, levels);
        if divergence < best.0 {
            best = (divergence, end);
        }
    }
    best.1
}

/// Divergence of `bins`, with what is cut off added to the last one, from the same merged to
/// `levels` levels and spread again over the bins that are not empty.
fn divergence(bins: &[f64], cut: f64, levels: usize) -> f64 {
    let n = bins.len();
    let (mut sum, mut weight) = (0.0, 0.0);
    let (p_total, mut q_total) = (bins.iter().sum::<f64>() + cut, 0.0);
    for level in 0..levels {
        let (from, to) = (level * n / levels, (level + 1) * n / levels);
        let part = &bins[from..to];
        let mass: f64 = part.iter().sum();
        let mut filled = part.iter().filter(|&&b| b > 0.0).count();
        // What is cut off fills the last bin of P, where Q has nothing to say of it.
        let last_is_new = to == n && cut > 0.0 && bins[n - 1] == 0.0;
        if last_is_new {
            filled += 1;
        }
        if filled == 0 {
            continue;
        }
        let q = mass / filled as f64;
        q_total += mass;
        for (i, &b) in part.iter().enumerate() {
            let p = if from + i == n - 1 { b + cut } else { b };
            if p > 0.0 {
                if q <= 0.0 {
                    return f64::INFINITY;
                }
                sum += p * (p / q).ln();
                weight += p;
            }
        }
    }
    if weight == 0.0 || q_total == 0.0 {
        return f64::INFINITY;
    }
    // Both normalised: sum p/P ln((p/P) / (q/Q)).
    sum / p_total + (q_total / p_total).ln()
}

/// The edge with the smallest squared error; `below`: bins that the levels reach below 0, or
/// `None` when they lie evenly around it.
fn mse(h: &Histogram, below: Option<f64>) -> usize {
    let mut best = (f64::INFINITY, BINS);
    let filled: Vec<(f64, f64)> = (h.bins.iter().enumerate())
        .filter(|(i, n)| *i > 0 && **n > 0)
        .map(|(i, &n)| (i as f64 + 0.5, n as f64))
        .collect();
    // Beyond a 64th of the range nothing good comes: half of the elements would have to be 0.
    for end in edges(h, 64, BINS / 128) {
        let clip = end as f64;
        let step = below.map_or(clip / 127.0, |b| (clip + b) / 255.0);
        let mut error = 0.0;
        for &(x, n) in &filled {
            let q = (x / step).round() * step;
            // Elements are spread over their bin: of a step that is finer, over the step.
            let e = match x > clip {
                true => (x - clip) * (x - clip),
                false if step <= 1.0 => step * step / 12.0,
                false => (x - q) * (x - q) + 1.0 / 12.0,
            };
            error += n * e;
            if error > best.0 {
                break;
            }
        }
        if error < best.0 {
            best = (error, end);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Magnitudes 0..1, many more of them small than large, and a few far out.
    fn with_outliers() -> Histogram {
        let mut h = Histogram::default();
        h.add(&(0..100_000).map(|i| (i as f32 / 100_000.0).powi(2)).collect::<Vec<_>>());
        h.add(&[8.0; 3]);
        h
    }

    #[test]
    fn outliers_are_kept_or_cut() {
        let h = with_outliers();
        let clip = |c: Calibrator| c.clip(&h, None);
        assert_eq!(clip(Calibrator::MinMax), 8.0);
        assert!((clip(Calibrator::Percentile(99.9)) - 1.0).abs() < 0.02);
        assert!((clip(Calibrator::Percentile(100.0)) - 8.0).abs() < 0.02);
        let entropy = clip(Calibrator::Entropy);
        assert!((0.9..2.0).contains(&entropy), "{entropy}");
        // Three elements at 8 cost 3 * (8 - c)^2, rounding the others about 1e5 / 12 *
        // (c / 127)^2: least where c = 3 * 8 / (3 + 1e5 / 12 / 127^2), about 6.8.
        let mse = clip(Calibrator::Mse);
        assert!((6.0..7.8).contains(&mse), "{mse}");
    }

    #[test]
    fn entropy_cuts_outliers_far_beyond_the_rest() {
        for beyond in [4.0f32, 16.0, 30.0] {
            let mut h = Histogram::default();
            h.add(&(0..100_000).map(|i| (i as f32 / 100_000.0).powi(2)).collect::<Vec<_>>());
            h.add(&[beyond; 3]);
            let clip = Calibrator::Entropy.clip(&h, None);
            assert!((0.9..2.1).contains(&clip), "{beyond}: {clip}");
        }
    }

    #[test]
    fn nothing_is_cut_of_few_levels() {
        let mut h = Histogram::default();
        h.add(&[0.0, 0.5, 1.0, -1.0]);
        for c in ALL {
            for low in [None, Some(-0.1)] {
                let clip = c.clip(&h, low);
                assert!((0.9..=1.0).contains(&clip), "{c}: {clip}");
            }
        }
        assert_eq!(Calibrator::Entropy.clip(&Histogram::default(), Some(0.0)), 0.0);
    }
}
