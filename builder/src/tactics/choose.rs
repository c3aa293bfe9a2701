//! A kernel for every layer: from the cost model, from what earlier builds measured, or by
//! measuring now.

mod learn;
mod within;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use tobiuo_gpu::Context;
use tobiuo_kernels::{Candidate, Layer, Target};
use tobiuo_nvrtc::{Compiled, NvrtcError};

use super::cache::TacticCache;
use super::compile::{Compiler, Source};
use super::{Effort, Finalist, Tactic, TacticError, Tuning, timing};
use crate::cuda::lower::Lowering;
use crate::progress::Progress;
use learn::FIRST;

/// Finalists of one layer, and some more that take less shared memory.
const FINALISTS: usize = 8;
const SMALLER: usize = 3;
/// Runners-up that reports name.
const RUNNERS_UP: usize = 4;
/// Candidates tried for a layer that is not timed, when the ones before do not compile.
pub(super) const ATTEMPTS: usize = 8;
/// What loading and capturing a candidate takes, seconds, for the progress bar.
const SETUP_SECONDS: f64 = 0.002;

/// Chooses kernels for one device.
pub struct Chooser<'a> {
    /// Makes the device code.
    pub compiler: &'a Compiler,
    /// The device, as the families see it.
    pub target: &'a Target,
    /// The device itself; without it the cost model alone decides.
    pub device: Option<&'a Context>,
    /// How many candidates are tried.
    pub effort: Effort,
    /// The layers, by their [`description`], that so many are tried for; for others only a few.
    /// `None`: for all.
    pub full: Option<&'a HashSet<String>>,
    /// What was measured before, and is measured now.
    pub cache: &'a mut TacticCache,
    /// The device's name in the cache.
    pub device_key: &'a str,
    /// Candidates that need more scratch memory are left out; bytes.
    pub scratch_limit: Option<u64>,
    /// Device memory that timing may take; bytes.
    pub memory_limit: Option<u64>,
    /// Nothing new is tried from then on.
    pub deadline: Option<Instant>,
}

/// A distinct layer.
struct Distinct<'a> {
    layer: &'a Layer,
    /// The first layer of the lowering that is like it.
    first: usize,
    candidates: Vec<Candidate>,
    /// Hashes of the candidates' sources: their names in cache and record.
    keys: Vec<String>,
    /// Microseconds of each candidate, where all are known; infinite: does not run.
    times: Option<Vec<f64>>,
    code: Vec<Option<Compiled>>,
    /// Their numbers among all candidates of the layer.
    tried: Vec<usize>,
    /// A second round adds to them.
    more: bool,
}

/// Those of a layer's candidates that are tried, in the order of the cost model. Candidates that
/// launch alike are one tile in several variants, which differ by a few percent: most of the count
/// goes to different tiles, the rest to variants of the best.
pub fn worth_trying(candidates: &[Candidate], effort: Effort) -> Vec<usize> {
    let count = effort.candidates().min(candidates.len());
    if effort != Effort::Default {
        return (0..count).collect();
    }
    spread(candidates, count, count * 4 / 5)
}

/// So many candidates, of which so many launch differently where there are so many.
fn spread(candidates: &[Candidate], count: usize, different: usize) -> Vec<usize> {
    if count >= candidates.len() {
        return (0..candidates.len()).collect();
    }
    let mut seen = HashSet::new();
    let first = |&i: &usize| {
        let c = &candidates[i];
        seen.insert((c.grid, c.block, c.shared))
    };
    let mut tried: Vec<usize> = (0..candidates.len()).filter(first).take(different).collect();
    let others = (0..candidates.len()).filter(|i| !tried.contains(i)).take(count - tried.len());
    tried.extend(others.collect::<Vec<_>>());
    tried.sort_unstable();
    tried
}

/// Everything about a layer that decides its kernel.
pub fn description(layer: &Layer) -> String {
    format!("{layer:?}")
}

/// The name of a kernel in caches and records: a hash over its source, which begins with the
/// layer's full description.
pub fn source_key(source: &str) -> String {
    blake3::hash(source.as_bytes()).to_hex()[..32].to_string()
}

