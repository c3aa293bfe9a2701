//! The byte layout: header, section table, manifest, sections.
//!
//! Everything is little endian, and every position follows from the lengths, so a content
//! has exactly one file. See docs/engine-format.md.

use std::ops::Range;

use crate::{EngineError, EngineErrorKind};

/// The first bytes of every engine. The first is no text, the last shows a text-mode copy.
pub const MAGIC: [u8; 8] = *b"\x89TOBIUO\n";
/// The newest format this crate reads and writes. An engine is written in the oldest format that
/// can hold it, so that older programs can run what they know.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest format this crate reads.
pub const OLDEST_VERSION: u32 = 1;
/// Sections begin at multiples of this, bytes: a page on every machine Tobiuo knows.
pub const SECTION_ALIGN: u64 = 64 << 10;
/// The header's length, bytes.
pub const HEADER_LEN: usize = 128;
/// A section table entry's length, bytes.
pub const ENTRY_LEN: usize = 64;
/// The longest manifest, bytes.
pub const MAX_MANIFEST: u64 = 64 << 20;
/// The most sections.
pub const MAX_SECTIONS: usize = 64;

/// Where the head hash lies in the header; it covers what is before it, and the table.
const HEAD_HASH: Range<usize> = 96..128;
const MANIFEST_HASH: Range<usize> = 64..96;
const RESERVED: Range<usize> = 40..64;

/// A blake3 hash.
pub type Hash = [u8; 32];

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SectionKind {
    /// Constants that plans place at offsets. Exactly one.
    Weights,
    /// Device code that CUDA plans launch. One in a CUDA engine, behind the weights; none in
    /// another. Since format 2.
    Code,
}

impl SectionKind {
    /// Its number in the table.
    pub fn code(self) -> u32 {
        match self {
            SectionKind::Weights => 1,
            SectionKind::Code => 2,
        }
    }

    fn from_code(code: u32, version: u32) -> Option<SectionKind> {
        match code {
            1 => Some(SectionKind::Weights),
            2 if version >= 2 => Some(SectionKind::Code),
            _ => None,
        }
    }

    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            SectionKind::Weights => "weights section",
            SectionKind::Code => "code section",
        }
    }
}

/// One entry of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// Its length, bytes.
    pub len: u64,
    /// blake3 of its bytes.
    pub hash: Hash,
}

/// Header and section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The file's format.
    pub version: u32,
    /// The file's length, bytes.
    pub file_len: u64,
    /// Where the manifest's JSON begins, bytes.
    pub manifest_offset: u64,
    /// Its length, bytes.
    pub manifest_len: u64,
    /// blake3 of the manifest's JSON.
    pub manifest_hash: Hash,
    /// In file order.
    pub sections: Vec<Section>,
}

/// The next multiple of [`SECTION_ALIGN`].
pub(crate) fn align_up(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(SECTION_ALIGN)
}

impl Head {
    /// The head of a manifest and sections of these lengths; hashes are still zero. `None`
    /// when the lengths do not fit 64 bits.
    pub fn layout(manifest_len: u64, sections: &[(SectionKind, u64)]) -> Option<Head> {
        let manifest_offset = (HEADER_LEN + ENTRY_LEN * sections.len()) as u64;
        let mut end = manifest_offset.checked_add(manifest_len)?;
        let mut table = Vec::with_capacity(sections.len());
        for &(kind, len) in sections {
            let offset = align_up(end)?;
            end = offset.checked_add(len)?;
            table.push(Section { kind, offset, len, hash: [0; 32] });
        }
        let version = if sections.iter().any(|s| s.0 == SectionKind::Code) { 2 } else { 1 };
        Some(Head {
            version,
            file_len: end,
            manifest_offset,
            manifest_len,
            manifest_hash: [0; 32],
            sections: table,
        })
    }

    /// Header and table as bytes, and the head hash, which is the file's identity: it covers
    /// the hashes of everything else.
    pub fn encode(&self) -> (Vec<u8>, Hash) {
        let mut out = vec![0; HEADER_LEN + ENTRY_LEN * self.sections.len()];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&(self.sections.len() as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.file_len.to_le_bytes());
        out[24..32].copy_from_slice(&self.manifest_offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.manifest_len.to_le_bytes());
        out[MANIFEST_HASH].copy_from_slice(&self.manifest_hash);
        for (section, entry) in
            self.sections.iter().zip(out[HEADER_LEN..].chunks_exact_mut(ENTRY_LEN))
        {
            entry[0..4].copy_from_slice(&section.kind.code().to_le_bytes());
            entry[8..16].copy_from_slice(&section.offset.to_le_bytes());
            entry[16..24].copy_from_slice(&section.len.to_le_bytes());
            entry[32..64].copy_from_slice(&section.hash);
        }
        let hash = head_hash(&out);
        out[HEAD_HASH].copy_from_slice(&hash);
        (out, hash)
    }

