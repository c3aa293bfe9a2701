//! A small safe layer over the CUDA driver.
//!
//! It holds what an engine needs and no more: a [`Context`] on a device, [`DeviceBuffer`] and
//! [`PinnedBuffer`] memory, [`Stream`]s, [`Event`]s, [`Module`]s loaded from a cubin, and
//! captured [`Graph`]s. The driver library is opened at run time; a program that uses this
//! crate starts on a machine without one and is told so.
//!
//! Launching a kernel is the one `unsafe` call offered: the kernel's arguments and its memory
//! accesses cannot be checked here.

#[allow(unsafe_code)]
mod api;
mod context;
mod error;
mod execution;
mod memory;
mod module;

pub use context::{Context, DeviceInfo, devices};
pub use error::{GpuError, GpuErrorKind};
pub use execution::{Event, Graph, Stream};
pub use memory::{DeviceBuffer, PinnedBuffer};
pub use module::{Function, Launch, Module};
