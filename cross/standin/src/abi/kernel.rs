//! Modules, their kernels, and launches.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::size_of;
use std::sync::Arc;

use super::{In, Out, text};
use crate::driver::{Driver, Function, Module};
use crate::elf;
use crate::kernel::{Geometry, Kernel};
use crate::queue::{Launch, Work};
use crate::status::*;

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

functions! {
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
