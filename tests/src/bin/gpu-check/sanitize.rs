//! A few runs in one process, to be watched by compute-sanitizer: for every family a small
//! random layer, and of its candidates one of each way to synchronise.

use tobiuo::console;
use tobiuo_gpu::Context;
use tobiuo_kernels::Candidate;
use tobiuo_kernels::random::{GENERATORS, Random};
use tobiuo_nvrtc::Nvrtc;

use crate::device::{Bench, Trouble};
use crate::unit::Goal;
use crate::worker::{Reference, compile};

/// Results larger than this make the sanitizer slow.
const MOST_BYTES: usize = 200_000;

/// Runs them; gives the failures. `wanted` chooses families.
pub fn run(
    device: usize,
    seed: u64,
    goal: Goal,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<usize, Box<dyn std::error::Error>> {
    let context = Context::new(device)?;
    let nvrtc = Nvrtc::open()?;
    let target = goal.target(context.device());
    let mut failures = 0;
    for (name, make) in GENERATORS.iter().filter(|(name, _)| wanted(name)) {
        let mut random = Random::new(seed);
        let mut seen: Vec<[bool; 5]> = Vec::new();
        // Several layers: not each has a candidate of every kind.
        for _ in 0..40 {
            let layer = make(&mut random);
            let extents = layer.extents();
            let bytes: usize = extents.inputs.iter().chain(&extents.outputs).sum();
            if bytes > MOST_BYTES {
                continue;
            }
            let fresh: Vec<Candidate> = layer
                .candidates(&target)
                .into_iter()
                .filter(|c| {
                    let kind = kind(c);
                    let new = !seen.contains(&kind);
                    if new {
                        seen.push(kind);
                    }
                    new
                })
                .collect();
            if fresh.is_empty() {
                continue;
            }
            let reference = Reference::new(&layer, seed)?;
            let memory = &reference.memory;
            // Ranges of exactly their extents: what lies beyond is the sanitizer's to find.
            let bench = Bench::new(&context, memory, &reference.extents.outputs, false)?;
            for candidate in fresh {
                let code = compile(&nvrtc, goal, &target, &candidate)?;
                let tolerance = memory.tolerance;
                let checked =
                    bench.check(&candidate, &code, &target, &reference.expected, tolerance);
                let (word, why) = match checked {
                    Ok(error) => ("ok", format!("error {error:.1e}")),
                    Err(Trouble::Wrong(why)) => ("FAILED", why),
                    Err(Trouble::Gpu(e)) => ("FAILED", e.to_string()),
                };
                failures += usize::from(word != "ok");
                console::print(format_args!(
                    "{word:7} {name:14} {:10} [{}] {why}\n",
                    goal, candidate.label
                ))?;
            }
        }
    }
    Ok(failures)
}

/// Through scratch memory; in clusters, whose sums are stored one by one or copied in bulk; with a
/// warp that only copies; with the architecture's own features.
fn kind(c: &Candidate) -> [bool; 5] {
    let defined = |name: &str| c.source.contains(&format!("#define {name} 1\n"));
    [c.scratch > 0, defined("CLUSTER"), defined("BULK"), defined("PRODUCER"), c.specific]
}
