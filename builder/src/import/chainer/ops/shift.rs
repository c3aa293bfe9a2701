//! Shift (Wu et al., "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions",
//! 2017), as `chainer.functions.shift` does it.

use tobiuo_ops::{Conv, Op};
use tobiuo_tensor::Tensor;

use super::super::context::Context;
use super::one;
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// The most numbers that the weights it becomes may have.
const MAX_WEIGHTS: usize = 1 << 26;

/// Shift: as many groups of channels as a `kh x kw` window has taps, each moved by its tap's
/// offset, zeros coming in. The middle tap is the last group's, with the channels that no group
/// of equal size has; what would be the last tap is the middle group's.
///
/// It is a depthwise convolution whose windows have one 1 each: sums of zeros and one element
/// are that element exactly, as long as all are finite.
pub fn shift(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let (x, [_, channels, ..]) = c.picture()?;
    let (kh, kw) = (c.fields.need_size("kh")?, c.fields.need_size("kw")?);
    if kh % 2 == 0 || kw % 2 == 0 {
        return invalid(format!("a window of {kh} x {kw}, both must be odd"));
    }
    let mut steps = [0i64; 2];
    for (step, key) in steps.iter_mut().zip(["dy", "dx"]) {
        *step = match c.fields.int(key)? {
            Some(d) if (1..1 << 20).contains(&d.unsigned_abs()) => d,
            Some(d) => {
                return invalid(format!("{key} is {d}, 1 to 1048575 or their negatives are usual"));
            }
            None => return invalid(format!("{key} is missing")),
        };
    }
    let taps = kh.checked_mul(kw);
    let group = taps.map_or(0, |taps| channels / taps);
    // Fewer channels than groups: all are the last group's, which stays.
    let (kh, kw) = if group == 0 { (1, 1) } else { (kh, kw) };
    let taps = kh * kw;
    let numbers = channels.checked_mul(taps).filter(|&n| n <= MAX_WEIGHTS);
    let Some(numbers) = numbers else {
        return unsupported(format!("{channels} channels of {kh} x {kw} taps are too many"), "");
    };
    let (middle, last) = ((taps - 1) / 2, taps - 1);
    let mut weights = vec![0.0; numbers];
    for (channel, window) in weights.chunks_exact_mut(taps).enumerate() {
        let tap = match channel.checked_div(group).unwrap_or(last).min(last) {
            g if g == middle => last,
            g if g == last => middle,
            g => g,
        };
        // Moved down and right by the offset: read from the tap on the other side.
        let opposite = |k: usize, n: usize, step: i64| if step > 0 { n - 1 - k } else { k };
        let (row, column) = (opposite(tap / kw, kh, steps[0]), opposite(tap % kw, kw, steps[1]));
        window[row * kw + column] = 1.0;
    }
    let dilations: Vec<usize> = steps.iter().map(|d| d.unsigned_abs() as usize).collect();
    let pads = [kh / 2 * dilations[0], kw / 2 * dilations[1]];
    let op = Op::Conv(Conv {
        kernel: vec![kh, kw],
        strides: vec![1, 1],
        pads: vec![pads[0], pads[1], pads[0], pads[1]],
        dilations,
        groups: channels,
        activation: None,
        residual: false,
    });
    let weight = c.constant("offsets", Tensor::f32([channels, 1, kh, kw], weights));
    let bias = c.constant("bias", Tensor::f32([channels], vec![0.0; channels]));
    one(c.emit(op, &[x, weight, bias])?)
}
