//! The attacks of docs/security.md, one test each, in files whose hashes are right unless
//! the attack is on a hash.

mod common;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tobiuo_engine::format::{Head, SectionKind};
use tobiuo_engine::{
    DeviceKey, EngineError, EngineErrorKind, EngineFile, Manifest, Place, Program, ThisDevice,
    assemble, encode, validate,
};
use tobiuo_ops::Op;
use tobiuo_tensor::DType;

fn valid() -> Vec<u8> {
    encode(&common::manifest(), &common::weights()).unwrap()
}

/// The valid engine with another head, its hash right.
fn with_head(change: impl FnOnce(&mut Head)) -> EngineError {
    let mut bytes = valid();
    let (mut head, _) = Head::parse(&bytes).unwrap();
    change(&mut head);
    let (encoded, _) = head.encode();
    bytes.resize(bytes.len().max(encoded.len()), 0);
    bytes[..encoded.len()].copy_from_slice(&encoded);
    refused(&bytes)
}

fn refused(bytes: &[u8]) -> EngineError {
    let begin = Instant::now();
    let e = EngineFile::from_bytes(bytes).expect_err("an attack is refused");
    assert_eq!(e.exit_status(), 4, "{e}");
    assert!(begin.elapsed() < Duration::from_secs(20), "took {:?}: {e}", begin.elapsed());
    e
}

/// The valid engine with a changed manifest.
fn with_manifest(change: impl FnOnce(&mut Manifest)) -> EngineError {
    let mut manifest = common::manifest();
    change(&mut manifest);
    with_text(&serde_json::to_vec(&manifest).unwrap())
}

fn with_text(json: &[u8]) -> EngineError {
    refused(&assemble(json, &[(SectionKind::Weights, &common::weights())]))
}

fn says(e: EngineError, kind: EngineErrorKind, text: &str) {
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.to_string().contains(text), "wanted {text:?} in: {e}");
}

use EngineErrorKind::{Damaged, Inconsistent, Limit, Truncated};

#[test]
fn lengths_that_would_allocate_or_overflow() {
    for len in [65 << 20, u64::MAX, u64::MAX - 191, 1 << 63] {
        says(with_head(|h| h.manifest_len = len), Limit, "manifest");
    }
    says(with_head(|h| h.sections[0].len = u64::MAX), Inconsistent, "64 bits");
    says(with_head(|h| h.sections[0].len = u64::MAX - (1 << 17)), Inconsistent, "parts end");
    let longer = |h: &mut Head| {
        h.sections[0].len += 1 << 40;
        h.file_len += 1 << 40;
    };
    says(with_head(longer), Truncated, "bytes");
}

#[test]
fn section_counts() {
    says(with_head(|h| h.sections.clear()), Limit, "0 sections");
    let many = |h: &mut Head| h.sections = vec![h.sections[0].clone(); 65];
    says(with_head(many), Limit, "65 sections");
    let w = common::weights();
    let json = serde_json::to_vec(&common::manifest()).unwrap();
    let two = assemble(&json, &[(SectionKind::Weights, &w), (SectionKind::Weights, &w)]);
    says(refused(&two), Inconsistent, "2 weights sections");
    // A count that the file has no room for.
    let mut bytes = valid();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(refused(&bytes).kind(), Damaged | Truncated));
}

#[test]
fn overlaps_gaps_and_moved_parts() {
    for offset in [0, 64, 192, (1 << 16) | 64, 2 << 16, !0xffff] {
        says(with_head(|h| h.sections[0].offset = offset), Inconsistent, "said to begin at");
    }
    for offset in [0, 191, 193, u64::MAX] {
        says(with_head(|h| h.manifest_offset = offset), Inconsistent, "manifest");
    }
    says(with_head(|h| h.file_len += 1), Inconsistent, "parts end");
}

#[test]
fn bytes_hidden_between_or_behind_the_parts() {
    let mut padded = valid();
    let weights = padded.len() - common::WEIGHTS;
    padded[weights - 1] = b'!';
    says(refused(&padded), Damaged, "padding before section 0");
    let mut longer = valid();
    longer.extend(b"PK\x03\x04 a second file");
    says(refused(&longer), Damaged, "bytes after the end");
}

