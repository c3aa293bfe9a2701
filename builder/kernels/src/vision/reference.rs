//! The kernels by plain loops over the device's memory.

use half::f16;
use tobiuo_tensor::DType;

use super::{Channels, Head, KEY_BYTES, LIST_HEADER, Picture, RESULT_BYTES, TOP, VisionModule};

/// Memory by the device's addresses.
pub trait DeviceMemory {
    /// Reads from an address on; fails where there is no memory.
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), String>;

    /// Writes from an address on; fails where there is no memory.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), String>;
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

fn read(memory: &mut dyn DeviceMemory, address: u64, len: u64) -> Result<Vec<u8>, String> {
    let len = usize::try_from(len).ok().filter(|&n| n <= 1 << 32).ok_or("too much memory")?;
    let mut bytes = vec![0; len];
    memory.read(address, &mut bytes)?;
    Ok(bytes)
}

fn element(bytes: &[u8], dtype: DType, at: u64) -> f32 {
    let at = at as usize * dtype.size();
    match dtype {
        DType::F16 => f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32(),
        _ => f32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")),
    }
}

impl VisionModule {
    /// Runs one of the module's kernels on memory, as a launch with these arguments would.
    pub fn run(
        &self,
        function: &str,
        arguments: &[u64],
        memory: &mut dyn DeviceMemory,
    ) -> Result<(), String> {
        match (function, arguments, &self.head) {
            ("upload", &[host, frame, bytes], _) => {
                let data = read(memory, host, bytes)?;
                memory.write(frame, &data)
            }
            ("preprocess", &[frame, geometry, picture], _) => {
                preprocess(&self.picture, [frame, geometry, picture], memory)
            }
            ("decode", &[output, candidates, threshold, multi], Some(head)) => {
                let threshold = f32::from_bits(threshold as u32);
                Detector::new(head)?.decode([output, candidates], threshold, multi != 0, memory)
            }
            ("suppress", &[output, candidates, results, iou, most, limit], Some(head)) => {
                let iou = f32::from_bits(iou as u32);
                Detector::new(head)?.suppress(
                    [output, candidates, results],
                    iou,
                    most,
                    limit,
                    memory,
                )
            }
            ("top", &[scores, results], Some(Head::Classify { classes, stride, dtype })) => {
                let head = self.head.as_ref().expect("matched just now");
                let bytes = read(memory, scores, head.extent())?;
                let scores = (0..*classes as u64).map(|c| element(&bytes, *dtype, c * stride));
                top(&scores.collect::<Vec<_>>(), results, memory)
            }
            _ => Err(format!("no kernel is {function} with {} arguments", arguments.len())),
        }
    }
}

/// ITU-R BT.601's luma weights.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

