//! What the suites and programs here share. Tests that cross crates: see `tests/`.

#![forbid(unsafe_code)]

#[path = "../../builder/tests/common/mod.rs"]
pub mod cases;
pub mod onnx;
pub mod worker;
