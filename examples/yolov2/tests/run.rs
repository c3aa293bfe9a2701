//! The program on a small network that Chainer dumped.

use std::path::Path;
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_yolov2"))
        .args(arguments)
        .args(["--device", "cpu"])
        .output()
        .unwrap()
}

#[test]
fn boxes_are_found_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chainer/net_yolo");
    let model = dir.path().join("network");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let picture = dir.path().join("street.png");
    let pixels = RgbImage::from_fn(64, 48, |x, y| Rgb([x as u8 * 3, y as u8 * 5, (x * y) as u8]));
    pixels.save(&picture).unwrap();
    let out = dir.path().join("found");
    let [model, picture, folder] = [&model, &picture, &out].map(|p| p.to_str().unwrap());
    let base = [model, picture, "-o", folder, "--anchors", "1.0,1.5,0.5,0.7"];
    // The network has random weights: with no threshold, something is everywhere.
    let done = run(&[&base[..], &["-t", "0.05", "-r", "2", "--json"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let boxes = lines[0]["boxes"].as_array().unwrap();
    assert!(!boxes.is_empty());
    for b in boxes {
        let of = |key: &str| b[key].as_f64().unwrap();
        assert!(0.0 <= of("left") && of("left") < of("right") && of("right") <= 64.0);
        assert!(0.0 <= of("top") && of("top") < of("bottom") && of("bottom") <= 48.0);
        assert!(
            (0.05..=1.0).contains(&of("score")) && (0..3).contains(&b["class"].as_i64().unwrap())
        );
    }
    assert_eq!(lines[1]["summary"]["runs"], 2);
    let drawn = image::open(out.join("street_boxes.png")).unwrap().to_rgb8();
    assert_eq!(drawn.dimensions(), (64, 48));
    assert_ne!(drawn.as_raw(), pixels.as_raw());
    // Nothing is as sure as that.
    let none = run(&[&base[..], &["-t", "1", "--json"]].concat());
    let text = String::from_utf8(none.stdout).unwrap();
    assert!(text.contains("\"boxes\":[]"), "{text}");
    // Five anchors do not divide these boxes; an output has another name.
    let wrong = run(&[model, picture]);
    assert_eq!(wrong.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("32 boxes are no grid with 5 anchors"));
    let named = run(&[&base[..], &["--outputs", "a,b,c"]].concat());
    assert!(String::from_utf8_lossy(&named.stderr).contains("there is no output 'a'"));
}
