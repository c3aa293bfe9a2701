//! The last choice is made in the network itself: finalists and schedules are swapped inside the
//! whole graph, and kept only where the network gets faster.
//!
//! Alone, a layer finds its instructions and its input in the nearest cache and no neighbour on
//! the multiprocessors; in the network it does not.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tobiuo_gpu::Context;

use super::choose::source_key;
use super::{Finalist, Program, Tactic, TacticCache, TacticError};
use crate::cuda::lower::Lowering;
use crate::cuda::schedule::Schedule;

/// What settling found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// For each layer the finalist taken; 0: the fastest alone.
    pub selected: Vec<usize>,
    /// On which streams.
    pub schedule: Schedule,
    /// The network's microseconds before and after.
    pub network_us: (f64, f64),
    /// Swaps tried and kept.
    pub tried: (usize, usize),
}

impl Placed {
    /// The tactics that were taken, the others among the finalists and runners-up.
    pub fn take(&self, tactics: &mut [Tactic]) {
        for (tactic, &selected) in tactics.iter_mut().zip(&self.selected) {
            let (Some(at), Some(time_us)) = (selected.checked_sub(1), tactic.time_us) else {
                continue;
            };
            let Finalist { candidate, code, time_us: other } = tactic.finalists[at].clone();
            tactic.runners_up.retain(|(label, _)| *label != candidate.label);
            tactic.runners_up.insert(0, (tactic.candidate.label.clone(), time_us));
            let before = Finalist {
                candidate: std::mem::replace(&mut tactic.candidate, candidate),
                code: std::mem::replace(&mut tactic.code, code),
                time_us,
            };
            tactic.finalists[at] = before;
            tactic.time_us = Some(other);
        }
    }

    fn fits(&self, tactics: &[Tactic]) -> bool {
        let there = |(&s, t): (&usize, &Tactic)| s <= t.finalists.len();
        self.selected.len() == tactics.len()
            && self.selected.iter().zip(tactics).all(there)
            && self.schedule.is_sound(tactics.len())
    }
}

/// As [`settle`], but what an earlier build settled for the same kernels on the same device is
/// taken from the cache.
pub fn settle_once(
    context: &Context,
    lowering: &Lowering,
    tactics: &[Tactic],
    cache: &mut TacticCache,
    device_key: &str,
    deadline: Option<Instant>,
) -> Result<Placed, TacticError> {
    let mut hash = blake3::Hasher::new();
    for t in tactics {
        for candidate in
            std::iter::once(&t.candidate).chain(t.finalists.iter().map(|f| &f.candidate))
        {
            hash.update(source_key(&candidate.source).as_bytes());
        }
        hash.update(b"\n");
    }
    let name = format!("network {}", &hash.finalize().to_hex()[..32]);
    let known = cache.note(device_key, &name);
    if let Some(placed) = known.and_then(|text| serde_json::from_str::<Placed>(text).ok())
        && placed.fits(tactics)
    {
        return Ok(placed);
    }
    let (placed, complete) = settle_until(context, lowering, tactics, deadline)?;
    if let (true, Ok(text)) = (complete, serde_json::to_string(&placed)) {
        cache.put(device_key, &name, &text, placed.network_us.1);
        cache.save();
    }
    Ok(placed)
}

/// Replays of one measurement.
const REPLAYS: usize = 24;
/// Measurements of each network when several are compared.
const TURNS: usize = 5;
/// How often each layer's finalists are tried at the most.
const VISITS: usize = 2;
/// A change must gain this much to be kept.
const GAIN: f64 = 0.998;
/// Shares of a multiprocessor's nearest memory that may be shared memory, percent.
const CARVEOUTS: [u8; 7] = [8, 16, 30, 45, 60, 75, 100];

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Chooses among each layer's finalists and among schedules by timing the whole network.
pub fn settle(
    context: &Context,
    lowering: &Lowering,
    tactics: &[Tactic],
) -> Result<Placed, TacticError> {
    Ok(settle_until(context, lowering, tactics, None)?.0)
}

/// Microseconds of whole networks, timed in turns.
pub fn compare(
    context: &Context,
    networks: &[(&Lowering, &[Tactic], &Schedule)],
) -> Result<Vec<f64>, TacticError> {
    let mut programs = Vec::new();
    for (lowering, tactics, schedule) in networks {
        let mut alone = tactics.to_vec();
        alone.iter_mut().for_each(|t| t.finalists.clear());
        programs.push(Program::new(context, lowering, &alone, schedule, false)?);
    }
    let mut times = vec![Vec::new(); programs.len()];
    let turns = if networks.len() > 1 { TURNS } else { 1 };
    for _ in 0..turns {
        for (program, times) in programs.iter_mut().zip(&mut times) {
            times.push(median(program.time(REPLAYS)?));
        }
    }
    Ok(times.into_iter().map(median).collect())
}

