use std::num::NonZeroUsize;
use std::time::Duration;

use tobiuo_engine::manifest::{Plan, Port};
use tobiuo_tensor::{Tensor, TensorView, TensorViewMut, ViewData, ViewDataMut};

#[cfg(doc)]
use crate::ErrorKind;
use crate::device::{MemoryPath, Runner, TransferTimes};
use crate::{Engine, Error};

/// What a context is made for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContextOptions {
    /// Items per run; the smallest plan of the engine that holds as many is taken. 1 unless
    /// set.
    pub batch: usize,
    /// Threads of this context's own; `None`: all cores, shared with the engine's other
    /// contexts, which then take turns. Of no meaning on a CUDA device.
    pub threads: Option<NonZeroUsize>,
    /// The number of the CUDA device; `None`: the one that the engine was opened for.
    pub device: Option<usize>,
    /// How inputs and outputs get to a CUDA device and back.
    pub memory: MemoryPath,
}

impl Default for ContextOptions {
    fn default() -> Self {
        ContextOptions { batch: 1, threads: None, device: None, memory: MemoryPath::Auto }
    }
}

impl ContextOptions {
    /// Options for so many items per run.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Options with so many threads of the context's own.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Options for the CUDA device of a number.
    pub fn device(mut self, device: usize) -> Self {
        self.device = Some(device);
        self
    }

    /// Options with a way for inputs and outputs to get to a CUDA device and back.
    pub fn memory(mut self, memory: MemoryPath) -> Self {
        self.memory = memory;
        self
    }
}

/// What one worker runs an engine with: its own activations, all taken when it is made.
///
/// Bind by name, run, read by name. Several contexts of one engine run at once on several
/// threads. After [`ExecutionContext::new`] nothing allocates, on the host or on the device.
///
/// On a CUDA device inputs and outputs are views of pinned host memory: [`run`](Self::run)
/// uploads the inputs, runs the network and downloads the outputs. With the feature `cuda` they
/// can be device memory instead (`bind_input_device`, `bind_output_device`).
pub struct ExecutionContext {
    engine: Engine,
    plan: usize,
    batch: usize,
    /// Shapes of the inputs and outputs with this context's batch.
    input_shapes: Vec<Vec<usize>>,
    output_shapes: Vec<Vec<usize>>,
    runner: Runner,
}

