//! Frames through a plan: upload, preprocessing, network, results, overlapping from frame to
//! frame.
//!
//! Three streams: uploads, compute, downloads. Each slot has its frame, its results and a graph
//! (preprocessing, network, decoding and suppression) of its own, so that the upload of one frame
//! and the download of another's results go on beside the compute of a third. The graphs of all
//! slots follow one another on the compute stream and share one arena: run side by side they
//! would gain little (a network fills the device but for its ends), take the activations' memory
//! twice, and let each frame wait for two.

use std::sync::Arc;
use std::time::Duration;

use tobiuo_engine::picture::{self, Fitted, PixelFormat, Placement};
use tobiuo_engine::{CudaKernel, CudaVision, Preprocess, Task};
use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, Event, Function, GpuError, Graph, HostBuffer,
    KernelArgument, Launch, PageLock, PinnedBuffer, PinnedId, Stream, UploadWay, Uploader,
};

use crate::engine::CudaPlan;
use crate::executor::{CudaExecutor, ExecutorOptions, MemoryPath};

/// Boxes that enter the suppression; of more, the best stay. The figure is Ultralytics'.
const MAX_CANDIDATES: u64 = 30_000;
/// Classes that are reported for a picture.
const TOP_CLASSES: usize = 5;
/// Bytes in front of candidates and of results, of a candidate, of a result.
const HEADER: usize = 16;
const CANDIDATE: usize = 8;
const RESULT: usize = 32;

/// How boxes are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxChoice {
    /// Boxes with a score not above this are dropped.
    pub score_threshold: f32,
    /// Of two boxes of one class that overlap by more, the lower scored is dropped.
    pub iou_threshold: f32,
    /// At most this many boxes are kept.
    pub max_detections: usize,
    /// Every class above the threshold makes a box, not only an anchor's best.
    pub multi_label: bool,
}

/// What the network found on a frame: a box, or a class of the whole picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Left, top, right, bottom in pixels of the network's input; zeros for a class alone.
    pub bounds: [f32; 4],
    /// The score.
    pub score: f32,
    /// The class.
    pub class: u32,
}

/// A frame's layout and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSize {
    /// How its bytes are laid out.
    pub format: PixelFormat,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// When the parts of a frame's work began and ended, by the device's clock, microseconds from
/// the camera's beginning (a clock whose steps grow with the time since then).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceSpans {
    /// From the host to the device.
    pub upload: [f64; 2],
    /// From the frame to the picture.
    pub preprocess: [f64; 2],
    /// The network.
    pub network: [f64; 2],
    /// From its output to results.
    pub decode: [f64; 2],
    /// Results to the host.
    pub download: [f64; 2],
}

/// How long the parts took on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DeviceTimes {
    pub upload: Duration,
    pub preprocess: Duration,
    pub network: Duration,
    pub decode: Duration,
    pub download: Duration,
}

/// Points of a slot's work.
struct Events {
    begin: Event,
    uploaded: Event,
    start: Event,
    prepared: Arc<Event>,
    ran: Arc<Event>,
    computed: Event,
    fetch: Event,
    done: Arc<Event>,
}

impl Events {
    fn new(context: &Context) -> Result<Events, GpuError> {
        let event = || Event::timed(context);
        Ok(Events {
            begin: event()?,
            uploaded: event()?,
            start: event()?,
            prepared: Arc::new(event()?),
            ran: Arc::new(event()?),
            computed: event()?,
            fetch: event()?,
            done: Arc::new(event()?),
        })
    }

    /// Begin and end of upload, preprocessing, network, decoding, download.
    fn parts(&self) -> [[&Event; 2]; 5] {
        [
            [&self.begin, &self.uploaded],
            [&self.start, &self.prepared],
            [&self.prepared, &self.ran],
            [&self.ran, &self.computed],
            [&self.fetch, &self.done],
        ]
    }
}

/// One frame's place on the device.
pub struct Slot {
    index: usize,
    events: Events,
    origin: Arc<Event>,
    uploader: Uploader,
    frame: DeviceSlice,
    geometry: DeviceSlice,
    results: DeviceSlice,
    graph: Graph,
    download: CommandList,
    fetched: PinnedId,
    most: usize,
    size: Option<FrameSize>,
    placement: Placement,
}

/// The kernels of the module, with their launches.
struct Kernels {
    upload: (Function, Launch),
    preprocess: (Function, Launch),
    decode: Option<(Function, Launch)>,
    select: (Function, Launch),
}

