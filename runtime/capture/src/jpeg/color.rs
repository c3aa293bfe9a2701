//! From decoded planes to rows of RGB: chroma upsampling and the colour transform.
//!
//! Chroma of half size is upsampled by libjpeg's "fancy" method: each new sample is 3/4 of the
//! nearer and 1/4 of the farther sample, in each direction that needs it. Other ratios (4:1:1)
//! and planes under 3 samples wide are repeated.

use super::header::{Component, Frame};

/// What the three components stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colors {
    YCbCr,
    Rgb,
}

/// Room for one row while it is upsampled.
#[derive(Default)]
pub(super) struct Rows {
    rows: [Vec<u8>; 3],
    sums: Vec<u16>,
}

impl Rows {
    /// Makes room for rows of `width` samples; allocates only when there was less.
    pub(super) fn reserve(&mut self, width: usize) {
        for row in &mut self.rows {
            row.resize(width + 8, 0);
        }
        self.sums.resize(width + 8, 0);
    }

    /// Writes the whole picture to `rgb`, which is exactly of its size.
    pub(super) fn convert(&mut self, frame: &Frame, planes: &[u8], colors: Colors, rgb: &mut [u8]) {
        let width = frame.width;
        for (y, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
            let [row0, row1, row2] = &mut self.rows;
            let sums = &mut self.sums;
            let mut row = |index: usize, scratch| {
                sample_row(frame, &frame.components[index], planes, y, scratch, sums)
            };
            if frame.count == 1 {
                let gray = row(0, row0);
                for (pixel, &level) in out.chunks_exact_mut(3).zip(gray) {
                    pixel.fill(level);
                }
                continue;
            }
            let first = row(0, row0);
            let second = row(1, row1);
            let third = row(2, row2);
            let (first, second, third) = (&first[..width], &second[..width], &third[..width]);
            match colors {
                Colors::YCbCr => ycbcr_to_rgb(first, second, third, out),
                Colors::Rgb => {
                    for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
                        pixel.copy_from_slice(&[first[x], second[x], third[x]]);
                    }
                }
            }
        }
    }
}

/// Row `y` of the picture of one component, from its plane or upsampled into `scratch`.
fn sample_row<'a>(
    frame: &Frame,
    component: &Component,
    planes: &'a [u8],
    y: usize,
    scratch: &'a mut [u8],
    sums: &mut [u16],
) -> &'a [u8] {
    let plane = &planes[component.start..];
    let (width, height) = (component.width, component.height);
    let plane_row = |row: usize| &plane[row * component.stride..row * component.stride + width];
    let (across, down) = (frame.h / component.h, frame.v / component.v);
    // The two rows that a doubled row lies between: its own, and the one beyond on its side.
    let near = plane_row(y / down);
    let beyond =
        if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(height - 1) };
    match (across, down) {
        (1, 1) => return near,
        (2, 1) if width > 2 => double(near, scratch),
        (2, 2) if width > 2 => {
            let sums = &mut sums[..width];
            for ((sum, &near), &far) in sums.iter_mut().zip(near).zip(plane_row(beyond)) {
                *sum = u16::from(near) * 3 + u16::from(far);
            }
            double_sums(sums, scratch);
        }
        (1, 2) => {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            for ((out, &near), &far) in scratch.iter_mut().zip(near).zip(plane_row(beyond)) {
                *out = ((u16::from(near) * 3 + u16::from(far) + bias) >> 2) as u8;
            }
        }
        _ => {
            for (out, &sample) in scratch.chunks_mut(across).zip(near) {
                out.fill(sample);
            }
        }
    }
    scratch
}

/// A row of twice the samples of `row`, which has at least 2.
fn double(row: &[u8], out: &mut [u8]) {
    let count = row.len();
    let out = &mut out[..count * 2];
    let wide = |index: usize| u16::from(row[index]);
    out[0] = row[0];
    out[1] = ((wide(0) * 3 + wide(1) + 2) >> 2) as u8;
    let inner = &mut out[2..count * 2 - 2];
    for (pair, three) in inner.chunks_exact_mut(2).zip(row.windows(3)) {
        let middle = u16::from(three[1]) * 3;
        pair[0] = ((middle + u16::from(three[0]) + 1) >> 2) as u8;
        pair[1] = ((middle + u16::from(three[2]) + 2) >> 2) as u8;
    }
    out[count * 2 - 2] = ((wide(count - 1) * 3 + wide(count - 2) + 1) >> 2) as u8;
    out[count * 2 - 1] = row[count - 1];
}