/// Writes a byte of the head and makes its hash right again.
fn with_head_byte(at: usize, byte: u8) -> EngineError {
    let mut bytes = valid();
    bytes[at] = byte;
    let mut hasher = Vec::from(&bytes[..96]);
    hasher.extend(&bytes[128..192]);
    let hash = blake3::hash(&hasher);
    bytes[96..128].copy_from_slice(hash.as_bytes());
    refused(&bytes)
}

#[test]
fn reserved_bytes_and_unknown_kinds() {
    for at in (40..64).chain(132..136).chain(152..160) {
        says(with_head_byte(at, 1), Inconsistent, "a reserved byte is not zero");
    }
    says(with_head_byte(128, 2), Inconsistent, "a section of unknown kind 2");
    says(with_head_byte(128, 3), Inconsistent, "a section of unknown kind 3");
}

#[test]
fn json_that_is_deep_ambiguous_or_more_than_known() {
    says(with_text(&b"[".repeat(1 << 20)), Inconsistent, "manifest");
    says(with_text(&[b"{\"task\":".repeat(5000)].concat()), Inconsistent, "manifest");
    says(with_text(b""), Inconsistent, "EOF");
    let text = serde_json::to_string(&common::manifest()).unwrap();
    says(with_text(format!("{text} 1").as_bytes()), Inconsistent, "trailing");
    let twice = text.replacen("\"labels\"", "\"precision\":\"int8\",\"labels\"", 1);
    says(with_text(twice.as_bytes()), Inconsistent, "duplicate field `precision`");
    let mut bad_utf8 = text.clone().into_bytes();
    let at = text.find("tiny.onnx").unwrap();
    bad_utf8[at] = 0xff;
    says(with_text(&bad_utf8), Inconsistent, "unicode");
}

/// A field that this reader does not know could change the answer.
#[test]
fn unknown_fields_anywhere() {
    fn insert(value: &mut Value, path: &mut String, out: &mut Vec<(String, Value)>, root: &Value) {
        if let Value::Object(fields) = value {
            let mut changed = root.clone();
            let at = changed.pointer_mut(path).unwrap().as_object_mut().unwrap();
            at.insert("unknown".into(), json!(1));
            out.push((path.clone(), changed));
            for (key, child) in fields.iter_mut() {
                let len = path.len();
                path.push_str(&format!("/{key}"));
                insert(child, path, out, root);
                path.truncate(len);
            }
        } else if let Value::Array(items) = value {
            for (i, child) in items.iter_mut().enumerate() {
                let len = path.len();
                path.push_str(&format!("/{i}"));
                insert(child, path, out, root);
                path.truncate(len);
            }
        }
    }
    let root = serde_json::to_value(common::manifest()).unwrap();
    let mut cases = Vec::new();
    insert(&mut root.clone(), &mut String::new(), &mut cases, &root);
    assert!(cases.len() > 80);
    for (path, changed) in cases {
        let e = with_text(&serde_json::to_vec(&changed).unwrap());
        assert_eq!(e.place(), "manifest", "at {path:?}: {e}");
    }
}

#[test]
fn tensors_out_of_bounds() {
    let shape = |shape: Vec<usize>| with_manifest(|m| m.plans[0].tensors[3].shape = shape);
    says(shape(vec![usize::MAX, 2]), Inconsistent, "does not fit the weights section");
    says(shape(vec![1 << 32, 1 << 32]), Inconsistent, "does not fit the weights section");
    says(shape(vec![1; 9]), Limit, "9 axes");
    says(shape(vec![1; 100_000]), Limit, "100000 axes");
    let place = |place: Place| with_manifest(|m| m.plans[1].tensors[1].place = place);
    says(place(Place::Weights(u64::MAX - 63)), Inconsistent, "does not fit");
    says(place(Place::Weights(common::WEIGHTS as u64)), Inconsistent, "does not fit");
    says(place(Place::Weights(4)), Inconsistent, "no multiple of 64");
    says(place(Place::Arena(!63)), Inconsistent, "does not fit the arena");
    says(with_manifest(|m| m.plans[0].arena = u64::MAX), Limit, "arena bytes");
    says(with_manifest(|m| m.plans[0].arena = 0), Inconsistent, "does not fit the arena");
}

