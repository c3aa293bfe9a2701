//! The CPU device.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tobiuo_cpu::{CpuError, CpuExecutor, CpuProgram, Threads};
use tobiuo_engine::{EngineFile, ThisDevice};
use tobiuo_tensor::{TensorView, TensorViewMut};

use super::TransferTimes;
use crate::{ContextOptions, Error, ErrorKind};

impl From<CpuError> for Error {
    fn from(e: CpuError) -> Error {
        Error::new(ErrorKind::Unsupported, format!("the CPU device: {e}"))
    }
}

/// The mapped weights, as the CPU device shares them.
struct Weights(EngineFile);

impl AsRef<[u8]> for Weights {
    fn as_ref(&self) -> &[u8] {
        self.0.weights()
    }
}

/// What the contexts of an engine share: threads, and each plan's packed kernels.
pub(crate) struct Loaded {
    file: EngineFile,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    threads: Option<Threads>,
    programs: Vec<Option<Arc<CpuProgram>>>,
}

impl Loaded {
    /// Checks that the engine is made for this device.
    pub fn new(file: &EngineFile) -> Result<Loaded, Error> {
        file.check_device(&ThisDevice::cpu())?;
        let programs = vec![None; file.manifest().plans.len()];
        let shared = Mutex::new(Shared { threads: None, programs });
        Ok(Loaded { file: file.clone(), shared })
    }

    /// Memory and threads to run a plan; kernels are packed when a plan is first used.
    pub fn runner(&self, plan: usize, options: &ContextOptions) -> Result<Runner, Error> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = match (options.threads, &shared.threads) {
            (Some(count), _) => Threads::with_count(count)?,
            (None, Some(threads)) => threads.clone(),
            (None, None) => shared.threads.insert(Threads::new()?).clone(),
        };
        let program = match &shared.programs[plan] {
            Some(program) => program.clone(),
            None => {
                let file = &self.file;
                let release = |range: std::ops::Range<u64>| {
                    file.release(range.start as usize..range.end as usize);
                };
                let made = CpuProgram::new(
                    file.manifest().plans[plan].clone(),
                    Arc::new(Weights(file.clone())),
                    &threads,
                    &release,
                )
                .map_err(|e| {
                    let path = file.path().display();
                    Error::new(ErrorKind::Unsupported, format!("{path}: plan {plan}: {e}"))
                })?;
                shared.programs[plan].insert(made).clone()
            }
        };
        Ok(Runner { executor: CpuExecutor::new(program, &threads)?, threads })
    }
}

/// One context's memory and the threads that it runs on.
pub(crate) struct Runner {
    executor: CpuExecutor,
    threads: Threads,
}

impl Runner {
    pub fn device(&self) -> String {
        format!("cpu ({}, {} threads)", std::env::consts::ARCH, self.threads.count())
    }

    pub fn input_mut(&mut self, i: usize) -> TensorViewMut<'_> {
        self.executor.input_mut(i)
    }

    pub fn output(&self, i: usize) -> TensorView<'_> {
        self.executor.output(i)
    }

    pub fn run(&mut self) -> Result<(), Error> {
        self.executor.run();
        Ok(())
    }

    pub fn layer_times(&mut self) -> Result<Vec<Duration>, Error> {
        Ok(self.executor.layer_times().to_vec())
    }

    pub fn replay_times(&mut self, _warmup: usize, _n: usize) -> Result<Vec<Duration>, Error> {
        Ok(Vec::new())
    }

    pub fn transfer_times(&self) -> Option<TransferTimes> {
        None
    }
}
