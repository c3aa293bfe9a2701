//! Convolutions and pools: what slides a window over the spatial axes.

use tobiuo_tensor::DType;

use super::{Fact, Facts, count, exactly, float, same_type};
use crate::infer::math::check_activation;
use crate::{Conv, ConvTranspose, Pool, PoolKind, QuantConv};

const SPATIAL: [&str; 3] = ["height", "width", "depth"];

fn axis_name(axis: usize, axes: usize) -> &'static str {
    match axes {
        1 => "length",
        2 => SPATIAL[axis.min(1)],
        _ => ["depth", "height", "width"][axis.min(2)],
    }
}

/// The attributes that every window has, their lengths and signs checked.
pub(super) struct Window<'a> {
    kernel: &'a [usize],
    strides: &'a [usize],
    pads: &'a [usize],
    dilations: &'a [usize],
}

impl Window<'_> {
    fn check(&self, x: &Fact, max_axes: usize) -> Result<usize, String> {
        let rank = x.shape.len();
        if rank < 3 || rank > 2 + max_axes {
            return Err(format!(
                "x {:?} must be [N, C, spatial...] with 1 to {max_axes} spatial axes",
                x.shape
            ));
        }
        if let Some(axis) = x.shape[1..].iter().position(|&d| d == 0) {
            return Err(format!("x {:?} is empty along axis {}", x.shape, axis + 1));
        }
        let n = rank - 2;
        let what = "one per spatial axis of x";
        count("kernel", self.kernel.len(), n, what)?;
        count("strides", self.strides.len(), n, what)?;
        count("dilations", self.dilations.len(), n, what)?;
        count("pads", self.pads.len(), 2 * n, "begin and end of each spatial axis")?;
        for (name, v) in
            [("kernel", self.kernel), ("strides", self.strides), ("dilations", self.dilations)]
        {
            if v.contains(&0) {
                return Err(format!("{name} {v:?} holds a 0, every entry must be at least 1"));
            }
        }
        Ok(n)
    }

    /// Extent that a window covers along an axis: `(kernel - 1) * dilation + 1`.
    fn extent(&self, axis: usize) -> Result<usize, String> {
        (self.kernel[axis] - 1)
            .checked_mul(self.dilations[axis])
            .and_then(|e| e.checked_add(1))
            .ok_or_else(|| {
                format!("kernel {:?} with dilations {:?} is too large", self.kernel, self.dilations)
            })
    }

    /// Input and padding along an axis.
    fn padded(&self, axis: usize, size: usize) -> Result<usize, String> {
        let n = self.kernel.len();
        size.checked_add(self.pads[axis])
            .and_then(|s| s.checked_add(self.pads[n + axis]))
            .ok_or_else(|| format!("pads {:?} are too large", self.pads))
    }

    fn too_small(&self, axis: usize, x: &Fact, padded: usize, extent: usize) -> String {
        format!(
            "the window covers {extent} along the {}, x {:?} with its padding has {padded}",
            axis_name(axis, self.kernel.len()),
            x.shape
        )
    }
}

/// The weight's spatial part must be the kernel.
fn check_kernel(kernel: &[usize], w: &Fact) -> Result<(), String> {
    if w.shape.get(2..) == Some(kernel) {
        Ok(())
    } else {
        Err(format!("weight {:?} does not have the kernel {kernel:?}", w.shape))
    }
}

pub(super) fn conv(a: &Conv, inputs: &[Fact]) -> Facts {
    let names = if a.residual { "x, weight, bias, residual" } else { "x, weight, bias" };
    let needed = if a.residual { 4 } else { 3 };
    let [x, w, bias, rest @ ..] = inputs else {
        return Err(format!("takes {needed} inputs ({names}), {} are given", inputs.len()));
    };
    if inputs.len() != needed {
        return Err(format!("takes {needed} inputs ({names}), {} are given", inputs.len()));
    }
    float("x", x)?;
    same_type("weight", w, "x", x)?;
    check_activation(a.activation)?;
    let shape = conv_shape(a.window(), a.groups, x, w)?;
    per_filter(bias, x, w.shape[0])?;
    if let [residual] = rest {
        same_type("residual", residual, "x", x)?;
        if residual.shape != shape {
            return Err(format!(
                "residual {:?} must have the output's shape {shape:?}",
                residual.shape
            ));
        }
    }
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

impl Conv {
    fn window(&self) -> Window<'_> {
        let Conv { kernel, strides, pads, dilations, .. } = self;
        Window { kernel, strides, pads, dilations }
    }
}

impl QuantConv {
    pub(super) fn window(&self) -> Window<'_> {
        let QuantConv { kernel, strides, pads, dilations, .. } = self;
        Window { kernel, strides, pads, dilations }
    }
}

