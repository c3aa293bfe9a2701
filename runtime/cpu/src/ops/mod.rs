//! The kernels, one family a file.

use tobiuo_ops::{Fact, Op};
use tobiuo_tensor::TensorView;

use crate::{CpuError, Kernel};

pub(crate) fn prepare(
    op: &Op,
    _inputs: &[Fact],
    _constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    match op {
        _ => Err(CpuError(format!("{} has no CPU kernel", op.name()))),
    }
}
