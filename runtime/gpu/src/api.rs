//! The driver's functions, found at run time.
//!
//! Results are plain integers: `CUresult` as a closed Rust enum filled by foreign code would
//! be undefined behaviour for a code newer than the bindings. A library or function that is
//! missing is an error, never a panic.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys as cu;

use crate::error::{GpuError, GpuErrorKind};

/// A `CUresult` as the number the driver gave.
pub(crate) type Status = c_int;

macro_rules! api {
    (
        required { $($name:ident: fn($($arg:ty),* $(,)?) = $symbol:literal;)* }
        optional { $($opt:ident: fn($($oarg:ty),* $(,)?) = $osymbol:literal;)* }
    ) => {
        /// Function pointers of the driver library, which stays loaded for good.
        #[allow(missing_docs)]
        pub(crate) struct Api {
            $(pub $name: unsafe extern "C" fn($($arg),*) -> Status,)*
            $(pub $opt: Option<unsafe extern "C" fn($($oarg),*) -> Status>,)*
        }

        impl Api {
            fn from_library(library: &'static libloading::Library) -> Result<Api, GpuError> {
                Ok(Api {
                    $($name: {
                        // SAFETY: the symbol is a CUDA driver function and its type is the
                        // one cuda.h declares; the library is never unloaded.
                        let found = unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> Status>($symbol.as_bytes()) };
                        *found.map_err(|_| GpuError::new(GpuErrorKind::OldDriver, format!(
                            "the NVIDIA driver has no function {}: it is older than this program needs (CUDA 11.4, JetPack 5); update the driver or JetPack", $symbol)))?
                    },)*
                    $($opt: {
                        // SAFETY: as above; absent in older drivers, which is fine.
                        let found = unsafe { library.get::<unsafe extern "C" fn($($oarg),*) -> Status>($osymbol.as_bytes()) };
                        found.ok().map(|f| *f)
                    },)*
                })
            }
        }
    };
}

api! {
    required {
    init: fn(c_uint) = "cuInit";
    driver_version: fn(*mut c_int) = "cuDriverGetVersion";
    device_count: fn(*mut c_int) = "cuDeviceGetCount";
    device_get: fn(*mut cu::CUdevice, c_int) = "cuDeviceGet";
    device_name: fn(*mut c_char, c_int, cu::CUdevice) = "cuDeviceGetName";
    device_attribute: fn(*mut c_int, c_int, cu::CUdevice) = "cuDeviceGetAttribute";
    device_total_mem: fn(*mut usize, cu::CUdevice) = "cuDeviceTotalMem_v2";
    ctx_retain: fn(*mut cu::CUcontext, cu::CUdevice) = "cuDevicePrimaryCtxRetain";
    ctx_release: fn(cu::CUdevice) = "cuDevicePrimaryCtxRelease_v2";
    ctx_set_current: fn(cu::CUcontext) = "cuCtxSetCurrent";
    ctx_synchronize: fn() = "cuCtxSynchronize";
    mem_info: fn(*mut usize, *mut usize) = "cuMemGetInfo_v2";
    mem_alloc: fn(*mut cu::CUdeviceptr, usize) = "cuMemAlloc_v2";
    mem_free: fn(cu::CUdeviceptr) = "cuMemFree_v2";
    host_alloc: fn(*mut *mut c_void, usize, c_uint) = "cuMemHostAlloc";
    host_free: fn(*mut c_void) = "cuMemFreeHost";
    host_register: fn(*mut c_void, usize, c_uint) = "cuMemHostRegister_v2";
    host_unregister: fn(*mut c_void) = "cuMemHostUnregister";
    host_device_pointer: fn(*mut cu::CUdeviceptr, *mut c_void, c_uint) = "cuMemHostGetDevicePointer_v2";
    memcpy_htod: fn(cu::CUdeviceptr, *const c_void, usize, cu::CUstream) = "cuMemcpyHtoDAsync_v2";
    memcpy_dtoh: fn(*mut c_void, cu::CUdeviceptr, usize, cu::CUstream) = "cuMemcpyDtoHAsync_v2";
    memcpy_dtod: fn(cu::CUdeviceptr, cu::CUdeviceptr, usize, cu::CUstream) = "cuMemcpyDtoDAsync_v2";
    memset_d8: fn(cu::CUdeviceptr, u8, usize, cu::CUstream) = "cuMemsetD8Async";
    stream_create: fn(*mut cu::CUstream, c_uint) = "cuStreamCreate";
    stream_create_with_priority: fn(*mut cu::CUstream, c_uint, c_int) = "cuStreamCreateWithPriority";
    stream_priority_range: fn(*mut c_int, *mut c_int) = "cuCtxGetStreamPriorityRange";
    stream_destroy: fn(cu::CUstream) = "cuStreamDestroy_v2";
    stream_synchronize: fn(cu::CUstream) = "cuStreamSynchronize";
    stream_wait_event: fn(cu::CUstream, cu::CUevent, c_uint) = "cuStreamWaitEvent";
    stream_begin_capture: fn(cu::CUstream, c_uint) = "cuStreamBeginCapture_v2";
    stream_end_capture: fn(cu::CUstream, *mut cu::CUgraph) = "cuStreamEndCapture";
    graph_instantiate: fn(*mut cu::CUgraphExec, cu::CUgraph, u64) = "cuGraphInstantiateWithFlags";
    graph_upload: fn(cu::CUgraphExec, cu::CUstream) = "cuGraphUpload";
    graph_launch: fn(cu::CUgraphExec, cu::CUstream) = "cuGraphLaunch";
    graph_exec_destroy: fn(cu::CUgraphExec) = "cuGraphExecDestroy";
    graph_destroy: fn(cu::CUgraph) = "cuGraphDestroy";
    event_create: fn(*mut cu::CUevent, c_uint) = "cuEventCreate";
    event_destroy: fn(cu::CUevent) = "cuEventDestroy_v2";
    event_record: fn(cu::CUevent, cu::CUstream) = "cuEventRecord";
    event_query: fn(cu::CUevent) = "cuEventQuery";
    event_record_with_flags: fn(cu::CUevent, cu::CUstream, c_uint) = "cuEventRecordWithFlags";
    event_synchronize: fn(cu::CUevent) = "cuEventSynchronize";
    event_elapsed: fn(*mut f32, cu::CUevent, cu::CUevent) = "cuEventElapsedTime";
    module_load_data: fn(*mut cu::CUmodule, *const c_void) = "cuModuleLoadData";
    module_unload: fn(cu::CUmodule) = "cuModuleUnload";
    module_get_function: fn(*mut cu::CUfunction, cu::CUmodule, *const c_char) = "cuModuleGetFunction";
    func_set_attribute: fn(cu::CUfunction, c_int, c_int) = "cuFuncSetAttribute";
    func_get_attribute: fn(*mut c_int, c_int, cu::CUfunction) = "cuFuncGetAttribute";
    launch_kernel: fn(cu::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, cu::CUstream, *mut *mut c_void, *mut *mut c_void) = "cuLaunchKernel";
    error_name: fn(Status, *mut *const c_char) = "cuGetErrorName";
    error_string: fn(Status, *mut *const c_char) = "cuGetErrorString";
    }
    optional {
    launch_kernel_ex: fn(*const cu::CUlaunchConfig, cu::CUfunction, *mut *mut c_void, *mut *mut c_void) = "cuLaunchKernelEx";
    }
}

