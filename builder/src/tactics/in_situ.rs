//! The last choice is made in the network itself: finalists and schedules are swapped inside the
//! whole graph, and kept only where the network gets faster.
//!
//! Alone, a layer finds its instructions and its input in the nearest cache and no neighbour on
//! the multiprocessors; in the network it does not.

use tobiuo_gpu::Context;

use super::{Program, Tactic, TacticError};
use crate::cuda::lower::Lowering;
use crate::cuda::schedule::Schedule;

/// What settling found.
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

/// Replays of one measurement.
const REPLAYS: usize = 24;
/// A change must gain this much to be kept.
const GAIN: f64 = 0.998;

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
    let times: Vec<f64> = tactics.iter().map(|t| t.time_us.unwrap_or(2.0)).collect();
    let n = lowering.layers.len();
    let mut best_schedule = Schedule::serial(n);
    let mut program = Program::new(context, lowering, tactics, &best_schedule, false)?;
    let before = median(program.time(4 * REPLAYS)?);
    let mut best = before;
    for streams in [2, 3, 4, 6] {
        for crossing in [0.5, 1.5, 3.0, 6.0] {
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
    let distinct = tactics.iter().map(|t| t.distinct).max().unwrap_or(0) + 1;
    let mut weight = vec![0.0; distinct];
    tactics.iter().zip(&times).for_each(|(t, time)| weight[t.distinct] += time);
    let mut order: Vec<usize> = (0..distinct).collect();
    order.sort_by(|&a, &b| weight[b].total_cmp(&weight[a]));
    let mut selected = vec![0; n];
    let mut tried = (0, 0);
    for d in order {
        let Some(first) = tactics.iter().position(|t| t.distinct == d) else { continue };
        let mut incumbent = median(program.time(REPLAYS)?);
        for finalist in 1..=tactics[first].finalists.len() {
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
    }
    Ok(Placed { selected, schedule: best_schedule, network_us: (before, best), tried })
}
