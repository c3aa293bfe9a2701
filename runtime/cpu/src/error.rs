use std::fmt;

/// Why the CPU device cannot run an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuError(pub(crate) String);

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CpuError {}
