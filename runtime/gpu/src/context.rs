//! Devices and the context that everything else belongs to.

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::driver::sys as cu;

use crate::api::{Api, api};
use crate::error::{GpuError, GpuErrorKind};

/// What a device is: the fields an engine is made for, and what reports print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number among the visible devices.
    pub ordinal: usize,
    /// Marketing name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// Streaming multiprocessors that are switched on.
    pub sm_count: u32,
    /// Shared memory a block may ask for, bytes.
    pub shared_per_block: u32,
    /// Shared memory of one multiprocessor, bytes.
    pub shared_per_sm: u32,
    /// L2 cache, bytes.
    pub l2_bytes: u32,
    /// Device memory, bytes.
    pub memory_bytes: u64,
    /// Shares the host's memory (Jetson).
    pub integrated: bool,
    /// Kernels can read host memory that is pinned and mapped.
    pub can_map_host: bool,
    /// CUDA version of the driver, as 1000 * major + 10 * minor.
    pub driver: u32,
    /// Core clock in kHz at its highest, as the driver says.
    pub clock_khz: u32,
}

const ATTRIBUTE_MAJOR: c_int = 75;
const ATTRIBUTE_MINOR: c_int = 76;
const ATTRIBUTE_SM_COUNT: c_int = 16;
const ATTRIBUTE_CLOCK: c_int = 13;
const ATTRIBUTE_INTEGRATED: c_int = 18;
const ATTRIBUTE_CAN_MAP_HOST: c_int = 19;
const ATTRIBUTE_L2: c_int = 38;
const ATTRIBUTE_SHARED_PER_SM: c_int = 81;
const ATTRIBUTE_SHARED_OPTIN: c_int = 97;

fn attribute(api: &Api, device: cu::CUdevice, which: c_int) -> Result<u32, GpuError> {
    let mut value = 0;
    // SAFETY: `value` is a place for one int.
    let status = unsafe { (api.device_attribute)(&mut value, which, device) };
    api.check(status, "reading a device attribute")?;
    Ok(value.max(0) as u32)
}

fn describe(api: &Api, ordinal: usize) -> Result<(cu::CUdevice, DeviceInfo), GpuError> {
    let mut device = 0;
    // SAFETY: `device` is a place for one handle.
    let status = unsafe { (api.device_get)(&mut device, ordinal as c_int) };
    api.check(status, &format!("opening CUDA device {ordinal}"))?;
    let mut name = [0u8; 128];
    // SAFETY: the buffer holds 128 bytes, which the call is told.
    let status = unsafe { (api.device_name)(name.as_mut_ptr().cast(), 128, device) };
    api.check(status, "reading the device's name")?;
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    let mut memory = 0usize;
    // SAFETY: `memory` is a place for one size.
    let status = unsafe { (api.device_total_mem)(&mut memory, device) };
    api.check(status, "reading the device's memory size")?;
    let mut driver = 0;
    // SAFETY: `driver` is a place for one int.
    let status = unsafe { (api.driver_version)(&mut driver) };
    api.check(status, "reading the driver's version")?;
    let get = |which| attribute(api, device, which);
    Ok((
        device,
        DeviceInfo {
            ordinal,
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            compute: (get(ATTRIBUTE_MAJOR)?, get(ATTRIBUTE_MINOR)?),
            sm_count: get(ATTRIBUTE_SM_COUNT)?,
            shared_per_block: get(ATTRIBUTE_SHARED_OPTIN)?,
            shared_per_sm: get(ATTRIBUTE_SHARED_PER_SM)?,
            l2_bytes: get(ATTRIBUTE_L2)?,
            memory_bytes: memory as u64,
            integrated: get(ATTRIBUTE_INTEGRATED)? != 0,
            can_map_host: get(ATTRIBUTE_CAN_MAP_HOST)? != 0,
            driver: driver.max(0) as u32,
            clock_khz: get(ATTRIBUTE_CLOCK)?,
        },
    ))
}

