//! Element-wise layers of which one alone reads the other's result become one layer: its steps
//! are the first one's and then the second one's, and what lies between is never stored.

use std::collections::{HashMap, HashSet};

use tobiuo_kernels::{Layer, MapArgument, MapLayer, Strided};
use tobiuo_tensor::DType;

use super::{Lowered, Lowering, Operand};
use crate::cuda::view::BufferId;

/// Operands that a joined layer has at most: a kernel takes 16 arguments, and each operand costs
/// registers.
const MOST_OPERANDS: usize = 8;
/// Steps that it has at most.
const MOST_STEPS: usize = 24;

/// Joins what can be joined. The buffers that nothing touches any more are returned.
pub(super) fn join(lowering: &mut Lowering) -> HashSet<BufferId> {
    let mut layers: Vec<Option<Lowered>> =
        std::mem::take(&mut lowering.layers).into_iter().map(Some).collect();
    let mut traffic = Traffic::of(&layers);
    let ports = lowering.inputs.iter().chain(&lowering.outputs);
    let bound: HashSet<BufferId> = ports.map(|view| view.buffer).collect();
    let mut gone = HashSet::new();
    for second in 0..layers.len() {
        while let Some((first, buffer, joined)) = (layers[second].as_ref())
            .and_then(|layer| joined_with_one_before(layer, second, &layers, &traffic, &bound))
        {
            layers[first] = None;
            layers[second] = Some(joined);
            traffic.moved(first, second);
            gone.insert(buffer);
        }
    }
    lowering.layers = layers.into_iter().flatten().collect();
    gone
}

/// The layers that read and that write each buffer.
struct Traffic {
    readers: HashMap<BufferId, HashSet<usize>>,
    writers: HashMap<BufferId, HashSet<usize>>,
}

impl Traffic {
    fn of(layers: &[Option<Lowered>]) -> Traffic {
        let mut traffic = Traffic { readers: HashMap::new(), writers: HashMap::new() };
        for (i, layer) in layers.iter().enumerate() {
            let Some(layer) = layer else { continue };
            for view in layer.views() {
                traffic.readers.entry(view.buffer).or_default().insert(i);
            }
            for view in &layer.outputs {
                traffic.writers.entry(view.buffer).or_default().insert(i);
            }
        }
        traffic
    }

    /// The only layer that writes a buffer, where the only one that reads it is `reader`.
    fn between(&self, buffer: BufferId, reader: usize) -> Option<usize> {
        let only = |of: &HashMap<BufferId, HashSet<usize>>| {
            let all = of.get(&buffer)?;
            all.iter().next().copied().filter(|_| all.len() == 1)
        };
        only(&self.writers).filter(|_| only(&self.readers) == Some(reader))
    }

    /// What one layer read another one reads now.
    fn moved(&mut self, from: usize, to: usize) {
        for readers in self.readers.values_mut() {
            if readers.remove(&from) {
                readers.insert(to);
            }
        }
    }
}

/// A layer joined with one whose result it reads: that one's number, the buffer between them.
fn joined_with_one_before(
    layer: &Lowered,
    number: usize,
    layers: &[Option<Lowered>],
    traffic: &Traffic,
    bound: &HashSet<BufferId>,
) -> Option<(usize, BufferId, Lowered)> {
    layer.views().map(|view| view.buffer).find_map(|buffer| {
        let before = traffic.between(buffer, number).filter(|_| !bound.contains(&buffer))?;
        let joined = joined(layers[before].as_ref()?, layer, buffer)?;
        Some((before, buffer, joined))
    })
}

/// Where two operands of a box lie alike: strides along one element do not matter.
fn alike(a: &Strided, b: &Strided, dims: &[usize]) -> bool {
    let mut strides = a.strides.iter().zip(&b.strides).zip(dims);
    a.dtype == b.dtype
        && a.offset == b.offset
        && a.strides.len() == b.strides.len()
        && strides.all(|((a, b), &dim)| a == b || dim == 1)
}

/// Both layers as one, where the second reads each element of the buffer between them as the
/// first leaves it.
fn joined(first: &Lowered, second: &Lowered, between: BufferId) -> Option<Lowered> {
    let (Layer::Map(a), Layer::Map(b)) = (&first.layer, &second.layer) else { return None };
    let made = first.outputs.first()?;
    if (&a.dims, a.valid) != (&b.dims, b.valid) || a.output.offset != 0 {
        return None;
    }
    // Floats keep their f32 between steps; anything else has to be of the type that it was stored
    // with.
    let result = a.steps.last()?.dtype;
    if result != a.output.dtype && (result, a.output.dtype) != (DType::F32, DType::F16) {
        return None;
    }
    let mut operands = first.operands.clone();
    let mut inputs = a.inputs.clone();
    let mut steps = a.steps.clone();
    let last = MapArgument::Step(steps.len() - 1);
    let mut places = Vec::new();
    for (operand, input) in second.operands.iter().zip(&b.inputs) {
        places.push(match operand {
            Operand::View(view) if view.buffer == between => {
                if view.offset != made.offset || !alike(input, &a.output, &a.dims) {
                    return None;
                }
                last
            }
            _ => {
                let known = (operands.iter().zip(&inputs)).position(|k| k == (operand, input));
                MapArgument::Input(known.unwrap_or_else(|| {
                    operands.push(operand.clone());
                    inputs.push(input.clone());
                    inputs.len() - 1
                }))
            }
        });
    }
    for step in &b.steps {
        let mut step = step.clone();
        for argument in &mut step.arguments {
            *argument = match *argument {
                MapArgument::Input(i) => places[i],
                MapArgument::Step(i) => MapArgument::Step(i + a.steps.len()),
                literal => literal,
            };
        }
        steps.push(step);
    }
    if inputs.len() > MOST_OPERANDS || steps.len() > MOST_STEPS {
        return None;
    }
    let layer =
        MapLayer { dims: b.dims.clone(), valid: b.valid, inputs, output: b.output.clone(), steps };
    Some(Lowered {
        name: second.name.clone(),
        op: second.op,
        layer: Layer::Map(layer),
        operands,
        outputs: second.outputs.clone(),
        constants: Vec::new(),
        flops: first.flops + second.flops,
    })
}
