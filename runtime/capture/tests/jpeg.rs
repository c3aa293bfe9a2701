//! The JPEG codec against other implementations, and against damage.

mod common;

use common::{Random, photo, psnr};
use tobiuo_capture::jpeg::{Decoder, Encoder, JpegErrorKind, dimensions};

/// Encodes with jpeg-encoder.
fn foreign(rgb: &[u8], w: u32, h: u32, sampling: jpeg_encoder::SamplingFactor) -> Vec<u8> {
    foreign_with(rgb, w, h, sampling, |_| ())
}

fn foreign_with(
    rgb: &[u8],
    w: u32,
    h: u32,
    sampling: jpeg_encoder::SamplingFactor,
    set: impl FnOnce(&mut jpeg_encoder::Encoder<&mut Vec<u8>>),
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, 88);
    encoder.set_sampling_factor(sampling);
    set(&mut encoder);
    encoder.encode(rgb, w as u16, h as u16, jpeg_encoder::ColorType::Rgb).unwrap();
    out
}

fn own(rgb: &[u8], w: u32, h: u32, quality: u8) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::new(w, h, quality).unwrap().encode(rgb, &mut out).unwrap();
    out
}

fn decode(jpeg: &[u8], w: u32, h: u32) -> Vec<u8> {
    let mut rgb = vec![0xa5; (w * h * 3) as usize];
    assert_eq!(Decoder::new().decode(jpeg, &mut rgb), Ok((w, h)));
    rgb
}

fn kind(jpeg: &[u8]) -> JpegErrorKind {
    Decoder::new().decode(jpeg, &mut vec![0; 1 << 20]).unwrap_err().kind
}

fn by_image(jpeg: &[u8]) -> Vec<u8> {
    image::load_from_memory(jpeg).unwrap().into_rgb8().into_raw()
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The largest and the mean difference of two pictures.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (differences.max().unwrap(), sum as f64 / a.len() as f64)
}

#[test]
fn decodes_to_the_very_bytes_of_libjpeg_turbo() {
    let golden = String::from_utf8(data("golden.txt")).unwrap();
    let mut compared = 0;
    for line in golden.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (jpeg, w, h) =
            (data(fields[0]), fields[1].parse().unwrap(), fields[2].parse().unwrap());
        assert_eq!(dimensions(&jpeg), Ok((w, h)));
        if fields[0].contains("progressive") {
            assert_eq!(kind(&jpeg), JpegErrorKind::Unsupported("progressive"));
            continue;
        }
        let hash = decode(&jpeg, w, h).iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(format!("{hash:016x}"), fields[3], "{}", fields[0]);
        compared += 1;
    }
    assert_eq!(compared, 7);
}

#[test]
fn agrees_with_the_image_crate_in_every_sampling() {
    use jpeg_encoder::SamplingFactor::*;
    for sampling in [R_4_4_4, R_4_2_2, R_4_2_0, R_4_4_0, R_4_1_1] {
        for (w, h) in [(64, 48), (161, 99), (17, 33), (40, 24)] {
            let rgb = photo(w, h, 3);
            let jpeg = foreign(&rgb, w, h, sampling);
            let ours = decode(&jpeg, w, h);
            let (most, mean) = difference(&ours, &by_image(&jpeg));
            // That crate upsamples chroma and rounds colours in its own way: where there is no
            // chroma to upsample the pictures are the same but for that rounding.
            let same_chroma = matches!(sampling, R_4_4_4);
            assert!(mean < if same_chroma { 0.05 } else { 1.0 }, "{sampling:?} {w}x{h} {mean}");
            assert!(!same_chroma || most <= 3, "{sampling:?} {w}x{h} {most}");
            let (quality, theirs) = (psnr(&ours, &rgb), psnr(&by_image(&jpeg), &rgb));
            assert!(quality > theirs - 0.5, "{sampling:?} {w}x{h}: {quality} {theirs} dB");
        }
    }
}