impl std::fmt::Debug for ExecutionContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecutionContext")
            .field("engine", &self.engine)
            .field("plan", &self.plan)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl ExecutionContext {
    /// A context of an engine.
    ///
    /// Fails with [`ErrorKind::Usage`] when no plan of the engine holds as many items, with
    /// [`ErrorKind::NoDevice`] when this build has no device for it, and with
    /// [`ErrorKind::Unsupported`] when the device cannot run it; with [`ErrorKind::Limit`] when a
    /// CUDA device lacks the memory.
    pub fn new(engine: &Engine, options: &ContextOptions) -> Result<ExecutionContext, Error> {
        let manifest = engine.manifest();
        let plans = &manifest.plans;
        let fitting = (0..plans.len())
            .filter(|&i| plans[i].batch >= options.batch.max(1))
            .min_by_key(|&i| plans[i].batch);
        let Some(plan) = fitting.filter(|_| options.batch > 0) else {
            let have: Vec<String> = plans.iter().map(|p| p.batch.to_string()).collect();
            return Err(Error::usage(format!(
                "{}: a batch of {} is not in 1..=the largest of its plans' ({}); rebuild it \
                 with `--batch {}`",
                engine.file().path().display(),
                options.batch,
                have.join(", "),
                options.batch.max(1),
            )));
        };
        let runner = engine.loaded().runner(plan, options)?;
        let shapes = |indices: &[u32]| -> Vec<Vec<usize>> {
            indices.iter().map(|&t| item_shape(&plans[plan], t, options.batch)).collect()
        };
        Ok(ExecutionContext {
            engine: engine.clone(),
            plan,
            batch: options.batch,
            input_shapes: shapes(&plans[plan].inputs),
            output_shapes: shapes(&plans[plan].outputs),
            runner,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        &self.engine.manifest().plans[self.plan]
    }

    /// Items per run, as asked for.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// What it runs on, for people: `cpu (x86_64, 2 threads)`, `cuda:0 (Orin, sm_87)`.
    pub fn device(&self) -> String {
        self.runner.device()
    }

    /// The shape of input `i` with this context's batch, outermost axis first.
    pub fn input_shape(&self, i: usize) -> &[usize] {
        &self.input_shapes[i]
    }

    /// The shape of output `i` with this context's batch, outermost axis first.
    pub fn output_shape(&self, i: usize) -> &[usize] {
        &self.output_shapes[i]
    }

    /// The input of a name, to be filled before each run: a run may overwrite it. Row-major,
    /// in [`Port`]'s order of axes with this context's batch.
    pub fn input_mut(&mut self, name: &str) -> Result<TensorViewMut<'_>, Error> {
        let i = find("input", self.engine.inputs(), name)?;
        Ok(self.input_at(i))
    }

    /// Input `i`, in the engine's order. Panics when there is none.
    pub fn input_at(&mut self, i: usize) -> TensorViewMut<'_> {
        let shape = &self.input_shapes[i];
        let data = first_of_mut(self.runner.input_mut(i).data, shape.iter().product());
        TensorViewMut { shape, data }
    }

    /// Copies a tensor into the input of a name.
    ///
    /// Fails with [`ErrorKind::Usage`] when there is no such input, or its type or shape is
    /// another.
    pub fn set_input<'a>(
        &mut self,
        name: &str,
        tensor: impl Into<TensorRef<'a>>,
    ) -> Result<(), Error> {
        let from = tensor.into().0;
        let into = self.input_mut(name)?;
        if into.shape != from.shape || into.dtype() != from.dtype() {
            return Err(Error::usage(format!(
                "input '{name}' is {} {:?}, the given tensor is {} {:?}",
                into.dtype(),
                into.shape,
                from.dtype(),
                from.shape
            )));
        }
        copy(from.data, into.data);
        Ok(())
    }

    /// Runs the network on what the inputs hold, and waits. Allocates nothing.
    pub fn run(&mut self) -> Result<(), Error> {
        self.runner.run()
    }

    /// The output of a name, as the last run left it.
    pub fn output(&self, name: &str) -> Result<TensorView<'_>, Error> {
        Ok(self.output_at(find("output", self.engine.outputs(), name)?))
    }

    /// Output `i`, in the engine's order. Panics when there is none.
    pub fn output_at(&self, i: usize) -> TensorView<'_> {
        let shape = &self.output_shapes[i];
        let data = first_of(self.runner.output(i).data, shape.iter().product());
        TensorView { shape, data }
    }

    /// The time of each step of the plan, in the plan's order: of the last run on the CPU. On a
    /// CUDA device each launch is measured alone, after which the outputs hold nothing of use
    /// until the next run.
    pub fn layer_times(&mut self) -> Result<Vec<Duration>, Error> {
        self.runner.layer_times()
    }

    /// The times of `n` runs of the network alone, each queued on an idle CUDA device with the
    /// inputs in place there, by the device's own clock; after `warmup` more. None on the CPU.
    pub fn replay_times(&mut self, warmup: usize, n: usize) -> Result<Vec<Duration>, Error> {
        self.runner.replay_times(warmup, n)
    }

    /// The time of the parts of the last run by the device's own clock; `None` on the CPU.
    pub fn transfer_times(&self) -> Option<TransferTimes> {
        self.runner.transfer_times()
    }
}

#[cfg(feature = "cuda")]
impl ExecutionContext {
    fn cuda(&mut self) -> Result<&mut crate::device::CudaRunner, Error> {
        let device = self.runner.device();
        self.runner
            .cuda()
            .ok_or_else(|| Error::usage(format!("device memory for a context on {device}")))
    }

    /// Takes the input of a name from device memory from now on: what [`run`](Self::run) finds
    /// there. Its bytes are those of [`Port`]'s elements with the plan's batch, row-major.
    ///
    /// Prepares the launches anew, which allocates.
    pub fn bind_input_device(
        &mut self,
        name: &str,
        memory: tobiuo_gpu::DeviceSlice,
    ) -> Result<(), Error> {
        let i = find("input", self.engine.inputs(), name)?;
        self.cuda()?.bind_input(i, memory)
    }

    /// Writes the output of a name to device memory from now on, and no more to the host.
    ///
    /// Prepares the launches anew, which allocates.
    pub fn bind_output_device(
        &mut self,
        name: &str,
        memory: tobiuo_gpu::DeviceSlice,
    ) -> Result<(), Error> {
        let i = find("output", self.engine.outputs(), name)?;
        self.cuda()?.bind_output(i, memory)
    }

