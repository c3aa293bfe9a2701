//! The functions of `libcuda.so.1`, with the signatures and the contracts of cuda.h: pointers
//! are null or valid for what the function reads or writes there.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::size_of;
use std::sync::Arc;

use crate::driver::{Driver, Event, EventState, Function, Graph, Instance, Module, Needs, call};
use crate::elf;
use crate::kernel::{Geometry, Kernel};
use crate::memory::Kind;
use crate::queue::{Executable, Launch, Stream, Work};
use crate::status::*;

/// A place for a result.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// The `i`th of an array of results.
    pub(crate) fn at(first: *mut T, i: usize) -> Out<T> {
        Out(if first.is_null() { first } else { first.wrapping_add(i) })
    }

    pub(crate) fn put(&self, value: T) -> Result<(), Status> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so by cuda.h's contract a place for one `T`.
        unsafe { self.0.write(value) };
        Ok(())
    }
}

/// Something to read.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    fn get(&self, i: usize) -> Result<T, Status> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller says with `i` how many there are, by cuda.h's contract of the
        // function; not aligned in every case.
        Ok(unsafe { self.0.wrapping_add(i).read_unaligned() })
    }
}

/// A NUL-terminated text.
pub(crate) fn text(at: *const c_char) -> Result<String, Status> {
    if at.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, so NUL-terminated by the contract of every function that takes one.
    Ok(unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: u64,
    attributes: *const LaunchAttribute,
    count: c_uint,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    id: c_uint,
    pad: [u8; 4],
    value: [u32; 16],
}

const CLUSTER_DIMENSION: c_uint = 4;
const DEPENDENT_LAUNCH: c_uint = 6;

macro_rules! functions {
    ($($needs:ident fn $name:ident($($arg:ident: $kind:ty),* $(,)?) |$d:ident, $c:pat_param| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> Status {
            call(stringify!($name), Needs::$needs, |$d: &mut Driver, $c: u64| $body)
        }
    )*};
}

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
    Context fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |d, current| {
        let (left, all) = d.free_memory(current);
        free.put(left as usize)?;
        total.put(all as usize)
    };
    Unsafe fn cuMemAlloc_v2(at: Out<u64>, bytes: usize) |d, current| {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if bytes as u64 > d.free_memory(current).0 {
            return Err(OUT_OF_MEMORY);
        }
        let address = d.memory.allocate(current, bytes);
        let used = d.memory.used().0;
        d.ledger.entries.peak_bytes = d.ledger.entries.peak_bytes.max(used);
        at.put(address)
    };
    UnsafeRelease fn cuMemFree_v2(at: u64) |d, current| {
        // The driver waits for what may still use the memory.
        let waited = d.run_context(current);
        if let Err(why) = d.memory.free(at) {
            d.ledger.problem(why);
            return Err(INVALID_VALUE);
        }
        waited
    };
    Unsafe fn cuMemHostAlloc(at: Out<usize>, bytes: usize, flags: c_uint) |d, current| {
        if bytes == 0 || flags > 7 {
            return Err(INVALID_VALUE);
        }
        let integrated = d.description.devices[d.contexts[&current].device].integrated;
        if integrated && bytes as u64 > d.free_memory(current).0 {
            return Err(OUT_OF_MEMORY);
        }
        let host = d.memory.allocate_host(current, bytes).ok_or(OUT_OF_MEMORY)?;
        at.put(host)
    };
    UnsafeRelease fn cuMemFreeHost(at: usize) |d, current| {
        let waited = d.run_context(current);
        if let Err(why) = d.memory.free_host(at, Kind::Pinned) {
            d.ledger.problem(why);
            return Err(INVALID_VALUE);
        }
        waited
    };
    Unsafe fn cuMemHostRegister_v2(at: usize, bytes: usize, flags: c_uint) |d, current| {
        if at == 0 || bytes == 0 || flags > 15 {
            return Err(INVALID_VALUE);
        }
        d.memory.map_host(current, Kind::Registered, at, bytes);
        Ok(())
    };
    UnsafeRelease fn cuMemHostUnregister(at: usize) |d, current| {
        let waited = d.run_context(current);
        if let Err(why) = d.memory.free_host(at, Kind::Registered) {
            d.ledger.problem(why);
            return Err(INVALID_VALUE);
        }
        waited
    };
    Context fn cuMemHostGetDevicePointer_v2(device: Out<u64>, host: usize, flags: c_uint) |d, _| {
        let Some((at, base, _)) = d.memory.find_host(host).filter(|_| flags == 0) else {
            return Err(INVALID_VALUE);
        };
        device.put(at + (host - base) as u64)
    };
    Context fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, at: u64) |d, _| {
        let (first, region) = d.memory.find(at).ok_or(NOT_FOUND)?;
        let len = region.len;
        if !base.0.is_null() {
            base.put(first)?;
        }
        if !size.0.is_null() {
            size.put(len)?;
        }
        Ok(())
    };
    Context fn cuPointerGetAttribute(value: *mut u8, which: c_int, at: u64) |d, _| {
        let (first, region) = d.memory.find(at).ok_or(INVALID_VALUE)?;
        match which {
            1 => Out(value.cast::<u64>()).put(region.context),
            2 => Out(value.cast::<u32>()).put(if region.kind == Kind::Device { 2 } else { 1 }),
            3 => Out(value.cast::<u64>()).put(at),
            11 => Out(value.cast::<u64>()).put(first),
            12 => Out(value.cast::<usize>()).put(region.len),
            _ => Err(INVALID_VALUE),
        }
    };
    Context fn cuMemcpyHtoDAsync_v2(to: u64, from: usize, bytes: usize, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        if from == 0 && bytes > 0 {
            return Err(INVALID_VALUE);
        }
        if !d.is_pinned(from) && d.stream(stream)?.capture.is_some() {
            d.ledger.problem("a copy from pageable memory is captured");
            return Err(CAPTURE_UNSUPPORTED);
        }
        let from = d.source(from, bytes)?;
        d.submit(stream, Work::Upload { to, from })
    };
    Context fn cuMemcpyDtoHAsync_v2(to: usize, from: u64, bytes: usize, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        if to == 0 && bytes > 0 {
            return Err(INVALID_VALUE);
        }
        let pageable = !d.is_pinned(to);
        if pageable && d.stream(stream)?.capture.is_some() {
            d.ledger.problem("a copy to pageable memory is captured");
            return Err(CAPTURE_UNSUPPORTED);
        }
        d.submit(stream, Work::Download { to, from, len: bytes })?;
        // To pageable memory the call returns when the bytes are there.
        if pageable { d.run_stream(stream, None) } else { Ok(()) }
    };
    Context fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        d.submit(stream, Work::Copy { to, from, len: bytes })
    };
    Context fn cuMemsetD8Async(at: u64, value: u8, count: usize, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        d.submit(stream, Work::Fill { at, pattern: vec![value], count })
    };
    Context fn cuMemsetD32Async(at: u64, value: u32, count: usize, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        d.submit(stream, Work::Fill { at, pattern: value.to_le_bytes().to_vec(), count })
    };
    Context fn cuStreamCreate(stream: Out<u64>, flags: c_uint) |d, current| {
        new_stream(d, stream, flags, current)
    };
    Context fn cuStreamCreateWithPriority(stream: Out<u64>, flags: c_uint, _priority: c_int) |d, current| {
        new_stream(d, stream, flags, current)
    };
    Context fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |_d, _| {
        least.put(0)?;
        greatest.put(-5)
    };
    Release fn cuStreamDestroy_v2(stream: u64) |d, _| {
        d.stream(stream)?;
        // What is queued still runs.
        let ran = d.run_stream(stream, None);
        d.leave_capture(stream);
        d.end_of(|d| &mut d.streams, "stream", stream)?;
        ran
    };
    Context fn cuStreamSynchronize(stream: u64) |d, _| {
        d.refuse_capturing(stream)?;
        d.run_stream(stream, None)
    };
    Context fn cuStreamQuery(stream: u64) |d, _| {
        d.refuse_capturing(stream)?;
        if d.stream(stream)?.queue.is_empty() {
            return Ok(());
        }
        d.run_stream(stream, None)?;
        Err(NOT_READY)
    };
    Context fn cuStreamIsCapturing(stream: u64, state: Out<c_int>) |d, _| {
        state.put(c_int::from(d.stream(stream)?.capture.is_some()))
    };
    Context fn cuStreamWaitEvent(stream: u64, event: u64, flags: c_uint) |d, _| {
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        d.wait(stream, event)
    };
    Context fn cuStreamBeginCapture_v2(stream: u64, mode: c_uint) |d, _| d.begin_capture(stream, mode);
    Context fn cuStreamEndCapture(stream: u64, graph: Out<u64>) |d, current| {
        let nodes = match d.end_capture(stream) {
            Ok(nodes) => nodes,
            Err(status) => {
                graph.put(0)?;
                return Err(status);
            }
        };
        let handle = d.handle();
        d.graphs.insert(handle, Graph { context: current, nodes });
        graph.put(handle)
    };
    Context fn cuGraphInstantiateWithFlags(instance: Out<u64>, graph: u64, flags: u64) |d, current| {
        if flags > 15 {
            return Err(INVALID_VALUE);
        }
        let Some(found) = d.graphs.get(&graph) else {
            d.ledger.problem("a graph that is not there is instantiated");
            return Err(INVALID_VALUE);
        };
        let executable = Executable::new(found.nodes.clone());
        let handle = d.handle();
        d.instances.insert(handle, Instance { context: current, executable });
        instance.put(handle)
    };
    Context fn cuGraphUpload(instance: u64, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        d.refuse_capturing(stream)?;
        find_instance(d, instance).map(|_| ())
    };
    Context fn cuGraphLaunch(instance: u64, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        let executable = find_instance(d, instance)?;
        d.submit(stream, Work::Graph(executable))
    };
    Release fn cuGraphExecDestroy(instance: u64) |d, _| {
        d.end_of(|d| &mut d.instances, "executable graph", instance).map(|_| ())
    };
    Release fn cuGraphDestroy(graph: u64) |d, _| {
        d.end_of(|d| &mut d.graphs, "graph", graph).map(|_| ())
    };
    Context fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: Out<usize>) |d, _| {
        let found = d.graphs.get(&graph).ok_or(INVALID_VALUE)?;
        // Only their number is given.
        if nodes.is_null() { count.put(found.nodes.len()) } else { Err(NOT_SUPPORTED) }
    };
    Context fn cuEventCreate(event: Out<u64>, flags: c_uint) |d, current| {
        if flags > 7 {
            return Err(INVALID_VALUE);
        }
        let handle = d.handle();
        let timed = flags & 2 == 0;
        let new = Event { context: current, timed, state: EventState::Never, asked: false };
        d.events.insert(handle, new);
        event.put(handle)
    };
    Release fn cuEventDestroy_v2(event: u64) |d, _| {
        d.end_of(|d| &mut d.events, "event", event).map(|_| ())
    };
    Context fn cuEventRecord(event: u64, stream: u64) |d, _| {
        d.event(event)?.asked = false;
        d.record(event, stream, false)
    };
    Context fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) |d, _| {
        d.event(event)?.asked = false;
        d.record(event, stream, flags & 1 != 0)
    };
    Context fn cuEventSynchronize(event: u64) |d, _| {
        pass(d, event)
    };
    Context fn cuEventQuery(event: u64) |d, _| {
        let asked = std::mem::replace(&mut d.event(event)?.asked, true);
        let done = match &d.event(event)?.state {
            EventState::Recorded(point) => point.done(),
            _ => true,
        };
        pass(d, event)?;
        if done || asked { Ok(()) } else { Err(NOT_READY) }
    };
    Context fn cuEventElapsedTime(ms: Out<f32>, first: u64, last: u64) |d, _| {
        elapsed(d, ms, first, last)
    };
    Unsafe fn cuModuleLoadData(module: Out<u64>, image: *const u8) |d, current| {
        load_module(d, module, image, current)
    };
    Unsafe fn cuModuleLoadDataEx(module: Out<u64>, image: *const u8, _count: c_uint, _options: *const c_void, _values: *const c_void) |d, current| {
        load_module(d, module, image, current)
    };
    UnsafeRelease fn cuModuleUnload(module: u64) |d, current| {
        let waited = d.run_context(current);
        d.end_of(|d| &mut d.modules, "module", module)?;
        d.functions.retain(|_, f| f.module != module);
        waited
    };
    Context fn cuModuleGetFunction(function: Out<u64>, module: u64, name: *const c_char) |d, _| {
        let name = text(name)?;
        let Some(found) = d.modules.get(&module) else {
            d.ledger.problem("a kernel is looked for in a module that is not there");
            return Err(INVALID_HANDLE);
        };
        if let Some(&handle) = found.functions.get(&name) {
            return function.put(handle);
        }
        let context = found.context;
        let kernel = match Kernel::find(&found.source, &name).ok_or(NOT_FOUND)? {
            Ok(kernel) => Arc::new(kernel),
            Err(why) => {
                d.ledger.problem(why);
                return Err(INVALID_IMAGE);
            }
        };
        let handle = d.handle();
        d.functions.insert(handle, Function { context, module, kernel, max_shared: 48 << 10 });
        if let Some(m) = d.modules.get_mut(&module) {
            m.functions.insert(name, handle);
        }
        function.put(handle)
    };
    Context fn cuFuncSetAttribute(function: u64, which: c_int, value: c_int) |d, current| {
        let most = d.description.devices[d.contexts[&current].device].shared_per_block;
        let function = d.function(function)?;
        match which {
            8 if value >= 0 && value as u32 <= most => function.max_shared = value,
            9 if (-1..=100).contains(&value) => {}
            14 if (0..=1).contains(&value) => {}
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    };
    Context fn cuFuncGetAttribute(value: Out<c_int>, which: c_int, function: u64) |d, _| {
        let function = d.function(function)?;
        value.put(match which {
            0 => function.kernel.geometry().block.iter().product::<u32>() as c_int,
            1..=3 => 0,
            4 => 40,
            5 | 6 => 90,
            8 => function.max_shared,
            11..=13 => 0,
            _ => return Err(INVALID_VALUE),
        })
    };
    Context fn cuLaunchKernel(function: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: u64, arguments: In<*const u64>, extra: *const c_void) |d, current| {
        if !extra.is_null() {
            return Err(NOT_SUPPORTED);
        }
        launch(d, current, function, ([gx, gy, gz], [bx, by, bz], shared), stream, &arguments)
    };
    Context fn cuLaunchKernelEx(config: In<LaunchConfig>, function: u64, arguments: In<*const u64>, extra: *const c_void) |d, current| {
        let c = config.get(0)?;
        if !extra.is_null() {
            return Err(NOT_SUPPORTED);
        }
        let sm = d.description.devices[d.contexts[&current].device].sm;
        for i in 0..c.count as usize {
            let attribute = In(c.attributes).get(i)?;
            match attribute.id {
                0 => {}
                DEPENDENT_LAUNCH | CLUSTER_DIMENSION if sm < 90 => return Err(NOT_SUPPORTED),
                DEPENDENT_LAUNCH => {}
                CLUSTER_DIMENSION => {
                    let cluster = &attribute.value[..3];
                    let whole = c.grid.iter().zip(cluster).all(|(g, &k)| k > 0 && g % k == 0);
                    if !whole || cluster.iter().product::<u32>() > 8 {
                        return Err(INVALID_VALUE);
                    }
                }
                _ => return Err(NOT_SUPPORTED),
            }
        }
        launch(d, current, function, (c.grid, c.block, c.shared), c.stream, &arguments)
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: Status, name: Out<*const c_char>) -> Status {
    let found = words(status).map_or(std::ptr::null(), |(name, _)| name.as_ptr());
    name.put(found).err().unwrap_or(if found.is_null() { INVALID_VALUE } else { 0 })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(status: Status, words_at: Out<*const c_char>) -> Status {
    let found = words(status).map_or(std::ptr::null(), |(_, words)| words.as_ptr());
    words_at.put(found).err().unwrap_or(if found.is_null() { INVALID_VALUE } else { 0 })
}

fn new_stream(d: &mut Driver, stream: Out<u64>, flags: c_uint, context: u64) -> Result<(), Status> {
    if flags > 1 {
        return Err(INVALID_VALUE);
    }
    let handle = d.handle();
    let time = d.streams.values().map(|s| s.time).fold(0.0, f64::max);
    d.streams.insert(handle, Stream { context, queue: Default::default(), time, capture: None });
    stream.put(handle)
}

fn find_instance(d: &mut Driver, instance: u64) -> Result<Arc<Executable>, Status> {
    match d.instances.get(&instance) {
        Some(found) => Ok(found.executable.clone()),
        None => {
            d.ledger.problem("an executable graph that is not there is used");
            Err(INVALID_VALUE)
        }
    }
}

/// Runs what an event waits for.
fn pass(d: &mut Driver, event: u64) -> Result<(), Status> {
    let point = match &d.event(event)?.state {
        EventState::Never => return Ok(()),
        EventState::Captured { .. } => return Err(CAPTURED_EVENT),
        EventState::Recorded(point) => point.clone(),
    };
    if !point.done() {
        d.run_stream(point.stream, Some(&point))?;
    }
    Ok(())
}

fn elapsed(d: &mut Driver, ms: Out<f32>, first: u64, last: u64) -> Result<(), Status> {
    let mut times = [0.0; 2];
    for (event, time) in [first, last].into_iter().zip(&mut times) {
        let event = d.event(event)?;
        *time = match &event.state {
            _ if !event.timed => return Err(INVALID_HANDLE),
            EventState::Never => return Err(INVALID_HANDLE),
            EventState::Captured { .. } => return Err(CAPTURED_EVENT),
            EventState::Recorded(point) if !point.done() => return Err(NOT_READY),
            EventState::Recorded(point) => point.time(),
        };
    }
    ms.put(((times[1] - times[0]) / 1e3) as f32)
}

fn load_module(
    d: &mut Driver,
    module: Out<u64>,
    image: *const u8,
    context: u64,
) -> Result<(), Status> {
    if image.is_null() {
        return Err(INVALID_VALUE);
    }
    let bytes = |at: usize, len: usize| {
        // SAFETY: cuda.h's contract of cuModuleLoadData: a whole image, whose header says where
        // its parts are; the caller has checked the header against the length.
        unsafe { std::slice::from_raw_parts(image.wrapping_add(at), len) }
    };
    let device = d.description.devices[d.contexts[&context].device].sm;
    let loaded = if bytes(0, 4) == b"\x7fELF" {
        // Code runs on its own and later minor versions of one major version.
        elf::unwrap(&bytes).map(|(sm, s)| (sm / 10 == device / 10 && sm <= device, s.to_string()))
    } else {
        // PTX runs on every later device.
        let text = text(image.cast())?;
        elf::unwrap_ptx(&text).map(|(sm, s)| (sm <= device, s.to_string()))
    };
    let (runs, source) = loaded.ok_or(INVALID_IMAGE)?;
    if !runs {
        return Err(NO_BINARY_FOR_GPU);
    }
    let handle = d.handle();
    d.modules.insert(handle, Module { context, source, functions: Default::default() });
    module.put(handle)
}

type Shape = ([c_uint; 3], [c_uint; 3], c_uint);

fn launch(
    d: &mut Driver,
    current: u64,
    function: u64,
    (grid, block, shared): Shape,
    stream: u64,
    arguments: &In<*const u64>,
) -> Result<(), Status> {
    d.own_stream(stream, current)?;
    let Function { context, module, kernel, max_shared } = d.function(function)?;
    let (context, module, kernel, max_shared) = (*context, *module, kernel.clone(), *max_shared);
    if context != current {
        d.ledger.problem("a kernel of another context than the current one is launched");
        return Err(INVALID_HANDLE);
    }
    let none = grid.contains(&0) || block.contains(&0);
    let threads: u64 = block.iter().map(|&b| u64::from(b)).product();
    let large =
        threads > 1024 || block[2] > 64 || grid[1].max(grid[2]) > 65535 || grid[0] >> 31 != 0;
    if none || large || shared as c_int > max_shared {
        return Err(INVALID_VALUE);
    }
    let wanted = kernel.geometry();
    let given = Geometry { grid: wanted.grid.map(|_| grid), block, shared };
    if given != wanted {
        d.ledger.problem(format!(
            "kernel '{}' wants {wanted:?}, and is launched with {given:?}",
            kernel.name
        ));
        return Err(INVALID_VALUE);
    }
    let values = (0..kernel.arguments())
        .map(|i| In(arguments.get(i)?).get(0))
        .collect::<Result<Vec<u64>, Status>>()?;
    d.submit(stream, Work::Kernel(Launch { kernel, module, values }))
}

const _: () = assert!(size_of::<LaunchConfig>() == 56 && size_of::<LaunchAttribute>() == 72);
