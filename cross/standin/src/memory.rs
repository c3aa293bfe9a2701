//! The address space: device and pinned memory at made-up addresses that no host code can read
//! through, each allocation far from the next, none used twice.

use std::alloc::Layout;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The first address given out: not canonical on x86-64 and beyond aarch64's user space, so
/// that a host that reads through it faults at once.
const BASE: u64 = 0x00d0_0000_0000_0000;
/// Unmapped bytes behind each allocation.
const GUARD: u64 = 1 << 20;
const ALIGN: u64 = 512;
/// Fresh memory is NaN as f16 and as f32.
const POISON: u8 = 0xff;
/// Allocations above this are left as zero pages.
const POISON_LIMIT: usize = 256 << 20;
const PAGE: usize = 4096;

/// Whose memory a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    /// Page-locked host memory the driver allocated.
    Pinned,
    /// Host memory of the program's that it registered.
    Registered,
}

pub(crate) struct Region {
    pub context: u64,
    pub kind: Kind,
    pub len: usize,
    bytes: Vec<u8>,
    host: usize,
}

/// All allocations.
#[derive(Default)]
pub(crate) struct Memory {
    regions: BTreeMap<u64, Region>,
    /// Device address by host address.
    hosts: BTreeMap<usize, u64>,
    freed: BTreeMap<u64, usize>,
    next: u64,
}

impl Memory {
    fn place(&mut self, len: usize) -> u64 {
        let at = self.next.max(BASE);
        self.next = (at + len as u64 + GUARD).next_multiple_of(ALIGN);
        at
    }

    /// Device memory of `len` bytes.
    pub fn allocate(&mut self, context: u64, len: usize) -> u64 {
        let fill = if len <= POISON_LIMIT { POISON } else { 0 };
        let region = Region { context, kind: Kind::Device, len, bytes: vec![fill; len], host: 0 };
        let at = self.place(len);
        self.regions.insert(at, region);
        at
    }

    /// Host memory of `len` bytes, not zero; its host address. `None` when there is none.
    pub fn allocate_host(&mut self, context: u64, len: usize) -> Option<usize> {
        let layout = Layout::from_size_align(len, PAGE).ok()?;
        // SAFETY: the size is not zero (the caller refuses zero).
        let host = unsafe { std::alloc::alloc(layout) };
        if host.is_null() {
            return None;
        }
        // SAFETY: `len` bytes were allocated just now.
        unsafe { std::ptr::write_bytes(host, POISON, len) };
        self.map_host(context, Kind::Pinned, host as usize, len);
        Some(host as usize)
    }

    /// Gives host memory a device address.
    pub fn map_host(&mut self, context: u64, kind: Kind, host: usize, len: usize) {
        let at = self.place(len);
        self.regions.insert(at, Region { context, kind, len, bytes: Vec::new(), host });
        self.hosts.insert(host, at);
    }

    /// Frees device memory by the address it was given; says what is wrong otherwise.
    pub fn free(&mut self, at: u64) -> Result<(), String> {
        match self.regions.get(&at) {
            Some(r) if r.kind == Kind::Device => {
                let len = r.len;
                self.regions.remove(&at);
                self.freed.insert(at, len);
                Ok(())
            }
            Some(_) => Err(format!("{at:#x} is host memory, freed as device memory")),
            None if self.freed.contains_key(&at) => Err(format!("double free of {at:#x}")),
            None => Err(format!("free of {at:#x}, which was never given out")),
        }
    }

    /// Frees or forgets host memory by its host address.
    pub fn free_host(&mut self, host: usize, kind: Kind) -> Result<(), String> {
        let at = self.hosts.get(&host).copied();
        let region = at.and_then(|at| self.regions.get(&at));
        let (Some(at), Some(region)) = (at, region.filter(|r| r.kind == kind)) else {
            return Err(format!(
                "free of {host:#x}, which is no such host memory (a double free?)"
            ));
        };
        let len = region.len;
        self.hosts.remove(&host);
        self.regions.remove(&at);
        self.freed.insert(at, len);
        if kind == Kind::Pinned {
            let layout = Layout::from_size_align(len, PAGE).expect("it was allocated with it");
            // SAFETY: allocated in `allocate_host` with this layout; the table held it once.
            unsafe { std::alloc::dealloc(host as *mut u8, layout) };
        }
        Ok(())
    }

