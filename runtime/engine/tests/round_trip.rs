//! What is written is what is read.

mod common;

use tobiuo_engine::{
    DeviceKey, EngineErrorKind, EngineFile, EngineWriter, Manifest, Place, Program, SectionSpec,
    Step, ThisDevice, encode, format::SectionKind, validate, write_engine,
};

use tobiuo_ops::Op;

#[test]
fn written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.tobiuo");
    let (manifest, weights) = (common::manifest(), common::weights());
    let written = write_engine(&path, &manifest, &weights).unwrap();
    let engine = EngineFile::open(&path).unwrap();
    assert_eq!(engine.manifest(), &manifest);
    assert_eq!(engine.weights(), weights);
    assert_eq!(engine.weights().as_ptr() as usize % 4096, 0);
    assert_eq!((engine.len(), engine.hash()), (written.len, written.hash));
    assert_eq!(engine.path(), path);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), written.len);
    // Pages that were given back come again with the same bytes.
    engine.release(0..usize::MAX);
    assert_eq!(engine.weights(), weights);
    // The same from memory, where the bytes must survive a release.
    let in_memory = EngineFile::from_bytes(&std::fs::read(&path).unwrap()).unwrap();
    in_memory.release(0..usize::MAX);
    assert_eq!(in_memory.weights(), weights);
    assert_eq!(in_memory.hash(), engine.hash());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn the_same_content_has_the_same_bytes_however_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, weights) = (common::manifest(), common::weights());
    let whole = encode(&manifest, &weights).unwrap();
    let spec = SectionSpec { kind: SectionKind::Weights, len: weights.len() as u64 };
    for piece in [1, 7, 64, 1000] {
        let path = dir.path().join("pieces.tobiuo");
        let mut writer = EngineWriter::create(&path, &manifest, &[spec]).unwrap();
        for bytes in weights.chunks(piece) {
            writer.write(bytes).unwrap();
        }
        writer.finish().unwrap();
        assert!(std::fs::read(&path).unwrap() == whole, "pieces of {piece} bytes");
    }
}

#[test]
fn an_engine_without_weights_is_one() {
    let mut manifest = common::manifest();
    let error = validate(&manifest, 0, None).unwrap_err();
    assert!(error.to_string().contains("does not fit the weights section"), "{error}");
    for plan in &mut manifest.plans {
        // Only the last step, on the engine's input.
        let tobiuo_engine::Program::Cpu(steps) = &mut plan.program else { unreachable!() };
        steps.drain(..steps.len() - 1);
        steps[0].inputs = vec![0];
        plan.tensors.retain(|t| t.name == "image" || t.name == "boxes");
        plan.tensors[0].shape[1] = 6;
        steps[0].outputs = vec![1];
        steps[0].inputs = vec![0];
        plan.tensors[1].place = Place::Arena(plan.arena / 41 * 8);
        plan.outputs = vec![1];
    }
    manifest.inputs[0].shape[1] = 6;
    manifest.preprocess = None;
    let bytes = encode(&manifest, &[]).unwrap();
    let engine = EngineFile::from_bytes(&bytes).unwrap();
    assert!(engine.weights().is_empty());
    assert_eq!(engine.manifest(), &manifest);
}

#[test]
fn an_engine_for_another_device_is_told_apart() {
    let mut manifest = common::manifest();
    let open = |manifest: &Manifest| {
        EngineFile::from_bytes(&encode(manifest, &common::weights()).unwrap())
    };
    let here = ThisDevice::cpu();
    open(&manifest).unwrap().check_device(&here).unwrap();
    manifest.device = here.key().clone();
    open(&manifest).unwrap().check_device(&here).unwrap();
    manifest.device = DeviceKey::Cpu { arch: "pdp11".into() };
    manifest.provenance.model = "my model.onnx".into();
    let error = open(&manifest).unwrap().check_device(&here).unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::WrongDevice);
    assert_eq!(error.exit_status(), 3);
    let text = error.to_string();
    let arch = std::env::consts::ARCH;
    let table = ["built for", "this device", "pdp11", arch, "<- differs"];
    for part in table {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(text.matches("<- differs").count(), 1, "{text}");
    let command = "tobiuo-builder build 'my model.onnx' -o ENGINE --device cpu --precision fp32 \
                   --batch 1,2";
    assert!(text.ends_with(command), "{text}");
}

/// Concat, Slice and Reshape at batch 1 move nothing: a planner may leave their steps out.
#[test]
fn views_may_have_no_step() {
    let mut manifest = common::manifest();
    manifest.plans.truncate(1);
    let Program::Cpu(steps) = &mut manifest.plans[0].program else { unreachable!() };
    steps.retain(|s| !["join", "cut", "flatten"].contains(&s.name.as_str()));
    // A part of the joined tensor that takes some of `a` and some of `b`.
    let mut middle = manifest.plans[0].tensors[7].clone();
    middle.shape = vec![1, 4, 8, 8];
    middle.place = Place::Arena(5 * 256);
    let mut sine = manifest.plans[0].tensors[7].clone();
    (sine.shape, sine.place) = (vec![1, 4, 8, 8], Place::Arena(35 * 256));
    manifest.plans[0].tensors.extend([middle, sine]);
    let Program::Cpu(steps) = &mut manifest.plans[0].program else { unreachable!() };
    let mut half = steps[5].clone();
    assert_eq!(half.name, "half");
    (half.inputs, half.outputs) = (vec![17], vec![18]);
    steps.insert(3, half);
    validate(&manifest, common::WEIGHTS as u64, None).unwrap();
    // The same with the step.
    let mut with_step = manifest.clone();
    let Program::Cpu(steps) = &mut with_step.plans[0].program else { unreachable!() };
    let join = Step {
        name: "join".into(),
        op: Op::Concat { axis: 1 },
        inputs: vec![5, 6],
        outputs: vec![7],
    };
    steps.insert(2, join);
    validate(&with_step, common::WEIGHTS as u64, None).unwrap();
    // One that only happens to overlap `b`.
    manifest.plans[0].tensors[17].place = Place::Arena(9 * 256);
    let e = validate(&manifest, common::WEIGHTS as u64, None).unwrap_err();
    assert!(e.to_string().contains("which is no part of it"), "{e}");
}
