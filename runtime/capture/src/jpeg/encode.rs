//! The baseline encoder.

use super::fdct::{fdct, reciprocals};
use super::tables::{
    AC_CHROMA, AC_LUMA, DC_CHROMA, DC_LUMA, QUANT_CHROMA, QUANT_LUMA, Spec, ZIGZAG,
};
use super::{JpegError, JpegErrorKind as Kind, error};
use crate::format::PixelFormat;

/// The most bytes that a block takes: 64 coefficients of 16 + 10 bits, every byte stuffed.
const BLOCK_BYTES: usize = 64 * 26 / 8 * 2;

/// An encoder of RGB frames of one size into baseline JPEGs: 4:2:0, the standard's Huffman
/// tables and its quantisation scaled by quality as libjpeg does.
pub struct Encoder {
    width: usize,
    height: usize,
    /// Everything up to the coded data.
    head: Vec<u8>,
    luma: Channel,
    chroma: Channel,
    /// One row of MCUs: 16 rows of luma, 8 each of Cb and Cr, padded to whole MCUs.
    rows: Rows,
    worst: usize,
}

/// The tables of one sort of component.
struct Channel {
    /// What a coefficient, by rows, is multiplied by.
    scale: [f32; 64],
    dc: [Code; 16],
    ac: Box<[Code; 256]>,
}

/// A Huffman code: its bits and how many.
#[derive(Debug, Clone, Copy, Default)]
struct Code {
    bits: u32,
    length: u32,
}

struct Rows {
    stride: usize,
    luma: Vec<u8>,
    chroma: [Vec<u8>; 2],
}

impl Encoder {
    /// An encoder of frames of `width` x `height` pixels with a quality of 1 to 100 (others are
    /// brought there).
    pub fn new(width: u32, height: u32, quality: u8) -> Result<Self, JpegError> {
        if PixelFormat::Rgb8.frame_bytes(width, height).is_none() {
            return error(Kind::TooLarge, 0);
        }
        let luma_steps = steps(&QUANT_LUMA, quality);
        let chroma_steps = steps(&QUANT_CHROMA, quality);
        let (width, height) = (width as usize, height as usize);
        let stride = width.next_multiple_of(16);
        let rows = Rows {
            stride,
            luma: vec![0; stride * 16],
            chroma: [vec![0; stride / 2 * 8], vec![0; stride / 2 * 8]],
        };
        let head = head(width as u16, height as u16, &luma_steps, &chroma_steps);
        let blocks = stride / 16 * height.div_ceil(16) * 6;
        let worst = head.len() + blocks * BLOCK_BYTES + 16;
        Ok(Self {
            width,
            height,
            head,
            luma: Channel::new(&luma_steps, &DC_LUMA, &AC_LUMA),
            chroma: Channel::new(&chroma_steps, &DC_CHROMA, &AC_CHROMA),
            rows,
            worst,
        })
    }

    /// The bytes that no picture of this encoder passes.
    pub fn worst_case_bytes(&self) -> usize {
        self.worst
    }

    /// Encodes `rgb` (3 bytes a pixel, rows packed) into `out`, which is cleared first.
    ///
    /// The first call reserves [`worst_case_bytes`](Self::worst_case_bytes) in it (memory that is
    /// never touched is never resident); later calls with the same `out` allocate nothing.
    pub fn encode(&mut self, rgb: &[u8], out: &mut Vec<u8>) -> Result<(), JpegError> {
        let Some(rgb) = rgb.get(..self.width * self.height * 3) else {
            return error(Kind::SmallBuffer, rgb.len());
        };
        out.clear();
        out.reserve(self.worst);
        out.extend_from_slice(&self.head);
        let mut bits = BitWriter { out, bits: 0, count: 0 };
        let mut predictions = [0i32; 3];
        for top in (0..self.height).step_by(16) {
            self.rows.fill(rgb, self.width, self.height, top);
            for mcu in 0..self.rows.stride / 16 {
                for inner in 0..4 {
                    let start = inner / 2 * 8 * self.rows.stride + mcu * 16 + inner % 2 * 8;
                    let samples = &self.rows.luma[start..];
                    self.luma.block(samples, self.rows.stride, &mut predictions[0], &mut bits);
                }
                for (plane, prediction) in self.rows.chroma.iter().zip(&mut predictions[1..]) {
                    let samples = &plane[mcu * 8..];
                    self.chroma.block(samples, self.rows.stride / 2, prediction, &mut bits);
                }
            }
        }
        bits.finish();
        out.extend_from_slice(&[0xff, 0xd9]);
        Ok(())
    }
}

