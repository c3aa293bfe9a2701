//! Constants in the form the kernels read: packed once, at build time.

use half::f16;
use tobiuo_kernels::ConvLayer;
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

/// Weights of a convolution on tensor cores: `at` gives filter, tap and channel's.
pub fn conv_weights(
    layer: &ConvLayer,
    sizes: [usize; 2],
    at: impl Fn(usize, usize, usize) -> f32,
) -> Vec<u8> {
    floats(in_blocks(layer, sizes, at), DType::F16)
}

/// The same of integers.
pub fn conv_integers(
    layer: &ConvLayer,
    sizes: [usize; 2],
    at: impl Fn(usize, usize, usize) -> i8,
) -> Vec<u8> {
    in_blocks(layer, sizes, |f, t, c| at(f, t, c) as u8)
}

fn in_blocks<T: Copy + Default>(
    layer: &ConvLayer,
    [taps, channels]: [usize; 2],
    at: impl Fn(usize, usize, usize) -> T,
) -> Vec<T> {
    let mut all = vec![T::default(); layer.weights()];
    for filter in 0..layer.filters {
        for tap in 0..taps {
            for c in 0..channels {
                all[layer.weight_at(filter, tap * layer.channels + c)] = at(filter, tap, c);
            }
        }
    }
    all
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

/// Weights of integers `[O, I, kh, kw]` as rows of k ordered (kh, kw, channel), channels padded
/// with zeros to `channels`, rows to `pitch`.
pub fn integer_weights(
    weights: &[i8],
    [o, i, kh, kw]: [usize; 4],
    channels: usize,
    pitch: usize,
) -> Vec<u8> {
    let mut out = vec![0; o * pitch];
    let taps = kh * kw;
    if i * taps * pitch == 0 {
        return out;
    }
    for (row, filter) in out.chunks_mut(pitch).zip(weights.chunks(i * taps)) {
        for (c, of_channel) in filter.chunks(taps).enumerate() {
            of_channel.iter().enumerate().for_each(|(t, &w)| row[t * channels + c] = w as u8);
        }
    }
    out
}

/// Depthwise weights of integers `[C, 1, kh, kw]` as `[kh * kw, channels]`.
pub fn depthwise_integers(weights: &[i8], filters: usize, taps: usize, channels: usize) -> Vec<u8> {
    let mut all = vec![0; taps * channels];
    for c in 0..filters {
        for t in 0..taps {
            all[t * channels + c] = weights[c * taps + t] as u8;
        }
    }
    all
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
    dtype: DType,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows * pitch * dtype.size());
    for r in 0..rows {
        let row = &values[r * depth..(r + 1) * depth];
        let padded = (0..pitch).map(|k| match order {
            _ if k >= depth => 0.0,
            Some(order) => row[order[k]],
            None => row[k],
        });
        out.extend(floats(padded, dtype));
    }
    out
}

/// Values padded with zeros to `len`.
pub fn padded(values: &[f32], len: usize, dtype: DType) -> Vec<u8> {
    floats((0..len).map(|i| values.get(i).copied().unwrap_or(0.0)), dtype)
}
