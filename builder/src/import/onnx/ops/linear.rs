//! Gemm, MatMul.

use tobiuo_ops::{Activation, Binary, Gemm, Op};

use super::super::context::{Context, Outputs};
use super::super::stop::{Res, unsupported};
use super::convolution::fused_activation;
use super::one;
use crate::graph::ValueId;

fn emit_gemm(c: &mut Context<'_, '_>, activation: Option<Activation>) -> Res<Outputs> {
    c.expect_inputs(2, 3)?;
    if c.opset < 7 {
        // Whether c may be broadcast; from opset 7 on it always may.
        c.attributes.ignore("broadcast");
    }
    let op = Op::Gemm(Gemm {
        trans_a: c.attributes.flag("transA", false)?,
        trans_b: c.attributes.flag("transB", false)?,
        alpha: c.attributes.float_or("alpha", 1.0)?,
        beta: c.attributes.float_or("beta", 1.0)?,
        activation,
    });
    let inputs = c.all_inputs()?;
    let y = c.emit(op, &inputs)?;
    one(y)
}

/// Gemm.
pub fn gemm(c: &mut Context<'_, '_>) -> Res<Outputs> {
    emit_gemm(c, None)
}

/// com.microsoft FusedGemm: a Gemm with its activation.
pub fn fused_gemm(c: &mut Context<'_, '_>) -> Res<Outputs> {
    let mut params = Vec::new();
    for name in ["activation_alpha", "activation_beta", "activation_gamma"] {
        params.extend(c.attributes.float(name)?);
    }
    let activation = fused_activation(c.attributes.string_or("activation", "")?, &params)?;
    emit_gemm(c, activation)
}

/// MatMul.
pub fn matmul(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    let inputs = c.all_inputs()?;
    let y = c.emit(Op::MatMul, &inputs)?;
    one(y)
}

/// com.microsoft FusedMatMul: `alpha * op(a) x op(b)`.
pub fn fused_matmul(c: &mut Context<'_, '_>) -> Res<Outputs> {
    c.expect_inputs(2, 2)?;
    for name in ["transBatchA", "transBatchB"] {
        if c.attributes.flag(name, false)? {
            return unsupported(format!("{name} is set"), "");
        }
    }
    let a = transposed(c, 0, "transA")?;
    let b = transposed(c, 1, "transB")?;
    let alpha = c.attributes.float_or("alpha", 1.0)?;
    let mut y = c.emit(Op::MatMul, &[a, b])?;
    if alpha != 1.0 {
        let factor = c.scalar(alpha);
        y = c.emit(Op::Binary { kind: Binary::Mul, activation: None }, &[y, factor])?;
    }
    one(y)
}

fn transposed(c: &mut Context<'_, '_>, i: usize, flag: &str) -> Res<ValueId> {
    let v = c.input(i)?;
    let rank = c.rank(v);
    if !c.attributes.flag(flag, false)? || rank < 2 {
        return Ok(v);
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 1, rank - 2);
    c.emit(Op::Transpose { perm }, &[v])
}
