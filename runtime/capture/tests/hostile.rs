//! Files that someone has changed: an error or frames come out, and nothing else.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Random, avi, photo};
use image::{ExtendedColorType, ImageEncoder};
use tempfile::TempDir;
use tobiuo_capture::{MAX_FRAME_BYTES, Read, SourceConfig, open};

/// Changes some bytes, cuts, doubles or removes a part.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let length = bytes.len();
        // Headers are where the damage is done.
        let at =
            if random.below(2) == 0 { random.below(length) } else { random.below(400.min(length)) };
        match random.below(8) {
            0 | 1 => bytes[at] = random.next() as u8,
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = [0, 0xff, 0x7f, b'0'][random.below(4)],
            4 => {
                let value = [0, u32::MAX, 1 << 31, length as u32][random.below(4)];
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            5 => bytes.truncate(at.max(1)),
            6 => {
                let end = (at + random.below(100)).min(length);
                let part = bytes[at..end].to_vec();
                let to = random.below(length);
                bytes.splice(to..to, part);
            }
            _ => {
                bytes.drain(at..(at + random.below(50)).min(length));
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// Reads to the end, going on behind damage; gives the frames and whether anything failed.
fn read(path: &str, cfg: &SourceConfig) -> (u32, bool) {
    let Ok(mut source) = open(path, cfg) else { return (0, true) };
    assert!(source.max_frame_bytes() <= MAX_FRAME_BYTES);
    let mut slot = vec![0; source.max_frame_bytes()];
    let (mut frames, mut failures) = (0, 0);
    for _ in 0..1000 {
        match source.read(&mut slot, &false.into()) {
            Ok(Read::Frame(meta)) => {
                assert!(meta.format.frame_bytes().unwrap() <= slot.len());
                frames += 1;
            }
            Ok(Read::End) => return (frames, failures > 0),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                failures += 1;
            }
        }
    }
    assert!(cfg.loop_ && frames > 0, "a file without an end");
    (frames, failures > 0)
}

/// Mutates `whole` `rounds` times; some changes must be noticed, and some (unless the format has
/// checksums) must not matter.
fn attack(name: &str, whole: &[u8], rounds: u32, least_harmless: u32) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    let uri = path.to_str().unwrap();
    fs::write(&path, whole).unwrap();
    let (most, failed) = read(uri, &SourceConfig::default());
    assert!(most > 0 && !failed);
    let mut random = Random(17);
    let (mut noticed, mut harmless) = (0, 0);
    let gst_launch = "/no/such/program".into();
    let mut cfg = SourceConfig { gst_launch, ..Default::default() };
    for round in 0..rounds {
        let mut bytes = whole.to_vec();
        mutate(&mut bytes, &mut random);
        fs::write(&path, &bytes).unwrap();
        cfg.skip_damaged = round % 3 == 1;
        cfg.loop_ = round % 50 == 7;
        let start = Instant::now();
        let (frames, failed) = read(uri, &cfg);
        assert!(start.elapsed() < Duration::from_secs(20), "{name} {round}");
        noticed += u32::from(failed || frames < most);
        harmless += u32::from(!failed && frames >= most);
    }
    assert!(noticed > rounds / 20 && harmless >= least_harmless, "{name}: {noticed} {harmless}");
}

#[test]
fn mutated_avi() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.avi");
    avi(&path, 5);
    attack("x.avi", &fs::read(path).unwrap(), 2000, 40);
}

#[test]
fn mutated_raw_motion_jpeg() {
    let folder = TempDir::new().unwrap();
    let jpegs = avi(&folder.path().join("x.avi"), 3);
    attack("x.mjpeg", &jpegs.concat(), 1000, 20);
}

#[test]
fn mutated_y4m() {
    for colors in ["420", "422", "444"] {
        let mut file = format!("YUV4MPEG2 W12 H6 F25:1 Ip A1:1 C{colors}\n").into_bytes();
        let bytes = match colors {
            "420" => 108,
            "422" => 144,
            _ => 216,
        };
        for number in 0..4 {
            file.extend(b"FRAME\n");
            file.resize(file.len() + bytes, number);
        }
        attack("x.y4m", &file, 700, 14);
    }
}

#[test]
fn mutated_pictures() {
    let rgb = photo(24, 18, 1);
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    encoder.write_image(&rgb, 24, 18, ExtendedColorType::Rgb8).unwrap();
    attack("x.png", &png, 800, 0);
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
        .encode(&rgb, 24, 18, ExtendedColorType::Rgb8)
        .unwrap();
    attack("x.jpg", &jpeg, 800, 16);
}
