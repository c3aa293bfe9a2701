//! Walks through raw memory, for the families' references.

use tobiuo_tensor::DType;

fn bytes<const N: usize>(memory: &[u8], i: usize) -> [u8; N] {
    memory[i * N..(i + 1) * N].try_into().expect("N bytes")
}

/// Element `i` of integer memory.
pub(crate) fn read_integer(memory: &[u8], dtype: DType, i: usize) -> i64 {
    match dtype {
        DType::I64 => i64::from_le_bytes(bytes(memory, i)),
        DType::I32 => i32::from_le_bytes(bytes(memory, i)).into(),
        DType::I8 => i8::from_le_bytes(bytes(memory, i)).into(),
        _ => memory[i].into(),
    }
}

/// Calls `f` with every index of a box, the last axis fastest.
pub(crate) fn each_index(dims: &[usize], mut f: impl FnMut(&[usize])) {
    if dims.contains(&0) {
        return;
    }
    let mut index = vec![0; dims.len()];
    loop {
        f(&index);
        let Some(axis) = (0..dims.len()).rev().find(|&a| index[a] + 1 < dims[a]) else { return };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

/// The element at an index, counted from the address.
pub(crate) fn at(offset: usize, strides: &[i64], index: &[usize]) -> usize {
    let steps: i64 = strides.iter().zip(index).map(|(&s, &i)| s * i as i64).sum();
    usize::try_from(offset as i64 + steps).expect("inside the operand")
}

/// Elements from the address to behind the last one of a box; 0 when it is empty.
pub(crate) fn reach(offset: usize, dims: &[usize], strides: &[i64]) -> usize {
    if dims.contains(&0) {
        return 0;
    }
    let forward = dims.iter().zip(strides).map(|(&d, &s)| (d as i64 - 1) * s.max(0));
    offset + forward.sum::<i64>() as usize + 1
}

/// Bytes of `pixels` rows of `width` elements with `pitch` from one to the next.
pub(crate) fn rows(dtype: DType, pixels: usize, pitch: usize, width: usize) -> usize {
    if pixels == 0 { 0 } else { ((pixels - 1) * pitch + width) * dtype.size() }
}

/// The larger one, or NaN where one is.
pub(crate) fn upper(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// The smaller one, or NaN where one is.
pub(crate) fn lower(a: f64, b: f64) -> f64 {
    if b < a || b.is_nan() { b } else { a }
}

/// Writes element `i` of integer memory, its low bits where it is too large.
pub(crate) fn store_integer(memory: &mut [u8], dtype: DType, i: usize, value: i64) {
    let size = dtype.size();
    memory[i * size..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// An integer's low bits as a type.
pub(crate) fn wrap(dtype: DType, value: i64) -> i64 {
    match dtype {
        DType::I32 => (value as i32).into(),
        DType::I8 => (value as i8).into(),
        DType::U8 => (value as u8).into(),
        _ => value,
    }
}
