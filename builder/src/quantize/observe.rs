//! Calibration's pass over the samples: every tensor's magnitudes counted, some samples held
//! back, and what is odd about them.

use std::collections::{BTreeMap, HashSet};

use tobiuo_ops::Op;
use tobiuo_tensor::{Tensor, ViewData};

use super::gpu::{Collector, OnGpu};
use super::histogram::Histogram;
use super::measure::Sample;
use super::report::Int8Report;
use super::runner::Runner;
use super::select::{self, Kind, kind};
use super::source::Source;
use super::{Int8Options, Network};
use crate::BuildError;
use crate::graph::{Graph, ValueId};
use crate::progress::Progress;

/// Samples that are kept apart from the histograms, to compare outputs on.
const HELD_BACK: usize = 24;

/// What calibration saw.
pub(super) struct Seen {
    pub histograms: BTreeMap<String, Histogram>,
    /// Inputs and outputs in floats of the samples that were held back.
    pub held: Vec<Sample>,
    pub skipped: Vec<String>,
    /// Samples whose tensors were counted.
    pub counted: usize,
    /// What counted them.
    pub device: &'static str,
}

/// Where samples are looked at.
enum Place {
    Cpu(Box<Runner>),
    Gpu(Box<Collector>),
}

impl Place {
    /// The GPU where there is one, else the CPU device.
    fn of(
        network: &Network<'_>,
        gpu: Option<OnGpu<'_>>,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<Place, BuildError> {
        if let Some(on) = gpu {
            match Collector::new(network.plain, on, progress, share * 0.3) {
                Ok(collector) => return Ok(Place::Gpu(Box::new(collector))),
                Err(e) => {
                    log::warn!("the CPU calibrates: the network does not run on the GPU: {e}")
                }
            }
        }
        Ok(Place::Cpu(Box::new(Runner::new(network.plain)?)))
    }

    fn name(&self) -> &'static str {
        match self {
            Place::Cpu(_) => "cpu",
            Place::Gpu(_) => "gpu",
        }
    }

    fn outputs(&mut self, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, BuildError> {
        match self {
            Place::Cpu(runner) => runner.run(inputs),
            Place::Gpu(collector) => {
                collector.run(inputs)?;
                collector.outputs(graph)
            }
        }
    }
}

/// Magnitudes counted so far.
struct Counts<'a> {
    graph: &'a Graph,
    observed: HashSet<String>,
    histograms: BTreeMap<String, Histogram>,
}

impl Counts<'_> {
    /// Counts a sample's tensors.
    fn add(&mut self, place: &mut Place, i: usize, inputs: &[Tensor]) -> Result<(), BuildError> {
        match place {
            Place::Gpu(collector) => {
                collector.run(inputs)?;
                collector.histograms(&mut |name, h| self.of(name, i, |all| all.merge(&h)))
            }
            Place::Cpu(runner) => {
                for (&v, tensor) in self.graph.inputs.iter().zip(inputs) {
                    if let Some(values) = tensor.as_f32() {
                        self.of(&self.graph.value(v).name, i, |all| all.add(values))?;
                    }
                }
                let mut failed = None;
                runner.observe(inputs, &mut |name, view| {
                    if let (true, ViewData::F32(values), None) =
                        (self.observed.contains(name), view.data, &failed)
                    {
                        failed = self.of(name, i, |all| all.add(values)).err();
                    }
                })?;
                failed.map_or(Ok(()), Err)
            }
        }
    }

    fn of(
        &mut self,
        name: &str,
        sample: usize,
        add: impl FnOnce(&mut Histogram),
    ) -> Result<(), BuildError> {
        let h = match self.histograms.get_mut(name) {
            Some(h) => h,
            None => self.histograms.entry(name.to_string()).or_default(),
        };
        add(h);
        if h.broken > 0 {
            return Err(broken_tensor(self.graph, name, h.broken, sample));
        }
        Ok(())
    }
}

