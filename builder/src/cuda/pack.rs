//! Constants in the form the kernels read: packed once, at build time.

use half::f16;
use tobiuo_tensor::DType;

/// Values as little-endian bytes of an element type (f16 or f32).
pub fn floats(values: impl IntoIterator<Item = f32>, dtype: DType) -> Vec<u8> {
    let mut out = Vec::new();
    for v in values {
        if dtype == DType::F16 {
            out.extend(f16::from_f32(v).to_le_bytes());
        } else {
            out.extend(v.to_le_bytes());
        }
    }
    out
}

/// 32-bit integers as little-endian bytes.
pub fn integers(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Convolution weights `[O, I, kh, kw]` as rows of k ordered (kh, kw, channel), channels padded
/// with zeros to `channels`, rows to `pitch` elements, and `tail` zero bytes at the end.
pub fn conv_weights(
    weights: &[f32],
    shape: [usize; 4],
    channels: usize,
    pitch: usize,
    tail: usize,
    dtype: DType,
) -> Vec<u8> {
    let [o, i, kh, kw] = shape;
    let mut out = Vec::with_capacity(o * pitch * dtype.size() + tail);
    for f in 0..o {
        let mut row = vec![0.0; pitch];
        for c in 0..i {
            for t in 0..kh * kw {
                row[t * channels + c] = weights[(f * i + c) * kh * kw + t];
            }
        }
        out.extend(floats(row, dtype));
    }
    out.resize(out.len() + tail, 0);
    out
}

/// Depthwise weights `[C, 1, kh, kw]` as `[kh * kw, channels]`.
pub fn depthwise_weights(
    weights: &[f32],
    filters: usize,
    taps: usize,
    channels: usize,
    dtype: DType,
) -> Vec<u8> {
    let mut all = vec![0.0; taps * channels];
    for c in 0..filters {
        for t in 0..taps {
            all[t * channels + c] = weights[c * taps + t];
        }
    }
    floats(all, dtype)
}

/// Weights in the order of the general convolution: for each of `groups` and `taps` and
/// `channels` a row of `filters` padded with zeros to `pitch`; `at` gives the weight of a group,
/// tap, channel and filter.
pub fn depth_first(
    [groups, taps, channels, filters]: [usize; 4],
    pitch: usize,
    dtype: DType,
    at: impl Fn(usize, usize, usize, usize) -> f32,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(groups * taps * channels * pitch * dtype.size());
    for row in 0..groups * taps * channels {
        let (g, t, c) = (row / channels / taps, row / channels % taps, row % channels);
        out.extend(floats(
            (0..pitch).map(|f| if f < filters { at(g, t, c, f) } else { 0.0 }),
            dtype,
        ));
    }
    out
}

/// A matrix `[rows, depth]` with rows padded to `pitch`, columns taken in the order `order`
/// where given.
pub fn matrix(
    values: &[f32],
    rows: usize,
    depth: usize,
    pitch: usize,
    order: Option<&[usize]>,
    tail: usize,
    dtype: DType,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows * pitch * dtype.size() + tail);
    for r in 0..rows {
        let row = &values[r * depth..(r + 1) * depth];
        let padded = (0..pitch).map(|k| match order {
            _ if k >= depth => 0.0,
            Some(order) => row[order[k]],
            None => row[k],
        });
        out.extend(floats(padded, dtype));
    }
    out.resize(out.len() + tail, 0);
    out
}

/// Values padded with zeros to `len`.
pub fn padded(values: &[f32], len: usize, dtype: DType) -> Vec<u8> {
    floats((0..len).map(|i| values.get(i).copied().unwrap_or(0.0)), dtype)
}
