//! Every family's kernels through NVIDIA's own compiler, for every GPU that engines are made
//! for: no error, and no register spills in what an untimed build chooses: the cost model's first
//! that keeps its values in registers.
//!
//! Needs NVRTC and no GPU. `TOBIUO_TEST_NVRTC` names library files (separated by colons), each of
//! which is used for the GPUs it knows; together they must know all of them. Without it an
//! installed NVRTC is used, and without that the test says that it is skipped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tobiuo_kernels::random::{GENERATORS, Random};
use tobiuo_kernels::{Layer, Target, vision};
use tobiuo_nvrtc::Nvrtc;

/// Xavier, Orin, Hopper and Thor.
const GPUS: [u32; 4] = [72, 87, 90, 110];

/// The GPUs that a compiler is used for: Orin's kernels go through every one, because both are
/// met there; the others' through the newest that knows them.
fn gpus_of(nvrtc: &Nvrtc, all: &[Nvrtc]) -> Vec<u32> {
    let knows = |n: &Nvrtc, sm| n.architectures().contains(&sm);
    let newest = |sm| all.iter().filter(|n| knows(n, sm)).map(Nvrtc::version).max();
    let wanted = |&sm: &u32| sm == 87 || newest(sm) == Some(nvrtc.version());
    GPUS.into_iter().filter(|&sm| knows(nvrtc, sm)).filter(wanted).collect()
}

/// Random layers of each family.
const RANDOM: usize = 2;

/// Candidates that an untimed build tries for a layer, as the builder's.
const ATTEMPTS: usize = 8;

struct Kernel {
    label: String,
    source: String,
    specific: bool,
}

/// A layer's candidates, best first, for a GPU and a compiler.
struct Job {
    what: String,
    kernels: Vec<Kernel>,
    sm: u32,
    library: usize,
}

/// The layers of the six networks of the speed table, made by `make.sh` beside them.
fn six_networks() -> Vec<(String, Layer)> {
    let text = concat!(
        include_str!("../../kernels/tests/data/six_networks.jsonl"),
        include_str!("../../kernels/tests/data/six_networks_fp32.jsonl")
    );
    text.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let network = value["network"].as_str().expect("a name").to_string();
            let layer = serde_json::from_value(value["layer"].clone()).unwrap_or_else(|e| {
                panic!("builder/kernels/tests/data/make.sh is due: {e}: {line}")
            });
            (network, layer)
        })
        .collect()
}

#[test]
fn the_six_networks_layers_are_read_and_have_kernels_for_every_gpu() {
    let layers = six_networks();
    assert!(layers.len() > 200);
    for (network, layer) in layers {
        for sm in GPUS {
            let target = Target::of_sm(sm).expect("it is known");
            let some = !layer.candidates(&target).is_empty();
            assert!(some || layer.is_optional(), "sm_{sm} {network}: {layer:?}");
        }
    }
}

fn libraries() -> Vec<Nvrtc> {
    match std::env::var("TOBIUO_TEST_NVRTC") {
        Ok(files) => {
            let open = |f| Nvrtc::open_file(Path::new(f)).unwrap_or_else(|e| panic!("{f}: {e}"));
            let all: Vec<Nvrtc> = files.split(':').map(open).collect();
            for sm in GPUS {
                let known = all.iter().any(|n| n.architectures().contains(&sm));
                assert!(known, "none of {files} knows sm_{sm}");
            }
            all
        }
        Err(_) => match Nvrtc::open() {
            Ok(one) => vec![one],
            Err(why) => {
                eprintln!("SKIPPED, no kernel is compiled: {why}");
                Vec::new()
            }
        },
    }
}

/// Numbers from here on are many: a layer's kind has no extents.
const MANY: f64 = 6.0;

/// A layer without its extents: what is left are types, windows, strides, activations and the
/// like, which decide what code there is, while extents only decide how often it runs.
fn kind(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(n) if n.as_f64().is_some_and(|n| n.abs() >= MANY) => "many".into(),
        Value::Array(all) => all.iter().map(kind).collect(),
        Value::Object(all) => all.iter().map(|(key, value)| (key.clone(), kind(value))).collect(),
        other => other.clone(),
    }
}

