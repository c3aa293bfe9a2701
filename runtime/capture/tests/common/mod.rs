//! What the tests of this crate share.
#![allow(dead_code)]

/// A small generator of reproducible numbers.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit.max(1)
    }
}

/// A picture with what photographs have: smooth shades, edges, some noise, strong colours.
pub fn photo(width: u32, height: u32, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    let (w, h) = (f64::from(width), f64::from(height));
    for y in 0..height {
        for x in 0..width {
            let (u, v) = (f64::from(x) / w, f64::from(y) / h);
            let wave = ((u * 7.0 + seed as f64).sin() + (v * 5.0).cos()) * 40.0;
            let noise = f64::from(random.next() % 9) - 4.0;
            let disc = (u - 0.4).hypot(v - 0.5) < 0.2;
            let [r, g, b] =
                if disc { [200.0, 40.0, 30.0] } else { [110.0, 130.0, 90.0 + u * 80.0] };
            for level in [r + wave, g + wave * 0.8, b - wave] {
                rgb.push((level + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    rgb
}

/// How close two pictures are, in decibels.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (sum / a.len() as f64).max(1e-9)).log10()
}

/// What a source gave up to its end: number, pixels and frames dropped before, of each frame.
pub type Frames = Vec<(tobiuo_capture::FrameMeta, Vec<u8>)>;

/// Reads a source to its end, or to its first error.
pub fn read_all(
    uri: &str,
    cfg: &tobiuo_capture::SourceConfig,
) -> (Frames, Option<tobiuo_capture::CaptureError>) {
    use tobiuo_capture::{Read, open};
    let mut source = match open(uri, cfg) {
        Ok(source) => source,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut slot = vec![0; source.max_frame_bytes()];
    let mut frames = Vec::new();
    loop {
        match source.read(&mut slot, &false.into()) {
            Ok(Read::Frame(meta)) => {
                frames.push((meta, slot[..meta.format.frame_bytes().unwrap()].to_vec()));
            }
            Ok(Read::End) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// An AVI of `count` grey frames of 32x16 pixels, frame n of level `10 * n`, and its frames'
/// JPEGs.
pub fn avi(path: &std::path::Path, count: u32) -> Vec<Vec<u8>> {
    let mut writer = tobiuo_capture::AviWriter::create(path, 32, 16, 25.0).unwrap();
    let mut encoder = tobiuo_capture::jpeg::Encoder::new(32, 16, 90).unwrap();
    let mut jpegs = Vec::new();
    for number in 0..count {
        let mut jpeg = Vec::new();
        encoder.encode(&[10 * number as u8; 32 * 16 * 3], &mut jpeg).unwrap();
        writer.write(&jpeg).unwrap();
        jpegs.push(jpeg);
    }
    writer.finish().unwrap();
    jpegs
}
