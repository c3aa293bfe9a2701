//! From an optimised graph to a CUDA engine: layouts, layers, kernels timed on the device.

pub mod assemble;
pub mod interpret;
pub mod joins;
pub mod layout;
mod limits;
pub mod lower;
pub mod make;
pub mod pack;
pub mod schedule;
pub mod sections;
pub mod speed;
pub mod view;
pub mod vision;