#[test]
fn indices_out_of_range() {
    let step = |change: fn(&mut tobiuo_engine::Step)| {
        with_manifest(|m| {
            let Program::Cpu(steps) = &mut m.plans[0].program else { unreachable!() };
            change(&mut steps[4]);
        })
    };
    says(step(|s| s.inputs[0] = 17), Inconsistent, "step 4 \"mix\" (Conv): input 0 is tensor 17");
    says(step(|s| s.outputs[0] = u32::MAX), Inconsistent, "output 0 is tensor 4294967295");
    says(step(|s| s.inputs.clear()), Inconsistent, "step 4");
    says(step(|s| s.outputs.clear()), Inconsistent, "it has 0 outputs");
    says(with_manifest(|m| m.plans[0].inputs[0] = 99), Inconsistent, "tensor 99");
    says(with_manifest(|m| m.plans[0].outputs[0] = 99), Inconsistent, "tensor 99");
    says(with_manifest(|m| m.plans[0].outputs.clear()), Inconsistent, "0 tensors for the");
}

fn steps(m: &mut Manifest) -> &mut Vec<tobiuo_engine::Step> {
    let Program::Cpu(steps) = &mut m.plans[0].program else { unreachable!() };
    steps
}

#[test]
fn ops_that_do_not_fit_their_tensors() {
    says(with_manifest(|m| steps(m)[4].op = Op::MatMul), Inconsistent, "step 4");
    says(
        with_manifest(|m| steps(m)[9].op = Op::Reshape { shape: vec![usize::MAX, 2] }),
        Inconsistent,
        "step 9",
    );
    says(with_manifest(|m| m.plans[0].tensors[16].dtype = DType::I32), Inconsistent, "batch 1");
    let huge_pads = |m: &mut Manifest| {
        if let Op::Conv(c) = &mut steps(m)[0].op {
            c.pads = vec![usize::MAX; 4];
        }
    };
    says(with_manifest(huge_pads), Inconsistent, "step 0");
    let no_stride = |m: &mut Manifest| {
        if let Op::Conv(c) = &mut steps(m)[0].op {
            c.strides = vec![0, 0];
        }
    };
    says(with_manifest(no_stride), Inconsistent, "step 0");
}

#[test]
fn reading_what_nobody_wrote() {
    // Before it is written; never written; written only in part; overwritten since.
    says(with_manifest(|m| steps(m).swap(3, 4)), Inconsistent, "is read before the step");
    says(with_manifest(|m| drop(steps(m).remove(3))), Inconsistent, "was not written");
    says(with_manifest(|m| drop(steps(m).drain(1..3))), Inconsistent, "byte 1792 of the arena");
    let overwritten = |m: &mut Manifest| m.plans[0].tensors[13].place = Place::Arena(19 * 256);
    says(with_manifest(overwritten), Inconsistent, "step 6 \"half\" wrote over its bytes");
    let beside = |m: &mut Manifest| m.plans[0].tensors[13].place = Place::Arena(19 * 256 + 64);
    let e = with_manifest(beside);
    says(e, Inconsistent, "output tensor 13 \"half\" overlaps input 0 tensor 12 \"clipped\"");
    let later = |m: &mut Manifest| {
        let mut again = steps(m)[4].clone();
        again.name = "again".into();
        again.inputs = vec![7, 8, 9, 7];
        let mut third = m.plans[0].tensors[11].clone();
        third.name = "third".into();
        m.plans[0].tensors.push(third);
        again.outputs = vec![17];
        m.plans[0].tensors[17].place = Place::Arena(19 * 256 + 64);
        steps(m).insert(6, again);
    };
    says(with_manifest(later), Inconsistent, "is read, but step 6 \"again\" wrote over its bytes");
    // Partly overwritten pieces of a view without a step.
    let half_view = |m: &mut Manifest| {
        steps(m).remove(2);
        m.plans[0].tensors[6].place = Place::Arena(6 * 256);
    };
    says(with_manifest(half_view), Inconsistent, "was not written");
    let other_type = |m: &mut Manifest| {
        steps(m).remove(2);
        m.plans[0].tensors[7].dtype = DType::I32;
    };
    says(with_manifest(other_type), Inconsistent, "step");
}

