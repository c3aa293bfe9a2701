//! What is checked: layers, targets, and which candidates.

use serde::{Deserialize, Serialize};
use tobiuo_builder::tactics::{Effort, worth_trying};
use tobiuo_gpu::DeviceInfo;
use tobiuo_kernels::random::Random;
use tobiuo_kernels::{Candidate, Layer, Target};

/// Which of a layer's candidates are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// Every one.
    All,
    /// The best by the cost model.
    First(usize),
    /// Some at random.
    Sample(usize),
    /// Every so many-th from one on: `Part(I, N)` of all I < N are all.
    Part(usize, usize),
    /// Those that a build tries with default effort.
    Tried,
}

impl Choice {
    /// `all`, `tried`, `first:N`, `sample:N` or `part:I/N`.
    pub fn parse(text: &str) -> Option<Choice> {
        let count = |n: &str| n.parse().ok().filter(|&n: &usize| n > 0);
        match text.split_once(':') {
            None if text == "all" => Some(Choice::All),
            None if text == "tried" => Some(Choice::Tried),
            Some(("first", n)) => count(n).map(Choice::First),
            Some(("sample", n)) => count(n).map(Choice::Sample),
            Some(("part", t)) => {
                let (i, n) = t.split_once('/')?;
                let (i, n) = (i.parse().ok()?, count(n)?);
                (i < n).then_some(Choice::Part(i, n))
            }
            _ => None,
        }
    }

    /// The numbers of the chosen ones, rising.
    fn of(self, candidates: usize, seed: u64) -> Vec<usize> {
        let mut all: Vec<usize> = (0..candidates).collect();
        match self {
            // Those tried depend on more than their number.
            Choice::All | Choice::Tried => {}
            Choice::First(n) => all.truncate(n),
            Choice::Part(i, n) => all.retain(|number| number % n == i),
            Choice::Sample(n) => {
                let mut random = Random::new(seed ^ 0x5a3b_1e00);
                for i in (1..all.len()).rev() {
                    all.swap(i, random.from_to(0, i));
                }
                all.truncate(n);
                all.sort_unstable();
            }
        }
        all
    }
}

/// What kernels are made for, and how they get onto the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Goal {
    /// The device itself, as a cubin.
    Native,
    /// Another GPU, as PTX of its architecture that the driver assembles for this device.
    Ptx(u32),
}

impl Goal {
    /// What the kernel families are told.
    pub fn target(self, device: &DeviceInfo) -> Target {
        let own = Target {
            sm: device.compute.0 * 10 + device.compute.1,
            sm_count: device.sm_count,
            shared_per_block: device.shared_per_block,
            shared_per_sm: device.shared_per_sm,
            l2_bytes: device.l2_bytes,
            clock_ghz: f64::from(device.clock_khz) / 1e6,
            bandwidth_gbs: if device.l2_bytes > 16 << 20 { 4000.0 } else { 150.0 },
        };
        match self {
            Goal::Native => own,
            // Jetson Xavier NX, Orin NX, AGX Thor or an A100, by the CUDA programming guide's table
            // of compute capabilities; no more shared memory than this device has.
            Goal::Ptx(sm) => {
                let (sm_count, per_block, per_sm, l2) = match sm {
                    ..=79 => (6, 96 << 10, 96 << 10, 512 << 10),
                    80 => (108, 163 << 10, 164 << 10, 40 << 20),
                    86 | 89 => (40, 99 << 10, 100 << 10, 4 << 20),
                    87 => (8, 163 << 10, 164 << 10, 4 << 20),
                    _ => (20, 227 << 10, 228 << 10, 32 << 20),
                };
                Target {
                    sm,
                    sm_count,
                    shared_per_block: own.shared_per_block.min(per_block),
                    shared_per_sm: own.shared_per_sm.min(per_sm),
                    l2_bytes: l2,
                    clock_ghz: 0.918,
                    bandwidth_gbs: 102.0,
                }
            }
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::Native => f.pad("native"),
            Goal::Ptx(sm) => f.pad(&format!("ptx sm_{sm}")),
        }
    }
}

/// One layer to check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unit {
    /// Where the layer comes from: `random`, or a network's name.
    pub from: String,
    /// The layer.
    pub layer: Layer,
    /// Decides the memory's contents and the candidates sampled.
    pub seed: u64,
    /// What for.
    pub goals: Vec<Goal>,
    /// Which candidates.
    pub choice: Choice,
    /// Only the one with this label.
    pub only: Option<String>,
    /// Goal and candidate to begin with: those before have been run.
    pub begin: (usize, usize),
}

impl Unit {
    /// The chosen candidates of one goal with their numbers.
    pub fn candidates(&self, target: &Target) -> Vec<(usize, Candidate)> {
        let all = self.layer.candidates(target);
        let chosen = match self.choice {
            Choice::Tried => worth_trying(&all, Effort::Default),
            choice => choice.of(all.len(), self.seed),
        };
        let wanted = |c: &Candidate| self.only.as_ref().is_none_or(|o| *o == c.label);
        all.into_iter().enumerate().filter(|(i, c)| chosen.contains(i) && wanted(c)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        assert_eq!(Choice::parse("all"), Some(Choice::All));
        assert_eq!(Choice::parse("first:3"), Some(Choice::First(3)));
        assert_eq!(Choice::parse("sample:0"), None);
        assert_eq!(Choice::parse("some"), None);
        assert_eq!(Choice::First(2).of(9, 1), [0, 1]);
        assert_eq!(Choice::parse("part:3/3"), None);
        assert_eq!(Choice::parse("part:2/4").map(|c| c.of(9, 1)), Some(vec![2, 6]));
        let sample = Choice::Sample(4).of(9, 1);
        assert_eq!(sample.len(), 4);
        assert!(sample.is_sorted() && sample.iter().all(|&i| i < 9));
        assert_eq!(Choice::Sample(40).of(9, 1).len(), 9);
    }
}
