//! After the first, a run allocates nothing, on no thread.

mod common;
#[path = "common/plan.rs"]
mod plan;

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use tobiuo_cpu::{CpuExecutor, CpuProgram, PixelFormat, Preprocessor, Threads};
use tobiuo_engine::manifest::{ChannelOrder, Fit, Preprocess};
use tobiuo_tensor::ViewDataMut;

/// The system's allocator, counting what all threads ask of it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it is, whose contract is the
// one that `GlobalAlloc` asks for; counting touches only an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

/// One test only: another one's allocations would be counted too.
#[test]
fn runs_allocate_nothing() {
    let (plan, section) = plan::network();
    let frame: Vec<u8> = (0..160 * 120 * 2).map(|i| (i * 7) as u8).collect();
    let settings = Preprocess {
        input: 0,
        fit: Fit::Letterbox,
        pad_value: 114,
        channels: ChannelOrder::Rgb,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
    };
    for threads in [1, 2, 4, 7] {
        let threads = Threads::with_count(NonZeroUsize::new(threads).unwrap()).unwrap();
        let program = CpuProgram::new(plan.clone(), section.clone(), &threads, &|_| ()).unwrap();
        let mut executor = CpuExecutor::new(program, &threads).unwrap();
        let mut preprocessor =
            Preprocessor::new(PixelFormat::Yuyv, 160, 120, [3, 96, 96], &settings).unwrap();
        let mut run = || {
            let ViewDataMut::F32(x) = executor.input_mut(0).data else { panic!("f32") };
            preprocessor.run(&frame, x).unwrap();
            executor.run();
        };
        run();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..1000 {
            run();
        }
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        assert_eq!(after - before, 0, "{} threads", threads.count());
    }
}
