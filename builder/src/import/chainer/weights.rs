//! A dump's weight and tensor files: the element's size in bytes as a line of text, the shape
//! as a line of numbers with commas between (empty for a number without axes), then the
//! elements in C order, little-endian. The element's type is not written: four bytes are f32,
//! two f16, one a boolean.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use tobiuo_ops::MAX_RANK;
use tobiuo_tensor::{Tensor, checked_numel, f16};

use crate::import::folder;

/// No shape is a longer text.
const MAX_LINE: u64 = 256;
/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Reads a file of the dump as f32.
///
/// # Errors
///
/// Why not, without the file's name.
pub fn read(folder: &Path, name: &str) -> Result<Tensor, String> {
    let (path, length) = folder::file_in(folder, name)?;
    let mut file = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let mut begin = 0;
    let mut line = |what: &str| {
        let mut line = Vec::new();
        (&mut file).take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
        begin += line.len() as u64;
        match line.pop().map(|end| (end, String::from_utf8(line))) {
            Some((b'\n', Ok(text))) => Ok(text.trim().to_string()),
            _ => Err(format!("no weight file: it does not begin with a line for {what}")),
        }
    };
    let size = line("the element's size")?;
    let shape = line("the shape")?;
    let size = match size.as_str() {
        "4" => 4,
        "2" => 2,
        "1" => 1,
        other => {
            return Err(format!(
                "no weight file: elements of '{other}' bytes, where 4 (f32), 2 (f16) and 1 \
                 (booleans) are known"
            ));
        }
    };
    let shape = parse_shape(&shape)?;
    let numel = checked_numel(&shape).and_then(|n| Some((n, n.checked_mul(size)? as u64)));
    let rest = length.saturating_sub(begin);
    let numel = match numel {
        Some((n, bytes)) if bytes == rest => n,
        _ => {
            return Err(format!(
                "shape {shape:?} of elements of {size} bytes does not fit the {rest} bytes behind \
                 it: the file is damaged"
            ));
        }
    };
    let mut values = Vec::with_capacity(numel);
    let mut buffer = vec![0; CHUNK.min(numel.saturating_mul(size))];
    while values.len() < numel {
        let n = buffer.len().min((numel - values.len()) * size);
        let part = &mut buffer[..n];
        file.read_exact(part).map_err(|e| e.to_string())?;
        match size {
            4 => values.extend(part.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            2 => values.extend(part.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            _ => {
                if let Some(b) = part.iter().find(|b| **b > 1) {
                    return Err(format!("elements of one byte are booleans, 0 or 1; one is {b}"));
                }
                values.extend(part.iter().map(|&b| f32::from(b)));
            }
        }
    }
    Ok(Tensor::f32(shape, values))
}

fn parse_shape(text: &str) -> Result<Vec<usize>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let shape: Result<Vec<usize>, _> = text.split(',').map(|d| d.trim().parse()).collect();
    match shape {
        Ok(shape) if shape.len() <= MAX_RANK && !shape.contains(&0) => Ok(shape),
        _ => Err(format!("no weight file: '{text}' is no shape of a tensor with elements")),
    }
}
