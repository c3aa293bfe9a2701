//! The functions of `libcuda.so.1`, with the signatures and the contracts of cuda.h: pointers
//! are null or valid for what the function reads or writes there.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char};

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

macro_rules! functions {
    ($($needs:ident fn $name:ident($($arg:ident: $kind:ty),* $(,)?) |$d:ident, $c:pat_param| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $kind),*) -> $crate::status::Status {
            $crate::driver::call(
                stringify!($name),
                $crate::driver::Needs::$needs,
                |$d: &mut $crate::driver::Driver, $c: u64| $body,
            )
        }
    )*};
}

mod device;
mod graph;
mod kernel;
mod memory;
mod stream;

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
