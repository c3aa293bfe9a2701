//! What the tests of this crate share.
#![allow(dead_code)]

/// A small generator of reproducible numbers.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit.max(1)
    }
}

/// A picture with what photographs have: smooth shades, edges, some noise, strong colours.
pub fn photo(width: u32, height: u32, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    let (w, h) = (f64::from(width), f64::from(height));
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (f64::from(x) / w, f64::from(y) / h);
            let wave = ((u * 7.0 + seed as f64).sin() + (v * 5.0).cos()) * 40.0;
            let noise = f64::from(random.next() % 9) - 4.0;
            let disc = (u - 0.4).hypot(v - 0.5) < 0.2;
            let [r, g, b] =
                if disc { [200.0, 40.0, 30.0] } else { [110.0, 130.0, 90.0 + u * 80.0] };
            for level in [r + wave, g + wave * 0.8, b - wave] {
                rgb.push((level + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    rgb
}

/// How close two pictures are, in decibels.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (sum / a.len() as f64).max(1e-9)).log10()
}
