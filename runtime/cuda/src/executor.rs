use std::time::Duration;

use tobiuo_engine::{CudaArgument, TensorDesc};
use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, Event, GpuError, Graph, PinnedBuffer,
    PinnedId, Stream,
};
use tobiuo_tensor::{TensorView, TensorViewMut, ViewData, ViewDataMut};

use crate::engine::CudaPlan;
use crate::launches::Memory;
use crate::layers;

/// How host and device exchange inputs and outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryPath {
    /// As the device says: [`Integrated`](Self::Integrated) where it shares the host's memory.
    #[default]
    Auto,
    /// Copies from and to pinned host memory by the copy engines.
    Discrete,
    /// Pinned host memory is mapped into the device, which reads it once into its own memory.
    Integrated,
}

impl MemoryPath {
    /// True when inputs go through mapped memory on this device.
    pub fn is_integrated(self, context: &Context) -> bool {
        match self {
            MemoryPath::Auto => context.device().integrated && context.device().can_map_host,
            MemoryPath::Discrete => false,
            MemoryPath::Integrated => true,
        }
    }
}

/// What an executor is made for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExecutorOptions {
    /// How host and device exchange inputs and outputs.
    pub memory: MemoryPath,
    /// Host memory for inputs and outputs. Without it only device pointers are of use.
    pub staging: bool,
    /// What the arena holds before the first run, in every byte.
    pub fill: u8,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        ExecutorOptions { memory: MemoryPath::Auto, staging: true, fill: 0 }
    }
}

impl ExecutorOptions {
    /// Options with a memory path.
    pub fn memory(mut self, memory: MemoryPath) -> Self {
        self.memory = memory;
        self
    }

    /// Options with or without host memory for inputs and outputs.
    pub fn staging(mut self, staging: bool) -> Self {
        self.staging = staging;
        self
    }

    /// Options with another content of the fresh arena: a poison for tests.
    pub fn fill(mut self, fill: u8) -> Self {
        self.fill = fill;
        self
    }
}

/// Time of the parts of a run, by the device's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// Inputs from the host to the device.
    pub upload: Duration,
    /// All kernels.
    pub compute: Duration,
    /// Outputs from the device to the host.
    pub download: Duration,
}

/// Copies between pinned buffers and the device, one buffer for each port.
struct Staging {
    list: CommandList,
    buffers: Vec<PinnedId>,
}

impl Staging {
    fn new(context: &Context, tensors: &[&TensorDesc], what: &str) -> Result<Staging, GpuError> {
        let mut list = CommandList::new(context)?;
        let mut buffers = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let buffer = PinnedBuffer::new(context, bytes_of(tensor)?)
                .map_err(|e| e.at(format!("host memory of {what} {:?}", tensor.name)))?;
            buffers.push(list.pin(buffer));
        }
        Ok(Staging { list, buffers })
    }
}

/// One worker's memory for a plan, and its launches as one graph.
pub struct CudaExecutor {
    plan: CudaPlan,
    integrated: bool,
    graph: Graph,
    uploads: Option<Staging>,
    downloads: Option<Staging>,
    /// Ports that the caller has bound, which the host does not exchange.
    bound_inputs: Vec<bool>,
    bound_outputs: Vec<bool>,
    /// Around upload, compute and download.
    events: [Event; 4],
    times: RunTimes,
    memory: Memory,
    stream: Stream,
}

fn bytes_of(tensor: &TensorDesc) -> Result<usize, GpuError> {
    tensor
        .bytes()
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| GpuError::other(format!("{:?} is too large", tensor.name)))
}

fn size(bytes: u64, what: &str) -> Result<usize, GpuError> {
    usize::try_from(bytes).map_err(|_| GpuError::other(format!("{what} of {bytes} bytes")))
}

fn ports<'a>(plan: &'a CudaPlan, list: &[u32]) -> Result<Vec<&'a TensorDesc>, GpuError> {
    let tensors = &plan.plan().tensors;
    let find =
        |&t: &u32| tensors.get(t as usize).ok_or_else(|| GpuError::other(format!("no tensor {t}")));
    list.iter().map(find).collect()
}

