//! The program on a small network that Chainer dumped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use serde_json::Value;

/// The dump, in a folder of the test's own: the engine is made beside it.
fn network(folder: &Path) -> PathBuf {
    let from =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/chainer/net_classifier");
    let to = folder.join("network");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// Pictures of different sizes and colours, and a list of them with classes.
fn pictures(folder: &Path, count: u32) -> PathBuf {
    let mut list = String::new();
    for i in 0..count {
        let picture = RgbImage::from_fn(12 + i % 5, 14 + i % 3, |x, y| {
            Rgb([x * 17 + i * 29, y * 13 + i * 7, (x ^ y) * 11 + i * 53].map(|v| v as u8))
        });
        picture.save(folder.join(format!("{i:02}.png"))).unwrap();
        list += &format!("{i:02}.png {}\n", i % 10);
    }
    let file = folder.join("list.txt");
    std::fs::write(&file, list).unwrap();
    file
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imagenet"))
        .args(arguments)
        .args(["--device", "cpu"])
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn batches_and_streams_say_the_same_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let (model, list) = (network(dir.path()), pictures(dir.path(), 11));
    let base = ["--list", list.to_str().unwrap(), "--base", dir.path().to_str().unwrap(), "--json"];
    let run = |more: &[&str]| {
        let arguments = [&[model.to_str().unwrap()], &base[..], more].concat();
        lines(&run(&arguments))
    };
    let one = run(&[]);
    let many = run(&["-b", "3", "-n", "2", "-r", "2"]);
    assert_eq!(one.len(), 12);
    assert_eq!(many.len(), 12);
    let mut first = Vec::new();
    for (i, (a, b)) in one[..11].iter().zip(&many).enumerate() {
        assert!(a["picture"].as_str().unwrap().ends_with(&format!("{i:02}.png")));
        assert_eq!(a["picture"], b["picture"]);
        assert_eq!(a["wanted"], i % 10);
        let classes = |v: &Value| -> Vec<i64> {
            v["classes"].as_array().unwrap().iter().map(|c| c["class"].as_i64().unwrap()).collect()
        };
        assert_eq!(classes(a).len(), 5);
        assert_eq!(classes(a), classes(b));
        first.push(classes(a)[0]);
        let scores: Vec<f64> = (a["classes"].as_array().unwrap().iter())
            .map(|c| c["score"].as_f64().unwrap())
            .collect();
        assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] <= 1.0);
    }
    let right = (0..11).filter(|&i| first[i] == i as i64 % 10).count();
    let summary = &many[11]["summary"];
    assert_eq!(summary["pictures"], 11);
    assert_eq!((summary["batch"].as_i64(), summary["streams"].as_i64()), (Some(3), Some(2)));
    assert!((summary["top1"].as_f64().unwrap() - right as f64 / 11.0).abs() < 1e-9);
    assert!(summary["batch_us"].as_f64().unwrap() > 0.0);
    assert!(summary["batch_us_without_copies"].is_null());
}

#[test]
fn words_tables_and_errors() {
    let dir = tempfile::tempdir().unwrap();
    let model = network(dir.path());
    pictures(dir.path(), 1);
    let model = model.to_str().unwrap();
    let picture = dir.path().join("00.png");
    let picture = picture.to_str().unwrap();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let names = dir.path().join("names.txt");
    std::fs::write(&names, (0..10).map(|i| format!("thing {i}\n")).collect::<String>()).unwrap();
    let csv =
        run(&[model, picture, "--caffe", "-k", "2", "-p", "csv", "-l", names.to_str().unwrap()]);
    let out = text(&csv);
    assert!(csv.status.success(), "{}", String::from_utf8_lossy(&csv.stderr));
    assert!(out.contains("1. ") && out.contains("2. ") && !out.contains("3. "), "{out}");
    assert!(out.contains("thing "), "{out}");
    assert!(out.contains("Layer name,#call,total ms,ms/call,%"), "{out}");
    assert!(out.contains("\"Convolution2DFunction-0-1 + "), "{out}");
    let md = text(&run(&[model, picture, "-p", "md"]));
    assert!(md.contains("| Layer name | #call |"), "{md}");
    let status = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(status(&[model]), Some(2));
    assert_eq!(status(&[model, picture, "-b", "0"]), Some(2));
    assert_eq!(status(&[model, "none.png"]), Some(6));
    std::fs::write(dir.path().join("bad.png"), "no picture").unwrap();
    let bad = dir.path().join("bad.png");
    assert_eq!(status(&[model, picture, bad.to_str().unwrap(), "-n", "2"]), Some(6));
    assert_eq!(status(&["none.tobiuo", picture]), Some(2));
}

#[test]
fn it_ends_quietly_where_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (model, list) = (network(dir.path()), pictures(dir.path(), 3));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_imagenet"));
    command.arg(model).arg("--list").arg(list).arg("--base").arg(dir.path());
    let output = command.args(["--device", "cpu"]).stdout(writer).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !words.contains("pipe"), "{words}");
}
