//! The per-layer picture: how far each layer's result is from the network's in floats.

use std::collections::HashMap;

use tobiuo_ops::{Op, Quantization};
use tobiuo_tensor::{TensorView, ViewData};

use super::insert::{level, runs, weight_scales};
use super::measure::Sample;
use super::runner::Runner;
use super::select::{Kind, kind};
use crate::BuildError;
use crate::graph::{Graph, Node};

/// What rounding does to a layer, as signal over noise in dB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerError {
    /// Of its weights.
    pub weights: Option<f64>,
    /// Of its result, with all layers before it on integers as they are in the network.
    pub result: Option<f64>,
}

/// Noise and signal, as sums of squares.
#[derive(Clone, Copy, Default)]
struct Power([f64; 2]);

impl Power {
    fn add(&mut self, wanted: f32, got: f32) {
        let (wanted, got) = (f64::from(wanted), f64::from(got));
        self.0[0] += (wanted - got) * (wanted - got);
        self.0[1] += wanted * wanted;
    }

    /// `None` without noise or without signal.
    fn decibels(self) -> Option<f64> {
        let [noise, signal] = self.0;
        (noise > 0.0 && signal > 0.0).then(|| 10.0 * (signal / noise).log10())
    }
}

/// The errors of every layer with weights, by its name, on samples.
pub fn of_layers(
    graph: &Graph,
    lowered: &Graph,
    samples: &[Sample],
) -> Result<HashMap<String, LayerError>, BuildError> {
    let mut out: HashMap<String, LayerError> = HashMap::new();
    // By value: the layer whose result it is, and what its integers stand for.
    let mut results: HashMap<String, (String, Option<Quantization>)> = HashMap::new();
    for node in graph.nodes.iter().filter(|n| kind(graph, n) == Kind::Product) {
        let weights = of_weights(graph, node);
        out.insert(node.name.clone(), LayerError { weights, result: None });
        let Some(made) = lowered.nodes.iter().find(|n| makes(n, &node.name)) else { continue };
        let q = match &made.op {
            Op::QuantConv(c) => c.epilogue.output.map(|o| o.quantization()),
            Op::QuantGemm(g) => g.epilogue.output.map(|o| o.quantization()),
            _ => None,
        };
        let value = lowered.value(made.outputs[0]).name.clone();
        results.insert(value, (node.name.clone(), q));
    }
    if samples.is_empty() {
        return Ok(out);
    }
    let (mut floats, mut integers) = (Runner::new(graph)?, Runner::new(lowered)?);
    let mut powers: HashMap<String, Power> = HashMap::new();
    for (inputs, _) in samples {
        let mut wanted: HashMap<String, Vec<f32>> = HashMap::new();
        floats.observe(inputs, &mut |name, view| {
            if let (true, ViewData::F32(values)) = (results.contains_key(name), view.data) {
                wanted.insert(name.into(), values.to_vec());
            }
        })?;
        integers.observe(inputs, &mut |name, view| {
            let Some((layer, q)) = results.get(name) else { return };
            let Some(wanted) = wanted.get(name) else { return };
            let power = powers.entry(layer.clone()).or_default();
            compare(power, wanted, view, *q);
        })?;
    }
    for (layer, power) in powers {
        if let Some(error) = out.get_mut(&layer) {
            error.result = power.decibels();
        }
    }
    Ok(out)
}

/// True for the node that a layer became, with what was fused behind it.
fn makes(node: &Node, layer: &str) -> bool {
    let rest = node.name.strip_prefix(layer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" + "))
}

fn compare(power: &mut Power, wanted: &[f32], got: TensorView<'_>, q: Option<Quantization>) {
    let Quantization { scale, zero_point } =
        q.unwrap_or(Quantization { scale: 1.0, zero_point: 0 });
    let real = |q: i32| (q - zero_point) as f32 * scale;
    match got.data {
        ViewData::F32(got) => wanted.iter().zip(got).for_each(|(w, g)| power.add(*w, *g)),
        ViewData::I8(got) => {
            wanted.iter().zip(got).for_each(|(w, g)| power.add(*w, real(i32::from(*g))));
        }
        ViewData::U8(got) => {
            wanted.iter().zip(got).for_each(|(w, g)| power.add(*w, real(i32::from(*g))));
        }
        _ => {}
    }
}

/// Of weights rounded to 127 levels on either side of 0, filter by filter.
fn of_weights(graph: &Graph, node: &Node) -> Option<f64> {
    let weights = graph.constant(node.inputs[1])?;
    let axis = match &node.op {
        Op::Gemm(g) => usize::from(!g.trans_b),
        _ => 0,
    };
    let values = weights.as_f32()?;
    let scales = weight_scales(values, weights.shape(), axis);
    let mut power = Power::default();
    for (c, run) in runs(values, weights.shape(), axis) {
        let scale = scales[c];
        run.iter().for_each(|&w| power.add(w, f32::from(level(w / scale)) * scale));
    }
    power.decibels()
}
