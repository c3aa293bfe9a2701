//! Comparing what a kernel wrote with what the reference wrote.

use half::f16;
use tobiuo_kernels::random::POISON;
use tobiuo_tensor::DType;

/// What the reference wrote into one output, and where.
pub struct Expected {
    dtype: DType,
    bytes: Vec<u8>,
    /// One per element: written by the layer, or between its pixels.
    written: Vec<bool>,
    /// Root of the mean square of the written values.
    rms: f64,
}

/// How far a result is off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Error {
    /// `|got - want| / |want|`, Euclidean.
    pub relative: f64,
}

fn value(dtype: DType, bytes: &[u8], i: usize) -> f64 {
    let at = &bytes[i * dtype.size()..][..dtype.size()];
    match dtype {
        DType::F16 => f16::from_le_bytes([at[0], at[1]]).to_f64(),
        DType::F32 => f64::from(f32::from_le_bytes([at[0], at[1], at[2], at[3]])),
        _ => unreachable!("integers are compared byte by byte"),
    }
}

impl Expected {
    /// From what the reference left in memory filled with [`POISON`]. For integers, whose every
    /// bit pattern is a value, also in memory filled with its complement: an element is written
    /// where both agree.
    pub fn new(dtype: DType, bytes: Vec<u8>, over_complement: Option<&[u8]>) -> Expected {
        let size = dtype.size();
        let written: Vec<bool> = match over_complement {
            None => bytes.chunks_exact(size).map(|e| e.iter().any(|&b| b != POISON)).collect(),
            Some(other) => {
                let pairs = bytes.chunks_exact(size).zip(other.chunks_exact(size));
                pairs.map(|(a, b)| a == b).collect()
            }
        };
        let mut square = 0.0;
        let mut count = 0usize;
        if dtype.is_float() {
            for i in (0..written.len()).filter(|&i| written[i]) {
                let v = value(dtype, &bytes, i);
                if v.is_finite() {
                    square += v * v;
                }
                count += 1;
            }
        }
        Expected { dtype, bytes, written, rms: (square / count.max(1) as f64).sqrt() }
    }

    /// Elements that the layer writes.
    pub fn elements(&self) -> usize {
        self.written.iter().filter(|&&w| w).count()
    }

    /// A value that is no number among the expected ones: the test itself would be worthless.
    pub fn has_nan(&self) -> bool {
        self.dtype.is_float()
            && (0..self.written.len())
                .any(|i| self.written[i] && value(self.dtype, &self.bytes, i).is_nan())
    }