/// Candidates from the best to the worst; those that do not run are not among them.
fn ranking(times: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..times.len()).filter(|&i| times[i].is_finite()).collect();
    order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
    order
}

/// Of a ranking, the candidates behind the best that are worth trying in the whole network: the next
/// ones, and some that take less shared memory. Where a kernel's blocks find room beside those of the
/// kernel in front of it, they begin while these end.
fn finalists(order: &[usize], times: &[f64], shared: impl Fn(usize) -> u32) -> Vec<usize> {
    let Some((&first, rest)) = order.split_first() else { return Vec::new() };
    let best = times[first];
    let (next, others) = rest.split_at(FINALISTS.min(rest.len()));
    let mut out: Vec<usize> = next.to_vec();
    out.retain(|&i| times[i] < best * 1.3 + 0.5);
    let mut least = out.iter().map(|&i| shared(i)).fold(shared(first), u32::min);
    let smaller = others.iter().copied().filter(|&i| times[i] < best * 1.15 + 0.2);
    let smaller = smaller.filter(|&i| {
        let much = u64::from(shared(i)) * 4 < u64::from(least) * 3;
        least = if much { shared(i) } else { least };
        much
    });
    out.extend(smaller.take(SMALLER));
    out
}

impl Chooser<'_> {
    /// A tactic for every layer, and what choosing took. `share` is this work's part of the
    /// whole, for the progress bar.
    pub fn choose(
        &mut self,
        lowering: &Lowering,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<(Vec<Tactic>, Tuning), TacticError> {
        let (mut distinct, of_layer) = self.distinct(lowering)?;
        let mut tuning = Tuning { distinct: distinct.len(), ..Tuning::default() };
        let timed = self.device.filter(|_| self.effort != Effort::Fast);
        let before = self.compiler.counts();
        match timed {
            None => self.by_model(lowering, &mut distinct, &mut tuning, progress, share)?,
            Some(context) => match self.deadline {
                None => {
                    self.by_time(context, lowering, &mut distinct, &mut tuning, progress, share)?;
                }
                Some(deadline) => {
                    let mut counts = vec![0; distinct.len()];
                    of_layer.iter().for_each(|&d| counts[d] += 1);
                    let device = (context, lowering);
                    let shown = (progress, share);
                    self.by_time_within(
                        deadline,
                        device,
                        &mut distinct,
                        &counts,
                        &mut tuning,
                        shown,
                    )?;
                }
            },
        }
        let after = self.compiler.counts();
        tuning.compiled = after.0 - before.0;
        tuning.compiled_before = after.1 - before.1;
        let chosen: Vec<Tactic> =
            distinct.into_iter().enumerate().map(|(d, layer)| layer.tactic(d)).collect();
        Ok((of_layer.into_iter().map(|d| chosen[d].clone()).collect(), tuning))
    }

    /// The distinct layers with their candidates, and which of them each layer is.
    fn distinct<'l>(
        &self,
        lowering: &'l Lowering,
    ) -> Result<(Vec<Distinct<'l>>, Vec<usize>), TacticError> {
        let mut distinct: Vec<Distinct> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        let mut of_layer = Vec::new();
        for (first, lowered) in lowering.layers.iter().enumerate() {
            let key = description(&lowered.layer);
            if let Some(&at) = index.get(&key) {
                of_layer.push(at);
                continue;
            }
            let layer = &lowered.layer;
            let mut candidates = layer.candidates(self.target);
            if candidates.is_empty() {
                return Err(TacticError::None(format!(
                    "no kernel for layer '{}' fits this device (compute capability {}.{}, {} \
                     bytes of shared memory a block)",
                    lowered.name,
                    self.target.sm / 10,
                    self.target.sm % 10,
                    self.target.shared_per_block
                )));
            }
            let least = candidates.iter().map(|c| c.scratch).min().unwrap_or(0);
            if let Some(limit) = self.scratch_limit {
                candidates.retain(|c| c.scratch as u64 <= limit);
                if candidates.is_empty() {
                    return Err(TacticError::Memory(format!(
                        "layer '{}' needs {least} bytes of scratch memory at least, {limit} are \
                         left for it",
                        lowered.name
                    )));
                }
            }
            let (tried, more) = self.tried_first(&key, &candidates);
            let mut next = tried.iter().copied().peekable();
            let mut at = 0..;
            candidates.retain(|_| next.next_if_eq(&at.next().expect("no end")).is_some());
            index.insert(key, distinct.len());
            of_layer.push(distinct.len());
            distinct.push(Distinct {
                layer,
                first,
                keys: candidates.iter().map(|c| source_key(&c.source)).collect(),
                code: vec![None; candidates.len()],
                times: None,
                candidates,
                tried,
                more,
            });
        }
        Ok((distinct, of_layer))
    }

    /// Those of a layer's candidates that are tried, ascending, and whether more are to follow once
    /// they are timed.
    fn tried_first(&self, description: &str, candidates: &[Candidate]) -> (Vec<usize>, bool) {
        let few = self.full.is_some_and(|full| !full.contains(description));
        if self.device.is_none() || self.effort != Effort::Default {
            let tried = match few {
                true => spread(candidates, FIRST, FIRST),
                false => worth_trying(candidates, self.effort),
            };
            return (tried, false);
        }
        match self.tried_before(description, candidates) {
            Some(tried) => (tried, false),
            None => (spread(candidates, FIRST, FIRST), !few && candidates.len() > FIRST),
        }
    }

    /// A layer's times as an earlier build measured them, if it measured all: the candidates that
    /// are to be compiled then, the best first.
    fn recall(&self, layer: &mut Distinct, tuning: &mut Tuning) -> Option<Vec<usize>> {
        let known =
            |key: &String| Some(self.cache.get(self.device_key, key)?.unwrap_or(f64::INFINITY));
        // Candidates are compared within one measurement, so all or none.
        layer.times = layer.keys.iter().map(known).collect();
        let times = layer.times.as_deref()?;
        tuning.timed_before += times.len();
        let order = ranking(times);
        Some(order.iter().take(1).copied().chain(layer.finalists(&order, times)).collect())
    }

    /// The cost model's best that compiles and keeps its values in registers.
    fn by_model(
        &self,
        lowering: &Lowering,
        distinct: &mut [Distinct],
        tuning: &mut Tuning,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<(), TacticError> {
        let begun = Instant::now();
        progress.stage("compiling kernels", share);
        for attempt in 0..ATTEMPTS {
            let open: Vec<usize> = (0..distinct.len())
                .filter(|&d| distinct[d].code.iter().flatten().all(|c| c.spill_bytes > 0))
                .collect();
            let work: Vec<(usize, usize)> = open
                .iter()
                .filter(|&&d| attempt < distinct[d].candidates.len())
                .map(|&d| (d, attempt))
                .collect();
            let first_failure = self.compile(distinct, &work, progress)?;
            if let Some((d, error)) = first_failure
                && distinct[d].code.iter().all(Option::is_none)
                && (attempt + 1 == ATTEMPTS || attempt + 1 >= distinct[d].candidates.len())
            {
                return Err(error.in_layer(&lowering.layers[distinct[d].first].name));
            }
            if open.is_empty() {
                break;
            }
        }
        tuning.compile_seconds = begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// Compiles candidates; the first that does not, if any, and why.
    fn compile(
        &self,
        distinct: &mut [Distinct],
        work: &[(usize, usize)],
        progress: &mut dyn Progress,
    ) -> Result<Option<(usize, TacticError)>, TacticError> {
        let sources: Vec<Source> = (work.iter())
            .map(|&(d, c)| {
                let candidate = &distinct[d].candidates[c];
                (candidate.source.as_str(), candidate.specific)
            })
            .collect();
        let count = work.len();
        let codes = self.compiler.compile_all(&sources, self.target.sm, &mut |done| {
            progress.advance(done as f64 / count as f64, &format!("{done} of {count}"));
        });
        let mut failure = None;
        for (&(d, c), code) in work.iter().zip(codes) {
            match code {
                Ok(code) => distinct[d].code[c] = Some(code),
                // Not a matter of this candidate.
                Err(e @ (NvrtcError::Missing(_) | NvrtcError::Architecture { .. })) => {
                    return Err(e.into());
                }
                Err(e) => {
                    log::warn!("{}: {e}", distinct[d].candidates[c].label);
                    failure.get_or_insert((d, e.into()));
                }
            }
        }
        Ok(failure)
    }

    /// The fastest by the clock; only what no earlier build measured is measured.
    fn by_time(
        &mut self,
        context: &Context,
        lowering: &Lowering,
        distinct: &mut [Distinct],
        tuning: &mut Tuning,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<(), TacticError> {
        let mut work = Vec::new();
        let mut to_time = 0.0;
        for (d, layer) in distinct.iter_mut().enumerate() {
            match self.recall(layer, tuning) {
                Some(best) => work.extend(best.into_iter().map(|c| (d, c))),
                None => {
                    work.extend((0..layer.candidates.len()).map(|c| (d, c)));
                    to_time += layer.candidates.iter().map(timing_seconds).sum::<f64>();
                }
            }
        }
        let more = distinct.iter().any(|layer| layer.more);
        let (share, second) = if more { (share * 0.55, share * 0.45) } else { (share, 0.0) };
        // The share of each half by what it will take: one kernel tells how long others do.
        let begun = Instant::now();
        if let Some(&(d, c)) = work.first() {
            let candidate = &distinct[d].candidates[c];
            let _ = self.compiler.compile((&candidate.source, candidate.specific), self.target.sm);
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let to_compile = begun.elapsed().as_secs_f64() * work.len() as f64 / cores as f64;
        let part = to_compile / (to_compile + to_time).max(1e-9);
        progress.stage("compiling kernels", share * part);
        let failure = self.compile(distinct, &work, progress)?;
        tuning.compile_seconds = begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        progress.stage("timing kernels", share * (1.0 - part));
        let mut timed = 0.0;
        for layer in distinct.iter_mut() {
            let lowered = &lowering.layers[layer.first];
            if layer.times.is_none() {
                progress.advance(timed / to_time.max(1e-9), &lowered.name);
                timed += layer.candidates.iter().map(timing_seconds).sum::<f64>();
                let all: Vec<usize> = (0..layer.candidates.len()).collect();
                self.time(context, lowering, layer, &all, tuning)?;
            }
            let runs = |(i, t): (usize, &f64)| t.is_finite() && layer.code[i].is_some();
            if !layer.times.iter().flatten().enumerate().any(runs) {
                return Err(match failure {
                    Some((_, error)) => error.in_layer(&lowered.name),
                    None => TacticError::None(format!(
                        "no kernel for layer '{}' runs on this device",
                        lowered.name
                    )),
                });
            }
        }
        self.cache.save();
        tuning.timing_seconds = begun.elapsed().as_secs_f64();
        if more {
            self.second_round(context, lowering, distinct, tuning, (progress, second))?;
        }
        Ok(())
    }

    /// Times those of a layer's candidates that compiled.
    fn time(
        &mut self,
        context: &Context,
        lowering: &Lowering,
        layer: &mut Distinct,
        which: &[usize],
        tuning: &mut Tuning,
    ) -> Result<(), TacticError> {
        let ready: Vec<usize> =
            which.iter().copied().filter(|&c| layer.code[c].is_some()).collect();
        let pairs: Vec<(Candidate, Compiled)> = (ready.iter())
            .map(|&c| (layer.candidates[c].clone(), layer.code[c].clone().expect("chosen so")))
            .collect();
        let lowered = &lowering.layers[layer.first];
        let measured =
            timing::time_candidates(context, lowering, lowered, &pairs, self.memory_limit)?;
        tuning.timed += pairs.len();
        let mut times = layer.times.take().unwrap_or_default();
        times.resize(layer.candidates.len(), f64::INFINITY);
        for (&c, &time) in ready.iter().zip(&measured) {
            // Whole nanoseconds, as caches and records hold them.
            times[c] = (time * 1e3).round().max(1.0) / 1e3;
        }
        for &c in which {
            let what = format!("{} {}", layer.layer.family(), layer.candidates[c].label);
            self.cache.put(self.device_key, &layer.keys[c], &what, times[c]);
        }
        self.cache.save_now_and_then();
        layer.times = Some(times);
        Ok(())
    }
}

fn timing_seconds(candidate: &Candidate) -> f64 {
    SETUP_SECONDS + candidate.predicted_us * 1e-6 * timing::LAUNCHES as f64
}

impl Distinct<'_> {
    fn finalists(&self, order: &[usize], times: &[f64]) -> Vec<usize> {
        finalists(order, times, |c| self.candidates[c].shared)
    }

    /// What was chosen; something was.
    fn tactic(mut self, distinct: usize) -> Tactic {
        let Some(times) = self.times.take() else {
            let compiled = (0..self.code.len()).filter(|&c| self.code[c].is_some());
            let spilled = |&c: &usize| self.code[c].as_ref().map(|code| code.spill_bytes);
            // The first of those that spill least.
            let best = compiled.min_by_key(spilled).expect("one compiles");
            return Tactic {
                code: self.code.swap_remove(best).expect("it was found"),
                candidate: self.candidates.swap_remove(best),
                time_us: None,
                runners_up: Vec::new(),
                finalists: Vec::new(),
                distinct,
            };
        };
        let mut order = ranking(&times);
        for &c in order.iter().filter(|_| log::log_enabled!(log::Level::Debug)) {
            log::debug!(
                "  {:9.3} us, {:9.3} predicted: {}",
                times[c],
                self.candidates[c].predicted_us,
                self.candidates[c].label
            );
        }
        let mut finalists: Vec<Finalist> = (self.finalists(&order, &times).into_iter())
            .filter_map(|c| {
                let code = self.code[c].clone()?;
                let candidate = self.candidates[c].clone();
                Some(Finalist { candidate, code, time_us: times[c] })
            })
            .collect();
        finalists.retain(|f| f.time_us.is_finite());
        // A candidate that ran in an earlier build and does not compile now is passed over.
        let at = order.iter().position(|&c| self.code[c].is_some()).expect("one runs");
        let best = order.remove(at);
        let runners_up = (order.iter().take(RUNNERS_UP))
            .map(|&c| (self.candidates[c].label.clone(), times[c]))
            .collect();
        Tactic {
            code: self.code[best].clone().expect("it was found"),
            candidate: self.candidates[best].clone(),
            time_us: Some(times[best]),
            runners_up,
            finalists,
            distinct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FINALISTS, SMALLER, finalists};

    #[test]
    fn finalists_are_the_next_ones_and_some_that_leave_more_room() {
        let n = FINALISTS + 8;
        let order: Vec<usize> = (0..n).collect();
        let mut times = vec![10.0; n];
        // Far behind the best, though among the next ones.
        times[FINALISTS] = 14.0;
        // Too slow to be worth its room.
        times[n - 1] = 12.0;
        let mut shared = vec![100_000; n];
        shared[FINALISTS + 1] = 80_000;
        shared[FINALISTS + 2] = 70_000;
        shared[FINALISTS + 3] = 60_000;
        shared[FINALISTS + 4] = 50_000;
        shared[n - 1] = 0;
        let found = finalists(&order, &times, |i| shared[i]);
        let next = 1..FINALISTS;
        // 80,000 and 60,000 bytes are little less than what is there already.
        assert_eq!(found, next.chain([FINALISTS + 2, FINALISTS + 4]).collect::<Vec<_>>());
        assert!(found.len() <= FINALISTS + SMALLER);
        assert!(finalists(&[], &[], |_| 0).is_empty());
        assert_eq!(finalists(&[0, 1], &[1.0, 1.1], |_| 0), [1]);
    }
}
