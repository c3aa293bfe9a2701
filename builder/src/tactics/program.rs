//! A lowered network with chosen tactics, in device memory, as one captured graph.

use tobiuo_gpu::{Context, DeviceBuffer, Event, Function, GpuError, Graph, Launch, Stream};

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use half::f16;
use tobiuo_kernels::Candidate;
use tobiuo_nvrtc::Compiled;
use tobiuo_tensor::DType;

use super::{Tactic, TacticError, geometry, load, target_of};
use crate::cuda::lower::{Lowering, Operand};
use crate::cuda::schedule::Schedule;
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
    /// By layer, by finalist: the tactic's own candidate first.
    variants: Vec<Vec<Bound>>,
    selected: Vec<usize>,
    schedule: Schedule,
    side: Vec<Stream>,
    marks: Vec<Option<Event>>,
    // Kept alive for the kernels.
    _weights: DeviceBuffer,
    _state: DeviceBuffer,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of packed constants.
    pub weight_bytes: usize,
}

/// A launch with its addresses.
type Bound = (Function, Launch, Vec<u64>);

/// First and last layer that touch each buffer.
fn intervals(lowering: &Lowering, places: &[(usize, usize)]) -> Vec<Interval> {
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
            interval.first = interval.first.min(places[i].0);
            interval.last = interval.last.max(places[i].1);
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
        schedule: &Schedule,
        keep: bool,
    ) -> Result<Program, TacticError> {
        let stream = Stream::new(context)?;
        let mut intervals = intervals(lowering, &schedule.places());
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
        // Tickets of each layer, kept for good, then one region of partial sums for each stream:
        // layers of one stream follow one another.
        let all = |t: &Tactic| -> Vec<(Candidate, Compiled)> {
            let own = (t.candidate.clone(), t.code.clone());
            let others = t.finalists.iter().map(|f| (f.candidate.clone(), f.code.clone()));
            [own].into_iter().chain(others).collect()
        };
        let all: Vec<_> = tactics.iter().map(all).collect();
        let mut zeroed = 0;
        let ticket_at: Vec<usize> = all
            .iter()
            .map(|t| {
                let here = zeroed;
                let most = t.iter().map(|c| c.0.zeroed).max().unwrap_or(0);
                zeroed += most.next_multiple_of(ALIGN);
                here
            })
            .collect();
        let partial = all.iter().flatten().map(|(c, _)| c.scratch - c.zeroed).max().unwrap_or(0);
        let partial = partial.next_multiple_of(ALIGN);
        let state = DeviceBuffer::new(context, zeroed + partial * schedule.streams)?;
        state.fill(0, zeroed, 0, &stream)?;
        stream.synchronize()?;
        let address = |view: &View| {
            arena.address()
                + packing.offsets[view.buffer.0]
                + (view.offset * view.dtype.size() as i64) as u64
        };
        let target = target_of(context);
        let mut loaded: HashMap<(usize, usize), Function> = HashMap::new();
        let mut variants = Vec::new();
        let mut streams_used = vec![false; schedule.streams];
        for (i, layer) in lowering.layers.iter().enumerate() {
            let slot = &schedule.slots[i];
            // A launch that waits for other streams starts when all of them have ended.
            let follows = streams_used[slot.stream] && slot.after.is_empty();
            streams_used[slot.stream] = true;
            let mut of_layer = Vec::new();
            for (v, (candidate, code)) in all[i].iter().enumerate() {
                let function = match loaded.entry((tactics[i].distinct, v)) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => new.insert(load(context, (candidate, code))?.1).clone(),
                };
                let arguments = candidate.arguments.iter().map(|a| match *a {
                    Argument::Input(k) => match &layer.operands[k] {
                        Operand::View(view) => address(view),
                        Operand::Constant(c) => weights.address() + constant_at[*c] as u64,
                    },
                    Argument::Output(k) => address(&layer.outputs[k]),
                    Argument::Constant(k) => {
                        weights.address() + constant_at[layer.constants[k]] as u64
                    }
                    Argument::Scratch(s) if s < candidate.zeroed => {
                        state.address() + (ticket_at[i] + s) as u64
                    }
                    Argument::Scratch(s) => {
                        let at = zeroed + slot.stream * partial + s - candidate.zeroed;
                        state.address() + at as u64
                    }
                    Argument::Null => 0,
                });
                let launch = geometry(candidate, &target, follows);
                of_layer.push((function, launch, arguments.collect()));
            }
            variants.push(of_layer);
        }
        let side: Vec<Stream> =
            (1..schedule.streams).map(|_| Stream::new(context)).collect::<Result<_, _>>()?;
        let mut awaited = vec![false; lowering.layers.len()];
        schedule.slots.iter().flat_map(|s| &s.after).for_each(|&p| awaited[p] = true);
        let mark = |&a: &bool| if a { Event::timed(context).map(Some) } else { Ok(None) };
        let marks: Vec<Option<Event>> = awaited.iter().map(mark).collect::<Result<_, _>>()?;
        let selected = vec![0; variants.len()];
        let graph = capture(&stream, &side, &marks, schedule, &variants, &selected)?;
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
            variants,
            selected,
            schedule: schedule.clone(),
            side,
            marks,
            stream,
            arena,
            _weights: weights,
            _state: state,
            arena_bytes,
            weight_bytes: at,
        })
    }

    /// Takes another finalist for each layer: 0 is the tactic's own candidate.
    pub fn select(&mut self, selected: &[usize]) -> Result<(), GpuError> {
        self.selected = selected.to_vec();
        self.graph = capture(
            &self.stream,
            &self.side,
            &self.marks,
            &self.schedule,
            &self.variants,
            &self.selected,
        )?;
        Ok(())
    }

    /// Kernels of one run.
    pub fn kernels(&self) -> usize {
        self.variants.len()
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

fn capture(
    stream: &Stream,
    side: &[Stream],
    marks: &[Option<Event>],
    schedule: &Schedule,
    variants: &[Vec<Bound>],
    selected: &[usize],
) -> Result<Graph, GpuError> {
    stream.capture(|| {
        for (i, slot) in schedule.slots.iter().enumerate() {
            let on = if slot.stream == 0 { stream } else { &side[slot.stream - 1] };
            for &p in &slot.after {
                on.wait(marks[p].as_ref().expect("a mark for every layer waited for"))?;
            }
            let (function, launch, arguments) = &variants[i][selected[i]];
            // SAFETY: arguments are what the kernel's candidate says it takes, bound to buffers
            // of the sizes the lowering gave, which live as long as the program that owns the
            // graph; the arena's packing keeps buffers that are live together apart.
            unsafe { function.launch(launch, arguments, on)? };
            if let Some(mark) = &marks[i] {
                mark.record(on)?;
            }
        }
        Ok(())
    })
}
