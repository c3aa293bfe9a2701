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

fn decode(jpeg: &[u8], w: u32, h: u32) -> Vec<u8> {
    let mut rgb = vec![0xa5; (w * h * 3) as usize];
    assert_eq!(Decoder::new().decode(jpeg, &mut rgb), Ok((w, h)));
    rgb
}

fn by_image(jpeg: &[u8]) -> Vec<u8> {
    image::load_from_memory(jpeg).unwrap().into_rgb8().into_raw()
}

/// The largest and the mean difference of two pictures.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (differences.max().unwrap(), sum as f64 / a.len() as f64)
}

#[test]
fn agrees_with_the_image_crate_in_every_sampling() {
    use jpeg_encoder::SamplingFactor::*;
    for sampling in [R_4_4_4, R_4_2_2, R_4_2_0, R_4_4_0, R_4_1_1] {
        for (w, h) in [(64, 48), (161, 99), (17, 33), (8, 8), (5, 3), (1, 1), (2, 40)] {
            let rgb = photo(w, h, 3);
            let jpeg = foreign(&rgb, w, h, sampling);
            let (most, mean) = difference(&decode(&jpeg, w, h), &by_image(&jpeg));
            eprintln!("{sampling:?} {w}x{h}: at most {most}, mean {mean:.4}");
            // The image crate upsamples and transforms with its own roundings.
            let flat = matches!(sampling, R_4_4_4);
            assert!(mean < if flat { 0.3 } else { 1.5 }, "{sampling:?} {w}x{h} {mean}");
            assert!(!flat || most <= 4, "{sampling:?} {w}x{h} {most}");
            assert_eq!(dimensions(&jpeg), Ok((w, h)));
        }
    }
}
