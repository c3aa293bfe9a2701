//! Preprocessing against its definition, written per element in f64.

mod common;

use proptest::prelude::*;
use tobiuo_cpu::{PixelFormat, Preprocessor};
use tobiuo_engine::manifest::{ChannelOrder, Fit, Preprocess};

/// A pixel as R, G, B in 0..=255.
fn pixel(format: PixelFormat, frame: &[u8], w: usize, h: usize, x: usize, y: usize) -> [f64; 3] {
    let at = |i: usize| f64::from(frame[i]);
    let half = w.div_ceil(2);
    let chroma = w * h + y / 2 * half * 2 + x / 2 * 2;
    let plane = half * h.div_ceil(2);
    let (l, cb, cr) = match format {
        PixelFormat::Rgb8 => return [0, 1, 2].map(|c| at((y * w + x) * 3 + c)),
        PixelFormat::Bgr8 => return [2, 1, 0].map(|c| at((y * w + x) * 3 + c)),
        PixelFormat::Gray8 => return [at(y * w + x); 3],
        PixelFormat::Yuyv => {
            let pair = (y * w + x) / 2 * 4;
            (at(pair + x % 2 * 2), at(pair + 1), at(pair + 3))
        }
        PixelFormat::Uyvy => {
            let pair = (y * w + x) / 2 * 4;
            (at(pair + 1 + x % 2 * 2), at(pair), at(pair + 2))
        }
        PixelFormat::Nv12 => (at(y * w + x), at(chroma), at(chroma + 1)),
        PixelFormat::I420 => {
            let i = w * h + y / 2 * half + x / 2;
            (at(y * w + x), at(i), at(i + plane))
        }
    };
    // BT.601: R, G, B from Kr = 0.299, Kb = 0.114 and the video ranges 219 and 224.
    let (l, cb, cr) = ((l - 16.0) / 219.0, (cb - 128.0) / 224.0, (cr - 128.0) / 224.0);
    let (kr, kb) = (0.299, 0.114);
    let (r, b) = (l + 2.0 * (1.0 - kr) * cr, l + 2.0 * (1.0 - kb) * cb);
    let g = (l - kr * r - kb * b) / (1.0 - kr - kb);
    [r, g, b].map(|v| (v * 255.0).clamp(0.0, 255.0))
}

