//! Device memory and pinned host memory.

use std::ffi::c_void;

use cudarc::driver::sys::CUdeviceptr;

use crate::context::Context;
use crate::error::GpuError;
use crate::execution::Stream;

/// A range of device memory, freed when dropped.
pub struct DeviceBuffer {
    context: Context,
    pointer: CUdeviceptr,
    len: usize,
}

impl DeviceBuffer {
    /// Allocates `len` bytes, aligned to at least 256. Zero bytes allocate one.
    pub fn new(context: &Context, len: usize) -> Result<DeviceBuffer, GpuError> {
        let api = context.enter()?;
        let mut pointer = 0;
        // SAFETY: `pointer` is a place for one device pointer.
        let status = unsafe { (api.mem_alloc)(&mut pointer, len.max(1)) };
        api.check(status, &format!("allocating {len} bytes of device memory"))?;
        Ok(DeviceBuffer { context: context.clone(), pointer, len })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device address of its first byte.
    pub fn address(&self) -> u64 {
        self.pointer
    }

    fn at(&self, offset: usize, len: usize) -> CUdeviceptr {
        let end = offset.checked_add(len).expect("a range that fits usize");
        assert!(end <= self.len, "bytes {offset}..{end} of a buffer of {} bytes", self.len);
        self.pointer + offset as u64
    }

    /// Copies host bytes to `offset` and waits.
    ///
    /// Panics when they do not fit.
    pub fn write(&mut self, offset: usize, bytes: &[u8], stream: &Stream) -> Result<(), GpuError> {
        let to = self.at(offset, bytes.len());
        let api = self.context.enter()?;
        // SAFETY: the destination was checked to lie inside the buffer; the source outlives
        // the copy because the stream is waited for.
        let status =
            unsafe { (api.memcpy_htod)(to, bytes.as_ptr().cast(), bytes.len(), stream.raw()) };
        api.check(status, &format!("copying {} bytes to the device", bytes.len()))?;
        stream.synchronize()
    }

    /// Copies from `offset` to host bytes and waits.
    ///
    /// Panics when they reach past the end.
    pub fn read(&self, offset: usize, bytes: &mut [u8], stream: &Stream) -> Result<(), GpuError> {
        let from = self.at(offset, bytes.len());
        let api = self.context.enter()?;
        // SAFETY: the source was checked to lie inside the buffer; the destination outlives
        // the copy because the stream is waited for.
        let status = unsafe {
            (api.memcpy_dtoh)(bytes.as_mut_ptr().cast(), from, bytes.len(), stream.raw())
        };
        api.check(status, &format!("copying {} bytes from the device", bytes.len()))?;
        stream.synchronize()
    }

    /// Queues a copy of a pinned buffer's bytes to `offset`.
    ///
    /// # Safety
    /// The pinned buffer is neither freed nor written until the stream has passed the copy.
    pub unsafe fn write_async(
        &self,
        offset: usize,
        from: &PinnedBuffer,
        len: usize,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let to = self.at(offset, len);
        assert!(len <= from.len, "the pinned buffer holds {} bytes, not {len}", from.len);
        let api = self.context.enter()?;
        // SAFETY: both ranges were checked; the caller keeps the source as it is.
        let status = unsafe { (api.memcpy_htod)(to, from.pointer, len, stream.raw()) };
        api.check(status, "queueing an upload")
    }

    /// Queues a copy of `len` bytes at `offset` into a pinned buffer.
    ///
    /// # Safety
    /// The pinned buffer is neither freed nor used until the stream has passed the copy.
    pub unsafe fn read_async(
        &self,
        offset: usize,
        to: &mut PinnedBuffer,
        len: usize,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let from = self.at(offset, len);
        assert!(len <= to.len, "the pinned buffer holds {} bytes, not {len}", to.len);
        let api = self.context.enter()?;
        // SAFETY: both ranges were checked; the caller leaves the destination alone.
        let status = unsafe { (api.memcpy_dtoh)(to.pointer, from, len, stream.raw()) };
        api.check(status, "queueing a download")
    }

    /// Queues filling `offset..offset + len` with one byte value.
    pub fn fill(
        &mut self,
        offset: usize,
        len: usize,
        value: u8,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let at = self.at(offset, len);
        let api = self.context.enter()?;
        // SAFETY: the range was checked to lie inside the buffer.
        let status = unsafe { (api.memset_d8)(at, value, len, stream.raw()) };
        api.check(status, "filling device memory")
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: allocated in `new` and freed nowhere else.
            let status = unsafe { (api.mem_free)(self.pointer) };
            if let Err(e) = api.check(status, "freeing device memory") {
                log::debug!("{e}");
            }
        }
    }
}

/// Page-locked host memory, reachable from the device too.
pub struct PinnedBuffer {
    context: Context,
    pointer: *mut c_void,
    device: CUdeviceptr,
    len: usize,
}

// SAFETY: the memory belongs to this value alone; the driver's calls work from any thread.
unsafe impl Send for PinnedBuffer {}

const HOST_ALLOC_PORTABLE: u32 = 1;
const HOST_ALLOC_MAPPED: u32 = 2;

impl PinnedBuffer {
    /// Allocates `len` zeroed bytes. Zero bytes allocate one.
    pub fn new(context: &Context, len: usize) -> Result<PinnedBuffer, GpuError> {
        let api = context.enter()?;
        let mut pointer = std::ptr::null_mut();
        let flags = HOST_ALLOC_PORTABLE | HOST_ALLOC_MAPPED;
        // SAFETY: `pointer` is a place for one pointer.
        let status = unsafe { (api.host_alloc)(&mut pointer, len.max(1), flags) };
        api.check(status, &format!("allocating {len} bytes of pinned host memory"))?;
        // SAFETY: the driver gave at least `len` writable bytes.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, len) };
        let mut buffer = PinnedBuffer { context: context.clone(), pointer, device: 0, len };
        // SAFETY: the memory was allocated as mapped just above.
        let status = unsafe { (api.host_device_pointer)(&mut buffer.device, pointer, 0) };
        api.check(status, "mapping pinned memory into the device")?;
        Ok(buffer)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes, initialised in `new`, belong to this value; device writes are
        // the callers of the unsafe queueing functions' to order.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.len) }
    }

    /// The address under which the device sees the first byte.
    pub fn device_address(&self) -> u64 {
        self.device
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: allocated in `new` and freed nowhere else.
            let status = unsafe { (api.host_free)(self.pointer) };
            if let Err(e) = api.check(status, "freeing pinned memory") {
                log::debug!("{e}");
            }
        }
    }
}
