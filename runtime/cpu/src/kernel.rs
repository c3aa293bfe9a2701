//! How an op becomes something that runs.
//!
//! [`prepare`] does once all that can be done once: chooses the kernel, packs weights,
//! computes index tables. What it gives is immutable and may be shared between threads;
//! [`Kernel::run`] works in the memory it is handed and allocates nothing.

use tobiuo_ops::{Fact, Op, infer};
use tobiuo_tensor::{Tensor, TensorView, TensorViewMut};

use crate::memory::Memory;
use crate::{CpuError, ops};

/// An op's operands. `None` stands for an operand that is exactly output 0's bytes: the
/// kernel finds the operand's elements in the output and overwrites them. That happens only
/// to operands that [`tobiuo_ops::in_place_inputs`] names.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    get: &'a (dyn Fn(usize) -> Option<TensorView<'a>> + Sync),
    len: usize,
}

impl<'a> Inputs<'a> {
    /// Operands given by a function of their index.
    pub fn new(
        len: usize,
        get: &'a (dyn Fn(usize) -> Option<TensorView<'a>> + Sync),
    ) -> Inputs<'a> {
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

    /// Operand `i`, or `None` when it is exactly output 0's bytes (or there is no such
    /// operand).
    pub fn get(&self, i: usize) -> Option<TensorView<'a>> {
        if i < self.len { (self.get)(i) } else { None }
    }
}

/// An op made ready for one set of shapes.
pub trait Kernel: Send + Sync {
    /// Computes every element of the outputs, whatever they hold before (but for operands
    /// that are output 0's bytes, see [`Inputs`]). `scratch` is 64-byte aligned, at least
    /// [`Kernel::scratch_bytes`] long, and holds anything. Allocates nothing.
    fn run(&self, inputs: Inputs<'_>, outputs: &mut [TensorViewMut<'_>], scratch: &mut [u8]);

    /// Working memory of one run, bytes.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// False for a constant operand that was packed by [`prepare`] and is not read again, so
    /// that its bytes in the engine file need not stay in memory.
    fn reads(&self, operand: usize) -> bool {
        let _ = operand;
        true
    }
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
    let kernel = prepare(op, &facts, &views)?;
    let mut scratch = Memory::zeroed(kernel.scratch_bytes() as u64)?;
    let mut results: Vec<Tensor> =
        outs.into_iter().map(|f| Tensor::zeros(f.dtype, f.shape)).collect();
    let mut targets: Vec<TensorViewMut<'_>> = results.iter_mut().map(Tensor::view_mut).collect();
    kernel.run(Inputs::new(views.len(), &|i| views[i]), &mut targets, scratch.bytes_mut());
    drop(targets);
    Ok(results)
}
