use std::sync::{Arc, Mutex};

use serde_json::Value;
use tobiuo_capture::{FrameFormat, PixelFormat};

use super::*;
use crate::ErrorKind;
use crate::detect::Detection;
use crate::pipeline::{Classification, FrameResult};

/// Bytes that a sink wrote, readable while the sink lives.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn labels() -> Vec<String> {
    ["mug", "a \"b\"\n\\c", "ü"].map(String::from).to_vec()
}

fn info(labels: &[String]) -> StreamInfo<'_> {
    StreamInfo {
        source: "test://\"x\"",
        frame_rate: Some(25.0),
        labels,
        classes: labels.len() + 1,
        max_results: 300,
    }
}

/// A grey frame of 64x48 with `n` detections, numbered `number`.
fn result(number: u64, n: usize) -> FrameResult {
    let mut r = FrameResult::new(64 * 48 * 3, n.max(1), 5);
    r.frame.pixels.fill(90);
    r.frame.meta.format = FrameFormat::new(PixelFormat::Rgb8, 64, 48);
    r.frame.meta.sequence = number;
    r.frame.meta.timestamp_ns = u64::MAX;
    r.detections = (0..n)
        .map(|i| Detection {
            class: (i % 4) as u32,
            score: 0.98765,
            left: 10.04,
            top: 20.0,
            right: 40.16,
            bottom: 41.0,
        })
        .collect();
    r
}

#[test]
fn json_lines_are_json_and_stable() {
    let out = Shared::default();
    let mut sink = JsonLines::new(Box::new(out.clone()), "test");
    let labels = labels();
    sink.start(&info(&labels)).unwrap();
    sink.write(&result(7, 4)).unwrap();
    let mut named = result(8, 0);
    named.frame.name.push_str("a\t\"b\".jpg");
    named.classes.push(Classification { class: 2, score: 0.25 });
    sink.write(&named).unwrap();
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with(
            r#"{"frame":7,"timestamp_ns":18446744073709551615,"source":"test://\"x\"","detections":[{"class":0,"label":"mug","score":0.9876,"box":[10.0,20.0,40.2,41.0]},{"class":1"#
        ),
        "{}",
        lines[0]
    );
    let first: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(first["detections"][1]["label"], labels[1].as_str());
    assert_eq!(first["detections"][2]["label"], "ü");
    assert_eq!(first["detections"][3]["label"], "3", "a class without a name is its number");
    for stage in crate::pipeline::STAGES {
        assert!(first["latency_us"][stage].is_u64(), "{stage}");
    }
    let second: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(second["source"], "a\t\"b\".jpg");
    assert_eq!(second["classes"][0]["label"], "ü");
    assert_eq!(second["classes"][0]["score"], 0.25);
    assert!(second.get("detections").is_none());
}

#[test]
fn the_longest_line_fits_what_was_reserved() {
    let labels = vec!["x".repeat(100); 3];
    let mut info = info(&labels);
    info.max_results = 50;
    let mut full = result(u64::MAX, 50);
    for d in &mut full.detections {
        (d.left, d.top, d.right, d.bottom) = (16383.9, 16383.9, 16384.0, 16384.0);
    }
    full.latency.total = std::time::Duration::MAX;
    full.frame.name = "\u{1}".repeat(255);
    let mut sink = JsonLines::new(Box::new(std::io::sink()), "sink");
    sink.start(&info).unwrap();
    let before = sink.reserved();
    sink.write(&full).unwrap();
    assert_eq!(sink.reserved(), before, "no growth");
}

#[test]
fn text_lines_are_one_line() {
    let out = Shared::default();
    let mut sink = TextLines::new(Box::new(out.clone()), "test");
    let labels = labels();
    sink.start(&info(&labels)).unwrap();
    sink.write(&result(3, 2)).unwrap();
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(
        text,
        "frame 3  0.0 ms  mug 0.99 (10, 20, 40, 41)  a \"b\"?\\c 0.99 (10, 20, 40, 41)\n"
    );
}