    /// Compares; the text says what is wrong.
    pub fn compare(&self, got: &[u8], tolerance: f64) -> Result<Error, String> {
        let size = self.dtype.size();
        let exact = tolerance == 0.0 || !self.dtype.is_float();
        let near_integers = tolerance > 0.0 && matches!(self.dtype, DType::I8 | DType::U8);
        let mut nudged = 0;
        // One element far off in a large layer hides in the norm.
        let far = tolerance * 25.0;
        let (mut difference, mut norm) = (0.0f64, 0.0f64);
        for i in 0..self.written.len() {
            let (w, g) = (&self.bytes[i * size..][..size], &got[i * size..][..size]);
            if !self.written[i] {
                if g.iter().any(|&b| b != POISON) {
                    return Err(format!("element {i}, between the output's pixels, was written"));
                }
                continue;
            }
            if w == g {
                if self.dtype.is_float() {
                    let v = value(self.dtype, &self.bytes, i);
                    norm += if v.is_finite() { v * v } else { 0.0 };
                }
                continue;
            }
            // Inexact sums rounded to integers: neighbours, where the sum is near their middle.
            let apart = |a: u8, b: u8| match self.dtype {
                DType::I8 => (i16::from(a as i8) - i16::from(b as i8)).unsigned_abs(),
                _ => u16::from(a.abs_diff(b)),
            };
            if near_integers && apart(w[0], g[0]) == 1 {
                nudged += 1;
                continue;
            }
            if !self.dtype.is_float() {
                return Err(format!("element {i} is {g:?}, not {w:?} (bytes of {})", self.dtype));
            }
            let (want, have) = (value(self.dtype, &self.bytes, i), value(self.dtype, got, i));
            if have.is_nan() && g.iter().all(|&b| b == POISON) {
                return Err(format!("element {i} was not written; {want} expected"));
            }
            let off = (have - want).abs();
            // Zeros of either sign are equal.
            if off.is_nan() || (exact && off != 0.0) {
                return Err(format!("element {i} is {have}, not {want}"));
            }
            if off > far * (want.abs() + self.rms) && off > f64::from(f32::MIN_POSITIVE) {
                return Err(format!("element {i} is {have}, not {want}: off by {off:.3e}"));
            }
            if off.is_finite() {
                difference += off * off;
            }
            norm += want * want;
        }
        if nudged * 5 > self.elements() {
            return Err(format!("{nudged} of {} integers are off by 1", self.elements()));
        }
        let relative = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        if relative > tolerance || relative.is_nan() {
            return Err(format!("relative error {relative:.3e}, more than {tolerance:.0e}"));
        }
        Ok(Error { relative })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn expected() -> Expected {
        let mut memory = bytes(&[1.0, -2.0, 0.0]);
        memory.extend([POISON; 4]);
        Expected::new(DType::F32, memory, None)
    }

    #[test]
    fn integers_are_compared_exactly() {
        let e = Expected::new(DType::U8, vec![POISON, POISON, 3], Some(&[POISON, !POISON, 3]));
        assert_eq!(e.elements(), 2);
        assert!(e.compare(&[POISON, POISON, 3], 1e-5).is_ok());
        assert!(e.compare(&[POISON, 1, 3], 1e-5).is_err());
        assert!(e.compare(&[POISON, POISON, 4], 1e-5).is_err());
    }

    #[test]
    fn integers_made_of_inexact_sums_may_be_neighbours() {
        let want: Vec<u8> = (0..20).map(|i| i as u8).collect();
        let e = Expected::new(DType::I8, want.clone(), Some(&want));
        let with = |i: usize, v: i8| {
            let mut got = want.clone();
            got[i] = v as u8;
            got
        };
        assert!(e.compare(&with(3, 4), 2e-3).is_ok());
        assert!(e.compare(&with(0, -1), 2e-3).is_ok());
        assert!(e.compare(&with(3, 4), 0.0).is_err());
        assert!(e.compare(&with(3, 5), 2e-3).is_err());
        let all: Vec<u8> = want.iter().map(|v| v + 1).collect();
        assert!(e.compare(&all, 2e-3).unwrap_err().contains("off by 1"));
    }

    #[test]
    fn mistakes_are_found() {
        let e = expected();
        let good = e.bytes.clone();
        assert_eq!(e.elements(), 3);
        assert_eq!(e.compare(&good, 1e-5).unwrap().relative, 0.0);
        let with = |values: &[f32]| {
            let mut b = good.clone();
            b[..values.len() * 4].copy_from_slice(&bytes(values));
            b
        };
        assert!(e.compare(&with(&[1.000001]), 1e-5).is_ok());
        assert!(e.compare(&with(&[1.000001]), 0.0).is_err());
        assert!(e.compare(&with(&[1.0001]), 1e-5).unwrap_err().contains("relative"));
        assert!(e.compare(&with(&[1.1]), 1e-5).unwrap_err().contains("off by"));
        assert!(e.compare(&with(&[f32::NAN]), 1e-5).is_err());
        let mut unwritten = good.clone();
        unwritten[..4].fill(POISON);
        assert!(e.compare(&unwritten, 1e-5).unwrap_err().contains("not written"));
        let mut beyond = good;
        beyond[13] = 0;
        assert!(e.compare(&beyond, 1e-5).unwrap_err().contains("between"));
    }
}
