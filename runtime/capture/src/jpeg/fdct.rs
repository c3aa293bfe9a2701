//! The forward DCT, the inverse of [`idct`](super::idct) with the same constants, and quantising.

use super::dct::*;

/// What a transformed coefficient is multiplied by to be quantised in `steps`. The transform
/// leaves everything 8 times too large.
pub(super) fn reciprocals(steps: &[u8; 64]) -> [f32; 64] {
    steps.map(|step| 1.0 / (f32::from(step) * 8.0))
}

/// One dimension of the transform: `low` descales the two coefficients that need no multiplying,
/// `bits` all others.
#[inline(always)]
fn one(x: [i32; 8], low: impl Fn(i32) -> i32, bits: u32) -> [i32; 8] {
    let (s0, d0) = (add(x[0], x[7]), sub(x[0], x[7]));
    let (s1, d1) = (add(x[1], x[6]), sub(x[1], x[6]));
    let (s2, d2) = (add(x[2], x[5]), sub(x[2], x[5]));
    let (s3, d3) = (add(x[3], x[4]), sub(x[3], x[4]));

    let (t10, t13) = (add(s0, s3), sub(s0, s3));
    let (t11, t12) = (add(s1, s2), sub(s1, s2));
    let z1 = scale(add(t12, t13), C0_541);

    let z5 = scale(add(add(d3, d1), add(d2, d0)), C1_175);
    let o1 = scale(add(d3, d0), -C0_899);
    let o2 = scale(add(d2, d1), -C2_562);
    let o3 = sub(z5, scale(add(d3, d1), C1_961));
    let o4 = sub(z5, scale(add(d2, d0), C0_390));
    [
        low(add(t10, t11)),
        descale(add(scale(d0, C1_501), add(o1, o4)), bits),
        descale(add(z1, scale(t13, C0_765)), bits),
        descale(add(scale(d1, C3_072), add(o2, o3)), bits),
        low(sub(t10, t11)),
        descale(add(scale(d2, C2_053), add(o2, o4)), bits),
        descale(sub(z1, scale(t12, C1_847)), bits),
        descale(add(scale(d3, C0_298), add(o1, o3)), bits),
    ]
}

/// The quantised coefficients, by rows, of the 8x8 samples whose rows are `stride` apart.
pub(super) fn fdct(samples: &[u8], stride: usize, scales: &[f32; 64]) -> [i16; 64] {
    let (mut a, mut b) = ([[0; 8]; 8], [[0; 8]; 8]);
    for (y, out) in a.iter_mut().enumerate() {
        let row: &[u8; 8] = samples[y * stride..y * stride + 8].try_into().expect("8 samples");
        for (to, &sample) in out.iter_mut().zip(row) {
            *to = i32::from(sample) - 128;
        }
    }
    // libjpeg takes the rows first.
    transpose(&a, &mut b);
    let low = |value| scale(value, 1 << PASS1_BITS);
    pass::<8, 8>(&b, &mut a, |row| one(row, low, CONST_BITS - PASS1_BITS));
    transpose(&a, &mut b);
    let low = |value| descale(value, PASS1_BITS);
    pass::<8, 8>(&b, &mut a, |column| one(column, low, CONST_BITS + PASS1_BITS));
    let mut values = [0; 64];
    for ((values, lanes), scales) in values.chunks_exact_mut(8).zip(&a).zip(scales.chunks_exact(8))
    {
        for i in 0..8 {
            let scaled = lanes[i] as f32 * scales[i];
            // The tables have no codes for more than 10 bits. Adding a large number and taking it
            // off again rounds to the nearest.
            const ROUND: f32 = (3 << 22) as f32;
            values[i] = ((scaled + ROUND) - ROUND).clamp(-1023.0, 1023.0) as i16;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use std::array;

    use super::super::idct::idct;
    use super::*;

    #[test]
    fn comes_back_through_the_inverse() {
        let mut state = 7u32;
        for _ in 0..500 {
            let samples: [u8; 64] = array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
            let values = fdct(&samples, 8, &reciprocals(&[1; 64]));
            let mut back = [0; 64];
            idct(&values, &[1; 64], 63, &mut back, 8);
            for (sample, back) in samples.iter().zip(back) {
                assert!(sample.abs_diff(back) <= 2, "{sample} {back}");
            }
        }
    }

    #[test]
    fn a_flat_block_is_its_level() {
        let values = fdct(&[138; 64], 8, &reciprocals(&[2; 64]));
        assert_eq!(values[0], 40);
        assert!(values[1..].iter().all(|&value| value == 0));
    }
}
