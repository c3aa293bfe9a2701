//! A lowered network with chosen tactics, in device memory, as one captured graph whose kernels
//! can be exchanged.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use half::f16;
use tobiuo_engine::CudaArgument;
use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, Event, Function, GpuError, Graph,
    KernelArgument, Launch, Stream,
};
use tobiuo_kernels::Candidate;
use tobiuo_nvrtc::Compiled;
use tobiuo_tensor::DType;

use super::{Tactic, TacticError, geometry, load, target_of};
use crate::cuda::layout::{Home, Layout, bytes_of};
use crate::cuda::lower::Lowering;
use crate::cuda::schedule::Schedule;
use crate::cuda::sections::Sections;
use crate::cuda::view::View;

/// A network ready to run.
pub struct Program {
    stream: Stream,
    memory: Memory,
    homes: Vec<Home>,
    graph: Graph,
    /// By layer, by finalist: the tactic's own candidate first.
    variants: Vec<Vec<Bound>>,
    schedule: Schedule,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of packed constants.
    pub weight_bytes: usize,
}

/// Everything that kernels are given addresses in.
struct Memory {
    arena: DeviceBuffer,
    weights: DeviceBuffer,
    scratch: DeviceBuffer,
    inputs: Vec<DeviceBuffer>,
    outputs: Vec<DeviceBuffer>,
}

/// A launch with its arguments.
type Bound = (Function, Launch, Vec<KernelArgument>);

impl Memory {
    fn argument(&self, argument: &CudaArgument) -> KernelArgument {
        let slice = |buffer: &DeviceBuffer, offset: u64, bytes: u64| {
            KernelArgument::Memory(buffer.slice(offset as usize..(offset + bytes) as usize))
        };
        match *argument {
            CudaArgument::Arena { offset, bytes } => slice(&self.arena, offset, bytes),
            CudaArgument::Weights { offset, bytes } => slice(&self.weights, offset, bytes),
            CudaArgument::Scratch { offset, bytes } => slice(&self.scratch, offset, bytes),
            CudaArgument::Input { index, offset, bytes } => {
                slice(&self.inputs[index as usize], offset, bytes)
            }
            CudaArgument::Output { index, offset, bytes } => {
                slice(&self.outputs[index as usize], offset, bytes)
            }
            CudaArgument::Null => KernelArgument::Null,
        }
    }
}

