//! NumPy's `.npy` files (format 1.0 to 3.0, C order, little endian), read and written.
//!
//! Source: NEP 1, "A Simple File Format for NumPy Arrays".

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::f16;

use crate::{DType, Tensor, TensorData, checked_numel, file};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Why a `.npy` file cannot be read.
#[derive(Debug)]
pub struct NpyError(String);

impl fmt::Display for NpyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NpyError {}

fn err<T>(what: impl Into<String>) -> Result<T, NpyError> {
    Err(NpyError(what.into()))
}

/// Reads a tensor from a file. f64 is narrowed to f32, other types keep their own.
pub fn read(path: &Path) -> Result<Tensor, NpyError> {
    let mut bytes = Vec::new();
    let named = |e: String| NpyError(format!("{}: {e}", path.display()));
    File::open(path)
        .and_then(|mut f| f.read_to_end(&mut bytes))
        .map_err(|e| named(e.to_string()))?;
    parse(&bytes).map_err(|e| named(e.0))
}

/// Reads a tensor from the bytes of a `.npy` file.
pub fn parse(bytes: &[u8]) -> Result<Tensor, NpyError> {
    if bytes.len() < 10 || &bytes[..6] != MAGIC {
        return err("not a .npy file: the first bytes are not \\x93NUMPY");
    }
    let (header_at, header_len): (usize, usize) = match bytes[6] {
        1 => (10, u16::from_le_bytes([bytes[8], bytes[9]]) as usize),
        2 | 3 if bytes.len() >= 12 => {
            (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize)
        }
        v => return err(format!(".npy format version {v} is not one of 1, 2, 3")),
    };
    let Some(header) = header_at
        .checked_add(header_len)
        .and_then(|end| bytes.get(header_at..end))
        .and_then(|h| std::str::from_utf8(h).ok())
    else {
        return err("the .npy header runs past the end of the file or is not text");
    };
    let descr = field(header, "descr")?.trim_matches(['\'', '"']).to_string();
    if field(header, "fortran_order")?.starts_with("True") {
        return err("Fortran order is not supported: save with np.ascontiguousarray(x)");
    }
    let shape = parse_shape(field(header, "shape")?)?;
    let data = &bytes[header_at + header_len..];
    let (order, code) = descr.split_at(descr.len().min(1));
    let size: usize = match code {
        "f4" | "i4" => 4,
        "f2" => 2,
        "f8" | "i8" => 8,
        "i1" | "u1" | "b1" => 1,
        _ => return err(format!("element type '{descr}' is not one of f2 f4 f8 i1 i4 i8 u1 b1")),
    };
    if order == ">" && size > 1 {
        return err("big-endian data is not supported");
    }
    let n = checked_numel(&shape).unwrap_or(usize::MAX);
    if n.checked_mul(size) != Some(data.len()) {
        return err(format!(
            "shape {shape:?} of {descr} needs {n} x {size} bytes, the file holds {}",
            data.len()
        ));
    }
    fn each<const N: usize, T>(data: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.chunks_exact(N).map(|c| f(c.try_into().expect("chunk of N"))).collect()
    }
    let data = match code {
        "f4" => TensorData::F32(each(data, f32::from_le_bytes)),
        "f8" => TensorData::F32(each(data, |b| f64::from_le_bytes(b) as f32)),
        "f2" => TensorData::F16(each(data, f16::from_le_bytes)),
        "i8" => TensorData::I64(each(data, i64::from_le_bytes)),
        "i4" => TensorData::I32(each(data, i32::from_le_bytes)),
        "i1" => TensorData::I8(each(data, i8::from_le_bytes)),
        "u1" => TensorData::U8(data.to_vec()),
        _ => TensorData::Bool(data.iter().map(|&b| u8::from(b != 0)).collect()),
    };
    Ok(Tensor::new(shape, data))
}

/// The text after `'name':` in the header's dictionary.
fn field<'a>(header: &'a str, name: &str) -> Result<&'a str, NpyError> {
    let key = format!("'{name}':");
    let Some(at) = header.find(&key) else {
        return err(format!("the .npy header has no '{name}'"));
    };
    let rest = header[at + key.len()..].trim_start();
    let end =
        if rest.starts_with('(') { rest.find(')').map(|i| i + 1) } else { rest.find([',', '}']) };
    Ok(rest[..end.unwrap_or(rest.len())].trim())
}

fn parse_shape(text: &str) -> Result<Vec<usize>, NpyError> {
    let inner = text.trim_start_matches('(').trim_end_matches(')');
    let mut shape = Vec::new();
    for part in inner.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part.parse() {
            Ok(d) => shape.push(d),
            Err(_) => return err(format!("'{text}' is not a shape")),
        }
    }
    if shape.len() > 16 { err("more than 16 axes") } else { Ok(shape) }
}

/// The bytes of a `.npy` file of a tensor.
pub fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let descr = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
    };
    let dims: Vec<String> = tensor.shape().iter().map(|d| d.to_string()).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut header = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        dims.join(", ")
    );
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = Vec::with_capacity(10 + header.len() + tensor.data().bytes().len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(tensor.data().bytes());
    out
}

/// Writes a tensor to a file, whole or not at all.
pub fn write(path: &Path, tensor: &Tensor) -> std::io::Result<()> {
    file::replace(path, &to_bytes(tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_of_every_type() {
        for t in [
            Tensor::f32([2, 3], vec![1.0, -2.5, 3.0, f32::MIN, f32::MAX, 0.0]),
            Tensor::i64([3], vec![i64::MIN, 0, 7]),
            Tensor::f32(vec![], vec![4.0]),
            Tensor::new([2], TensorData::Bool(vec![0, 1])),
            Tensor::new([2, 1], TensorData::F16(vec![f16::ONE, f16::NEG_ONE])),
            Tensor::new([0, 4], TensorData::U8(vec![])),
        ] {
            let bytes = to_bytes(&t);
            assert_eq!(bytes.len() % 64, t.data().bytes().len() % 64, "data is aligned to 64");
            assert_eq!(parse(&bytes).unwrap(), t);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let good = to_bytes(&Tensor::f32([4], vec![1.0; 4]));
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        let text = String::from_utf8_lossy(&good).replace("(4,)", "(5,)");
        assert!(parse(text.as_bytes()).is_err());
    }
}
