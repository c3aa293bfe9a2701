//! Constant weights given as integers and scales.

use tobiuo_ops::Op;
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::Rewrite;
use crate::graph::ValueId;

/// Weights as layers of integers take them.
pub(super) struct Weights {
    /// Row-major, as the model has them.
    pub values: Vec<i8>,
    pub shape: Vec<usize>,
    /// One for each index of the axis that was asked for.
    pub scales: Vec<f32>,
}

/// A zero point as a scalar of a type.
pub(super) fn zero_tensor(zero: i32, dtype: DType) -> Tensor {
    let data = match dtype {
        DType::U8 => TensorData::U8(vec![zero as u8]),
        _ => TensorData::I8(vec![zero as i8]),
    };
    Tensor::new(Vec::new(), data)
}

impl Rewrite<'_> {
    /// The constant integers behind a value, with a scale for each index of `axis`; `None` when
    /// they are no such, or do not fit i8 without a zero point.
    pub(super) fn weights(&self, v: ValueId, axis: usize) -> Option<Weights> {
        let node = &self.old.nodes[*self.producers.get(&v)?];
        let Op::Dequantize { axis: along } = node.op else { return None };
        let values = self.old.constant(node.inputs[0])?;
        let shape = values.shape().to_vec();
        let count = *shape.get(axis)?;
        let scales = self.old.constant(node.inputs[1])?.as_f32()?.to_vec();
        let zeros = match node.inputs.get(2) {
            Some(&z) => self.old.constant(z)?.to_i64()?,
            None => vec![0; scales.len()],
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let spread = match along {
            None => false,
            Some(a) if a == axis => true,
            Some(_) => return None,
        };
        let index = |i: usize| if spread { i / inner % count } else { 0 };
        let less_zero = |(i, q): (usize, i64)| i8::try_from(q - zeros[index(i)]).ok();
        let values: Option<Vec<i8>> = match values.data() {
            TensorData::I8(q) if zeros.iter().all(|&z| z == 0) => Some(q.clone()),
            TensorData::I8(q) => q.iter().map(|&q| q.into()).enumerate().map(less_zero).collect(),
            TensorData::U8(q) => q.iter().map(|&q| q.into()).enumerate().map(less_zero).collect(),
            _ => return None,
        };
        let scales = if spread { scales } else { vec![scales[0]; count] };
        Some(Weights { values: values?, shape, scales })
    }
}
