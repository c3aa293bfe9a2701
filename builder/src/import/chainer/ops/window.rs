//! Convolutions and pools.

use tobiuo_ops::{Conv, ConvTranspose, Op, Pad, PadMode, Pool, PoolKind};
use tobiuo_tensor::Tensor;

use super::super::context::Context;
use super::one;
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// Strides, pads and such are never larger: no sum or product below leaves its type.
const LIMIT: usize = 1 << 20;

/// One axis of a window over a picture.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// Extent of the picture.
    size: usize,
    /// Extent of the window, holes between its taps included.
    extent: usize,
    stride: usize,
    pad: usize,
}

impl Axis {
    /// The output's extent (`chainer.utils.get_conv_outsize`): with `cover_all` every element
    /// of the picture is in some window.
    fn out(self, cover_all: bool) -> Res<usize> {
        let reach = self.size + 2 * self.pad + if cover_all { self.stride - 1 } else { 0 };
        match reach.checked_sub(self.extent) {
            Some(room) => Ok(room / self.stride + 1),
            None => invalid(format!(
                "a window of {} does not fit {} elements with {} of padding on both sides",
                self.extent, self.size, self.pad
            )),
        }
    }

    /// Padding behind the picture with which the last of `out` windows ends at its end.
    fn end(self, out: usize) -> usize {
        ((out - 1) * self.stride + self.extent).saturating_sub(self.size + self.pad)
    }
}

