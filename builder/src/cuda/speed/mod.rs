//! FP16 where it is faster: which layers of an INT8 engine compute in floats after all.
//!
//! Layers are timed both ways, and the cheapest mixture is found with the conversions counted
//! that it needs ([`units`], [`cut`]). Then the network is timed whole, on integers, mixed, and
//! in FP16, because what is fastest alone is not always fastest there; the fastest is kept.

mod clock;
pub mod cut;
pub mod units;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tobiuo_engine::Precision;
use tobiuo_kernels::Target;

use super::joins::{self, Names};
use super::lower::{Lowering, lower};
use super::make::tune::{Tuned, Tuner};
use crate::BuildError;
use crate::graph::Graph;
use crate::progress::Progress;
use crate::quantize::report::{Faster, Mixture, SpeedReport};
use crate::quantize::select::{Kind, kind, select};
use crate::quantize::{self, insert::Ranges};
use crate::tactics::choose::description;
use crate::tactics::{Effort, Tactic, TacticError, compare};
use units::{Unit, Units};

/// A plan to be made.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// Items per run.
    pub batch: usize,
    /// After the passes; in floats where layers are to compute on integers.
    pub graph: Graph,
    /// The ranges of its tensors, and the layers that stay in floats in any case.
    pub int8: Option<(&'a Ranges, &'a BTreeMap<String, String>)>,
}

impl Source<'_> {
    /// The graph to lower, with what `speed` says in floats.
    pub fn graph(&self, speed: Option<&SpeedReport>) -> Result<Graph, BuildError> {
        let names = speed.iter().flat_map(|s| &s.layers).flat_map(|l| &l.nodes);
        self.without(names.cloned())
    }

    fn without(&self, more: impl Iterator<Item = String>) -> Result<Graph, BuildError> {
        let Some((ranges, floats)) = self.int8 else { return Ok(self.graph.clone()) };
        let mut floats = floats.clone();
        floats.extend(more.map(|name| (name, String::new())));
        let graph = quantize::apply(&self.graph, ranges, &floats)?;
        Ok(if heavy(&graph) == 0 { self.graph.clone() } else { graph })
    }
}

/// A graph and its lowering.
#[derive(Clone, Debug)]
pub struct Version {
    /// After the passes.
    pub graph: Graph,
    /// As layers over memory; copies share the packed constants.
    pub lowering: Arc<Lowering>,
}

impl Version {
    /// Lowers a graph.
    pub fn of(graph: Graph, precision: Precision) -> Result<Version, BuildError> {
        let lowering = Arc::new(lower(&graph, precision)?);
        Ok(Version { graph, lowering })
    }

    /// With layers joined as a record says.
    pub fn joined(self, names: &[Names]) -> Result<Version, TacticError> {
        if names.is_empty() {
            return Ok(self);
        }
        let joined = joins::join_named(&self.lowering, names).ok_or_else(|| {
            TacticError::Record(format!("layers that it joins cannot be joined: {names:?}"))
        })?;
        Ok(Version { lowering: Arc::new(joined), ..self })
    }
}

/// How many times slower in FP16 a layer must be, by the few candidates that are tried at first,
/// not to be timed with all of them.
const FAR: f64 = 1.25;
/// The same of the network in FP16.
const NEAR: f64 = 1.08;
/// A mixture must gain this much over one with more integers.
const GAIN: f64 = 0.998;
/// Of a plan's share of the build, what timing layers takes.
const LAYERS_SHARE: f64 = 0.8;

/// Microseconds of a kernel that reads a tensor as f16 and stores it as integers, or the other
/// way.
fn conversion(target: &Target, shape: &[usize]) -> f64 {
    let bytes = 3 * shape.iter().product::<usize>();
    1.5 + bytes as f64 / (target.bandwidth_gbs * 1e3)
}

/// What the cost model says of each layer.
fn predicted(lowering: &Lowering, target: &Target) -> Vec<f64> {
    let best =
        |c: Vec<tobiuo_kernels::Candidate>| c.first().map_or(f64::INFINITY, |c| c.predicted_us);
    lowering.layers.iter().map(|l| best(l.layer.candidates(target))).collect()
}

fn measured(tactics: &[Tactic]) -> Option<Vec<f64>> {
    tactics.iter().map(|t| t.time_us).collect()
}

