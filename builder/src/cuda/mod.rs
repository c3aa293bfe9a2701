//! From an optimised graph to a CUDA engine: layouts, layers, kernels timed on the device.

pub mod lower;
pub mod pack;
pub mod view;