    /// Reads and checks header and table of a file's bytes: every field, every position,
    /// and that the file has exactly the bytes they say. Gives the head and the head hash.
    pub fn parse(file: &[u8]) -> Result<(Head, Hash), EngineError> {
        check_kind(file)?;
        let count = u32_at(file, 12) as usize;
        let head_len = HEADER_LEN + ENTRY_LEN * count.min(MAX_SECTIONS + 1);
        // The hash comes first, so that a changed byte is called damage whatever it changed;
        // a table that ends too early can only be called that.
        if file.len() < head_len {
            return Err(truncated(file.len(), None));
        }
        let stored: Hash = file[HEAD_HASH].try_into().expect("32 bytes");
        let hash = head_hash(&file[..head_len]);
        if stored != hash {
            return Err(EngineError::new(
                EngineErrorKind::Damaged,
                "the bytes do not match their hash",
            )
            .at("header and section table")
            .at_byte(0));
        }
        let head = Head::fields(file, count)?;
        head.check(file.len() as u64)?;
        Ok((head, hash))
    }

    fn fields(file: &[u8], count: usize) -> Result<Head, EngineError> {
        if count == 0 || count > MAX_SECTIONS {
            return Err(EngineError::new(
                EngineErrorKind::Limit,
                format!("{count} sections; an engine has 1 to {MAX_SECTIONS}"),
            )
            .at("header")
            .at_byte(12));
        }
        zero(file, RESERVED, "header")?;
        let version = u32_at(file, 8);
        let mut sections = Vec::with_capacity(count);
        for i in 0..count {
            let at = HEADER_LEN + ENTRY_LEN * i;
            let place = format!("section table, entry {i}");
            let code = u32_at(file, at);
            let kind = SectionKind::from_code(code, version).ok_or_else(|| {
                EngineError::new(
                    EngineErrorKind::Inconsistent,
                    format!("a section of unknown kind {code}"),
                )
                .at(&place)
                .at_byte(at as u64)
            })?;
            zero(file, at + 4..at + 8, &place)?;
            zero(file, at + 24..at + 32, &place)?;
            sections.push(Section {
                kind,
                offset: u64_at(file, at + 8),
                len: u64_at(file, at + 16),
                hash: file[at + 32..at + 64].try_into().expect("32 bytes"),
            });
        }
        Ok(Head {
            version,
            file_len: u64_at(file, 16),
            manifest_offset: u64_at(file, 24),
            manifest_len: u64_at(file, 32),
            manifest_hash: file[MANIFEST_HASH].try_into().expect("32 bytes"),
            sections,
        })
    }

    fn check(&self, actual: u64) -> Result<(), EngineError> {
        let wrong = |reason: String| {
            Err(EngineError::new(EngineErrorKind::Inconsistent, reason)
                .at("header and section table")
                .at_byte(0))
        };
        if self.manifest_len > MAX_MANIFEST {
            return Err(EngineError::new(
                EngineErrorKind::Limit,
                format!("a manifest of {} bytes; at most {MAX_MANIFEST}", self.manifest_len),
            )
            .at("header")
            .at_byte(32));
        }
        let lens: Vec<_> = self.sections.iter().map(|s| (s.kind, s.len)).collect();
        let Some(expected) = Head::layout(self.manifest_len, &lens) else {
            return wrong("the sections' lengths add up to more than 64 bits".into());
        };
        if expected.manifest_offset != self.manifest_offset {
            return wrong(format!(
                "the manifest is said to begin at byte {}, not at {} behind the table",
                self.manifest_offset, expected.manifest_offset
            ));
        }
        for (i, (is, should)) in self.sections.iter().zip(&expected.sections).enumerate() {
            if is.offset != should.offset {
                return wrong(format!(
                    "section {i} is said to begin at byte {}, not at {} behind what precedes it",
                    is.offset, should.offset
                ));
            }
        }
        if expected.file_len != self.file_len {
            return wrong(format!(
                "the file is said to have {} bytes, its parts end at {}",
                self.file_len, expected.file_len
            ));
        }
        let kinds: Vec<SectionKind> = self.sections.iter().map(|s| s.kind).collect();
        if let Err(reason) = check_kinds(&kinds) {
            return wrong(reason);
        }
        if expected.version != self.version {
            return wrong(format!(
                "it is of format {} but says {}",
                expected.version, self.version
            ));
        }
        if actual < self.file_len {
            return Err(truncated(actual as usize, Some(self.file_len)));
        }
        if actual > self.file_len {
            return Err(EngineError::new(
                EngineErrorKind::Damaged,
                format!("{} bytes after the end", actual - self.file_len),
            )
            .at_byte(self.file_len));
        }
        Ok(())
    }

    /// The bytes between the parts, which are all zero in a valid file.
    pub fn paddings(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut end = self.manifest_offset + self.manifest_len;
        self.sections.iter().map(move |s| {
            let gap = end..s.offset;
            end = s.offset + s.len;
            gap
        })
    }
}

