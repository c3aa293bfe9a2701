//! MaxPool, AveragePool and the global pools.

use tobiuo_ops::{Op, Pool, PoolKind, Reduce};
use tobiuo_tensor::DType;

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, invalid, unsupported};
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