    /// The input of a name on the device, for the plan's batch.
    pub fn input_device(&mut self, name: &str) -> Result<tobiuo_gpu::DeviceSlice, Error> {
        let i = find("input", self.engine.inputs(), name)?;
        Ok(self.cuda()?.executor().input_device(i).clone())
    }

    /// The output of a name on the device, for the plan's batch.
    pub fn output_device(&mut self, name: &str) -> Result<tobiuo_gpu::DeviceSlice, Error> {
        let i = find("output", self.engine.outputs(), name)?;
        Ok(self.cuda()?.executor().output_device(i).clone())
    }

    /// Queues the network alone on a stream, from the inputs on the device to the outputs on the
    /// device, and does not wait. Allocates nothing.
    ///
    /// Runs of one context follow one another: the caller queues them on one stream, or lets
    /// streams wait for each other.
    pub fn enqueue(&mut self, stream: &tobiuo_gpu::Stream) -> Result<(), Error> {
        Ok(self.cuda()?.executor().enqueue(stream)?)
    }
}

/// A tensor or a view of one, for [`ExecutionContext::set_input`].
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a>(TensorView<'a>);

impl<'a> From<&'a Tensor> for TensorRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        TensorRef(tensor.view())
    }
}

impl<'a> From<TensorView<'a>> for TensorRef<'a> {
    fn from(view: TensorView<'a>) -> Self {
        TensorRef(view)
    }
}

impl<'a> From<&TensorView<'a>> for TensorRef<'a> {
    fn from(view: &TensorView<'a>) -> Self {
        TensorRef(*view)
    }
}

fn find(what: &str, ports: &[Port], name: &str) -> Result<usize, Error> {
    ports.iter().position(|p| p.name == name).ok_or_else(|| {
        let have: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        Error::usage(format!("there is no {what} '{name}'; the engine has: {}", have.join(", ")))
    })
}

/// A tensor's shape for `batch` items of a plan that runs more: its first axis is cut, where
/// that axis is the batch.
fn item_shape(plan: &Plan, tensor: u32, batch: usize) -> Vec<usize> {
    let mut shape = plan.tensors[tensor as usize].shape.clone();
    if let Some(first) = shape.first_mut().filter(|n| **n == plan.batch) {
        *first = batch;
    }
    shape
}

macro_rules! cut {
    ($e:ident, $data:expr, $n:expr, $slice:ident) => {
        match $data {
            $e::F32(v) => $e::F32(v.$slice(..$n).unwrap_or_default()),
            $e::F16(v) => $e::F16(v.$slice(..$n).unwrap_or_default()),
            $e::I64(v) => $e::I64(v.$slice(..$n).unwrap_or_default()),
            $e::I32(v) => $e::I32(v.$slice(..$n).unwrap_or_default()),
            $e::I8(v) => $e::I8(v.$slice(..$n).unwrap_or_default()),
            $e::U8(v) => $e::U8(v.$slice(..$n).unwrap_or_default()),
            $e::Bool(v) => $e::Bool(v.$slice(..$n).unwrap_or_default()),
        }
    };
}

fn first_of(data: ViewData<'_>, n: usize) -> ViewData<'_> {
    cut!(ViewData, data, n, get)
}

fn first_of_mut(data: ViewDataMut<'_>, n: usize) -> ViewDataMut<'_> {
    cut!(ViewDataMut, data, n, get_mut)
}

/// Copies elements between tensors of one type and length.
fn copy(from: ViewData<'_>, into: ViewDataMut<'_>) {
    match (from, into) {
        (ViewData::F32(a), ViewDataMut::F32(b)) => b.copy_from_slice(a),
        (ViewData::F16(a), ViewDataMut::F16(b)) => b.copy_from_slice(a),
        (ViewData::I64(a), ViewDataMut::I64(b)) => b.copy_from_slice(a),
        (ViewData::I32(a), ViewDataMut::I32(b)) => b.copy_from_slice(a),
        (ViewData::I8(a), ViewDataMut::I8(b)) => b.copy_from_slice(a),
        (ViewData::U8(a), ViewDataMut::U8(b)) => b.copy_from_slice(a),
        // A boolean is 0 or 1 inside; any other byte from outside means true.
        (ViewData::Bool(a), ViewDataMut::Bool(b)) => {
            b.iter_mut().zip(a).for_each(|(b, &a)| *b = u8::from(a != 0));
        }
        (a, b) => unreachable!("{} was checked against {}", a.dtype(), b.dtype()),
    }
}
