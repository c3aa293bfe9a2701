//! The references against the CPU pipeline, which is the oracle of both.

use half::f16;
use tobiuo::detect::{DetectOptions, Detection, Detector, Placement};
use tobiuo_cpu::Preprocessor;
use tobiuo_engine::manifest::{ChannelOrder, Fit, Preprocess};
use tobiuo_engine::picture::{Fitted, PixelFormat, geometry};

use super::*;

/// Regions of memory at made-up addresses.
#[derive(Default)]
struct Regions(Vec<(u64, Vec<u8>)>);

impl Regions {
    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let address = 0x7f00_0000_0000 + 0x1_0000_0000 * self.0.len() as u64;
        self.0.push((address, bytes));
        address
    }

    fn find(&mut self, address: u64, len: usize) -> Result<&mut [u8], String> {
        let region =
            self.0.iter_mut().find(|(at, b)| (*at..=at + b.len() as u64).contains(&address));
        let (at, bytes) = region.ok_or("no memory there")?;
        let from = (address - *at) as usize;
        bytes.get_mut(from..from + len).ok_or("it reaches past the end".into())
    }

    fn of(&self, address: u64) -> &[u8] {
        &self.0.iter().find(|(at, _)| *at == address).unwrap().1
    }
}

impl DeviceMemory for Regions {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), String> {
        into.copy_from_slice(self.find(address, into.len())?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), String> {
        self.find(address, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn unit(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 24) as f32
    }
}

#[test]
fn preprocessing_gives_the_bits_of_the_cpu_device() {
    let mut random = Random(88172645463325252);
    let mut borders = 0;
    for round in 0..400 {
        let format = PixelFormat::ALL[round % 7];
        let even = matches!(format, PixelFormat::Yuyv | PixelFormat::Uyvy);
        let side = |random: &mut Random| 1 + random.below(70) as usize;
        let (mut width, height) = (side(&mut random), side(&mut random));
        width += usize::from(even && width % 2 == 1);
        let (in_w, in_h) = (side(&mut random), side(&mut random));
        let (order, channels) = [
            (ChannelOrder::Rgb, Channels::Rgb),
            (ChannelOrder::Bgr, Channels::Bgr),
            (ChannelOrder::Gray, Channels::Gray),
        ][random.below(3) as usize];
        let count = if channels == Channels::Gray { 1 } else { 3 };
        let settings = Preprocess {
            input: 0,
            fit: [Fit::Letterbox, Fit::Stretch, Fit::CenterCrop][random.below(3) as usize],
            pad_value: random.below(256) as u8,
            channels: order,
            mean: (0..count).map(|_| random.unit()).collect(),
            std: (0..count).map(|_| 0.1 + random.unit()).collect(),
        };
        let bytes = format.frame_bytes(width, height).unwrap();
        let frame: Vec<u8> = (0..bytes).map(|_| random.below(256) as u8).collect();
        let input = [count, in_h, in_w];
        let mut cpu = Preprocessor::new(format, width, height, input, &settings).unwrap();
        let mut want = vec![0.0; cpu.input_len()];
        cpu.run(&frame, &mut want).unwrap();
        let dtype = [DType::F16, DType::F32][random.below(2) as usize];
        let (strides, stored) = if random.below(3) == 0 {
            ([in_h * in_w, in_w, 1], count)
        } else {
            let stored = [4, 8][random.below(2) as usize];
            let pitch = stored + [0, 8][random.below(2) as usize];
            ([1, in_w * pitch, pitch], stored)
        };
        let picture = Picture {
            channels,
            height: in_h,
            width: in_w,
            dtype,
            strides: strides.map(|s| s as u64),
            stored,
            aligned: true,
        };
        let fitted = Fitted::new(width, height, input, &settings).unwrap();
        borders += usize::from(fitted.rows.len() < in_h || fitted.columns.len() < in_w);
        let mut memory = Regions::default();
        let frame = memory.add(frame);
        let block = memory.add(geometry(&fitted, format, [width, height], [in_w, in_h]));
        let extent = picture.extent() as usize;
        let out = memory.add(vec![0x5a; extent]);
        let module = VisionModule { picture, head: None };
        module.run("preprocess", &[frame, block, out], &mut memory).unwrap();
        let got = memory.of(out);
        let mut written = vec![false; extent];
        for c in 0..stored {
            for y in 0..in_h {
                for x in 0..in_w {
                    let at = (c * strides[0] + y * strides[1] + x * strides[2]) * dtype.size();
                    let value = if c < count { want[(c * in_h + y) * in_w + x] } else { 0.0 };
                    let want = match dtype {
                        DType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
                        _ => value.to_le_bytes().to_vec(),
                    };
                    assert_eq!(got[at..at + dtype.size()], want, "{format:?} {round}: {c} {y} {x}");
                    written[at..at + dtype.size()].fill(true);
                }
            }
        }
        let untouched = written.iter().zip(got).all(|(&w, &b)| w || b == 0x5a);
        assert!(untouched, "what lies between the pixels stays");
    }
    assert!(borders > 50, "{borders} with a border");
}

/// A detector's output with clusters of overlapping boxes, values that are none, and scores
/// with ties.
fn detector_output(random: &mut Random, classes: usize, anchors: usize) -> Vec<f32> {
    let mut output = vec![0.0; (4 + classes) * anchors];
    for a in 0..anchors {
        let centre = |random: &mut Random| random.below(8) as f32 * 40.0 + random.unit() * 12.0;
        output[a] = centre(random);
        output[anchors + a] = centre(random);
        output[2 * anchors + a] = 10.0 + random.unit() * 40.0;
        output[3 * anchors + a] = 10.0 + random.unit() * 40.0;
        match random.below(40) {
            0 => output[2 * anchors + a] = f32::NAN,
            1 => output[3 * anchors + a] = -1.0,
            2 => output[a] = f32::INFINITY,
            _ => {}
        }
        for c in 0..classes {
            output[(4 + c) * anchors + a] = match random.below(60) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2..=10 => 0.75,
                11 => -0.0,
                _ => random.unit(),
            };
        }
    }
    output
}

