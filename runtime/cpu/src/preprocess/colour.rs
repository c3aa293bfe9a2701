//! One row of a frame as planes of the network's channels, 0..=255.

use tobiuo_engine::manifest::ChannelOrder;

use super::PixelFormat;

/// ITU-R BT.601's luma weights.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// A pixel of video-range BT.601 YCbCr as R, G, B.
#[inline(always)]
fn rgb_of(y: u8, cb: u8, cr: u8) -> [f32; 3] {
    let y = (f32::from(y) - 16.0) * (255.0 / 219.0);
    let (cb, cr) = (f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    let rgb = [y + 1.596_026_8 * cr, y - 0.391_762_3 * cb - 0.812_967_6 * cr, y + 2.017_232_1 * cb];
    rgb.map(|v| v.clamp(0.0, 255.0))
}

/// Writes row `row` of a frame of `size` (width, height) into `to`, one plane of the row's
/// width per channel.
#[inline(always)]
pub(super) fn row(
    format: PixelFormat,
    order: ChannelOrder,
    frame: &[u8],
    size: [usize; 2],
    row: usize,
    to: &mut [f32],
) {
    let [w, h] = size;
    let pixels = frame.as_chunks::<3>().0;
    let luma = |n: usize| &frame[n * w..(n + 1) * w];
    match format {
        PixelFormat::Rgb8 => {
            let pixels = &pixels[row * w..(row + 1) * w];
            fill(order, to, w, pixels.iter().map(|p| p.map(f32::from)));
        }
        PixelFormat::Bgr8 => {
            let pixels = &pixels[row * w..(row + 1) * w];
            fill(order, to, w, pixels.iter().map(|&[b, g, r]| [r, g, b].map(f32::from)));
        }
        PixelFormat::Gray8 => {
            for plane in to.chunks_exact_mut(w) {
                for (t, &v) in plane.iter_mut().zip(luma(row)) {
                    *t = f32::from(v);
                }
            }
        }
        PixelFormat::Yuyv => {
            let pairs = &frame[row * 2 * w..(row + 1) * 2 * w].as_chunks::<4>().0;
            fill_pairs(order, to, w, pairs.iter().map(|&[a, cb, b, cr]| [a, b, cb, cr]));
        }
        PixelFormat::Uyvy => {
            let pairs = &frame[row * 2 * w..(row + 1) * 2 * w].as_chunks::<4>().0;
            fill_pairs(order, to, w, pairs.iter().map(|&[cb, a, cr, b]| [a, b, cb, cr]));
        }
        PixelFormat::Nv12 => {
            let half = w.div_ceil(2);
            let chroma = &frame[w * h..].as_chunks::<2>().0[row / 2 * half..][..half];
            let (pairs, last) = luma(row).as_chunks::<2>();
            let all = pairs.iter().zip(chroma).map(|(&[a, b], &[cb, cr])| [a, b, cb, cr]);
            fill_pairs(order, to, w, all);
            if let [y] = last {
                let [cb, cr] = chroma[half - 1];
                put(order, to, w, w - 1, rgb_of(*y, cb, cr));
            }
        }
        PixelFormat::I420 => {
            let half = w.div_ceil(2);
            let (cb, cr) = frame[w * h..].split_at(half * h.div_ceil(2));
            let part = row / 2 * half..(row / 2 + 1) * half;
            let (cb, cr) = (&cb[part.clone()], &cr[part]);
            let (pairs, last) = luma(row).as_chunks::<2>();
            let all = pairs.iter().zip(cb).zip(cr).map(|((&[a, b], &cb), &cr)| [a, b, cb, cr]);
            fill_pairs(order, to, w, all);
            if let [y] = last {
                put(order, to, w, w - 1, rgb_of(*y, cb[half - 1], cr[half - 1]));
            }
        }
    }
}

/// One pixel.
#[inline(always)]
fn put(order: ChannelOrder, to: &mut [f32], w: usize, x: usize, [r, g, b]: [f32; 3]) {
    match order {
        ChannelOrder::Gray => to[x] = LUMA[0] * r + LUMA[1] * g + LUMA[2] * b,
        ChannelOrder::Rgb => {
            for (c, v) in [r, g, b].into_iter().enumerate() {
                to[c * w + x] = v;
            }
        }
        ChannelOrder::Bgr => {
            for (c, v) in [b, g, r].into_iter().enumerate() {
                to[c * w + x] = v;
            }
        }
    }
}

/// A row of pixels.
#[inline(always)]
fn fill(order: ChannelOrder, to: &mut [f32], w: usize, pixels: impl Iterator<Item = [f32; 3]>) {
    if order == ChannelOrder::Gray {
        for (t, [r, g, b]) in to.iter_mut().zip(pixels) {
            *t = LUMA[0] * r + LUMA[1] * g + LUMA[2] * b;
        }
        return;
    }
    let (red, green, blue) = planes(order, to, w);
    for (((red, green), blue), [r, g, b]) in red.iter_mut().zip(green).zip(blue).zip(pixels) {
        (*red, *green, *blue) = (r, g, b);
    }
}

/// A row of pixel pairs: two lumas, their Cb and Cr.
#[inline(always)]
fn fill_pairs(order: ChannelOrder, to: &mut [f32], w: usize, all: impl Iterator<Item = [u8; 4]>) {
    if order == ChannelOrder::Gray {
        for (t, [a, b, cb, cr]) in to.as_chunks_mut::<2>().0.iter_mut().zip(all) {
            *t = [a, b].map(|y| {
                let [r, g, b] = rgb_of(y, cb, cr);
                LUMA[0] * r + LUMA[1] * g + LUMA[2] * b
            });
        }
        return;
    }
    let (red, green, blue) = planes(order, to, w);
    let pairs = red.as_chunks_mut::<2>().0.iter_mut();
    let others = green.as_chunks_mut::<2>().0.iter_mut().zip(blue.as_chunks_mut::<2>().0);
    for ((red, (green, blue)), [a, b, cb, cr]) in pairs.zip(others).zip(all) {
        let (p, q) = (rgb_of(a, cb, cr), rgb_of(b, cb, cr));
        (*red, *green, *blue) = ([p[0], q[0]], [p[1], q[1]], [p[2], q[2]]);
    }
}

/// The planes for red, green and blue.
#[inline(always)]
fn planes(order: ChannelOrder, to: &mut [f32], w: usize) -> (&mut [f32], &mut [f32], &mut [f32]) {
    let (first, rest) = to.split_at_mut(w);
    let (second, third) = rest.split_at_mut(w);
    if order == ChannelOrder::Bgr { (third, second, first) } else { (first, second, third) }
}