    /// The region in which an address lies, with its first address.
    pub fn find(&self, at: u64) -> Option<(u64, &Region)> {
        let (&base, region) = self.regions.range(..=at).next_back()?;
        (at - base < region.len as u64).then_some((base, region))
    }

    /// The region of a host address, with its first device address.
    pub fn find_host(&self, host: usize) -> Option<(u64, usize, &Region)> {
        let (&base, &at) = self.hosts.range(..=host).next_back()?;
        let region = self.regions.get(&at)?;
        (host - base < region.len).then_some((at, base, region))
    }

    fn within(&self, at: u64, len: usize) -> Result<(u64, usize), String> {
        match self.find(at) {
            Some((base, region)) => {
                let offset = (at - base) as usize;
                if len <= region.len - offset {
                    return Ok((base, offset));
                }
                Err(format!(
                    "{len} bytes at {at:#x} reach {} bytes past the end of an allocation of {}",
                    len - (region.len - offset),
                    region.len
                ))
            }
            None => Err(match self.freed.range(..=at).next_back() {
                Some((&base, &size)) if at - base < size as u64 => {
                    format!("{len} bytes at {at:#x}: the memory was freed")
                }
                _ => format!("{len} bytes at {at:#x}: nothing is allocated there"),
            }),
        }
    }

    /// `len` bytes from an address on, inside one allocation.
    pub fn read(&self, at: u64, len: usize) -> Result<Cow<'_, [u8]>, String> {
        if len == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let (base, offset) = self.within(at, len)?;
        let region = &self.regions[&base];
        Ok(match region.kind {
            Kind::Device => Cow::Borrowed(&region.bytes[offset..offset + len]),
            _ => Cow::Owned(read_host(region.host + offset, len)),
        })
    }

    /// Writes bytes at an address, inside one allocation.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (base, offset) = self.within(at, bytes.len())?;
        let region = self.regions.get_mut(&base).expect("it was found");
        match region.kind {
            Kind::Device => region.bytes[offset..offset + bytes.len()].copy_from_slice(bytes),
            _ => write_host(region.host + offset, bytes),
        }
        Ok(())
    }

    /// Copies bytes within the address space, from one allocation into one.
    pub fn copy(&mut self, to: u64, from: u64, len: usize) -> Result<(), String> {
        if len == 0 {
            return Ok(());
        }
        let ((source, at), (target, to_at)) = (self.within(from, len)?, self.within(to, len)?);
        let on_device = |base: u64| self.regions[&base].kind == Kind::Device;
        if source == target || !on_device(source) || !on_device(target) {
            let bytes = self.read(from, len)?.into_owned();
            return self.write(to, &bytes);
        }
        // Without a copy of their own: a bandwidth measurement moves a gigabyte.
        let found = "it was found";
        let mut bytes = std::mem::take(&mut self.regions.get_mut(&target).expect(found).bytes);
        bytes[to_at..to_at + len].copy_from_slice(&self.regions[&source].bytes[at..at + len]);
        self.regions.get_mut(&target).expect(found).bytes = bytes;
        Ok(())
    }

    /// Writes a pattern `count` times, inside one allocation.
    pub fn fill(&mut self, at: u64, pattern: &[u8], count: usize) -> Result<(), String> {
        let len = pattern.len().saturating_mul(count);
        if len == 0 {
            return Ok(());
        }
        let (base, offset) = self.within(at, len)?;
        let region = self.regions.get_mut(&base).expect("it was found");
        match (region.kind, pattern) {
            (Kind::Device, &[byte]) => region.bytes[offset..offset + len].fill(byte),
            (Kind::Device, _) => {
                let places = region.bytes[offset..offset + len].chunks_exact_mut(pattern.len());
                places.for_each(|place| place.copy_from_slice(pattern));
            }
            _ => write_host(region.host + offset, &pattern.repeat(count)),
        }
        Ok(())
    }

    /// Bytes of device memory in use, and of host memory.
    pub fn used(&self) -> (u64, u64) {
        let sum = |device: bool| {
            let of_kind = self.regions.values().filter(|r| (r.kind == Kind::Device) == device);
            of_kind.map(|r| (r.len as u64).next_multiple_of(ALIGN)).sum()
        };
        (sum(true), sum(false))
    }

    /// Takes away all that a context has left and says what it was.
    pub fn drop_context(&mut self, context: u64) -> Vec<String> {
        let left: Vec<(u64, Kind, usize, usize)> = self
            .regions
            .iter()
            .filter(|(_, r)| r.context == context)
            .map(|(&at, r)| (at, r.kind, r.len, r.host))
            .collect();
        let mut out = Vec::new();
        for (at, kind, len, host) in left {
            out.push(match kind {
                Kind::Device => format!("{len} bytes of device memory at {at:#x}"),
                Kind::Pinned => format!("{len} bytes of pinned memory"),
                Kind::Registered => format!("{len} registered bytes"),
            });
            let gone = match kind {
                Kind::Device => self.free(at),
                kind => self.free_host(host, kind),
            };
            debug_assert!(gone.is_ok());
        }
        out
    }
}

