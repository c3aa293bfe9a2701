//! What the suites and programs here share. Tests that cross crates: see `tests/`.

#![forbid(unsafe_code)]

#[path = "../../builder/tests/common/mod.rs"]
pub mod cases;
#[path = "../../builder/tests/common/lowered.rs"]
pub mod lowered;
pub mod onnx;
pub mod worker;
