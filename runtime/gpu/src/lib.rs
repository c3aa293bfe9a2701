//! A small safe layer over the CUDA driver.
//!
//! It holds what an engine needs and no more: a [`Context`] on a device, [`DeviceBuffer`] and
//! [`PinnedBuffer`] memory, [`Stream`]s, [`Event`]s, [`Module`]s loaded from a cubin, and
//! captured [`Graph`]s. The driver library is opened at run time; a program that uses this
//! crate starts on a machine without one and is told so.
//!
//! Work is put into a [`CommandList`], which checks every copy and every argument of a kernel
//! against real buffers and keeps them alive. What a kernel's code does with its arguments
//! cannot be checked: loading a [`Module`] is an act of trust. Launching a kernel with bare
//! addresses ([`Function::launch`]) is `unsafe`.

mod api;
mod commands;
mod context;
mod error;
mod execution;
mod host;
mod memory;
mod module;
mod schedule;

pub use commands::{CommandList, KernelArgument, MAX_ARGUMENTS, PinnedId};
pub use context::{Context, DeviceInfo, device, devices};
pub use error::{GpuError, GpuErrorKind};
pub use execution::{Event, Graph, Stream};
pub use host::{HostBuffer, PageLock, UploadWay, Uploader};
pub use memory::{DeviceBuffer, DeviceSlice, PinnedBuffer};
pub use module::{Function, Launch, Module};
