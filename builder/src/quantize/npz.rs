//! NumPy's `.npz`: a ZIP archive of `.npy` files, as `numpy.savez` writes it (stored, not
//! compressed). The layout is PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12, 4.3.14 and 4.3.16.

use std::path::Path;

use tobiuo_tensor::{Tensor, npy};

/// Every array with its name.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    parse(&bytes)
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(len)?)?;
    Some(part.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

fn parse(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let cut = || "a damaged ZIP archive".to_string();
    // The end record lies before a comment of at most 65,535 bytes.
    let from = bytes.len().saturating_sub(65_535 + 22);
    let tail = &bytes[from..];
    let end = (tail.windows(4).rposition(|w| w == b"PK\x05\x06"))
        .ok_or("not a .npz file: there is no ZIP directory in it")?;
    let end = from + end;
    number(bytes, end + 20, 2).ok_or_else(cut)?;
    let count = number(bytes, end + 10, 2).ok_or_else(cut)?;
    let mut at = number(bytes, end + 16, 4).ok_or_else(cut)? as usize;
    let mut arrays = Vec::new();
    for _ in 0..count {
        if bytes.get(at..at.saturating_add(4)) != Some(b"PK\x01\x02") {
            return Err(cut());
        }
        let field = |offset: usize, len: usize| {
            number(bytes, at + offset, len).map(|n| n as usize).ok_or_else(cut)
        };
        let (method, name_len) = (field(10, 2)?, field(28, 2)?);
        let (extra_len, comment_len) = (field(30, 2)?, field(32, 2)?);
        let (mut size, mut local) = (field(24, 4)?, field(42, 4)?);
        let name = bytes.get(at + 46..at + 46 + name_len).ok_or_else(cut)?;
        let name = String::from_utf8_lossy(name).into_owned();
        let extra = bytes.get(at + 46 + name_len..at + 46 + name_len + extra_len);
        large(extra.ok_or_else(cut)?, &mut size, &mut local);
        if method != 0 {
            return Err(format!("'{name}' is compressed; numpy.savez writes arrays that are not"));
        }
        let skip = number(bytes, local.saturating_add(26), 2).ok_or_else(cut)?
            + number(bytes, local.saturating_add(28), 2).ok_or_else(cut)?;
        let begin = local.saturating_add(30).saturating_add(skip as usize);
        let data = bytes.get(begin..begin.saturating_add(size)).ok_or_else(cut)?;
        let tensor = npy::parse(data).map_err(|e| format!("'{name}': {e}"))?;
        let name = name.strip_suffix(".npy").map(str::to_string).unwrap_or(name);
        arrays.push((name, tensor));
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(arrays)
}

/// Sizes beyond 32 bits are in an extra field of kind 1 (ZIP64).
fn large(mut extra: &[u8], size: &mut usize, local: &mut usize) {
    while let (Some(kind), Some(len)) = (number(extra, 0, 2), number(extra, 2, 2)) {
        let len = len as usize;
        let Some(body) = extra.get(4..4 + len) else { return };
        if kind == 1 {
            let mut at = 0;
            // Uncompressed, compressed size, place: each only where its own field is full.
            if *size == u32::MAX as usize {
                *size = number(body, at, 8).unwrap_or(0) as usize;
                at += 16;
            }
            if *local == u32::MAX as usize {
                *local = number(body, at, 8).unwrap_or(0) as usize;
            }
        }
        extra = &extra[4 + len..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.savez(f, x=numpy.array([1, 2], numpy.float32))`, NumPy 2, in hexadecimal.
    fn archive() -> Vec<u8> {
        let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        let head = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        npy.extend(format!("{head:<117}\n").bytes());
        npy.extend([0, 0, 128, 63, 0, 0, 0, 64]);
        let size = (npy.len() as u32).to_le_bytes();
        let mut zip = b"PK\x03\x04\x2d\x00\x00\x00\x00\x00\x00\x00\x21\x00".to_vec();
        zip.extend([0; 4]);
        // Both sizes in the extra field, as NumPy writes them.
        zip.extend([0xff; 8]);
        zip.extend(b"\x05\x00\x14\x00x.npy\x01\x00\x10\x00");
        for _ in 0..2 {
            zip.extend((npy.len() as u64).to_le_bytes());
        }
        zip.extend(&npy);
        let directory = zip.len() as u32;
        zip.extend(b"PK\x01\x02\x2d\x03\x2d\x00\x00\x00\x00\x00\x00\x00\x21\x00");
        zip.extend([0; 4]);
        zip.extend(size);
        zip.extend(size);
        zip.extend(
            b"\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00x.npy",
        );
        let length = zip.len() as u32 - directory;
        zip.extend(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
        zip.extend(length.to_le_bytes());
        zip.extend(directory.to_le_bytes());
        zip.extend([0, 0]);
        zip
    }

    #[test]
    fn arrays_by_name() {
        let arrays = parse(&archive()).unwrap();
        assert_eq!(arrays, [("x".to_string(), Tensor::f32([2], vec![1.0, 2.0]))]);
    }

    #[test]
    fn damage_is_an_error() {
        let whole = archive();
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "cut to {len} bytes");
        }
        for i in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[i] ^= 1 << bit;
                let _ = parse(&bytes); // Any answer, but no panic.
            }
        }
        let mut packed = whole;
        let at = packed.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        packed[at + 10] = 8;
        assert!(parse(&packed).unwrap_err().contains("savez"));
    }
}
