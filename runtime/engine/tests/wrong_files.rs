//! Files that are no engines, and engines of other formats: what the user is told.

mod common;

use std::path::Path;

use tobiuo_engine::{EngineErrorKind, EngineFile, encode};

#[test]
fn what_is_no_engine_is_named() {
    let mut onnx = vec![0x08, 0x08, 0x12, 0x07];
    onnx.extend(b"pytorch\x1a\x052.1.0:");
    onnx.resize(300, 0x9c);
    let cases: &[(&[u8], &str)] = &[
        (b"\xff\xd8\xff\xe0 and so on", "JPEG"),
        (b"\x89PNG\r\n\x1a\n....", "PNG"),
        (b"\x7fELF\x02\x01", "ELF"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04..", "zip"),
        (b"RIFF....AVI ", "AVI"),
        (b"YUV4MPEG2 W640", "Y4M"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"\0\0\0\x1cTFL3....", "TensorFlow Lite"),
        (&onnx, "tobiuo-builder build MODEL -o ENGINE"),
        (b"hello, world\n", "text"),
        ("\u{98db}\u{9b5a}\n".as_bytes(), "text"),
        (&[0; 100], "zeros"),
        (&[0xfe, 1, 2, 3], "begins with the bytes fe 01 02 03"),
        (b"\xef\xbf\xbdTOBIUO\n", "copied as text"),
    ];
    for (bytes, what) in cases {
        let e = EngineFile::from_bytes(bytes).unwrap_err();
        assert_eq!((e.kind(), e.exit_status()), (EngineErrorKind::NotAnEngine, 4), "{e}");
        assert!(e.to_string().contains(what), "{what}: {e}");
    }
    let e = EngineFile::from_bytes(b"").unwrap_err();
    assert_eq!(e.kind(), EngineErrorKind::Truncated);
    assert!(e.to_string().contains("it is empty"), "{e}");
}

#[test]
fn other_versions_are_told_to_rebuild() {
    let engine = encode(&common::manifest(), &common::weights()).unwrap();
    for (version, says) in [
        (3u32, "made by a newer builder: format 3, this program reads 1 to 2"),
        (u32::MAX, "made by a newer builder: format 4294967295"),
        (0, "of format 0"),
    ] {
        let mut other = engine.clone();
        other[8..12].copy_from_slice(&version.to_le_bytes());
        let e = EngineFile::from_bytes(&other).unwrap_err();
        assert_eq!((e.kind(), e.exit_status()), (EngineErrorKind::Version, 4));
        assert!(e.to_string().contains(says), "{e}");
        assert!(e.to_string().contains("rebuild"), "{e}");
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none.tobiuo");
    let e = EngineFile::open(&none).unwrap_err();
    assert_eq!((e.kind(), e.exit_status()), (EngineErrorKind::NotFound, 2));
    assert!(e.to_string().starts_with(none.to_str().unwrap()), "{e}");
    let e = EngineFile::open(dir.path()).unwrap_err();
    assert_eq!(e.kind(), EngineErrorKind::NotAnEngine);
    assert!(e.to_string().contains("a directory"), "{e}");
    let empty = dir.path().join("empty.tobiuo");
    std::fs::write(&empty, b"").unwrap();
    let e = EngineFile::open(&empty).unwrap_err();
    assert_eq!((e.kind(), e.exit_status()), (EngineErrorKind::Truncated, 4));
    // A device or a FIFO must not be waited for.
    let e = EngineFile::open(Path::new("/dev/zero")).unwrap_err();
    assert!(e.to_string().contains("not a regular file"), "{e}");
}

#[test]
fn a_fifo_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo.tobiuo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    if !made.is_ok_and(|s| s.success()) {
        eprintln!("no mkfifo here: not tested");
        return;
    }
    let e = EngineFile::open(&fifo).unwrap_err();
    assert!(e.to_string().contains("not a regular file"), "{e}");
}

/// The files of format 1 keep loading, and are still what is written.
#[test]
fn the_golden_engine_of_format_1_loads_and_is_written_the_same() {
    let golden = include_bytes!("golden/format-1.tobiuo");
    let engine = EngineFile::from_bytes(golden).unwrap();
    assert_eq!(engine.manifest(), &common::manifest());
    assert_eq!(engine.weights(), common::weights());
    assert_eq!(
        engine.hash_hex(),
        include_str!("golden/format-1.hash").trim(),
        "an engine's identity must not change"
    );
    let again = encode(engine.manifest(), engine.weights()).unwrap();
    assert!(again == golden, "the same engine has other bytes now");
}

/// Makes the golden files. Only for a new format: those of old formats stay as they are.
#[test]
#[ignore = "writes tests/golden"]
fn write_golden() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bytes = encode(&common::manifest(), &common::weights()).unwrap();
    let hash = EngineFile::from_bytes(&bytes).unwrap().hash_hex();
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("format-1.tobiuo"), bytes).unwrap();
    std::fs::write(dir.join("format-1.hash"), hash + "\n").unwrap();
}
