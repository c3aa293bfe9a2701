//! f32 attributes as JSON, exactly.
//!
//! JSON has no infinities and no NaN (serde_json writes `null`), and a decimal read as f64 and
//! then narrowed is rounded twice. These functions write a finite number so that reading it
//! back gives the same bits even through a parser that is off by a few units in the last place
//! of an f64, and the others as strings: `"inf"`, `"-inf"`, `"nan"`, and a NaN of other bits
//! as `"nan:ffc00001"`.
//!
//! Use with `#[serde(with = "tobiuo_ops::float")]` for `f32` and
//! `#[serde(with = "tobiuo_ops::float::list")]` for `Vec<f32>`.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// Units in the last place of an f64 that a reader may be off by.
const READER_SLACK: u32 = 8;

/// The f64 that stands for a finite `x`: of its shortest decimal where that is safe, else its
/// exact value.
fn to_f64(x: f32) -> f64 {
    let exact = f64::from(x);
    let Ok(short) = x.to_string().parse::<f64>() else { return exact };
    let (mut low, mut high) = (short, short);
    for _ in 0..READER_SLACK {
        (low, high) = (low.next_down(), high.next_up());
    }
    let same = |y: f64| (y as f32).to_bits() == x.to_bits();
    if x != 0.0 && same(low) && same(high) { short } else { exact }
}

/// Writes an f32.
pub fn serialize<S: Serializer>(x: &f32, to: S) -> Result<S::Ok, S::Error> {
    if x.is_finite() {
        to.serialize_f64(to_f64(*x))
    } else if x.is_nan() && x.to_bits() != f32::NAN.to_bits() {
        to.collect_str(&format_args!("nan:{:08x}", x.to_bits()))
    } else if x.is_nan() {
        to.serialize_str("nan")
    } else {
        to.serialize_str(if *x > 0.0 { "inf" } else { "-inf" })
    }
}

/// Reads an f32.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    from.deserialize_any(FloatVisitor)
}

struct FloatVisitor;

impl Visitor<'_> for FloatVisitor {
    type Value = f32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of 32-bit range, \"inf\", \"-inf\" or \"nan\"")
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<f32, E> {
        let y = x as f32;
        if x.is_finite() && y.is_finite() {
            Ok(y)
        } else {
            Err(E::custom(format!("{x} is outside the range of a 32-bit float")))
        }
    }

    fn visit_u64<E: Error>(self, x: u64) -> Result<f32, E> {
        Ok(x as f32)
    }

    fn visit_i64<E: Error>(self, x: i64) -> Result<f32, E> {
        Ok(x as f32)
    }

    fn visit_str<E: Error>(self, s: &str) -> Result<f32, E> {
        match s {
            "inf" => return Ok(f32::INFINITY),
            "-inf" => return Ok(f32::NEG_INFINITY),
            "nan" => return Ok(f32::NAN),
            _ => (),
        }
        s.strip_prefix("nan:")
            .filter(|hex| hex.len() == 8)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .map(f32::from_bits)
            .filter(|x| x.is_nan())
            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(s), &self))
    }
}

/// The same for lists of f32.
pub mod list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Exact(#[serde(with = "super")] f32);

    /// Writes a list of f32.
    pub fn serialize<S: Serializer>(xs: &[f32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(xs.iter().map(|&x| Exact(x)))
    }

    /// Reads a list of f32.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
        Ok(Vec::<Exact>::deserialize(from)?.into_iter().map(|x| x.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize)]
    struct Attributes {
        #[serde(with = "super")]
        x: f32,
        #[serde(with = "super::list")]
        xs: Vec<f32>,
    }

    fn through_json(x: f32) -> (String, Attributes) {
        let text = serde_json::to_string(&Attributes { x, xs: vec![x, -x] }).unwrap();
        let back = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        (text, back)
    }

    fn check(x: f32) {
        let (text, back) = through_json(x);
        assert_eq!(back.x.to_bits(), x.to_bits(), "{text}");
        assert_eq!(back.xs[0].to_bits(), x.to_bits(), "{text}");
        assert_eq!(back.xs[1].to_bits(), (-x).to_bits(), "{text}");
        // Through a tagged enum serde reads numbers as f64 first, through `Value` as well.
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let again: Attributes = serde_json::from_value(value).unwrap();
        assert_eq!(again.x.to_bits(), x.to_bits(), "{text}");
    }

    #[test]
    fn special_values_round_trip() {
        let specials = [
            0.0,
            -0.0,
            1.0,
            0.1,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            f32::EPSILON,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::from_bits(0x7fc0_0123),
            f32::from_bits(0xffc0_0001),
            7.038_531e-26, // its decimal, read as f64, lies between two f32
            16_777_217.0,
        ];
        specials.into_iter().for_each(check);
    }

    #[test]
    fn any_bits_round_trip() {
        // A full-period walk over the bit patterns, 200,000 of them.
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            check(f32::from_bits(bits));
        }
    }

    #[test]
    fn numbers_stay_readable() {
        assert!(through_json(0.1).0.starts_with(r#"{"x":0.1,"#));
        assert!(through_json(0.45).0.starts_with(r#"{"x":0.45,"#));
        assert!(through_json(f32::NEG_INFINITY).0.starts_with(r#"{"x":"-inf","#));
    }

    #[test]
    fn what_is_no_f32_is_refused() {
        for x in [
            "1e39",
            "-1e39",
            "null",
            "\"x\"",
            "\"nan:00000000\"",
            "\"nan:7fc\"",
            "[]",
            "\"infinity\"",
        ] {
            let text = format!(r#"{{"x":{x},"xs":[]}}"#);
            assert!(serde_json::from_str::<Attributes>(&text).is_err(), "{text}");
        }
        let whole: Attributes = serde_json::from_str(r#"{"x":3,"xs":[-2]}"#).unwrap();
        assert_eq!((whole.x, whole.xs[0]), (3.0, -2.0));
    }
}
