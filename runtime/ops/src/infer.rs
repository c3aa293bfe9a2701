use tobiuo_tensor::{DType, Shape};

use crate::Op;

/// What is known of a tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Shape,
}

/// The outputs' types and shapes of an op, or why its inputs or attributes do not fit.
///
/// Never panics, whatever the attributes: engine files are checked through it.
pub fn infer(op: &Op, inputs: &[Fact]) -> Result<Vec<Fact>, String> {
    let _ = (op, inputs);
    todo!()
}
