//! Device memory and pinned host memory.

use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;

use crate::context::Context;
use crate::error::{GpuError, GpuErrorKind};
use crate::execution::Stream;

struct Allocation {
    context: Context,
    pointer: CUdeviceptr,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: allocated in `DeviceBuffer::new` and freed nowhere else.
            let status = unsafe { (api.mem_free)(self.pointer) };
            if let Err(e) = api.check(status, "freeing device memory") {
                log::debug!("{e}");
            }
        }
    }
}

/// Device memory, freed when the last clone and the last [`DeviceSlice`] of it is dropped.
#[derive(Clone)]
pub struct DeviceBuffer {
    memory: Arc<Allocation>,
    len: usize,
}

impl DeviceBuffer {
    /// Allocates `len` bytes, aligned to at least 256. Zero bytes allocate one.
    pub fn new(context: &Context, len: usize) -> Result<DeviceBuffer, GpuError> {
        let api = context.enter()?;
        let mut pointer = 0;
        // SAFETY: `pointer` is a place for one device pointer.
        let status = unsafe { (api.mem_alloc)(&mut pointer, len.max(1)) };
        api.check(status, &format!("allocating {len} bytes of device memory"))
            .map_err(|e| with_free_memory(e, context))?;
        let memory = Arc::new(Allocation { context: context.clone(), pointer });
        Ok(DeviceBuffer { memory, len })
    }

    fn context(&self) -> &Context {
        &self.memory.context
    }

    /// A part of it. Panics when the range reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> DeviceSlice {
        assert!(range.start <= range.end, "{range:?}");
        let len = range.end - range.start;
        let address = self.at(range.start, len);
        DeviceSlice { memory: Some(self.memory.clone()), address, len }
    }

    /// All of it.
    pub fn whole(&self) -> DeviceSlice {
        self.slice(0..self.len)
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
        self.memory.pointer
    }

    fn at(&self, offset: usize, len: usize) -> CUdeviceptr {
        let end = offset.checked_add(len).expect("a range that fits usize");
        assert!(end <= self.len, "bytes {offset}..{end} of a buffer of {} bytes", self.len);
        self.memory.pointer + offset as u64
    }

    /// Copies host bytes to `offset` and waits.
    ///
    /// Panics when they do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8], stream: &Stream) -> Result<(), GpuError> {
        let to = self.at(offset, bytes.len());
        let api = self.context().enter()?;
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
        let api = self.context().enter()?;
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
        let api = self.context().enter()?;
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
        let api = self.context().enter()?;
        // SAFETY: both ranges were checked; the caller leaves the destination alone.
        let status = unsafe { (api.memcpy_dtoh)(to.pointer, from, len, stream.raw()) };
        api.check(status, "queueing a download")
    }

    /// Queues filling `offset..offset + len` with one byte value.
    pub fn fill(
        &self,
        offset: usize,
        len: usize,
        value: u8,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let at = self.at(offset, len);
        let api = self.context().enter()?;
        // SAFETY: the range was checked to lie inside the buffer.
        let status = unsafe { (api.memset_d8)(at, value, len, stream.raw()) };
        api.check(status, "filling device memory")
    }
}

impl fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuffer({} bytes at {:#x})", self.len, self.address())
    }
}

/// A range of device memory, which it keeps allocated.
#[derive(Clone)]
pub struct DeviceSlice {
    /// `None` for memory that somebody else allocated.
    memory: Option<Arc<Allocation>>,
    address: CUdeviceptr,
    len: usize,
}

impl DeviceSlice {
    /// Memory that somebody else allocated, for example another library of this process.
    ///
    /// # Safety
    /// `len` bytes at `address` are allocated on the device of every context that the slice is
    /// used with, and stay so as long as the slice, its clones, and the command lists and graphs
    /// that were made with them live.
    pub unsafe fn from_raw(address: u64, len: usize) -> DeviceSlice {
        DeviceSlice { memory: None, address, len }
    }

    /// The device address of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of the device that it is on, where this crate allocated it.
    pub(crate) fn device(&self) -> Option<usize> {
        self.memory.as_ref().map(|m| m.context.device().ordinal)
    }

    /// A part of it, or `None` when the range reaches past the end.
    pub fn part(&self, range: Range<usize>) -> Option<DeviceSlice> {
        (range.start <= range.end && range.end <= self.len).then(|| DeviceSlice {
            memory: self.memory.clone(),
            address: self.address + range.start as u64,
            len: range.end - range.start,
        })
    }

    /// Copies its bytes to the host and waits.
    ///
    /// Panics when there are more or fewer of them.
    pub fn read(&self, bytes: &mut [u8], stream: &Stream) -> Result<(), GpuError> {
        assert_eq!(bytes.len(), self.len, "as many bytes as the slice has");
        let api = stream.context().enter()?;
        // SAFETY: the slice's bytes are allocated; the destination outlives the copy because
        // the stream is waited for.
        let status = unsafe {
            (api.memcpy_dtoh)(bytes.as_mut_ptr().cast(), self.address, self.len, stream.raw())
        };
        api.check(status, &format!("copying {} bytes from the device", self.len))?;
        stream.synchronize()
    }

    /// Copies host bytes to it and waits.
    ///
    /// Panics when there are more or fewer of them.
    pub fn write(&self, bytes: &[u8], stream: &Stream) -> Result<(), GpuError> {
        assert_eq!(bytes.len(), self.len, "as many bytes as the slice has");
        let api = stream.context().enter()?;
        // SAFETY: the slice's bytes are allocated; the source outlives the copy because the
        // stream is waited for.
        let status = unsafe {
            (api.memcpy_htod)(self.address, bytes.as_ptr().cast(), self.len, stream.raw())
        };
        api.check(status, &format!("copying {} bytes to the device", self.len))?;
        stream.synchronize()
    }
}

impl fmt::Debug for DeviceSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSlice({} bytes at {:#x})", self.len, self.address)
    }
}

/// An out-of-memory error with what is free.
fn with_free_memory(e: GpuError, context: &Context) -> GpuError {
    if e.kind() != GpuErrorKind::OutOfMemory {
        return e;
    }
    match context.memory() {
        Ok((free, total)) => GpuError::new(
            GpuErrorKind::OutOfMemory,
            format!("{e} ({free} of {total} bytes are free on {})", context.device().name),
        ),
        Err(_) => e,
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
        let mapped = context.device().can_map_host;
        let flags = HOST_ALLOC_PORTABLE | if mapped { HOST_ALLOC_MAPPED } else { 0 };
        // SAFETY: `pointer` is a place for one pointer.
        let status = unsafe { (api.host_alloc)(&mut pointer, len.max(1), flags) };
        api.check(status, &format!("allocating {len} bytes of pinned host memory"))?;
        // SAFETY: the driver gave at least `len` writable bytes.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, len) };
        let mut buffer = PinnedBuffer { context: context.clone(), pointer, device: 0, len };
        if mapped {
            // SAFETY: the memory was allocated as mapped just above.
            let status = unsafe { (api.host_device_pointer)(&mut buffer.device, pointer, 0) };
            api.check(status, "mapping pinned memory into the device")?;
        }
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

    /// The address under which the device sees the first byte; 0 on a device that cannot map
    /// host memory ([`DeviceInfo::can_map_host`](crate::DeviceInfo::can_map_host)).
    pub fn device_address(&self) -> u64 {
        self.device
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn host_address(&self) -> *mut c_void {
        self.pointer
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
