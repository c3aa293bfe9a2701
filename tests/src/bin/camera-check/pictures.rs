//! Frames into pictures.

use std::error::Error;

use serde_json::{Value, json};
use tobiuo_engine::picture::{Fitted, PixelFormat, geometry};
use tobiuo_engine::{ChannelOrder, Fit, Preprocess};
use tobiuo_gpu::{HostBuffer, PageLock, UploadWay, Uploader};
use tobiuo_kernels::vision::{Channels, Picture, VisionModule};
use tobiuo_tensor::DType;

use crate::Tally;
use crate::device::Device;
use crate::random::Random;

fn settings(random: &mut Random, channels: ChannelOrder) -> Preprocess {
    let count = if channels == ChannelOrder::Gray { 1 } else { 3 };
    Preprocess {
        input: 0,
        fit: random.of(&[Fit::Letterbox, Fit::Stretch, Fit::CenterCrop]),
        pad_value: random.below(256) as u8,
        channels,
        mean: (0..count).map(|_| random.unit()).collect(),
        std: (0..count).map(|_| 0.1 + random.unit()).collect(),
    }
}

fn module(
    channels: ChannelOrder,
    [in_w, in_h]: [usize; 2],
    dtype: DType,
    stored: usize,
    pitch: usize,
) -> VisionModule {
    let planar = stored < 4;
    let strides =
        if planar { [in_h * in_w, in_w, 1] } else { [1, in_w * pitch, pitch] }.map(|s| s as u64);
    let channels = match channels {
        ChannelOrder::Rgb => Channels::Rgb,
        ChannelOrder::Bgr => Channels::Bgr,
        ChannelOrder::Gray => Channels::Gray,
    };
    let picture =
        Picture { channels, height: in_h, width: in_w, dtype, strides, stored, aligned: true };
    VisionModule { picture, head: None }
}

/// A module with random settings, on frames of every format and three sizes.
pub fn check(
    device: &Device,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let order = random.of(&[ChannelOrder::Rgb, ChannelOrder::Bgr, ChannelOrder::Gray]);
    let count = if order == ChannelOrder::Gray { 1 } else { 3 };
    let size = [1 + random.below(300), 1 + random.below(200)];
    let dtype = random.of(&[DType::F16, DType::F32]);
    let stored = random.of(&[count, 4, 8]);
    let pitch = stored + random.of(&[0, 8]);
    let loaded = device.load(module(order, size, dtype, stored, pitch))?;
    for format in PixelFormat::ALL {
        for _ in 0..3 {
            let [most_w, most_h] = random.of(&[[50, 50], [400, 300], [1500, 900]]);
            let mut width = 1 + random.below(most_w);
            let height = 1 + random.below(most_h);
            if matches!(format, PixelFormat::Yuyv | PixelFormat::Uyvy) {
                width += width % 2;
            }
            let settings = settings(random, order);
            let bytes = format.frame_bytes(width, height).ok_or("a frame")?;
            let frame: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
            let fitted = Fitted::new(width, height, [count, size[1], size[0]], &settings)?;
            let mut twins = device.twins();
            // The frame comes through the upload kernel, out of mapped host memory.
            let uploaded = twins.add(vec![0xa5; bytes])?;
            let mut host = HostBuffer::new(bytes);
            host.copy_from_slice(&frame);
            let lock = PageLock::new(&device.context, &host)?;
            let mut uploader = Uploader::new(&device.context)?;
            let (function, launch) = loaded.function(&loaded.module.upload())?;
            let way = UploadWay::Kernel(&function, launch);
            let to = twins.slice(uploaded);
            uploader.start(host, Some(&lock), bytes, &to, &way, &device.stream)?;
            uploader.take_back().1?;
            let what =
                |name: &str| format!("{name} {format:?} {width}x{height}: {:?}", loaded.module);
            tally.note(|| what("upload"), twins.both(uploaded)?[0] == frame);
            let frame = twins.add(frame)?;
            let block = twins.add(geometry(&fitted, format, [width, height], size))?;
            let extent = loaded.module.picture.extent() as usize;
            let out = twins.add((0..extent).map(|i| i as u8).collect())?;
            twins.run(&loaded, &loaded.module.preprocess(), &[frame, block, out])?;
            let [got, want] = twins.both(out)?;
            tally.note(|| what("preprocess"), got == want);
        }
    }
    Ok(())
}

/// Microseconds for usual cameras and networks.
pub fn times(device: &Device) -> Result<Vec<(String, Value)>, Box<dyn Error>> {
    let mut out = Vec::new();
    let loaded = device.load(module(ChannelOrder::Rgb, [640, 640], DType::F16, 4, 4))?;
    let settings = Preprocess {
        input: 0,
        fit: Fit::Letterbox,
        pad_value: 114,
        channels: ChannelOrder::Rgb,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
    };
    for (width, height) in [(640, 480), (1280, 720), (1920, 1080)] {
        for format in PixelFormat::ALL {
            let bytes = format.frame_bytes(width, height).ok_or("a frame")?;
            let fitted = Fitted::new(width, height, [3, 640, 640], &settings)?;
            let mut twins = device.twins();
            let frame = twins.add(vec![90; bytes])?;
            let block = twins.add(geometry(&fitted, format, [width, height], [640, 640]))?;
            let picture = twins.add(vec![0; loaded.module.picture.extent() as usize])?;
            let launch = (loaded.module.preprocess(), vec![frame, block, picture]);
            let us = twins.time(&loaded, &[launch])?;
            let host = HostBuffer::new(bytes);
            let lock = PageLock::new(&device.context, &host)?;
            let (function, launch) = loaded.function(&loaded.module.upload())?;
            let to = twins.slice(frame);
            let mut uploader = Uploader::new(&device.context)?;
            let mut host = Some(host);
            let mut way_us = [0.0; 2];
            let ways = [UploadWay::Copy, UploadWay::Kernel(&function, launch)];
            for (way, us) in ways.iter().zip(&mut way_us) {
                let begin = tobiuo_gpu::Event::timed(&device.context)?;
                let end = tobiuo_gpu::Event::timed(&device.context)?;
                let mut runs = Vec::new();
                for _ in 0..15 {
                    let buffer = host.take().ok_or("a buffer")?;
                    begin.record(&device.stream)?;
                    uploader.start(buffer, Some(&lock), bytes, &to, way, &device.stream)?;
                    end.record(&device.stream)?;
                    end.synchronize()?;
                    host = uploader.take_back().0;
                    runs.push(begin.microseconds_to(&end)?);
                }
                runs.sort_by(f64::total_cmp);
                *us = runs[runs.len() / 2];
            }
            let name = format!("{format:?} {width}x{height} to 640x640 f16");
            let [copy, kernel] = way_us;
            let value = json!({ "preprocess": us, "upload": copy, "upload_mapped": kernel });
            out.push((name, value));
        }
    }
    Ok(out)
}
