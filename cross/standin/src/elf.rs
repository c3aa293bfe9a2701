//! The image that stands for a cubin: an ELF64 file of machine EM_CUDA with one section, which
//! holds the source text. Layout: System V ABI, chapter 4 (Object Files).

const HEADER: usize = 64;
const ENTRY: usize = 64;
const NAMES: &[u8] = b"\0.shstrtab\0.tobiuo.source\0";
const SOURCE_NAME: u32 = 11;
const EM_CUDA: u16 = 190;
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;

/// Wraps a source compiled for an architecture (87 for `sm_87`).
pub(crate) fn wrap(source: &str, sm: u32) -> Vec<u8> {
    let names_at = HEADER;
    let source_at = (names_at + NAMES.len()).next_multiple_of(8);
    let table_at = (source_at + source.len()).next_multiple_of(8);
    let mut out = Vec::with_capacity(table_at + 3 * ENTRY);
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\x33\x07\0\0\0\0\0\0\0");
    let (executable, version) = (2u16, 1u32);
    out.extend_from_slice(&executable.to_le_bytes());
    out.extend_from_slice(&EM_CUDA.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    for word in [0, 0, table_at as u64] {
        out.extend_from_slice(&u64::to_le_bytes(word)); // entry, program headers, section headers
    }
    out.extend_from_slice(&(sm | sm << 16).to_le_bytes());
    for half in [HEADER as u16, 0, 0, ENTRY as u16, 3, 1] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out.extend_from_slice(NAMES);
    out.resize(source_at, 0);
    out.extend_from_slice(source.as_bytes());
    out.resize(table_at + ENTRY, 0); // the first section is the null section
    section(&mut out, 1, SHT_STRTAB, names_at, NAMES.len());
    section(&mut out, SOURCE_NAME, SHT_PROGBITS, source_at, source.len());
    out
}

const PTX_MARK: &str = "// stand-in PTX for sm_";

/// The text that stands for PTX.
pub(crate) fn ptx(source: &str, sm: u32) -> String {
    format!("{PTX_MARK}{sm}\n{source}")
}

/// Architecture and source of a PTX text.
pub(crate) fn unwrap_ptx(text: &str) -> Option<(u32, &str)> {
    let (sm, source) = text.strip_prefix(PTX_MARK)?.split_once('\n')?;
    Some((sm.parse().ok()?, source))
}

fn section(out: &mut Vec<u8>, name: u32, kind: u32, at: usize, len: usize) {
    out.extend_from_slice(&name.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    for word in [0, 0, at as u64, len as u64] {
        out.extend_from_slice(&word.to_le_bytes()); // flags, address, offset, size
    }
    out.extend_from_slice(&[0; 8]); // link, info
    for word in [1u64, 0] {
        out.extend_from_slice(&word.to_le_bytes()); // alignment, entry size
    }
}

/// Architecture and source of an image, whose end only its header says; `bytes` gives so many
/// bytes from an offset on.
pub(crate) fn unwrap<'a>(bytes: &dyn Fn(usize, usize) -> &'a [u8]) -> Option<(u32, &'a str)> {
    let header = bytes(0, HEADER);
    let u16_at = |b: &[u8], at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
    let u32_at = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let size_at = |b: &[u8], at: usize| {
        u64::from_le_bytes(b[at..at + 8].try_into().expect("8 bytes")) as usize
    };
    if !header.starts_with(b"\x7fELF\x02\x01") || u16_at(header, 18) != EM_CUDA {
        return None;
    }
    let (table, count, names) = (size_at(header, 40), u16_at(header, 60), u16_at(header, 62));
    if u16_at(header, 58) as usize != ENTRY || names >= count {
        return None;
    }
    let entry = |i: u16| bytes(table + usize::from(i) * ENTRY, ENTRY);
    let content = |e: &[u8]| bytes(size_at(e, 24), size_at(e, 32));
    let names = content(entry(names));
    let found = (0..count).map(entry).find(|e| {
        let name = names.get(u32_at(e, 0) as usize..).unwrap_or_default();
        name.starts_with(b".tobiuo.source\0")
    })?;
    let sm = u32_at(header, 48) & 0xff;
    Some((sm, std::str::from_utf8(content(found)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_comes_out_again() {
        let image = wrap("kernel text", 110);
        let bytes = |at: usize, len: usize| &image[at..at + len];
        assert_eq!(unwrap(&bytes), Some((110, "kernel text")));
        let other = vec![0u8; 256];
        assert_eq!(unwrap_ptx(&ptx("kernel text", 87)), Some((87, "kernel text")));
        assert_eq!(unwrap(&|at, len| &other[at..at + len]), None);
    }
}
