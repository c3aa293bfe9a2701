//! Calibration kept in a text file, so that a rebuild needs no pictures.
//!
//! ```text
//! tobiuo calibration 3
//! model 3f0c...                      the model's hash: of another model it is refused
//! calibrator entropy
//! pictures 500
//! tensors 2                          the lines that follow: a file that was cut short is refused
//! 3f800000 00000000 images           the magnitude cut off and the smallest element, as the bits
//! 40a00000 be8e9ad5 conv1            of f32s in hexadecimal; the tensor's name
//! ```
//!
//! TensorRT's (and chainer-trt's) caches are read too: a first line that begins with
//! `TRT-` or is `1`, then `tensor: <8 hexadecimal digits>`, the bits of the magnitude over
//! 127.

use std::fmt::Write;

use super::insert::{Range, Ranges};

/// A file's first line.
const HEAD: &str = "tobiuo calibration 3";

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Cached {
    /// The model that it is of; a TensorRT cache does not tell.
    pub model: Option<String>,
    /// What chose the magnitudes.
    pub calibrator: String,
    /// Pictures that were seen.
    pub pictures: usize,
    /// By tensor name.
    pub ranges: Ranges,
}

impl Cached {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut out = format!(
            "{HEAD}\nmodel {}\ncalibrator {}\npictures {}\ntensors {}\n",
            self.model.as_deref().unwrap_or("unknown"),
            self.calibrator,
            self.pictures,
            self.ranges.len()
        );
        for (name, range) in &self.ranges {
            let (clip, low) = (range.clip.to_bits(), range.low.to_bits());
            let _ = writeln!(out, "{clip:08x} {low:08x} {}", escape(name));
        }
        out
    }

    /// Reads a file's text; of TensorRT's form, too.
    pub fn parse(text: &str) -> Result<Cached, String> {
        let mut lines = text.lines().enumerate();
        match lines.next() {
            // A name may have been cut, which no count of lines tells.
            Some((_, HEAD)) if !text.ends_with('\n') => {
                Err("cut short: its last line has no end".into())
            }
            Some((_, HEAD)) => own(lines),
            Some((_, first)) if first.trim() == "1" || first.starts_with("TRT-") => tensorrt(lines),
            Some((_, first)) if first.starts_with("tobiuo calibration") => {
                Err(format!("'{first}': another version of the format; calibrate again"))
            }
            _ => Err("not a calibration cache: its first line is not one's".into()),
        }
    }
}

/// Names stay on one line.
fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, _) => out.push(c),
        }
    }
    out
}

fn number(digits: &str) -> Option<f32> {
    let bits = (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())??;
    Some(f32::from_bits(bits)).filter(|v| v.is_finite())
}

fn magnitude(digits: &str) -> Option<f32> {
    number(digits).filter(|v| *v >= 0.0)
}

fn own<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Cached, String> {
    let mut out =
        Cached { model: None, calibrator: String::new(), pictures: 0, ranges: Ranges::new() };
    let mut tensors = 0;
    for (i, line) in lines {
        let bad = |what: &str| format!("line {}: {what}: '{line}'", i + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, rest) = line.split_once(' ').ok_or_else(|| bad("two words are wanted"))?;
        match key {
            "model" => out.model = Some(rest.into()),
            "calibrator" => out.calibrator = rest.into(),
            "pictures" => out.pictures = rest.parse().map_err(|_| bad("a number is wanted"))?,
            "tensors" => tensors = rest.parse().map_err(|_| bad("a number is wanted"))?,
            digits => {
                let clip = magnitude(digits).ok_or_else(|| {
                    bad("8 hexadecimal digits of a finite, positive number are wanted")
                })?;
                let (low, name) = rest.split_once(' ').ok_or_else(|| bad("a name is wanted"))?;
                let low = number(low).filter(|low| *low <= 0.0 && *low >= -clip).ok_or_else(
                    || bad("8 hexadecimal digits of a number from minus the first one to 0 are wanted"),
                )?;
                if out.ranges.insert(unescape(name), Range { clip, low }).is_some() {
                    return Err(bad("a tensor that was there before"));
                }
            }
        }
    }
    if out.model.is_none() || out.ranges.is_empty() {
        return Err("cut short: no model or no tensors in it".into());
    }
    if out.ranges.len() != tensors {
        return Err(format!(
            "cut short or changed: {} tensors in it, {tensors} were written",
            out.ranges.len()
        ));
    }
    Ok(out)
}

