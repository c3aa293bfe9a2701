//! Modules (cubins) and their kernels.

use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::sys as cu;

use crate::context::Context;
use crate::error::{GpuError, GpuErrorKind};
use crate::execution::Stream;

struct Inner {
    context: Context,
    handle: cu::CUmodule,
}

// SAFETY: a module handle may be used from any thread.
unsafe impl Send for Inner {}
// SAFETY: the driver allows concurrent look-ups.
unsafe impl Sync for Inner {}

/// Device code loaded into a context.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

/// A kernel of a module.
#[derive(Clone)]
pub struct Function {
    module: Module,
    handle: cu::CUfunction,
}

// SAFETY: a function handle may be used from any thread while its module lives.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

const MAX_DYNAMIC_SHARED: c_int = 8;
const REQUIRED_CLUSTER: [c_int; 3] = [11, 12, 13];
const NON_PORTABLE_CLUSTER: c_int = 14;
const PREFERRED_CARVEOUT: c_int = 9;
const CARVEOUT_DEFAULT: c_int = -1;
/// Compute capability 9.0 brought clusters; its drivers know the attributes.
const FIRST_WITH_CLUSTERS: (u32, u32) = (9, 0);
/// Blocks of a cluster that every GPU with clusters takes.
const PORTABLE_CLUSTER: u32 = 8;
const ATTRIBUTE_LOCAL_BYTES: c_int = 3;
const ATTRIBUTE_REGISTERS: c_int = 4;

/// A kernel's launch geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// May start before the kernel before it has ended (programmatic dependent launch): the
    /// kernel waits itself before it reads what the other writes. Compute capability 9.0 on.
    pub dependent: bool,
}

impl Module {
    /// Loads a cubin, an ELF image. The code in it is trusted to touch only the memory that its
    /// kernels' arguments say (nothing but the device's own protection between processes stops
    /// code that does not). Its size is checked against the ELF header because the
    /// driver takes no length.
    pub fn load(context: &Context, cubin: &[u8]) -> Result<Module, GpuError> {
        if elf_size(cubin).is_none_or(|size| size > cubin.len()) {
            return Err(GpuError::new(
                GpuErrorKind::BadCode,
                "the device code is not a whole ELF image",
            ));
        }
        let api = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the image is a whole ELF file by its own header, checked above.
        let status = unsafe { (api.module_load_data)(&mut handle, cubin.as_ptr().cast()) };
        api.check(status, "loading device code")?;
        Ok(Module { inner: Arc::new(Inner { context: context.clone(), handle }) })
    }

    /// Loads PTX, which the driver assembles for the device: kernels made for an older
    /// architecture, checked on a newer one.
    pub fn load_ptx(context: &Context, ptx: &str) -> Result<Module, GpuError> {
        let text = CString::new(ptx)
            .map_err(|_| GpuError::new(GpuErrorKind::Driver, "PTX with a NUL byte in it"))?;
        let api = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text is NUL-terminated, which is how the driver finds the end of PTX.
        let status = unsafe { (api.module_load_data)(&mut handle, text.as_ptr().cast()) };
        api.check(status, "assembling PTX")?;
        Ok(Module { inner: Arc::new(Inner { context: context.clone(), handle }) })
    }

    /// Finds a kernel by name.
    pub fn function(&self, name: &str) -> Result<Function, GpuError> {
        let api = self.inner.context.enter()?;
        let text = CString::new(name).map_err(|_| {
            GpuError::new(GpuErrorKind::Driver, "a kernel's name contains a NUL byte")
        })?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for one handle, the name is NUL-terminated.
        let status =
            unsafe { (api.module_get_function)(&mut handle, self.inner.handle, text.as_ptr()) };
        api.check(status, &format!("finding kernel '{name}'"))?;
        Ok(Function { module: self.clone(), handle })
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Function({:p})", self.handle)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: loaded in `load`; no function of it is left (each holds the module).
            unsafe { (api.module_unload)(self.handle) };
        }
    }
}

impl Function {
    pub(crate) fn ordinal(&self) -> usize {
        self.module.inner.context.device().ordinal
    }

    fn allow_shared(&self, bytes: u32) -> Result<(), GpuError> {
        let api = self.module.inner.context.enter()?;
        // SAFETY: the handle is alive.
        let status =
            unsafe { (api.func_set_attribute)(self.handle, MAX_DYNAMIC_SHARED, bytes as c_int) };
        api.check(status, &format!("asking for {bytes} bytes of shared memory"))
    }

    /// Asks for this much of a multiprocessor's nearest memory as shared memory, percent; the rest
    /// is its cache. `None`: what the driver finds for the kernel. It gives a block what it needs in
    /// any case. Between kernels that want different shares a multiprocessor must become idle (CUDA
    /// Driver API, `CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT`).
    pub fn prefer_shared(&self, percent: Option<u8>) -> Result<(), GpuError> {
        let api = self.module.inner.context.enter()?;
        // SAFETY: the handle is alive.
        let status = unsafe {
            (api.func_set_attribute)(
                self.handle,
                PREFERRED_CARVEOUT,
                percent.map_or(CARVEOUT_DEFAULT, c_int::from),
            )
        };
        api.check(status, "asking for a share of shared memory")
    }

