//! V4L2 cameras, by the kernel's ioctls: no library.
//!
//! [`sys`] has the ioctls and is the only unsafe code; [`device`] is a camera as the streaming
//! logic sees it, a trait, so that the tests can script one; [`mode`] chooses among what a camera
//! offers; [`stream`] takes its frames, newest first; [`source`] puts it all together.

pub(crate) mod cameras;
mod device;
mod mode;
mod source;
mod stream;
#[cfg(test)]
mod stream_tests;
mod sys;

pub(crate) use source::open;
