//! What the stand-in pretends to be.

use serde::{Deserialize, Serialize};

/// Name of the environment variable with the description: a preset's name or JSON.
pub(crate) const VARIABLE: &str = "TOBIUO_STANDIN";

/// The driver and its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Description {
    /// CUDA version of the driver, 1000 * major + 10 * minor.
    pub driver: i32,
    /// The devices it shows.
    pub devices: Vec<Device>,
}

/// A device. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Marketing name.
    pub name: String,
    /// Compute capability without its dot.
    pub sm: u32,
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Shared memory a block may ask for.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor.
    pub shared_per_sm: u32,
    /// L2 cache.
    pub l2: u32,
    /// Device memory.
    pub memory: u64,
    /// Shares the host's memory.
    pub integrated: bool,
    /// Core clock, kHz.
    pub clock_khz: u32,
}

impl Default for Device {
    /// Like a Jetson Orin Nano of 8 GiB.
    fn default() -> Device {
        Device {
            name: "Stand-in Orin".into(),
            sm: 87,
            sm_count: 8,
            shared_per_block: 163 << 10,
            shared_per_sm: 164 << 10,
            l2: 2 << 20,
            memory: 8 << 30,
            integrated: true,
            clock_khz: 1_020_000,
        }
    }
}

impl Default for Description {
    fn default() -> Description {
        Description { driver: 12060, devices: vec![Device::default()] }
    }
}

impl Description {
    /// One of `orin`, `xavier`, `thor`, `h200`, and `none` for a driver without a device.
    pub fn preset(name: &str) -> Option<Description> {
        let one = |driver, device| Some(Description { driver, devices: vec![device] });
        match name {
            "orin" => Some(Description::default()),
            "xavier" => one(
                11040,
                Device {
                    name: "Stand-in Xavier".into(),
                    sm: 72,
                    shared_per_block: 96 << 10,
                    shared_per_sm: 96 << 10,
                    l2: 512 << 10,
                    clock_khz: 1_377_000,
                    ..Device::default()
                },
            ),
            "thor" => one(
                13000,
                Device {
                    name: "Stand-in Thor".into(),
                    sm: 110,
                    sm_count: 20,
                    shared_per_block: 227 << 10,
                    shared_per_sm: 228 << 10,
                    l2: 32 << 20,
                    memory: 64 << 30,
                    clock_khz: 1_575_000,
                    ..Device::default()
                },
            ),
            "h200" => one(
                13000,
                Device {
                    name: "Stand-in H200".into(),
                    sm: 90,
                    sm_count: 132,
                    shared_per_block: 227 << 10,
                    shared_per_sm: 228 << 10,
                    l2: 60 << 20,
                    memory: 141 << 30,
                    integrated: false,
                    clock_khz: 1_980_000,
                },
            ),
            "none" => Some(Description { driver: 12060, devices: Vec::new() }),
            _ => None,
        }
    }

    /// From [`VARIABLE`].
    pub(crate) fn from_environment() -> Result<Description, String> {
        match std::env::var(VARIABLE) {
            Err(_) => Ok(Description::default()),
            Ok(text) if text.trim_start().starts_with('{') => {
                serde_json::from_str(&text).map_err(|e| format!("{VARIABLE}: {e}"))
            }
            Ok(text) => Description::preset(text.trim())
                .ok_or_else(|| format!("{VARIABLE}: no device is called '{text}'")),
        }
    }
}

impl Device {
    /// A `CUdevice_attribute` by its number.
    pub(crate) fn attribute(&self, which: i32) -> Option<i32> {
        let value = match which {
            1..=3 => 1024,        // threads of a block, in x, in y
            4 => 64,              // in z
            5 => i32::MAX as u32, // blocks of a grid in x
            6 | 7 => 65535,       // in y, z
            8 => 48 << 10,        // shared memory of a block that did not ask
            9 => 64 << 10,        // constant memory
            10 => 32,             // warp
            12 | 82 => 65536,     // registers of a block, of a multiprocessor
            13 => self.clock_khz,
            15 | 19 | 31 | 41 => 1, // overlap, mapped memory, concurrent kernels, one address space
            16 => self.sm_count,
            18 => u32::from(self.integrated),
            36 => 3_199_000, // memory clock
            37 => 128,       // bus width
            38 => self.l2,
            39 => {
                if self.sm >= 90 {
                    2048
                } else {
                    1536
                }
            }
            40 => 2,                // copy engines
            20 | 33 | 34 | 50 => 0, // compute mode and PCI numbers
            75 => self.sm / 10,
            76 => self.sm % 10,
            81 => self.shared_per_sm,
            83 | 95 => 1, // managed memory, cooperative launch
            97 => self.shared_per_block,
            106 => 16, // blocks of a multiprocessor
            _ => return None,
        };
        i32::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_from_json_with_defaults_for_the_rest() {
        let text = r#"{"driver": 12020, "devices": [{"sm": 90, "memory": 1048576}]}"#;
        let d: Description = serde_json::from_str(text).expect("it is read");
        assert_eq!((d.driver, d.devices[0].sm, d.devices[0].memory), (12020, 90, 1 << 20));
        assert_eq!(d.devices[0].sm_count, Device::default().sm_count);
        assert!(serde_json::from_str::<Description>(r#"{"device": 1}"#).is_err());
        for name in ["orin", "xavier", "thor", "h200", "none"] {
            assert!(Description::preset(name).is_some());
        }
    }
}
