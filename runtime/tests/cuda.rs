//! The program and the library with CUDA engines, on the stand-in driver.

#![cfg(feature = "cuda")]

#[path = "../cuda/tests/common/mod.rs"]
mod copies;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use copies::{COLUMNS, CONSTANT, Parts, ROWS, expected, input};
use serde_json::Value;
use tempfile::TempDir;
use tobiuo::manifest::{DeviceKey, Manifest};
use tobiuo::{ContextOptions, DeviceChoice, Engine, ErrorKind, MemoryPath, Tensor, ViewData, npy};
use tobiuo_engine::format::SectionKind;
use tobiuo_engine::write_sections;
use tobiuo_standin::{Description, Device, Outcome, Standin};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes the engine of copies for an Orin, changed.
fn engine_file(folder: &Path, standin: &Standin, change: impl FnOnce(&mut Manifest)) -> PathBuf {
    write_parts(
        folder,
        copies::engine(&standin.folder().join("libnvrtc.so.12"), 87, &[1, 4]),
        change,
    )
}

fn write_parts(folder: &Path, parts: Parts, change: impl FnOnce(&mut Manifest)) -> PathBuf {
    let Parts { mut manifest, weights, code } = parts;
    change(&mut manifest);
    let path = folder.join("copies.tobiuo");
    let sections = [(SectionKind::Weights, &weights[..]), (SectionKind::Code, &code[..])];
    write_sections(&path, &manifest, &sections).unwrap();
    path
}

struct Bench {
    standin: Standin,
    folder: TempDir,
    engine: PathBuf,
}

impl Bench {
    fn new(standin: Standin) -> Bench {
        Bench::changed(standin, |_| ())
    }

    fn changed(standin: Standin, change: impl FnOnce(&mut Manifest)) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        // Compiled by a whole stand-in, whatever this one lacks.
        let engine = engine_file(folder.path(), &Standin::new(), change);
        Bench { standin, folder, engine }
    }

    fn run(&self, command: &str, args: &[&str]) -> Outcome {
        let mut program: Command = self.standin.command(env!("CARGO_BIN_EXE_tobiuo"));
        program.env_remove("RUST_LOG").current_dir(self.folder.path());
        program.arg(command).arg(&self.engine).args(args);
        let outcome = self.standin.run(&mut program, LIMIT);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        outcome
    }

    #[track_caller]
    fn ok(&self, command: &str, args: &[&str]) -> Outcome {
        let outcome = self.run(command, args);
        assert_eq!(outcome.status.code(), Some(0), "{command} {args:?}: {}", outcome.stderr);
        outcome
    }

    #[track_caller]
    fn fails(&self, command: &str, args: &[&str], status: i32, says: &[&str]) {
        let outcome = self.run(command, args);
        let text = &outcome.stderr;
        assert_eq!(outcome.status.code(), Some(status), "{command} {args:?}: {text}");
        for part in says {
            assert!(text.contains(part), "{command} {args:?}: '{part}' is not in: {text}");
        }
        if let Some(report) = &outcome.report {
            assert!(report.problems.is_empty(), "{:?}", report.problems);
        }
    }
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

#[test]
fn infer_gives_the_outputs() {
    let bench = Bench::new(Standin::new());
    let x = input(1, 4);
    let tensor = Tensor::f32([1, ROWS, COLUMNS], x.clone());
    npy::write(&bench.folder.path().join("x.npy"), &tensor).unwrap();
    for extra in [&[][..], &["--integrated"], &["--gpu", "0"], &["--device", "cuda:0"]] {
        let args = [&["x.npy", "--output-dir", "out"][..], extra].concat();
        bench.ok("infer", &args).clean_report();
        for (name, want) in ["y", "r", "c"].iter().zip(expected(&x, 1)) {
            let file = bench.folder.path().join(format!("out/{name}.npy"));
            let got = npy::read(&file).unwrap();
            let ViewData::F32(got) = got.view().data else { panic!("f32") };
            assert_eq!(got, want, "{name} {extra:?}");
        }
    }
}