/// A plan that looks at frames, with all its memory on the device.
pub struct Camera {
    executor: CudaExecutor,
    vision: CudaVision,
    settings: Preprocess,
    /// Channels, height, width.
    input: [usize; 3],
    choice: Option<BoxChoice>,
    kernels: Kernels,
    candidates: DeviceSlice,
    results: usize,
    uploads: Stream,
    compute: Stream,
    downloads: Stream,
    origin: Arc<Event>,
    locks: Vec<PageLock>,
    integrated: bool,
    /// Slots that were made anew for larger frames, and host buffers that came later.
    late: usize,
}

/// What a [`Camera`] is made for.
#[derive(Clone, Debug)]
pub struct CameraOptions {
    /// How frames get to the device.
    pub memory: MemoryPath,
    /// How boxes are chosen; of no meaning for a classifier.
    pub choice: Option<BoxChoice>,
}

fn launch(kernel: &CudaKernel) -> Launch {
    Launch { grid: kernel.grid, block: kernel.block, shared: 0, dependent: false }
}

impl Camera {
    /// Takes all memory but the slots'; `None` when the plan has no kernels for frames.
    pub fn new(
        plan: &CudaPlan,
        settings: &Preprocess,
        task: &Task,
        options: &CameraOptions,
    ) -> Result<Option<Camera>, GpuError> {
        let program = plan.program();
        let (Some(vision), Some(functions)) = (&program.vision, plan.vision()) else {
            return Ok(None);
        };
        let shape = |t: u32| &plan.plan().tensors[t as usize].shape[..];
        let &[_, channels, height, width] = shape(plan.plan().inputs[settings.input]) else {
            return Ok(None);
        };
        let mut most_candidates = 0;
        let (choice, results) = match task {
            Task::Detect(detect) => {
                let &[_, a, b] = shape(plan.plan().outputs[detect.output]) else {
                    return Ok(None);
                };
                let anchors = if detect.transposed { a } else { b };
                let mut choice = options.choice.unwrap_or(BoxChoice {
                    score_threshold: detect.score_threshold,
                    iou_threshold: detect.iou_threshold,
                    max_detections: detect.max_detections,
                    multi_label: false,
                });
                choice.max_detections = choice.max_detections.clamp(1, MAX_CANDIDATES as usize);
                most_candidates = anchors * if choice.multi_label { detect.classes } else { 1 };
                (Some(choice), choice.max_detections)
            }
            Task::Classify { .. } => (None, TOP_CLASSES),
            _ => return Ok(None),
        };
        let context = plan.engine().context();
        let integrated = options.memory.is_integrated(context);
        if integrated && !context.device().can_map_host {
            return Err(GpuError::other(format!(
                "{} cannot map host memory, which the integrated memory path needs",
                context.device().name
            )));
        }
        let decode = vision.head.decode.as_ref().map(launch);
        let kernels = Kernels {
            upload: (functions.upload.clone(), launch(&vision.upload)),
            preprocess: (functions.preprocess.clone(), launch(&vision.preprocess)),
            decode: functions.decode.clone().zip(decode),
            select: (functions.select.clone(), launch(&vision.head.select)),
        };
        let executor = CudaExecutor::new(plan, &ExecutorOptions::default().staging(false))?;
        let candidates = DeviceBuffer::new(context, HEADER + CANDIDATE * most_candidates)
            .map_err(|e| e.at("candidate boxes"))?;
        let uploads = Stream::new(context)?;
        candidates.fill(0, HEADER, 0, &uploads)?;
        let origin = Arc::new(Event::timed(context)?);
        origin.record(&uploads)?;
        uploads.synchronize()?;
        Ok(Some(Camera {
            vision: vision.clone(),
            settings: settings.clone(),
            input: [channels, height, width],
            choice,
            kernels,
            candidates: candidates.whole(),
            results,
            uploads,
            compute: Stream::with_high_priority(context)?,
            downloads: Stream::new(context)?,
            origin,
            locks: Vec::new(),
            integrated,
            late: 0,
            executor,
        }))
    }

    /// The device's context.
    pub fn context(&self) -> &Context {
        self.compute.context()
    }

    /// True when frames are read through mapped memory.
    pub fn is_integrated(&self) -> bool {
        self.integrated
    }

    /// Most results of a frame.
    pub fn max_results(&self) -> usize {
        self.results
    }

    /// Allocations that frames larger than expected, or memory that came later, have caused.
    pub fn late_allocations(&self) -> usize {
        self.late
    }

    /// Marks the device's time 0 anew; the work of all slots has ended. The host's clock is to be
    /// read right after it.
    pub fn mark_origin(&self) -> Result<(), GpuError> {
        self.origin.record(&self.uploads)?;
        self.uploads.synchronize()
    }