#[test]
fn restarts_optimised_tables_and_scans_of_one_component() {
    use jpeg_encoder::SamplingFactor::*;
    let (w, h) = (73, 50);
    let rgb = photo(w, h, 5);
    for sampling in [R_4_4_4, R_4_2_0] {
        let plain = decode(&foreign(&rgb, w, h, sampling), w, h);
        for interval in [1, 2, 7] {
            let jpeg = foreign_with(&rgb, w, h, sampling, |encoder| {
                encoder.set_restart_interval(interval)
            });
            assert_eq!(decode(&jpeg, w, h), plain, "restarts every {interval}");
        }
        // With optimised tables jpeg-encoder writes one scan for each component.
        let jpeg = foreign_with(&rgb, w, h, sampling, |encoder| {
            encoder.set_optimized_huffman_tables(true)
        });
        assert_eq!(decode(&jpeg, w, h), plain, "optimised");
    }
}

/// Where the marker of a segment lies, and the bytes of the segment with it.
fn find_segment(jpeg: &[u8], marker: u8) -> Option<(usize, usize)> {
    let mut at = 2;
    while jpeg[at + 1] != 0xda {
        let length = 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if jpeg[at + 1] == marker {
            return Some((at, length));
        }
        at += length;
    }
    None
}

#[test]
fn motion_jpeg_leaves_out_the_standard_tables() {
    let rgb = photo(40, 24, 1);
    let mut jpeg = own(&rgb, 40, 24, 80);
    let whole = decode(&jpeg, 40, 24);
    let mut removed = 0;
    while let Some((at, length)) = find_segment(&jpeg, 0xc4) {
        jpeg.drain(at..at + length);
        removed += 1;
    }
    assert_eq!(removed, 4);
    assert_eq!(decode(&jpeg, 40, 24), whole);

    // Even behind a picture with tables of its own.
    let mut decoder = Decoder::new();
    let mut rgb = vec![0; 97 * 64 * 3];
    decoder.decode(&data("422_optimized.jpg"), &mut rgb).unwrap();
    decoder.decode(&jpeg, &mut rgb).unwrap();
    assert_eq!(rgb[..whole.len()], whole);
}

#[test]
fn what_it_encodes_comes_back() {
    for (w, h) in [(64, 48), (33, 17), (1, 1), (16, 16), (5, 40), (320, 200)] {
        let rgb = photo(w, h, 2);
        for quality in [1, 30, 75, 95, 100] {
            let jpeg = own(&rgb, w, h, quality);
            let back = decode(&jpeg, w, h);
            let mut theirs = Vec::new();
            let mut encoder = jpeg_encoder::Encoder::new(&mut theirs, quality);
            encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::R_4_2_0);
            encoder.encode(&rgb, w as u16, h as u16, jpeg_encoder::ColorType::Rgb).unwrap();
            let decibels = psnr(&back, &rgb);
            let peer = psnr(&decode(&theirs, w, h), &rgb);
            assert!(decibels > peer - 0.7, "{w}x{h} at {quality}: {decibels} dB, peer {peer} dB");
            assert!(jpeg.len() < theirs.len() * 11 / 10 + 100, "{} {}", jpeg.len(), theirs.len());
            let other = psnr(&by_image(&jpeg), &rgb);
            assert!((other - decibels).abs() < 1.5, "{w}x{h} at {quality}: {decibels}, {other} dB");
        }
    }
    // Without chroma to halve, little is lost.
    let gray: Vec<u8> = photo(160, 120, 1).chunks(3).flat_map(|pixel| [pixel[0]; 3]).collect();
    let decibels = psnr(&decode(&own(&gray, 160, 120, 100), 160, 120), &gray);
    assert!(decibels > 48.0, "{decibels} dB");
}

#[test]
fn the_worst_picture_stays_below_the_worst_case() {
    let (w, h) = (128, 64);
    let mut encoder = Encoder::new(w, h, 100).unwrap();
    let mut random = Random(3);
    let mut out = Vec::new();
    for _ in 0..20 {
        let rgb: Vec<u8> =
            (0..w * h * 3).map(|_| if random.below(2) == 0 { 0 } else { 255 }).collect();
        encoder.encode(&rgb, &mut out).unwrap();
        assert!(out.len() < encoder.worst_case_bytes(), "{}", out.len());
        let capacity = out.capacity();
        encoder.encode(&rgb, &mut out).unwrap();
        assert_eq!(out.capacity(), capacity);
        decode(&out, w, h);
    }
}