/// Frames go through the CPU's preprocessing and a CUDA network as through a CPU network.
#[test]
#[cfg(feature = "cpu")]
fn run_gives_what_the_cpu_gives() {
    const SIDE: usize = 16;
    let standin = Standin::new();
    let nvrtc = standin.folder().join("libnvrtc.so.12");
    let folder = tempfile::tempdir().unwrap();
    let Parts { manifest, weights, code } = copies::classifier(&nvrtc, 87, SIDE);
    let mut host = manifest.clone();
    host.device = DeviceKey::Cpu { arch: "any".into() };
    let plan = &mut host.plans[0];
    let bytes = (3 * SIDE * SIDE * 4) as u64;
    plan.arena = 2 * bytes;
    plan.tensors[0].place = tobiuo::manifest::Place::Arena(0);
    plan.tensors[1].place = tobiuo::manifest::Place::Arena(bytes);
    plan.program = tobiuo::manifest::Program::Cpu(vec![tobiuo::manifest::Step {
        name: "flatten".into(),
        op: tobiuo_ops::Op::Reshape { shape: vec![1, 3 * SIDE * SIDE] },
        inputs: vec![0],
        outputs: vec![1],
    }]);
    let (on_cpu, on_gpu) = (folder.path().join("cpu.tobiuo"), folder.path().join("gpu.tobiuo"));
    let weights = (SectionKind::Weights, &weights[..]);
    write_sections(&on_cpu, &host, &[weights]).unwrap();
    write_sections(&on_gpu, &manifest, &[weights, (SectionKind::Code, &code)]).unwrap();
    let classes = |engine: &Path| -> Vec<Value> {
        let mut program = standin.command(env!("CARGO_BIN_EXE_tobiuo"));
        let input = "test://scene?width=64&height=48";
        program.args(["run", "--json", "--frames", "5"]).arg(engine).arg(input);
        let outcome = standin.run(&mut program, LIMIT);
        assert!(outcome.status.success(), "{}", outcome.stderr);
        let lines = outcome.stdout.lines().map(|l| serde_json::from_str(l).unwrap());
        lines.filter_map(|l: Value| l.get("classes").cloned()).collect()
    };
    let want = classes(&on_cpu);
    assert!(want.len() == 5 && want[0].as_array().is_some_and(|c| !c.is_empty()), "{want:?}");
    assert_eq!(classes(&on_gpu), want);
}

