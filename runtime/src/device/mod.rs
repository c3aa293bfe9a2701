//! The devices of this build, behind one face. An engine says which kind it is made for; a
//! build without that device can still open and inspect it.

#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cpu"))]
mod none;
#[cfg(feature = "cpu")]
mod preprocess;

use std::str::FromStr;
use std::time::Duration;

use tobiuo_engine::EngineFile;
#[cfg(any(feature = "cpu", feature = "cuda"))]
use tobiuo_engine::manifest::DeviceKey;
use tobiuo_tensor::{TensorView, TensorViewMut};

use crate::{ContextOptions, Error, ErrorKind};

#[cfg(feature = "cuda")]
pub(crate) use cuda::Runner as CudaRunner;
#[cfg(not(feature = "cpu"))]
pub use none::Preprocessor;
#[cfg(feature = "cpu")]
pub use preprocess::Preprocessor;

/// On which device an engine is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The kind that the engine is made for; of CUDA devices the first.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of a number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// Reads `cpu`, `cuda` (the first) or `cuda:N`.
    fn from_str(text: &str) -> Result<DeviceChoice, Error> {
        let number = |n: &str| n.parse().ok();
        let found = match text.split_once(':') {
            None if text == "cpu" => Some(DeviceChoice::Cpu),
            None if text == "cuda" => Some(DeviceChoice::Cuda(0)),
            Some(("cuda", n)) => number(n).map(DeviceChoice::Cuda),
            _ => None,
        };
        found.ok_or_else(|| {
            Error::usage(format!("'{text}' is no device; there are cpu, cuda and cuda:N"))
        })
    }
}

/// How a context on a CUDA device exchanges inputs and outputs with the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryPath {
    /// As the device says: [`Integrated`](Self::Integrated) where it shares the host's memory.
    #[default]
    Auto,
    /// Copies from and to pinned host memory.
    Discrete,
    /// Pinned host memory is mapped into the device, which reads it once.
    Integrated,
}

/// Time of the parts of a run on a CUDA device, by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferTimes {
    /// Inputs from the host to the device.
    pub upload: Duration,
    /// The network.
    pub compute: Duration,
    /// Outputs from the device to the host.
    pub download: Duration,
}

/// What the contexts of an engine share.
pub(crate) enum Loaded {
    #[cfg(feature = "cpu")]
    Cpu(cpu::Loaded),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Loaded),
    /// This build has no such device: why contexts cannot be made.
    #[allow(dead_code)]
    Missing(String),
}

impl Loaded {
    /// Checks that the engine is made for the device.
    pub fn new(file: &EngineFile, choice: DeviceChoice) -> Result<Loaded, Error> {
        let key = &file.manifest().device;
        let wanted = match choice {
            DeviceChoice::Auto => key.name(),
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Cuda(_) => "cuda",
        };
        if wanted != key.name() {
            return Err(Error::new(
                ErrorKind::WrongDevice,
                format!(
                    "{}: made for {key}, and it is to run on {wanted}; leave the device out, or \
                     rebuild the engine with `tobiuo-builder build --device {wanted}`",
                    file.path().display()
                ),
            ));
        }
        match key {
            #[cfg(feature = "cpu")]
            DeviceKey::Cpu { .. } => cpu::Loaded::new(file).map(Loaded::Cpu),
            #[cfg(feature = "cuda")]
            DeviceKey::Cuda(_) => cuda::Loaded::new(file, choice).map(Loaded::Cuda),
            #[allow(unreachable_patterns)]
            _ => Ok(Loaded::Missing(format!(
                "{}: made for {key}, and this tobiuo was built without that device; build it with \
                 `--features {}`",
                file.path().display(),
                key.name()
            ))),
        }
    }

    /// Memory and all else to run a plan.
    pub fn runner(&self, plan: usize, options: &ContextOptions) -> Result<Runner, Error> {
        let _ = (plan, options);
        match self {
            #[cfg(feature = "cpu")]
            Loaded::Cpu(loaded) => loaded.runner(plan, options).map(Runner::Cpu),
            #[cfg(feature = "cuda")]
            Loaded::Cuda(loaded) => loaded.runner(plan, options).map(Box::new).map(Runner::Cuda),
            Loaded::Missing(why) => Err(Error::new(ErrorKind::NoDevice, why.clone())),
        }
    }

    /// Forgets what is on a device, so that the next context loads it anew.
    pub fn reset(&self) {
        #[cfg(feature = "cuda")]
        if let Loaded::Cuda(loaded) = self {
            loaded.reset();
        }
    }

    /// What is on CUDA devices.
    #[cfg(feature = "cuda")]
    #[allow(dead_code)]
    pub fn cuda(&self) -> Option<&cuda::Loaded> {
        match self {
            Loaded::Cuda(loaded) => Some(loaded),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }
}

/// One context's memory, and what runs it. Cannot be made in a build without devices.
pub(crate) enum Runner {
    #[cfg(feature = "cpu")]
    Cpu(cpu::Runner),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Runner>),
}

macro_rules! each {
    ($self:expr, $r:ident => $body:expr) => {
        match $self {
            #[cfg(feature = "cpu")]
            Runner::Cpu($r) => $body,
            #[cfg(feature = "cuda")]
            Runner::Cuda($r) => $body,
            #[cfg(not(any(feature = "cpu", feature = "cuda")))]
            _ => unreachable!("a build without devices makes no contexts"),
        }
    };
}

#[cfg_attr(not(any(feature = "cpu", feature = "cuda")), allow(unused_variables))]
impl Runner {
    /// What it runs on, for people.
    pub fn device(&self) -> String {
        each!(self, r => r.device())
    }

    /// Input `i`, in host memory.
    pub fn input_mut(&mut self, i: usize) -> TensorViewMut<'_> {
        each!(self, r => r.input_mut(i))
    }

    /// Output `i`, in host memory.
    pub fn output(&self, i: usize) -> TensorView<'_> {
        each!(self, r => r.output(i))
    }

    /// Runs the network and waits.
    pub fn run(&mut self) -> Result<(), Error> {
        each!(self, r => r.run())
    }

    /// Time of each layer: of the last run, or measured one by one on a CUDA device.
    pub fn layer_times(&mut self) -> Result<Vec<Duration>, Error> {
        each!(self, r => r.layer_times())
    }

    /// Times of the network alone on an idle CUDA device, inputs in place there.
    pub fn replay_times(&mut self, warmup: usize, n: usize) -> Result<Vec<Duration>, Error> {
        each!(self, r => r.replay_times(warmup, n))
    }

    /// Time of the parts of the last run, on a CUDA device.
    pub fn transfer_times(&self) -> Option<TransferTimes> {
        each!(self, r => r.transfer_times())
    }

    /// The CUDA device's side of it.
    #[cfg(feature = "cuda")]
    pub fn cuda(&mut self) -> Option<&mut cuda::Runner> {
        match self {
            Runner::Cuda(runner) => Some(runner),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }
}