#[test]
fn kitti_text_has_sixteen_fields() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let labels = labels();
    let mut sink = open(&format!("kitti:{}", at("k"))).unwrap();
    sink.start(&info(&labels)).unwrap();
    sink.write(&result(12, 2)).unwrap();
    let mut named = result(13, 1);
    named.frame.name.push_str("desk.jpg");
    sink.write(&named).unwrap();
    let text = std::fs::read_to_string(at("k/000012.txt")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "mug 0.0 0 0.0 10.04 20.00 40.16 41.00 0 0 0 0 0 0 0 0.9876");
    assert_eq!(lines[1].split(' ').count(), 16);
    assert!(lines[1].starts_with("a_\"b\"_\\c "));
    assert!(folder.path().join("k/desk.txt").exists());
    assert_eq!(std::fs::read_dir(at("k")).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn pictures_are_annotated() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let labels = labels();
    for pattern in ["a_%i.png", "b_%04i.jpg"] {
        let mut sink = open(&at(pattern)).unwrap();
        sink.start(&info(&labels)).unwrap();
        sink.write(&result(5, 1)).unwrap();
        assert!(sink.describe().contains("(1 files)"), "{}", sink.describe());
    }
    let png = image::open(at("a_5.png")).unwrap().into_rgb8();
    let colour = crate::draw::class_colour(0);
    assert_eq!(png.get_pixel(10, 30).0, colour, "the box's left edge");
    assert_eq!(png.get_pixel(25, 30).0, [90; 3], "inside it the frame is as it was");
    let jpeg = image::open(at("b_0005.jpg")).unwrap().into_rgb8();
    let close = |a: [u8; 3], b: [u8; 3]| a.iter().zip(b).all(|(&a, b)| a.abs_diff(b) < 40);
    assert!(close(jpeg.get_pixel(10, 30).0, colour), "{:?}", jpeg.get_pixel(10, 30));
    let mut single = open(&at("one.jpg")).unwrap();
    single.start(&info(&labels)).unwrap();
    single.write(&result(0, 1)).unwrap();
    let e = single.write(&result(1, 1)).unwrap_err();
    assert!(e.to_string().contains("%i"), "{e}");
}

#[test]
fn a_video_keeps_time_over_dropped_frames() {
    use std::sync::atomic::AtomicBool;
    use tobiuo_capture::{Read, SourceConfig};

    let folder = tempfile::tempdir().unwrap();
    let labels = labels();
    for name in ["out.avi", "out.mjpg"] {
        let path = folder.path().join(name).display().to_string();
        let mut sink = open(&path).unwrap();
        sink.start(&info(&labels)).unwrap();
        for number in [0, 1, 4] {
            sink.write(&result(number, 1)).unwrap();
        }
        sink.finish().unwrap();
        let mut source = tobiuo_capture::open(&path, &SourceConfig::default()).unwrap();
        let mut slot = vec![0; source.max_frame_bytes()];
        let mut frames = 0;
        while let Read::Frame(meta) = source.read(&mut slot, &AtomicBool::new(false)).unwrap() {
            assert_eq!((meta.format.width, meta.format.height), (64, 48));
            frames += 1;
        }
        assert_eq!(frames, 5, "{name}: 2 and 3 are shown as 1 was");
    }
}

#[test]
fn a_video_has_one_size() {
    let folder = tempfile::tempdir().unwrap();
    let labels = labels();
    let mut sink = open(folder.path().join("out.avi").to_str().unwrap()).unwrap();
    sink.start(&info(&labels)).unwrap();
    sink.write(&result(0, 0)).unwrap();
    let mut other = result(1, 0);
    other.frame.meta.format = FrameFormat::new(PixelFormat::Rgb8, 32, 48);
    let e = sink.write(&other).unwrap_err();
    assert!(e.to_string().contains("32x48") && e.to_string().contains("64x48"), "{e}");
}

#[test]
fn output_forms() {
    for bad in ["out.mp4", "out", "", "out_%s.jpg", "out_%i_%i.jpg", "kitti:", "out_%.jpg"] {
        let e = open(bad).err().unwrap_or_else(|| panic!("'{bad}' is taken"));
        assert_eq!(e.kind(), ErrorKind::Usage, "{bad}");
    }
    assert!(open("out.mp4").err().unwrap().to_string().contains("out_%i.jpg"));
    for good in ["null", "file://a_%i.JPG", "kitti:x", "%06i.txt", "folder/", "x.avi"] {
        assert!(open(good).is_ok(), "{good}");
    }
}