#[test]
fn bench_tells_upload_compute_download_and_layers() {
    let bench = Bench::new(Standin::new());
    let document = json(&bench.ok("bench", &["-n", "20", "--layers", "--json"]));
    for key in ["latency_us", "upload_us", "compute_us", "download_us", "replay_us"] {
        for statistic in ["min", "mean", "p50", "p90", "p95", "p99", "max"] {
            assert!(document[key][statistic].is_number(), "{key} {statistic}: {document:#}");
        }
    }
    assert!(document["compute_us"]["p50"].as_f64().unwrap() > 0.0);
    assert_eq!(document["device"], "cuda:0 (Stand-in Orin, sm_87, mapped host memory)");
    let layers = document["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 5);
    for (layer, name) in layers.iter().zip(["take", "reverse", "transpose", "constant", "give"]) {
        assert_eq!(layer["name"], name);
        assert_eq!((&layer["op"], &layer["family"]), (&"Transpose".into(), &"permute".into()));
        assert!(layer["mean_us"].as_f64().unwrap() > 0.0, "{layer}");
        assert_eq!(layer["built_us"], 2.5);
    }
    let outcome = bench.ok("bench", &["-n", "5", "--layers", "-b", "3"]);
    for part in ["upload", "compute", "download", "kernel and tactic", "reverse", "each alone"] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
    // The engine was made by the cost model: said once, not an error.
    assert!(outcome.stderr.contains("cost model"), "{}", outcome.stderr);
    outcome.clean_report();
}

#[test]
fn inspect_shows_launches_and_needs_no_device() {
    let bench = Bench::new(Standin::new().device("none"));
    let text = bench.ok("inspect", &["--layers"]).stdout;
    for part in [
        "cuda (Stand-in, sm_87)",
        "untuned",
        "runs here    no: ",
        "batch 4: 5 launches",
        "2 streams",
        "stream 1 after [0]",
        "2.5 us",
        "before slower 3.1 us",
    ] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    let document = json(&bench.ok("inspect", &["--json", "--layers"]));
    assert_eq!(document["runs_here"], false);
    assert!(document["code_bytes"].as_u64().unwrap() > 1000);
    assert_eq!(document["manifest"]["plans"][0]["program"]["cuda"]["launches"][1]["stream"], 1);
    let here = Bench::new(Standin::new());
    assert_eq!(json(&here.ok("inspect", &["--json"]))["runs_here"], true);
}

#[test]
fn devices_that_do_not_fit_are_told_apart() {
    let tuned = |m: &mut Manifest| {
        let DeviceKey::Cuda(key) = &mut m.device else { panic!() };
        (key.tuned, key.sm_count, key.l2_bytes) = (true, 16, 4 << 20);
    };
    // Another compute capability, and for a tuned engine another size of the same.
    let bench = Bench::new(Standin::new().device("h200"));
    let table = ["made for another device", "compute capability", "8.7", "9.0", "<- differs"];
    bench.fails("bench", &[], 3, &table);
    bench.fails(
        "bench",
        &[],
        3,
        &["build copies.onnx -o", "--device cuda --precision fp32 --batch 1,4"],
    );
    let bench = Bench::changed(Standin::new(), tuned);
    bench.fails(
        "bench",
        &[],
        3,
        &["multiprocessors", "16", "8              <- differs", "L2 cache"],
    );
    // The wrong kind.
    let bench = Bench::new(Standin::new());
    bench.fails("bench", &["--device", "cpu"], 3, &["made for cuda", "is to run on cpu"]);
    bench.fails("bench", &["--device", "tpu"], 2, &["'tpu' is no device"]);
    bench.fails("bench", &["--gpu", "3"], 5, &["there is no CUDA device 3", "only device 0"]);
    bench.fails("inspect", &["--gpu", "0"], 2, &["no option --gpu"]);
}

#[test]
fn a_second_device_is_chosen_by_its_number() {
    let devices = vec![
        Device { sm: 90, name: "First".into(), ..Device::default() },
        Device { name: "Second".into(), ..Device::default() },
    ];
    let bench = Bench::new(Standin::new().with(&Description { devices, ..Description::default() }));
    bench.fails("bench", &[], 3, &["First"]);
    let document = json(&bench.ok("bench", &["-g", "1", "-n", "3", "--json"]));
    assert!(document["device"].as_str().unwrap().starts_with("cuda:1 (Second"), "{document:#}");
}

#[test]
fn missing_and_old_drivers_are_told() {
    Bench::new(Standin::new().device("none")).fails(
        "bench",
        &[],
        5,
        &["the driver sees no NVIDIA GPU", "NVIDIA runtime"],
    );
    let old = Description { driver: 11040, ..Description::default() };
    let says = ["driver is too old", "supports CUDA 11.4", "needs 12.2", "JetPack 6"];
    let bench = Bench::new(Standin::new().with(&old));
    bench.fails("bench", &[], 5, &says);
    // A machine whose driver no engine runs on: the doctor says so, and builds nothing anew.
    let doctor = bench.standin.command(env!("CARGO_BIN_EXE_tobiuo")).arg("doctor").output();
    let said = String::from_utf8(doctor.unwrap().stdout).unwrap();
    assert!(said.contains("too old, engines for this GPU need CUDA 12.2"), "{said}");
    // Made by NVRTC 13, on JetPack 6.
    let newer = |m: &mut Manifest| {
        let DeviceKey::Cuda(key) = &mut m.device else { panic!("a CUDA engine") };
        key.driver = 13000;
    };
    let bench = Bench::changed(Standin::new(), newer);
    bench.fails("bench", &[], 5, &["supports CUDA 12.6", "needs 13.0", "JetPack 7", "NVRTC 12"]);
    // Another architecture with an old driver: no driver for it would help.
    let bench = Bench::new(Standin::new().device("xavier"));
    bench.fails("bench", &[], 3, &["compute capability", "8.7", "7.2"]);
    bench.fails("run", &["test://", "null", "--frames", "1"], 3, &["compute capability"]);
    let none = Bench::new(Standin::new().without("cuGraphInstantiateWithFlags"));
    none.fails("bench", &[], 5, &["cuGraphInstantiateWithFlags", "update the driver or JetPack"]);
    // Not needed, so not missed.
    let bench = Bench::new(Standin::new().without("cuLaunchKernelEx"));
    bench.ok("bench", &["-n", "2"]);
    let stub = Bench::new(Standin::new().fail("cuInit#1:34"));
    stub.fails("bench", &[], 5, &["stub"]);
    let lost = Bench::new(Standin::new().fail("cuInit#1:999"));
    lost.fails("bench", &[], 5, &["CUDA_ERROR_UNKNOWN", "/dev/nvidia"]);
}

#[test]
fn trouble_on_the_device_has_its_status() {
    let small = Description {
        devices: vec![Device { memory: 64, ..Device::default() }],
        ..Description::default()
    };
    let bench = Bench::new(Standin::new().with(&small));
    bench.fails(
        "bench",
        &[],
        8,
        &["copies.tobiuo", "bytes of device memory", "are free", "smaller batch"],
    );
    let bench = Bench::new(Standin::new().fail("cuMemAlloc_v2#3:2"));
    bench.fails("bench", &[], 8, &["CUDA_ERROR_OUT_OF_MEMORY"]);
    let bench = Bench::new(Standin::new().fail("kernel#7:700"));
    bench.fails("bench", &[], 5, &["CUDA_ERROR_ILLEGAL_ADDRESS", "running the network"]);
    let bench = Bench::new(Standin::new().fail("cuModuleLoadData#2:209"));
    bench.fails("bench", &[], 3, &["CUDA_ERROR_NO_BINARY_FOR_GPU", "rebuild the engine"]);
    let bench = Bench::new(Standin::new().fail("cuModuleLoadData#2:200"));
    bench.fails("bench", &[], 4, &["rebuild the engine"]);
}

#[test]
fn damaged_code_is_refused() {
    let bench = Bench::new(Standin::new());
    let mut bytes = std::fs::read(&bench.engine).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&bench.engine, &bytes).unwrap();
    bench.fails("bench", &[], 4, &["code section", "do not match their hash"]);
}

