//! Every family's kernels through NVIDIA's own compiler, for every GPU that engines are made
//! for: no error, and no register spills in what the cost model would choose.
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

/// Random layers of each family.
const RANDOM: usize = 2;

struct Job {
    what: String,
    source: String,
    sm: u32,
    specific: bool,
    library: usize,
}

/// The layers of the six networks of the speed table: how they are made is said in
/// `builder/examples/layers.rs`.
fn six_networks() -> Vec<(String, Layer)> {
    let text = concat!(
        include_str!("../../kernels/tests/data/six_networks.jsonl"),
        include_str!("../../kernels/tests/data/six_networks_fp32.jsonl")
    );
    text.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let network = value["network"].as_str().expect("a name").to_string();
            let layer = serde_json::from_value(value["layer"].clone())
                .unwrap_or_else(|e| panic!("make the list again: {e}: {line}"));
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
            assert!(!layer.candidates(&target).is_empty(), "sm_{sm} {network}: {layer:?}");
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

/// What is compiled for a GPU: distinct sources with what they are for.
fn sources(sm: u32) -> BTreeMap<String, (String, bool)> {
    let target = Target::of_sm(sm).expect("it is known");
    let mut out = BTreeMap::new();
    let mut add = |what: String, layer: &Layer| {
        let chosen = layer.candidates(&target).into_iter().next();
        let chosen = chosen.unwrap_or_else(|| panic!("sm_{sm} {what}: no kernel for {layer:?}"));
        let what = format!("{what}: {} {}", layer.family(), chosen.label);
        // Without the first lines, which differ where the code does not.
        let code = chosen.source.lines().skip(2).collect::<Vec<_>>().join("\n");
        out.entry(code).or_insert((what, chosen.specific));
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
        out.entry(module.source(&target)).or_insert((format!("camera {name}"), false));
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

#[test]
fn chosen_kernels_compile_for_every_gpu_without_spills() {
    let libraries = libraries();
    let mut jobs = Vec::new();
    for (library, nvrtc) in libraries.iter().enumerate() {
        for sm in GPUS.into_iter().filter(|sm| nvrtc.architectures().contains(sm)) {
            jobs.extend(sources(sm).into_iter().map(|(source, (what, specific))| Job {
                what,
                source,
                sm,
                specific,
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
                    let nvrtc = &libraries[job.library];
                    let (major, minor) = nvrtc.version();
                    let place = format!("sm_{} by NVRTC {major}.{minor}: {}", job.sm, job.what);
                    let found = match nvrtc.compile("kernel.cu", &job.source, job.sm, job.specific)
                    {
                        Err(e) => Some(format!("{place}: {e}")),
                        Ok(code) if code.spill_bytes > 0 => Some(format!(
                            "{place}: {} bytes of registers are spilled, with {} registers",
                            code.spill_bytes, code.registers
                        )),
                        Ok(_) => None,
                    };
                    if let (Some(found), Ok(mut wrong)) = (found, wrong.lock()) {
                        wrong.push(found);
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("{} kernels compiled in {seconds:.0} s on {threads} threads", jobs.len());
    let wrong = wrong.into_inner().expect("no thread panics");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), jobs.len(), wrong.join("\n"));
}