    /// Allows launches with this much dynamic shared memory, bytes, and in clusters of the size
    /// that the kernel was compiled for.
    pub fn prepare(&self, shared: u32) -> Result<(), GpuError> {
        self.allow_shared(shared)?;
        if self.module.inner.context.device().compute < FIRST_WITH_CLUSTERS {
            return Ok(());
        }
        let mut blocks = 1;
        for side in REQUIRED_CLUSTER {
            blocks *= self.attribute(side)?.max(1);
        }
        if blocks <= PORTABLE_CLUSTER {
            return Ok(());
        }
        let api = self.module.inner.context.enter()?;
        // SAFETY: the handle is alive.
        let status = unsafe { (api.func_set_attribute)(self.handle, NON_PORTABLE_CLUSTER, 1) };
        api.check(status, &format!("asking for clusters of {blocks} blocks"))
    }

    fn attribute(&self, which: c_int) -> Result<u32, GpuError> {
        let api = self.module.inner.context.enter()?;
        let mut value = 0;
        // SAFETY: `value` is a place for one int, the handle is alive.
        let status = unsafe { (api.func_get_attribute)(&mut value, which, self.handle) };
        api.check(status, "reading a kernel's resources")?;
        Ok(value.max(0) as u32)
    }

    /// Registers a thread uses.
    pub fn registers(&self) -> Result<u32, GpuError> {
        self.attribute(ATTRIBUTE_REGISTERS)
    }

    /// Local memory (spills, arrays) a thread uses, bytes.
    pub fn local_bytes(&self) -> Result<u32, GpuError> {
        self.attribute(ATTRIBUTE_LOCAL_BYTES)
    }

    /// Queues a launch. Arguments are 64-bit values, passed in order (device addresses and
    /// integers alike; the kernels' parameters are all 8 bytes wide). At most 16.
    ///
    /// # Safety
    /// The kernel takes these arguments, and for every memory range it reads or writes, that
    /// range is allocated, and free of conflicting use, until the stream has passed it (for a
    /// captured launch: whenever the graph runs).
    pub unsafe fn launch(
        &self,
        launch: &Launch,
        arguments: &[u64],
        stream: &Stream,
    ) -> Result<(), GpuError> {
        let api = self.module.inner.context.enter()?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); 16];
        assert!(arguments.len() <= pointers.len(), "at most 16 kernel arguments");
        for (p, a) in pointers.iter_mut().zip(arguments) {
            *p = std::ptr::from_ref(a).cast_mut().cast();
        }
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let status = match (launch.dependent, api.launch_kernel_ex) {
            (true, Some(launch_ex)) => {
                let mut attribute = cu::CUlaunchAttribute {
                    id: cu::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                    pad: [0; 4],
                    value: cu::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
                };
                let config = cu::CUlaunchConfig {
                    gridDimX: gx,
                    gridDimY: gy,
                    gridDimZ: gz,
                    blockDimX: bx,
                    blockDimY: by,
                    blockDimZ: bz,
                    sharedMemBytes: launch.shared,
                    hStream: stream.raw(),
                    attrs: &mut attribute,
                    numAttrs: 1,
                };
                // SAFETY: config and attribute live through the call; the rest is the
                // caller's promise.
                unsafe {
                    launch_ex(&config, self.handle, pointers.as_mut_ptr(), std::ptr::null_mut())
                }
            }
            // SAFETY: argument pointers live through the call; the rest is the caller's promise.
            _ => unsafe {
                (api.launch_kernel)(
                    self.handle,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    launch.shared,
                    stream.raw(),
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            },
        };
        api.check(status, "launching a kernel")
    }
}

/// The size of a 64-bit little-endian ELF image by its own header: the end of the section
/// table, which cubins have last or before the program headers.
fn elf_size(image: &[u8]) -> Option<usize> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table =
        |offset: u64, size: u16, count: u16| offset.checked_add(u64::from(size) * u64::from(count));
    let programs = table(u64_at(32)?, u16_at(54)?, u16_at(56)?)?;
    let sections_at = u64_at(40)?;
    let (entry, count) = (u16_at(58)?, u16_at(60)?);
    let mut end = programs.max(table(sections_at, entry, count)?);
    for i in 0..usize::from(count) {
        let at = usize::try_from(sections_at).ok()?.checked_add(i * usize::from(entry))?;
        let kind = u32::from_le_bytes(image.get(at + 4..at + 8)?.try_into().ok()?);
        // SHT_NOBITS sections occupy no bytes of the file.
        if kind != 8 {
            end = end.max(u64_at(at + 24)?.checked_add(u64_at(at + 32)?)?);
        }
    }
    usize::try_from(end).ok()
}