fn ycbcr(y: u8, cb: u8, cr: u8) -> [f32; 3] {
    let y = (f32::from(y) - 16.0) * (255.0 / 219.0);
    let (cb, cr) = (f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    let rgb = [y + 1.596_026_8 * cr, y - 0.391_762_3 * cb - 0.812_967_6 * cr, y + 2.017_232_1 * cb];
    rgb.map(|v| v.clamp(0.0, 255.0))
}

/// A frame and what its geometry block says (`tobiuo_engine::picture::geometry`).
struct Frame {
    bytes: Vec<u8>,
    g: Vec<u32>,
}

impl Frame {
    fn at(&self, plane: usize, row: usize, byte: usize) -> u8 {
        let (start, pitch) = match plane {
            0 => (0, self.g[3]),
            1 => (self.g[4], self.g[5]),
            _ => (self.g[6], self.g[7]),
        };
        self.bytes[start as usize + row * pitch as usize + byte]
    }

    fn rgb(&self, x: usize, y: usize) -> [f32; 3] {
        let byte = |i: usize| self.at(0, y, i);
        match self.g[0] {
            0 => [0, 1, 2].map(|c| f32::from(byte(3 * x + c))),
            1 => [2, 1, 0].map(|c| f32::from(byte(3 * x + c))),
            2 => [f32::from(byte(x)); 3],
            3 => ycbcr(byte(2 * x), byte(x / 2 * 4 + 1), byte(x / 2 * 4 + 3)),
            4 => ycbcr(byte(2 * x + 1), byte(x / 2 * 4), byte(x / 2 * 4 + 2)),
            5 => {
                let chroma = |i| self.at(1, y / 2, x / 2 * 2 + i);
                ycbcr(byte(x), chroma(0), chroma(1))
            }
            _ => ycbcr(byte(x), self.at(1, y / 2, x / 2), self.at(2, y / 2, x / 2)),
        }
    }

    /// The network's channel.
    fn channel(&self, channels: Channels, c: usize, x: usize, y: usize) -> f32 {
        let rgb = self.rgb(x, y);
        match channels {
            Channels::Rgb => rgb[c],
            Channels::Bgr => rgb[2 - c],
            Channels::Gray if self.g[0] == 2 => rgb[0],
            Channels::Gray => LUMA[0] * rgb[0] + LUMA[1] * rgb[1] + LUMA[2] * rgb[2],
        }
    }

    /// Bytes of the frame.
    fn len(g: &[u32]) -> u64 {
        let [height, half] = [u64::from(g[2]), u64::from(g[2].div_ceil(2))];
        let plane = |start: u32, pitch: u32, rows: u64| u64::from(start) + u64::from(pitch) * rows;
        let luma = plane(0, g[3], height);
        match g[0] {
            5 => plane(g[4], g[5], half),
            6 => plane(g[6], g[7], half),
            _ => luma,
        }
    }
}

fn preprocess(
    p: &Picture,
    [frame, geometry, picture]: [u64; 3],
    memory: &mut dyn DeviceMemory,
) -> Result<(), String> {
    const TABLES: usize = 32;
    let g = words(&read(memory, geometry, 4 * (TABLES + 2 * (p.width + p.height)) as u64)?);
    let bytes = read(memory, frame, Frame::len(&g))?;
    let frame = Frame { bytes, g };
    let g = &frame.g;
    let mut out = read(memory, picture, p.extent())?;
    let last = [g[1] as usize - 1, g[2] as usize - 1];
    for y in 0..p.height {
        for x in 0..p.width {
            let tap = |at: usize, last: usize| {
                let first = g[at] as usize;
                (first, (first + 1).min(last), f32::from_bits(g[at + 1]))
            };
            let inside = (g[8] as usize..g[9] as usize).contains(&x)
                && (g[10] as usize..g[11] as usize).contains(&y);
            for c in 0..p.stored {
                let scale = |i: usize| f32::from_bits(g[12 + 3 * c + i]);
                let value = if c >= p.channel_count() {
                    0.0
                } else if !inside {
                    scale(2)
                } else {
                    let (x0, x1, wx) = tap(TABLES + 2 * x, last[0]);
                    let (y0, y1, wy) = tap(TABLES + 2 * p.width + 2 * y, last[1]);
                    let at = |x, y| frame.channel(p.channels, c, x, y);
                    let mixed = |a: f32, b: f32, weight: f32| a + (b - a) * weight;
                    let (a, b) =
                        (mixed(at(x0, y0), at(x0, y1), wy), mixed(at(x1, y0), at(x1, y1), wy));
                    mixed(a, b, wx) * scale(0) + scale(1)
                };
                let [sc, sy, sx] = p.strides;
                let at = (c as u64 * sc + y as u64 * sy + x as u64 * sx) as usize * p.dtype.size();
                match p.dtype {
                    DType::F16 => {
                        out[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
                    }
                    _ => out[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
    }
    memory.write(picture, &out)
}

/// A score's bits as an unsigned number, lower for higher scores.
fn score_key(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 1 { bits } else { !bits & 0x7fff_ffff }
}

fn key_score(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key } else { !key & 0x7fff_ffff })
}

struct Detector<'a> {
    head: &'a Head,
    classes: usize,
    anchors: usize,
    strides: [u64; 2],
    dtype: DType,
}

impl Detector<'_> {
    fn new(head: &Head) -> Result<Detector<'_>, String> {
        match *head {
            Head::Detect { classes, anchors, row_stride, anchor_stride, dtype } => {
                Ok(Detector { head, classes, anchors, strides: [row_stride, anchor_stride], dtype })
            }
            Head::Classify { .. } => Err("a classifier has no boxes".into()),
        }
    }

    fn at(&self, output: &[u8], row: usize, anchor: usize) -> f32 {
        let at = row as u64 * self.strides[0] + anchor as u64 * self.strides[1];
        element(output, self.dtype, at)
    }

    fn bounds(&self, output: &[u8], anchor: usize) -> Option<[f32; 4]> {
        let [x, y, w, h] = [0, 1, 2, 3].map(|row| self.at(output, row, anchor));
        let bounds = [x - w * 0.5, y - h * 0.5, x + w * 0.5, y + h * 0.5];
        (w > 0.0 && h > 0.0 && bounds.iter().all(|v| v.is_finite())).then_some(bounds)
    }

    fn decode(
        &self,
        [output, candidates]: [u64; 2],
        threshold: f32,
        multi_label: bool,
        memory: &mut dyn DeviceMemory,
    ) -> Result<(), String> {
        let output = read(memory, output, self.head.extent())?;
        let mut keys = Vec::new();
        for anchor in 0..self.anchors {
            if self.bounds(&output, anchor).is_none() {
                continue;
            }
            let scores = (0..self.classes).map(|c| (c, self.at(&output, 4 + c, anchor)));
            let chosen: Vec<(usize, f32)> = if multi_label {
                scores.collect()
            } else {
                let best = (0, f32::NEG_INFINITY);
                vec![scores.fold(best, |best, s| if s.1 > best.1 { s } else { best })]
            };
            for (class, score) in chosen {
                if score > threshold && score.is_finite() {
                    let low = (anchor * self.classes + class) as u64;
                    keys.push(u64::from(score_key(score)) << 32 | low);
                }
            }
        }
        let mut count = [0; 4];
        memory.read(candidates, &mut count)?;
        let before = u32::from_le_bytes(count);
        let bytes: Vec<u8> = keys.iter().flat_map(|k| k.to_le_bytes()).collect();
        let first = candidates + LIST_HEADER as u64 + u64::from(before) * KEY_BYTES as u64;
        memory.write(first, &bytes)?;
        memory.write(candidates, &(before + keys.len() as u32).to_le_bytes())
    }

    fn suppress(
        &self,
        [output, candidates, results]: [u64; 3],
        iou: f32,
        most: u64,
        limit: u64,
        memory: &mut dyn DeviceMemory,
    ) -> Result<(), String> {
        let output = read(memory, output, self.head.extent())?;
        let found = words(&read(memory, candidates, 4)?)[0];
        let first = candidates + LIST_HEADER as u64;
        let bytes = read(memory, first, u64::from(found) * KEY_BYTES as u64)?;
        let mut keys: Vec<u64> =
            bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
        keys.sort_unstable();
        keys.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut kept: Vec<(usize, [f32; 4])> = Vec::new();
        let mut entries = Vec::new();
        for key in keys {
            if kept.len() as u64 >= most {
                break;
            }
            let low = key as u32 as usize;
            let (anchor, class) = (low / self.classes, low % self.classes);
            let bounds = self.bounds(&output, anchor).ok_or("a candidate without a box")?;
            let hidden =
                |&(other, b): &(usize, [f32; 4])| other == class && overlap(bounds, b) > iou;
            if kept.iter().any(hidden) {
                continue;
            }
            kept.push((class, bounds));
            entries.extend(bounds.map(f32::to_bits));
            entries.extend([
                key_score((key >> 32) as u32).to_bits(),
                class as u32,
                anchor as u32,
                0,
            ]);
        }
        write_results(results, kept.len(), found, &entries, memory)?;
        memory.write(candidates, &[0; 4])
    }
}

fn write_results(
    results: u64,
    count: usize,
    found: u32,
    entries: &[u32],
    memory: &mut dyn DeviceMemory,
) -> Result<(), String> {
    let bytes: Vec<u8> = entries.iter().flat_map(|w| w.to_le_bytes()).collect();
    debug_assert_eq!(bytes.len(), count * RESULT_BYTES);
    let header = [count as u32, found, 0, 0].map(u32::to_le_bytes).concat();
    memory.write(results, &header)?;
    memory.write(results + LIST_HEADER as u64, &bytes)
}

/// Intersection over union.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |b: [f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let both = w * h;
    both / (area(a) + area(b) - both)
}

fn top(scores: &[f32], results: u64, memory: &mut dyn DeviceMemory) -> Result<(), String> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&c| scores[c].is_finite()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).expect("finite"));
    order.truncate(TOP);
    let entry = |&c: &usize| [0, 0, 0, 0, (scores[c] + 0.0).to_bits(), c as u32, 0, 0];
    let entries: Vec<u32> = order.iter().flat_map(entry).collect();
    write_results(results, order.len(), scores.len() as u32, &entries, memory)
}