/// One pass over the samples.
pub(super) fn look(
    network: &Network<'_>,
    options: &Int8Options,
    progress: &mut dyn Progress,
    share: f64,
    only_held: bool,
) -> Result<Seen, BuildError> {
    let Some(path) = &options.calibration else {
        return Err(BuildError::Usage("--calibration is missing".into()));
    };
    let graph = network.plain;
    let mut source = Source::open(path, graph, options.samples.max(1), options.seed)?;
    // A few outputs are not worth compiling kernels for.
    let gpu = network.gpu.filter(|_| !only_held);
    let mut place = Place::of(network, gpu, progress, share)?;
    let on_gpu = matches!(place, Place::Gpu(_));
    progress.stage("calibrating", if on_gpu { share * 0.7 } else { share });
    let observed =
        select::observed(graph).into_iter().map(|v| graph.value(v).name.clone()).collect();
    let mut counts = Counts { graph, observed, histograms: BTreeMap::new() };
    let total = source.len();
    // Some are held back while they come, the numbers kept: what of them is to be counted is only
    // known when all were read.
    let apart = held_apart(total);
    let wanted = if apart == 0 { total.min(HELD_BACK) } else { apart };
    let (mut held, mut numbers, mut counted) = (Vec::new(), Vec::new(), 0);
    source.each(&mut |i, tensors| {
        progress.advance(i as f64 / total as f64, &format!("{} of {total}", i + 1));
        if held.len() < wanted {
            let outputs = place.outputs(graph, tensors)?;
            held.push((tensors.to_vec(), outputs));
            numbers.push(i);
        } else if !only_held {
            counted += 1;
            counts.add(&mut place, i, tensors)?;
        }
        Ok(())
    })?;
    let skipped = std::mem::take(&mut source.skipped);
    if !only_held {
        let apart = held_apart(held.len() + counted);
        for ((inputs, _), &i) in held.iter().zip(&numbers).skip(apart) {
            counted += 1;
            counts.add(&mut place, i, inputs)?;
        }
        // Where none is held back the same ones serve twice.
        held.truncate(if apart == 0 { HELD_BACK } else { apart });
    }
    if held.is_empty() || !only_held && counted == 0 {
        return Err(BuildError::Input(format!(
            "{}: none of its {total} samples could be read",
            path.display()
        )));
    }
    Ok(Seen { histograms: counts.histograms, held, skipped, counted, device: place.name() })
}

/// How many of so many samples are kept apart: a fifth, of few samples none.
fn held_apart(samples: usize) -> usize {
    let fifth = (samples / 5).min(HELD_BACK);
    if fifth < 2 { 0 } else { fifth }
}

fn broken_tensor(graph: &Graph, name: &str, count: u64, sample: usize) -> BuildError {
    let of = |n: &&crate::graph::Node| n.outputs.iter().any(|&o| graph.value(o).name == name);
    let layer = match graph.nodes.iter().find(of) {
        Some(node) => format!("layer '{}' ({})", node.name, node.op.name()),
        None => format!("input '{name}'"),
    };
    BuildError::Input(format!(
        "calibration, sample {}: {layer} gives {count} values that are NaN or infinite; a \
         network that is not right in floats cannot be quantised (tobiuo-builder verify --layers \
         compares layers)",
        sample + 1
    ))
}

/// Notes on what is odd, and errors where nothing good can come of it.
pub(super) fn check(graph: &Graph, seen: &Seen, report: &mut Int8Report) -> Result<(), BuildError> {
    for (name, h) in &seen.histograms {
        if h.is_dead() {
            report.notes.push(format!(
                "tensor '{name}' was 0 in all samples: its layer is dead, or the samples are not \
                 what the network expects; it stays in floats"
            ));
        }
    }
    let dead = seen.histograms.values().filter(|h| h.is_dead()).count();
    if dead > 0 && 2 * dead > seen.histograms.len() {
        let is_dead = |name: &str| seen.histograms.get(name).is_some_and(Histogram::is_dead);
        let made = |v: &ValueId| is_dead(&graph.value(*v).name);
        let first = match graph.nodes.iter().find(|n| n.outputs.iter().any(made)) {
            _ if graph.inputs.iter().any(made) => "an input is the first".to_string(),
            Some(n) => format!("the first is what layer '{}' ({}) makes", n.name, n.op.name()),
            None => String::new(),
        };
        return Err(BuildError::Input(format!(
            "{dead} of {} tensors were 0 in all samples, {first}: that layer is dead, or the samples \
             are not what the network expects (check --mean, --std, --channels)",
            seen.histograms.len()
        )));
    }
    for node in &graph.nodes {
        let (Kind::Product, Some(w)) = (kind(graph, node), node.inputs.get(1)) else { continue };
        let Some(values) = graph.constant(*w).and_then(|t| t.as_f32()) else { continue };
        if values.iter().any(|v| !v.is_finite()) {
            return Err(BuildError::Input(format!(
                "layer '{}' ({}): its weights hold values that are NaN or infinite",
                node.name,
                node.op.name()
            )));
        }
        let filters = graph.shape(*w)[0];
        let dead = match &node.op {
            Op::Conv(_) => values
                .chunks_exact(values.len() / filters.max(1))
                .filter(|c| c.iter().all(|v| *v == 0.0))
                .count(),
            _ => 0,
        };
        if dead > 0 {
            report.notes.push(format!(
                "layer '{}': {dead} of {filters} filters are all zeros: those channels are \
                 constant",
                node.name
            ));
        }
    }
    Ok(())
}
