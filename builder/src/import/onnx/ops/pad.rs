//! Pad.

use tobiuo_ops::{Op, Pad, PadMode};
use tobiuo_tensor::DType;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::one;

/// Pad: amounts and value are attributes up to opset 10, operands from 11 on.
pub fn pad(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let mode = c.attributes.string_or("mode", "constant")?;
    let (pads, value, axes);
    if c.opset < 11 {
        c.expect_inputs(1, 1)?;
        pads = c.attributes.ints("pads")?.map(<[i64]>::to_vec);
        value = f64::from(c.attributes.float_or("value", 0.0)?);
        axes = None;
    } else {
        c.expect_inputs(2, if c.opset < 18 { 3 } else { 4 })?;
        pads = c.int_input(1, "the pads")?;
        // An empty tensor stands for none in some exporters' files.
        let empty = c.optional(2).is_some_and(|v| c.shape(v).contains(&0));
        value = if empty { 0.0 } else { c.number(2, "the padding's value")?.unwrap_or(0.0) };
        axes = c.int_input(3, "axes")?;
    }
    let axes = match axes {
        Some(axes) => c.axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    let n = axes.len();
    let Some(pads) = pads.filter(|p| p.len() == 2 * n) else {
        return invalid(format!("pads must hold {} numbers, two for each of {n} axes", 2 * n));
    };
    let mode = match mode {
        "constant" => {
            let value32 = value as f32;
            if c.dtype(x) != DType::F32 && f64::from(value32) != value {
                return unsupported(format!("padding {} with {value}", c.dtype(x)), "");
            }
            PadMode::Constant { value: value32 }
        }
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return invalid(format!("mode '{other}' is not in the standard")),
    };
    let mut op = Pad { begins: vec![0; rank], ends: vec![0; rank], mode };
    for (i, axis) in axes.into_iter().enumerate() {
        (op.begins[axis], op.ends[axis]) = (pads[i], pads[n + i]);
    }
    let y = c.emit(Op::Pad(op), &[x])?;
    one(y)
}