fn named(lowering: &Lowering, times: &[f64]) -> Vec<(String, f64)> {
    lowering.layers.iter().map(|l| l.name.clone()).zip(times.iter().copied()).collect()
}

/// The nodes of a network that can be on integers.
fn selected(source: &Source) -> HashSet<usize> {
    let Some((_, floats)) = source.int8 else { return HashSet::new() };
    select(&source.graph, &floats.keys().cloned().collect()).nodes
}

/// Heavy layers on integers.
fn heavy(graph: &Graph) -> usize {
    use tobiuo_ops::Op;
    let product = |op: &Op| matches!(op, Op::QuantConv(_) | Op::QuantGemm(_));
    graph.nodes.iter().filter(|n| product(&n.op)).count()
}

/// Kernels for a plan. Of one that may be mixed, `chosen[at]` has all that can be on integers
/// there, and becomes what is fastest; then there is something to tell.
pub fn tune(
    tuner: &mut Tuner,
    source: &Source,
    chosen: &mut [Version],
    at: usize,
    (progress, share): (&mut dyn Progress, f64),
) -> Result<(Tuned, Option<SpeedReport>), BuildError> {
    if source.int8.is_none() || heavy(&chosen[at].graph) == 0 {
        return Ok((plain(tuner, chosen, at, (progress, share))?, None));
    }
    let floats = Version::of(source.graph.clone(), Precision::Int8)?;
    let mut mixing = Mixing { tuner, source, chosen, at, floats };
    if mixing.tuner.clock().is_none() {
        let speed = mixing.by_model()?;
        return Ok((plain(tuner, chosen, at, (progress, share))?, Some(speed)));
    }
    let (tuned, speed) = mixing.by_time((progress, share))?;
    Ok((tuned, Some(speed)))
}

/// Kernels for a plan as it is.
fn plain(
    tuner: &mut Tuner,
    chosen: &[Version],
    at: usize,
    (progress, share): (&mut dyn Progress, f64),
) -> Result<Tuned, BuildError> {
    let fixed = tuner.fixed(&chosen.iter().map(|v| &*v.lowering).collect::<Vec<_>>())?;
    let lowering = &chosen[at].lowering;
    let layers = share * LAYERS_SHARE;
    let tactics = tuner.choose(lowering, fixed, None, (&mut *progress, layers))?;
    tuner.settle(lowering, tactics, fixed, (progress, share * (1.0 - LAYERS_SHARE)))
}

/// Looking for the fastest mixture of a plan.
struct Mixing<'a, 'b> {
    tuner: &'a mut Tuner,
    source: &'a Source<'b>,
    chosen: &'a mut [Version],
    at: usize,
    /// All in floats.
    floats: Version,
}

/// A mixture in the making.
struct Tried {
    what: &'static str,
    version: Version,
    /// Of the units, those in floats.
    in_floats: Vec<bool>,
    tuned: Option<Tuned>,
    layers_us: f64,
    network_us: Option<f64>,
}

impl Tried {
    /// What decides: the whole network where it was timed.
    fn us(&self) -> f64 {
        self.network_us.unwrap_or(self.layers_us)
    }
}

/// Microseconds with whole nanoseconds, as records hold them.
fn nanoseconds(us: f64) -> f64 {
    (us * 1e3).round() / 1e3
}

/// The one to take: the first unless a later one is faster by more than chance.
fn fastest(us: &[f64]) -> usize {
    let mut best = 0;
    for (i, &time) in us.iter().enumerate() {
        if time < us[best] * GAIN {
            best = i;
        }
    }
    best
}

impl Mixing<'_, '_> {
    /// The parts of the network, by what each layer takes on integers and in floats.
    fn units(&self, int8: &[f64], float: &[f64]) -> Units {
        let int8 = named(&self.chosen[self.at].lowering, int8);
        let float = named(&self.floats.lowering, float);
        Units::new(&self.source.graph, &selected(self.source), &int8, &float)
    }