/// Weights, and behind them code where there is some.
pub(crate) fn check_kinds(kinds: &[SectionKind]) -> Result<(), String> {
    let count = |kind| kinds.iter().filter(|&&k| k == kind).count();
    let (weights, code) = (count(SectionKind::Weights), count(SectionKind::Code));
    if weights != 1 {
        return Err(format!("{weights} weights sections; an engine has one"));
    }
    if code > 1 {
        return Err(format!("{code} code sections; an engine has one at most"));
    }
    if kinds[0] != SectionKind::Weights {
        return Err("the code section is before the weights section, not behind it".into());
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// blake3 over the header before its hash, and the table.
fn head_hash(head: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head[..HEAD_HASH.start]).update(&head[HEADER_LEN..]);
    *hasher.finalize().as_bytes()
}

fn zero(file: &[u8], range: Range<usize>, place: &str) -> Result<(), EngineError> {
    match file[range.clone()].iter().position(|&b| b != 0) {
        None => Ok(()),
        Some(i) => {
            Err(EngineError::new(EngineErrorKind::Inconsistent, "a reserved byte is not zero")
                .at(place)
                .at_byte((range.start + i) as u64))
        }
    }
}

fn truncated(actual: usize, expected: Option<u64>) -> EngineError {
    let reason = match expected {
        Some(n) => format!("it has {actual} of its {n} bytes"),
        None if actual == 0 => "it is empty".into(),
        None => format!("it ends after {actual} bytes, within header and section table"),
    };
    EngineError::new(EngineErrorKind::Truncated, reason).at_byte(actual as u64)
}

/// Magic and version: these two never move, whatever the format.
fn check_kind(file: &[u8]) -> Result<(), EngineError> {
    let start = &file[..file.len().min(8)];
    if start != &MAGIC[..start.len()] {
        return Err(EngineError::new(
            EngineErrorKind::NotAnEngine,
            format!("not an engine file: {}", looks_like(file)),
        ));
    }
    if file.len() < HEADER_LEN {
        return Err(truncated(file.len(), None));
    }
    let version = u32_at(file, 8);
    let reads = if OLDEST_VERSION == FORMAT_VERSION {
        format!("{FORMAT_VERSION}")
    } else {
        format!("{OLDEST_VERSION} to {FORMAT_VERSION}")
    };
    let wrong = |reason: String| {
        Err(EngineError::new(EngineErrorKind::Version, reason)
            .at_byte(8)
            .help("rebuild it with this version's `tobiuo-builder build`, or update `tobiuo`"))
    };
    if version > FORMAT_VERSION {
        return wrong(format!(
            "made by a newer builder: format {version}, this program reads {reads}"
        ));
    }
    if version < OLDEST_VERSION {
        return wrong(format!("of format {version}; this program reads {reads}"));
    }
    Ok(())
}

/// What a file that is no engine seems to be.
fn looks_like(file: &[u8]) -> String {
    let known: &[(&[u8], &str)] = &[
        (b"\xff\xd8\xff", "it looks like a JPEG picture"),
        (b"\x89PNG\r\n\x1a\n", "it looks like a PNG picture"),
        (b"\x7fELF", "it looks like an ELF program or library"),
        (b"\x1f\x8b", "it looks gzip-compressed; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "it looks zstd-compressed; unpack it first"),
        (b"\xfd7zXZ\x00", "it looks xz-compressed; unpack it first"),
        (b"PK\x03\x04", "it looks like a zip archive (or a PyTorch checkpoint or .npz)"),
        (b"RIFF", "it looks like an AVI or WAV file"),
        (b"YUV4MPEG2", "it looks like a Y4M video"),
        (b"\x93NUMPY", "it looks like a NumPy array"),
        (b"%PDF", "it looks like a PDF"),
        (b"\x89HDF", "it looks like an HDF5 file"),
        (b"ptrt", "it looks like a TensorRT engine"),
        (b"ftrt", "it looks like a TensorRT engine"),
        (b"\xef\xbf\xbdTOBIUO", "it was an engine, but was copied as text; copy it as binary"),
    ];
    if let Some((_, what)) = known.iter().find(|(magic, _)| file.starts_with(magic)) {
        return (*what).into();
    }
    if file.get(4..8) == Some(b"TFL3") {
        return "it looks like a TensorFlow Lite model".into();
    }
    if file.get(4..8) == Some(b"ftyp") {
        return "it looks like an MP4 video".into();
    }
    // An ONNX ModelProto begins with its field 1, the IR version (a small varint), and then
    // has a length-delimited field: producer, domain, graph or opset.
    if let [0x08, ir @ 1..=31, next, ..] = file
        && next & 7 == 2
        && (2..=25).contains(&(next >> 3))
    {
        return format!(
            "it looks like an ONNX model (IR version {ir}): build an engine from it with \
             `tobiuo-builder build MODEL -o ENGINE`"
        );
    }
    let start = &file[..file.len().min(512)];
    if start.iter().all(|&b| b == 0) {
        return "it begins with zeros".into();
    }
    if String::from_utf8_lossy(start)
        .trim_end_matches('\u{fffd}')
        .chars()
        .all(|c| c != '\u{fffd}' && (!c.is_control() || c.is_whitespace()))
    {
        return "it looks like text".into();
    }
    let bytes: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("it begins with the bytes {}", bytes.join(" "))
}
