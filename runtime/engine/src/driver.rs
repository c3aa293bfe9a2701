//! Which NVIDIA driver engines need, and what brings it. Drivers are told by the CUDA version that
//! they support, `1000 * major + 10 * minor`.

/// The oldest driver that anything here runs on: CUDA 11.4, of JetPack 5.
pub const DRIVER_FLOOR: u32 = 11040;

/// The oldest driver for engines of a compute capability (`10 * major + minor`): 11.4 for what
/// JetPack 5 is the last to support (Xavier, 7.2), 13.0 for what begins with JetPack 7 (Thor,
/// 11.0), else 12.2, the first of JetPack 6.
pub fn driver_floor(sm: u32) -> u32 {
    match sm {
        ..=72 => DRIVER_FLOOR,
        110 => 13000,
        _ => 12020,
    }
}

/// The first JetPack for the Jetsons of a compute capability that brings a driver; `None` where
/// none does, and for GPUs of no Jetson.
pub fn jetpack_for(driver: u32, sm: u32) -> Option<&'static str> {
    // First driver of each, and the compute capabilities that it is for.
    const JETPACKS: [(u32, &str, &[u32]); 5] = [
        (11040, "5", &[72, 87]),
        (12020, "6", &[87]),
        (12060, "6.1", &[87]),
        (13000, "7", &[110]),
        (13020, "7.2", &[87, 110]),
    ];
    JETPACKS.iter().find(|(has, _, of)| *has >= driver && of.contains(&sm)).map(|j| j.1)
}

/// A CUDA version as people write it.
pub fn cuda_version(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What to do about a driver that is too old: what brings one that is not. `None` where this
/// GPU's driver cannot be made that new.
pub fn driver_update(driver: u32, sm: u32) -> Option<String> {
    match (jetpack_for(driver, sm), sm) {
        (Some(jetpack), _) => {
            Some(format!("update the driver (on a Jetson: JetPack {jetpack} or newer)"))
        }
        (None, 72) => None,
        (None, _) => Some("update the driver".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_named_by_the_jetpack_that_brings_it() {
        let of = |driver, sm| driver_update(driver, sm).unwrap_or_default();
        assert!(of(11040, 72).contains("JetPack 5 or"));
        assert!(of(12020, 87).contains("JetPack 6 or"));
        assert!(of(12060, 87).contains("JetPack 6.1 or"));
        assert!(of(13000, 87).contains("JetPack 7.2 or"));
        assert!(of(13000, 110).contains("JetPack 7 or"));
        // Xavier's last JetPack is 5, a server has none.
        assert_eq!(driver_update(12000, 72), None);
        assert_eq!(of(13000, 90), "update the driver");
        assert_eq!(cuda_version(12060), "12.6");
    }
}
