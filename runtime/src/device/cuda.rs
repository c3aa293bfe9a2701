//! CUDA devices.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tobiuo_cuda::{CudaEngine, CudaExecutor, CudaPlan, ExecutorOptions, device_key};
use tobiuo_engine::manifest::{CudaKey, DeviceKey};
use tobiuo_engine::{EngineFile, ThisDevice};
use tobiuo_gpu::{Context, DeviceSlice, GpuError, GpuErrorKind};
use tobiuo_tensor::{TensorView, TensorViewMut};

use super::{DeviceChoice, MemoryPath, TransferTimes};
use crate::{ContextOptions, Error, ErrorKind};

impl From<GpuError> for Error {
    fn from(e: GpuError) -> Error {
        let (kind, help) = match e.kind() {
            GpuErrorKind::OutOfMemory => (
                ErrorKind::Limit,
                "; end other programs that use the GPU, or rebuild the engine for a smaller batch \
                 or with --precision fp16",
            ),
            GpuErrorKind::BadCode => (
                ErrorKind::Damaged,
                "; rebuild the engine with `tobiuo-builder build` on this device",
            ),
            GpuErrorKind::OtherDevice => (
                ErrorKind::WrongDevice,
                "; rebuild the engine with `tobiuo-builder build` on this device",
            ),
            GpuErrorKind::ContextLost => (
                ErrorKind::DeviceLost,
                "; the work on the device is lost (the kernel log, `dmesg`, may say more)",
            ),
            _ => (ErrorKind::NoDevice, ""),
        };
        Error::new(kind, format!("the CUDA device: {e}{help}"))
    }
}

impl From<MemoryPath> for tobiuo_cuda::MemoryPath {
    fn from(path: MemoryPath) -> Self {
        match path {
            MemoryPath::Auto => tobiuo_cuda::MemoryPath::Auto,
            MemoryPath::Discrete => tobiuo_cuda::MemoryPath::Discrete,
            MemoryPath::Integrated => tobiuo_cuda::MemoryPath::Integrated,
        }
    }
}

/// What the contexts of an engine share: on each device one copy of the weights, and each
/// plan's kernels.
pub(crate) struct Loaded {
    file: EngineFile,
    ordinal: usize,
    devices: Mutex<Vec<OnDevice>>,
}

struct OnDevice {
    ordinal: usize,
    engine: CudaEngine,
    plans: Vec<Option<CudaPlan>>,
}

impl Loaded {
    /// Checks that the engine is made for the device; nothing is loaded yet.
    pub fn new(file: &EngineFile, choice: DeviceChoice) -> Result<Loaded, Error> {
        let ordinal = match choice {
            DeviceChoice::Cuda(ordinal) => ordinal,
            _ => 0,
        };
        let key = check(file, ordinal)?;
        if !key.tuned {
            log::warn!(
                "{}: its kernels were chosen by a cost model, not by timing them on this device; \
                 building it here, with `--device cuda`, makes it faster",
                file.path().display()
            );
        }
        Ok(Loaded { file: file.clone(), ordinal, devices: Mutex::default() })
    }

    /// A plan on a device, loaded when it is first used there.
    pub fn plan(&self, plan: usize, device: Option<usize>) -> Result<CudaPlan, Error> {
        let ordinal = device.unwrap_or(self.ordinal);
        if ordinal != self.ordinal {
            check(&self.file, ordinal)?;
        }
        let file = &self.file;
        let here = |e: GpuError| in_file(file, e);
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let i = match devices.iter().position(|d| d.ordinal == ordinal) {
            Some(i) => i,
            None => {
                let context = Context::new(ordinal).map_err(here)?;
                let release = |range: std::ops::Range<u64>| {
                    file.release(range.start as usize..range.end as usize);
                };
                let engine = CudaEngine::new(&context, file.weights(), &release).map_err(here)?;
                let plans = vec![None; file.manifest().plans.len()];
                devices.push(OnDevice { ordinal, engine, plans });
                devices.len() - 1
            }
        };
        let OnDevice { engine, plans, .. } = &mut devices[i];
        match &plans[plan] {
            Some(plan) => Ok(plan.clone()),
            None => {
                let desc = &file.manifest().plans[plan];
                let made = engine.plan(desc, file.code()).map_err(here)?;
                Ok(plans[plan].insert(made).clone())
            }
        }
    }

    /// Memory of its own to run a plan.
    pub fn runner(&self, plan: usize, options: &ContextOptions) -> Result<Runner, Error> {
        let plan = self.plan(plan, options.device)?;
        let options = ExecutorOptions::default().memory(options.memory.into());
        let executor = CudaExecutor::new(&plan, &options).map_err(|e| in_file(&self.file, e))?;
        Ok(Runner { executor })
    }

    /// Forgets weights and kernels on all devices; a context that was lost is given back when
    /// the last executor of it is dropped.
    pub fn reset(&self) {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// An error with the engine's file in front.
fn in_file(file: &EngineFile, e: GpuError) -> Error {
    let e = Error::from(e);
    Error::new(e.kind(), format!("{}: {e}", file.path().display()))
}

/// The engine's key, when it is made for the device of a number.
fn check(file: &EngineFile, ordinal: usize) -> Result<&CudaKey, Error> {
    let DeviceKey::Cuda(key) = &file.manifest().device else {
        unreachable!("an engine for a CUDA device")
    };
    let info = tobiuo_gpu::device(ordinal).map_err(|e| in_file(file, e))?;
    file.check_device(&ThisDevice::from(DeviceKey::Cuda(device_key(&info))))?;
    Ok(key)
}

/// One context's memory on a device.
pub(crate) struct Runner {
    executor: CudaExecutor,
}

impl Runner {
    pub fn device(&self) -> String {
        let info = self.executor.stream().context().device();
        let (major, minor) = info.compute;
        let path = if self.executor.is_integrated() { ", mapped host memory" } else { "" };
        format!("cuda:{} ({}, sm_{major}{minor}{path})", info.ordinal, info.name)
    }

    pub fn input_mut(&mut self, i: usize) -> TensorViewMut<'_> {
        self.executor.input_mut(i)
    }

    pub fn output(&self, i: usize) -> TensorView<'_> {
        self.executor.output(i)
    }

    pub fn run(&mut self) -> Result<(), Error> {
        Ok(self.executor.run()?)
    }

    pub fn layer_times(&mut self) -> Result<Vec<Duration>, Error> {
        Ok(self.executor.layer_times()?)
    }

    pub fn replay_times(&mut self, warmup: usize, n: usize) -> Result<Vec<Duration>, Error> {
        let times = self.executor.time_replays(warmup, n)?;
        Ok(times.into_iter().map(|us| Duration::from_secs_f64(us.max(0.0) * 1e-6)).collect())
    }

    pub fn transfer_times(&self) -> Option<TransferTimes> {
        let times = self.executor.times();
        Some(TransferTimes {
            upload: times.upload,
            compute: times.compute,
            download: times.download,
        })
    }

    pub fn bind_input(&mut self, i: usize, slice: DeviceSlice) -> Result<(), Error> {
        self.executor.bind_input_device(i, slice).map_err(bind_error)
    }

    pub fn bind_output(&mut self, i: usize, slice: DeviceSlice) -> Result<(), Error> {
        self.executor.bind_output_device(i, slice).map_err(bind_error)
    }

    pub fn executor(&mut self) -> &mut CudaExecutor {
        &mut self.executor
    }
}

fn bind_error(e: GpuError) -> Error {
    match e.kind() {
        GpuErrorKind::Driver => Error::usage(e.to_string()),
        _ => e.into(),
    }
}