#[test]
fn writing_what_must_not_be_written() {
    let weights = |m: &mut Manifest| m.plans[0].tensors[13].place = Place::Weights(0);
    says(with_manifest(weights), Inconsistent, "does not fit");
    let onto_weights = |m: &mut Manifest| {
        steps(m).insert(
            0,
            tobiuo_engine::Step {
                name: "evil".into(),
                op: Op::Unary(tobiuo_ops::Unary::Neg),
                inputs: vec![2],
                outputs: vec![2],
            },
        );
    };
    says(with_manifest(onto_weights), Inconsistent, "lies among the weights");
    says(with_manifest(|m| m.plans[0].inputs = vec![8]), Inconsistent, "input \"image\"");
    says(
        with_manifest(|m| steps(m)[5].outputs = vec![11]),
        Inconsistent,
        "step 4 wrote it already",
    );
    let onto_input = |m: &mut Manifest| steps(m)[3].outputs = vec![7];
    says(with_manifest(onto_input), Inconsistent, "wrote it already");
}

#[test]
fn plans_made_to_be_slow_to_check() {
    // A view composed of many pieces, read very often: 40,000 x 40,000 looks.
    const PIECES: usize = 40_000;
    let mut m = common::manifest();
    m.plans.truncate(1);
    m.preprocess = None;
    m.task = tobiuo_engine::Task::Tensors;
    m.labels.clear();
    let tensor = |name: &str, shape: &[usize], at: usize| tobiuo_engine::TensorDesc {
        name: name.into(),
        dtype: DType::F32,
        shape: shape.into(),
        place: Place::Arena(at as u64),
    };
    let step = |op: Op, inputs: Vec<u32>, outputs: Vec<u32>| tobiuo_engine::Step {
        name: String::new(),
        op,
        inputs,
        outputs,
    };
    let abs = || Op::Unary(tobiuo_ops::Unary::Abs);
    let plan = &mut m.plans[0];
    let whole = PIECES * 64;
    plan.arena = 2 * whole as u64 + 64;
    plan.tensors = vec![tensor("x", &[16], 0), tensor("view", &[PIECES * 16], 64)];
    let mut program = Vec::new();
    for i in 0..PIECES {
        plan.tensors.push(tensor("", &[16], 64 + i * 64));
        program.push(step(abs(), vec![0], vec![2 + i as u32]));
    }
    for i in 0..PIECES {
        plan.tensors.push(tensor("", &[PIECES * 16], 64 + whole));
        program.push(step(abs(), vec![1], vec![(2 + PIECES + i) as u32]));
    }
    plan.program = Program::Cpu(program);
    (plan.inputs, plan.outputs) = (vec![0], vec![1]);
    m.inputs = vec![tobiuo_engine::Port { name: "x".into(), dtype: DType::F32, shape: vec![16] }];
    m.outputs =
        vec![tobiuo_engine::Port { name: "y".into(), dtype: DType::F32, shape: vec![PIECES * 16] }];
    let begin = Instant::now();
    says(validate(&m, 0, None).unwrap_err(), Limit, "too many pieces");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // The same network, each step once, is well within.
    let Program::Cpu(program) = &mut m.plans[0].program else { unreachable!() };
    program.truncate(PIECES + 100);
    m.plans[0].tensors.truncate(2 + PIECES + 100);
    validate(&m, 0, None).unwrap();
}