impl CudaExecutor {
    /// Takes all memory and captures the launches.
    pub fn new(plan: &CudaPlan, options: &ExecutorOptions) -> Result<CudaExecutor, GpuError> {
        let context = plan.engine().context();
        let integrated = options.memory.is_integrated(context);
        if integrated && !context.device().can_map_host {
            return Err(GpuError::other(format!(
                "{} cannot map host memory, which the integrated memory path needs",
                context.device().name
            )));
        }
        let stream = Stream::new(context)?;
        let program = plan.program();
        let filled = |bytes: usize, value: u8, what: &str| {
            let buffer = DeviceBuffer::new(context, bytes).map_err(|e| e.at(what))?;
            buffer.fill(0, bytes, value, &stream)?;
            Ok::<_, GpuError>(buffer)
        };
        let batch = plan.plan().batch;
        let arena = size(plan.plan().arena, "an arena")?;
        let arena = filled(arena, options.fill, &format!("activations at batch {batch}"))?;
        let zeroed = size(program.zeroed, "zeroed scratch memory")?;
        let scratch = filled(size(program.scratch, "scratch")?, options.fill, "scratch memory")?;
        if zeroed > scratch.len() {
            return Err(GpuError::other("more scratch memory is zeroed than there is"));
        }
        scratch.fill(0, zeroed, 0, &stream)?;
        let slices = |list: &[u32]| {
            let one = |tensor: &TensorDesc| {
                filled(bytes_of(tensor)?, 0, &format!("{:?}", tensor.name)).map(|b| b.whole())
            };
            ports(plan, list)?.into_iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let memory = Memory {
            arena,
            scratch,
            inputs: slices(&plan.plan().inputs)?,
            outputs: slices(&plan.plan().outputs)?,
        };
        let staging = |list: &[u32], what: &str| match options.staging {
            true => Staging::new(context, &ports(plan, list)?, what).map(Some),
            false => Ok(None),
        };
        let event = || Event::timed(context);
        stream.synchronize()?;
        let mut executor = CudaExecutor {
            integrated,
            uploads: staging(&plan.plan().inputs, "input")?,
            downloads: staging(&plan.plan().outputs, "output")?,
            bound_inputs: vec![false; memory.inputs.len()],
            bound_outputs: vec![false; memory.outputs.len()],
            events: [event()?, event()?, event()?, event()?],
            times: RunTimes::default(),
            graph: capture(plan, &memory)?,
            plan: plan.clone(),
            memory,
            stream,
        };
        executor.graph.upload(&executor.stream)?;
        executor.connect()?;
        executor.stream.synchronize()?;
        Ok(executor)
    }

    /// The copies between staging and device, of the ports that are not bound elsewhere.
    fn connect(&mut self) -> Result<(), GpuError> {
        if let Some(staging) = &mut self.uploads {
            staging.list.clear()?;
            for (i, slice) in self.memory.inputs.iter().enumerate() {
                let from = staging.buffers[i];
                match (self.bound_inputs[i], self.integrated) {
                    (true, _) => (),
                    (false, true) => drop(staging.list.upload_mapped(from, 0, slice)?),
                    (false, false) => drop(staging.list.upload(from, 0, slice)?),
                }
            }
        }
        if let Some(staging) = &mut self.downloads {
            staging.list.clear()?;
            for (i, slice) in self.memory.outputs.iter().enumerate() {
                if !self.bound_outputs[i] {
                    staging.list.download(slice, staging.buffers[i], 0)?;
                }
            }
        }
        Ok(())
    }

    /// The plan.
    pub fn plan(&self) -> &CudaPlan {
        &self.plan
    }

    /// The executor's own stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// True when inputs go through mapped memory.
    pub fn is_integrated(&self) -> bool {
        self.integrated
    }

    /// Input `i` in host memory, which the next [`run`](Self::run) uploads.
    ///
    /// Panics when there is no such input, or the executor was made without staging.
    pub fn input_mut(&mut self, i: usize) -> TensorViewMut<'_> {
        let plan = self.plan.plan();
        let desc = &plan.tensors[plan.inputs[i] as usize];
        let staging = self.uploads.as_mut().expect("an executor with staging");
        let bytes = staging.list.bytes_mut(staging.buffers[i]);
        let data = ViewDataMut::from_bytes(desc.dtype, bytes).expect("pinned memory is aligned");
        TensorViewMut { shape: &desc.shape, data }
    }