impl Program {
    /// Puts everything into device memory and captures the launches. With `keep` no two
    /// buffers share memory, so that every value can be read after a run.
    pub fn new(
        context: &Context,
        lowering: &Lowering,
        tactics: &[Tactic],
        schedule: &Schedule,
        keep: bool,
    ) -> Result<Program, TacticError> {
        let all: Vec<Vec<(&Candidate, &Compiled)>> = (tactics.iter())
            .map(|t| {
                let others = t.finalists.iter().map(|f| (&f.candidate, &f.code));
                std::iter::once((&t.candidate, &t.code)).chain(others).collect()
            })
            .collect();
        let candidates: Vec<Vec<&Candidate>> =
            all.iter().map(|list| list.iter().map(|c| c.0).collect()).collect();
        let mut sections = Sections::default();
        let layout = Layout::new(lowering, schedule, &candidates, keep, &mut sections.weights);
        let stream = Stream::new(context)?;
        let bound = |views: &[View]| -> Result<Vec<DeviceBuffer>, GpuError> {
            views.iter().map(|v| DeviceBuffer::new(context, bytes_of(v) as usize)).collect()
        };
        let weights = sections.weights.bytes();
        let memory = Memory {
            arena: DeviceBuffer::new(context, layout.memory.arena as usize)?,
            weights: DeviceBuffer::new(context, weights.len())?,
            scratch: DeviceBuffer::new(context, layout.memory.scratch as usize)?,
            inputs: bound(&lowering.inputs)?,
            outputs: bound(&lowering.outputs)?,
        };
        // Padding channels are never read as numbers before they are written, but a first run
        // on NaN would be hard to tell from a mistake: start from a poison that shows.
        memory.arena.fill(0, memory.arena.len(), 0xff, &stream)?;
        memory.weights.write(0, weights, &stream)?;
        memory.scratch.fill(0, layout.memory.zeroed as usize, 0, &stream)?;
        stream.synchronize()?;
        let target = target_of(context);
        let mut loaded: HashMap<(usize, usize), Function> = HashMap::new();
        let mut variants = Vec::new();
        let mut streams_used = vec![false; schedule.streams];
        for (i, list) in all.iter().enumerate() {
            let slot = &schedule.slots[i];
            // A launch that waits for other streams starts when all of them have ended.
            let follows = streams_used[slot.stream] && slot.after.is_empty();
            streams_used[slot.stream] = true;
            let mut of_layer = Vec::new();
            for (v, &(candidate, code)) in list.iter().enumerate() {
                let function = match loaded.entry((tactics[i].distinct, v)) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => {
                        let function = load(context, (candidate, code))?.1;
                        if schedule.carveout.is_some() {
                            function.prefer_shared(schedule.carveout)?;
                        }
                        new.insert(function).clone()
                    }
                };
                let arguments = layout.arguments(lowering, i, slot.stream, candidate)?;
                let arguments = arguments.iter().map(|a| memory.argument(a)).collect();
                of_layer.push((function, geometry(candidate, &target, follows), arguments));
            }
            variants.push(of_layer);
        }
        let graph = capture(context, schedule, &variants, &vec![0; variants.len()])?;
        Ok(Program {
            graph,
            variants,
            schedule: schedule.clone(),
            stream,
            memory,
            arena_bytes: layout.memory.arena as usize,
            weight_bytes: weights.len(),
            homes: layout.homes,
        })
    }

    /// Takes another finalist for each layer: 0 is the tactic's own candidate.
    pub fn select(&mut self, selected: &[usize]) -> Result<(), GpuError> {
        self.graph = capture(self.stream.context(), &self.schedule, &self.variants, selected)?;
        Ok(())
    }

    /// What all kernels prefer as shared memory, percent.
    pub fn carveout(&self) -> Option<u8> {
        self.schedule.carveout
    }

    /// Changes what all kernels prefer as shared memory; takes the same finalists as before.
    pub fn prefer_shared(
        &mut self,
        percent: Option<u8>,
        selected: &[usize],
    ) -> Result<(), GpuError> {
        for (function, ..) in self.variants.iter().flatten() {
            function.prefer_shared(percent)?;
        }
        self.schedule.carveout = percent;
        self.select(selected)
    }

    /// Kernels of one run.
    pub fn kernels(&self) -> usize {
        self.variants.len()
    }

    /// Copies an input's bytes to the device.
    pub fn set_input(&mut self, i: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let buffer = &self.memory.inputs[i];
        assert_eq!(bytes.len(), buffer.len(), "bytes of input {i}");
        buffer.write(0, bytes, &self.stream)
    }

    /// Runs once and waits.
    pub fn run(&mut self) -> Result<(), GpuError> {
        self.graph.launch(&self.stream)?;
        self.stream.synchronize()
    }

    /// Copies an output's bytes from the device.
    pub fn output(&self, i: usize) -> Result<Vec<u8>, GpuError> {
        let mut bytes = vec![0; self.memory.outputs[i].len()];
        self.memory.outputs[i].read(0, &mut bytes, &self.stream)?;
        Ok(bytes)
    }

    /// A value's elements as f32, row-major (f32 and f16 only); valid in a program that keeps
    /// its buffers apart.
    pub fn value(&self, view: &View) -> Result<Vec<f32>, GpuError> {
        let floats = |b: &[u8]| match view.dtype {
            DType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        };
        Ok(self.elements(view)?.chunks_exact(view.dtype.size()).map(floats).collect())
    }

    /// A value's elements as bytes, row-major; valid in a program that keeps its buffers apart.
    pub fn elements(&self, view: &View) -> Result<Vec<u8>, GpuError> {
        let size = view.dtype.size();
        let total: usize = view.shape.iter().product();
        if total == 0 {
            return Ok(Vec::new());
        }
        let ends = view.shape.iter().zip(&view.strides).map(|(&d, &s)| (d as i64 - 1) * s);
        let (down, up) = ends.fold((0, 0), |(d, u), e: i64| (d + e.min(0), u + e.max(0)));
        let first = (view.offset + down) as usize;
        let mut bytes = vec![0; (up - down + 1) as usize * size];
        let slice = self.slice(view, first * size..first * size + bytes.len());
        slice.read(&mut bytes, &self.stream)?;
        if view.is_dense() {
            return Ok(bytes);
        }
        let mut out = Vec::with_capacity(total * size);
        for mut i in 0..total {
            let mut at = -down;
            for (&d, &s) in view.shape.iter().zip(&view.strides).rev() {
                at += (i % d) as i64 * s;
                i /= d;
            }
            out.extend_from_slice(&bytes[at as usize * size..][..size]);
        }
        Ok(out)
    }

    /// Bytes of the buffer that a view lies in.
    fn slice(&self, view: &View, range: std::ops::Range<usize>) -> DeviceSlice {
        match self.homes[view.buffer.0] {
            Home::Arena { offset } => {
                let offset = offset as usize;
                self.memory.arena.slice(offset + range.start..offset + range.end)
            }
            Home::Input { index } => self.memory.inputs[index as usize].slice(range),
            Home::Output { index } => self.memory.outputs[index as usize].slice(range),
        }
    }

    /// Microseconds of each of `n` replays, each timed by device events.
    pub fn time(&mut self, n: usize) -> Result<Vec<f64>, GpuError> {
        self.time_all(n).map_err(|e| e.at("timing the whole network"))
    }

    fn time_all(&mut self, n: usize) -> Result<Vec<f64>, GpuError> {
        let context = self.stream.context().clone();
        let (begin, end) = (Event::timed(&context)?, Event::timed(&context)?);
        for _ in 0..10 {
            self.graph.launch(&self.stream)?;
        }
        let mut out = Vec::with_capacity(n);
        for _ in 0..n {
            begin.record(&self.stream)?;
            self.graph.launch(&self.stream)?;
            end.record(&self.stream)?;
            end.synchronize()?;
            out.push(begin.microseconds_to(&end)?);
        }
        Ok(out)
    }
}

fn capture(
    context: &Context,
    schedule: &Schedule,
    variants: &[Vec<Bound>],
    selected: &[usize],
) -> Result<Graph, GpuError> {
    let mut list = CommandList::new(context)?;
    for (i, slot) in schedule.slots.iter().enumerate() {
        let (function, launch, arguments) = &variants[i][selected[i]];
        list.launch(function, *launch, arguments, slot.stream, &slot.after)?;
    }
    list.capture()
}