/// The driver, loaded and initialised once per process.
pub(crate) fn api() -> Result<&'static Api, GpuError> {
    static API: OnceLock<Result<Api, GpuError>> = OnceLock::new();
    API.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Api, GpuError> {
    // SAFETY: the check opens and closes the driver library; its initialisers are NVIDIA's
    // and take no input of ours.
    if !unsafe { cu::is_culib_present() } {
        return Err(GpuError::new(
            GpuErrorKind::NoDriver,
            "the NVIDIA driver library libcuda.so.1 was not found; on a Jetson it comes with \
             JetPack (package nvidia-l4t-cuda), elsewhere with the NVIDIA driver; in a container \
             start it with the NVIDIA runtime",
        ));
    }
    // SAFETY: the library was found just now, so this does not panic; it stays loaded.
    let library = unsafe { cu::culib() };
    let api = Api::from_library(library)?;
    // SAFETY: cuInit takes no pointer.
    let status = unsafe { (api.init)(0) };
    api.check(status, "starting the CUDA driver (cuInit)").map_err(|e| start_error(e, status))?;
    Ok(api)
}

/// An error of cuInit with what to do about it.
fn start_error(e: GpuError, status: Status) -> GpuError {
    let (kind, help) = match status {
        2 => return e,
        34 => (
            GpuErrorKind::NoDriver,
            "libcuda.so.1 is the toolkit's stub, not the driver; take the folder `stubs` out of \
             LD_LIBRARY_PATH",
        ),
        35 | 803 | 804 => (
            GpuErrorKind::OldDriver,
            "the driver's library and its kernel module do not belong together; after a driver \
             update restart the machine, in a container update the host's driver",
        ),
        100 | 101 => (
            GpuErrorKind::NoDevice,
            "the driver sees no NVIDIA GPU; in a container start it with the NVIDIA runtime, and \
             look at CUDA_VISIBLE_DEVICES",
        ),
        _ => (
            GpuErrorKind::NoDriver,
            "the driver does not start: are its kernel modules loaded and may this user open \
             /dev/nvidia* (on a Jetson: is the user in group video)?",
        ),
    };
    GpuError::new(kind, format!("{e}; {help}"))
}

impl Api {
    /// A driver call's status as a result; `what` says what was being done.
    pub(crate) fn check(&self, status: Status, what: &str) -> Result<(), GpuError> {
        if status == 0 {
            return Ok(());
        }
        let kind = match status {
            2 => GpuErrorKind::OutOfMemory,
            100 | 101 => GpuErrorKind::NoDevice,
            35 | 803 => GpuErrorKind::OldDriver,
            209 => GpuErrorKind::OtherDevice,
            // Device code that this device cannot take, or without the kernel.
            200 | 218 | 222 | 500 => GpuErrorKind::BadCode,
            // Faults after which every call of the context fails; 999 is what is left of a device
            // that fell off the bus.
            214 | 219 | 700 | 702 | 709 | 710 | 714..=719 | 46 | 226 | 999 => {
                GpuErrorKind::ContextLost
            }
            _ => GpuErrorKind::Driver,
        };
        let name = self.text(self.error_name, status);
        let words = self.text(self.error_string, status);
        Err(GpuError::new(kind, format!("{what}: {name} ({status}): {words}")))
    }

    fn text(
        &self,
        of: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
        status: Status,
    ) -> String {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: `text` is a valid place for one pointer.
        let got = unsafe { of(status, &mut text) };
        if got != 0 || text.is_null() {
            return "unknown error".to_string();
        }
        // SAFETY: on success the driver gives a static, NUL-terminated string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}