    /// Output `i` in host memory, as the last [`run`](Self::run) left it.
    ///
    /// Panics when there is no such output, or the executor was made without staging.
    pub fn output(&self, i: usize) -> TensorView<'_> {
        let plan = self.plan.plan();
        let desc = &plan.tensors[plan.outputs[i] as usize];
        let staging = self.downloads.as_ref().expect("an executor with staging");
        let bytes = staging.list.bytes(staging.buffers[i]);
        let data = ViewData::from_bytes(desc.dtype, bytes).expect("pinned memory is aligned");
        TensorView { shape: &desc.shape, data }
    }

    /// Uploads the inputs, runs the network, downloads the outputs, and waits. Allocates
    /// nothing.
    pub fn run(&mut self) -> Result<(), GpuError> {
        let [begin, uploaded, computed, end] = &self.events;
        begin.record(&self.stream)?;
        if let Some(staging) = &mut self.uploads {
            staging.list.enqueue(&self.stream)?;
        }
        uploaded.record(&self.stream)?;
        self.graph.launch(&self.stream)?;
        computed.record(&self.stream)?;
        if let Some(staging) = &mut self.downloads {
            staging.list.enqueue(&self.stream)?;
        }
        end.record(&self.stream)?;
        self.stream.synchronize().map_err(|e| e.at("running the network"))?;
        let between = |a: &Event, b: &Event| {
            a.microseconds_to(b).map(|us| Duration::from_secs_f64(us.max(0.0) * 1e-6))
        };
        self.times = RunTimes {
            upload: between(begin, uploaded)?,
            compute: between(uploaded, computed)?,
            download: between(computed, end)?,
        };
        Ok(())
    }

    /// Time of the parts of the last [`run`](Self::run).
    pub fn times(&self) -> RunTimes {
        self.times
    }

    /// Queues the network alone on a stream, from the inputs on the device to the outputs on
    /// the device. Allocates nothing. Runs of one executor follow one another: queue them on one
    /// stream, or let streams wait for each other.
    pub fn enqueue(&mut self, stream: &Stream) -> Result<(), GpuError> {
        self.graph.launch(stream)
    }

    /// Runs the network `n` times and gives the microseconds of each by the device's clock:
    /// inputs stay as they are on the device. Each begins when the one before has ended, so that
    /// a launch's way from the host is part of it.
    pub fn time_replays(&mut self, warmup: usize, n: usize) -> Result<Vec<f64>, GpuError> {
        let context = self.stream.context().clone();
        let (begin, end) = (Event::timed(&context)?, Event::timed(&context)?);
        for _ in 0..warmup {
            self.graph.launch(&self.stream)?;
        }
        let mut times = Vec::with_capacity(n);
        for _ in 0..n {
            begin.record(&self.stream)?;
            self.graph.launch(&self.stream)?;
            end.record(&self.stream)?;
            end.synchronize()?;
            times.push(begin.microseconds_to(&end)?);
        }
        Ok(times)
    }

    /// Input `i` on the device.
    pub fn input_device(&self, i: usize) -> &DeviceSlice {
        &self.memory.inputs[i]
    }

    /// Output `i` on the device.
    pub fn output_device(&self, i: usize) -> &DeviceSlice {
        &self.memory.outputs[i]
    }

    /// Takes input `i` from this device memory from now on, instead of from the host. Captures
    /// the graph anew.
    pub fn bind_input_device(&mut self, i: usize, slice: DeviceSlice) -> Result<(), GpuError> {
        fits(self.memory.inputs.get(i), &slice, "input", i)?;
        self.rebind(|memory| std::mem::replace(&mut memory.inputs[i], slice), i, true)
    }

    /// Writes output `i` to this device memory from now on, instead of to the host. Captures
    /// the graph anew.
    pub fn bind_output_device(&mut self, i: usize, slice: DeviceSlice) -> Result<(), GpuError> {
        fits(self.memory.outputs.get(i), &slice, "output", i)?;
        self.rebind(|memory| std::mem::replace(&mut memory.outputs[i], slice), i, false)
    }

    /// Exchanges a port's memory; on failure everything is as before.
    fn rebind(
        &mut self,
        exchange: impl FnOnce(&mut Memory) -> DeviceSlice,
        i: usize,
        input: bool,
    ) -> Result<(), GpuError> {
        self.stream.synchronize()?;
        let before = exchange(&mut self.memory);
        match capture(&self.plan, &self.memory) {
            Ok(graph) => {
                self.graph = graph;
                let bound = if input { &mut self.bound_inputs } else { &mut self.bound_outputs };
                bound[i] = true;
                self.connect()
            }
            Err(e) => {
                let ports = if input { &mut self.memory.inputs } else { &mut self.memory.outputs };
                ports[i] = before;
                Err(e)
            }
        }
    }

    /// The memory that an argument of the plan points at here; `None` for a null pointer.
    pub fn slice(&self, argument: &CudaArgument) -> Result<Option<DeviceSlice>, GpuError> {
        self.memory.slice(&self.plan, argument)
    }

    /// The activations.
    pub fn arena(&self) -> &DeviceBuffer {
        &self.memory.arena
    }

    /// Adds the network's launches to a list, but those that `keep` (given the launch's index)
    /// does not want. They come after what the list's main stream has so far, and what follows
    /// on the main stream comes after them. The list keeps the memory alive; it must not run at
    /// the same time as the executor, whose memory it uses.
    pub fn append_launches(
        &self,
        list: &mut CommandList,
        keep: &dyn Fn(usize) -> bool,
    ) -> Result<(), GpuError> {
        self.memory.append(&self.plan, list, keep)
    }

    /// Measures each launch alone on the device, in the plan's order. Activations and outputs
    /// hold nothing of use afterwards.
    pub fn layer_times(&mut self) -> Result<Vec<Duration>, GpuError> {
        layers::times(&self.plan, &self.memory, &self.stream)
    }
}

impl Drop for CudaExecutor {
    fn drop(&mut self) {
        // A context that is lost has stopped all work; nothing else can fail here.
        let _ = self.stream.synchronize();
    }
}

fn fits(
    port: Option<&DeviceSlice>,
    slice: &DeviceSlice,
    what: &str,
    i: usize,
) -> Result<(), GpuError> {
    match port {
        None => Err(GpuError::other(format!("there is no {what} {i}"))),
        Some(port) if port.len() != slice.len() => Err(GpuError::other(format!(
            "{what} {i} has {} bytes, the given device memory {}",
            port.len(),
            slice.len()
        ))),
        Some(_) => Ok(()),
    }
}

fn capture(plan: &CudaPlan, memory: &Memory) -> Result<Graph, GpuError> {
    let mut list = CommandList::new(plan.engine().context())?;
    memory.append(plan, &mut list, &|_| true)?;
    list.capture().map_err(|e| e.at("capturing the network"))
}