#[test]
fn a_cut_picture_is_an_error_but_for_its_end_marker() {
    for jpeg in
        [own(&photo(64, 48, 1), 64, 48, 80), data("420_coarse_restarts.jpg"), data("444.jpg")]
    {
        for end in 0..jpeg.len() - 3 {
            let error = kind(&jpeg[..end]);
            let said = matches!(
                error,
                JpegErrorKind::Truncated | JpegErrorKind::NotJpeg | JpegErrorKind::Scan(_)
            );
            assert!(said, "{end} of {}: {error:?}", jpeg.len());
        }
        Decoder::new().decode(&jpeg[..jpeg.len() - 2], &mut vec![0; 1 << 20]).unwrap();
    }
}

#[test]
fn errors_name_what_is_wrong() {
    assert_eq!(kind(b""), JpegErrorKind::NotJpeg);
    assert_eq!(kind(b"\x89PNG"), JpegErrorKind::NotJpeg);
    let jpeg = own(&photo(64, 48, 1), 64, 48, 80);
    let with = |marker, offset: usize, value: u8| {
        let mut jpeg = jpeg.clone();
        let (at, _) = find_segment(&jpeg, marker).unwrap();
        jpeg[at + offset] = value;
        kind(&jpeg)
    };
    assert_eq!(with(0xc0, 1, 0xc3), JpegErrorKind::Unsupported("lossless"));
    assert_eq!(with(0xc0, 1, 0xc9), JpegErrorKind::Unsupported("arithmetic-coded"));
    assert_eq!(with(0xc0, 4, 12), JpegErrorKind::Unsupported("12-bit"));
    assert_eq!(with(0xc0, 14, 0x31), JpegErrorKind::Unsupported("fractionally sampled"));
    assert!(matches!(with(0xc0, 11, 0x05), JpegErrorKind::Segment(_)));
    assert!(matches!(with(0xc4, 4, 0x77), JpegErrorKind::Segment(_)));
    assert!(matches!(with(0xdb, 4, 0x09), JpegErrorKind::Segment(_)));
    assert_eq!(with(0xc0, 5, 0xff), JpegErrorKind::TooLarge);
    let mut small = vec![0; 64 * 48 * 3 - 1];
    let error = Decoder::new().decode(&jpeg, &mut small).unwrap_err();
    assert_eq!(error.kind, JpegErrorKind::SmallBuffer);
    assert!(Encoder::new(0, 5, 80).is_err());
    assert!(Encoder::new(16384, 16384, 80).is_err());
    assert!(Encoder::new(8, 8, 80).unwrap().encode(&[0; 191], &mut Vec::new()).is_err());
}

#[test]
fn mutated_pictures_never_panic_or_hang() {
    let sources = [
        own(&photo(48, 32, 1), 48, 32, 70),
        data("420_coarse_restarts.jpg"),
        data("422_optimized.jpg"),
        data("gray.jpg"),
        data("420_progressive.jpg"),
        foreign_with(&photo(40, 24, 2), 40, 24, jpeg_encoder::SamplingFactor::R_4_1_1, |encoder| {
            encoder.set_optimized_huffman_tables(true);
        }),
    ];
    let mut random = Random(11);
    let mut decoder = Decoder::new();
    let mut rgb = vec![0; 1 << 20];
    let mut right = 0;
    for round in 0..6000 {
        let mut jpeg = sources[round % sources.len()].clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(jpeg.len());
            match random.below(5) {
                0 => jpeg[at] = random.next() as u8,
                1 => jpeg[at] ^= 1 << random.below(8),
                2 => jpeg[at] = 0xff,
                3 => jpeg.truncate(at.max(1)),
                _ => jpeg.insert(at, random.next() as u8),
            }
        }
        let _ = dimensions(&jpeg);
        right += u32::from(decoder.decode(&jpeg, &mut rgb).is_ok());
    }
    // Most changes hit coded data and only change the picture.
    assert!((600..5400).contains(&right), "{right}");
    // The decoder is as good as new afterwards.
    let jpeg = own(&photo(48, 32, 1), 48, 32, 70);
    decoder.decode(&jpeg, &mut rgb).unwrap();
    assert_eq!(rgb[..48 * 32 * 3], decode(&jpeg, 48, 32));
}
