//! The second round of timing: what the first round's clock says of the cost model decides which
//! candidates are worth compiling beside those.
//!
//! The first round times a few different tiles of every layer. For each family of kernels, ridge
//! regression (Hoerl and Kennard 1970) explains how far measured times were from predicted ones,
//! within each layer, by what a candidate's label and launch say; the second round takes from all
//! of a layer's candidates those that are best by the prediction so corrected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Instant;

use tobiuo_gpu::Context;
use tobiuo_kernels::Candidate;

use super::{Chooser, Distinct, description, ranking, source_key};
use crate::cuda::lower::Lowering;
use crate::progress::Progress;
use crate::tactics::{TacticError, Tuning};

/// Candidates of a layer that the first round times, and that are tried where only a rough time is
/// wanted.
pub(super) const FIRST: usize = 12;
/// Candidates of a layer that the second round adds.
const SECOND: usize = 12;
/// They are among so many of the best by the prediction alone.
const POOL: usize = 80;
/// The best of the first round that are timed once more beside those of the second, because only
/// times of one measurement are compared closely.
const AGAIN: usize = 2;
/// Weight of the penalty on the correction's coefficients.
const RIDGE: f64 = 2.0;
/// A family with fewer times than this keeps the prediction as it is.
const ENOUGH: usize = 2 * FIRST;

/// What may explain how a candidate's time differs from the predicted one.
type Features = Vec<(String, f64)>;

/// The size of the launch, and the words and numbers of the label: a number by its logarithm,
/// under the word that it stands in and its place there.
fn features(candidate: &Candidate, multiprocessors: u32) -> Features {
    let blocks: f64 = candidate.grid.iter().map(|&n| f64::from(n)).product();
    let waves = blocks / f64::from(multiprocessors.max(1));
    let mut out: Features = vec![
        ("one".into(), 1.0),
        ("predicted".into(), candidate.predicted_us.max(1e-3).ln()),
        ("waves".into(), waves.max(1e-3).ln()),
        ("part of a wave".into(), waves.min(1.0)),
        ("last wave".into(), if waves > 1.0 { waves.ceil() / waves } else { 1.0 }),
        ("threads".into(), f64::from(candidate.block.max(1)).log2()),
        ("shared".into(), (f64::from(candidate.shared) + 1024.0).log2()),
    ];
    for word in candidate.label.split_whitespace() {
        let letters: String = word.chars().filter(|c| !c.is_ascii_digit()).collect();
        out.push((format!("word {letters}"), 1.0));
        let numbers = word.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let place = |(i, n): (usize, f64)| (format!("number {i} of {letters}"), (n + 1.0).log2());
        out.extend(numbers.enumerate().map(place));
    }
    out
}

/// What is to be added to the logarithm of a predicted time.
#[derive(Clone, Debug, Default)]
pub(super) struct Correction(BTreeMap<String, f64>);

impl Correction {
    /// The coefficients that explain the samples best, with a penalty on their squares.
    fn fit(samples: &[(Features, f64)]) -> Correction {
        let names: BTreeSet<&str> =
            samples.iter().flat_map(|(f, _)| f).map(|(name, _)| name.as_str()).collect();
        let names: BTreeMap<&str, usize> =
            names.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
        let n = names.len();
        let mut matrix = vec![vec![0.0; n]; n];
        let mut right = vec![0.0; n];
        (0..n).for_each(|i| matrix[i][i] = RIDGE);
        for (features, y) in samples {
            let row: Vec<(usize, f64)> =
                features.iter().map(|(name, v)| (names[name.as_str()], *v)).collect();
            for &(i, a) in &row {
                right[i] += a * y;
                row.iter().for_each(|&(j, b)| matrix[i][j] += a * b);
            }
        }
        let solved = solve(matrix, right);
        Correction(names.into_iter().map(|(name, i)| (name.to_string(), solved[i])).collect())
    }

    fn of(&self, features: &Features) -> f64 {
        features.iter().filter_map(|(name, v)| Some(self.0.get(name)? * v)).sum()
    }
}