/// The output's shape of a convolution of `x` by `w`.
pub(super) fn conv_shape(
    win: Window<'_>,
    groups: usize,
    x: &Fact,
    w: &Fact,
) -> Result<Vec<usize>, String> {
    let n = win.check(x, 2)?;
    check_kernel(win.kernel, w)?;
    let (channels, filters) = (x.shape[1], w.shape[0]);
    if groups == 0 || channels % groups != 0 || filters % groups != 0 || filters == 0 {
        return Err(format!(
            "{} groups do not divide the {channels} channels of x {:?} and the {filters} filters \
             of weight {:?}",
            groups, x.shape, w.shape
        ));
    }
    if w.shape[1] != channels / groups {
        return Err(format!(
            "weight {:?} needs {} input channels per group, x {:?} gives {}",
            w.shape,
            w.shape[1],
            x.shape,
            channels / groups
        ));
    }
    let mut shape = vec![x.shape[0], filters];
    for axis in 0..n {
        let (extent, padded) = (win.extent(axis)?, win.padded(axis, x.shape[2 + axis])?);
        if padded < extent {
            return Err(win.too_small(axis, x, padded, extent));
        }
        shape.push((padded - extent) / win.strides[axis] + 1);
    }
    Ok(shape)
}

fn per_filter(bias: &Fact, x: &Fact, filters: usize) -> Result<(), String> {
    same_type("bias", bias, "x", x)?;
    if bias.shape == [filters] {
        Ok(())
    } else {
        Err(format!("bias {:?} must be [{filters}]: one value per filter", bias.shape))
    }
}

pub(super) fn conv_transpose(a: &ConvTranspose, inputs: &[Fact]) -> Facts {
    let [x, w, bias] = exactly(inputs, "x, weight, bias")?;
    float("x", x)?;
    same_type("weight", w, "x", x)?;
    check_activation(a.activation)?;
    let win =
        Window { kernel: &a.kernel, strides: &a.strides, pads: &a.pads, dilations: &a.dilations };
    let n = win.check(x, 2)?;
    count("output_padding", a.output_padding.len(), n, "one per spatial axis of x")?;
    check_kernel(&a.kernel, w)?;
    let channels = x.shape[1];
    if w.shape[0] != channels {
        return Err(format!(
            "weight {:?} needs {} input channels, x {:?} has {channels}",
            w.shape, w.shape[0], x.shape
        ));
    }
    if a.groups == 0 || channels % a.groups != 0 {
        return Err(format!(
            "{} groups do not divide the {channels} channels of x {:?}",
            a.groups, x.shape
        ));
    }
    let filters = w.shape[1].checked_mul(a.groups).filter(|&f| f > 0).ok_or_else(|| {
        format!("weight {:?} in {} groups gives no usable filter count", w.shape, a.groups)
    })?;
    per_filter(bias, x, filters)?;
    let mut shape = vec![x.shape[0], filters];
    for axis in 0..n {
        let size = x.shape[2 + axis];
        let cut = a.pads[axis].checked_add(a.pads[n + axis]);
        let full = win.extent(axis).ok().and_then(|extent| {
            (size - 1)
                .checked_mul(a.strides[axis])?
                .checked_add(extent)?
                .checked_add(a.output_padding[axis])
        });
        let (Some(cut), Some(full)) = (cut, full) else {
            return Err(format!(
                "the output's {} does not fit: strides {:?}, kernel {:?}, pads {:?}",
                axis_name(axis, n),
                a.strides,
                a.kernel,
                a.pads
            ));
        };
        if full <= cut {
            return Err(format!(
                "pads {:?} cut all {full} of the output's {}",
                a.pads,
                axis_name(axis, n)
            ));
        }
        shape.push(full - cut);
    }
    Ok(vec![Fact { dtype: x.dtype, shape }])
}

pub(super) fn pool(a: &Pool, inputs: &[Fact]) -> Facts {
    let [x] = exactly(inputs, "x")?;
    if !(a.kind == PoolKind::Max && matches!(x.dtype, DType::I8 | DType::U8)) {
        float("x", x)?;
    }
    Ok(vec![Fact { dtype: x.dtype, shape: pool_shape(a, x)? }])
}

/// The output's shape of a pool over `x`.
pub(super) fn pool_shape(a: &Pool, x: &Fact) -> Result<Vec<usize>, String> {
    let win =
        Window { kernel: &a.kernel, strides: &a.strides, pads: &a.pads, dilations: &a.dilations };
    let n = win.check(x, 3)?;
    let mut shape = x.shape[..2].to_vec();
    for axis in 0..n {
        let size = x.shape[2 + axis];
        let (extent, padded) = (win.extent(axis)?, win.padded(axis, size)?);
        let (begin, end, stride) = (a.pads[axis], a.pads[n + axis], a.strides[axis]);
        if begin >= extent || end >= extent {
            return Err(format!(
                "pads {:?} leave windows without an element: the window covers {extent} along \
                 the {}",
                a.pads,
                axis_name(axis, n)
            ));
        }
        let out = if a.ceil_mode {
            // A window may overhang the end by less than a stride.
            let reach = padded.checked_add(stride - 1).ok_or("strides are too large")?;
            if reach < extent {
                return Err(win.too_small(axis, x, padded, extent));
            }
            let out = (reach - extent) / stride + 1;
            // The last window must start in x or in the padding before it, not behind it.
            if (out - 1) * stride >= size + begin { out - 1 } else { out }
        } else {
            if padded < extent {
                return Err(win.too_small(axis, x, padded, extent));
            }
            (padded - extent) / stride + 1
        };
        shape.push(out);
    }
    Ok(shape)
}
