//! Batch and local response normalization, softmax.

use tobiuo_ops::{Binary, Op};
use tobiuo_tensor::Tensor;

use super::super::context::Context;
use super::{axis_of, one};
use crate::graph::ValueId;
use crate::import::stop::{Res, invalid};

/// FixedBatchNormalization: `gamma * (x - mean) / sqrt(var + eps) + beta`, parameters of one
/// number per channel, or of the shape of several axes from the channels on.
pub fn batch_normalization(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let epsilon = c.fields.need_float("eps")?;
    let mut parameters = Vec::with_capacity(4);
    for key in ["gamma", "beta", "mean", "var"] {
        parameters.push((key, c.weight(key)?));
    }
    let shape = parameters[0].1.shape().to_vec();
    for (key, p) in &parameters {
        let fits = p.shape() == shape && c.shape(x).get(1..1 + shape.len()) == Some(&shape);
        if !fits || shape.is_empty() {
            return invalid(format!(
                "its {key} {:?} does not fit the axes behind the batch of its source {:?}",
                p.shape(),
                c.shape(x)
            ));
        }
    }
    if shape.len() == 1 {
        let mut operands = vec![x];
        for (key, p) in parameters {
            operands.push(c.constant(key, p));
        }
        return one(c.emit(Op::BatchNorm { epsilon }, &operands)?);
    }
    let [gamma, beta, mean, var] = [0, 1, 2, 3].map(|i| parameters[i].1.to_f64());
    let scale: Vec<f64> = (gamma.iter().zip(&var))
        .map(|(gamma, var)| gamma / (var + f64::from(epsilon)).sqrt())
        .collect();
    let shift = (beta.iter().zip(&mean).zip(&scale)).map(|((beta, mean), s)| beta - mean * s);
    let shift: Vec<f32> = shift.map(|v| v as f32).collect();
    let scale: Vec<f32> = scale.into_iter().map(|v| v as f32).collect();
    let mut wide = shape;
    wide.resize(c.shape(x).len() - 1, 1);
    let scale = c.constant("scale", Tensor::f32(wide.as_slice(), scale));
    let shift = c.constant("shift", Tensor::f32(wide.as_slice(), shift));
    let y = c.emit(Op::Binary { kind: Binary::Mul, activation: None }, &[x, scale])?;
    one(c.emit(Op::Binary { kind: Binary::Add, activation: None }, &[y, shift])?)
}

/// LocalResponseNormalization: `x / (k + alpha * sum of x^2)^beta` over the channels up to
/// `n / 2` away, alpha not divided by their number.
pub fn local_response(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let n = c.fields.need_size("n")?;
    let (bias, alpha) = (c.fields.need_float("k")?, c.fields.need_float("alpha")?);
    let beta = c.fields.need_float("beta")?;
    let channels = c.shape(x).get(1).copied().unwrap_or(0);
    // A window wider than all channels is no other than one that reaches all from each.
    let size = 2 * (n / 2).min(channels) + 1;
    one(c.emit(Op::Lrn { size, alpha: alpha * size as f32, beta, bias }, &[x])?)
}

/// Softmax over the channels, or over `axis`.
pub fn softmax(c: &mut Context<'_, '_>) -> Res<Vec<ValueId>> {
    let x = c.source()?;
    let axis = c.fields.int("axis")?.unwrap_or(0);
    let axis = axis_of(c, x, axis)?;
    one(c.emit(Op::Softmax { axis, log: false }, &[x])?)
}
