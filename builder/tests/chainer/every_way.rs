//! A dump's outputs, computed in every way there is without a GPU.

use serde_json::Value;
use tobiuo_builder::graph::Graph;
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::interpret;
use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

use crate::dump::Dump;
use crate::{common, lowered};

/// The dump's graph.
pub fn read(dump: &Dump, batch: usize) -> Graph {
    let options = ImportOptions { batch, ..ImportOptions::default() };
    import(dump.path(), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs a dump in every way and compares its outputs.
pub fn check(dump: &Dump, batch: usize, inputs: &[(&str, Tensor)], want: &[Tensor]) {
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let compare = |way: &str, got: Result<Vec<Tensor>, String>, limit: f64| {
        let got = got.unwrap_or_else(|e| panic!("{way}: {e}"));
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            common::compare(got, want, limit).unwrap_or_else(|e| panic!("{way}: {e}"));
        }
    };
    let reference = |g: &Graph| interpret::run(g, &given).map_err(|e| e.to_string());
    let graph = || read(dump, batch);
    compare("as imported", reference(&graph()), 1e-6);
    compare("optimised", lowered::optimise(graph()).and_then(|g| reference(&g)), 1e-6);
    for (precision, optimised, limit) in [
        (Precision::Fp32, false, 1e-6),
        (Precision::Fp32, true, 1e-6),
        (Precision::Fp16, true, 4e-3),
    ] {
        let way = format!("lowered, {precision}, optimised: {optimised}");
        compare(&way, lowered::run(graph(), &given, precision, optimised), limit);
    }
}

/// Numbers without a pattern that an error could follow, from -1 to 1, exact in f16.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed << 32 | (seed + 1));
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as f32 / 128.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::f32(shape, numbers(shape.iter().product(), seed))
}

/// A dump of one layer on one input of pictures without batch `[C, H, W]` (or any shape).
pub fn single(kind: &str, shape: &[usize], more: Value) -> Dump {
    let dump = Dump::new().input("x", shape).layer(kind, "layer", &["x"], more);
    dump.output("layer_0", "y")
}

/// Runs one layer without weights for batches of 1 and 3; `f` gives a picture's result from a
/// picture.
pub fn each_picture(dump: Dump, shape: &[usize], f: impl Fn(&[f32]) -> (Vec<usize>, Vec<f32>)) {
    let dump = dump.save();
    for batch in [1, 3] {
        let mut with_batch = vec![batch];
        with_batch.extend(shape);
        let x = tensor(&with_batch, 7);
        let pictures = x.as_f32().unwrap().chunks(x.numel() / batch);
        let results: Vec<(Vec<usize>, Vec<f32>)> = pictures.map(&f).collect();
        let mut out = vec![batch];
        out.extend(&results[0].0);
        let values = results.into_iter().flat_map(|(_, v)| v).collect();
        check(&dump, batch, &[("x", x)], &[Tensor::f32(out, values)]);
    }
}
