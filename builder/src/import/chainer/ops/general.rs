//! Constants, copies, and ops given as they are.

use tobiuo_ops::Op;
use tobiuo_tensor::Tensor;

use super::super::context::Context;
use super::one;
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid, unsupported};

/// ConstantInput: a tensor of the dump. Its file has all axes, `shape` leaves out the first; or
/// both have all of a tensor that never had a batch.
pub fn constant_input(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    c.take::<0>()?;
    let Some(file) = c.fields.text("input_tensor")? else {
        return invalid("input_tensor, the name of its file, is missing");
    };
    let tensor = c.importer.file(file)?;
    let Some(noted) = c.fields.sizes("shape")? else { return invalid("shape is missing") };
    let shape = tensor.shape();
    if shape != noted && shape.get(1..).unwrap_or_default() != noted {
        return invalid(format!(
            "shape is {noted:?} without the batch, the tensor in file '{file}' has {shape:?}"
        ));
    }
    let name = c.layer.outputs.first().unwrap_or(&c.layer.name).clone();
    one(c.importer.graph.add_constant(&name, tensor))
}

/// Copy: nothing is done, the tensor has two names.
pub fn identity(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let shape = c.shape(x).to_vec();
    one(c.emit(Op::Reshape { shape }, &[x])?)
}

/// Dropout does nothing in inference.
pub fn dropout(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    c.fields.float("dropout_ratio")?;
    c.importer.note(
        "the dump has Dropout, which Chainer leaves out in inference: it was made in training \
         mode; here it does nothing",
    );
    identity(c)
}

/// TobiuoOp: any op of [`tobiuo_ops::Op`], as JSON under `op`. `operands` lists tensors and,
/// with `@` before them, weights; without it the sources are the operands. Axes count the batch.
pub fn any_op(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let Some(json) = c.fields.get("op") else { return invalid("op is missing") };
    let op: Op = match serde_json::from_value(json.clone()) {
        Ok(op) => op,
        Err(e) => return unsupported(format!("op {json}: {e}"), "an op of this builder is needed"),
    };
    if matches!(op, Op::Reshape { .. } | Op::Expand { .. } | Op::Resize(_) | Op::Slice(_)) {
        return unsupported(
            format!("op {} holds a whole shape, the batch too", op.name()),
            "Reshape, BroadcastTo, ResizeImages and GetItem layers do the same for any batch",
        );
    }
    let mut operands = Vec::new();
    match c.fields.list("operands")? {
        None => operands = c.sources.clone(),
        Some(list) => {
            for operand in list {
                let name = operand.as_str().unwrap_or_default();
                operands.push(match name.strip_prefix('@') {
                    Some(key) => {
                        let weight: Tensor = c.weight(key)?;
                        c.constant(key, weight)
                    }
                    None if c.layer.sources.iter().any(|s| s == name) => c.importer.value(name)?,
                    None => return invalid(format!("operand {operand} is not among its sources")),
                });
            }
        }
    }
    c.emit_all(op, &operands)
}