    /// A slot for frames of up to so many bytes.
    pub fn slot(&self, index: usize, frame_bytes: usize) -> Result<Slot, GpuError> {
        let context = self.context();
        let what = |name: &str| format!("{name} of slot {index}");
        let memory = |bytes: usize, name: &str| {
            DeviceBuffer::new(context, bytes).map(|b| b.whole()).map_err(|e| e.at(what(name)))
        };
        let [_, height, width] = self.input;
        let frame = memory(frame_bytes.max(1), "the frame")?;
        let geometry = memory(picture::geometry_bytes(width, height), "the geometry")?;
        let bytes = HEADER + RESULT * self.results;
        let results = memory(bytes, "the results")?;
        results.write(&vec![0; bytes], &self.uploads)?;
        let events = Events::new(context)?;
        let mut download = CommandList::new(context)?;
        let fetched = download.pin(PinnedBuffer::new(context, bytes)?);
        download.download(&results, fetched, 0)?;
        // In front of the list's own mark, which is what is waited for.
        download.record(&events.done)?;
        let graph = self.capture([&frame, &geometry, &results], &events)?;
        Ok(Slot {
            index,
            origin: self.origin.clone(),
            uploader: Uploader::new(context)?,
            events,
            frame,
            geometry,
            results,
            graph,
            download,
            fetched,
            most: self.results,
            size: None,
            placement: Placement { scale_x: 1.0, scale_y: 1.0, offset_x: 0.0, offset_y: 0.0 },
        })
    }

    /// Preprocessing, network, results, as one graph.
    fn capture(
        &self,
        [frame, geometry, results]: [&DeviceSlice; 3],
        events: &Events,
    ) -> Result<Graph, GpuError> {
        let memory = |slice: &DeviceSlice| KernelArgument::Memory(slice.clone());
        let place = |argument| {
            let slice = self.executor.slice(argument)?;
            slice.map(KernelArgument::Memory).ok_or_else(|| GpuError::other("a null pointer"))
        };
        let mut list = CommandList::new(self.context())?;
        let add =
            |list: &mut CommandList, (function, launch): &(Function, Launch), arguments: &[_]| {
                list.launch(function, *launch, arguments, 0, &[]).map(|_| ())
            };
        let picture = place(&self.vision.picture)?;
        add(&mut list, &self.kernels.preprocess, &[memory(frame), memory(geometry), picture])?;
        list.record(&events.prepared)?;
        let replaced = &self.vision.replaces;
        self.executor.append_launches(&mut list, &|i| !replaced.contains(&(i as u32)))?;
        list.record(&events.ran)?;
        let output = place(&self.vision.head.output)?;
        match (&self.kernels.decode, &self.choice) {
            (Some(decode), Some(choice)) => {
                let bits = |v: f32| KernelArgument::Value(v.to_bits().into());
                let candidates = memory(&self.candidates);
                let threshold = bits(choice.score_threshold);
                let multi = KernelArgument::Value(choice.multi_label.into());
                add(&mut list, decode, &[output.clone(), candidates.clone(), threshold, multi])?;
                let select = (
                    self.kernels.select.0.clone(),
                    Launch {
                        dependent: self.context().dependent_launch(),
                        ..self.kernels.select.1
                    },
                );
                let [most, limit] = [choice.max_detections as u64, MAX_CANDIDATES];
                let [most, limit] = [most, limit].map(KernelArgument::Value);
                let iou = bits(choice.iou_threshold);
                add(&mut list, &select, &[output, candidates, memory(results), iou, most, limit])?;
            }
            _ => add(&mut list, &self.kernels.select, &[output, memory(results)])?,
        }
        let mut graph = list.capture().map_err(|e| e.at("capturing a slot's work"))?;
        graph.upload(&self.compute)?;
        self.compute.synchronize()?;
        Ok(graph)
    }

    /// Locks a buffer that frames will come in, and maps it into the device.
    pub fn adopt(&mut self, buffer: &HostBuffer) -> Result<(), GpuError> {
        self.locks.retain(|lock| !lock.is_orphan());
        match PageLock::new(self.context(), buffer) {
            Ok(lock) => {
                self.locks.push(lock);
                Ok(())
            }
            Err(e) if self.integrated => Err(e.at("host memory of a frame")),
            Err(e) => {
                log::warn!("{e}; frames take a copy more");
                Ok(())
            }
        }
    }