/// Solves a system with a symmetric positive definite matrix (Cholesky).
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| matrix[i][k] * matrix[j][k]).sum();
            let rest = matrix[i][j] - sum;
            matrix[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / matrix[j][j] };
        }
    }
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| matrix[i][k] * right[k]).sum();
        right[i] = (right[i] - sum) / matrix[i][i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| matrix[k][i] * right[k]).sum();
        right[i] = (right[i] - sum) / matrix[i][i];
    }
    right
}

/// What a layer's times say of the predicted ones. What all of its candidates have in common does
/// not order them and is left out.
fn of_layer<'a>(
    timed: impl Iterator<Item = (&'a Candidate, f64)>,
    multiprocessors: u32,
) -> Vec<(Features, f64)> {
    let ratios: Vec<(&Candidate, f64)> = timed
        .filter(|(c, t)| t.is_finite() && c.predicted_us > 0.0)
        .map(|(c, t)| (c, (t / c.predicted_us).ln()))
        .collect();
    let mean = ratios.iter().map(|r| r.1).sum::<f64>() / ratios.len().max(1) as f64;
    ratios.iter().map(|(c, y)| (features(c, multiprocessors), y - mean)).collect()
}

/// Of a layer's candidates those that the second round adds to the tried ones, the best first.
fn worth_adding(
    all: &[Candidate],
    tried: &[usize],
    correction: Option<&Correction>,
    multiprocessors: u32,
) -> Vec<usize> {
    let corrected = |c: &Candidate| {
        let more = correction.map_or(0.0, |k| k.of(&features(c, multiprocessors)));
        c.predicted_us.max(1e-3).ln() + more
    };
    let mut order: Vec<(f64, usize)> = (0..all.len().min(POOL))
        .filter(|i| !tried.contains(i))
        .map(|i| (corrected(&all[i]), i))
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.into_iter().take(SECOND).map(|(_, i)| i).collect()
}

/// By family.
pub(super) type Corrections = HashMap<&'static str, Correction>;

/// The name of what was tried for a layer in the tactic cache.
fn name(description: &str) -> String {
    format!("tried {}", source_key(description))
}

