//! After READY no thread of a pipeline allocates.

#![cfg(feature = "cpu")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tobiuo::capture::SourceConfig;
use tobiuo::sink::{self, JsonLines, TextLines};
use tobiuo::{Engine, Notifier, Pipeline};

/// The system's allocator, counting what all threads ask of it while `COUNTING`.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

impl Counting {
    fn count(layout: Layout) {
        if COUNTING.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call is passed on to the system's allocator as it is, whose contract is the
// one that `GlobalAlloc` asks for; counting touches only atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count(layout);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::count(layout);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count(layout);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RESULTS: u64 = 1100;

/// Runs a source through the pipeline with every sink that a frame loop may have, and counts
/// from the first result to the last.
fn allocations(engine: &Engine, uri: &str, config: SourceConfig, folder: &Path) -> (u64, u64) {
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
    ALLOCATIONS.store(0, Ordering::SeqCst);
    BYTES.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    // The sources have no end: what ends a pipeline may allocate.
    while results < RESULTS && pipeline.next().unwrap().is_some() {
        results += 1;
    }
    COUNTING.store(false, Ordering::SeqCst);
    let counted = (ALLOCATIONS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
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

    let allocates = {
        COUNTING.store(true, Ordering::SeqCst);
        drop(std::hint::black_box(vec![0u8; 100]));
        COUNTING.store(false, Ordering::SeqCst);
        ALLOCATIONS.load(Ordering::SeqCst)
    };
    assert!(allocates >= 1, "the counter counts");

    for (uri, config) in [
        (clip.to_str().unwrap(), SourceConfig { loop_: true, ..default() }),
        ("test://scene?width=128&height=96", default()),
        ("test://scene?width=64&height=64&format=yuyv", default()),
        ("test://scene?width=64&height=64&format=nv12", default()),
        // As a camera: paced, the newest frame wins.
        ("test://scene?width=64&height=64&rate=2000", SourceConfig { realtime: true, ..default() }),
    ] {
        let counted = allocations(&engine, uri, config, folder.path());
        assert_eq!(counted, (0, 0), "{uri}: (allocations, bytes) after READY");
    }
}
