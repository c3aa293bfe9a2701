//! The bytes of an engine's weights and code sections, each content once.

use std::collections::HashMap;

/// Bytes put one behind the other, aligned; the same content has one place.
#[derive(Clone, Debug)]
pub struct Section {
    align: usize,
    bytes: Vec<u8>,
    /// Offset of each content, by its hash and length.
    places: HashMap<(blake3::Hash, usize), u64>,
}

impl Section {
    /// An empty section whose parts begin at multiples of `align`.
    pub fn new(align: usize) -> Section {
        Section { align, bytes: Vec::new(), places: HashMap::new() }
    }

    /// The offset of a content, which is added when it is new.
    pub fn add(&mut self, content: &[u8]) -> u64 {
        let key = (blake3::hash(content), content.len());
        if let Some(&offset) = self.places.get(&key) {
            return offset;
        }
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(self.align), 0);
        self.places.insert(key, offset as u64);
        offset as u64
    }

    /// Everything, with zeros in the gaps.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of different contents.
    pub fn parts(&self) -> usize {
        self.places.len()
    }
}

/// Both sections of an engine, which its plans share.
#[derive(Clone, Debug)]
pub struct Sections {
    /// Packed constants.
    pub weights: Section,
    /// Cubins.
    pub code: Section,
}

impl Default for Sections {
    fn default() -> Sections {
        Sections { weights: Section::new(WEIGHT_ALIGN), code: Section::new(CODE_ALIGN) }
    }
}

/// Alignment of a constant, bytes: whole lines of the L2 cache and what TMA asks for.
const WEIGHT_ALIGN: usize = 256;
/// Alignment of a cubin, bytes.
const CODE_ALIGN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_content_has_one_place() {
        let mut s = Section::new(16);
        assert_eq!(s.add(b"abc"), 0);
        assert_eq!(s.add(b"abcd"), 16);
        assert_eq!(s.add(b"abc"), 0);
        assert_eq!(s.add(b""), 32);
        assert_eq!((s.bytes().len(), s.parts()), (32, 3));
        assert_eq!(&s.bytes()[16..20], b"abcd");
        assert!(s.bytes()[20..].iter().all(|&b| b == 0));
    }
}
