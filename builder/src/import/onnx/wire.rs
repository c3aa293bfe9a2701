//! Protocol Buffers' wire format, read in place.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>. Everything borrows from the
//! file's bytes: a length that a file claims is never allocated, only sliced. Messages are
//! decoded one level at a time and on demand, so nesting costs no stack, and their number
//! has a limit, so that a small file cannot ask for much memory.

use std::cell::Cell;
use std::fmt;

/// Messages that one file may hold. The largest models have some hundred thousand.
const MAX_MESSAGES: usize = 1 << 21;

/// Where the wire format is broken, and how.
#[derive(Debug)]
pub struct WireError {
    /// Offset in the file.
    pub at: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.what)
    }
}

/// The number of messages a file may still open.
#[derive(Debug)]
pub struct Budget(Cell<usize>);

impl Budget {
    /// A fresh one.
    pub fn new() -> Budget {
        Budget(Cell::new(MAX_MESSAGES))
    }
}

/// A message's bytes and a place in them.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    file: &'a [u8],
    pos: usize,
    end: usize,
    budget: &'a Budget,
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}..{})", self.pos, self.end)
    }
}

/// A field's value as the wire has it.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    /// Integers, enums, booleans.
    Varint(u64),
    /// f64 and fixed 64-bit integers.
    Fixed64([u8; 8]),
    /// Strings, bytes, messages, packed numbers.
    Len(Message<'a>),
    /// f32 and fixed 32-bit integers.
    Fixed32([u8; 4]),
}

/// A field: its number, its value and where it starts in the file.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Number in the schema.
    pub number: u64,
    value: Wire<'a>,
    at: usize,
}

impl<'a> Message<'a> {
    /// A file's outermost message.
    pub fn file(bytes: &'a [u8], budget: &'a Budget) -> Message<'a> {
        Message { file: bytes, pos: 0, end: bytes.len(), budget }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        &self.file[self.pos..self.end]
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T, WireError> {
        Err(WireError { at: self.pos, what: what.into() })
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes().iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.pos += i + 1;
                return Ok(value);
            }
        }
        if self.end - self.pos < 10 {
            self.error("the message ends within a number")
        } else {
            self.error("a number of more than 64 bits")
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.bytes().first_chunk::<N>() {
            Some(&b) => {
                self.pos += N;
                Ok(b)
            }
            None => self.error("the message ends within a number"),
        }
    }

    /// The next field, or `None` at the message's end.
    pub fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.pos == self.end {
            return Ok(None);
        }
        let at = self.pos;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return Err(WireError { at, what: "a field with number 0".into() });
        }
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.fixed()?),
            2 => {
                let len = self.varint()?;
                let left = self.end - self.pos;
                let Some(len) = usize::try_from(len).ok().filter(|&l| l <= left) else {
                    return Err(WireError {
                        at,
                        what: format!("field {number} claims {len} bytes where {left} are left"),
                    });
                };
                let inner = Message { end: self.pos + len, ..*self };
                self.pos += len;
                Wire::Len(inner)
            }
            5 => Wire::Fixed32(self.fixed()?),
            kind => {
                let what = format!("field {number} has wire type {kind}, which ONNX does not use");
                return Err(WireError { at, what });
            }
        };
        Ok(Some(Field { number, value, at }))
    }
}

impl<'a> Field<'a> {
    fn error<T>(&self, what: impl fmt::Display) -> Result<T, WireError> {
        Err(WireError { at: self.at, what: format!("field {}: {what}", self.number) })
    }

    /// An integer or enum.
    pub fn int(&self) -> Result<i64, WireError> {
        match self.value {
            Wire::Varint(v) => Ok(v as i64),
            _ => self.error("an integer is expected"),
        }
    }

    /// An f32.
    pub fn float(&self) -> Result<f32, WireError> {
        match self.value {
            Wire::Fixed32(b) => Ok(f32::from_le_bytes(b)),
            _ => self.error("a 32-bit float is expected"),
        }
    }

    /// Raw bytes.
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Wire::Len(m) => Ok(m.bytes()),
            _ => self.error("bytes are expected"),
        }
    }

    /// A string.
    pub fn str(&self) -> Result<&'a str, WireError> {
        match std::str::from_utf8(self.bytes()?) {
            Ok(s) => Ok(s),
            Err(_) => self.error("a string that is not UTF-8"),
        }
    }

    /// An embedded message.
    pub fn message(&self) -> Result<Message<'a>, WireError> {
        let Wire::Len(m) = self.value else {
            return self.error("an embedded message is expected");
        };
        match m.budget.0.get().checked_sub(1) {
            Some(left) => m.budget.0.set(left),
            None => return self.error(format!("more than {MAX_MESSAGES} messages in the file")),
        }
        Ok(m)
    }

    /// Integers of a repeated field, packed or one at a time.
    pub fn ints(&self, out: &mut Vec<i64>) -> Result<(), WireError> {
        match self.value {
            Wire::Varint(v) => out.push(v as i64),
            Wire::Len(mut m) => {
                while m.pos < m.end {
                    out.push(m.varint()? as i64);
                }
            }
            _ => return self.error("integers are expected"),
        }
        Ok(())
    }

    /// f32s of a repeated field, packed or one at a time.
    pub fn floats(&self, out: &mut Vec<f32>) -> Result<(), WireError> {
        match self.value {
            Wire::Fixed32(b) => out.push(f32::from_le_bytes(b)),
            Wire::Len(m) if m.bytes().len() % 4 == 0 => {
                out.extend(m.bytes().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
            }
            _ => return self.error("32-bit floats are expected"),
        }
        Ok(())
    }

    /// f64s of a repeated field, packed or one at a time.
    pub fn doubles(&self, out: &mut Vec<f64>) -> Result<(), WireError> {
        match self.value {
            Wire::Fixed64(b) => out.push(f64::from_le_bytes(b)),
            Wire::Len(m) if m.bytes().len() % 8 == 0 => {
                out.extend(m.bytes().as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)));
            }
            _ => return self.error("64-bit floats are expected"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u64, Option<i64>)>, WireError> {
        let budget = Budget::new();
        let mut m = Message::file(bytes, &budget);
        let mut out = Vec::new();
        while let Some(f) = m.next()? {
            out.push((f.number, f.int().ok()));
        }
        Ok(out)
    }

    #[test]
    fn varints_of_every_length() {
        assert_eq!(fields(&[0x08, 0x96, 0x01]).unwrap(), [(1, Some(150))]);
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(fields(&minus_one).unwrap(), [(1, Some(-1))]);
        let too_long = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(fields(&too_long).unwrap_err().what.contains("64 bits"));
        assert!(fields(&[0x08, 0x80]).unwrap_err().what.contains("ends within"));
    }

    #[test]
    fn lengths_are_checked_before_use() {
        assert_eq!(fields(&[0x12, 0x02, 1, 2]).unwrap(), [(2, None)]);
        let huge = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1];
        let e = fields(&huge).unwrap_err();
        assert!(e.to_string().contains("byte 0: field 2 claims 9223372036854775807 bytes"), "{e}");
        assert!(fields(&[0x0b]).is_err(), "groups");
        assert!(fields(&[0x00, 0x00]).is_err(), "field 0");
    }

    #[test]
    fn packed_and_single_numbers_are_the_same() {
        let budget = Budget::new();
        let mut m = Message::file(&[0x3a, 0x03, 1, 2, 3, 0x38, 4], &budget);
        let mut out = Vec::new();
        while let Some(f) = m.next().unwrap() {
            f.ints(&mut out).unwrap();
        }
        assert_eq!(out, [1, 2, 3, 4]);
    }
}
