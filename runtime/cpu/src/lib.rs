//! The CPU device: runs a plan's steps on all cores, and is the reference that every other
//! device is checked against.

#![forbid(unsafe_code)]

mod error;
mod executor;
mod kernel;
mod memory;
pub mod ops;
mod preprocess;
mod program;
mod threads;

pub use error::CpuError;
pub use executor::CpuExecutor;
pub use kernel::{Inputs, Kernel, evaluate, prepare};
pub use preprocess::{PixelFormat, Placement, Preprocessor};
pub use program::{CpuProgram, Weights};
pub use threads::Threads;
