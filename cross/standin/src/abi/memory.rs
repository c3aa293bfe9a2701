//! Memory, and what fills it.

use std::ffi::{c_int, c_uint};

use super::Out;
use crate::memory::Kind;
use crate::queue::Work;
use crate::status::*;

functions! {
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
}