impl Chooser<'_> {
    /// What both rounds of an earlier build tried of these candidates, if they are the same and their
    /// times known.
    pub(super) fn tried_before(
        &self,
        description: &str,
        candidates: &[Candidate],
    ) -> Option<Vec<usize>> {
        let note = self.cache.note(self.device_key, &name(description))?;
        let there = |word: &str| {
            let (i, key) = word.split_once(':')?;
            let i: usize = i.parse().ok()?;
            let same = source_key(&candidates.get(i)?.source) == key;
            (same && self.cache.get(self.device_key, key).is_some()).then_some(i)
        };
        let mut tried: Vec<usize> = note.split_whitespace().map(there).collect::<Option<_>>()?;
        tried.sort_unstable();
        tried.dedup();
        (!tried.is_empty()).then_some(tried)
    }

    /// Compiles and times more candidates of the layers that want some: those that the corrected
    /// prediction says are best.
    pub(super) fn second_round(
        &mut self,
        context: &Context,
        lowering: &Lowering,
        distinct: &mut [Distinct],
        tuning: &mut Tuning,
        (progress, share): (&mut dyn Progress, f64),
    ) -> Result<(), TacticError> {
        let begun = Instant::now();
        let corrections = self.corrections(distinct);
        let open: Vec<usize> = (0..distinct.len()).filter(|&d| distinct[d].more).collect();
        let mut work = Vec::new();
        for &d in &open {
            work.extend(self.add(&mut distinct[d], &corrections).map(|c| (d, c)));
        }
        progress.stage("compiling more kernels", share * 0.7);
        self.compile(distinct, &work, progress)?;
        tuning.compile_seconds += begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        progress.stage("timing more kernels", share * 0.3);
        for (done, &d) in open.iter().enumerate() {
            let layer = &mut distinct[d];
            let all = open.len() as f64;
            progress.advance(done as f64 / all, &lowering.layers[layer.first].name);
            self.time_added(context, lowering, layer, tuning)?;
        }
        self.cache.save();
        tuning.timing_seconds += begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// By family, from what was timed.
    pub(super) fn corrections(&self, distinct: &[Distinct]) -> Corrections {
        let mut samples: HashMap<&'static str, Vec<(Features, f64)>> = HashMap::new();
        for layer in distinct {
            let times = layer.times.iter().flatten().copied();
            let of_family = samples.entry(layer.layer.family()).or_default();
            of_family.extend(of_layer(layer.candidates.iter().zip(times), self.target.sm_count));
        }
        samples.retain(|_, s| s.len() >= ENOUGH);
        samples.into_iter().map(|(family, s)| (family, Correction::fit(&s))).collect()
    }

    /// Adds to a layer's candidates those that the corrected prediction says are best: their places.
    /// All are made once more: kept since the first round, their sources would fill the memory.
    pub(super) fn add(&self, layer: &mut Distinct, corrections: &Corrections) -> Range<usize> {
        let mut rest = layer.layer.candidates(self.target);
        if let Some(limit) = self.scratch_limit {
            rest.retain(|c| c.scratch as u64 <= limit);
        }
        let correction = corrections.get(layer.layer.family());
        let before = layer.candidates.len();
        for i in worth_adding(&rest, &layer.tried, correction, self.target.sm_count) {
            layer.keys.push(source_key(&rest[i].source));
            layer.candidates.push(rest[i].clone());
            layer.code.push(None);
            layer.tried.push(i);
        }
        before..layer.candidates.len()
    }

    /// Times what was added to a layer's candidates beside the best of those before, and notes what
    /// was tried.
    pub(super) fn time_added(
        &mut self,
        context: &Context,
        lowering: &Lowering,
        layer: &mut Distinct,
        tuning: &mut Tuning,
    ) -> Result<(), TacticError> {
        let times = layer.times.as_deref().unwrap_or_default();
        let best = ranking(times).into_iter().filter(|&c| layer.code[c].is_some());
        let which: Vec<usize> =
            best.take(AGAIN).chain(times.len()..layer.candidates.len()).collect();
        self.time(context, lowering, layer, &which, tuning)?;
        self.note_tried(layer);
        layer.in_order();
        Ok(())
    }

    /// Notes what was tried, so that a later build knows it without a first round.
    fn note_tried(&mut self, layer: &Distinct) {
        let words = layer.tried.iter().zip(&layer.keys).map(|(i, key)| format!("{i}:{key}"));
        let words: Vec<String> = words.collect();
        let name = name(&description(layer.layer));
        self.cache.put(self.device_key, &name, &words.join(" "), 1.0);
    }
}

impl Distinct<'_> {
    /// Puts what was tried into the order of all candidates, in which a later build finds it: of
    /// equals the same one is the best.
    fn in_order(&mut self) {
        let mut order: Vec<usize> = (0..self.tried.len()).collect();
        order.sort_by_key(|&c| self.tried[c]);
        fn arranged<T: Clone>(list: &[T], order: &[usize]) -> Vec<T> {
            order.iter().map(|&c| list[c].clone()).collect()
        }
        self.candidates = arranged(&self.candidates, &order);
        self.keys = arranged(&self.keys, &order);
        self.code = arranged(&self.code, &order);
        self.times = self.times.as_deref().map(|times| arranged(times, &order));
        self.tried = arranged(&self.tried, &order);
    }
}

#[cfg(test)]
mod tests {
    use super::super::spread;
    use super::*;

    fn candidate(label: String, predicted_us: f64) -> Candidate {
        Candidate {
            source: label.clone(),
            label,
            grid: [264, 1, 1],
            block: 128,
            shared: 0,
            specific: false,
            arguments: Vec::new(),
            scratch: 0,
            zeroed: 0,
            predicted_us,
        }
    }

