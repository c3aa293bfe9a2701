//! Which pairs are joined: those that are faster than their two layers, where the network with
//! them is faster too.

use std::sync::Arc;

use super::{Names, Pair, join, lowered, names, possible};
use crate::BuildError;
use crate::cuda::limits::Fixed;
use crate::cuda::lower::Lowering;
use crate::cuda::make::tune::{Tuned, Tuner};
use crate::cuda::speed::Version;
use crate::progress::Progress;
use tobiuo_kernels::Layer;

/// What a pair, and a network with pairs, must gain over what is without.
const GAIN: f64 = 0.99;

/// Of pairs with the time that each saves, microseconds, those that are joined: the largest first,
/// none with a layer of another.
fn chosen(mut pairs: Vec<(Pair, f64)>) -> Vec<Pair> {
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut out: Vec<Pair> = Vec::new();
    for (pair, _) in pairs {
        let mine = [pair.first, pair.second];
        if !out.iter().any(|p| mine.contains(&p.first) || mine.contains(&p.second)) {
            out.push(pair);
        }
    }
    out.sort_by_key(|p| p.first);
    out
}

/// Memory that no choice of kernels changes when plan `at` is `lowering`.
fn fixed(
    tuner: &Tuner,
    plans: &[Version],
    at: usize,
    lowering: &Lowering,
) -> Result<Fixed, BuildError> {
    let mut all: Vec<&Lowering> = plans.iter().map(|v| &*v.lowering).collect();
    all[at] = lowering;
    tuner.fixed(&all)
}

/// Joins what is faster joined, of a plan whose kernels were timed: `chosen[at]` becomes the plan
/// with pairs where there are some. Their names are returned.
pub fn tune(
    tuner: &mut Tuner,
    plans: &mut [Version],
    at: usize,
    tuned: Tuned,
    (progress, share): (&mut dyn Progress, f64),
) -> Result<(Tuned, Vec<Names>), BuildError> {
    let lowering = Arc::clone(&plans[at].lowering);
    let runs = |p: &Pair| !Layer::ConvPair(p.layer.clone()).candidates(&tuner.target).is_empty();
    let pairs: Vec<Pair> = possible(&lowering).into_iter().filter(runs).collect();
    let times: Option<Vec<f64>> = tuned.tactics.iter().map(|t| t.time_us).collect();
    let (Some(times), Some(network_us)) = (times, tuned.network_us) else {
        return Ok((tuned, Vec::new()));
    };
    if pairs.is_empty() || tuner.clock().is_none() || tuner.late() {
        return Ok((tuned, Vec::new()));
    }
    let alone = Lowering {
        layers: pairs.iter().map(|p| lowered(&lowering, p)).collect(),
        ..(*lowering).clone()
    };
    let memory = fixed(tuner, plans, at, &lowering)?;
    let tactics = tuner.choose(&alone, memory, None, (&mut *progress, share * 0.5))?;
    let mut faster = Vec::new();
    for (pair, tactic) in pairs.into_iter().zip(&tactics) {
        let apart = times[pair.first] + times[pair.second];
        if let Some(us) = tactic.time_us
            && us < apart * GAIN
        {
            faster.push((pair, apart - us));
        }
    }
    let pairs = chosen(faster);
    if pairs.is_empty() {
        return Ok((tuned, Vec::new()));
    }
    let joined = join(&lowering, &pairs.iter().collect::<Vec<_>>());
    let memory = fixed(tuner, plans, at, &joined)?;
    let tactics = tuner.choose(&joined, memory, None, (&mut *progress, share * 0.1))?;
    let with = tuner.settle(&joined, tactics, memory, (&mut *progress, share * 0.4))?;
    log::info!(
        "{} pairs of convolutions in one kernel each: {:?} us, {network_us} without",
        pairs.len(),
        with.network_us
    );
    if with.network_us.is_none_or(|us| us >= network_us * GAIN) {
        return Ok((tuned, Vec::new()));
    }
    let names = pairs.iter().map(|p| names(&lowering, p)).collect();
    plans[at].lowering = Arc::new(joined);
    Ok((with, names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobiuo_kernels::random::{GENERATORS, Random};

    #[test]
    fn a_layer_is_joined_once_and_where_it_saves_most() {
        let (_, make) = GENERATORS.iter().find(|(name, _)| *name == "conv_pair").unwrap();
        let Layer::ConvPair(layer) = make(&mut Random::new(1)) else { panic!("a pair") };
        let pair = |first, second| Pair { first, second, layer: layer.clone() };
        let of = |saved: [f64; 4]| {
            let ends = [(0, 1), (1, 2), (2, 3), (5, 6)];
            let pairs = ends.iter().zip(saved).map(|(&(a, b), us)| (pair(a, b), us)).collect();
            chosen(pairs).iter().map(|p| p.first).collect::<Vec<_>>()
        };
        assert_eq!(of([1.0, 3.0, 1.0, 0.5]), [1, 5]);
        assert_eq!(of([2.0, 1.0, 1.5, 0.5]), [0, 2, 5]);
    }
}
