//! What both DCTs are made of: the constants, and passes over the eight columns of a block.
//!
//! A pass is a plain loop over the columns whose body is the whole one-dimensional transform, on
//! scalars. That is the form that the compiler makes vector code of, on x86-64 and on aarch64;
//! with arrays of lanes as values it does not.

pub(super) const CONST_BITS: u32 = 13;
pub(super) const PASS1_BITS: u32 = 2;

pub(super) const C0_298: i32 = 2446;
pub(super) const C0_390: i32 = 3196;
pub(super) const C0_541: i32 = 4433;
pub(super) const C0_765: i32 = 6270;
pub(super) const C0_899: i32 = 7373;
pub(super) const C1_175: i32 = 9633;
pub(super) const C1_501: i32 = 12299;
pub(super) const C1_847: i32 = 15137;
pub(super) const C1_961: i32 = 16069;
pub(super) const C2_053: i32 = 16819;
pub(super) const C2_562: i32 = 20995;
pub(super) const C3_072: i32 = 25172;

/// A block by rows.
pub(super) type Block = [[i32; 8]; 8];

/// Applies `transform` to the first `COLUMNS` columns of `input`, of which only the first `ROWS`
/// rows are not zero.
#[inline(always)]
pub(super) fn pass<const ROWS: usize, const COLUMNS: usize>(
    input: &Block,
    output: &mut Block,
    transform: impl Fn([i32; 8]) -> [i32; 8],
) {
    for column in 0..COLUMNS {
        let row = |index: usize| if index < ROWS { input[index][column] } else { 0 };
        let values = transform([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
        output[0][column] = values[0];
        output[1][column] = values[1];
        output[2][column] = values[2];
        output[3][column] = values[3];
        output[4][column] = values[4];
        output[5][column] = values[5];
        output[6][column] = values[6];
        output[7][column] = values[7];
    }
}

#[inline(always)]
pub(super) fn transpose(input: &Block, output: &mut Block) {
    for row in 0..8 {
        for column in 0..8 {
            output[row][column] = input[column][row];
        }
    }
}

#[inline(always)]
pub(super) fn add(a: i32, b: i32) -> i32 {
    a.wrapping_add(b)
}

#[inline(always)]
pub(super) fn sub(a: i32, b: i32) -> i32 {
    a.wrapping_sub(b)
}

#[inline(always)]
pub(super) fn scale(a: i32, by: i32) -> i32 {
    a.wrapping_mul(by)
}

/// Divides by `1 << bits`, to the nearest.
#[inline(always)]
pub(super) fn descale(a: i32, bits: u32) -> i32 {
    a.wrapping_add(1 << (bits - 1)) >> bits
}