/// A pair of sizes under two keys, height first, where `least` is the smallest.
fn pair(
    c: &Context<'_, '_>,
    keys: [&'static str; 2],
    default: Option<usize>,
    least: usize,
) -> Res<[usize; 2]> {
    let mut out = [0; 2];
    for (out, key) in out.iter_mut().zip(keys) {
        *out = match (c.fields.size(key)?, default) {
            (Some(v), _) if (least..=LIMIT).contains(&v) => v,
            (Some(v), _) => return invalid(format!("{key} is {v}, {least} to {LIMIT} is usual")),
            (None, Some(default)) => default,
            (None, None) => return invalid(format!("{key} is missing")),
        };
    }
    Ok(out)
}

/// A convolution's or deconvolution's parameters; pairs are height, width.
struct Parameters {
    kernel: [usize; 2],
    strides: [usize; 2],
    pads: [usize; 2],
    dilations: [usize; 2],
    groups: usize,
    weight: Tensor,
    bias: Tensor,
}

impl Parameters {
    /// Read, and compared with the weights; `filters` gives their number from the weight's
    /// shape and the groups.
    fn read(
        c: &mut Context<'_, '_>,
        filters: impl Fn(&[usize], usize) -> Option<usize>,
    ) -> Res<Parameters> {
        let kernel = pair(c, ["kernel_h", "kernel_w"], None, 1)?;
        let strides = pair(c, ["stride_y", "stride_x"], None, 1)?;
        let pads = pair(c, ["pad_h", "pad_w"], None, 0)?;
        let dilations = pair(c, ["dilation_y", "dilation_x"], Some(1), 1)?;
        let groups = c.fields.size("groups")?.unwrap_or(1);
        let n_out = c.fields.need_size("n_out")?;
        let weight = c.weight("kernel")?;
        let shape = weight.shape();
        if shape.len() != 4 || shape[2..] != kernel {
            return invalid(format!(
                "its kernel {shape:?} does not have {} x {} taps (height x width)",
                kernel[0], kernel[1]
            ));
        }
        if filters(shape, groups) != Some(n_out) {
            return invalid(format!(
                "n_out is {n_out}, its kernel {shape:?} in {groups} groups gives {:?}",
                filters(shape, groups)
            ));
        }
        let bias = match c.optional_weight("bias")? {
            Some(bias) if bias.shape() == [n_out] => bias,
            Some(bias) => {
                return invalid(format!("its bias {:?} must be [{n_out}]", bias.shape()));
            }
            None => Tensor::f32([n_out], vec![0.0; n_out]),
        };
        Ok(Parameters { kernel, strides, pads, dilations, groups, weight, bias })
    }

    fn axis(&self, shape: &[usize; 4], i: usize) -> Axis {
        let extent = (self.kernel[i] - 1) * self.dilations[i] + 1;
        Axis { size: shape[2 + i], extent, stride: self.strides[i], pad: self.pads[i] }
    }
}

/// Convolution2DFunction: weight `[O, C / groups, kh, kw]`, bias `[O]`.
pub fn convolution(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let (x, shape) = c.picture()?;
    let p = Parameters::read(c, |w, _| Some(w[0]))?;
    let cover_all = c.fields.flag("cover_all")?;
    let mut pads = [p.pads[0], p.pads[1], p.pads[0], p.pads[1]];
    for i in 0..2 {
        let axis = p.axis(&shape, i);
        let out = axis.out(cover_all)?;
        pads[2 + i] = p.pads[i].max(axis.end(out));
    }
    let op = Op::Conv(Conv {
        kernel: p.kernel.to_vec(),
        strides: p.strides.to_vec(),
        pads: pads.to_vec(),
        dilations: p.dilations.to_vec(),
        groups: p.groups,
        activation: None,
        residual: false,
    });
    let (weight, bias) = (c.constant("kernel", p.weight), c.constant("bias", p.bias));
    one(c.emit(op, &[x, weight, bias])?)
}

/// Deconvolution2DFunction: weight `[C, O / groups, kh, kw]`, bias `[O]`. `output_hw` is the
/// output's size where it was chosen.
pub fn deconvolution(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let (x, shape) = c.picture()?;
    let p = Parameters::read(c, |w, groups| w[1].checked_mul(groups))?;
    if c.fields.flag("cover_all")? {
        return unsupported("cover_all of a deconvolution", "give its size as output_hw");
    }
    let wanted = c.fields.sizes("output_hw")?;
    let mut pads = [p.pads[0], p.pads[1], p.pads[0], p.pads[1]];
    let mut output_padding = [0; 2];
    for i in 0..2 {
        let axis = p.axis(&shape, i);
        let full = (axis.size - 1) * axis.stride + axis.extent;
        let out = match wanted.as_deref() {
            None => match full.checked_sub(2 * axis.pad) {
                Some(out) => out,
                None => return invalid(format!("padding {} leaves nothing of {full}", axis.pad)),
            },
            Some(&[h, w]) => [h, w][i],
            Some(other) => return invalid(format!("output_hw {other:?} is not height, width")),
        };
        // What the picture does not reach is the bias alone.
        let end = axis.pad.saturating_add(out);
        (pads[2 + i], output_padding[i]) = (full.saturating_sub(end), end.saturating_sub(full));
    }
    let op = Op::ConvTranspose(ConvTranspose {
        kernel: p.kernel.to_vec(),
        strides: p.strides.to_vec(),
        pads: pads.to_vec(),
        dilations: p.dilations.to_vec(),
        output_padding: output_padding.to_vec(),
        groups: p.groups,
        activation: None,
    });
    let (weight, bias) = (c.constant("kernel", p.weight), c.constant("bias", p.bias));
    one(c.emit(op, &[x, weight, bias])?)
}

/// MaxPooling2D. A window that meets no element gives negative infinity, as in Chainer.
pub fn max_pooling(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let cover_all = c.fields.flag("cover_all")?;
    one(pooling(c, PoolKind::Max, f32::NEG_INFINITY, cover_all)?)
}

/// AveragePooling2D: padding and what lies behind the picture are zeros and count, unless
/// `pad_value` is null.
pub fn average_pooling(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let cover_all = c.fields.flag("cover_all")?;
    let counts = match c.fields.has("pad_value").then(|| c.fields.float("pad_value")) {
        None => true,
        Some(value) => match value? {
            None => false,
            Some(0.0) => true,
            Some(v) => return unsupported(format!("pad_value is {v}"), "0 or null is needed"),
        },
    };
    let kind = PoolKind::Average { count_include_pad: counts };
    one(pooling(c, kind, 0.0, cover_all)?)
}

fn pooling(c: &mut Context<'_, '_>, kind: PoolKind, padding: f32, cover_all: bool) -> Res<ValueId> {
    let (x, shape) = c.picture()?;
    let kernel = pair(c, ["window_height", "window_width"], None, 1)?;
    let strides = pair(c, ["stride_y", "stride_x"], None, 1)?;
    let pads = pair(c, ["pad_h", "pad_w"], None, 0)?;
    let mut ends = [0; 2];
    for i in 0..2 {
        let (size, extent) = (shape[2 + i], kernel[i]);
        let axis = Axis { size, extent, stride: strides[i], pad: pads[i] };
        let out = axis.out(cover_all)?;
        ends[i] = axis.end(out).max(if cover_all { 0 } else { pads[i] });
    }
    let pool = |pads: Vec<usize>| {
        Op::Pool(Pool {
            kind,
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            pads,
            dilations: vec![1, 1],
            ceil_mode: false,
        })
    };
    // A pool's own padding is shorter than its window, so that every window meets an element.
    if (0..2).all(|i| pads[i] < kernel[i] && ends[i] < kernel[i]) {
        return c.emit(pool(vec![pads[0], pads[1], ends[0], ends[1]]), &[x]);
    }
    if kind == (PoolKind::Average { count_include_pad: false }) {
        return invalid("some window has nothing but padding, which does not count");
    }
    let amounts = |[h, w]: [usize; 2]| vec![0, 0, h as i64, w as i64];
    let mode = PadMode::Constant { value: padding };
    let pad = Op::Pad(Pad { begins: amounts(pads), ends: amounts(ends), mode });
    let x = c.emit(pad, &[x])?;
    c.emit(pool(vec![0; 4]), &[x])
}