/// Host bytes that the program handed to a copy or that the stand-in allocated for it.
pub(crate) fn read_host(host: usize, len: usize) -> Vec<u8> {
    let mut out = vec![0u8; len];
    // SAFETY: whoever called the driver promised `len` readable bytes there (cuda.h's contract
    // of the copies), or the stand-in allocated them itself.
    unsafe { std::ptr::copy_nonoverlapping(host as *const u8, out.as_mut_ptr(), len) };
    out
}

/// As [`read_host`], writing.
pub(crate) fn write_host(host: usize, bytes: &[u8]) {
    // SAFETY: as in `read_host`, writable.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host as *mut u8, bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_outside_of_one_allocation_are_refused() {
        let mut m = Memory::default();
        let (a, b) = (m.allocate(1, 100), m.allocate(1, 100));
        assert!(b - a >= GUARD);
        assert!(m.read(a, 100).expect("inside").iter().all(|&x| x == POISON));
        m.write(a + 96, &[1, 2, 3, 4]).expect("inside");
        assert_eq!(*m.read(a + 97, 3).expect("inside"), [2, 3, 4]);
        m.fill(b + 1, &[5, 6], 2).expect("inside");
        m.fill(b, &[7], 1).expect("inside");
        m.copy(a + 10, b, 6).expect("inside");
        m.copy(a + 12, a + 10, 4).expect("inside");
        assert_eq!(*m.read(a + 10, 6).expect("inside"), [7, 5, 7, 5, 6, 5]);
        assert!(m.copy(a + 95, b, 6).is_err() && m.copy(a, b + 95, 6).is_err());
        assert!(m.fill(b + 95, &[1, 2], 3).is_err());
        assert!(m.read(a + 97, 4).is_err_and(|e| e.contains("1 bytes past the end")));
        assert!(m.write(a + 100, &[0]).is_err_and(|e| e.contains("nothing is allocated")));
        m.free(a).expect("the first time");
        assert!(m.free(a).is_err_and(|e| e.contains("double free")));
        assert!(m.free(b + 4).is_err_and(|e| e.contains("never given out")));
        assert!(m.read(a, 1).is_err_and(|e| e.contains("was freed")));
        assert_eq!(m.drop_context(1).len(), 1);
        assert_eq!(m.used(), (0, 0));
    }

    #[test]
    fn pinned_memory_is_seen_from_both_sides() {
        let mut m = Memory::default();
        let host = m.allocate_host(1, 64).expect("memory");
        let (device, base, _) = m.find_host(host + 8).expect("mapped");
        assert_eq!(base, host);
        write_host(host, &[7; 64]);
        assert_eq!(*m.read(device + 60, 4).expect("inside"), [7; 4]);
        m.write(device, &[9]).expect("inside");
        assert_eq!(read_host(host, 2), [9, 7]);
        m.free_host(host, Kind::Pinned).expect("the first time");
        assert!(m.free_host(host, Kind::Pinned).is_err());
    }
}
