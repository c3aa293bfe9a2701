//! Plans run on the stand-in driver: what a GPU would compute, every order of calls, every
//! failure.
//!
//! Those whose names are listed run on a GPU, too, with its own driver and an NVRTC that knows it
//! (`./run check executor` in bench/gpu-kit):
//!
//! ```sh
//! TOBIUO_STANDIN_REPORT=/dev/null executor-HASH --test-threads=1 \
//!     a_plan executors_of device_memory launches_join each_launch what_cannot
//! ```

mod common;

use std::path::Path;

use common::{Parts, expected, input, own_engine as parts};
use tobiuo_cuda::{CudaEngine, CudaExecutor, CudaPlan, ExecutorOptions, MemoryPath};
use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, GpuError, GpuErrorKind, PinnedBuffer, Stream,
};
use tobiuo_standin::{Description, Standin};
use tobiuo_tensor::{TensorView, ViewData, ViewDataMut};

fn load(parts: &Parts, plan: usize) -> Result<CudaPlan, GpuError> {
    let context = Context::new(0)?;
    let engine = CudaEngine::new(&context, &parts.weights, &|_| ())?;
    engine.plan(&parts.manifest.plans[plan], &parts.code)
}

fn set(executor: &mut CudaExecutor, values: &[f32]) {
    let ViewDataMut::F32(x) = executor.input_mut(0).data else { panic!("f32") };
    x.copy_from_slice(values);
}

fn floats(view: TensorView<'_>) -> Vec<f32> {
    let ViewData::F32(values) = view.data else { panic!("f32") };
    values.to_vec()
}

