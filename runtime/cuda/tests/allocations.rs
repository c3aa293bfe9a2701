//! After an executor is made its runs allocate nothing on the host. (On the device: the trace
//! in `executor.rs`.)

mod common;

use tobiuo_counting::{Counting, on_all_threads};
use tobiuo_cuda::{CudaEngine, CudaExecutor, ExecutorOptions};
use tobiuo_gpu::{Context, Stream};
use tobiuo_standin::Standin;
use tobiuo_tensor::ViewDataMut;

/// The stand-in driver has an allocator of its own.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, so that no other one runs while it counts.
#[test]
fn runs_allocate_nothing() {
    let outcome = Standin::new().test("runs_allocate_nothing", || {
        let parts = common::own_engine(&[2]);
        let context = Context::new(0).unwrap();
        let engine = CudaEngine::new(&context, &parts.weights, &|_| ()).unwrap();
        let plan = engine.plan(&parts.manifest.plans[0], &parts.code).unwrap();
        let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
        let stream = Stream::new(&context).unwrap();
        let (_, one) = on_all_threads(|| drop(std::hint::black_box(vec![0u8; 100])));
        assert!(one.allocations >= 1, "the counter counts");
        let (_, counted) = on_all_threads(|| {
            for i in 0..50 {
                let ViewDataMut::F32(x) = executor.input_mut(0).data else { panic!("f32") };
                x.fill(i as f32);
                executor.run().unwrap();
                std::hint::black_box(executor.output(0).shape);
                std::hint::black_box(executor.times());
                executor.enqueue(&stream).unwrap();
                stream.synchronize().unwrap();
            }
        });
        assert_eq!(counted.allocations, 0, "allocations in 50 runs");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}
