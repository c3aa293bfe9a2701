//! Runs a lowered graph on the host by its layers' references: the oracle of lowerings, and of
//! kernels in the memory they run in.

use std::fmt;

use tobiuo_kernels::Layer;
use tobiuo_tensor::Tensor;

use super::lower::{Lowered, Lowering, Operand};
use super::view::View;
use crate::graph::Graph;

/// What buffers hold before anything is written: NaN as f16 and as f32.
const POISON: u8 = 0xff;

/// A layer that would touch memory outside its buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// The layer's name.
    pub layer: String,
    /// Which argument, where it begins, how far it goes, and how much there is, in bytes.
    pub what: String,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer '{}': {}", self.layer, self.what)
    }
}

impl std::error::Error for OutOfBounds {}

fn part<'a>(
    layer: &Lowered,
    name: &str,
    memory: &'a [u8],
    start: i64,
    len: usize,
) -> Result<&'a [u8], OutOfBounds> {
    let begin = usize::try_from(start).unwrap_or(usize::MAX);
    let range = begin..begin.saturating_add(len);
    memory.get(range).ok_or_else(|| OutOfBounds {
        layer: layer.name.clone(),
        what: format!("{name} takes {len} bytes from {start} of {}", memory.len()),
    })
}

fn start(view: &View) -> i64 {
    view.offset * view.dtype.size() as i64
}

/// The outputs' bytes for the inputs' bytes, all dense.
///
/// # Errors
///
/// A layer would touch memory outside what it is given.
pub fn run(lowering: &Lowering, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, OutOfBounds> {
    let mut sizes: Vec<usize> = lowering.buffers.iter().map(|b| b.bytes).collect();
    // The caller's memory has no padding.
    for view in lowering.inputs.iter().chain(&lowering.outputs) {
        sizes[view.buffer.0] = view.shape.iter().product::<usize>() * view.dtype.size();
    }
    let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|&bytes| vec![POISON; bytes]).collect();
    for (view, bytes) in lowering.inputs.iter().zip(inputs) {
        buffers[view.buffer.0][..bytes.len()].copy_from_slice(bytes);
    }
    for layer in &lowering.layers {
        step(lowering, layer, &mut buffers)?;
    }
    let whole = |view: &View| {
        let len = view.shape.iter().product::<usize>() * view.dtype.size();
        buffers[view.buffer.0][..len].to_vec()
    };
    Ok(lowering.outputs.iter().map(whole).collect())
}

/// The outputs of a graph that was lowered, for its inputs in order.
///
/// # Errors
///
/// A layer would touch memory outside what it is given.
pub fn tensors(
    graph: &Graph,
    lowering: &Lowering,
    inputs: &[&Tensor],
) -> Result<Vec<Tensor>, OutOfBounds> {
    let bytes: Vec<&[u8]> = inputs.iter().map(|t| t.data().bytes()).collect();
    let made = run(lowering, &bytes)?;
    let facts = graph.outputs.iter().map(|&(_, v)| graph.fact(v));
    Ok(facts
        .zip(made)
        .map(|(fact, bytes)| {
            let mut tensor = Tensor::zeros(fact.dtype, fact.shape.clone());
            tensor.view_mut().data.bytes_mut().copy_from_slice(&bytes);
            tensor
        })
        .collect())
}

fn step(lowering: &Lowering, layer: &Lowered, buffers: &mut [Vec<u8>]) -> Result<(), OutOfBounds> {
    let extents = Layer::extents(&layer.layer);
    let mut inputs = Vec::new();
    for (i, (operand, &len)) in layer.operands.iter().zip(&extents.inputs).enumerate() {
        let name = format!("operand {i}");
        inputs.push(match operand {
            Operand::View(v) => part(layer, &name, &buffers[v.buffer.0], start(v), len)?,
            Operand::Constant(c) => part(layer, &name, &lowering.constants[*c], 0, len)?,
        });
    }
    let mut constants = Vec::new();
    for (i, (&c, &len)) in layer.constants.iter().zip(&extents.constants).enumerate() {
        constants.push(part(layer, &format!("constant {i}"), &lowering.constants[c], 0, len)?);
    }
    let mut outputs = Vec::new();
    for (i, (view, &len)) in layer.outputs.iter().zip(&extents.outputs).enumerate() {
        let memory = &buffers[view.buffer.0];
        outputs.push(part(layer, &format!("output {i}"), memory, start(view), len)?.to_vec());
    }
    let counts = [
        (layer.operands.len(), extents.inputs.len()),
        (layer.constants.len(), extents.constants.len()),
        (layer.outputs.len(), extents.outputs.len()),
    ];
    if counts.iter().any(|(have, want)| have != want) {
        return Err(OutOfBounds {
            layer: layer.name.clone(),
            what: format!("it is given {counts:?} operands, constants and outputs"),
        });
    }
    layer.layer.reference(&inputs, &constants, &mut outputs);
    for (view, bytes) in layer.outputs.iter().zip(outputs) {
        let at = start(view) as usize;
        buffers[view.buffer.0][at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(())
}
