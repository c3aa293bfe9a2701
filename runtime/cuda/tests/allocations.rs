//! After an executor is made its runs allocate nothing on the host. (On the device: the trace
//! in `executor.rs`.)

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tobiuo_cuda::{CudaEngine, CudaExecutor, ExecutorOptions};
use tobiuo_gpu::{Context, Stream};
use tobiuo_standin::Standin;
use tobiuo_tensor::ViewDataMut;

/// The system's allocator, counting what is asked of it while `COUNTING`. The stand-in driver
/// has an allocator of its own.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it is, whose contract is the
// one that `GlobalAlloc` asks for; counting touches only atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, so that no other one runs while it counts.
#[test]
fn runs_allocate_nothing() {
    let outcome = Standin::new().test("runs_allocate_nothing", || {
        let nvrtc = PathBuf::from(std::env::var_os("TOBIUO_NVRTC").unwrap());
        let parts = common::engine(&nvrtc, 87, &[2]);
        let context = Context::new(0).unwrap();
        let engine = CudaEngine::new(&context, &parts.weights, &|_| ()).unwrap();
        let plan = engine.plan(&parts.manifest.plans[0], &parts.code).unwrap();
        let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
        let stream = Stream::new(&context).unwrap();
        let allocate = |counted: &dyn Fn() -> u64| {
            COUNTING.store(true, Ordering::SeqCst);
            drop(std::hint::black_box(vec![0u8; 100]));
            COUNTING.store(false, Ordering::SeqCst);
            counted()
        };
        let counted = || ALLOCATIONS.swap(0, Ordering::SeqCst);
        assert!(allocate(&counted) >= 1, "the counter counts");
        COUNTING.store(true, Ordering::SeqCst);
        for i in 0..50 {
            let ViewDataMut::F32(x) = executor.input_mut(0).data else { panic!("f32") };
            x.fill(i as f32);
            executor.run().unwrap();
            std::hint::black_box(executor.output(0).shape);
            std::hint::black_box(executor.times());
            executor.enqueue(&stream).unwrap();
            stream.synchronize().unwrap();
        }
        COUNTING.store(false, Ordering::SeqCst);
        assert_eq!(counted(), 0, "allocations in 50 runs");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}