fn tensorrt<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Cached, String> {
    let mut ranges = Ranges::new();
    for (i, line) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let entry = line.rsplit_once(':').and_then(|(name, digits)| {
            let clip = Some(magnitude(digits.trim())? * 127.0).filter(|clip| clip.is_finite())?;
            Some((name.trim().to_string(), Range { clip, low: -clip }))
        });
        let (name, range) = entry.ok_or_else(|| {
            format!("line {}: 'tensor: 8 hexadecimal digits' is wanted: '{line}'", i + 1)
        })?;
        if ranges.insert(name, range).is_some() {
            return Err(format!("line {}: a tensor that was there before: '{line}'", i + 1));
        }
    }
    if ranges.is_empty() {
        return Err("no tensors in it".into());
    }
    let calibrator = "TensorRT's".into();
    Ok(Cached { model: None, calibrator, pictures: 0, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mut ranges = Ranges::new();
        ranges.insert("images".into(), Range { clip: 1.0, low: 0.0 });
        ranges.insert("a b: c\n\\n".into(), Range { clip: 0.1, low: -0.05 });
        let cached =
            Cached { model: Some("abc".into()), calibrator: "mse".into(), pictures: 7, ranges };
        assert_eq!(Cached::parse(&cached.to_text()), Ok(cached));
    }

    #[test]
    fn tensorrts_form() {
        // chainer-trt's README has input 4000890a: 2.00836 for pixels of 0 to 255.
        let cached = Cached::parse("1\ninput: 4000890a\nConv: x: 3f800000\n").unwrap();
        assert!((cached.ranges["input"].clip - 255.06).abs() < 0.01);
        assert_eq!(cached.ranges["Conv: x"].clip, 127.0);
        assert!(Cached::parse("TRT-8601-EntropyCalibration2\nx: 3f800000\n").is_ok());
    }

    #[test]
    fn damaged_files_are_refused_with_the_line() {
        for (text, wanted) in [
            ("", "not a calibration cache"),
            ("hello\n", "not a calibration cache"),
            ("tobiuo calibration 9\n", "another version"),
            ("tobiuo calibration 2\nmodel x\n3f800000 00000000 a\n", "another version"),
            ("tobiuo calibration 3\nmodel x\n", "cut short"),
            ("tobiuo calibration 3\nmodel x\n7f800000 00000000 a\n", "line 3"),
            ("tobiuo calibration 3\nmodel x\n3f800000 ? a\n", "line 3"),
            ("tobiuo calibration 3\nmodel x\n3f800000 bf800001 a\n", "line 3"),
            ("tobiuo calibration 3\nmodel x\n3f8000é0 00000000 a\n", "line 3"),
            ("tobiuo calibration 3\nmodel x\ntensors 1\n3f800000 00000000 a", "cut short"),
            (
                "tobiuo calibration 3\nmodel x\ntensors 2\n3f800000 00000000 a\n",
                "1 tensors in it, 2",
            ),
            (
                "tobiuo calibration 3\nmodel x\ntensors 2\n3f800000 00000000 a\n3f800000 00000000 a\n",
                "line 5: a tensor that was there before",
            ),
            ("1\nx: zz\n", "line 2"),
            ("1\nx: 7f7fffff\n", "line 2"),
            ("1\nx: 3f800000\nx: 3f800000\n", "line 3"),
            ("1\n", "no tensors"),
        ] {
            let said = Cached::parse(text).expect_err(text);
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }
}
