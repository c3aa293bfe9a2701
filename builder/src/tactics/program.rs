//! A lowered network with chosen tactics, in device memory, as one captured graph.

use tobiuo_gpu::{Context, DeviceBuffer, Event, Function, GpuError, Graph, Launch, Stream};

use half::f16;
use tobiuo_tensor::DType;

use super::{Tactic, TacticError, geometry, load, target_of};
use crate::cuda::lower::{Lowering, Operand};
use crate::cuda::view::View;
use crate::plan::arena::{Interval, pack};
use tobiuo_kernels::Argument;

/// Alignment of buffers in the arena and of constants, bytes.
const ALIGN: usize = 256;

/// A network ready to run.
pub struct Program {
    stream: Stream,
    arena: DeviceBuffer,
    inputs: Vec<(u64, usize)>,
    outputs: Vec<(u64, usize)>,
    offsets: Vec<u64>,
    graph: Graph,
    launches: Vec<(Function, Launch, Vec<u64>)>,
    // Kept alive for the kernels.
    _weights: DeviceBuffer,
    _state: DeviceBuffer,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of packed constants.
    pub weight_bytes: usize,
}

/// First and last layer that touch each buffer.
fn intervals(lowering: &Lowering) -> Vec<Interval> {
    let last = lowering.layers.len();
    let mut out: Vec<Interval> = lowering
        .buffers
        .iter()
        .map(|b| Interval {
            size: b.bytes.next_multiple_of(ALIGN) as u64,
            first: usize::MAX,
            last: 0,
        })
        .collect();
    for (i, layer) in lowering.layers.iter().enumerate() {
        let views = layer.operands.iter().filter_map(|o| match o {
            Operand::View(v) => Some(v),
            Operand::Constant(_) => None,
        });
        for view in views.chain(&layer.outputs) {
            let interval = &mut out[view.buffer.0];
            interval.first = interval.first.min(i);
            interval.last = interval.last.max(i);
        }
    }
    for (interval, buffer) in out.iter_mut().zip(&lowering.buffers) {
        if buffer.pinned {
            (interval.first, interval.last) = (0, last);
        } else if interval.first == usize::MAX {
            interval.size = 0;
            interval.first = 0;
        }
    }
    out
}

impl Program {
    /// Puts everything into device memory and captures the launches. With `keep` no two
    /// buffers share memory, so that every value can be read after a run.
    pub fn new(
        context: &Context,
        lowering: &Lowering,
        tactics: &[Tactic],
        keep: bool,
    ) -> Result<Program, TacticError> {
        let stream = Stream::new(context)?;
        let mut intervals = intervals(lowering);
        if keep {
            intervals.iter_mut().for_each(|i| (i.first, i.last) = (0, lowering.layers.len()));
        }
        let packing = pack(&intervals);
        let arena_bytes = packing.size as usize;
        let arena = DeviceBuffer::new(context, arena_bytes)?;
        // Padding channels are never read as numbers before they are written, but a first run
        // on NaN would be hard to tell from a mistake: start from a poison that shows.
        arena.fill(0, arena_bytes, 0xff, &stream)?;
        let mut at = 0;
        let constant_at: Vec<usize> = lowering
            .constants
            .iter()
            .map(|c| {
                let here = at;
                at += c.len().next_multiple_of(ALIGN);
                here
            })
            .collect();
        let weights = DeviceBuffer::new(context, at)?;
        for (bytes, &offset) in lowering.constants.iter().zip(&constant_at) {
            weights.write(offset, bytes, &stream)?;
        }
        // Tickets of each layer, kept for good, then one region of partial sums for all: layers
        // follow one another.
        let mut zeroed = 0;
        let ticket_at: Vec<usize> = tactics
            .iter()
            .map(|t| {
                let here = zeroed;
                zeroed += t.candidate.zeroed.next_multiple_of(ALIGN);
                here
            })
            .collect();
        let partial =
            tactics.iter().map(|t| t.candidate.scratch - t.candidate.zeroed).max().unwrap_or(0);
        let state = DeviceBuffer::new(context, zeroed + partial)?;
        state.fill(0, zeroed, 0, &stream)?;
        stream.synchronize()?;
        let address = |view: &View| {
            arena.address()
                + packing.offsets[view.buffer.0]
                + (view.offset * view.dtype.size() as i64) as u64
        };
        let target = target_of(context);
        let mut launches = Vec::new();
        for (i, (layer, tactic)) in lowering.layers.iter().zip(tactics).enumerate() {
            let (_, function) = load(context, (&tactic.candidate, &tactic.code))?;
            let arguments = tactic.candidate.arguments.iter().map(|a| match *a {
                Argument::Input(k) => match &layer.operands[k] {
                    Operand::View(view) => address(view),
                    Operand::Constant(c) => weights.address() + constant_at[*c] as u64,
                },
                Argument::Output(k) => address(&layer.outputs[k]),
                Argument::Constant(k) => weights.address() + constant_at[layer.constants[k]] as u64,
                Argument::Scratch(s) if s < tactic.candidate.zeroed => {
                    state.address() + (ticket_at[i] + s) as u64
                }
                Argument::Scratch(s) => {
                    state.address() + (zeroed + s - tactic.candidate.zeroed) as u64
                }
                Argument::Null => 0,
            });
            let launch = geometry(&tactic.candidate, &target, i > 0);
            let arguments: Vec<u64> = arguments.collect();
            launches.push((function, launch, arguments));
        }
        let graph = stream.capture(|| launch_all(&launches, &stream))?;
        let span = |view: &View| {
            let bytes: usize = view.shape.iter().product::<usize>() * view.dtype.size();
            (packing.offsets[view.buffer.0], bytes)
        };
        let inputs = lowering.inputs.iter().map(span).collect();
        let outputs = lowering.outputs.iter().map(span).collect();
        Ok(Program {
            inputs,
            outputs,
            offsets: packing.offsets,
            graph,
            launches,
            stream,
            arena,
            _weights: weights,
            _state: state,
            arena_bytes,
            weight_bytes: at,
        })
    }