#[test]
fn contexts_run_at_once_and_bind_device_memory() {
    let outcome = Standin::new().test("contexts_run_at_once_and_bind_device_memory", || {
        let folder = tempfile::tempdir().unwrap();
        let nvrtc = PathBuf::from(std::env::var_os("TOBIUO_NVRTC").unwrap());
        let path = write_parts(folder.path(), copies::engine(&nvrtc, 87, &[1, 4]), |_| ());
        let engine = Engine::open(&path).unwrap();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let engine = engine.clone();
                scope.spawn(move || {
                    let n = 1 + seed % 2 * 2;
                    let memory = [MemoryPath::Auto, MemoryPath::Discrete][seed / 2];
                    let options = ContextOptions::default().batch(n).memory(memory);
                    let mut context = tobiuo::ExecutionContext::new(&engine, &options).unwrap();
                    for round in 0..10 {
                        let x = input(n, seed * 50 + round);
                        let tensor = Tensor::f32([n, ROWS, COLUMNS], x.clone());
                        context.set_input("x", &tensor).unwrap();
                        context.run().unwrap();
                        let [y, _, c] = expected(&x, n);
                        let get = |name: &str| match context.output(name).unwrap().data {
                            ViewData::F32(values) => values.to_vec(),
                            _ => panic!("f32"),
                        };
                        assert_eq!(get("y"), y, "batch {n}");
                        assert_eq!((get("c"), c.len()), (c, CONSTANT));
                    }
                    assert!(context.transfer_times().is_some());
                });
            }
        });
        let mut context = engine.context().unwrap();
        let memory = tobiuo::gpu::DeviceBuffer::new(
            &tobiuo::gpu::Context::new(0).unwrap(),
            ROWS * COLUMNS * 4,
        )
        .unwrap();
        context.bind_output_device("y", memory.whole()).unwrap();
        let x = input(1, 9);
        context.set_input("x", &Tensor::f32([1, ROWS, COLUMNS], x.clone())).unwrap();
        context.run().unwrap();
        let mut got = vec![0; memory.len()];
        let stream = tobiuo::gpu::Stream::new(&tobiuo::gpu::Context::new(0).unwrap()).unwrap();
        context.enqueue(&stream).unwrap();
        memory.read(0, &mut got, &stream).unwrap();
        let want: Vec<u8> = expected(&x, 1)[0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(got, want);
        let e = context.bind_input_device("x", memory.slice(0..4)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
        assert!(context.bind_input_device("nobody", memory.whole()).is_err());
        let e = Engine::open_on(&path, DeviceChoice::Cuda(1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NoDevice, "{e}");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn a_lost_device_can_be_had_again() {
    let outcome =
        Standin::new().fail("kernel#3:719").test("a_lost_device_can_be_had_again", || {
            let folder = tempfile::tempdir().unwrap();
            let nvrtc = PathBuf::from(std::env::var_os("TOBIUO_NVRTC").unwrap());
            let path = write_parts(folder.path(), copies::engine(&nvrtc, 87, &[1]), |_| ());
            let engine = Engine::open(&path).unwrap();
            let x = input(1, 2);
            let tensor = Tensor::f32([1, ROWS, COLUMNS], x.clone());
            let mut context = engine.context().unwrap();
            context.set_input("x", &tensor).unwrap();
            let e = context.run().unwrap_err();
            assert_eq!((e.kind(), e.exit_status()), (ErrorKind::DeviceLost, 5), "{e}");
            drop(context);
            engine.reset_device();
            let mut context = engine.context().unwrap();
            context.set_input("x", &tensor).unwrap();
            context.run().unwrap();
            let ViewData::F32(y) = context.output("y").unwrap().data else { panic!("f32") };
            assert_eq!(y, expected(&x, 1)[0]);
        });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}
