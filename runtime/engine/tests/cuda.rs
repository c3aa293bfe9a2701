//! CUDA engines: what is written is read, what cannot be is refused, the device's table.

mod common;
#[path = "common/cuda.rs"]
mod cuda;
#[path = "common/mutate.rs"]
mod mutate;

use std::collections::BTreeMap;
use std::path::Path;

use mutate::{Places, mutate};
use tobiuo_engine::format::{Head, SectionKind};
use tobiuo_engine::{
    CudaArgument, CudaKey, CudaLaunch, CudaProgram, CudaVision, DeviceKey, EngineError,
    EngineErrorKind, EngineFile, Manifest, Place, Plan, Program, ThisDevice, assemble, describe,
    encode, encode_sections, write_sections,
};
use tobiuo_tensor::DType;

use EngineErrorKind::{Inconsistent, Limit};

fn program(plan: &mut Plan) -> &mut CudaProgram {
    match &mut plan.program {
        Program::Cuda(program) => program,
        _ => panic!("a CUDA plan"),
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Manifest), kind: EngineErrorKind, says: &str) {
    let mut manifest = cuda::manifest();
    change(&mut manifest);
    let json = serde_json::to_vec(&manifest).unwrap();
    let (weights, code) = (cuda::weights(), cuda::code());
    let file = assemble(&json, &[(SectionKind::Weights, &weights), (SectionKind::Code, &code)]);
    let e = EngineFile::from_bytes(&file).expect_err("it is refused");
    assert!(e.kind() == kind && e.exit_status() == 4, "{e:?}");
    assert!(e.to_string().contains(says), "wanted {says:?} in: {e}");
}

/// With the first plan's program changed.
#[track_caller]
fn program_refused(change: impl FnOnce(&mut CudaProgram), says: &str) {
    refused(|m| change(program(&mut m.plans[0])), Inconsistent, says);
}

#[track_caller]
fn launch_refused(change: impl FnOnce(&mut CudaLaunch), says: &str) {
    program_refused(|p| change(&mut p.launches[2]), says);
}

