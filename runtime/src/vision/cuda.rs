//! All of a frame's work on a CUDA device.

use tobiuo_capture::{FrameFormat, PixelFormat};
use tobiuo_cuda::{BoxChoice, Camera, CameraOptions, FrameSize, Slot};
use tobiuo_engine::manifest::Task;
use tobiuo_engine::picture;
use tobiuo_gpu::HostBuffer;

use super::{DetectOverrides, StageTimes};
use crate::context::ContextOptions;
use crate::detect::{DetectOptions, Detection, Placement};
use crate::pipeline::Classification;
use crate::{Engine, Error, ErrorKind};

/// An engine that looks at frames on a CUDA device.
pub(crate) struct CudaVision {
    engine: Engine,
    context: ContextOptions,
    overrides: DetectOverrides,
    /// `None` only while it is made anew.
    camera: Option<Camera>,
    /// For one frame at a time: a slot and the frame's memory.
    single: Option<(Slot, HostBuffer)>,
}

impl CudaVision {
    /// `None` for an engine of another device, and for one without kernels for frames.
    pub fn new(
        engine: &Engine,
        context: &ContextOptions,
        overrides: DetectOverrides,
    ) -> Result<Option<CudaVision>, Error> {
        let camera = camera(engine, context, overrides)?;
        Ok(camera.map(|camera| CudaVision {
            engine: engine.clone(),
            context: context.clone(),
            overrides,
            camera: Some(camera),
            single: None,
        }))
    }

    /// The device's side.
    pub fn camera(&mut self) -> &mut Camera {
        self.camera.as_mut().expect("it is there but while it is made anew")
    }

    fn shared(&self) -> &Camera {
        self.camera.as_ref().expect("it is there but while it is made anew")
    }

    /// Slots for frames of up to so many bytes.
    pub fn slots(&self, count: usize, frame_bytes: usize) -> Result<Vec<Slot>, Error> {
        (0..count).map(|i| Ok(self.shared().slot(i, frame_bytes)?)).collect()
    }

    /// Makes the context, the engine's upload and all else anew, after the device was lost. All
    /// slots have been dropped.
    pub fn rebuild(&mut self) -> Result<(), Error> {
        self.single = None;
        self.camera = None;
        self.engine.reset_device();
        let made = camera(&self.engine, &self.context, self.overrides)?;
        let gone = || Error::new(ErrorKind::Other, "the engine's kernels for frames are gone");
        self.camera = Some(made.ok_or_else(gone)?);
        Ok(())
    }

    /// What it runs on, for people.
    pub fn device(&self) -> String {
        let camera = self.shared();
        let info = camera.context().device();
        let (major, minor) = info.compute;
        let path = if camera.is_integrated() { ", mapped host memory" } else { "" };
        format!("cuda:{} ({}, sm_{major}{minor}{path})", info.ordinal, info.name)
    }

    /// Most detections or classes of one frame.
    pub fn max_results(&self) -> usize {
        self.shared().max_results()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match &self.engine.manifest().task {
            Task::Detect(detect) => detect.classes,
            Task::Classify { output } => {
                self.engine.outputs()[*output].shape.iter().skip(1).product()
            }
            _ => 0,
        }
    }

    /// Looks at one frame and waits.
    pub fn run(
        &mut self,
        format: FrameFormat,
        pixels: &[u8],
        detections: &mut Vec<Detection>,
        classes: &mut Vec<Classification>,
    ) -> Result<StageTimes, Error> {
        let (mut slot, mut frame) = match self.single.take() {
            Some(single) => single,
            None => (self.shared().slot(0, pixels.len())?, HostBuffer::default()),
        };
        if frame.len() < pixels.len() {
            frame = HostBuffer::new(pixels.len());
            self.camera().adopt(&frame)?;
        }
        frame[..pixels.len()].copy_from_slice(pixels);
        let submitted = self.camera().submit(&mut slot, frame, frame_size(format));
        let (frame, times) = slot.finish();
        submitted?;
        let times = times?;
        read(&slot, format, &self.engine.manifest().task, detections, classes);
        self.single = frame.map(|frame| (slot, frame));
        Ok(StageTimes {
            upload: times.upload,
            preprocess: times.preprocess,
            network: times.network,
            postprocess: times.decode,
            download: times.download,
        })
    }
}

fn camera(
    engine: &Engine,
    context: &ContextOptions,
    overrides: DetectOverrides,
) -> Result<Option<Camera>, Error> {
    let manifest = engine.manifest();
    let (Some(loaded), Some(preprocess)) = (engine.loaded().cuda(), &manifest.preprocess) else {
        return Ok(None);
    };
    let choice = match &manifest.task {
        Task::Detect(detect) => {
            let o = overrides.apply(DetectOptions::from(detect));
            Some(BoxChoice {
                score_threshold: o.score_threshold,
                iou_threshold: o.iou_threshold,
                max_detections: o.max_detections,
                multi_label: o.multi_label,
            })
        }
        Task::Classify { .. } => None,
        _ => return Ok(None),
    };
    // The smallest plan: plans ascend.
    let plan = loaded.plan(0, context.device)?;
    let options = CameraOptions { memory: context.memory.into(), choice };
    Ok(Camera::new(&plan, preprocess, &manifest.task, &options)?)
}

/// A frame's format as the device's side has it.
pub(crate) fn frame_size(format: FrameFormat) -> FrameSize {
    use picture::PixelFormat as To;
    let to = match format.pixel {
        PixelFormat::Rgb8 => To::Rgb8,
        PixelFormat::Bgr8 => To::Bgr8,
        PixelFormat::Gray8 => To::Gray8,
        PixelFormat::Yuyv => To::Yuyv,
        PixelFormat::Uyvy => To::Uyvy,
        PixelFormat::Nv12 => To::Nv12,
        PixelFormat::I420 => To::I420,
    };
    FrameSize { format: to, width: format.width as usize, height: format.height as usize }
}

/// What a slot's finished work found, as detections in pixels of the frame or as classes.
/// Allocates nothing when there is room for it.
pub(crate) fn read(
    slot: &Slot,
    format: FrameFormat,
    task: &Task,
    detections: &mut Vec<Detection>,
    classes: &mut Vec<Classification>,
) {
    detections.clear();
    classes.clear();
    if !matches!(task, Task::Detect(_)) {
        classes.extend(slot.found().map(|f| Classification { class: f.class, score: f.score }));
        return;
    }
    let p = slot.placement();
    let placement = Placement {
        scale_x: p.scale_x,
        scale_y: p.scale_y,
        offset_x: p.offset_x,
        offset_y: p.offset_y,
        frame_width: format.width,
        frame_height: format.height,
    };
    for found in slot.found() {
        let [left, top, right, bottom] = placement.to_frame(found.bounds);
        if left < right && top < bottom {
            let (class, score) = (found.class, found.score);
            detections.push(Detection { class, score, left, top, right, bottom });
        }
    }
}
