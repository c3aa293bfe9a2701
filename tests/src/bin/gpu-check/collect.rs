//! Where the layers to check come from.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;

use tobiuo_builder::cuda::joins::layers_and_joins;
use tobiuo_builder::cuda::lower::lower;
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::passes::{PassOptions, optimise};
use tobiuo_engine::Precision;
use tobiuo_kernels::Layer;
use tobiuo_kernels::random::{GENERATORS, Random};

/// A layer and where it comes from.
pub struct Found {
    pub from: String,
    pub layer: Layer,
    pub seed: u64,
}

/// Layers gathered, each distinct one once.
#[derive(Default)]
pub struct Layers {
    seen: HashSet<String>,
    pub all: Vec<Found>,
}

/// A seed of its own for every name and number.
fn derived(seed: u64, name: &str, number: usize) -> u64 {
    let mut random = Random::new(seed);
    for byte in name.bytes() {
        random = Random::new(random.bits() ^ u64::from(byte));
    }
    Random::new(random.bits() ^ number as u64).bits()
}

impl Layers {
    fn add(&mut self, from: &str, layer: Layer, seed: u64) {
        let json = serde_json::to_string(&layer).expect("layers are plain data");
        if self.seen.insert(json) {
            self.all.push(Found { from: from.to_string(), layer, seed });
        }
    }

    /// `count` random layers of every family wanted.
    pub fn random(&mut self, count: usize, seed: u64, wanted: &dyn Fn(&str) -> bool) {
        for (name, make) in GENERATORS.iter().filter(|(name, _)| wanted(name)) {
            for number in 0..count {
                let seed = derived(seed, name, number);
                self.add("random", make(&mut Random::new(seed)), seed);
            }
        }
    }

    /// A file with a layer per line, as JSON: the layer itself, or an object with it as `layer`
    /// and perhaps `network`.
    pub fn lines(&mut self, path: &Path, seed: u64) -> Result<(), Box<dyn Error>> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad = |e| format!("{}, line {}: {e}", path.display(), number + 1);
            let value: serde_json::Value = serde_json::from_str(line).map_err(bad)?;
            let from = value["network"].as_str().map(str::to_string);
            let from = from.unwrap_or_else(|| stem(path));
            let inner = value.get("layer").cloned().unwrap_or(value);
            let layer = serde_json::from_value(inner).map_err(bad)?;
            self.add(&from, layer, derived(seed, &from, number));
        }
        Ok(())
    }

    /// A model's layers, and what can be joined of them, after the passes that a build runs.
    pub fn model(
        &mut self,
        path: &Path,
        precisions: &[Precision],
        seed: u64,
    ) -> Result<(), Box<dyn Error>> {
        let graph = import(path, &ImportOptions::default())?;
        let options = PassOptions { with: vec!["merge-siblings".into()], ..PassOptions::default() };
        let (graph, _) = optimise(graph, &options, &mut |_| {})?;
        for &precision in precisions {
            let lowering = lower(&graph, precision)?;
            let from = stem(path);
            for (number, layer) in layers_and_joins(&lowering).into_iter().enumerate() {
                self.add(&from, layer, derived(seed, &from, number));
            }
        }
        Ok(())
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}
