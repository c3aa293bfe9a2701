//! What the families know about the device.

use serde::{Deserialize, Serialize};

/// The device kernels are made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Compute capability without its dot: 87 for 8.7.
    pub sm: u32,
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Shared memory a block may use, bytes.
    pub shared_per_block: u32,
    /// Shared memory of one multiprocessor, bytes.
    pub shared_per_sm: u32,
    /// L2 cache, bytes.
    pub l2_bytes: u32,
    /// Core clock, GHz.
    pub clock_ghz: f64,
    /// Memory bandwidth, GB/s.
    pub bandwidth_gbs: f64,
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// Devices that an untuned engine can be made for, smallest of its kind that is common: what
/// is chosen for it by the cost model runs on all of its kind.
const STAND_INS: &[(&str, Target)] = &[
    (
        "Xavier NX",
        Target {
            sm: 72,
            sm_count: 6,
            shared_per_block: 96 * KIB,
            shared_per_sm: 96 * KIB,
            l2_bytes: MIB / 2,
            clock_ghz: 1.1,
            bandwidth_gbs: 59.7,
        },
    ),
    (
        "Orin NX",
        Target {
            sm: 87,
            sm_count: 8,
            shared_per_block: 163 * KIB,
            shared_per_sm: 164 * KIB,
            l2_bytes: 2 * MIB,
            clock_ghz: 0.918,
            bandwidth_gbs: 102.4,
        },
    ),
    (
        "H200",
        Target {
            sm: 90,
            sm_count: 132,
            shared_per_block: 227 * KIB,
            shared_per_sm: 228 * KIB,
            l2_bytes: 60 * MIB,
            clock_ghz: 1.98,
            bandwidth_gbs: 4800.0,
        },
    ),
    (
        "AGX Thor",
        Target {
            sm: 110,
            sm_count: 20,
            shared_per_block: 227 * KIB,
            shared_per_sm: 228 * KIB,
            l2_bytes: 32 * MIB,
            clock_ghz: 1.57,
            bandwidth_gbs: 273.0,
        },
    ),
];

impl Target {
    /// A device of a compute capability (87 for 8.7), where one is known: data sheet figures,
    /// for engines made without the device.
    pub fn of_sm(sm: u32) -> Option<Target> {
        STAND_INS.iter().find(|(_, t)| t.sm == sm).map(|(_, t)| t.clone())
    }

    /// The name of the device that [`of_sm`](Self::of_sm) describes.
    pub fn name_of_sm(sm: u32) -> Option<&'static str> {
        STAND_INS.iter().find(|(_, t)| t.sm == sm).map(|(name, _)| *name)
    }

    /// The compute capabilities that [`of_sm`](Self::of_sm) knows.
    pub fn known() -> impl Iterator<Item = u32> {
        STAND_INS.iter().map(|(_, t)| t.sm)
    }

    /// Kernels may start before the one in front of them ends (compute capability 9.0 on).
    pub fn dependent_launch(&self) -> bool {
        self.sm >= 90
    }
}
