//! The layers that models are lowered to, and those of them that may be joined as one, each distinct
//! one once, as lines of JSON: what the kernels' compile checks and `gpu-check --layers` read.
//!
//! usage: layers fp32|tf32|fp16 MODEL.onnx ...
//!
//! `builder/kernels/tests/data/make.sh` makes the lists of the six networks with it.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;

use tobiuo_builder::cuda::joins::layers_and_joins;
use tobiuo_builder::cuda::lower::lower;
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::passes::{PassOptions, optimise};
use tobiuo_engine::Precision;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let precision = match arguments.next().as_deref() {
        Some("fp32") => Precision::Fp32,
        Some("tf32") => Precision::Tf32,
        Some("fp16") => Precision::Fp16,
        _ => return Err("usage: layers fp32|tf32|fp16 MODEL.onnx ...".into()),
    };
    let mut seen = HashSet::new();
    for model in arguments {
        let path = Path::new(&model);
        let graph = import(path, &ImportOptions::default())?;
        let options = PassOptions { with: vec!["merge-siblings".into()], ..PassOptions::default() };
        let (graph, _) = optimise(graph, &options, &mut |_| {})?;
        let network = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        for layer in layers_and_joins(&lower(&graph, precision)?) {
            let layer = serde_json::to_value(&layer)?;
            if seen.insert(layer.to_string()) {
                println!("{}", serde_json::json!({ "network": network, "layer": layer }));
            }
        }
    }
    Ok(())
}
