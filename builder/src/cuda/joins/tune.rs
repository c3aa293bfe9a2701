//! Which layers are joined: those that are faster as one, where the network with them is faster
//! too.

use std::sync::Arc;

use super::{Join, Names, join, lowered, name, names, possible};
use crate::BuildError;
use crate::cuda::limits::Fixed;
use crate::cuda::lower::Lowering;
use crate::cuda::make::tune::{Tuned, Tuner};
use crate::cuda::speed::Version;
use crate::progress::Progress;

/// What joined layers, and a network with them, must gain over what is without.
const GAIN: f64 = 0.99;

/// Of joins with the time that each saves, microseconds, those that are made: the largest first,
/// none with a layer of another.
fn chosen(mut joins: Vec<(Join, f64)>) -> Vec<Join> {
    joins.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut out: Vec<Join> = Vec::new();
    for (join, _) in joins {
        if !out.iter().flat_map(|j| &j.members).any(|i| join.members.contains(i)) {
            out.push(join);
        }
    }
    out.sort_by_key(|j| j.members[0]);
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
/// with joined layers where there are some. Their names are returned.
pub fn tune(
    tuner: &mut Tuner,
    plans: &mut [Version],
    at: usize,
    tuned: Tuned,
    (progress, share): (&mut dyn Progress, f64),
) -> Result<(Tuned, Vec<Names>), BuildError> {
    let lowering = Arc::clone(&plans[at].lowering);
    let runs = |j: &Join| !j.layer.candidates(&tuner.target).is_empty();
    let joins: Vec<Join> = possible(&lowering).into_iter().filter(runs).collect();
    let times: Option<Vec<f64>> = tuned.tactics.iter().map(|t| t.time_us).collect();
    let (Some(times), Some(network_us)) = (times, tuned.network_us) else {
        return Ok((tuned, Vec::new()));
    };
    if joins.is_empty() || tuner.clock().is_none() || tuner.late() {
        return Ok((tuned, Vec::new()));
    }
    let alone = Lowering {
        layers: joins.iter().map(|j| lowered(&lowering, j)).collect(),
        ..(*lowering).clone()
    };
    let memory = fixed(tuner, plans, at, &lowering)?;
    let tactics = tuner.choose(&alone, memory, None, (&mut *progress, share * 0.5))?;
    let mut faster = Vec::new();
    for (join, tactic) in joins.into_iter().zip(&tactics) {
        let apart: f64 = join.members.iter().map(|&i| times[i]).sum();
        if let Some(us) = tactic.time_us
            && us < apart * GAIN
        {
            log::debug!("{}: {us} us, {apart} apart", name(&lowering, &join));
            faster.push((join, apart - us));
        }
    }
    let joins = chosen(faster);
    if joins.is_empty() {
        return Ok((tuned, Vec::new()));
    }
    let joined = join(&lowering, &joins.iter().collect::<Vec<_>>());
    let memory = fixed(tuner, plans, at, &joined)?;
    let tactics = tuner.choose(&joined, memory, None, (&mut *progress, share * 0.1))?;
    let with = tuner.settle(&joined, tactics, memory, (&mut *progress, share * 0.4))?;
    log::info!(
        "{} times several convolutions in one kernel: {:?} us, {network_us} without",
        joins.len(),
        with.network_us
    );
    if with.network_us.is_none_or(|us| us >= network_us * GAIN) {
        return Ok((tuned, Vec::new()));
    }
    let names = joins.iter().map(|j| names(&lowering, j)).collect();
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
        let layer = make(&mut Random::new(1));
        let join = |members| Join { members, layer: layer.clone(), keep: false };
        let of = |saved: [f64; 5]| {
            let members = [vec![0, 1], vec![1, 2], vec![2, 3], vec![5, 6], vec![0, 1, 2]];
            let joins = members.into_iter().zip(saved).map(|(m, us)| (join(m), us)).collect();
            chosen(joins).into_iter().map(|j| j.members).collect::<Vec<_>>()
        };
        assert_eq!(of([1.0, 3.0, 1.0, 0.5, 2.0]), [vec![1, 2], vec![5, 6]]);
        assert_eq!(of([2.0, 1.0, 1.5, 0.5, 1.8]), [vec![0, 1], vec![2, 3], vec![5, 6]]);
        assert_eq!(of([2.0, 1.0, 1.5, 0.5, 3.0]), [vec![0, 1, 2], vec![5, 6]]);
    }
}
