//! After the first, a run allocates nothing, on no thread.

mod common;
#[path = "common/plan.rs"]
mod plan;

use std::num::NonZeroUsize;

use tobiuo_counting::{Counting, on_all_threads};
use tobiuo_cpu::{CpuExecutor, CpuProgram, PixelFormat, Preprocessor, Threads};
use tobiuo_engine::manifest::{ChannelOrder, Fit, Preprocess};
use tobiuo_tensor::ViewDataMut;

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
        let (_, counted) = on_all_threads(|| (0..1000).for_each(|_| run()));
        assert_eq!(counted.allocations, 0, "{} threads", threads.count());
    }
}
