//! Where the driver and the compiler lie, and what stands in front of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::Root;

/// Folders of Tegra's driver library, by JetPack: 7.2 (Orin, Thor), 6 and 7.0, 5, and CUDA's
/// compatibility package.
pub const DRIVER_FOLDERS: [&str; 5] = [
    "/opt/nvidia/l4t-gpu-libs/nvgpu",
    "/opt/nvidia/l4t-gpu-libs/openrm",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/usr/local/cuda/compat",
];

/// A library that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where the loader sees it.
    pub path: PathBuf,
    /// The file itself, links followed.
    pub real: PathBuf,
    /// Its length, bytes; 0 is a container's placeholder.
    pub bytes: u64,
}

impl Library {
    /// Of Tegra's own driver, or of its compatibility package.
    pub fn is_tegra(&self) -> bool {
        let inside = |path: &Path| DRIVER_FOLDERS.iter().any(|folder| path.starts_with(folder));
        inside(&self.path) || inside(&self.real)
    }
}

/// Every `libcuda.so.1`, in the loader's order: the first is what programs get.
pub fn drivers(root: &Root, library_path: Option<&str>) -> Vec<Library> {
    let mut found = find(root, "libcuda.so.1", library_path);
    // Not in the loader's cache: the driver is there and its setup is not.
    for folder in DRIVER_FOLDERS {
        for name in ["libcuda.so.1", "libcuda.so.1.1"] {
            add(root, &mut found, Path::new(folder).join(name));
        }
    }
    found
}

/// Where `libcuda.so.1` is known to the loader; others lie on the disk only.
pub fn in_cache(root: &Root) -> Vec<PathBuf> {
    cached(root, "libcuda.so.1")
}

/// NVRTC, the compiler of kernels, with its version by its name: `/…/libnvrtc.so.12`.
pub fn compilers(root: &Root) -> Vec<PathBuf> {
    let mut found: BTreeSet<PathBuf> = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec!["/usr/lib/aarch64-linux-gnu".into()];
    for name in root.names("/usr/local").into_iter().filter(|n| n.starts_with("cuda")) {
        let cuda = Path::new("/usr/local").join(name);
        folders.extend([cuda.join("lib64"), cuda.join("targets/aarch64-linux/lib")]);
    }
    for folder in folders {
        for name in root.names(&folder).iter().filter(|n| n.starts_with("libnvrtc.so.")) {
            found.extend(root.real(folder.join(name)));
        }
    }
    found.into_iter().collect()
}

fn find(root: &Root, name: &str, library_path: Option<&str>) -> Vec<Library> {
    let mut found = Vec::new();
    for folder in library_path.unwrap_or("").split(':').filter(|f| f.starts_with('/')) {
        add(root, &mut found, Path::new(folder).join(name));
    }
    for path in cached(root, name) {
        add(root, &mut found, path);
    }
    for folder in ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib"] {
        add(root, &mut found, Path::new(folder).join(name));
    }
    found
}

/// Adds a library unless it is not there or is one that was found by another name.
fn add(root: &Root, found: &mut Vec<Library>, path: PathBuf) {
    let Some(real) = root.real(&path) else { return };
    let Some(bytes) = root.size(&real).filter(|_| !found.iter().any(|l| l.real == real)) else {
        return;
    };
    found.push(Library { path, real, bytes });
}

/// Entries of a name in the loader's cache, `/etc/ld.so.cache`, in order; where that cannot be
/// read, what the folders of `/etc/ld.so.conf` and `/etc/ld.so.conf.d` hold.
fn cached(root: &Root, name: &str) -> Vec<PathBuf> {
    if let Some(entries) = root.bytes("/etc/ld.so.cache").and_then(|b| parse_cache(&b, name)) {
        return entries;
    }
    let mut folders = Vec::new();
    let mut read = |path: String| {
        for line in root.text(path).unwrap_or_default().lines() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.starts_with('/') {
                folders.push(line.to_string());
            }
        }
    };
    root.names("/etc/ld.so.conf.d")
        .iter()
        .filter(|file| file.ends_with(".conf"))
        .for_each(|file| read(format!("/etc/ld.so.conf.d/{file}")));
    read("/etc/ld.so.conf".into());
    let paths = folders.iter().map(|folder| Path::new(folder).join(name));
    paths.filter(|path| root.exists(path)).collect()
}

/// glibc's cache of the form `glibc-ld.so.cache1.1` (since 2.2, alone since 2.32; older systems
/// write the old form in front of it): a count, entries of 24 bytes, strings behind offsets.
fn parse_cache(bytes: &[u8], name: &str) -> Option<Vec<PathBuf>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let cache = &bytes[start..];
    let number = |at: usize| -> Option<usize> {
        let four: [u8; 4] = cache.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(four) as usize)
    };
    let text = |at: usize| -> Option<&str> {
        let bytes = cache.get(at..)?;
        let end = bytes.iter().position(|b| *b == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    };
    let count = number(MAGIC.len())?.min(cache.len() / ENTRY);
    let mut found = Vec::new();
    for i in 0..count {
        let at = HEADER + i * ENTRY;
        if text(number(at + 4)?) == Some(name) {
            found.push(PathBuf::from(text(number(at + 8)?)?));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache as `ldconfig` writes it.
    pub(crate) fn cache(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut out = b"glibc-ld.so.cache1.1".to_vec();
        let mut strings: Vec<u8> = Vec::new();
        let base = 48 + 24 * entries.len();
        let mut rows = Vec::new();
        for (name, path) in entries {
            let mut put = |s: &str| {
                let at = (base + strings.len()) as u32;
                strings.extend(s.as_bytes());
                strings.push(0);
                at
            };
            let (name, path) = (put(name), put(path));
            rows.extend([0x0a03u32, name, path, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        }
        out.extend((entries.len() as u32).to_le_bytes());
        out.extend((strings.len() as u32).to_le_bytes());
        out.resize(48, 0);
        out.extend(rows);
        out.extend(strings);
        out
    }

    #[test]
    fn the_loader_s_cache() {
        let bytes = cache(&[("liba.so", "/a"), ("libcuda.so.1", "/x/c"), ("libcuda.so.1", "/y/c")]);
        let paths = |bytes: &[u8]| parse_cache(bytes, "libcuda.so.1");
        assert_eq!(paths(&bytes).unwrap(), [Path::new("/x/c"), Path::new("/y/c")]);
        // Behind the old form.
        let old = [&b"ld.so-1.7.0\0\0\0\0\0"[..], &bytes].concat();
        assert_eq!(paths(&old).unwrap().len(), 2);
        for cut in 0..bytes.len() {
            let _ = paths(&bytes[..cut]);
        }
        assert_eq!(paths(b"junk"), None);
    }

    #[test]
    fn this_machine_s_cache_is_read() {
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        assert!(!parse_cache(&bytes, "libc.so.6").unwrap().is_empty());
    }
}
