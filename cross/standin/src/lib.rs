//! A stand-in for `libcuda.so.1` and `libnvrtc.so`, so that the whole GPU path runs on machines
//! without a GPU: device memory is host memory at made-up addresses, compiling wraps the source
//! in an ELF image, and launching a kernel runs the reference of the layer that its source
//! names. Work is put off as long as the driver may, so that a missing wait shows. Every call is
//! counted, any can be made to fail, and what is left, freed twice or used after its end is
//! written to a report.
//!
//! README.md beside this crate says what it checks and what it cannot; [`Standin`] runs a program
//! on it.

mod abi;
mod capture;
mod config;
mod driver;
mod elf;
mod faults;
mod harness;
mod kernel;
mod ledger;
mod memory;
mod nvrtc;
pub mod program;
mod queue;
mod status;

pub use config::{Description, Device};
pub use harness::{Outcome, Report, Standin};
pub use program::program;