/// The same, but nothing new is tried after `deadline`; false: it was not all tried.
fn settle_until(
    context: &Context,
    lowering: &Lowering,
    tactics: &[Tactic],
    deadline: Option<Instant>,
) -> Result<(Placed, bool), TacticError> {
    let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let times: Vec<f64> = tactics.iter().map(|t| t.time_us.unwrap_or(2.0)).collect();
    let n = lowering.layers.len();
    let mut best_schedule = Schedule::serial(n);
    let mut program = Program::new(context, lowering, tactics, &best_schedule, false)?;
    let before = median(program.time(4 * REPLAYS)?);
    let mut best = before;
    for streams in [2, 3, 4, 6] {
        for crossing in [0.5, 1.5, 3.0, 6.0] {
            if late() {
                break;
            }
            let schedule = Schedule::parallel(lowering, &times, crossing, streams);
            if schedule.slots.iter().all(|s| s.stream == 0) || schedule == best_schedule {
                continue;
            }
            let mut other = Program::new(context, lowering, tactics, &schedule, false)?;
            let time = median(other.time(4 * REPLAYS)?);
            log::info!("{streams} streams, crossing {crossing}: {time:.1} us, best {best:.1}");
            if time < best * GAIN {
                (best, program, best_schedule) = (time, other, schedule);
            }
        }
    }
    let mut selected = vec![0; n];
    if !late() {
        best = share(&mut program, &selected, best)?;
    }
    let distinct = tactics.iter().map(|t| t.distinct).max().unwrap_or(0) + 1;
    let mut weight = vec![0.0; distinct];
    tactics.iter().zip(&times).for_each(|(t, time)| weight[t.distinct] += time);
    let mut order: Vec<usize> = (0..distinct).collect();
    order.sort_by(|&a, &b| weight[b].total_cmp(&weight[a]));
    let mut open = VecDeque::from(order);
    let mut visits = vec![0; distinct];
    let mut tried = (0, 0);
    while let Some(d) = open.pop_front() {
        if late() {
            break;
        }
        visits[d] += 1;
        let taken = selected.clone();
        let Some(first) = tactics.iter().position(|t| t.distinct == d) else { continue };
        let mut incumbent = median(program.time(REPLAYS)?);
        for finalist in 0..=tactics[first].finalists.len() {
            if late() {
                break;
            }
            if finalist == selected[first] {
                continue;
            }
            let mut other = selected.clone();
            for (i, t) in tactics.iter().enumerate() {
                if t.distinct == d {
                    other[i] = finalist;
                }
            }
            program.select(&other)?;
            tried.0 += 1;
            let mut time = median(program.time(REPLAYS)?);
            if time < incumbent * GAIN {
                // Once more, in turn with the one in place.
                program.select(&selected)?;
                incumbent = incumbent.min(median(program.time(REPLAYS)?));
                program.select(&other)?;
                time = time.max(median(program.time(REPLAYS)?));
                if time < incumbent * GAIN {
                    (selected, incumbent) = (other, time);
                    tried.1 += 1;
                }
            }
        }
        program.select(&selected)?;
        best = incumbent;
        if selected == taken {
            continue;
        }
        // What suits a layer depends on its neighbours.
        let pairs = tactics.windows(2).map(|pair| (pair[0].distinct, pair[1].distinct));
        for (changed, neighbour) in pairs.flat_map(|(a, b)| [(a, b), (b, a)]) {
            let again = changed == d && neighbour != d && visits[neighbour] < VISITS;
            if again && !open.contains(&neighbour) {
                open.push_back(neighbour);
            }
        }
    }
    if tried.1 > 0 && !late() {
        best = share(&mut program, &selected, best)?;
    }
    best_schedule.carveout = program.carveout();
    Ok((Placed { selected, schedule: best_schedule, network_us: (before, best), tried }, !late()))
}

/// One share of shared memory for all kernels, so that no multiprocessor waits for the last block
/// of one to change it for the next; or what the driver finds for each. What the network takes
/// then, microseconds, when it takes `best` now.
fn share(program: &mut Program, selected: &[usize], mut best: f64) -> Result<f64, TacticError> {
    let mut taken = program.carveout();
    for percent in CARVEOUTS {
        if taken == Some(percent) {
            continue;
        }
        program.prefer_shared(Some(percent), selected)?;
        let time = median(program.time(4 * REPLAYS)?);
        log::info!("{percent} % of shared memory: {time:.1} us, best {best:.1}");
        if time < best * GAIN {
            (best, taken) = (time, Some(percent));
        }
    }
    program.prefer_shared(taken, selected)?;
    Ok(best)
}