/// The quantisation steps of `base`, by rows, for a quality.
fn steps(base: &[u8; 64], quality: u8) -> [u8; 64] {
    let quality = u32::from(quality.clamp(1, 100));
    let percent = if quality < 50 { 5000 / quality } else { 200 - quality * 2 };
    base.map(|step| ((u32::from(step) * percent + 50) / 100).clamp(1, 255) as u8)
}

/// Every segment before the coded data.
fn head(width: u16, height: u16, luma: &[u8; 64], chroma: &[u8; 64]) -> Vec<u8> {
    let mut head = vec![0xff, 0xd8];
    let mut segment = |marker: u8, payload: &[&[u8]]| {
        let length: usize = payload.iter().map(|part| part.len()).sum();
        head.extend([0xff, marker]);
        head.extend((length as u16 + 2).to_be_bytes());
        payload.iter().for_each(|part| head.extend_from_slice(part));
    };
    segment(0xe0, &[b"JFIF\0", &[1, 1, 0, 0, 1, 0, 1, 0, 0]]);
    for (number, steps) in [luma, chroma].into_iter().enumerate() {
        segment(0xdb, &[&[number as u8], &ZIGZAG.map(|at| steps[usize::from(at)])]);
    }
    let ([h1, h0], [w1, w0]) = (height.to_be_bytes(), width.to_be_bytes());
    segment(0xc0, &[&[8, h1, h0, w1, w0, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]]);
    for (number, spec) in
        [(0x00, &DC_LUMA), (0x10, &AC_LUMA), (0x01, &DC_CHROMA), (0x11, &AC_CHROMA)]
    {
        segment(0xc4, &[&[number], &spec.counts, spec.symbols]);
    }
    segment(0xda, &[&[3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0]]);
    head
}

impl Rows {
    /// Fills the planes from the 16 rows of `rgb` from `top` on, repeating the last row and
    /// column as far as the MCUs go.
    fn fill(&mut self, rgb: &[u8], width: usize, height: usize, top: usize) {
        let row = |y: usize| {
            let y = (top + y).min(height - 1);
            &rgb[y * width * 3..(y + 1) * width * 3]
        };
        let stride = self.stride;
        for (y, out) in self.luma.chunks_exact_mut(stride).enumerate() {
            for (level, pixel) in out.iter_mut().zip(row(y).chunks_exact(3)) {
                let [r, g, b] = [0, 1, 2].map(|channel| i32::from(pixel[channel]));
                *level = ((19595 * r + 38470 * g + 7471 * b + 32768) >> 16) as u8;
            }
            let last = out[width - 1];
            out[width..].fill(last);
        }
        let [blue, red] = &mut self.chroma;
        let half = stride / 2;
        let planes = blue.chunks_exact_mut(half).zip(red.chunks_exact_mut(half));
        for (y, (blue, red)) in planes.enumerate() {
            let (upper, lower) = (row(y * 2), row(y * 2 + 1));
            let pairs = upper.chunks(6).zip(lower.chunks(6));
            for ((upper, lower), (blue, red)) in pairs.zip(blue.iter_mut().zip(red.iter_mut())) {
                let beside = upper.len() - 3;
                let [r, g, b] = [0, 1, 2].map(|channel| {
                    i32::from(upper[channel])
                        + i32::from(upper[beside + channel])
                        + i32::from(lower[channel])
                        + i32::from(lower[beside + channel])
                });
                // Sums of four pixels: two more bits.
                const OFFSET: i32 = (128 << 18) + (1 << 17) - 1;
                *blue = ((-11059 * r - 21709 * g + 32768 * b + OFFSET) >> 18) as u8;
                *red = ((32768 * r - 27439 * g - 5329 * b + OFFSET) >> 18) as u8;
            }
            let count = width.div_ceil(2);
            for plane in [blue, red] {
                let last = plane[count - 1];
                plane[count..].fill(last);
            }
        }
    }
}

