use tobiuo_engine::CudaKey;
use tobiuo_gpu::DeviceInfo;

/// The oldest driver that anything here runs on: CUDA 11.4, of JetPack 5.
pub const DRIVER_FLOOR: u32 = 11040;

/// The oldest driver for engines of a compute capability (`10 * major + minor`), as a CUDA
/// version, `1000 * major + 10 * minor`: 11.4 for what JetPack 5 is the last to support
/// (Xavier, 7.2), else 12.2, the first of JetPack 6.
pub fn driver_floor(sm: u32) -> u32 {
    if sm <= 72 { DRIVER_FLOOR } else { 12020 }
}

/// The key of a device, as engines tuned on it have it; to compare an engine's with.
pub fn device_key(device: &DeviceInfo) -> CudaKey {
    let (major, minor) = device.compute;
    CudaKey {
        name: device.name.clone(),
        sm: 10 * major + minor,
        sm_count: device.sm_count,
        shared_per_block: device.shared_per_block,
        l2_bytes: device.l2_bytes,
        driver: device.driver,
        tuned: true,
    }
}
