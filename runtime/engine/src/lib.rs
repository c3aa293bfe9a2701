//! The engine file (`.tobiuo`): a leaf that builder and runtime share.
//!
//! [`EngineFile::open`] maps a file, parses its header, verifies every byte of it against a
//! hash or as padding, and [validates](fn@validate) what it says; only then is it used. The
//! builder's side, `EngineWriter`, is behind the feature `writer`.
//!
//! The byte layout is in [`format`](mod@format), its content in [`manifest`]; both are
//! specified in docs/engine-format.md, and what they promise against damaged or hostile
//! files in docs/security.md.

#![deny(unsafe_code)]

mod describe;
mod device;
mod driver;
mod error;
pub mod format;
mod hash;
pub mod manifest;
#[allow(unsafe_code)]
mod map;
pub mod picture;
mod reader;
mod validate;
#[cfg(feature = "writer")]
mod writer;

pub use describe::describe;
pub use device::ThisDevice;
pub use driver::{DRIVER_FLOOR, cuda_version, driver_floor, driver_update, jetpack_for};
pub use error::{EngineError, EngineErrorKind};
pub use manifest::*;
pub use reader::{EngineFile, OpenOptions};
pub use validate::{limits, validate};
#[cfg(feature = "writer")]
pub use writer::{
    EngineWriter, SectionSpec, Written, assemble, encode, encode_sections, write_engine,
    write_sections,
};
