//! Memory and launches on the device, and the same memory on the host for the references.

use std::error::Error;

use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, Event, Function, GpuError, KernelArgument,
    Launch, Module, Stream,
};
use tobiuo_kernels::Target;
use tobiuo_kernels::vision::{DeviceMemory, VisionKernel, VisionModule};
use tobiuo_nvrtc::Nvrtc;

pub struct Device {
    pub context: Context,
    pub stream: Stream,
    nvrtc: Nvrtc,
    target: Option<u32>,
}

/// A module on the device.
pub struct Loaded {
    pub module: VisionModule,
    code: Module,
}

/// What a kernel is given.
#[derive(Clone, Copy)]
pub enum Given {
    Memory(usize),
    Value(u64),
}

/// Buffers that device and host have alike.
pub struct Twins<'a> {
    device: &'a Device,
    on_device: Vec<DeviceBuffer>,
    on_host: Vec<Vec<u8>>,
}

impl Device {
    pub fn new(context: &Context, nvrtc: Nvrtc, target: Option<u32>) -> Result<Device, GpuError> {
        let stream = Stream::new(context)?;
        Ok(Device { context: context.clone(), stream, nvrtc, target })
    }

    pub fn load(&self, module: VisionModule) -> Result<Loaded, Box<dyn Error>> {
        let (major, minor) = self.context.device().compute;
        let here = 10 * major + minor;
        let sm = self.target.unwrap_or(here);
        let target = Target::of_sm(sm).or_else(|| Target::of_sm(90)).ok_or("no target")?;
        let source = module.source(&Target { sm, ..target });
        let code = match self.target {
            None => Module::load(
                &self.context,
                &self.nvrtc.compile("camera.cu", &source, sm, false)?.cubin,
            )?,
            Some(_) => {
                Module::load_ptx(&self.context, &self.nvrtc.compile_ptx("camera.cu", &source, sm)?)?
            }
        };
        Ok(Loaded { module, code })
    }

    pub fn twins(&self) -> Twins<'_> {
        Twins { device: self, on_device: Vec::new(), on_host: Vec::new() }
    }
}

impl Loaded {
    pub fn function(&self, kernel: &VisionKernel) -> Result<(Function, Launch), GpuError> {
        let launch =
            Launch { grid: kernel.grid, block: [kernel.block, 1, 1], shared: 0, dependent: false };
        Ok((self.code.function(kernel.function)?, launch))
    }
}

/// Where the host's twin of a buffer begins.
fn address(i: usize) -> u64 {
    0x1_0000_0000 * (i as u64 + 1)
}

impl Twins<'_> {
    pub fn add(&mut self, bytes: Vec<u8>) -> Result<Given, GpuError> {
        let buffer = DeviceBuffer::new(&self.device.context, bytes.len())?;
        buffer.write(0, &bytes, &self.device.stream)?;
        self.on_device.push(buffer);
        self.on_host.push(bytes);
        Ok(Given::Memory(self.on_device.len() - 1))
    }

    pub fn slice(&self, given: Given) -> DeviceSlice {
        let Given::Memory(i) = given else { panic!("no memory") };
        self.on_device[i].whole()
    }

    fn arguments(&self, given: &[Given]) -> Vec<KernelArgument> {
        let argument = |g: &Given| match *g {
            Given::Memory(i) => KernelArgument::Memory(self.on_device[i].whole()),
            Given::Value(v) => KernelArgument::Value(v),
        };
        given.iter().map(argument).collect()
    }

    /// Runs a kernel on the device, and its reference on the host.
    pub fn run(
        &mut self,
        loaded: &Loaded,
        kernel: &VisionKernel,
        given: &[Given],
    ) -> Result<(), Box<dyn Error>> {
        let (function, launch) = loaded.function(kernel)?;
        let mut list = CommandList::new(&self.device.context)?;
        list.launch(&function, launch, &self.arguments(given), 0, &[])?;
        list.enqueue(&self.device.stream)?;
        self.device.stream.synchronize()?;
        let values: Vec<u64> = (given.iter())
            .map(|g| match *g {
                Given::Memory(i) => address(i),
                Given::Value(v) => v,
            })
            .collect();
        Ok(loaded.module.run(kernel.function, &values, self)?)
    }

    /// Microseconds of one launch, as one of many in a graph.
    pub fn time(
        &self,
        loaded: &Loaded,
        kernels: &[(VisionKernel, Vec<Given>)],
    ) -> Result<f64, GpuError> {
        const ROW: usize = 20;
        let mut list = CommandList::new(&self.device.context)?;
        for _ in 0..ROW {
            for (kernel, given) in kernels {
                let (function, launch) = loaded.function(kernel)?;
                list.launch(&function, launch, &self.arguments(given), 0, &[])?;
            }
        }
        let (mut graph, stream) = (list.capture()?, &self.device.stream);
        let (begin, end) =
            (Event::timed(&self.device.context)?, Event::timed(&self.device.context)?);
        let mut runs = Vec::new();
        for _ in 0..15 {
            begin.record(stream)?;
            graph.launch(stream)?;
            end.record(stream)?;
            end.synchronize()?;
            runs.push(begin.microseconds_to(&end)? / ROW as f64);
        }
        runs.sort_by(f64::total_cmp);
        Ok(runs[runs.len() / 2])
    }

    /// The bytes that the device has, and those of the reference.
    pub fn both(&self, given: Given) -> Result<[Vec<u8>; 2], GpuError> {
        let Given::Memory(i) = given else { panic!("no memory") };
        let mut bytes = vec![0; self.on_device[i].len()];
        self.on_device[i].read(0, &mut bytes, &self.device.stream)?;
        Ok([bytes, self.on_host[i].clone()])
    }

    fn find(&mut self, at: u64, len: usize) -> Result<&mut [u8], String> {
        let i = (at >> 32) as usize;
        let bytes = i.checked_sub(1).and_then(|i| self.on_host.get_mut(i)).ok_or("no memory")?;
        let from = (at & 0xffff_ffff) as usize;
        bytes.get_mut(from..from + len).ok_or_else(|| "past the end".into())
    }
}

impl DeviceMemory for Twins<'_> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), String> {
        into.copy_from_slice(self.find(at, into.len())?);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.find(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}