    /// The cheapest mixture; `None` where it is one of the two extremes.
    fn mixed(&self, units: &Units) -> Result<Option<(Version, Vec<bool>)>, BuildError> {
        let graph = &self.source.graph;
        let target = &self.tuner.target;
        let in_floats = units.in_floats(graph, &|shape| conversion(target, shape));
        let free = |i: &usize| units.units[*i].free;
        let some = (0..in_floats.len()).filter(free).any(|i| in_floats[i]);
        let nodes = (0..in_floats.len())
            .filter(free)
            .filter(|&i| in_floats[i])
            .flat_map(|i| &units.units[i].nodes);
        let graph = self.source.without(nodes.map(|&n| graph.nodes[n].name.clone()))?;
        if !some || heavy(&graph) == 0 {
            return Ok(None);
        }
        Ok(Some((Version::of(graph, Precision::Int8)?, in_floats)))
    }

    /// What is told of mixtures of which one was taken.
    fn report(&self, units: &Units, tried: &[Tried], taken: usize, measured: bool) -> SpeedReport {
        let graph = &self.source.graph;
        let all = tried[taken].what == "fp16";
        let mut layers = Vec::new();
        for (unit, &in_floats) in units.units.iter().zip(&tried[taken].in_floats) {
            if unit.free && in_floats {
                layers.push(faster(graph, unit, measured, all));
            }
        }
        let mixture = |(i, t): (usize, &Tried)| Mixture {
            name: t.what.into(),
            int8_layers: heavy(&t.version.graph),
            layers_us: nanoseconds(t.layers_us),
            network_us: t.network_us.map(nanoseconds),
            taken: i == taken,
        };
        SpeedReport {
            batch: self.source.batch,
            measured,
            tried: tried.iter().enumerate().map(mixture).collect(),
            layers,
        }
    }

    /// All on integers, mixed, and in floats, by what layers take; kernels are not chosen yet.
    fn tries(&self, units: &Units) -> Result<Vec<Tried>, BuildError> {
        let tried = |what, version: Version, in_floats| Tried {
            what,
            version,
            in_floats,
            tuned: None,
            layers_us: f64::INFINITY,
            network_us: None,
        };
        let none = vec![false; units.units.len()];
        let all: Vec<bool> = units.units.iter().map(|u| u.free).collect();
        let mut out = vec![tried("int8", self.chosen[self.at].clone(), none)];
        if let Some((version, in_floats)) = self.mixed(units)? {
            out.push(tried("mixed", version, in_floats));
        }
        out.push(tried("fp16", self.floats.clone(), all));
        // One that does not fit into the memory that may be used is none.
        let mut fits = Vec::new();
        for (i, t) in out.into_iter().enumerate() {
            if i == 0 || self.tuner.fixed(&self.plans(&t.version)).is_ok() {
                fits.push(t);
            }
        }
        Ok(fits)
    }

