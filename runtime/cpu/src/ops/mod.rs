//! The kernels, one family a file.

mod activation;
mod conv;
mod f32s;
mod patches;
mod tiles;

use tobiuo_ops::{Fact, Op};
use tobiuo_tensor::TensorView;

use crate::{CpuError, Kernel};

/// The kernel of an op; inputs are what [`tobiuo_ops::infer`] accepts.
pub(crate) fn prepare(
    op: &Op,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    match op {
        Op::Conv(c) => conv::prepare(c, inputs, constants),
        Op::Activation(a) => activation::prepare(*a, inputs),
        _ => Err(CpuError(format!("{} has no CPU kernel", op.name()))),
    }
}
