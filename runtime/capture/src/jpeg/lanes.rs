//! What both DCTs are made of: 13-bit constants, and arithmetic on eight lanes at once.

use std::array;

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

pub(super) type Lanes = [i32; 8];

#[inline(always)]
pub(super) fn add(a: Lanes, b: Lanes) -> Lanes {
    array::from_fn(|i| a[i].wrapping_add(b[i]))
}

#[inline(always)]
pub(super) fn sub(a: Lanes, b: Lanes) -> Lanes {
    array::from_fn(|i| a[i].wrapping_sub(b[i]))
}

#[inline(always)]
pub(super) fn scale(a: Lanes, by: i32) -> Lanes {
    array::from_fn(|i| a[i].wrapping_mul(by))
}

#[inline(always)]
pub(super) fn descale(a: Lanes, bits: u32) -> Lanes {
    array::from_fn(|i| a[i].wrapping_add(1 << (bits - 1)) >> bits)
}

#[inline(always)]
pub(super) fn transpose(a: &[Lanes; 8]) -> [Lanes; 8] {
    array::from_fn(|row| array::from_fn(|column| a[column][row]))
}