impl Channel {
    fn new(steps: &[u8; 64], dc: &Spec, ac: &Spec) -> Self {
        let mut channel = Self {
            scale: reciprocals(steps),
            dc: [Code::default(); 16],
            ac: Box::new([Code::default(); 256]),
        };
        assign(dc, &mut channel.dc);
        assign(ac, &mut channel.ac[..]);
        channel
    }

    /// Codes the block of `samples` whose rows are `stride` apart.
    #[inline]
    fn block(&self, samples: &[u8], stride: usize, prediction: &mut i32, bits: &mut BitWriter<'_>) {
        let values = fdct(samples, stride, &self.scale);
        let level = i32::from(values[0]);
        let difference = level - *prediction;
        *prediction = level;
        let size = magnitude_bits(difference);
        let code = self.dc[size as usize];
        bits.put(code.bits, code.length);
        bits.put(magnitude(difference, size), size);

        let mut run = 0;
        for &at in &ZIGZAG[1..] {
            let value = i32::from(values[usize::from(at)]);
            if value == 0 {
                run += 1;
                continue;
            }
            while run > 15 {
                bits.put(self.ac[0xf0].bits, self.ac[0xf0].length);
                run -= 16;
            }
            let size = magnitude_bits(value);
            let code = self.ac[(run << 4 | size) as usize];
            bits.put(code.bits << size | magnitude(value, size), code.length + size);
            run = 0;
        }
        if run > 0 {
            bits.put(self.ac[0].bits, self.ac[0].length);
        }
    }
}

/// Gives every symbol of a table its code.
fn assign(spec: &Spec, codes: &mut [Code]) {
    let (mut code, mut symbols) = (0, spec.symbols.iter());
    for (length, &count) in (1..).zip(&spec.counts) {
        for &symbol in symbols.by_ref().take(usize::from(count)) {
            codes[usize::from(symbol)] = Code { bits: code, length };
            code += 1;
        }
        code <<= 1;
    }
}

/// The bits that a value's magnitude needs.
#[inline(always)]
fn magnitude_bits(value: i32) -> u32 {
    32 - value.unsigned_abs().leading_zeros()
}

/// The raw bits that code `value` in `size` bits.
#[inline(always)]
fn magnitude(value: i32, size: u32) -> u32 {
    (value + (value >> 31)) as u32 & ((1 << size) - 1)
}

/// Packs bits into bytes, with a zero behind every `ff`.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    count: u32,
}

impl BitWriter<'_> {
    /// Adds the low `count` bits, at most 32.
    #[inline(always)]
    fn put(&mut self, bits: u32, count: u32) {
        self.bits = self.bits << count | u64::from(bits);
        self.count += count;
        if self.count >= 32 {
            self.count -= 32;
            let word = (self.bits >> self.count) as u32;
            let inverse = !word;
            if inverse.wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.out.extend_from_slice(&word.to_be_bytes());
            } else {
                word.to_be_bytes().into_iter().for_each(|byte| self.byte(byte));
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        self.out.push(byte);
        if byte == 0xff {
            self.out.push(0);
        }
    }

    /// Writes the last bits, filled up with ones.
    fn finish(mut self) {
        while !self.count.is_multiple_of(8) {
            self.bits = self.bits << 1 | 1;
            self.count += 1;
        }
        while self.count > 0 {
            self.count -= 8;
            self.byte((self.bits >> self.count) as u8);
        }
    }
}
