use bytemuck::{Pod, Zeroable};

use crate::CpuError;

/// One cache line: what gives [`Memory`] its alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed memory aligned to 64 bytes. Pages are taken from the system when they are first
/// written.
pub(crate) struct Memory(Vec<Line>);

impl Memory {
    /// At least `bytes` bytes, or an error when the system has no such block.
    pub fn zeroed(bytes: u64) -> Result<Memory, CpuError> {
        usize::try_from(bytes.div_ceil(64))
            .ok()
            .filter(|n| n.checked_mul(64).is_some_and(|b| isize::try_from(b).is_ok()))
            .and_then(|n| bytemuck::allocation::try_zeroed_vec(n).ok())
            .map(Memory)
            .ok_or_else(|| {
                CpuError(format!("out of memory: {bytes} bytes are needed in one block"))
            })
    }

    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
