//! Choosing within a time: layer by layer, what weighs most first, until the time is over.

use std::time::Instant;

use tobiuo_gpu::Context;

use super::{Chooser, Distinct};
use crate::cuda::lower::Lowering;
use crate::progress::Progress;
use crate::tactics::{TacticError, Tuning};

impl Chooser<'_> {
    /// As [`by_time`](Chooser::by_time), but begins nothing new after `deadline`: layers that
    /// were not reached keep the cost model's choice and are counted as untimed. What was timed
    /// is in the cache, so that the next build goes on where this one stopped. `counts` is how
    /// often each distinct layer occurs.
    pub(super) fn by_time_within(
        &mut self,
        deadline: Instant,
        device: (&Context, &Lowering),
        distinct: &mut [Distinct],
        counts: &[usize],
        tuning: &mut Tuning,
        (progress, share): (&mut dyn Progress, f64),
    ) -> Result<(), TacticError> {
        let (context, lowering) = device;
        let begun = Instant::now();
        // What an earlier build knows costs no time but that of compiling what it chose.
        let mut known = Vec::new();
        for (d, layer) in distinct.iter_mut().enumerate() {
            known.extend(self.recall(layer, tuning).into_iter().flatten().map(|c| (d, c)));
        }
        self.compile(distinct, &known, progress)?;
        for layer in distinct.iter_mut() {
            // It does not compile any more: chosen anew.
            if layer.times.is_some() && layer.code.iter().all(Option::is_none) {
                layer.times = None;
            }
        }
        // Then something for each of the others, so that the engine is whole whatever happens.
        self.by_model(lowering, distinct, tuning, progress, share * 0.2)?;
        progress.stage("timing kernels, the heaviest first", share * 0.8);
        let weight = |d: usize| {
            let best = distinct[d].candidates.first().map_or(0.0, |c| c.predicted_us);
            best * counts[d] as f64
        };
        let mut heaviest: Vec<(usize, f64)> = (0..distinct.len()).map(|d| (d, weight(d))).collect();
        heaviest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let heaviest: Vec<usize> = heaviest.into_iter().map(|(d, _)| d).collect();
        let untimed = |&d: &usize| distinct[d].times.is_none();
        let open: Vec<usize> = heaviest.iter().copied().filter(untimed).collect();
        let all = open.len();
        let mut done = 0;
        for d in open {
            let part = 0.5 * done as f64 / all as f64;
            progress.advance(part, &lowering.layers[distinct[d].first].name);
            if !self.compile_until(deadline, distinct, d, 0)? {
                break;
            }
            let all: Vec<usize> = (0..distinct[d].candidates.len()).collect();
            self.time(context, lowering, &mut distinct[d], &all, tuning)?;
            if distinct[d].times.iter().flatten().all(|t| t.is_infinite()) {
                return Err(TacticError::None(format!(
                    "no kernel for layer '{}' runs on this device",
                    lowering.layers[distinct[d].first].name
                )));
            }
            done += 1;
        }
        tuning.untimed = all - done;
        if done == all {
            let order: Vec<usize> = heaviest.into_iter().filter(|&d| distinct[d].more).collect();
            self.second_round_within(deadline, device, distinct, &order, tuning, progress)?;
        }
        self.cache.save();
        tuning.timing_seconds = begun.elapsed().as_secs_f64() - tuning.compile_seconds;
        Ok(())
    }

    /// The second round, of as many layers as the time lasts for.
    fn second_round_within(
        &mut self,
        deadline: Instant,
        (context, lowering): (&Context, &Lowering),
        distinct: &mut [Distinct],
        order: &[usize],
        tuning: &mut Tuning,
        progress: &mut dyn Progress,
    ) -> Result<(), TacticError> {
        let corrections = self.corrections(distinct);
        for (done, &d) in order.iter().enumerate() {
            let part = 0.5 + 0.5 * done as f64 / order.len() as f64;
            progress.advance(part, &lowering.layers[distinct[d].first].name);
            let added = self.add(&mut distinct[d], &corrections);
            if !self.compile_until(deadline, distinct, d, added.start)? {
                break;
            }
            self.time_added(context, lowering, &mut distinct[d], tuning)?;
        }
        Ok(())
    }

    /// Compiles what a layer lacks from a candidate on; false when the time was over before.
    fn compile_until(
        &self,
        deadline: Instant,
        distinct: &mut [Distinct],
        d: usize,
        from: usize,
    ) -> Result<bool, TacticError> {
        let lacking: Vec<(usize, usize)> = (from..distinct[d].candidates.len())
            .filter(|&c| distinct[d].code[c].is_none())
            .map(|c| (d, c))
            .collect();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        for some in lacking.chunks(2 * cores) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.compile(distinct, some, &mut ())?;
        }
        Ok(Instant::now() < deadline)
    }
}
