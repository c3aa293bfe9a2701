//! The engine file (`.tobiuo`): a leaf that builder and runtime share.

pub mod manifest;

pub use manifest::*;
