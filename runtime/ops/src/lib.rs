//! The operators: one vocabulary for the builder's graph, the engine file and the devices.
//!
//! An [`Op`] is a variant with its attributes, shapes already static. The importers of ONNX
//! and of Chainer dumps translate into it; what several of their operators express (Flatten,
//! Squeeze, Unsqueeze, ...) is one operator here (Reshape). [`infer`](fn@infer) gives an op's output
//! shapes and types from its inputs', and checks the attributes on the way: the builder uses
//! it to build graphs, the engine's loader to check a file.

#![forbid(unsafe_code)]

pub mod float;
mod infer;
mod op;
pub mod quant;
mod query;

pub use infer::{Fact, MAX_ELEMENTS, MAX_RANK, infer};
pub use op::*;
pub use quant::{
    Epilogue, QuantBinary, QuantConv, QuantGemm, QuantPool, Quantization, Requantization, Residual,
};
pub use query::{bytes, flops, in_place_inputs, is_view, view_offset};
