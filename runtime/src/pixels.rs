//! Frames of any format as RGB.

use tobiuo_capture::{FrameFormat, PixelFormat};

/// Converts a frame to packed R, G, B bytes in `rgb`, whose old content goes. YCbCr formats
/// are BT.601 in video range, as capture delivers them; chroma is taken from the nearest
/// sample. Allocates only while `rgb` grows. False when `pixels` are fewer than the format
/// says.
pub(crate) fn to_rgb(format: FrameFormat, pixels: &[u8], rgb: &mut Vec<u8>) -> bool {
    let (Some(bytes), Some(size)) =
        (format.frame_bytes(), PixelFormat::Rgb8.frame_bytes(format.width, format.height))
    else {
        return false;
    };
    let Some(pixels) = pixels.get(..bytes) else { return false };
    rgb.resize(size, 0);
    let (w, h) = (format.width as usize, format.height as usize);
    let out = rgb.as_chunks_mut::<3>().0;
    match format.pixel {
        PixelFormat::Rgb8 => rgb.copy_from_slice(pixels),
        PixelFormat::Bgr8 => {
            out.iter_mut().zip(pixels.as_chunks().0).for_each(|(o, &[b, g, r])| *o = [r, g, b]);
        }
        PixelFormat::Gray8 => out.iter_mut().zip(pixels).for_each(|(o, &y)| *o = [y; 3]),
        PixelFormat::Yuyv => {
            for (o, &[y0, u, y1, v]) in out.as_chunks_mut().0.iter_mut().zip(pixels.as_chunks().0) {
                *o = [ycbcr(y0, u, v), ycbcr(y1, u, v)];
            }
        }
        PixelFormat::Uyvy => {
            for (o, &[u, y0, v, y1]) in out.as_chunks_mut().0.iter_mut().zip(pixels.as_chunks().0) {
                *o = [ycbcr(y0, u, v), ycbcr(y1, u, v)];
            }
        }
        PixelFormat::Nv12 => {
            let (luma, chroma) = pixels.split_at(w * h);
            planar(out, luma, w, |x, y| {
                let at = (y / 2 * w.div_ceil(2) + x / 2) * 2;
                (chroma[at], chroma[at + 1])
            });
        }
        PixelFormat::I420 => {
            let (luma, chroma) = pixels.split_at(w * h);
            let (cb, cr) = chroma.split_at(chroma.len() / 2);
            planar(out, luma, w, |x, y| {
                let at = y / 2 * w.div_ceil(2) + x / 2;
                (cb[at], cr[at])
            });
        }
    }
    true
}

fn planar(out: &mut [[u8; 3]], luma: &[u8], w: usize, chroma: impl Fn(usize, usize) -> (u8, u8)) {
    for (y, (row, luma)) in out.chunks_exact_mut(w).zip(luma.chunks_exact(w)).enumerate() {
        for (x, (o, &l)) in row.iter_mut().zip(luma).enumerate() {
            let (cb, cr) = chroma(x, y);
            *o = ycbcr(l, cb, cr);
        }
    }
}

/// BT.601, video range, in 16-bit fixed point (ITU-R BT.601-7, annex 1).
fn ycbcr(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let y = 76_309 * (i32::from(y) - 16);
    let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
    [y + 104_597 * cr, y - 25_675 * cb - 53_279 * cr, y + 132_201 * cb]
        .map(|v| ((v + 32_768) >> 16).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in floating point.
    fn plain(y: u8, cb: u8, cr: u8) -> [f64; 3] {
        let y = (f64::from(y) - 16.0) / 219.0;
        let (cb, cr) = ((f64::from(cb) - 128.0) / 224.0, (f64::from(cr) - 128.0) / 224.0);
        let (r, b) = (y + 1.402 * cr, y + 1.772 * cb);
        let g = (y - 0.299 * r - 0.114 * b) / 0.587;
        [r, g, b].map(|v| (v * 255.0).clamp(0.0, 255.0))
    }

    #[test]
    fn colours_are_those_of_the_definition() {
        for y in (0..=255).step_by(5) {
            for cb in (0..=255).step_by(17) {
                for cr in (0..=255).step_by(17) {
                    let (got, want) = (ycbcr(y, cb, cr), plain(y, cb, cr));
                    for (g, w) in got.iter().zip(want) {
                        assert!((f64::from(*g) - w).abs() < 0.6, "{y} {cb} {cr}: {got:?} {want:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_format_of_one_picture_agrees() {
        // 4x2 of one grey and one reddish colour per 2x2 block.
        let (a, b) = ((120, 128, 128), (90, 110, 200));
        let at = |x: usize| if x < 2 { a } else { b };
        let want: Vec<u8> =
            (0..8).flat_map(|i| ycbcr(at(i % 4).0, at(i % 4).1, at(i % 4).2)).collect();
        let luma = [120, 120, 90, 90, 120, 120, 90, 90];
        let with = |chroma: &[u8]| [&luma[..], chroma].concat();
        let mut bgr = want.clone();
        bgr.chunks_mut(3).for_each(|p| p.reverse());
        for (pixel, bytes) in [
            (PixelFormat::Rgb8, want.clone()),
            (PixelFormat::Bgr8, bgr),
            (PixelFormat::Yuyv, [120, 128, 120, 128, 90, 110, 90, 200].repeat(2)),
            (PixelFormat::Uyvy, [128, 120, 128, 120, 110, 90, 200, 90].repeat(2)),
            (PixelFormat::Nv12, with(&[128, 128, 110, 200])),
            (PixelFormat::I420, with(&[128, 110, 128, 200])),
        ] {
            let mut rgb = Vec::new();
            assert!(to_rgb(FrameFormat::new(pixel, 4, 2), &bytes, &mut rgb));
            assert_eq!(rgb, want, "{pixel}");
            assert!(!to_rgb(FrameFormat::new(pixel, 4, 2), &bytes[1..], &mut rgb), "{pixel}");
        }
    }

    #[test]
    fn odd_sides_have_their_own_chroma() {
        let mut rgb = Vec::new();
        let i420 = [16, 16, 16, 16, 16, 16, 16, 16, 235, 1, 2, 3, 128, 5, 6, 7, 128];
        assert!(to_rgb(FrameFormat::new(PixelFormat::I420, 3, 3), &i420, &mut rgb));
        assert_eq!(rgb[24..], [255, 255, 255]);
    }
}
