use tobiuo_engine::CudaKey;
use tobiuo_gpu::DeviceInfo;

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
