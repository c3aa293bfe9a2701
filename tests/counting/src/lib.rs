//! The system's allocator with counters, for tests that prove that something allocates nothing:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: tobiuo_counting::Counting = tobiuo_counting::Counting;
//!
//! let (text, counted) = tobiuo_counting::on_all_threads(|| String::from("a text"));
//! assert_eq!((counted.allocations, counted.bytes), (1, text.len() as u64));
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The allocator: a test program makes it its `#[global_allocator]`.
pub struct Counting;

/// What was asked of the allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Allocations and reallocations.
    pub allocations: u64,
    /// Their sizes together.
    pub bytes: u64,
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static MINE: Cell<Counted> = const { Cell::new(Counted { allocations: 0, bytes: 0 }) };
}

fn count(size: usize) {
    let size = size as u64;
    // A thread that ends has no counter any more.
    let _ = MINE.try_with(|mine| {
        let Counted { allocations, bytes } = mine.get();
        mine.set(Counted { allocations: allocations + 1, bytes: bytes + size });
    });
    if COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size, Ordering::Relaxed);
    }
}

/// What this thread asks of the allocator while `work` runs.
pub fn on_this_thread<R>(work: impl FnOnce() -> R) -> (R, Counted) {
    let before = MINE.get();
    let made = work();
    let after = MINE.get();
    let counted = Counted {
        allocations: after.allocations - before.allocations,
        bytes: after.bytes - before.bytes,
    };
    (made, counted)
}

/// What all threads of the process ask of the allocator while `work` runs: for a program with one
/// test.
///
/// # Panics
///
/// When it is called while another thread counts.
pub fn on_all_threads<R>(work: impl FnOnce() -> R) -> (R, Counted) {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    BYTES.store(0, Ordering::SeqCst);
    assert!(!COUNTING.swap(true, Ordering::SeqCst), "one count at a time");
    let made = work();
    COUNTING.store(false, Ordering::SeqCst);
    let counted = Counted {
        allocations: ALLOCATIONS.load(Ordering::SeqCst),
        bytes: BYTES.load(Ordering::SeqCst),
    };
    (made, counted)
}

// SAFETY: every call is passed on to the system's allocator as it is, whose contract is the one
// that `GlobalAlloc` asks for; counting touches only atomics and a thread's own cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}