#[test]
fn boxes_are_those_of_the_cpu_device_in_its_order() {
    let mut random = Random(362436069123456789);
    let mut suppressed = 0;
    for round in 0..60 {
        let classes = 1 + random.below(6) as usize;
        let anchors = 1 + random.below(if round % 10 == 0 { 3000 } else { 300 }) as usize;
        let f32s = detector_output(&mut random, classes, anchors);
        let transposed = random.below(2) == 1;
        let rows = 4 + classes;
        let mut laid = f32s.clone();
        if transposed {
            laid = (0..f32s.len()).map(|i| f32s[i % rows * anchors + i / rows]).collect();
        }
        let dtype = [DType::F16, DType::F32][random.below(2) as usize];
        if dtype == DType::F16 {
            laid.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32());
        }
        let options = DetectOptions {
            score_threshold: [0.0, 0.5, 0.9][random.below(3) as usize],
            iou_threshold: [0.3, 0.7][random.below(2) as usize],
            max_detections: [3, 50, 100_000][random.below(3) as usize],
            multi_label: random.below(2) == 1,
        };
        let mut cpu = Detector::new(classes, anchors, transposed, options);
        let frame = Placement::identity(400, 400);
        let mut want = Vec::new();
        cpu.decode(&laid, &frame, &mut want);
        let (row_stride, anchor_stride) =
            if transposed { (1, rows as u64) } else { (anchors as u64, 1) };
        let head = Head::Detect { classes, anchors, row_stride, anchor_stride, dtype };
        let mut memory = Regions::default();
        let bytes = laid.iter().flat_map(|&v| match dtype {
            DType::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        });
        let output = memory.add(bytes.collect());
        assert_eq!(memory.of(output).len() as u64, head.extent());
        let candidates = memory.add(vec![0; LIST_HEADER + KEY_BYTES * anchors * classes]);
        let most = cpu.options().max_detections;
        let results = memory.add(vec![0xee; LIST_HEADER + RESULT_BYTES * most]);
        let picture = Picture {
            channels: Channels::Rgb,
            height: 8,
            width: 8,
            dtype: DType::F32,
            strides: [64, 8, 1],
            stored: 3,
            aligned: true,
        };
        let module = VisionModule { picture, head: Some(head) };
        let bits = |v: f32| u64::from(v.to_bits());
        let arguments =
            [output, candidates, bits(options.score_threshold), u64::from(options.multi_label)];
        module.run("decode", &arguments, &mut memory).unwrap();
        let arguments =
            [output, candidates, results, bits(options.iou_threshold), most as u64, 30_000];
        module.run("suppress", &arguments, &mut memory).unwrap();
        assert_eq!(memory.of(candidates)[..4], [0; 4], "ready for the next run");
        let words: Vec<u32> =
            memory.of(results).as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let mut got = Vec::new();
        for entry in words[4..].chunks(8).take(words[0] as usize) {
            let bounds = [0, 1, 2, 3].map(|i| f32::from_bits(entry[i]));
            let [left, top, right, bottom] = frame.to_frame(bounds);
            if left < right && top < bottom {
                let (score, class) = (f32::from_bits(entry[4]), entry[5]);
                got.push(Detection { class, score, left, top, right, bottom });
            }
        }
        assert_eq!(got, want, "round {round}: {options:?}");
        suppressed += words[1] as usize - words[0] as usize;
    }
    assert!(suppressed > 1000, "{suppressed}");
}

#[test]
fn the_best_classes_come_first() {
    let scores = [0.1f32, 0.5, f32::INFINITY, 0.5, -1.0, 0.9, 0.2, f32::NAN, 0.05];
    let mut memory = Regions::default();
    let bytes = scores.iter().flat_map(|s| s.to_le_bytes()).collect();
    let input = memory.add(bytes);
    let results = memory.add(vec![0xee; LIST_HEADER + RESULT_BYTES * TOP]);
    let picture = Picture {
        channels: Channels::Gray,
        height: 1,
        width: 1,
        dtype: DType::F16,
        strides: [1; 3],
        stored: 1,
        aligned: false,
    };
    let head = Some(Head::Classify { classes: scores.len(), stride: 1, dtype: DType::F32 });
    VisionModule { picture, head }.run("top", &[input, results], &mut memory).unwrap();
    let words: Vec<u32> =
        memory.of(results).as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    assert_eq!(words[..2], [5, 9]);
    let classes: Vec<u32> = words[4..].chunks(8).map(|e| e[5]).collect();
    assert_eq!(classes, [5, 1, 3, 6, 0]);
    assert_eq!(f32::from_bits(words[8]), 0.9);
}