fn outputs(executor: &CudaExecutor) -> [Vec<f32>; 3] {
    [0, 1, 2].map(|i| floats(executor.output(i)))
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn a_plan_computes_what_its_kernels_say() {
    let outcome = Standin::new().test("a_plan_computes_what_its_kernels_say", || {
        let parts = parts(&[1, 3]);
        for (plan, n) in [(0, 1), (1, 3)] {
            let plan = load(&parts, plan).unwrap();
            for memory in [MemoryPath::Auto, MemoryPath::Discrete, MemoryPath::Integrated] {
                let options = ExecutorOptions::default().memory(memory).fill(0xff);
                let mut executor = CudaExecutor::new(&plan, &options).unwrap();
                let shared = plan.engine().context().device().integrated;
                let mapped = match memory {
                    MemoryPath::Auto => shared,
                    path => path == MemoryPath::Integrated,
                };
                assert_eq!(executor.is_integrated(), mapped);
                for seed in 0..3 {
                    let x = input(n, seed);
                    set(&mut executor, &x);
                    executor.run().unwrap();
                    assert_eq!(outputs(&executor), expected(&x, n), "{memory:?} {n} {seed}");
                }
                let times = executor.times();
                assert!(!times.compute.is_zero(), "{times:?}");
            }
        }
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

/// Kernels may overlap the one in front of them only where device and driver can do that, and
/// only directly behind another kernel of their stream.
#[test]
fn dependent_launches_are_made_where_they_can_be() {
    let old = Description { driver: 12020, ..Description::preset("h200").unwrap() };
    for (standin, overlapping) in [
        (Standin::new().device("h200"), 2),
        (Standin::new().device("h200").without("cuLaunchKernelEx"), 0),
        (Standin::new().with(&old), 0),
        (Standin::new(), 0),
    ] {
        let outcome = standin.test("dependent_launches_are_made_where_they_can_be", || {
            let plan = load(&parts(&[1]), 0).unwrap();
            let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
            let x = input(1, 3);
            set(&mut executor, &x);
            executor.run().unwrap();
            assert_eq!(outputs(&executor), expected(&x, 1));
        });
        let Some(outcome) = outcome else { return };
        let calls = |name: &str| outcome.clean_report().functions.get(name).copied().unwrap_or(0);
        // `take` is the first, `reverse` and `give` wait for another stream.
        assert_eq!(calls("cuLaunchKernelEx"), overlapping);
        assert_eq!(calls("cuLaunchKernel"), 5 - overlapping);
    }
}

#[test]
fn executors_of_one_plan_run_on_many_threads() {
    let outcome = Standin::new().test("executors_of_one_plan_run_on_many_threads", || {
        let plan = load(&parts(&[2]), 0).unwrap();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let plan = &plan;
                scope.spawn(move || {
                    let mut executor =
                        CudaExecutor::new(plan, &ExecutorOptions::default()).unwrap();
                    for round in 0..20 {
                        let x = input(2, seed * 100 + round);
                        set(&mut executor, &x);
                        executor.run().unwrap();
                        assert_eq!(outputs(&executor), expected(&x, 2));
                    }
                });
            }
        });
    });
    if let Some(outcome) = outcome {
        let report = outcome.clean_report();
        // Weights and modules once, whatever the number of executors.
        assert_eq!(report.functions["cuModuleLoadData"], 5);
    }
}

#[test]
fn device_memory_is_bound_and_queued() {
    let outcome = Standin::new().test("device_memory_is_bound_and_queued", || {
        let plan = load(&parts(&[1]), 0).unwrap();
        let context = plan.engine().context().clone();
        let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
        let x = input(1, 5);
        let want = expected(&x, 1);
        let stream = Stream::new(&context).unwrap();
        let len = x.len() * 4;
        let own_in = DeviceBuffer::new(&context, len).unwrap();
        own_in.write(0, &bytes(&x), &stream).unwrap();
        let own_out = DeviceBuffer::new(&context, len + 64).unwrap();
        executor.bind_input_device(0, own_in.whole()).unwrap();
        executor.bind_output_device(0, own_out.slice(64..64 + len)).unwrap();
        executor.enqueue(&stream).unwrap();
        let mut got = vec![0; len];
        own_out.read(64, &mut got, &stream).unwrap();
        assert_eq!(f32s(&got), want[0]);
        // What is not bound still goes to the host.
        executor.run().unwrap();
        assert_eq!(floats(executor.output(1)), want[1]);
        let mut also = vec![0; len];
        executor.output_device(1).read(&mut also, &stream).unwrap();
        assert_eq!(f32s(&also), want[1]);
        // Memory of another size is refused, and changes nothing.
        let e = executor.bind_input_device(0, own_out.whole()).unwrap_err();
        assert!(e.to_string().contains("96 bytes"), "{e}");
        assert!(executor.bind_output_device(9, own_in.whole()).is_err());
        own_in.write(0, &bytes(&input(1, 6)), &stream).unwrap();
        executor.run().unwrap();
        assert_eq!(floats(executor.output(1)), expected(&input(1, 6), 1)[1]);
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn launches_join_a_larger_graph() {
    let outcome = Standin::new().test("launches_join_a_larger_graph", || {
        let plan = load(&parts(&[1]), 0).unwrap();
        let context = plan.engine().context().clone();
        let options = ExecutorOptions::default().staging(false);
        let executor = CudaExecutor::new(&plan, &options).unwrap();
        // Frame upload in place of the launch that takes the input, then the network, then the
        // results' download: one graph, as the camera's pipeline makes it.
        let mut list = CommandList::new(&context).unwrap();
        let len = common::ROWS * common::COLUMNS * 4;
        let frame = list.pin(PinnedBuffer::new(&context, len).unwrap());
        let result = list.pin(PinnedBuffer::new(&context, 2 * len).unwrap());
        let picture = executor.arena().slice(0..len);
        list.upload(frame, 0, &picture).unwrap();
        executor.append_launches(&mut list, &|i| i != 0).unwrap();
        list.download(executor.output_device(0), result, 0).unwrap();
        list.download(executor.output_device(1), result, len).unwrap();
        let mut graph = list.capture().unwrap();
        let stream = Stream::with_high_priority(&context).unwrap();
        for seed in 0..3 {
            let x = input(1, seed);
            graph.bytes_mut(frame).copy_from_slice(&bytes(&x));
            graph.launch(&stream).unwrap();
            let got = f32s(graph.bytes(result));
            let [y, r, _] = expected(&x, 1);
            assert_eq!(got, [y, r].concat());
            assert!(graph.is_done().unwrap());
        }
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn each_launch_is_measured() {
    let outcome = Standin::new().test("each_launch_is_measured", || {
        let plan = load(&parts(&[1]), 0).unwrap();
        let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
        let times = executor.layer_times().unwrap();
        assert_eq!(times.len(), 5);
        assert!(times.iter().all(|t| !t.is_zero()), "{times:?}");
        let replays = executor.time_replays(2, 7).unwrap();
        assert!(replays.len() == 7 && replays.iter().all(|&t| t > 0.0), "{replays:?}");
        let x = input(1, 1);
        set(&mut executor, &x);
        executor.run().unwrap();
        assert_eq!(outputs(&executor), expected(&x, 1));
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn nothing_is_allocated_on_the_device_after_an_executor_is_made() {
    let name = "nothing_is_allocated_on_the_device_after_an_executor_is_made";
    let outcome = Standin::new().traced().test(name, || {
        let plan = load(&parts(&[1]), 0).unwrap();
        let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
        // Marks the begin in the trace; nothing else asks for it.
        plan.engine().context().synchronize().unwrap();
        for seed in 0..10 {
            set(&mut executor, &input(1, seed));
            executor.run().unwrap();
        }
        plan.engine().context().synchronize().unwrap();
    });
    let Some(outcome) = outcome else { return };
    let trace = &outcome.clean_report().trace;
    let mark = |(name, _): &(String, i32)| name == "cuCtxSynchronize";
    let begin = trace.iter().position(mark).unwrap();
    let end = trace.iter().rposition(mark).unwrap();
    let between = &trace[begin + 1..end];
    let runs = between.iter().filter(|(name, _)| name == "cuGraphLaunch").count();
    assert_eq!(runs, 10, "{between:?}");
    for (name, _) in between {
        let makes = ["Alloc", "Create", "Free", "Destroy", "Instantiate", "Capture", "Load"];
        assert!(!makes.iter().any(|m| name.contains(m)), "{name} while running");
    }
}

/// Everything that an executor does; the error of whatever fails.
fn everything(parts: &Parts) -> Result<(), GpuError> {
    let plan = load(parts, 0)?;
    let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default())?;
    let x = input(1, 3);
    set(&mut executor, &x);
    executor.run()?;
    assert_eq!(outputs(&executor), expected(&x, 1));
    let own = DeviceBuffer::new(plan.engine().context(), x.len() * 4)?;
    own.write(0, &bytes(&x), executor.stream())?;
    executor.bind_input_device(0, own.whole())?;
    executor.run()?;
    assert_eq!(outputs(&executor), expected(&x, 1));
    executor.layer_times()?;
    Ok(())
}

/// Run by `every_call_may_fail` in processes of its own.
#[test]
fn everything_once() {
    if std::env::var_os("TOBIUO_NVRTC").is_none() {
        return;
    }
    let compiler = std::env::var_os("TOBIUO_NVRTC").expect("within the stand-in");
    let parts = common::engine(Path::new(&compiler), 87, &[1]);
    match everything(&parts) {
        Ok(()) => println!("end: all is well"),
        Err(e) => println!("end: {:?}: {e}", e.kind()),
    }
}

#[test]
fn every_call_may_fail() {
    if std::env::var_os("TOBIUO_NVRTC").is_some() {
        return;
    }
    let run = |standin: Standin| {
        let program = std::env::current_exe().unwrap();
        let mut command = standin.command(program);
        command.args(["--exact", "everything_once", "--nocapture", "--test-threads=1"]);
        let outcome = standin.run(&mut command, std::time::Duration::from_secs(60));
        assert!(outcome.status.success(), "{}\n{}", outcome.stdout, outcome.stderr);
        outcome
    };
    let clean = run(Standin::new());
    assert!(clean.stdout.contains("end: all is well"), "{}", clean.stdout);
    let functions = clean.clean_report().functions.clone();
    let mut quiet = Vec::new();
    let mut failed = 0;
    for (function, &calls) in functions.iter().filter(|(f, _)| f.starts_with("cu")) {
        // Every call of most functions; some are made for each of many repeated launches.
        let step = (calls / 25).max(1);
        for n in (1..=calls).step_by(step as usize) {
            for code in [2, 999] {
                let outcome = run(Standin::new().fail(&format!("{function}#{n}:{code}")));
                let report = outcome.report.as_ref().expect("a report");
                // What a failing call does not give back stays, and nothing else does.
                let gives_back = ["Free", "Destroy", "Release", "Unload"];
                let kept = gives_back.iter().any(|g| function.contains(g));
                let wrong = |p: &&String| !(kept && p.starts_with("leak"));
                let problem = report.problems.iter().find(wrong);
                assert!(problem.is_none(), "{function}#{n}:{code}: {problem:?} {outcome:?}");
                assert_eq!(report.injected.len(), 1, "{function}#{n}");
                if outcome.stdout.contains("end: all is well") {
                    quiet.push(function.clone());
                    continue;
                }
                failed += 1;
                let kind = if code == 2 { "OutOfMemory" } else { "" };
                let said = outcome.stdout.contains(&format!("end: {kind}"))
                    && outcome.stdout.contains(&format!("({code})"));
                assert!(said, "{function}#{n}: {}", outcome.stdout);
            }
        }
    }
    // What fails without an error is only what gives things back, or asks how it went.
    for function in &quiet {
        let gives_back = [
            "Free",
            "Destroy",
            "Release",
            "Unload",
            "SetCurrent",
            "Synchronize",
            "GetErrorName",
            "GetErrorString",
        ];
        assert!(gives_back.iter().any(|g| function.contains(g)), "{function} failed unnoticed");
    }
    assert!(failed > 100, "{failed}");
}

#[test]
fn a_kernel_fault_is_told_and_a_new_context_works() {
    let outcome = Standin::new().fail("kernel#2:700").test(
        "a_kernel_fault_is_told_and_a_new_context_works",
        || {
            let parts = parts(&[1]);
            let plan = load(&parts, 0).unwrap();
            let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
            let x = input(1, 0);
            set(&mut executor, &x);
            let e = executor.run().unwrap_err();
            assert_eq!(e.kind(), GpuErrorKind::ContextLost, "{e}");
            assert!(e.to_string().contains("running the network"), "{e}");
            assert_eq!(executor.run().unwrap_err().kind(), GpuErrorKind::ContextLost);
            drop((executor, plan));
            let plan = load(&parts, 0).unwrap();
            let mut executor = CudaExecutor::new(&plan, &ExecutorOptions::default()).unwrap();
            set(&mut executor, &x);
            executor.run().unwrap();
            assert_eq!(outputs(&executor), expected(&x, 1));
        },
    );
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let outcome = Standin::new().test("what_cannot_be_is_an_error", || {
        let parts = parts(&[1]);
        let refused = |change: &dyn Fn(&mut tobiuo_engine::CudaProgram), says: &str| {
            let mut plan = parts.manifest.plans[0].clone();
            let tobiuo_engine::Program::Cuda(program) = &mut plan.program else { panic!() };
            change(program);
            let context = Context::new(0).unwrap();
            let engine = CudaEngine::new(&context, &parts.weights, &|_| ()).unwrap();
            let made = engine
                .plan(&plan, &parts.code)
                .and_then(|plan| CudaExecutor::new(&plan, &ExecutorOptions::default()));
            let e = made.err().expect("it is refused");
            assert!(e.to_string().contains(says), "{e}");
        };
        use tobiuo_engine::CudaArgument;
        refused(&|p| p.modules[0].offset = u64::MAX, "of code at");
        refused(&|p| p.modules[0].bytes -= 100, "not a whole ELF image");
        refused(&|p| p.launches[1].module = 77, "launch 1 \"reverse\": no module 77");
        refused(&|p| p.launches[1].function = "nobody".into(), "nobody");
        refused(&|p| p.launches[0].after = vec![3], "launch 3, which is later");
        let far = CudaArgument::Arena { offset: 1 << 40, bytes: 4 };
        refused(&|p| p.launches[2].arguments[0] = far, "region of");
        let none = CudaArgument::Output { index: 9, offset: 0, bytes: 4 };
        refused(&|p| p.launches[2].arguments[1] = none, "no output 9");
        refused(&|p| p.launches[0].arguments = vec![CudaArgument::Null; 17], "at most 16");
        refused(&|p| p.zeroed = 1 << 20, "zeroed");
        let cpu = CudaEngine::new(&Context::new(0).unwrap(), &[], &|_| ()).unwrap();
        let mut plan = parts.manifest.plans[0].clone();
        plan.program = tobiuo_engine::Program::Cpu(vec![]);
        assert!(cpu.plan(&plan, &[]).is_err());
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn too_little_memory_says_how_much() {
    let small = Description {
        devices: vec![tobiuo_standin::Device { memory: 1 << 20, ..Default::default() }],
        ..Default::default()
    };
    let outcome = Standin::new().with(&small).test("too_little_memory_says_how_much", || {
        let context = Context::new(0).unwrap();
        let e = CudaEngine::new(&context, &vec![0; 4 << 20], &|_| ()).err().expect("too much");
        assert_eq!(e.kind(), GpuErrorKind::OutOfMemory, "{e}");
        let text = e.to_string();
        assert!(text.contains("weights") && text.contains("4194304 bytes"), "{text}");
        assert!(text.contains("1048576 bytes are free"), "{text}");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}
