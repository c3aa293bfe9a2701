//! The weights section: each distinct constant once, aligned, in the order of first use.

use std::collections::HashMap;
use std::sync::Arc;

use tobiuo_engine::TENSOR_ALIGN;
use tobiuo_tensor::Tensor;

/// Constants and their offsets in the weights section, bytes.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    offsets: HashMap<[u8; 32], u64>,
    parts: Vec<(u64, Arc<Tensor>)>,
    size: u64,
}

impl Weights {
    /// An empty section.
    pub fn new() -> Weights {
        Weights::default()
    }

    /// The offset of a constant's bytes, put there if they are new. Constants of different
    /// types or shapes but equal bytes share them.
    pub fn add(&mut self, tensor: &Arc<Tensor>) -> u64 {
        let bytes = tensor.data().bytes();
        let hash = *blake3::hash(bytes).as_bytes();
        *self.offsets.entry(hash).or_insert_with(|| {
            let offset = self.size;
            self.size = (offset + bytes.len() as u64).next_multiple_of(TENSOR_ALIGN);
            self.parts.push((offset, tensor.clone()));
            offset
        })
    }

    /// Bytes of the section.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Offset and elements of each constant, ascending, gaps between them to be zeros.
    pub fn parts(&self) -> &[(u64, Arc<Tensor>)] {
        &self.parts
    }
}
