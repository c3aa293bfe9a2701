//! What Tobiuo knows of Jetson modules.
//!
//! A [table](modules) of them, as data (`devices.json`); which one [this machine is](identity);
//! its [clocks, heat and power](Readings) as the system's files tell; where its
//! [libraries] lie; and the [`doctor`], which puts all of it into lines with a remedy.
//!
//! Everything is read below a [`Root`], `/` on the device itself, a folder in tests. A file that
//! is not there, or is not as expected, is nothing known and never an error: modules, power
//! modes and JetPacks come that this crate has not seen.

#![forbid(unsafe_code)]

pub mod doctor;
pub mod identity;
pub mod libraries;
mod readings;
pub mod recorded;
mod root;
mod table;

pub use identity::Identity;
pub use readings::{GpuClock, PowerMode, Readings, Temperature};
pub use root::Root;
pub use table::{JetPack, Module, jetpack_of, jetpacks, module, module_of_part, modules};
