//! Exit statuses of Tobiuo's programs.

/// Success.
pub const OK: u8 = 0;
/// Anything that has no status of its own.
pub const OTHER: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// The engine is made for another device.
pub const WRONG_DEVICE: u8 = 3;
/// A damaged or untrusted file.
pub const DAMAGED: u8 = 4;
/// No usable device or driver.
pub const NO_DEVICE: u8 = 5;
/// The camera or another input cannot be opened or read.
pub const INPUT: u8 = 6;
/// An accuracy gate was not met.
pub const ACCURACY: u8 = 7;
/// A memory or time limit was passed.
pub const LIMIT: u8 = 8;
/// The model is not supported.
pub const UNSUPPORTED: u8 = 9;
