//! The programs that `cross/build` made for aarch64, under emulation, against this machine's
//! library: `TOBIUO_TEST_PROGRAMS` is their folder and `TOBIUO_TEST_EMULATOR` what runs them
//! (`.ci/cross`). Without those there is nothing to compare, and the test says so.

mod common;

use std::path::{Path, PathBuf};

use common::{Random, engine_of, root};
use tobiuo::{Engine, Tensor, npy};
use tobiuo_standin::program;

/// The largest difference between two machines' answers, of an output's values up to 1; where its
/// largest value is above, relative to that.
const CLOSE: f64 = 1e-5;

/// Golden cases whose names begin so: what the CPU device computes by SIMD.
const KERNELS: [&str; 8] =
    ["act_", "average_pool", "chain_", "conv", "deconv", "gemm", "matmul", "max_pool"];

/// Runs a program under test, which must end well; what it printed.
fn run(name: &str, arguments: &[&str]) -> String {
    let mut command = program::program(name);
    let out = command.args(arguments).output().expect("the emulator runs");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{name} {arguments:?}: {}: {stderr}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Builds a model here and there, runs both on the same inputs (those beside the model, else
/// pseudo-random ones), and gives the largest difference of their answers.
fn difference(model: &Path) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let (made, outputs) = (folder.path().join("made.tobiuo"), folder.path().join("outputs"));
    let engine = Engine::from_bytes(&engine_of(model)).expect("it loads");
    let mut context = engine.context().expect("it is prepared");
    let mut arguments = vec!["infer".to_owned(), text(&made).to_owned(), "--json".to_owned()];
    arguments.extend(["--output-dir".to_owned(), text(&outputs).to_owned()]);
    let mut random = Random(0x0074_6f62_6975_6f01);
    for (i, port) in engine.inputs().iter().enumerate() {
        let mut file = model.with_file_name(format!("input_{i}.npy"));
        // The context's batch is 1 where the engine allows it: files of another one do not fit.
        let shape = context.input_shape(i).to_vec();
        let fits = npy::read(&file).is_ok_and(|t| t.shape() == &shape[..]);
        if !fits {
            file = folder.path().join(format!("input_{i}.npy"));
            let count = shape.iter().product();
            let values = (0..count).map(|_| random.below(1001) as f32 / 1000.0).collect();
            npy::write(&file, &Tensor::f32(&shape[..], values)).expect("it is written");
        }
        context.set_input(&port.name, &npy::read(&file).expect("an input")).expect("it fits");
        arguments.extend(["--input".to_owned(), format!("{}={}", port.name, text(&file))]);
    }
    context.run().expect("it runs");

    run("tobiuo-builder", &["build", text(model), "-o", text(&made), "--quiet"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let written: serde_json::Value = serde_json::from_str(&run("tobiuo", &arguments)).unwrap();
    let mut worst = 0.0_f64;
    for i in 0..engine.outputs().len() {
        let here = context.output_at(i).to_tensor();
        let file = written["outputs"][i]["file"].as_str().expect("a file for each output");
        let there = npy::read(Path::new(file)).expect("an output");
        assert_eq!((here.dtype(), here.shape()), (there.dtype(), there.shape()));
        let (here, there) = (here.to_f64(), there.to_f64());
        let scale = here.iter().fold(1.0_f64, |most, a| most.max(a.abs()));
        for (a, b) in here.into_iter().zip(there) {
            if a != b && !(a.is_nan() && b.is_nan()) {
                let apart = (a - b).abs() / scale;
                assert!(apart.is_finite(), "{}: {a} here, {b} there", model.display());
                worst = worst.max(apart);
            }
        }
    }
    worst
}

#[test]
fn answers_are_those_of_this_machine() {
    if std::env::var_os(program::PROGRAMS).is_none() {
        eprintln!("skipped: {} names no folder", program::PROGRAMS);
        return;
    }
    let golden = root().join("builder/tests/golden/onnx");
    let mut models: Vec<PathBuf> = std::fs::read_dir(golden)
        .expect("the golden cases")
        .map(|case| case.expect("a case").path())
        .filter(|case| {
            let name = case.file_name().and_then(|n| n.to_str()).unwrap_or("");
            KERNELS.iter().any(|begin| name.starts_with(begin))
        })
        .map(|case| case.join("model.onnx"))
        .collect();
    assert!(models.len() > 50, "{} golden cases", models.len());
    models.push(root().join("builder/tests/models/detector.onnx"));
    models.push(root().join("builder/tests/models/classifier.onnx"));
    models.push(root().join("examples/camera/assets/detector.onnx"));
    let apart: Vec<f64> = models.iter().map(|model| difference(model)).collect();
    let wrong: Vec<_> = models.iter().zip(&apart).filter(|(_, apart)| **apart > CLOSE).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let worst = apart.iter().copied().fold(0.0, f64::max);
    println!("{} models, at most {worst:.1e} apart", models.len());
}