    /// Queues a frame's work in an idle slot. The frame's memory is held by the slot until
    /// [`Slot::finish`], also when this fails. Allocates nothing, but for frames of another
    /// size, and for memory that was not [`adopt`](Self::adopt)ed.
    pub fn submit(
        &mut self,
        slot: &mut Slot,
        frame: HostBuffer,
        size: FrameSize,
    ) -> Result<(), GpuError> {
        let bytes = size.format.frame_bytes(size.width, size.height).unwrap_or(usize::MAX);
        if slot.size != Some(size) {
            let prepared = self.prepare(slot, size, bytes);
            if let Err(e) = prepared {
                slot.uploader.hold(frame);
                return Err(e);
            }
        }
        if !self.locks.iter().any(|lock| lock.is_of(&frame)) {
            self.late += 1;
            log::debug!("slot {}: a frame in memory that is new", slot.index);
            if let Err(e) = self.adopt(&frame) {
                slot.uploader.hold(frame);
                return Err(e);
            }
        }
        let lock = self.locks.iter().find(|lock| lock.is_of(&frame));
        let (function, launch) = &self.kernels.upload;
        let way = match self.integrated {
            true => UploadWay::Kernel(function, *launch),
            false => UploadWay::Copy,
        };
        let (events, uploads, compute) = (&slot.events, &self.uploads, &self.compute);
        let begun = events.begin.record(uploads);
        let started = slot.uploader.start(frame, lock, bytes, &slot.frame, &way, uploads);
        begun.and(started)?;
        events.uploaded.record(uploads)?;
        compute.wait(&events.uploaded)?;
        events.start.record(compute)?;
        slot.graph.launch(compute)?;
        events.computed.record(compute)?;
        self.downloads.wait(&events.computed)?;
        events.fetch.record(&self.downloads)?;
        slot.download.enqueue(&self.downloads)
    }

    /// Makes an idle slot ready for frames of another size.
    fn prepare(&mut self, slot: &mut Slot, size: FrameSize, bytes: usize) -> Result<(), GpuError> {
        let FrameSize { format, width, height } = size;
        let fitted = Fitted::new(width, height, self.input, &self.settings);
        let fitted = fitted.map_err(GpuError::other)?;
        let (Ok(_), true) = (u32::try_from(bytes), bytes < usize::MAX) else {
            let what = format!("there is no {format:?} frame of {width} x {height} pixels");
            return Err(GpuError::other(what));
        };
        if bytes > slot.frame.len() {
            log::info!("slot {}: frames of {width} x {height} need {bytes} bytes", slot.index);
            self.late += 1;
            let frame = DeviceBuffer::new(self.context(), bytes)?.whole();
            slot.graph = self.capture([&frame, &slot.geometry, &slot.results], &slot.events)?;
            slot.frame = frame;
        }
        let [_, in_h, in_w] = self.input;
        let block = picture::geometry(&fitted, format, [width, height], [in_w, in_h]);
        slot.geometry.write(&block, &self.uploads)?;
        (slot.size, slot.placement) = (Some(size), fitted.placement);
        Ok(())
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        // Slots that are still busy wait for themselves.
        let _ = self.compute.synchronize();
    }
}

fn between([begin, end]: [&Event; 2]) -> Result<Duration, GpuError> {
    Ok(Duration::from_secs_f64(begin.microseconds_to(end)?.max(0.0) * 1e-6))
}

impl Slot {
    /// Its number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Waits for the frame's work and gives the frame's memory back, in any case.
    pub fn finish(&mut self) -> (Option<HostBuffer>, Result<DeviceTimes, GpuError>) {
        let fetched = self.download.wait();
        let (frame, uploaded) = self.uploader.take_back();
        let times = fetched.and(uploaded).and_then(|()| {
            let [upload, preprocess, network, decode, download] = self.events.parts();
            Ok(DeviceTimes {
                upload: between(upload)?,
                preprocess: between(preprocess)?,
                network: between(network)?,
                decode: between(decode)?,
                download: between(download)?,
            })
        });
        (frame, times)
    }

    /// The spans of the work that has [`finish`](Self::finish)ed.
    pub fn spans(&self) -> Result<DeviceSpans, GpuError> {
        let at = |event: &Event| self.origin.microseconds_to(event);
        let mut spans = [[0.0; 2]; 5];
        for (span, part) in spans.iter_mut().zip(self.events.parts()) {
            *span = [at(part[0])?, at(part[1])?];
        }
        let [upload, preprocess, network, decode, download] = spans;
        Ok(DeviceSpans { upload, preprocess, network, decode, download })
    }

    /// What was found on the frame that has [`finish`](Self::finish)ed, best first.
    pub fn found(&self) -> impl Iterator<Item = Found> {
        let bytes = self.download.bytes(self.fetched);
        let word = |entry: &[u8], i: usize| {
            u32::from_le_bytes(entry[4 * i..4 * i + 4].try_into().expect("4 bytes"))
        };
        let count = (word(bytes, 0) as usize).min(self.most);
        bytes[HEADER..].chunks_exact(RESULT).take(count).map(move |entry| {
            let number = |i| f32::from_bits(word(entry, i));
            Found { bounds: [0, 1, 2, 3].map(number), score: number(4), class: word(entry, 5) }
        })
    }

    /// Where the frame lies on the network's input.
    pub fn placement(&self) -> Placement {
        self.placement
    }
}
