//! The Tobiuo builder: model in, engine made for one device out.
//!
//! [`build()`] is the whole way: [`import`] reads a model into a [`graph`], [`passes`] make it
//! cheaper, [`plan`] lays out memory and steps, and an engine file is written.
//! [`verify()`] checks an engine against its model on the FP32 CPU reference. [`cli`] is the
//! program around them.

#![forbid(unsafe_code)]

pub mod build;
pub mod cli;
pub mod cuda;
pub mod device;
pub mod draw;
mod error;
pub mod graph;
pub mod hardware;
mod hash;
pub mod import;
pub mod interpret;
pub mod labels;
mod meaning;
pub mod options;
pub mod passes;
pub mod plan;
pub mod progress;
pub mod provision;
pub mod quantize;
pub mod tactics;
pub mod task;
#[cfg(test)]
mod testing;
pub mod verify;

pub use build::{BuildReport, Cached, build, build_cached};
pub use error::BuildError;
pub use options::{BuildOptions, PreprocessOptions, TaskChoice};
pub use progress::Progress;
pub use quantize::Int8Options;
pub use verify::{VerifyOptions, VerifyReport, verify};