    /// The engine's plans when this one is `version`.
    fn plans<'a>(&'a self, version: &'a Version) -> Vec<&'a Lowering> {
        let of = |(i, v): (usize, &'a Version)| if i == self.at { version } else { v };
        self.chosen.iter().enumerate().map(of).map(|v| &*v.lowering).collect()
    }

    /// What is told where there is no choice.
    fn as_it_is(&self) -> SpeedReport {
        let int8_layers = heavy(&self.chosen[self.at].graph);
        let layers_us = predicted(&self.chosen[self.at].lowering, &self.tuner.target).iter().sum();
        let layers_us = nanoseconds(layers_us);
        let name = "int8".to_string();
        let only = Mixture { name, int8_layers, layers_us, network_us: None, taken: true };
        let batch = self.source.batch;
        SpeedReport { batch, measured: false, tried: vec![only], layers: Vec::new() }
    }

    /// By the cost model alone.
    fn by_model(&mut self) -> Result<SpeedReport, BuildError> {
        let target = self.tuner.target.clone();
        let int8 = predicted(&self.chosen[self.at].lowering, &target);
        let units = self.units(&int8, &predicted(&self.floats.lowering, &target));
        let mut tried = self.tries(&units)?;
        for t in &mut tried {
            t.layers_us = predicted(&t.version.lowering, &target).iter().sum();
        }
        let taken = fastest(&tried.iter().map(Tried::us).collect::<Vec<_>>());
        let report = self.report(&units, &tried, taken, false);
        self.chosen[self.at] = tried.swap_remove(taken).version;
        Ok(report)
    }

    /// By timing layers and networks.
    fn by_time(
        &mut self,
        (progress, share): (&mut dyn Progress, f64),
    ) -> Result<(Tuned, SpeedReport), BuildError> {
        let name = self.name();
        if let Some(known) = self.known(&name) {
            let graph = self.source.graph(Some(&known))?;
            self.chosen[self.at] = Version::of(graph, Precision::Int8)?;
            let tuned = plain(self.tuner, self.chosen, self.at, (progress, share))?;
            return Ok((tuned, known));
        }
        // Which layers are timed with all candidates.
        let max = self.tuner.effort == Effort::Max;
        let mut full: Option<HashSet<String>> = (!max).then(HashSet::new);
        let untimed = self.tuner.tuning.untimed;
        let base = self.chosen[self.at].clone();
        let int8 = self.choose(&base, None, (&mut *progress, share * 0.35))?;
        let floats = self.floats.clone();
        let mut float = match self.choose(&floats, full.as_ref(), (&mut *progress, share * 0.15)) {
            Ok(tactics) => tactics,
            // There is no memory for FP16.
            Err(BuildError::Memory(why)) => {
                log::info!("all that can be stays on integers: {why}");
                let report = self.as_it_is();
                let tuned = plain(self.tuner, self.chosen, self.at, (progress, share * 0.5))?;
                return Ok((tuned, report));
            }
            Err(e) => return Err(e),
        };
        let times = (measured(&int8), measured(&float));
        let (Some(int8_us), Some(float_us), false) = (times.0, times.1, self.tuner.late()) else {
            // Not all is known yet: a later build goes on.
            let report = self.by_model()?;
            self.tuner.tuning.untimed = untimed;
            let tuned = plain(self.tuner, self.chosen, self.at, (progress, share * 0.5))?;
            self.tuner.tuning.untimed = self.tuner.tuning.untimed.max(untimed + 1);
            return Ok((tuned, report));
        };
        let mut units = self.units(&int8_us, &float_us);
        if let Some(full) = &mut full {
            let near = |node: usize| {
                let Unit { int8, float, .. } = units.units[units.of_node[node]];
                float < int8 * FAR + 0.3
            };
            let of = named(&floats.lowering, &float_us);
            let nodes = units::by_name(&self.source.graph);
            for (layer, (name, _)) in floats.lowering.layers.iter().zip(&of) {
                if nodes.get(name.as_str()).is_none_or(|&n| near(n)) {
                    full.insert(description(&layer.layer));
                }
            }
            float = self.choose(&floats, Some(full), (&mut *progress, share * 0.1))?;
            if let Some(float_us) = measured(&float) {
                units = self.units(&int8_us, &float_us);
            }
        }
        let mut tried = self.tries(&units)?;
        let each = share * 0.4 / tried.len() as f64;
        for t in &mut tried {
            let tactics = match t.what {
                "int8" => int8.clone(),
                "fp16" => float.clone(),
                _ => self.choose(&t.version, None, (&mut *progress, each * 0.4))?,
            };
            self.settle(t, tactics, (&mut *progress, each * 0.6))?;
        }
        self.in_turns(&mut tried)?;
        // What was timed with a few candidates only may be faster still.
        let best = tried.iter().map(Tried::us).fold(f64::INFINITY, f64::min);
        let last = tried.len() - 1;
        let closer = full.is_some() && tried[last].what == "fp16";
        if closer && tried[last].us() < best * NEAR && !self.tuner.late() {
            let tactics = self.choose(&floats, None, (&mut *progress, 0.0))?;
            self.settle(&mut tried[last], tactics, (&mut *progress, 0.0))?;
            self.in_turns(&mut tried)?;
        }
        let taken = fastest(&tried.iter().map(Tried::us).collect::<Vec<_>>());
        let report = self.report(&units, &tried, taken, true);
        if !self.tuner.late()
            && let Ok(text) = serde_json::to_string(&report)
        {
            let us = tried[taken].us();
            self.tuner.cache.put(&self.tuner.device_key, &name, &text, us);
            self.tuner.cache.save();
        }
        let Tried { version, tuned, .. } = tried.swap_remove(taken);
        self.chosen[self.at] = version;
        match tuned {
            Some(tuned) => Ok((tuned, report)),
            None => Ok((plain(self.tuner, self.chosen, self.at, (progress, 0.0))?, report)),
        }
    }

    fn choose(
        &mut self,
        version: &Version,
        full: Option<&HashSet<String>>,
        shown: (&mut dyn Progress, f64),
    ) -> Result<Vec<Tactic>, BuildError> {
        // What does not fit as it is may do so in part.
        let fixed = match self.tuner.fixed(&self.plans(version)) {
            Ok(fixed) => fixed,
            Err(_) => self.tuner.fixed(&self.plans(&self.chosen[self.at]))?,
        };
        self.tuner.choose(&version.lowering, fixed, full, shown)
    }

    fn settle(
        &mut self,
        t: &mut Tried,
        tactics: Vec<Tactic>,
        shown: (&mut dyn Progress, f64),
    ) -> Result<(), BuildError> {
        let fixed = self.tuner.fixed(&self.plans(&t.version))?;
        let tuned = self.tuner.settle(&t.version.lowering, tactics, fixed, shown)?;
        t.layers_us = tuned.tactics.iter().filter_map(|t| t.time_us).sum();
        t.network_us = tuned.network_us;
        t.tuned = Some(tuned);
        Ok(())
    }

    /// Times the mixtures in turns, so that a change of the clock meets all of them. With a
    /// limit of memory there may be no room for all at once: then their own times count.
    fn in_turns(&self, tried: &mut [Tried]) -> Result<(), BuildError> {
        let Some(context) = self.tuner.clock() else { return Ok(()) };
        if self.tuner.limits.memory.is_some() || tried.iter().any(|t| t.network_us.is_none()) {
            return Ok(());
        }
        let networks: Vec<_> = (tried.iter())
            .filter_map(|t| {
                let Tuned { tactics, schedule, .. } = t.tuned.as_ref()?;
                Some((&*t.version.lowering, &tactics[..], schedule))
            })
            .collect();
        let times = compare(context, &networks)?;
        for (t, us) in tried.iter_mut().zip(times) {
            t.network_us = Some(us);
            if let Some(tuned) = &mut t.tuned {
                tuned.network_us = Some(us);
            }
        }
        Ok(())
    }

    /// The name of this decision in the tactic cache.
    fn name(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for lowering in [&self.chosen[self.at].lowering, &self.floats.lowering] {
            for layer in &lowering.layers {
                hash.update(layer.name.as_bytes());
                hash.update(description(&layer.layer).as_bytes());
                hash.update(b"\n");
            }
        }
        let how = format!("{:?} {:?}", self.tuner.effort, self.tuner.limits);
        hash.update(how.as_bytes());
        format!("precisions {}", &hash.finalize().to_hex()[..32])
    }

    /// What an earlier build decided for the same networks, if that can be taken.
    fn known(&self, name: &str) -> Option<SpeedReport> {
        let text = self.tuner.cache.note(&self.tuner.device_key, name)?;
        let mut known: SpeedReport = serde_json::from_str(text).ok()?;
        let names: HashSet<&str> = self.source.graph.nodes.iter().map(|n| &n.name[..]).collect();
        let there = |l: &Faster| l.nodes.iter().all(|n| names.contains(&n[..]));
        known.batch = self.source.batch;
        known.layers.iter().all(there).then_some(known)
    }
}

/// What is told of a unit that is in FP16.
fn faster(graph: &Graph, unit: &Unit, measured: bool, all: bool) -> Faster {
    let heavy = |&&n: &&usize| kind(graph, &graph.nodes[n]) == Kind::Product;
    let first = *unit.nodes.iter().find(heavy).unwrap_or(&unit.nodes[0]);
    let node = &graph.nodes[first];
    let how = if measured { "" } else { " by the cost model" };
    let times = format!("{:.2} us in FP16, {:.2} in INT8{how}", unit.float, unit.int8);
    let reason = match unit.float <= unit.int8 {
        true => format!("faster in FP16: {times}"),
        false if all => format!("the whole network is faster in FP16: {times}"),
        false => format!("with its neighbours faster in FP16, without conversions: {times}"),
    };
    Faster {
        name: node.name.clone(),
        op: node.op.name().into(),
        heavy: kind(graph, node) == Kind::Product,
        nodes: unit.nodes.iter().map(|&n| graph.nodes[n].name.clone()).collect(),
        int8_us: nanoseconds(unit.int8),
        fp16_us: nanoseconds(unit.float),
        reason,
    }
}

#[cfg(test)]
mod tests;
