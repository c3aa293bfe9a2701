//! How an op becomes something that runs.
//!
//! [`prepare`] does once all that can be done once: chooses the kernel, packs weights,
//! computes index tables, takes its scratch memory. [`Kernel::run`] then allocates nothing.

use tobiuo_ops::{Fact, Op, infer};
use tobiuo_tensor::{Tensor, TensorView, TensorViewMut};

use crate::{CpuError, ops};

/// An op's operands. `None` stands for an operand that is exactly output 0's bytes: the
/// kernel finds the operand's elements in the output and overwrites them.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    get: &'a dyn Fn(usize) -> Option<TensorView<'a>>,
    len: usize,
}

impl<'a> Inputs<'a> {
    /// Operands given by a function of their index.
    pub fn new(len: usize, get: &'a dyn Fn(usize) -> Option<TensorView<'a>>) -> Inputs<'a> {
        Inputs { get, len }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Operand `i`, or `None` when it is exactly output 0's bytes.
    pub fn get(&self, i: usize) -> Option<TensorView<'a>> {
        (self.get)(i)
    }
}

/// An op made ready for one set of shapes.
pub trait Kernel: Send {
    /// Computes every element of the outputs. Allocates nothing.
    fn run(&mut self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>]);
}

/// The kernel of an op for operands of these types and shapes. `constants[i]` gives an
/// operand's elements where they never change; a kernel may keep a packed copy of them.
pub fn prepare(
    op: &Op,
    inputs: &[Fact],
    constants: &[Option<TensorView<'_>>],
) -> Result<Box<dyn Kernel>, CpuError> {
    ops::prepare(op, inputs, constants)
}

/// Runs one op on owned tensors: constant folding, tests.
pub fn evaluate(op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>, CpuError> {
    let facts: Vec<Fact> =
        inputs.iter().map(|t| Fact { dtype: t.dtype(), shape: t.shape().to_vec() }).collect();
    let outs = infer(op, &facts).map_err(CpuError)?;
    let views: Vec<_> = inputs.iter().map(|t| Some(t.view())).collect();
    let mut kernel = prepare(op, &facts, &views)?;
    let mut results: Vec<Tensor> =
        outs.into_iter().map(|f| Tensor::zeros(f.dtype, f.shape)).collect();
    let mut targets: Vec<TensorViewMut<'_>> = results.iter_mut().map(Tensor::view_mut).collect();
    kernel.run(Inputs::new(views.len(), &|i| views[i]), &mut targets);
    drop(targets);
    Ok(results)
}
