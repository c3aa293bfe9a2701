//! The accuracy gate: layers that hurt most for the time they save go back to floats until the
//! loss is within what is allowed.

use std::collections::{BTreeMap, HashSet};

use tobiuo_tensor::Tensor;

use super::clock::Clock;
use super::insert::Ranges;
use super::measure::Measure;
use super::report::{GateReport, GateStep};
use super::runner::Times;
use super::{Int8Options, apply, error_of, insert, known};
use crate::BuildError;
use crate::graph::Graph;
use crate::progress::Progress;

/// Samples that layers are ranked on.
const RANKED_ON: usize = 8;
/// Microseconds below which a layer's cost counts as this much, of the network's: a layer that is
/// no slower in floats costs next to nothing.
const LEAST: f64 = 1e-3;
/// Accuracies are fractions: 0.96 - 0.955 is a little more than 0.005.
const ROUNDING: f64 = 1e-9;

/// True for a loss of at most what is allowed.
fn within(drop: f64, allowed: f64) -> bool {
    drop <= allowed + ROUNDING
}

/// Layers put back in each step: few first, where each counts.
fn batch(step: usize) -> usize {
    match step {
        0..=3 => 1,
        4..=6 => 2,
        7..=9 => 4,
        _ => 8,
    }
}

/// Names of the layers on integers: those that can be and whose input has a range.
fn int8_layers(graph: &Graph, ranges: &Ranges, floats: &BTreeMap<String, String>) -> Vec<String> {
    let known = insert::ranges_of_values(graph, ranges);
    let layers = known::products(graph, floats).into_iter();
    let on_integers = layers.filter(|(_, input)| known.contains_key(input));
    on_integers.map(|(i, _)| graph.nodes[i].name.clone()).collect()
}

/// A layer's own time, whatever was fused behind it.
fn time_of(times: &Times, layer: &str) -> f64 {
    let own = |name: &str| {
        name == layer || name.strip_prefix(layer).is_some_and(|rest| rest.starts_with(" + "))
    };
    times.layers.iter().filter(|(name, _)| own(name)).map(|(_, t)| t).sum()
}

/// Adds layers to `floats` until the loss is at most what is allowed.
///
/// # Errors
///
/// [`BuildError::Accuracy`] when it is not even with a single layer left on integers.
pub fn hold(
    graph: &Graph,
    ranges: &Ranges,
    floats: &mut BTreeMap<String, String>,
    held: &[(Vec<Tensor>, Vec<Tensor>)],
    options: &Int8Options,
    clock: &mut dyn Clock,
    progress: &mut dyn Progress,
) -> Result<GateReport, BuildError> {
    let allowed = options.accuracy_drop.unwrap_or_default();
    let measure = Measure::new(graph, held, options)?;
    progress.advance(0.0, "in floats");
    let baseline = measure.value(graph, &mut |done| progress.advance(done * 0.2, "in floats"))?;
    measure.check(baseline, allowed)?;
    let samples = measure.samples(graph, RANKED_ON)?;
    let Some((first, _)) = samples.first() else {
        return Err(BuildError::Usage("--accuracy-drop: there is nothing to measure on".into()));
    };
    let float_times = clock.times(graph, first)?;
    let mut report = GateReport {
        metric: measure.name().into(),
        pictures: measure.pictures(),
        baseline,
        allowed,
        baseline_microseconds: float_times.network,
        clock: clock.name().into(),
        steps: Vec::new(),
        holds: false,
    };
    let mut ranking: Option<Vec<(String, f64, f64)>> = None;
    let mut put_back = Vec::new();
    loop {
        let step = report.steps.len();
        let lowered = apply(graph, ranges, floats)?;
        let what = format!("step {step}");
        let done = 1.0 - 0.8 / (1.0 + step as f64);
        let value = measure.value(&lowered, &mut |_| progress.advance(done, &what))?;
        let times = clock.times(&lowered, first)?;
        let left = int8_layers(graph, ranges, floats);
        let drop = measure.drop(baseline, value);
        report.steps.push(GateStep {
            put_back: std::mem::take(&mut put_back),
            int8_layers: left.len(),
            value,
            drop,
            microseconds: times.network,
        });
        // Where no layer is heavy nothing is lost.
        if within(drop, allowed) && (!left.is_empty() || step == 0) {
            report.holds = true;
            break;
        }
        if left.is_empty() {
            break;
        }
        let order = match &mut ranking {
            Some(order) => order,
            None => ranking.insert(rank(
                graph,
                ranges,
                floats,
                &samples,
                (&float_times, &times),
                progress,
            )?),
        };
        let still: HashSet<&String> = left.iter().collect();
        order.retain(|(name, ..)| still.contains(name));
        for (name, gain, cost) in order.iter().take(batch(step)) {
            let why = format!(
                "for accuracy: alone it takes {gain:.4} off the outputs' error and adds {cost:.2} \
                 us ({})",
                report.clock
            );
            floats.insert(name.clone(), why);
            put_back.push(name.clone());
        }
        if put_back.is_empty() {
            break;
        }
    }
    write_picture(graph, &report, options)?;
    if report.holds {
        return Ok(report);
    }
    let best = report.steps.iter().map(|s| s.drop).fold(f64::INFINITY, f64::min);
    let why = format!(
        "the accuracy gate does not hold: {} is {baseline:.4} in floats, a loss of {allowed} is \
         allowed, and the least loss with any layer in INT8 is {best:.4}; allow more, calibrate \
         on pictures more like those the network sees, or build without --precision int8\n{}",
        report.metric,
        report.to_text()
    );
    Err(BuildError::Accuracy { why, gate: Some(Box::new(report)) })
}

fn write_picture(
    graph: &Graph,
    report: &GateReport,
    options: &Int8Options,
) -> Result<(), BuildError> {
    let Some(path) = &options.svg else { return Ok(()) };
    let title = format!("{}: accuracy against latency", graph.metadata.model);
    tobiuo_tensor::file::replace(path, super::svg::draw(&title, report).as_bytes())
        .map_err(|error| BuildError::Io { path: path.clone(), error })
}

/// Layers by the error that putting one back takes away, for the time it costs; with both.
fn rank(
    graph: &Graph,
    ranges: &Ranges,
    floats: &BTreeMap<String, String>,
    samples: &[(Vec<Tensor>, Vec<Tensor>)],
    (in_floats, in_int8): (&Times, &Times),
    progress: &mut dyn Progress,
) -> Result<Vec<(String, f64, f64)>, BuildError> {
    let all = error_of(&apply(graph, ranges, floats)?, samples)?;
    let mut ranked = Vec::new();
    let layers = int8_layers(graph, ranges, floats);
    for (i, name) in layers.iter().enumerate() {
        progress.advance(0.2 + 0.4 * i as f64 / layers.len() as f64, name);
        let mut without = floats.clone();
        without.insert(name.clone(), String::new());
        let error = error_of(&apply(graph, ranges, &without)?, samples)?;
        let gain = if all.is_finite() { all - error } else { f64::from(error.is_finite()) };
        let cost = time_of(in_floats, name) - time_of(in_int8, name);
        ranked.push((name.clone(), gain, cost));
    }
    let least = in_floats.network * LEAST;
    let worth = |(_, gain, cost): &(String, f64, f64)| {
        if *gain > 0.0 { gain / cost.max(least) } else { *gain }
    };
    ranked.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
    Ok(ranked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_of_exactly_what_is_allowed_holds() {
        let drop = 0.96 - 0.955;
        assert!(drop > 0.005 && within(drop, 0.005));
        assert!(!within(0.0051, 0.005) && !within(f64::INFINITY, 1.0));
    }
}
