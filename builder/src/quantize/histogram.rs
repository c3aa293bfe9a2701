//! What calibration keeps of a tensor: smallest and largest element, and how often each
//! magnitude comes, all in one pass over the pictures.

use tobiuo_kernels::{HISTOGRAM_BINS, bin_width};

/// Bins of a histogram.
pub const BINS: usize = HISTOGRAM_BINS;

/// How often each magnitude came: bin `i` counts those in `i * width..(i + 1) * width`.
///
/// The width is a power of two, so that the bins of any two passes fit into one another: when an
/// element does not fit, pairs of bins are added together until it does. No pass is needed to
/// know the largest first, and neither the order of the samples nor the device changes a count.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Counts.
    pub bins: Vec<u64>,
    /// Width of a bin; 0 before an element other than 0 came.
    pub width: f32,
    /// Smallest element.
    pub min: f32,
    /// Largest element.
    pub max: f32,
    /// Elements seen.
    pub count: u64,
    /// Elements that are NaN or infinite.
    pub broken: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            bins: vec![0; BINS],
            width: 0.0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            count: 0,
            broken: 0,
        }
    }
}

impl Histogram {
    /// What was counted elsewhere: smallest and largest element, those that are not finite, and
    /// bins of the width that [`bin_width`] gives for the largest magnitude.
    pub fn counted((min, max): (f32, f32), broken: u64, bins: &[u32]) -> Histogram {
        let mut out = Histogram { min, max, broken, ..Histogram::default() };
        out.bins.iter_mut().zip(bins).for_each(|(to, &n)| *to = n.into());
        out.count = out.bins.iter().sum();
        let largest = out.largest();
        out.width = if largest > 0.0 { bin_width(largest) } else { 0.0 };
        out
    }

    /// The largest magnitude.
    pub fn largest(&self) -> f32 {
        if self.count == 0 { 0.0 } else { self.min.abs().max(self.max.abs()) }
    }

    /// True when every element was 0.
    pub fn is_dead(&self) -> bool {
        self.count > 0 && self.broken == 0 && self.largest() == 0.0
    }

    /// Adds elements.
    pub fn add(&mut self, values: &[f32]) {
        let (mut min, mut max, mut broken) = (self.min, self.max, 0u64);
        for &v in values {
            if v.is_finite() {
                min = if v < min { v } else { min };
                max = if v > max { v } else { max };
            } else {
                broken += 1;
            }
        }
        (self.min, self.max) = (min, max);
        self.broken += broken;
        let finite = values.len() as u64 - broken;
        if finite == 0 {
            return;
        }
        self.count += finite;
        let largest = self.largest();
        if largest == 0.0 {
            self.bins[0] += finite;
            return;
        }
        self.widen_to(bin_width(largest));
        // A power of two, and at most 2^126: the product is exact.
        let scale = 1.0 / self.width;
        for &v in values {
            if v.is_finite() {
                self.bins[(v.abs() * scale) as usize] += 1;
            }
        }
    }

    /// Bins as wide as that, or as they are where they are wider.
    fn widen_to(&mut self, width: f32) {
        if self.width == 0.0 {
            // Zeros that came before stay in bin 0.
            self.width = width;
        }
        while self.width < width {
            for i in 0..BINS / 2 {
                self.bins[i] = self.bins[2 * i] + self.bins[2 * i + 1];
            }
            self.bins[BINS / 2..].fill(0);
            self.width *= 2.0;
        }
    }

    /// Adds what another pass over other samples counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.broken += other.broken;
        if other.count == 0 {
            return;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        let mut other = other.clone();
        self.widen_to(other.width);
        if self.width > 0.0 {
            other.widen_to(self.width);
        }
        self.bins.iter_mut().zip(&other.bins).for_each(|(a, b)| *a += b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_element_whatever_the_order() {
        let small: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0).collect();
        let large: Vec<f32> = (0..1000).map(|i| -(i as f32) / 10.0).collect();
        let mut a = Histogram::default();
        a.add(&[0.0; 7]);
        a.add(&small);
        a.add(&large);
        assert_eq!((a.count, a.bins.iter().sum::<u64>()), (2007, 2007));
        assert_eq!((a.min, a.max, a.largest()), (-99.9, 0.999, 99.9));
        // Half of the large ones are above 50.
        let from = (50.0 / a.width) as usize;
        let above: u64 = a.bins[from..].iter().sum();
        assert!((498..=502).contains(&above), "{above}");
        let (mut b, mut c) = (Histogram::default(), Histogram::default());
        b.add(&small);
        c.add(&large);
        c.add(&[0.0; 7]);
        b.merge(&c);
        assert_eq!(b, a);
        c.merge(&Histogram::default());
        let mut d = Histogram::default();
        d.add(&[0.0; 7]);
        d.add(&large);
        assert_eq!(d, c);
    }

    #[test]
    fn zeros_and_broken_elements() {
        let mut h = Histogram::default();
        assert!(!h.is_dead());
        h.add(&[0.0, -0.0]);
        assert!(h.is_dead());
        h.add(&[f32::NAN, f32::INFINITY, 1e-40, f32::MAX]);
        assert_eq!((h.broken, h.count, h.max), (2, 4, f32::MAX));
        assert_eq!(h.bins.iter().sum::<u64>(), 4);
    }
}
