use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// A Jetson module, by its data sheet: the largest power mode it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// As the builder's command line calls it (`--device`).
    pub id: String,
    /// As people call it.
    pub name: String,
    /// The system on chip, as the device tree calls it.
    pub soc: String,
    /// Compute capability, `10 * major + minor`.
    pub sm: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The GPU's highest clock, MHz.
    pub gpu_mhz: f64,
    /// Bandwidth of the memory, GB/s.
    pub memory_gbs: f64,
    /// Memory, GiB, shared by CPU and GPU.
    pub memory_gib: u32,
    /// L2 cache, KiB.
    pub l2_kib: u32,
    /// Part numbers, as the device tree has them.
    pub parts: Vec<String>,
    /// The last JetPack for it at the time of writing.
    pub last_jetpack: String,
    /// Shared memory that a block may ask for, bytes.
    #[serde(skip)]
    pub shared_per_block: u32,
    /// Shared memory of one multiprocessor, bytes.
    #[serde(skip)]
    pub shared_per_sm: u32,
}

/// A JetPack release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JetPack {
    /// Its version.
    pub jetpack: String,
    /// The first L4T release of it, major and minor.
    pub l4t: (u32, u32),
    /// Its CUDA version.
    pub cuda: String,
    /// Its C library's version.
    pub glibc: String,
    /// Tobiuo's programs start on it.
    pub supported: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    architectures: Vec<Architecture>,
    modules: Vec<Module>,
    jetpacks: Vec<JetPack>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Architecture {
    sm: u32,
    shared_per_block: u32,
    shared_per_sm: u32,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: Table =
            serde_json::from_str(include_str!("../devices.json")).expect("a test reads it");
        for module in &mut table.modules {
            let found = table.architectures.iter().find(|a| a.sm == module.sm);
            let found = found.expect("a test looks at every module");
            module.shared_per_block = found.shared_per_block;
            module.shared_per_sm = found.shared_per_sm;
        }
        table
    })
}

/// All modules.
pub fn modules() -> &'static [Module] {
    &table().modules
}

/// A module by its [`id`](Module::id).
pub fn module(id: &str) -> Option<&'static Module> {
    modules().iter().find(|m| m.id == id)
}

/// A module by its part number (`p3767-0005`), or by a text that contains it.
pub fn module_of_part(text: &str) -> Option<&'static Module> {
    modules().iter().find(|m| m.parts.iter().any(|part| text.contains(part.as_str())))
}

/// All JetPacks, the oldest first.
pub fn jetpacks() -> &'static [JetPack] {
    &table().jetpacks
}

/// The JetPack of an L4T release: the last one of its major that is not newer.
pub fn jetpack_of(l4t: (u32, u32)) -> Option<&'static JetPack> {
    jetpacks().iter().rev().find(|j| j.l4t.0 == l4t.0 && j.l4t.1 <= l4t.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for (i, m) in modules().iter().enumerate() {
            assert!(modules()[..i].iter().all(|other| other.id != m.id), "{}", m.id);
            assert!(m.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            assert!(m.multiprocessors > 0 && m.gpu_mhz > 100.0 && m.memory_gbs > 10.0, "{}", m.id);
            assert!(m.shared_per_block <= m.shared_per_sm && m.l2_kib >= 256, "{}", m.id);
            for part in &m.parts {
                let same: Vec<_> = modules().iter().filter(|o| o.parts.contains(part)).collect();
                assert_eq!(same.len(), 1, "{part}");
            }
        }
        assert!(jetpacks().is_sorted_by_key(|j| j.l4t));
    }

    #[test]
    fn modules_and_jetpacks_are_found() {
        assert_eq!(module("orin-nano-8gb").unwrap().multiprocessors, 8);
        assert_eq!(module("orin"), None);
        let of = |text| module_of_part(text).map(|m| m.id.as_str());
        assert_eq!(of("nvidia,p3768-0000+p3767-0005-super"), Some("orin-nano-8gb"));
        assert_eq!(of("nvidia,p3737-0000+p3701-0005"), Some("agx-orin-64gb"));
        assert_eq!(of("nvidia,p9999-0000"), None);
        let of = |l4t| jetpack_of(l4t).map(|j| j.jetpack.as_str());
        assert_eq!(of((36, 4)), Some("6.1 or 6.2"));
        assert_eq!(of((36, 5)), Some("6.1 or 6.2"));
        assert_eq!(of((35, 6)), Some("5.1"));
        assert_eq!((of((40, 1)), of((36, 2))), (None, None));
    }
}
