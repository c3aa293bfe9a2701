//! The driver itself, devices and their contexts.

use std::ffi::{c_int, c_uint};

use super::Out;
use crate::status::*;

functions! {
    Nothing fn cuInit(flags: c_uint) |d, _| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if d.description.devices.is_empty() {
            return Err(NO_DEVICE);
        }
        d.initialised = true;
        Ok(())
    };
    Nothing fn cuDriverGetVersion(version: Out<c_int>) |d, _| version.put(d.description.driver);
    Driver fn cuDeviceGetCount(count: Out<c_int>) |d, _| {
        count.put(d.description.devices.len() as c_int)
    };
    Driver fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) |d, _| {
        d.device(ordinal)?;
        device.put(ordinal)
    };
    Driver fn cuDeviceGetName(name: *mut u8, len: c_int, device: c_int) |d, _| {
        let text = &d.description.devices[d.device(device)?].name;
        let n = text.len().min(usize::try_from(len).unwrap_or(0).saturating_sub(1));
        text.bytes().take(n).chain([0]).enumerate().try_for_each(|(i, b)| Out::at(name, i).put(b))
    };
    Driver fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) |d, _| {
        bytes.put(d.description.devices[d.device(device)?].memory as usize)
    };
    Driver fn cuDeviceGetAttribute(value: Out<c_int>, which: c_int, device: c_int) |d, _| {
        let found = d.description.devices[d.device(device)?].attribute(which);
        value.put(found.ok_or(INVALID_VALUE)?)
    };
    Driver fn cuDevicePrimaryCtxRetain(context: Out<u64>, device: c_int) |d, _| {
        let device = d.device(device)?;
        let id = d.retain(device);
        context.put(id)
    };
    Leave fn cuDevicePrimaryCtxRelease_v2(device: c_int) |d, _| {
        let device = d.device(device)?;
        d.release(device)
    };
    Switch fn cuCtxSetCurrent(context: u64) |d, _| d.set_current(context);
    Switch fn cuCtxGetCurrent(context: Out<u64>) |_d, current| context.put(current);
    Switch fn cuCtxGetDevice(device: Out<c_int>) |d, current| {
        device.put(d.contexts.get(&current).ok_or(INVALID_CONTEXT)?.device as c_int)
    };
    Context fn cuCtxSynchronize() |d, current| {
        d.refuse_any_capture(current)?;
        d.run_context(current)
    };
}