    #[test]
    fn systems_are_solved() {
        let matrix = vec![vec![4.0, 2.0, 0.6], vec![2.0, 5.0, 1.0], vec![0.6, 1.0, 3.0]];
        let x = [1.0, -2.0, 0.5];
        let right: Vec<f64> =
            matrix.iter().map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect();
        let found = solve(matrix, right);
        assert!(found.iter().zip(x).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert!(solve(Vec::new(), Vec::new()).is_empty());
    }

    #[test]
    fn words_and_numbers_of_a_label_are_told_apart() {
        let f = features(&candidate("g128x64x32 8x16 s9 k1 r".into(), 2.0), 132);
        let value = |name: &str| f.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!(value("number 1 of gxx"), Some(65f64.log2()));
        assert_eq!(value("number 0 of s"), Some(10f64.log2()));
        assert_eq!(value("word r"), Some(1.0));
        assert_eq!(value("number 0 of r"), None);
        assert_eq!(value("part of a wave"), Some(1.0));
    }

    /// A device on which every split costs more than predicted, and deep tiles cost less.
    #[test]
    fn what_the_clock_says_of_some_orders_others() {
        let truth = |m: u32, k: u32, split: u32| {
            let slower = f64::from(split) * 0.3 - f64::from(k.ilog2()) * 0.1;
            (candidate(format!("{m}x64x{k} k{split}"), 3.0 + f64::from(m) / 64.0), slower)
        };
        let mut samples = Vec::new();
        let mut others = Vec::new();
        for (i, m) in [16, 32, 64, 128].into_iter().enumerate() {
            for (j, k) in [16, 32, 64].into_iter().enumerate() {
                for split in 1..=4 {
                    let (c, y) = truth(m, k, split);
                    match (i + j + split as usize) % 2 {
                        0 => samples.push((features(&c, 132), y)),
                        _ => others.push((features(&c, 132), y)),
                    }
                }
            }
        }
        let correction = Correction::fit(&samples);
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let told: Vec<f64> = others.iter().map(|(f, _)| correction.of(f)).collect();
        let right: Vec<f64> = others.iter().map(|(_, y)| *y).collect();
        let (a, b) = (mean(&told), mean(&right));
        let together: f64 = told.iter().zip(&right).map(|(t, r)| (t - a) * (r - b)).sum();
        let each = |v: &[f64], m: f64| v.iter().map(|x| (x - m).powi(2)).sum::<f64>().sqrt();
        let correlation = together / (each(&told, a) * each(&right, b));
        assert!(correlation > 0.95, "{correlation}");
        assert_eq!(Correction::default().of(&others[0].0), 0.0);
    }

    /// By the times of 960 convolutions, of 40 candidates a layer, on an H200.
    #[test]
    fn two_rounds_find_what_many_candidates_hold() {
        let text = include_str!("../../../tests/data/resnet50_fp16_h200.tsv");
        let mut layers: BTreeMap<usize, (Vec<Candidate>, Vec<f64>)> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let f: Vec<&str> = line.split('\t').collect();
            let grid: Vec<u32> = f[2].split(',').map(|n| n.parse().unwrap()).collect();
            let (candidates, times) = layers.entry(f[0].parse().unwrap()).or_default();
            candidates.push(Candidate {
                grid: grid.try_into().unwrap(),
                block: f[3].parse().unwrap(),
                shared: f[4].parse().unwrap(),
                ..candidate(f[6].into(), f[1].parse().unwrap())
            });
            times.push(f[5].parse().unwrap());
        }
        let layers: Vec<(Vec<Candidate>, Vec<f64>)> = layers.into_values().collect();
        let best = |times: &[f64], which: &[usize]| {
            which.iter().map(|&i| times[i]).fold(f64::INFINITY, f64::min)
        };
        let first: Vec<Vec<usize>> =
            layers.iter().map(|(all, _)| spread(all, FIRST, FIRST)).collect();
        let mut samples = Vec::new();
        for ((all, times), first) in layers.iter().zip(&first) {
            samples.extend(of_layer(first.iter().map(|&i| (&all[i], times[i])), 132));
        }
        let correction = Correction::fit(&samples);
        // By 40 candidates, by both rounds, and by as many as both try that the prediction says.
        let mut sums = [0.0; 3];
        for ((all, times), first) in layers.iter().zip(&first) {
            let added = worth_adding(all, first, Some(&correction), 132);
            assert_eq!(added.len(), SECOND.min(all.len() - first.len()));
            let tried: Vec<usize> = first.iter().chain(&added).copied().collect();
            let predicted: Vec<usize> = (0..tried.len()).collect();
            sums[0] += best(times, &(0..all.len()).collect::<Vec<_>>());
            sums[1] += best(times, &tried);
            sums[2] += best(times, &predicted);
        }
        assert!(sums[1] < sums[0] * 1.005, "{sums:?}");
        assert!(sums[2] > sums[0] * 1.03, "{sums:?}: the data would not tell");
    }
}
