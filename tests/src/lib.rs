//! Tests that cross crates: see `tests/`.

#![forbid(unsafe_code)]