/// As [`double`], from sums of 3 near + 1 far sample of two rows.
fn double_sums(sums: &[u16], out: &mut [u8]) {
    let count = sums.len();
    let out = &mut out[..count * 2];
    out[0] = ((sums[0] * 4 + 8) >> 4) as u8;
    out[1] = ((sums[0] * 3 + sums[1] + 7) >> 4) as u8;
    let inner = &mut out[2..count * 2 - 2];
    for (pair, three) in inner.chunks_exact_mut(2).zip(sums.windows(3)) {
        pair[0] = ((three[1] * 3 + three[0] + 8) >> 4) as u8;
        pair[1] = ((three[1] * 3 + three[2] + 7) >> 4) as u8;
    }
    out[count * 2 - 2] = ((sums[count - 1] * 3 + sums[count - 2] + 8) >> 4) as u8;
    out[count * 2 - 1] = ((sums[count - 1] * 4 + 7) >> 4) as u8;
}

/// How many pixels are transformed together.
const GROUP: usize = 16;

fn ycbcr_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    let groups = y.chunks(GROUP).zip(cb.chunks(GROUP)).zip(cr.chunks(GROUP));
    for (((y, cb), cr), out) in groups.zip(out.chunks_mut(GROUP * 3)) {
        let mut rgb = [[0u8; GROUP]; 3];
        if let (Ok(y), Ok(cb), Ok(cr)) = (y.try_into(), cb.try_into(), cr.try_into()) {
            transform(y, cb, cr, &mut rgb);
        } else {
            let whole = |part: &[u8]| std::array::from_fn(|i| part.get(i).map_or(0, |&s| s));
            transform(&whole(y), &whole(cb), &whole(cr), &mut rgb);
        }
        for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
            pixel[0] = rgb[0][x];
            pixel[1] = rgb[1][x];
            pixel[2] = rgb[2][x];
        }
    }
}

/// BT.601 in full range, in 16-bit fixed point with libjpeg's roundings.
#[inline(always)]
fn transform(
    y: &[u8; GROUP],
    cb: &[u8; GROUP],
    cr: &[u8; GROUP],
    [r, g, b]: &mut [[u8; GROUP]; 3],
) {
    const HALF: i32 = 1 << 15;
    for x in 0..GROUP {
        let luma = i32::from(y[x]);
        let (blue, red) = (i32::from(cb[x]) - 128, i32::from(cr[x]) - 128);
        r[x] = (luma + ((91881 * red + HALF) >> 16)).clamp(0, 255) as u8;
        g[x] = (luma + ((-22554 * blue - 46802 * red + HALF) >> 16)).clamp(0, 255) as u8;
        b[x] = (luma + ((116_130 * blue + HALF) >> 16)).clamp(0, 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_keeps_flat_rows_and_ends() {
        let mut out = [0; 10];
        double(&[7; 5], &mut out);
        assert_eq!(out, [7; 10]);
        double(&[0, 100, 200, 40, 80], &mut out);
        assert_eq!(out, [0, 25, 75, 125, 175, 160, 80, 50, 70, 80]);
        double_sums(&[28; 5], &mut out);
        assert_eq!(out, [7; 10]);
    }

    #[test]
    fn colours_of_the_definition() {
        for (ycc, rgb) in [
            ([0, 128, 128], [0, 0, 0]),
            ([255, 128, 128], [255, 255, 255]),
            ([76, 85, 255], [254, 0, 0]),
            ([150, 44, 21], [0, 255, 1]),
            ([29, 255, 107], [0, 0, 254]),
        ] {
            let mut out = [0; 3];
            ycbcr_to_rgb(&ycc[..1], &ycc[1..2], &ycc[2..], &mut out);
            assert_eq!(out, rgb, "{ycc:?}");
        }
    }
}