/// What is compiled for a GPU: the candidates of one layer of each kind and first candidate, with
/// what they are for.
fn kernels(sm: u32) -> BTreeMap<String, (String, Vec<Kernel>)> {
    let target = Target::of_sm(sm).expect("it is known");
    let mut out = BTreeMap::new();
    let mut add = |what: String, layer: &Layer| {
        // TF32 came with sm_80.
        let json = serde_json::to_value(layer).expect("layers are plain data");
        if sm < 80 && json.to_string().contains("\"tf32\":true") {
            return;
        }
        let candidates = layer.candidates(&target).into_iter().take(ATTEMPTS);
        let kernels: Vec<Kernel> = candidates
            .map(|c| Kernel { label: c.label, source: c.source, specific: c.specific })
            .collect();
        let first = kernels.first();
        if first.is_none() && layer.is_optional() {
            return;
        }
        let first = first.unwrap_or_else(|| panic!("sm_{sm} {what}: no kernel for {layer:?}"));
        let like = format!("{} {}", first.label, kind(&json));
        out.entry(like).or_insert((format!("{what}: {}", layer.family()), kernels));
    };
    for (network, layer) in six_networks() {
        add(network, &layer);
    }
    let mut random = Random::new(20_260_801);
    for (name, generate) in GENERATORS {
        for _ in 0..RANDOM {
            add(format!("random {name}"), &generate(&mut random));
        }
    }
    for (name, module) in vision_modules() {
        let source = module.source(&target);
        let kernel = Kernel { label: name.into(), source: source.clone(), specific: false };
        out.insert(source, ("camera".into(), vec![kernel]));
    }
    out
}

/// The camera pipeline's kernels: a detector's on a packed f16 picture, a classifier's on f32
/// planes, and a network whose output is left to the host.
fn vision_modules() -> Vec<(&'static str, vision::VisionModule)> {
    use tobiuo_tensor::DType;
    use vision::{Channels, Head, Picture, VisionModule};
    let picture = |channels, dtype, strides, stored, aligned| Picture {
        channels,
        height: 192,
        width: 320,
        dtype,
        strides,
        stored,
        aligned,
    };
    let detect = Head::Detect {
        classes: 10,
        anchors: 1260,
        row_stride: 1260,
        anchor_stride: 1,
        dtype: DType::F16,
    };
    let classify = Head::Classify { classes: 1000, stride: 1, dtype: DType::F32 };
    let packed = picture(Channels::Rgb, DType::F16, [1, 320 * 4, 4], 4, true);
    let planes = picture(Channels::Bgr, DType::F32, [192 * 320, 320, 1], 3, true);
    let gray = picture(Channels::Gray, DType::F16, [192 * 320, 320, 1], 1, false);
    vec![
        ("detector", VisionModule { picture: packed, head: Some(detect) }),
        ("classifier", VisionModule { picture: planes, head: Some(classify) }),
        ("picture", VisionModule { picture: gray, head: None }),
    ]
}

/// What is wrong with a layer's chosen kernel.
fn trouble(job: &Job, nvrtc: &Nvrtc) -> Option<String> {
    let (major, minor) = nvrtc.version();
    let place = format!("sm_{} by NVRTC {major}.{minor}: {}", job.sm, job.what);
    let mut spilled = Vec::new();
    for kernel in &job.kernels {
        match nvrtc.compile("kernel.cu", &kernel.source, job.sm, kernel.specific) {
            Err(e) => return Some(format!("{place} {}: {e}", kernel.label)),
            // Warpgroup products that wait for one another take several times as long.
            Ok(code) if code.log.contains("instructions are serialized") => {
                return Some(format!("{place} {}: {}", kernel.label, code.log));
            }
            Ok(code) if code.spill_bytes == 0 => return None,
            Ok(code) => spilled.push(format!(
                "{} spills {} bytes with {} registers",
                kernel.label, code.spill_bytes, code.registers
            )),
        }
    }
    Some(format!("{place}: every candidate spills: {}", spilled.join(", ")))
}

#[test]
fn chosen_kernels_compile_for_every_gpu_without_spills() {
    let libraries = libraries();
    let mut jobs = Vec::new();
    for (library, nvrtc) in libraries.iter().enumerate() {
        for sm in gpus_of(nvrtc, &libraries) {
            jobs.extend(kernels(sm).into_values().map(|(what, kernels)| Job {
                what,
                kernels,
                sm,
                library,
            }));
        }
    }
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let (Some(found), Ok(mut wrong)) =
                        (trouble(job, &libraries[job.library]), wrong.lock())
                    {
                        wrong.push(found);
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("{} layers' kernels compiled in {seconds:.0} s on {threads} threads", jobs.len());
    let wrong = wrong.into_inner().expect("no thread panics");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), jobs.len(), wrong.join("\n"));
}