fn count(api: &Api) -> Result<usize, GpuError> {
    let mut count = 0;
    // SAFETY: `count` is a place for one int.
    let status = unsafe { (api.device_count)(&mut count) };
    api.check(status, "counting CUDA devices")?;
    Ok(count.max(0) as usize)
}

/// The visible devices, in the driver's order.
pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
    let api = api()?;
    (0..count(api)?).map(|i| describe(api, i).map(|(_, info)| info)).collect()
}

/// One device, by its number, without making a context on it.
pub fn device(ordinal: usize) -> Result<DeviceInfo, GpuError> {
    let api = api()?;
    exists(ordinal, count(api)?)?;
    describe(api, ordinal).map(|(_, info)| info)
}

fn exists(ordinal: usize, count: usize) -> Result<(), GpuError> {
    if ordinal < count {
        return Ok(());
    }
    let have = match count {
        0 => "the driver shows none; CUDA_VISIBLE_DEVICES or the container may hide it".into(),
        1 => "there is only device 0".into(),
        n => format!("there are devices 0 to {}", n - 1),
    };
    let message = format!("there is no CUDA device {ordinal}: {have}");
    Err(GpuError::new(GpuErrorKind::NoDevice, message))
}

/// A device's primary context, kept as long as anything on it lives.
///
/// Cheap to clone; usable from any thread (each call makes the context current first).
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) api: &'static Api,
    device: cu::CUdevice,
    handle: cu::CUcontext,
    info: DeviceInfo,
}

// SAFETY: a CUcontext may be used from any thread; the driver serialises what needs it.
unsafe impl Send for Inner {}
// SAFETY: as above: shared use from several threads is what the driver documents.
unsafe impl Sync for Inner {}

impl Context {
    /// Opens a device by its number.
    pub fn new(ordinal: usize) -> Result<Context, GpuError> {
        let api = api()?;
        exists(ordinal, count(api)?)?;
        let (device, info) = describe(api, ordinal)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for one handle; released again in `drop`.
        let status = unsafe { (api.ctx_retain)(&mut handle, device) };
        api.check(status, &format!("creating a context on {}", info.name))?;
        let context = Context { inner: Arc::new(Inner { api, device, handle, info }) };
        context.enter()?;
        Ok(context)
    }

    /// What the device is.
    pub fn device(&self) -> &DeviceInfo {
        &self.inner.info
    }

    /// Free and total device memory, bytes.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        let api = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are places for one size.
        let status = unsafe { (api.mem_info)(&mut free, &mut total) };
        api.check(status, "reading free device memory")?;
        Ok((free, total))
    }

    /// Kernels may start before the one in front of them ends (programmatic dependent launch),
    /// also within captured graphs.
    pub fn dependent_launch(&self) -> bool {
        // Graphs have such edges since CUDA 12.3.
        self.inner.info.compute >= (9, 0)
            && self.inner.info.driver >= 12030
            && self.inner.api.launch_kernel_ex.is_some()
    }

    /// Waits for everything under way on the device.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        let api = self.enter()?;
        // SAFETY: takes nothing.
        api.check(unsafe { (api.ctx_synchronize)() }, "waiting for the device")
    }

    /// Makes the context current on this thread.
    pub(crate) fn enter(&self) -> Result<&'static Api, GpuError> {
        let api = self.inner.api;
        // SAFETY: the handle is alive as long as `inner`.
        let status = unsafe { (api.ctx_set_current)(self.inner.handle) };
        api.check(status, "making the CUDA context current")?;
        Ok(api)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: retained once in `new`; nothing made on the context is left, since all of it
        // holds a clone of the context.
        let status = unsafe { (self.api.ctx_release)(self.device) };
        if let Err(e) = self.api.check(status, "releasing the CUDA context") {
            log::debug!("{e}");
        }
    }
}
