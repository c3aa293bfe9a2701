//! The object detector on camera frames.
fn main() {}
