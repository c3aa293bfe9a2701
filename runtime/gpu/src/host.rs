//! Host memory that frames are captured into, readable by the device.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;

use crate::context::Context;
use crate::error::{GpuError, GpuErrorKind};
use crate::execution::{Event, Stream};
use crate::memory::DeviceSlice;
use crate::module::{Function, Launch};

/// Page-locking works on whole pages; the largest that Linux uses on these machines.
const PAGE: usize = 64 << 10;

struct Pages {
    pointer: *mut u8,
    layout: Layout,
}

// SAFETY: plain memory that belongs to this value.
unsafe impl Send for Pages {}
// SAFETY: it is only read or written through a `HostBuffer`, of which there is one.
unsafe impl Sync for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `HostBuffer::new` with this layout.
        unsafe { dealloc(self.pointer, self.layout) };
    }
}

/// Host memory in whole pages. It belongs to the program, not to a context: a device that is lost
/// does not take it along. [`PageLock`] lets a device reach it.
#[derive(Default)]
pub struct HostBuffer {
    /// `None`: no bytes.
    pages: Option<Arc<Pages>>,
    len: usize,
}

impl HostBuffer {
    /// `len` zeroed bytes.
    pub fn new(len: usize) -> HostBuffer {
        if len == 0 {
            return HostBuffer::default();
        }
        let size = len.next_multiple_of(PAGE);
        let layout = Layout::from_size_align(size, PAGE).expect("a size that memory has");
        // SAFETY: the size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            handle_alloc_error(layout);
        }
        HostBuffer { pages: Some(Arc::new(Pages { pointer, layout })), len }
    }

    /// The first byte's address; of no bytes one that is not to be used.
    fn pointer(&self) -> *mut u8 {
        self.pages.as_ref().map_or(std::ptr::dangling_mut(), |p| p.pointer)
    }
}

impl std::fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostBuffer({} bytes)", self.len)
    }
}

impl Deref for HostBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes; the device only reads them.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len) }
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; no other `HostBuffer` has these pages, and an upload that is under way
        // holds the buffer itself.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len) }
    }
}

/// A host buffer's pages locked into memory and mapped into a device, until this is dropped. It
/// keeps the pages alive.
pub struct PageLock {
    context: Context,
    pages: Arc<Pages>,
    device: CUdeviceptr,
}

const REGISTER_PORTABLE: u32 = 1;
const REGISTER_DEVICEMAP: u32 = 2;

impl PageLock {
    /// Locks a buffer's pages.
    pub fn new(context: &Context, buffer: &HostBuffer) -> Result<PageLock, GpuError> {
        let pages = buffer.pages.clone();
        let pages = pages.ok_or_else(|| GpuError::new(GpuErrorKind::Driver, "no bytes to lock"))?;
        let api = context.enter()?;
        let mapped = context.device().can_map_host;
        let flags = REGISTER_PORTABLE | if mapped { REGISTER_DEVICEMAP } else { 0 };
        let (at, size) = (pages.pointer.cast::<c_void>(), pages.layout.size());
        // SAFETY: the pages are allocated as long as the lock lives.
        let status = unsafe { (api.host_register)(at, size, flags) };
        api.check(status, &format!("locking {size} bytes of host memory"))?;
        let mut lock = PageLock { context: context.clone(), pages, device: 0 };
        if mapped {
            // SAFETY: the memory was registered as mapped just above.
            let status = unsafe { (api.host_device_pointer)(&mut lock.device, at, 0) };
            api.check(status, "mapping host memory into the device")?;
        }
        Ok(lock)
    }

    /// True for the buffer that it locks.
    pub fn is_of(&self, buffer: &HostBuffer) -> bool {
        buffer.pages.as_ref().is_some_and(|pages| Arc::ptr_eq(&self.pages, pages))
    }

    /// True when nobody has the buffer any more.
    pub fn is_orphan(&self) -> bool {
        Arc::strong_count(&self.pages) == 1
    }
}

impl Drop for PageLock {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: registered in `new`, ended nowhere else.
            let status = unsafe { (api.host_unregister)(self.pages.pointer.cast()) };
            if let Err(e) = api.check(status, "unlocking host memory") {
                log::debug!("{e}");
            }
        }
    }
}

/// How the bytes of a host buffer get to the device.
pub enum UploadWay<'a> {
    /// By a copy engine; of pages that are not locked the driver makes a copy first.
    Copy,
    /// By a kernel `(host, device, bytes)` that reads the locked and mapped pages.
    Kernel(&'a Function, Launch),
}

/// Uploads of host buffers, one at a time. A buffer that is being uploaded belongs to this, so
/// that nobody can write to it meanwhile.
pub struct Uploader {
    done: Event,
    held: Option<HostBuffer>,
}

impl Uploader {
    /// An uploader of a context.
    pub fn new(context: &Context) -> Result<Uploader, GpuError> {
        Ok(Uploader { done: Event::blocking(context)?, held: None })
    }

    /// Queues the upload of the first `bytes` of a buffer, which is held until
    /// [`take_back`](Self::take_back), also when this fails. Allocates nothing.
    ///
    /// Panics when a buffer is held already.
    pub fn start(
        &mut self,
        buffer: HostBuffer,
        lock: Option<&PageLock>,
        bytes: usize,
        to: &DeviceSlice,
        way: &UploadWay<'_>,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        assert!(self.held.is_none(), "one upload at a time");
        let (len, from) = (buffer.len, buffer.pointer());
        let locked = lock.filter(|l| l.is_of(&buffer)).map(|l| l.device);
        self.held = Some(buffer);
        if bytes > len || bytes > to.len() {
            let what = format!("an upload of {bytes} bytes out of {len} into {}", to.len());
            return Err(GpuError::new(GpuErrorKind::Driver, what));
        }
        let api = stream.context().enter()?;
        let queued = match (way, locked) {
            (UploadWay::Kernel(function, launch), Some(device)) if device != 0 => {
                // SAFETY: both ranges were checked; the pages are held until the event that is
                // recorded below has passed, the device memory by the caller's slice, whose
                // freeing waits for the device.
                unsafe { function.launch(launch, &[device, to.address(), bytes as u64], stream) }
            }
            (UploadWay::Kernel(..), _) => Err(GpuError::new(
                GpuErrorKind::Driver,
                "the frame's memory is not mapped into the device",
            )),
            (UploadWay::Copy, _) => {
                // SAFETY: as above.
                let status =
                    unsafe { (api.memcpy_htod)(to.address(), from.cast(), bytes, stream.raw()) };
                api.check(status, "queueing an upload")
            }
        };
        // Also where queueing failed: part of it may be under way.
        self.done.record(stream).and(queued)
    }

    /// Holds a buffer that is not to be uploaded.
    ///
    /// Panics when a buffer is held already.
    pub fn hold(&mut self, buffer: HostBuffer) {
        assert!(self.held.is_none(), "one upload at a time");
        self.held = Some(buffer);
    }

    /// Waits for the upload and gives the buffer back; also when the device is lost, which ends
    /// all it does.
    pub fn take_back(&mut self) -> (Option<HostBuffer>, Result<(), GpuError>) {
        let Some(buffer) = self.held.take() else { return (None, Ok(())) };
        (Some(buffer), self.done.synchronize())
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        let (_, waited) = self.take_back();
        if let Err(e) = waited {
            log::debug!("{e}");
        }
    }
}