fn formats() -> impl Strategy<Value = PixelFormat> {
    use PixelFormat::*;
    prop::sample::select(vec![Rgb8, Bgr8, Gray8, Yuyv, Uyvy, Nv12, I420])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn matches_its_definition(
        format in formats(),
        (w, h) in (1..80usize, 1..60usize),
        (nw, nh) in (1..70usize, 1..70usize),
        order in prop::sample::select(vec![ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray]),
        fit in prop::sample::select(vec![Fit::Letterbox, Fit::Stretch, Fit::CenterCrop]),
        seed in any::<u64>(),
    ) {
        let w = if matches!(format, PixelFormat::Yuyv | PixelFormat::Uyvy) { w.next_multiple_of(2) } else { w };
        let channels = if order == ChannelOrder::Gray { 1 } else { 3 };
        let settings = Preprocess {
            input: 0,
            fit,
            pad_value: 114,
            channels: order,
            mean: [0.485, 0.456, 0.406][..channels].to_vec(),
            std: [0.229, 0.224, 0.225][..channels].to_vec(),
        };
        let mut p = Preprocessor::new(format, w, h, [channels, nh, nw], &settings).unwrap();
        let frame: Vec<u8> = common::random(p.frame_bytes(), seed)
            .iter()
            .map(|v| ((v + 1.0) * 127.99) as u8)
            .collect();
        let mut out = vec![f32::NAN; channels * nw * nh];
        p.run(&frame, &mut out).unwrap();

        let (sx, sy) = (nw as f64 / w as f64, nh as f64 / h as f64);
        let (sx, sy) = match fit {
            Fit::Letterbox => (sx.min(sy), sx.min(sy)),
            Fit::Stretch => (sx, sy),
            Fit::CenterCrop => (sx.max(sy), sx.max(sy)),
        };
        let scaled = [(w as f64 * sx).round().max(1.0), (h as f64 * sy).round().max(1.0)];
        let offset = [nw as f64, nh as f64];
        let offset = [0, 1].map(|i| ((offset[i] - scaled[i]) / 2.0 - 0.1).round());
        let place = p.placement();
        prop_assert!((f64::from(place.scale_x) * w as f64 - scaled[0]).abs() < 1e-3);
        prop_assert!((f64::from(place.scale_y) * h as f64 - scaled[1]).abs() < 1e-3);
        prop_assert_eq!([place.offset_x as f64, place.offset_y as f64], offset);
        for c in 0..channels {
            for y in 0..nh {
                for x in 0..nw {
                    let (fx, fy) = (x as f64 - offset[0], y as f64 - offset[1]);
                    let inside = fx >= 0.0 && fx < scaled[0] && fy >= 0.0 && fy < scaled[1];
                    let value = if inside {
                        let sx = ((fx + 0.5) * w as f64 / scaled[0] - 0.5).clamp(0.0, w as f64 - 1.0);
                        let sy = ((fy + 0.5) * h as f64 / scaled[1] - 0.5).clamp(0.0, h as f64 - 1.0);
                        let (x0, y0) = (sx as usize, sy as usize);
                        let (x1, y1) = ((x0 + 1).min(w - 1), (y0 + 1).min(h - 1));
                        let (ax, ay) = (sx - x0 as f64, sy - y0 as f64);
                        let v = |x, y| {
                            let [r, g, b] = pixel(format, &frame, w, h, x, y);
                            match order {
                                ChannelOrder::Rgb => [r, g, b][c],
                                ChannelOrder::Bgr => [b, g, r][c],
                                ChannelOrder::Gray => 0.299 * r + 0.587 * g + 0.114 * b,
                            }
                        };
                        (v(x0, y0) * (1.0 - ax) + v(x1, y0) * ax) * (1.0 - ay)
                            + (v(x0, y1) * (1.0 - ax) + v(x1, y1) * ax) * ay
                    } else {
                        114.0
                    };
                    let want = (value / 255.0 - f64::from(settings.mean[c])) / f64::from(settings.std[c]);
                    let got = f64::from(out[(c * nh + y) * nw + x]);
                    prop_assert!((got - want).abs() < 2e-4, "({}, {}, {}): {} not {}", c, y, x, got, want);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let settings = Preprocess {
        input: 0,
        fit: Fit::Letterbox,
        pad_value: 0,
        channels: ChannelOrder::Rgb,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
    };
    let new = |f, w, h, input, s: &Preprocess| Preprocessor::new(f, w, h, input, s).is_err();
    assert!(new(PixelFormat::Yuyv, 3, 2, [3, 4, 4], &settings));
    assert!(new(PixelFormat::Rgb8, 0, 2, [3, 4, 4], &settings));
    assert!(new(PixelFormat::Rgb8, 2, 2, [1, 4, 4], &settings));
    assert!(new(PixelFormat::Rgb8, usize::MAX, 2, [3, 4, 4], &settings));
    let flat = Preprocess { std: vec![0.0; 3], ..settings.clone() };
    assert!(new(PixelFormat::Rgb8, 2, 2, [3, 4, 4], &flat));
    let mut p = Preprocessor::new(PixelFormat::Rgb8, 2, 2, [3, 4, 4], &settings).unwrap();
    assert!(p.run(&[0; 11], &mut [0.0; 48]).is_err());
    assert!(p.run(&[0; 12], &mut [0.0; 47]).is_err());
    assert!(p.run(&[0; 12], &mut [0.0; 48]).is_ok());
}
