//! What a calibration cache says of this network, and whether it is of this network at all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::Int8Options;
use super::cache::Cached;
use super::calibrators::Calibrator;
use super::insert::{self, Ranges};
use super::report::Int8Report;
use super::select::{self, Kind, kind};
use crate::BuildError;
use crate::graph::{Graph, ValueId};

/// Reads the cache that the options name, where it is there.
pub(super) fn read(options: &Int8Options, model_hash: &str) -> Result<Option<Cached>, BuildError> {
    let Some(path) = options.cache.as_ref().filter(|p| p.exists()) else { return Ok(None) };
    let damaged =
        |why: &str| BuildError::Damaged(format!("--calibration-cache {}: {why}", path.display()));
    let bytes =
        std::fs::read(path).map_err(|error| BuildError::Io { path: path.clone(), error })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| damaged("not a calibration cache: it is not text (UTF-8)"))?;
    let cached = Cached::parse(&text).map_err(|e| damaged(&e))?;
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    match &cached.model {
        Some(of) if of != model_hash => Err(BuildError::Usage(format!(
            "--calibration-cache {}: it is of another model ({}, this one is {}); name another \
             file, or delete it and calibrate again",
            path.display(),
            short(of),
            short(model_hash)
        ))),
        _ => {
            same_calibrator(path, &cached, options.calibrator)?;
            Ok(Some(cached))
        }
    }
}

/// A calibrator that is asked for must be the one that made the cache.
fn same_calibrator(
    path: &Path,
    cached: &Cached,
    wanted: Option<Calibrator>,
) -> Result<(), BuildError> {
    match wanted.map(|c| c.to_string()) {
        Some(wanted) if wanted != cached.calibrator => Err(BuildError::Usage(format!(
            "--calibrator {wanted}: the scales of --calibration-cache {} were chosen by {}; leave \
             --calibrator out, or name another file (or delete this one) and calibrate again",
            path.display(),
            cached.calibrator
        ))),
        _ => Ok(()),
    }
}

/// The cache's tensors under this graph's names.
///
/// # Errors
///
/// It does not tell its model, as TensorRT's do not, and has not even half of what the layers of
/// this network need.
pub(super) fn of_network(
    graph: &Graph,
    cached: Cached,
    options: &Int8Options,
    report: &mut Int8Report,
) -> Result<Ranges, BuildError> {
    let all = cached.ranges.len();
    if cached.model.is_some() {
        let names: HashSet<&str> = graph.values().map(|(_, v)| v.name.as_str()).collect();
        let here = cached.ranges.into_iter().filter(|(name, _)| names.contains(name.as_str()));
        let ranges: Ranges = here.collect();
        if ranges.len() < all {
            report.notes.push(format!(
                "{} of the {all} tensors in the calibration cache are not in this network",
                all - ranges.len()
            ));
        }
        return Ok(ranges);
    }
    let ranges = renamed(graph, &cached.ranges);
    let known = insert::ranges_of_values(graph, &ranges);
    let layers = products(graph, &BTreeMap::new());
    let without = layers.iter().filter(|(_, input)| !known.contains_key(input)).count();
    if 2 * without > layers.len() {
        let path = options.cache.clone().unwrap_or_default();
        let some = |names: &mut dyn Iterator<Item = &str>| {
            names.take(3).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
        };
        return Err(BuildError::Usage(format!(
            "--calibration-cache {}: the inputs of {without} of this network's {} layers are not in \
             it: it is of another network, or of one whose tensors have other names (it has {}; the \
             layers' inputs are {}); calibrate with --calibration",
            path.display(),
            layers.len(),
            some(&mut cached.ranges.keys().map(String::as_str)),
            some(&mut layers.iter().map(|&(_, v)| graph.value(v).name.as_str())),
        )));
    }
    if without > 0 {
        report.notes.push(format!(
            "the inputs of {without} of {} layers are not in the calibration cache",
            layers.len()
        ));
    }
    Ok(ranges)
}

/// The ranges of a cache by TensorRT under this graph's names.
/// A tensor may have the name that the network gives it outside, and of a dump that of its layer:
/// dumps number a layer's results (`Conv-1_0`), chainer-trt's caches do not.
fn renamed(graph: &Graph, cached: &Ranges) -> Ranges {
    let outside: HashMap<ValueId, &str> =
        graph.outputs.iter().map(|(name, v)| (*v, name.as_str())).collect();
    let mut ranges = Ranges::new();
    for (v, value) in graph.values() {
        let names =
            [Some(value.name.as_str()), outside.get(&v).copied(), value.name.strip_suffix("_0")];
        let found = names.into_iter().flatten().find_map(|name| cached.get(name));
        ranges.extend(found.map(|range| (value.name.clone(), *range)));
    }
    ranges
}

/// Heavy layers that have a form on integers and are not to stay in floats, with their inputs.
pub(super) fn products(graph: &Graph, floats: &BTreeMap<String, String>) -> Vec<(usize, ValueId)> {
    let names = floats.keys().cloned().collect();
    let mut list: Vec<usize> = select::select(graph, &names).nodes.into_iter().collect();
    list.retain(|&i| kind(graph, &graph.nodes[i]) == Kind::Product);
    list.sort_unstable();
    list.into_iter().map(|i| (i, graph.nodes[i].inputs[0])).collect()
}

/// Refuses what would be an engine in floats that says INT8 because no range is known.
pub(super) fn check(
    graph: &Graph,
    floats: &BTreeMap<String, String>,
    report: &Int8Report,
) -> Result<(), BuildError> {
    let could = products(graph, floats).len();
    if could == 0 || report.layers.iter().any(|l| l.int8) {
        return Ok(());
    }
    Err(BuildError::Input(format!(
        "calibration: of no input of the {could} layers that could compute on integers a range is \
         known, so that none would; calibrate on samples like those the network sees"
    )))
}
