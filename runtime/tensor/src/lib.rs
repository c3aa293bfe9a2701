//! Element types, shapes and tensors: the leaf that every Tobiuo crate shares.
//!
//! A tensor is dense and row-major: the last axis is contiguous. Shapes are static; a
//! scalar has the empty shape `[]` and one element.

#![forbid(unsafe_code)]

mod dtype;
pub mod file;
pub mod npy;
mod shape;
mod tensor;

pub use dtype::DType;
pub use half::f16;
pub use shape::{Shape, broadcast, checked_numel, numel, strides};
pub use tensor::{Tensor, TensorData, TensorView, TensorViewMut, ViewData, ViewDataMut};