    /// Kernels of one run.
    pub fn kernels(&self) -> usize {
        self.launches.len()
    }

    /// Copies an input's bytes to the device.
    pub fn set_input(&mut self, i: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let (offset, len) = self.inputs[i];
        assert_eq!(bytes.len(), len, "input {i} has {len} bytes");
        self.arena.write(offset as usize, bytes, &self.stream)
    }

    /// Runs once and waits.
    pub fn run(&mut self) -> Result<(), GpuError> {
        self.graph.launch(&self.stream)?;
        self.stream.synchronize()
    }

    /// Copies an output's bytes from the device.
    pub fn output(&self, i: usize) -> Result<Vec<u8>, GpuError> {
        let (offset, len) = self.outputs[i];
        let mut bytes = vec![0; len];
        self.arena.read(offset as usize, &mut bytes, &self.stream)?;
        Ok(bytes)
    }

    /// A value's elements as f32, row-major (f32 and f16 only); valid in a program that keeps
    /// its buffers apart.
    pub fn value(&self, view: &View) -> Result<Vec<f32>, GpuError> {
        let size = view.dtype.size();
        let reach: i64 =
            view.shape.iter().zip(&view.strides).map(|(&d, &s)| (d as i64 - 1) * s).sum();
        let mut bytes = vec![0; (view.offset + reach + 1) as usize * size];
        self.arena.read(self.offsets[view.buffer.0] as usize, &mut bytes, &self.stream)?;
        let element = |at: i64| {
            let b = &bytes[at as usize * size..][..size];
            match view.dtype {
                DType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            }
        };
        let total: usize = view.shape.iter().product();
        Ok((0..total)
            .map(|mut i| {
                let mut at = view.offset;
                for (&d, &s) in view.shape.iter().zip(&view.strides).rev() {
                    at += (i % d) as i64 * s;
                    i /= d;
                }
                element(at)
            })
            .collect())
    }

    /// Microseconds of each of `n` replays, each timed by device events.
    pub fn time(&mut self, n: usize) -> Result<Vec<f64>, GpuError> {
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

fn launch_all(launches: &[(Function, Launch, Vec<u64>)], stream: &Stream) -> Result<(), GpuError> {
    for (function, launch, arguments) in launches {
        // SAFETY: arguments are what the kernel's candidate says it takes, bound to buffers of
        // the sizes the lowering gave, which live as long as the program that owns the graph;
        // the arena's packing keeps buffers that are live together apart.
        unsafe { function.launch(launch, arguments, stream)? };
    }
    Ok(())
}
