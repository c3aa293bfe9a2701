//! MaxPool, AveragePool, LpPool and the global pools.

use tobiuo_ops::{Binary, Conv, Op, Pool, PoolKind, Reduce, Unary};
use tobiuo_tensor::{DType, Tensor};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
use super::arithmetic::emit_binary;
use super::one;
use super::window::{AutoPad, Window};

fn pool(c: &mut Context<'_, '_>, kind: PoolKind) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let shape = c.shape(x);
    if shape.len() > 4 {
        return unsupported(
            format!("pooling over {} spatial axes", shape.len() - 2),
            "1 or 2 spatial axes are supported",
        );
    }
    let mut window = Window::read(c, &shape, None)?;
    window.resolve(&shape)?;
    // An automatic mode says the output's size itself.
    let ceil_mode = c.attributes.flag("ceil_mode", false)?
        && !matches!(window.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
    let op = Op::Pool(Pool {
        kind,
        kernel: window.kernel,
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        ceil_mode,
    });
    // 8-bit integers (opset 12) are exact in f32.
    let dtype = c.dtype(x);
    let small = kind == PoolKind::Max && matches!(dtype, DType::I8 | DType::U8);
    let mut y = if small { c.emit(Op::Cast { to: DType::F32 }, &[x])? } else { x };
    y = c.emit(op, &[y])?;
    if small {
        y = c.emit(Op::Cast { to: dtype }, &[y])?;
    }
    one(y)
}

/// MaxPool. Its second output, the indices, is not computed.
pub fn max_pool(c: &mut Context<'_, '_>) -> Res<Outputs> {
    // It orders the indices of the second output only.
    c.attributes.ignore("storage_order");
    pool(c, PoolKind::Max)
}

/// AveragePool.
pub fn average_pool(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let count_include_pad = c.attributes.flag("count_include_pad", false)?;
    pool(c, PoolKind::Average { count_include_pad })
}

/// LpPool: the sums of the windows are a convolution with ones.
pub fn lp_pool(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let shape = c.shape(x);
    if shape.len() > 4 {
        return unsupported(
            format!("pooling over {} spatial axes", shape.len() - 2),
            "1 or 2 spatial axes are supported",
        );
    }
    if c.attributes.flag("ceil_mode", false)? {
        return unsupported("ceil_mode is set", "");
    }
    let p = c.attributes.int_or("p", 2)?;
    if p < 1 {
        return invalid(format!("p is {p}, it must be at least 1"));
    }
    let mut window = Window::read(c, &shape, None)?;
    window.resolve(&shape)?;
    let mut y = c.emit(Op::Unary(Unary::Abs), &[x])?;
    let (power, root) = (c.scalar(p as f32), c.scalar(1.0 / p as f32));
    if p == 2 {
        y = emit_binary(c, Binary::Mul, y, y)?;
    } else if p != 1 {
        y = emit_binary(c, Binary::Pow, y, power)?;
    }
    let channels = shape[1];
    let taps = window.kernel.iter().fold(channels, |n, &k| n.saturating_mul(k));
    c.make_up(taps)?;
    let ones = [&[channels, 1], window.kernel.as_slice()].concat();
    let ones = c.add_constant(Tensor::f32(ones, vec![1.0; taps]));
    let zeros = c.add_constant(Tensor::f32([channels], vec![0.0; channels]));
    let sums = Op::Conv(Conv {
        kernel: window.kernel,
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        groups: channels,
        activation: None,
        residual: false,
    });
    y = c.emit(sums, &[y, ones, zeros])?;
    if p == 2 {
        y = c.emit(Op::Unary(Unary::Sqrt), &[y])?;
    } else if p != 1 {
        y = emit_binary(c, Binary::Pow, y, root)?;
    }
    one(y)
}

fn global(c: &mut Context<'_, '_>, kind: Reduce) -> Res<Outputs> {
    c.expect_inputs(1, 1)?;
    let x = c.input(0)?;
    let rank = c.rank(x);
    if rank < 3 {
        return invalid(format!("x {:?} must be [N, C, spatial...]", c.shape(x)));
    }
    let y = c.emit(Op::Reduce { kind, axes: (2..rank).collect(), keep_dims: true }, &[x])?;
    one(y)
}

/// GlobalAveragePool.
pub fn global_average_pool(c: &mut Context<'_, '_>) -> Res<Outputs> {
    global(c, Reduce::Mean)
}

/// GlobalMaxPool.
pub fn global_max_pool(c: &mut Context<'_, '_>) -> Res<Outputs> {
    global(c, Reduce::Max)
}

/// GlobalLpPool with p 1 or 2.
pub fn global_lp_pool(c: &mut Context<'_, '_>) -> Res<Outputs> {
    match c.attributes.int_or("p", 2)? {
        1 => global(c, Reduce::L1),
        2 => global(c, Reduce::L2),
        p => unsupported(format!("p is {p}"), "p of 1 or 2 is supported"),
    }
}
