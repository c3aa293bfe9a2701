//! Matrix products.

use tobiuo_ops::{Gemm, Op};

use super::super::context::Context;
use super::one;
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// LinearFunction: weight `[O, C * H * W]`, bias `[O]`; each picture as one row.
pub fn linear(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let n_out = c.fields.need_size("n_out")?;
    let weight = c.weight("kernel")?;
    let bias = c.optional_weight("bias")?;
    let &[outputs, columns] = weight.shape() else {
        return invalid(format!("its kernel {:?} must be a matrix", weight.shape()));
    };
    if outputs != n_out {
        return invalid(format!("n_out is {n_out}, its kernel is {:?}", weight.shape()));
    }
    if let Some(bias) = bias.as_ref().filter(|b| b.shape() != [n_out]) {
        return invalid(format!("its bias {:?} must be [{n_out}]", bias.shape()));
    }
    let rows = c.lead(x)?;
    let elements: usize = c.shape(x)[1..].iter().product();
    if elements != columns {
        return invalid(format!(
            "its kernel {:?} takes {columns} numbers, its source {:?} gives {elements} for each \
             picture",
            weight.shape(),
            c.shape(x)
        ));
    }
    let x = c.reshape(x, vec![rows, columns])?;
    let mut operands = vec![x, c.constant("kernel", weight)];
    operands.extend(bias.map(|b| c.constant("bias", b)));
    let (alpha, beta) = (1.0, 1.0);
    let gemm = Gemm { trans_a: false, trans_b: true, alpha, beta, activation: None };
    one(c.emit(Op::Gemm(gemm), &operands)?)
}

/// MatMul over the last two axes, each operand transposed first where the layer says so.
pub fn matmul(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let [a, b] = c.take()?;
    let (trans_a, trans_b) = (c.fields.flag("transa")?, c.fields.flag("transb")?);
    // A matrix of pictures and features: its rows are the batch.
    let rows_only = |v: ValueId| c.importer.is_batched(v) && c.shape(v).len() < 3;
    if rows_only(b) || (rows_only(a) && (trans_a || c.shape(b).len() > 2)) {
        return unsupported(
            format!("{:?} times {:?} mixes pictures of a batch", c.shape(a), c.shape(b)),
            "give each operand an axis for the batch, as [N, rows, columns]",
        );
    }
    let mut operands = if rows_only(a) { vec![a, b] } else { c.aligned(&[a, b])? };
    for (v, transposed) in operands.iter_mut().zip([trans_a, trans_b]) {
        let rank = c.shape(*v).len();
        if transposed && rank >= 2 {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 1, rank - 2);
            *v = c.emit(Op::Transpose { perm }, &[*v])?;
        }
    }
    one(c.emit(Op::MatMul, &operands)?)
}
