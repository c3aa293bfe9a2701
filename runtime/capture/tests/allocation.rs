//! Reading a stream allocates nothing after its first frame, nor does writing one.

mod common;

use std::fs;

use tempfile::TempDir;
use tobiuo_capture::jpeg::Encoder;
use tobiuo_capture::{AviWriter, Read, SourceConfig, open};
use tobiuo_counting::{Counting, on_this_thread};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    on_this_thread(work).1.allocations
}

/// Reads `uri` and counts the allocations of every read but the first.
fn reading(uri: &str, cfg: &SourceConfig, frames: usize) -> u64 {
    let mut source = open(uri, cfg).unwrap();
    let mut slot = vec![0; source.max_frame_bytes()];
    let stop = false.into();
    source.read(&mut slot, &stop).unwrap();
    allocations(|| {
        for _ in 1..frames {
            assert!(matches!(source.read(&mut slot, &stop), Ok(Read::Frame(_))));
        }
    })
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1, 2, 3]))), 1);
}

#[test]
fn reads_of_streams_allocate_nothing() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let cfg = SourceConfig { loop_: true, ..Default::default() };

    let jpegs = common::avi(path("x.avi").as_ref(), 12);
    assert_eq!(reading(&path("x.avi"), &cfg, 40), 0, "AVI");
    fs::write(path("x.mjpeg"), jpegs.concat()).unwrap();
    assert_eq!(reading(&path("x.mjpeg"), &cfg, 40), 0, "raw Motion-JPEG");

    for colors in ["420", "422", "444", "mono"] {
        let bytes = match colors {
            "420" => 16 * 8 * 3 / 2,
            "422" => 16 * 8 * 2,
            "444" => 16 * 8 * 3,
            _ => 16 * 8,
        };
        let mut file = format!("YUV4MPEG2 W16 H8 C{colors}\n").into_bytes();
        for _ in 0..6 {
            file.extend(b"FRAME\n");
            file.resize(file.len() + bytes, 128);
        }
        fs::write(path("x.y4m"), file).unwrap();
        assert_eq!(reading(&path("x.y4m"), &cfg, 20), 0, "Y4M {colors}");
    }
    for format in ["rgb", "yuyv", "nv12", "i420", "gray"] {
        let uri = format!("test://scene?width=320&height=240&format={format}");
        assert_eq!(reading(&uri, &cfg, 30), 0, "{uri}");
    }
    let realtime = SourceConfig { realtime: true, ..cfg };
    assert_eq!(reading("test://bars?rate=500", &realtime, 10), 0, "paced");
}

#[test]
fn encoding_and_writing_allocate_nothing() {
    let folder = TempDir::new().unwrap();
    let mut writer = AviWriter::create(&folder.path().join("x.avi"), 64, 48, 30.0).unwrap();
    let mut encoder = Encoder::new(64, 48, 90).unwrap();
    let mut jpeg = Vec::new();
    let pictures: Vec<_> = (0..10).map(|seed| common::photo(64, 48, seed)).collect();
    encoder.encode(&pictures[0], &mut jpeg).unwrap();
    let count = allocations(|| {
        for rgb in pictures.iter().cycle().take(70) {
            encoder.encode(rgb, &mut jpeg).unwrap();
            writer.write(&jpeg).unwrap();
        }
    });
    assert_eq!(count, 0);
}
