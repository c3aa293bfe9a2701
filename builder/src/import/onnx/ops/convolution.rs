//! Conv, ConvTranspose.

use tobiuo_ops::{Activation, Conv, ConvTranspose, Op};
use tobiuo_tensor::Tensor;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::one;
use super::window::{AutoPad, Window};
use crate::graph::ValueId;

/// Channel groups.
fn groups(c: &Context<'_, '_>) -> Res<usize> {
    let g = c.attributes.int_or("group", 1)?;
    match usize::try_from(g) {
        Ok(g) if g > 0 => Ok(g),
        _ => invalid(format!("group is {g}, it must be at least 1")),
    }
}

/// Shapes of x and the weight, their ranks checked.
fn shapes(c: &Context<'_, '_>, x: ValueId, w: ValueId) -> Res<(Vec<usize>, Vec<usize>)> {
    let (xs, ws) = (c.shape(x), c.shape(w));
    if xs.len() != ws.len() || xs.len() < 3 {
        return invalid(format!(
            "x {xs:?} must be [N, C, spatial...] and the weight {ws:?} have as many axes"
        ));
    }
    if xs.len() > 4 {
        return unsupported(
            format!("a convolution over {} spatial axes", xs.len() - 2),
            "1 or 2 spatial axes are supported",
        );
    }
    Ok((xs, ws))
}

/// The bias, or zeros.
fn bias(c: &mut Context<'_, '_>, given: Option<ValueId>, filters: usize) -> ValueId {
    match given {
        Some(b) => b,
        None => c.add_constant(Tensor::f32([filters], vec![0.0; filters])),
    }
}

/// A convolution with this node's attributes; without a bias it is zeros.
pub fn emit(
    c: &mut Context<'_, '_>,
    [x, w]: [ValueId; 2],
    given: Option<ValueId>,
    activation: Option<Activation>,
    residual: Option<ValueId>,
) -> Res<ValueId> {
    let (xs, ws) = shapes(c, x, w)?;
    let mut window = Window::read(c, &xs, Some(&ws[2..]))?;
    window.resolve(&xs)?;
    let b = bias(c, given, ws[0]);
    let op = Op::Conv(Conv {
        kernel: window.kernel,
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        groups: groups(c)?,
        activation,
        residual: residual.is_some(),
    });
    let mut inputs = vec![x, w, b];
    inputs.extend(residual);
    c.emit(op, &inputs)
}

/// Conv.
pub fn conv(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 3)?;
    let y = emit(c, [c.input(0)?, c.input(1)?], c.optional(2), None, None)?;
    one(y)
}

/// com.microsoft FusedConv: a Conv with its activation and a tensor added before it.
pub fn fused_conv(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 4)?;
    let params = c.attributes.floats("activation_params")?.unwrap_or_default();
    let activation = fused_activation(c.attributes.string_or("activation", "")?, params)?;
    let operands = [c.input(0)?, c.input(1)?];
    let y = emit(c, operands, c.optional(2), activation, c.optional(3))?;
    one(y)
}

/// The activation that ONNX Runtime's fused operators name.
pub fn fused_activation(name: &str, params: &[f32]) -> Res<Option<Activation>> {
    Ok(Some(match (name, params) {
        ("", _) => return Ok(None),
        ("Relu", _) => Activation::Relu,
        ("Sigmoid", _) => Activation::Sigmoid,
        ("Tanh", _) => Activation::Tanh,
        ("LeakyRelu", &[alpha]) => Activation::LeakyRelu { alpha },
        ("Clip", &[min, max]) if min <= max => Activation::Clip { min, max },
        ("HardSigmoid", &[alpha, beta]) => Activation::HardSigmoid { alpha, beta },
        _ => return unsupported(format!("the fused activation '{name}' {params:?}"), ""),
    }))
}

/// ConvTranspose.
pub fn conv_transpose(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 3)?;
    let (x, w) = (c.input(0)?, c.input(1)?);
    let (xs, ws) = shapes(c, x, w)?;
    let axes = xs.len() - 2;
    let mut window = Window::read(c, &xs, Some(&ws[2..]))?;
    let groups = groups(c)?;
    if groups > xs[1] {
        return invalid(format!("{groups} groups are more than the channels of x {xs:?}"));
    }
    let list = |name: &str| -> Res<Option<Vec<usize>>> {
        let Some(v) = c.attributes.ints(name)? else { return Ok(None) };
        let out: Option<Vec<usize>> = v.iter().map(|&x| usize::try_from(x).ok()).collect();
        match out {
            Some(out) if out.len() == axes => Ok(Some(out)),
            // Some exporters write the batch and channels too.
            Some(out) if out.len() == axes + 2 => Ok(Some(out[2..].to_vec())),
            _ => invalid(format!("{name} {v:?} needs {axes} numbers of at least 0")),
        }
    };
    let mut output_padding = list("output_padding")?.unwrap_or_else(|| vec![0; axes]);
    let output_shape = list("output_shape")?;
    let same = matches!(window.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
    for axis in 0..axes {
        let wanted = match &output_shape {
            Some(shape) => shape[axis],
            None if same => xs[2 + axis].saturating_mul(window.strides[axis]),
            None => continue,
        };
        let full = xs[2 + axis]
            .saturating_sub(1)
            .saturating_mul(window.strides[axis])
            .saturating_add(window.extent(axis)?)
            .saturating_add(output_padding[axis]);
        // More than the windows reach is zeros (and bias) at the end, as ONNX Runtime has it.
        (window.pads[axis], window.pads[axes + axis]) =
            window.distribute(full.saturating_sub(wanted));
        output_padding[axis] = output_padding[axis].saturating_add(wanted.saturating_sub(full));
    }
    let b = bias(c, c.optional(2), ws[1].saturating_mul(groups).min(1 << 24));
    let op = Op::ConvTranspose(ConvTranspose {
        kernel: window.kernel,
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        output_padding,
        groups,
        activation: None,
    });
    let y = c.emit(op, &[x, w, b])?;
    one(y)
}