#[test]
fn written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cuda.tobiuo");
    let (manifest, weights, code) = (cuda::manifest(), cuda::weights(), cuda::code());
    let sections = [(SectionKind::Weights, &weights[..]), (SectionKind::Code, &code[..])];
    write_sections(&path, &manifest, &sections).unwrap();
    let engine = EngineFile::open(&path).unwrap();
    assert_eq!(engine.manifest(), &manifest);
    assert!(engine.weights() == weights && engine.code() == code);
    assert_eq!(engine.code().as_ptr() as usize % 4096, 0);
    assert_eq!(engine.sections().len(), 2);
    assert!(std::fs::read(&path).unwrap() == cuda::encode(&manifest));
    let text = describe(&manifest);
    for part in ["cuda (Orin, sm_87)", "4 launches", "right", "conv 64x32 k1", "5.2"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

/// Engines of the CPU device stay in the format that older programs read.
#[test]
fn an_engine_is_written_in_the_oldest_format_that_holds_it() {
    let version = |file: &[u8]| Head::parse(file).unwrap().0.version;
    assert_eq!(version(&encode(&common::manifest(), &common::weights()).unwrap()), 1);
    assert_eq!(version(&cuda::encode(&cuda::manifest())), 2);
    // A format 1 that has code is none.
    let mut bytes = cuda::encode(&cuda::manifest());
    let (mut head, _) = Head::parse(&bytes).unwrap();
    for (says_version, says) in [(1, "a section of unknown kind 2"), (3, "format 3")] {
        head.version = says_version;
        let (encoded, _) = head.encode();
        bytes[..encoded.len()].copy_from_slice(&encoded);
        let e = EngineFile::from_bytes(&bytes).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }
    let mut bytes = encode(&common::manifest(), &common::weights()).unwrap();
    let (mut head, _) = Head::parse(&bytes).unwrap();
    head.version = 2;
    let (encoded, _) = head.encode();
    bytes[..encoded.len()].copy_from_slice(&encoded);
    let e = EngineFile::from_bytes(&bytes).unwrap_err();
    assert!(e.to_string().contains("of format 1 but says 2"), "{e}");
}

#[test]
fn sections_and_devices_belong_together() {
    let (weights, code) = (cuda::weights(), cuda::code());
    let (w, c) = ((SectionKind::Weights, &weights[..]), (SectionKind::Code, &code[..]));
    let says = |manifest: &Manifest, sections: &[(SectionKind, &[u8])], says: &str| {
        let e = encode_sections(manifest, sections).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
        let json = serde_json::to_vec(manifest).unwrap();
        let e = EngineFile::from_bytes(&assemble(&json, sections)).unwrap_err();
        assert!(e.kind() == Inconsistent && e.to_string().contains(says), "{e}");
    };
    says(&cuda::manifest(), &[w, c, c], "2 code sections");
    says(&cuda::manifest(), &[c, w], "before the weights section");
    says(&cuda::manifest(), &[c], "0 weights sections");
    says(&common::manifest(), &[w, c], "a code section in an engine for the CPU device");
    let mut mixed = cuda::manifest();
    mixed.device = common::manifest().device;
    says(&mixed, &[w, c], "for another kind of device than the engine, cpu");
    let mut mixed = common::manifest();
    mixed.device = DeviceKey::Cuda(cuda::key());
    says(&mixed, &[w, c], "for another kind of device than the engine, cuda");
    let mut empty = cuda::manifest();
    let none = |m: &mut Manifest| m.plans.iter_mut().for_each(|p| program(p).modules.clear());
    none(&mut empty);
    empty.plans.iter_mut().for_each(|p| program(p).launches.clear());
    empty.plans.iter_mut().for_each(|p| program(p).vision = None);
    empty.outputs.clear();
    says(&empty, &[w], "no outputs");
    // Without code nothing of a CUDA plan can be.
    says(&cuda::manifest(), &[w], "of the code section, which has 0");
}

#[test]
fn tensors_are_exactly_the_inputs_and_outputs() {
    let tensors = |change: &dyn Fn(&mut Plan), says: &str| {
        refused(|m| change(&mut m.plans[0]), Inconsistent, says);
    };
    tensors(&|p| p.tensors[1].place = Place::Arena(0), "it has a place");
    tensors(&|p| p.tensors.push(p.tensors[0].clone()), "neither input nor output");
    tensors(&|p| p.inputs = vec![7], "input \"image\" is tensor 7");
    tensors(&|p| p.outputs = vec![0], "output \"boxes\" is f32 [1, 6, 64]");
    let twice = |m: &mut Manifest| {
        m.outputs.push(m.outputs[0].clone());
        m.outputs[1].name = "again".into();
        m.plans.iter_mut().for_each(|p| p.outputs.push(1));
    };
    refused(twice, Inconsistent, "an input or output twice");
    let huge = |m: &mut Manifest| {
        m.inputs[0].shape = vec![1, 3, 1 << 31, 1 << 31];
        m.plans.iter_mut().for_each(|p| {
            let n = p.batch;
            p.tensors[0].shape = vec![n, 3, 1 << 31, 1 << 31];
        });
    };
    refused(huge, Limit, "bytes of inputs and outputs");
    refused(|m| m.plans[0].tensors[0].shape = vec![1; 9], Inconsistent, "image");
    refused(|m| m.plans[0].arena = (64 << 30) + 1, Limit, "arena");
}

#[test]
fn modules_and_kernels_out_of_bounds() {
    program_refused(|p| p.modules[2].bytes = 257, "module 2: 257 bytes at byte 448");
    program_refused(|p| p.modules[0].offset = u64::MAX - 63, "code section");
    program_refused(|p| p.modules[1].offset = 200, "no multiple of 64");
    program_refused(|p| p.modules[1].bytes = 0, "0 bytes at byte 192");
    launch_refused(|l| l.module = 3, "launch 2 \"right\" (\"Conv\"): its kernel is in module 3");
    launch_refused(|l| l.function = String::new(), "a kernel named \"\"");
    launch_refused(|l| l.function = "a\0b".into(), "a kernel named");
}

#[test]
fn geometry_that_no_device_has() {
    for grid in [[0, 1, 1], [1 << 31, 1, 1], [1, 65_536, 1], [1, 1, 65_536], [1, 0, 1]] {
        launch_refused(|l| l.grid = grid, "a grid of");
    }
    for block in [[0, 1, 1], [1025, 1, 1], [1, 1, 65], [u32::MAX, 1, 1]] {
        launch_refused(|l| l.block = block, "a block of");
    }
    launch_refused(|l| l.block = [64, 32, 1], "2048 threads in a block");
    launch_refused(|l| l.shared = 166_913, "166913 bytes of shared memory");
}

#[test]
fn arguments_out_of_their_regions() {
    use CudaArgument::{Arena, Input, Output, Scratch, Weights};
    for (argument, says) in [
        (Arena { offset: 3072, bytes: 1 }, "argument 0: 1 bytes at byte 3072 of the arena"),
        (Arena { offset: u64::MAX, bytes: 2 }, "of the arena"),
        (Arena { offset: 0, bytes: u64::MAX }, "of the arena"),
        (Weights { offset: 1020, bytes: 8 }, "of the weights section, which has 1024"),
        (Weights { offset: 2, bytes: 8 }, "no multiple of 4"),
        (Scratch { offset: 0, bytes: 257 }, "of the scratch memory"),
        (Scratch { offset: 1, bytes: 4 }, "no multiple of 4"),
        (Input { index: 1, offset: 0, bytes: 0 }, "input 1 is named; there are 1"),
        (Input { index: 0, offset: 4, bytes: 768 }, "of the input, which has 768"),
        (Output { index: u32::MAX, offset: 0, bytes: 0 }, "output 4294967295 is named"),
        (Output { index: 0, offset: 1536, bytes: 1 }, "of the output"),
    ] {
        launch_refused(|l| l.arguments[0] = argument, says);
    }
    let many = vec![CudaArgument::Null; 17];
    refused(
        |m| program(&mut m.plans[0]).launches[2].arguments = many,
        Limit,
        "arguments: 17; at most 16",
    );
    program_refused(|p| p.zeroed = 257, "257 bytes of scratch memory are zeroed");
    program_refused(|p| p.carveout = Some(101), "101 % of shared memory are preferred");
    refused(|m| program(&mut m.plans[0]).scratch = 1 << 40, Limit, "scratch bytes");
}

#[test]
fn orders_that_cannot_be_kept() {
    launch_refused(|l| l.after = vec![2], "launch 2, which is not earlier");
    launch_refused(|l| l.after = vec![u32::MAX], "not earlier");
    program_refused(|p| p.launches[3].after = vec![1], "on its own stream");
    launch_refused(|l| l.stream = 64, "stream 64; there are at most 64");
    program_refused(|p| p.launches[3].stream = 1, "on its own stream");
    let side = |p: &mut CudaProgram| {
        p.launches[3].after.clear();
        p.launches[3].stream = 1;
    };
    program_refused(side, "the last launch is on stream 1");
    let waits = |m: &mut Manifest| {
        program(&mut m.plans[0]).launches[2].after = vec![0; 4_000_001];
    };
    refused(waits, Limit, "launches waited for");
}

#[test]
fn outputs_that_nobody_writes() {
    let null = |p: &mut CudaProgram| p.launches[3].arguments[1] = CudaArgument::Null;
    program_refused(null, "no launch writes output 0 \"boxes\"");
}

#[test]
fn vision_that_does_not_fit() {
    let vision = |change: &dyn Fn(&mut CudaVision), says: &str| {
        program_refused(|p| change(p.vision.as_mut().unwrap()), says);
    };
    vision(&|v| v.module = 3, "its kernels are in module 3");
    vision(&|v| v.picture = CudaArgument::Null, "the picture goes to Null");
    vision(&|v| v.picture = CudaArgument::Arena { offset: 2560, bytes: 1024 }, "of the arena");
    vision(&|v| v.dtype = DType::I32, "a picture of i32");
    vision(&|v| v.strides = [1, 72, 8], "does not fit 1024 bytes");
    vision(&|v| v.strides = [u64::MAX, 1, 1], "does not fit");
    vision(&|v| v.channels_stored = 2, "2 channels stored of 3");
    vision(&|v| v.channels_stored = 9, "does not fit");
    vision(&|v| v.replaces = vec![4], "it replaces");
    vision(&|v| v.replaces = vec![1, 1], "not ascending");
    vision(&|v| v.upload.function.clear(), "a kernel named");
    vision(&|v| v.preprocess.grid[1] = 0, "a grid of [1, 0, 1]");
    vision(&|v| v.head.select.block = [1024, 2, 1], "2048 threads");
    vision(&|v| v.head.decode.as_mut().unwrap().function = "a\0".into(), "a kernel named");
    vision(&|v| v.head.decode = None, "boxes are decoded");
    vision(&|v| v.head.output = CudaArgument::Null, "is read from Null");
    let beyond = CudaArgument::Output { index: 0, offset: 4, bytes: 6 * 64 * 4 + (1 << 20) };
    vision(&|v| v.head.output = beyond, "of the output");
    refused(|m| m.preprocess = None, Inconsistent, "no input is one");
}

#[test]
fn unknown_fields_are_refused_in_launches_too() {
    let valid = serde_json::to_value(cuda::manifest()).unwrap();
    let places = Places::of(&valid);
    let (weights, code) = (cuda::weights(), cuda::code());
    let mut tried = 0;
    for place in &places.all {
        let mut document = valid.clone();
        let Some(object) = document.pointer_mut(place).and_then(|v| v.as_object_mut()) else {
            continue;
        };
        object.insert("future".into(), 1.into());
        let json = serde_json::to_vec(&document).unwrap();
        let file = assemble(&json, &[(SectionKind::Weights, &weights), (SectionKind::Code, &code)]);
        let e = EngineFile::from_bytes(&file).expect_err(place);
        assert_eq!(e.kind(), Inconsistent, "{place}: {e}");
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
}

/// A second, plain opinion on a plan that was accepted: no code shared with the checks.
fn judge(manifest: &Manifest) {
    let DeviceKey::Cuda(key) = &manifest.device else { panic!("accepted another device") };
    for plan in &manifest.plans {
        let Program::Cuda(program) = &plan.program else { panic!("accepted another program") };
        let bytes = |t: u32| -> u128 {
            let d = &plan.tensors[t as usize];
            assert_eq!(d.place, Place::Bound);
            d.shape.iter().map(|&n| n as u128).product::<u128>() * d.dtype.size() as u128
        };
        assert_eq!(plan.tensors.len(), plan.inputs.len() + plan.outputs.len());
        assert!(program.zeroed <= program.scratch && program.scratch <= 64 << 30);
        let mut written = vec![false; plan.outputs.len()];
        for (i, l) in program.launches.iter().enumerate() {
            let module = &program.modules[l.module as usize];
            assert!(module.offset as u128 + module.bytes as u128 <= cuda::CODE as u128);
            assert!(l.shared <= key.shared_per_block && l.arguments.len() <= 16);
            assert!(l.block.iter().map(|&n| n as u128).product::<u128>() <= 1024);
            assert!(l.grid.iter().chain(&l.block).all(|&n| n > 0));
            for &a in &l.after {
                assert!((a as usize) < i && program.launches[a as usize].stream != l.stream);
            }
            for argument in &l.arguments {
                let (region, offset, len) = match *argument {
                    CudaArgument::Arena { offset, bytes } => (plan.arena as u128, offset, bytes),
                    CudaArgument::Weights { offset, bytes } => {
                        (cuda::WEIGHTS as u128, offset, bytes)
                    }
                    CudaArgument::Scratch { offset, bytes } => {
                        (program.scratch as u128, offset, bytes)
                    }
                    CudaArgument::Input { index, offset, bytes: n } => {
                        (bytes(plan.inputs[index as usize]), offset, n)
                    }
                    CudaArgument::Output { index, offset, bytes: n } => {
                        written[index as usize] = true;
                        (bytes(plan.outputs[index as usize]), offset, n)
                    }
                    CudaArgument::Null => continue,
                };
                assert!(offset as u128 + len as u128 <= region, "{argument:?}");
            }
        }
        for (i, &t) in plan.outputs.iter().enumerate() {
            assert!(written[i] || bytes(t) == 0, "output {i} is never written");
        }
    }
}

#[test]
fn twelve_thousand_changed_cuda_manifests_are_refused_or_valid() {
    let valid = serde_json::to_value(cuda::manifest()).unwrap();
    let places = Places::of(&valid);
    let (weights, code) = (cuda::weights(), cuda::code());
    let mut random = common::Random(14);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let mut valid_ones = 0;
    for round in 0..12_000 {
        let mut document = valid.clone();
        for _ in 0..=random.below(2) {
            mutate(&mut document, &places, &mut random);
        }
        let json = serde_json::to_vec(&document).unwrap();
        let file = assemble(&json, &[(SectionKind::Weights, &weights), (SectionKind::Code, &code)]);
        match EngineFile::from_bytes(&file) {
            Ok(engine) => {
                valid_ones += 1;
                judge(engine.manifest());
                describe(engine.manifest());
            }
            Err(e) => {
                assert!(matches!(e.kind(), Inconsistent | Limit), "round {round}: {e:?}");
                let place: String = e.place().chars().take_while(|c| !c.is_numeric()).collect();
                *ends.entry(place).or_default() += 1;
            }
        }
    }
    eprintln!("{valid_ones} valid; refused at: {ends:#?}");
    let parsed: u32 = ends.iter().filter(|(place, _)| *place != "manifest").map(|(_, n)| n).sum();
    assert!(parsed > 3_000 && valid_ones > 500, "{parsed}, {valid_ones}: {ends:?}");
}

fn check(engine: &CudaKey, here: CudaKey) -> Result<(), EngineError> {
    let mut manifest = cuda::manifest();
    manifest.device = DeviceKey::Cuda(engine.clone());
    manifest.provenance.model = "net.onnx".into();
    let file = EngineFile::from_bytes(&cuda::encode(&manifest)).unwrap();
    file.check_device(&ThisDevice::from(DeviceKey::Cuda(here)))
}

#[test]
fn the_devices_are_compared_field_by_field() {
    let key = cuda::key();
    check(&key, key.clone()).unwrap();
    // Another name and a newer driver run it as well.
    let newer = CudaKey { name: "Orin (other)".into(), driver: 12060, ..key.clone() };
    check(&key, newer).unwrap();
    type Change = fn(&mut CudaKey);
    let changes: [(Change, &[&str]); 4] = [
        (|k| k.sm = 90, &["compute capability", "8.7", "9.0"]),
        (|k| k.sm_count = 16, &["multiprocessors", "8", "16"]),
        (|k| k.l2_bytes = 4 << 20, &["L2 cache", "2097152", "4194304"]),
        (|k| k.shared_per_block = 101_376, &["shared memory of a block", "166912", "101376"]),
    ];
    for (change, says) in changes {
        let mut here = key.clone();
        change(&mut here);
        let e = check(&key, here).unwrap_err();
        let text = e.to_string();
        assert_eq!((e.kind(), e.exit_status()), (EngineErrorKind::WrongDevice, 3));
        assert_eq!(text.matches("<- differs").count(), 1, "{text}");
        let line = text.lines().find(|l| l.contains("<- differs")).unwrap();
        for part in says {
            assert!(line.contains(part), "'{part}' is not in: {line}");
        }
        let command = "tobiuo-builder build net.onnx -o ENGINE --device cuda --precision fp16 \
                       --batch 1,2";
        assert!(text.ends_with(command), "{text}");
    }
    // Another device with an old driver is another device; the right one needs a driver.
    let xavier = CudaKey { sm: 72, driver: 11040, ..key.clone() };
    assert_eq!(check(&key, xavier).unwrap_err().exit_status(), 3);
    let says = |needs: u32, has: u32| {
        let needs = CudaKey { driver: needs, ..key.clone() };
        let e = check(&needs, CudaKey { driver: has, ..key.clone() }).unwrap_err();
        assert_eq!((e.kind(), e.exit_status()), (EngineErrorKind::OldDriver, 5), "{e}");
        e.to_string()
    };
    let text = says(12020, 11040);
    assert!(text.contains("CUDA 11.4, the engine needs 12.2") && text.contains("JetPack 6 or"));
    assert!(!text.contains("rebuild"), "it would not help: {text}");
    let text = says(13000, 12060);
    assert!(text.contains("needs 13.0") && text.contains("JetPack 7.2 or"), "{text}");
    assert!(text.contains("with NVRTC 12") && text.contains("tobiuo-builder build net.onnx"));
    // Chosen by the cost model, it may run on any size of its architecture.
    let untuned = CudaKey { tuned: false, ..key.clone() };
    let larger = CudaKey { sm_count: 16, l2_bytes: 4 << 20, ..key.clone() };
    check(&untuned, larger).unwrap();
    let e = check(&untuned, CudaKey { sm: 72, ..key.clone() }).unwrap_err();
    assert!(e.to_string().contains("compute capability"), "{e}");
    // A CPU engine's command is for the CPU that it is to run on.
    let cpu = EngineFile::from_bytes(&encode(&common::manifest(), &common::weights()).unwrap());
    let e = cpu.unwrap().check_device(&ThisDevice::from(DeviceKey::Cuda(key))).unwrap_err();
    assert!(e.to_string().contains("--device cuda --precision fp32"), "{e}");
}

#[test]
fn the_golden_engine_of_format_2_loads_and_is_written_the_same() {
    let golden = include_bytes!("golden/format-2.tobiuo");
    let engine = EngineFile::from_bytes(golden).unwrap();
    assert_eq!(engine.manifest(), &cuda::manifest());
    assert!(engine.weights() == cuda::weights() && engine.code() == cuda::code());
    assert_eq!(
        engine.hash_hex(),
        include_str!("golden/format-2.hash").trim(),
        "an engine's identity must not change"
    );
    assert!(cuda::encode(engine.manifest()) == golden, "the same engine has other bytes now");
}

/// Makes the golden files of format 2; once the format is released they stay as they are.
#[test]
#[ignore = "writes tests/golden"]
fn write_golden() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bytes = cuda::encode(&cuda::manifest());
    let hash = EngineFile::from_bytes(&bytes).unwrap().hash_hex();
    std::fs::write(dir.join("format-2.tobiuo"), bytes).unwrap();
    std::fs::write(dir.join("format-2.hash"), hash + "\n").unwrap();
}
