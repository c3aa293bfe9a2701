//! The inverse DCT: Loeffler, Ligtenberg and Moschytz's, in 13-bit fixed point, with the same
//! roundings as libjpeg's accurate integer method (`JDCT_ISLOW`).

use super::dct::*;

/// One dimension of the transform, descaled by `bits`.
#[inline(always)]
fn one(x: [i32; 8], bits: u32) -> [i32; 8] {
    let z1 = scale(add(x[2], x[6]), C0_541);
    let even2 = sub(z1, scale(x[6], C1_847));
    let even3 = add(z1, scale(x[2], C0_765));
    let even0 = scale(add(x[0], x[4]), 1 << CONST_BITS);
    let even1 = scale(sub(x[0], x[4]), 1 << CONST_BITS);
    let (t10, t13) = (add(even0, even3), sub(even0, even3));
    let (t11, t12) = (add(even1, even2), sub(even1, even2));

    let z5 = scale(add(add(x[7], x[3]), add(x[5], x[1])), C1_175);
    let z1 = scale(add(x[7], x[1]), -C0_899);
    let z2 = scale(add(x[5], x[3]), -C2_562);
    let z3 = sub(z5, scale(add(x[7], x[3]), C1_961));
    let z4 = sub(z5, scale(add(x[5], x[1]), C0_390));
    let odd0 = add(scale(x[7], C0_298), add(z1, z3));
    let odd1 = add(scale(x[5], C2_053), add(z2, z4));
    let odd2 = add(scale(x[3], C3_072), add(z2, z3));
    let odd3 = add(scale(x[1], C1_501), add(z1, z4));

    [
        descale(add(t10, odd3), bits),
        descale(add(t11, odd2), bits),
        descale(add(t12, odd1), bits),
        descale(add(t13, odd0), bits),
        descale(sub(t13, odd0), bits),
        descale(sub(t12, odd1), bits),
        descale(sub(t11, odd2), bits),
        descale(sub(t10, odd3), bits),
    ]
}

/// Transforms one block of quantised coefficients by rows into eight rows of samples, `stride`
/// apart in `out`. Only the first `N` rows and columns of the block are looked at.
#[inline(always)]
fn transform<const N: usize>(block: &[i16; 64], quant: &[i16; 64], out: &mut [u8], stride: usize) {
    let (mut a, mut b) = ([[0; 8]; 8], [[0; 8]; 8]);
    for row in 0..N {
        let (coefficients, steps) = (&block[row * 8..row * 8 + 8], &quant[row * 8..row * 8 + 8]);
        for column in 0..8 {
            a[row][column] = i32::from(coefficients[column]) * i32::from(steps[column]);
        }
    }
    pass::<N, N>(&a, &mut b, |column| one(column, CONST_BITS - PASS1_BITS));
    transpose(&b, &mut a);
    pass::<N, 8>(&a, &mut b, |row| one(row, CONST_BITS + PASS1_BITS + 3));
    transpose(&b, &mut a);
    for (row, samples) in out.chunks_mut(stride).zip(&a) {
        let row: &mut [u8; 8] = (&mut row[..8]).try_into().expect("8 samples");
        for (to, &sample) in row.iter_mut().zip(samples) {
            *to = (sample + 128).clamp(0, 255) as u8;
        }
    }
}

/// Any block.
#[inline(never)]
fn whole(block: &[i16; 64], quant: &[i16; 64], out: &mut [u8], stride: usize) {
    transform::<8>(block, quant, out, stride);
}

/// A block whose coefficients all lie in the first four rows and columns.
#[inline(never)]
fn corner(block: &[i16; 64], quant: &[i16; 64], out: &mut [u8], stride: usize) {
    transform::<4>(block, quant, out, stride);
}

/// Transforms one block whose last coefficient, in zigzag order, is number `last`.
#[inline(always)]
pub(super) fn idct(
    block: &[i16; 64],
    quant: &[i16; 64],
    last: usize,
    out: &mut [u8],
    stride: usize,
) {
    match last {
        0 => {
            let level = i32::from(block[0]) * i32::from(quant[0]);
            let sample = (((level + 4) >> 3) + 128).clamp(0, 255) as u8;
            for row in out.chunks_mut(stride).take(8) {
                row[..8].fill(sample);
            }
        }
        // The first four diagonals of the zigzag.
        1..=9 => corner(block, quant, out, stride),
        _ => whole(block, quant, out, stride),
    }
}

#[cfg(test)]
mod tests {
    use std::array;

    use super::*;

    /// The transform by its definition, in f64.
    fn reference(block: &[i16; 64]) -> [f64; 64] {
        let basis = |k: usize, n: usize| {
            let scale = if k == 0 { (0.125f64).sqrt() } else { 0.5 };
            scale * (std::f64::consts::PI * (2 * n + 1) as f64 * k as f64 / 16.0).cos()
        };
        array::from_fn(|i| {
            let (y, x) = (i / 8, i % 8);
            let mut sum = 128.0;
            for v in 0..8 {
                for u in 0..8 {
                    sum += f64::from(block[v * 8 + u]) * basis(v, y) * basis(u, x);
                }
            }
            sum.clamp(0.0, 255.0)
        })
    }

    #[test]
    fn is_the_transform_of_the_definition() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for trial in 0..2000 {
            let limit = [0, 3, 9, 20, 63][trial % 5];
            let mut block = [0i16; 64];
            let mut last = 0;
            for (k, &at) in super::super::tables::ZIGZAG.iter().enumerate().take(limit + 1) {
                if random() % 2 == 0 {
                    block[usize::from(at)] = (random() % 201) as i16 - 100;
                    last = k;
                }
            }
            let mut out = [0; 64];
            idct(&block, &[1; 64], last, &mut out, 8);
            for (have, want) in out.iter().zip(reference(&block)) {
                assert!((f64::from(*have) - want).abs() <= 1.0, "{trial}: {have} {want}");
            }
        }
    }

    #[test]
    fn any_coefficients_are_safe() {
        let mut out = [0; 64];
        for value in [i16::MIN, i16::MAX] {
            for last in [0, 9, 63] {
                idct(&[value; 64], &[i16::MAX; 64], last, &mut out, 8);
            }
        }
    }
}