#[test]
fn a_plan_of_two_thousand_steps_is_checked_at_once() {
    let mut m = common::manifest();
    m.plans.truncate(1);
    let plan = &mut m.plans[0];
    let Program::Cpu(steps) = &mut plan.program else { unreachable!() };
    // Between `clip` and `half`: a long chain through two places.
    let (clip, tensor) = (steps[5].clone(), plan.tensors[12].clone());
    let mut last = 12;
    for i in 0..2000u64 {
        let mut next = tensor.clone();
        next.place = Place::Arena((41 + 8 * (i % 2)) * 256);
        plan.tensors.push(next);
        let t = plan.tensors.len() as u32 - 1;
        let mut link = clip.clone();
        (link.inputs, link.outputs) = (vec![last], vec![t]);
        steps.insert(6 + i as usize, link);
        last = t;
    }
    plan.arena = 57 * 256;
    let begin = Instant::now();
    validate(&m, common::WEIGHTS as u64, None).unwrap();
    eprintln!("checked in {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn numbers_that_poison_what_follows() {
    let detect = |change: fn(&mut tobiuo_engine::Detect)| {
        with_manifest(|m| {
            if let tobiuo_engine::Task::Detect(d) = &mut m.task {
                change(d);
            }
        })
    };
    says(detect(|d| d.max_detections = usize::MAX), Limit, "detections kept");
    says(detect(|d| d.max_detections = 0), Inconsistent, "0 detections");
    says(detect(|d| d.classes = usize::MAX), Inconsistent, "[N, 4 + classes, anchors]");
    says(detect(|d| d.classes = 3), Inconsistent, "for 3 classes");
    says(detect(|d| d.output = 1), Inconsistent, "output 1 is named");
    says(detect(|d| d.transposed = true), Inconsistent, "[N, anchors, 4 + classes]");
    says(detect(|d| d.score_threshold = f32::NAN), Inconsistent, "score threshold");
    says(detect(|d| d.iou_threshold = 1.5), Inconsistent, "overlap threshold");
    let pre = |change: fn(&mut tobiuo_engine::Preprocess)| {
        with_manifest(|m| change(m.preprocess.as_mut().unwrap()))
    };
    says(pre(|p| p.std[1] = 0.0), Inconsistent, "std");
    says(pre(|p| p.std[1] = f32::INFINITY), Inconsistent, "std");
    says(pre(|p| p.mean[0] = f32::NAN), Inconsistent, "mean");
    says(pre(|p| p.mean.clear()), Inconsistent, "mean has 0 values");
    says(pre(|p| p.input = 7), Inconsistent, "input 7");
    says(pre(|p| p.channels = tobiuo_engine::ChannelOrder::Gray), Inconsistent, "[N, 1, H, W]");
    says(with_manifest(|m| drop(m.labels.pop())), Inconsistent, "1 labels for 2 classes");
    says(with_manifest(|m| m.plans[1].batch = 1), Inconsistent, "not ascending");
    says(with_manifest(|m| m.plans[0].batch = 0), Inconsistent, "not ascending");
    says(with_manifest(|m| m.plans.clear()), Inconsistent, "no plans");
    says(with_manifest(|m| m.plans[1].batch = 3), Inconsistent, "at batch 3");
}

#[test]
fn names_cannot_drive_a_terminal_or_a_shell() {
    let evil = "\x1b]0;owned\x07\x1b[2J\n".repeat(50);
    let e = with_manifest(|m| {
        steps(m)[0].name = evil.clone();
        steps(m)[0].inputs[0] = 999;
    });
    let text = e.to_string();
    assert!(!text.chars().any(|c| c.is_control()), "{text:?}");
    assert!(text.len() < 1000);
    let mut m = common::manifest();
    m.device = DeviceKey::Cpu { arch: "\x1b[31mx".into() };
    m.provenance.model = "$(reboot);'\x1b".into();
    let engine = EngineFile::from_bytes(&encode(&m, &common::weights()).unwrap()).unwrap();
    let text = engine.check_device(&ThisDevice::cpu()).unwrap_err().to_string();
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains(r"build '$(reboot);'\''?' -o"), "{text}");
}
