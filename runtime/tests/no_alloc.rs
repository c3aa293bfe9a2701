//! After READY no thread of a pipeline allocates.

#![cfg(feature = "cpu")]

mod common;

use std::path::Path;

use tobiuo::capture::SourceConfig;
use tobiuo::sink::{self, JsonLines, TextLines};
use tobiuo::{Engine, Notifier, Pipeline};
use tobiuo_counting::{Counted, Counting, on_all_threads};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RESULTS: u64 = 1100;

/// Runs a source through the pipeline with every sink that a frame loop may have, and counts
/// from the first result to the last.
fn allocations(engine: &Engine, uri: &str, config: SourceConfig, folder: &Path) -> Counted {
    let lines = folder.join("lines.jsonl");
    // Fed with every frame; what it is told is not read, as by a manager that is busy.
    let socket = folder.join("notify");
    let _ = std::fs::remove_file(&socket);
    let _manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let watchdog = Some(std::time::Duration::from_nanos(4));
    let notifier = Notifier::new(socket.as_os_str(), watchdog).unwrap();
    let mut pipeline = Pipeline::builder(engine, uri)
        .source_config(config)
        .score_threshold(0.2)
        .notifier(notifier)
        .sink(Box::new(JsonLines::create(&lines).unwrap()))
        .sink(Box::new(TextLines::new(Box::new(std::io::sink()), "sink")))
        .sink(sink::open(folder.join("out.avi").to_str().unwrap()).unwrap())
        .start()
        .unwrap();
    assert!(pipeline.next().unwrap().is_some(), "the first result: READY");
    let mut results = 1;
    let (_, counted) = on_all_threads(|| {
        // The sources have no end: what ends a pipeline may allocate.
        while results < RESULTS && pipeline.next().unwrap().is_some() {
            results += 1;
        }
    });
    let summary = pipeline.finish().unwrap();
    assert_eq!(results, RESULTS, "{summary}");
    let text = std::fs::read_to_string(&lines).unwrap();
    assert!(text.lines().count() as u64 >= results);
    assert!(text.contains("\"score\""), "{uri}: something is detected");
    counted
}

/// One test, so that no other one runs while it counts.
#[test]
fn nothing_is_allocated_after_ready() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::open(common::colour_engine(folder.path())).unwrap();
    let clip = common::clip(folder.path(), 16);
    let default = SourceConfig::default;

    let (_, one) = on_all_threads(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert!(one.allocations >= 1, "the counter counts");

    for (uri, config) in [
        (clip.to_str().unwrap(), SourceConfig { loop_: true, ..default() }),
        ("test://scene?width=128&height=96", default()),
        ("test://scene?width=64&height=64&format=yuyv", default()),
        ("test://scene?width=64&height=64&format=nv12", default()),
        // As a camera: paced, the newest frame wins.
        ("test://scene?width=64&height=64&rate=2000", SourceConfig { realtime: true, ..default() }),
    ] {
        let counted = allocations(&engine, uri, config, folder.path());
        assert_eq!(counted, Counted::default(), "{uri}: after READY");
    }
}
