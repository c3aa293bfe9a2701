//! Arithmetic of one element, generic over the types that kernels compute in.

use std::ops::{Add, Div, Mul, Rem, Sub};

use bytemuck::Pod;

/// What integers and floats have in common.
pub(crate) trait Number: Pod + Send + Sync + PartialOrd {
    /// Loops over it are compiled for every vector width; for types that networks hardly
    /// compute with that would only cost build time.
    const WIDE: bool;
    const ZERO: Self;
    const ONE: Self;
    /// Nothing is smaller (larger).
    const LOWEST: Self;
    const HIGHEST: Self;

    fn is_nan(self) -> bool;
    /// Integers wrap around.
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn magnitude(self) -> Self;
    /// Integers truncate; divided by zero they give zero.
    fn over(self, count: usize) -> Self;

    #[inline(always)]
    fn plus_magnitude(self, other: Self) -> Self {
        self.plus(other.magnitude())
    }

    #[inline(always)]
    fn plus_square(self, other: Self) -> Self {
        self.plus(other.times(other))
    }

    /// The larger one, or NaN where one is.
    #[inline(always)]
    fn upper(self, other: Self) -> Self {
        if other > self || other.is_nan() { other } else { self }
    }

    /// The smaller one, or NaN where one is.
    #[inline(always)]
    fn lower(self, other: Self) -> Self {
        if other < self || other.is_nan() { other } else { self }
    }
}

pub(crate) trait Float:
    Number
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Rem<Output = Self>
{
    fn power(self, exponent: Self) -> Self;
    /// Remainder with the divisor's sign.
    fn floor_rem(self, other: Self) -> Self;
}

pub(crate) trait Integer: Number {
    fn minus(self, other: Self) -> Self;
    fn quotient(self, other: Self) -> Self;
    fn power(self, exponent: Self) -> Self;
    /// Remainder with the divisor's sign; of a division by zero, zero.
    fn floor_rem(self, other: Self) -> Self;
    /// Remainder with the dividend's sign; of a division by zero, zero.
    fn truncated_rem(self, other: Self) -> Self;
}

impl Number for f32 {
    const WIDE: bool = true;
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const LOWEST: f32 = f32::NEG_INFINITY;
    const HIGHEST: f32 = f32::INFINITY;

    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }

    #[inline(always)]
    fn plus(self, other: f32) -> f32 {
        self + other
    }

    #[inline(always)]
    fn times(self, other: f32) -> f32 {
        self * other
    }

    #[inline(always)]
    fn magnitude(self) -> f32 {
        self.abs()
    }

    fn over(self, count: usize) -> f32 {
        self / count as f32
    }
}

impl Float for f32 {
    fn power(self, exponent: f32) -> f32 {
        // Squares are what models ask for, and exact this way.
        if exponent == 2.0 { self * self } else { self.powf(exponent) }
    }

    fn floor_rem(self, other: f32) -> f32 {
        let r = self % other;
        if r != 0.0 && (r < 0.0) != (other < 0.0) { r + other } else { r }
    }
}

macro_rules! integer {
    ($($t:ty, $magnitude:expr, $is_negative:expr);*) => {$(
        impl Number for $t {
            const WIDE: bool = false;
            const ZERO: $t = 0;
            const ONE: $t = 1;
            const LOWEST: $t = <$t>::MIN;
            const HIGHEST: $t = <$t>::MAX;

            #[inline(always)]
            fn is_nan(self) -> bool {
                false
            }

            #[inline(always)]
            fn plus(self, other: $t) -> $t {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn times(self, other: $t) -> $t {
                self.wrapping_mul(other)
            }

            #[inline(always)]
            fn magnitude(self) -> $t {
                $magnitude(self)
            }

            fn over(self, count: usize) -> $t {
                i128::from(self).checked_div(count as i128).unwrap_or(0) as $t
            }
        }

        impl Integer for $t {
            #[inline(always)]
            fn minus(self, other: $t) -> $t {
                self.wrapping_sub(other)
            }

            fn quotient(self, other: $t) -> $t {
                if other == 0 { 0 } else { self.wrapping_div(other) }
            }

            fn power(self, exponent: $t) -> $t {
                if $is_negative(exponent) {
                    // 1 / self^|exponent|, truncated.
                    return match i128::from(self) {
                        1 => 1,
                        -1 if i128::from(exponent) % 2 == 0 => 1,
                        -1 => self,
                        _ => 0,
                    };
                }
                let (mut result, mut base, mut e) = (1 as $t, self, exponent);
                while e > 0 {
                    if e % 2 == 1 {
                        result = result.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    e /= 2;
                }
                result
            }

            fn floor_rem(self, other: $t) -> $t {
                let r = self.truncated_rem(other);
                if r != 0 && $is_negative(r) != $is_negative(other) { r + other } else { r }
            }

            fn truncated_rem(self, other: $t) -> $t {
                if other == 0 { 0 } else { self.wrapping_rem(other) }
            }
        }
    )*};
}

integer!(
    i64, i64::wrapping_abs, i64::is_negative;
    i32, i32::wrapping_abs, i32::is_negative;
    i8, i8::wrapping_abs, i8::is_negative;
    u8, |x| x, |_| false
);
