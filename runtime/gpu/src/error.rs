use std::fmt;

/// Why the GPU could not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuError {
    kind: GpuErrorKind,
    message: String,
}

/// What kind of trouble a [`GpuError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GpuErrorKind {
    /// `libcuda.so.1` is not there, or lacks a function this program needs.
    NoDriver,
    /// The driver is older than what this program needs.
    OldDriver,
    /// The driver is there but shows no such device.
    NoDevice,
    /// Device or pinned memory ran out.
    OutOfMemory,
    /// Device code is damaged, or lacks a kernel.
    BadCode,
    /// Device code is for another device.
    OtherDevice,
    /// A kernel faulted or the device was lost: the context cannot be used any more.
    ContextLost,
    /// Anything else the driver refused.
    Driver,
}

impl GpuError {
    pub(crate) fn new(kind: GpuErrorKind, message: impl Into<String>) -> GpuError {
        GpuError { kind, message: message.into() }
    }

    /// An error of a caller's own finding, about something the driver would refuse.
    pub fn other(message: impl Into<String>) -> GpuError {
        GpuError::new(GpuErrorKind::Driver, message)
    }

    /// The same, said of a place.
    pub fn at(self, place: impl fmt::Display) -> GpuError {
        GpuError { message: format!("{place}: {}", self.message), ..self }
    }

    /// The kind of trouble.
    pub fn kind(&self) -> GpuErrorKind {
        self.kind
    }
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for GpuError {}
