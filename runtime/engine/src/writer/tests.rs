use std::path::Path;

use tobiuo_tensor::DType;

use super::*;
use crate::{
    DeviceKey, EngineFile, Place, Plan, Port, Precision, Program, Provenance, Task, TensorDesc,
};

const WEIGHTS: usize = 3000;

fn weights() -> Vec<u8> {
    (0..WEIGHTS).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// An engine whose output is a constant.
fn manifest() -> Manifest {
    let shape = vec![WEIGHTS];
    let tensor = TensorDesc {
        name: "w".into(),
        dtype: DType::U8,
        shape: shape.clone(),
        place: Place::Weights(0),
    };
    Manifest {
        builder: "test".into(),
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Fp32,
        provenance: Provenance::default(),
        inputs: vec![],
        outputs: vec![Port { name: "w".into(), dtype: DType::U8, shape }],
        task: Task::Tensors,
        preprocess: None,
        labels: vec![],
        plans: vec![Plan {
            batch: 1,
            arena: 0,
            tensors: vec![tensor],
            inputs: vec![],
            outputs: vec![0],
            program: Program::Cpu(vec![]),
        }],
    }
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// A disk with room for `room` bytes in sum of all writes.
fn with_room<T>(room: u64, work: impl FnOnce() -> T) -> T {
    sink::ROOM.set(Some(room));
    let result = work();
    sink::ROOM.set(None);
    result
}

#[test]
fn a_disk_that_fills_at_any_byte_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.tobiuo");
    let (manifest, weights) = (manifest(), weights());
    let all = encode(&manifest, &weights).unwrap().len() as u64;
    // The head is written twice, first as zeros.
    let needed = all + Head::layout(1, &[(SectionKind::Weights, 1)]).unwrap().manifest_offset;
    let ends = (0..1200).chain((1200..needed).step_by(797)).chain(needed - 200..needed);
    for room in ends {
        let error = with_room(room, || write_engine(&path, &manifest, &weights)).unwrap_err();
        assert_eq!((error.kind(), error.exit_status()), (EngineErrorKind::Io, 1));
        let text = error.to_string();
        assert!(text.contains("full.tobiuo: cannot write it: "), "{text}");
        assert!(text.contains(&format!("it needs {all} bytes, ")), "{text}");
        assert!(text.contains(" are free; make room and build again"), "{text}");
        assert_eq!(files(dir.path()), [""; 0], "with room for {room} bytes");
    }
    with_room(needed, || write_engine(&path, &manifest, &weights)).unwrap();
    assert_eq!(files(dir.path()), ["full.tobiuo"]);
    EngineFile::open(&path).unwrap();
}

#[test]
fn a_failed_write_leaves_the_old_engine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept.tobiuo");
    write_engine(&path, &manifest(), &weights()).unwrap();
    let old = fs::read(&path).unwrap();
    let mapped = EngineFile::open(&path).unwrap();
    with_room(60_000, || write_engine(&path, &manifest(), &weights())).unwrap_err();
    assert!(fs::read(&path).unwrap() == old);
    // An engine that is in use keeps its bytes when another takes its name.
    let mut other = manifest();
    other.builder = "another".into();
    write_engine(&path, &other, &[0; WEIGHTS]).unwrap();
    mapped.release(0..WEIGHTS);
    assert_eq!(mapped.weights(), weights());
    assert_eq!(EngineFile::open(&path).unwrap().weights(), [0; WEIGHTS]);
    assert_eq!(files(dir.path()), ["kept.tobiuo"]);
}

#[test]
fn a_writer_that_is_dropped_or_misused_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half.tobiuo");
    let spec = SectionSpec { kind: SectionKind::Weights, len: WEIGHTS as u64 };
    let begin = || EngineWriter::create(&path, &manifest(), &[spec]).unwrap();

    let mut writer = begin();
    writer.write(&[1; 100]).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(writer);
    assert_eq!(files(dir.path()), [""; 0]);

    let mut writer = begin();
    writer.write(&[1; 100]).unwrap();
    let e = writer.finish().unwrap_err().to_string();
    assert!(e.contains("the weights section has 100 of its 3000 bytes"), "{e}");
    assert_eq!(files(dir.path()), [""; 0]);

    let mut writer = begin();
    let e = writer.write(&[1; WEIGHTS + 5]).unwrap_err().to_string();
    assert!(e.contains("5 bytes more than the sections' lengths"), "{e}");
    drop(writer);

    let mut writer = begin();
    writer.write(&[1; 100]).unwrap();
    writer.pad_to(2944).unwrap();
    assert_eq!(writer.position(), 2944);
    assert!(writer.pad_to(64).is_err());
    writer.write(&[2; 56]).unwrap();
    writer.finish().unwrap();
    let engine = EngineFile::open(&path).unwrap();
    let expected = [vec![1; 100], vec![0; 2844], vec![2; 56]].concat();
    assert_eq!(engine.weights(), expected);
}

#[test]
fn what_the_reader_would_refuse_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.tobiuo");
    let mut wrong = manifest();
    wrong.plans[0].tensors[0].place = Place::Weights(64);
    let e = write_engine(&path, &wrong, &weights()).unwrap_err();
    assert_eq!(e.kind(), EngineErrorKind::Inconsistent);
    assert_eq!(e.path(), Some(&*path));
    let weights = SectionSpec { kind: SectionKind::Weights, len: WEIGHTS as u64 };
    for sections in [&[][..], &[weights, weights]] {
        let e = EngineWriter::create(&path, &manifest(), sections).unwrap_err();
        assert!(e.to_string().contains("weights sections; an engine has one"), "{e}");
    }
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (dir.path().join("none/e.tobiuo"), "No such file"),
        (dir.path().to_path_buf(), "directory"),
        (dir.path().join("file/e.tobiuo"), "Not a directory"),
        ("/".into(), "not a file's name"),
    ];
    fs::write(dir.path().join("file"), "").unwrap();
    for (path, says) in cases {
        let e = write_engine(&path, &manifest(), &weights()).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
        assert_eq!(e.path(), Some(&*path));
        assert!(e.exit_status() == 1 || e.exit_status() == 2, "{e}");
    }
    assert_eq!(files(dir.path()), ["file"]);
}

#[test]
fn more_than_the_disk_has_is_refused_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.tobiuo");
    // 2^60 bytes: no disk of today.
    let spec = SectionSpec { kind: SectionKind::Weights, len: 1 << 60 };
    let e = EngineWriter::create(&path, &manifest(), &[spec]).unwrap_err();
    assert!(e.to_string().contains("it needs 1152921504606912512"), "{e}");
    assert!(e.to_string().contains("are free"), "{e}");
    assert_eq!(files(dir.path()), [""; 0]);
}
