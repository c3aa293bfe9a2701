//! The CPU device: runs a plan's steps on all cores, and is the reference that every other
//! device is checked against.

#![forbid(unsafe_code)]

mod error;
mod kernel;
mod memory;
pub mod ops;

pub use error::CpuError;
pub use kernel::{Inputs, Kernel, evaluate, in_place, prepare};
