//! What the CUDA path can do today, measured: each model is lowered to f16, its kernels are
//! chosen by timing on device 0, the whole network is captured as one graph, compared with the
//! FP32 CPU reference and timed.
//!
//! usage: gpu [--effort fast|default|max] [--layers] [--verify] [--replays N] MODEL.onnx ...
//!
//! `--verify` also compares every layer's output.
//!
//! One JSON object per model on stdout.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use tobiuo_builder::cuda::lower::lower;
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::interpret;
use tobiuo_builder::passes::{PassOptions, optimise};
use tobiuo_builder::tactics::{Effort, Program, choose, settle};
use tobiuo_engine::Precision;
use tobiuo_gpu::Context;
use tobiuo_nvrtc::Nvrtc;
use tobiuo_tensor::Tensor;

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let (mut effort, mut layers, mut replays, mut models) =
        (Effort::Default, false, 300, Vec::new());
    let mut verify = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(a) = arguments.next() {
        match a.as_str() {
            "--effort" => {
                effort = match arguments.next().as_deref() {
                    Some("fast") => Effort::Fast,
                    Some("default") => Effort::Default,
                    Some("max") => Effort::Max,
                    other => return Err(format!("no effort is called {other:?}").into()),
                }
            }
            "--layers" => layers = true,
            "--verify" => verify = true,
            "--replays" => replays = arguments.next().ok_or("--replays N")?.parse()?,
            _ => models.push(a),
        }
    }
    let nvrtc = Nvrtc::open()?;
    let context = Context::new(0)?;
    eprintln!("{:?}, NVRTC {:?} at {}", context.device(), nvrtc.version(), nvrtc.path().display());
    for model in models {
        if let Err(e) = one(&context, Path::new(&model), effort, [layers, verify], replays) {
            eprintln!("{model}: {e}");
            println!("{}", serde_json::json!({ "model": model, "error": e.to_string() }));
        }
    }
    Ok(())
}

fn one(
    context: &Context,
    model: &Path,
    effort: Effort,
    [show, verify]: [bool; 2],
    replays: usize,
) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let graph = import(model, &ImportOptions::default())?;
    let reference = graph.clone();
    let options = PassOptions { with: vec!["merge-siblings".into()], ..PassOptions::default() };
    let (graph, _) = optimise(graph, &options, &mut |_| {})?;
    let lowering = lower(&graph, Precision::Fp16)?;
    let lowered_seconds = begun.elapsed().as_secs_f64();
    let (tactics, tuning) = choose(context, Nvrtc::open()?, &lowering, effort)?;
    let begun_placing = Instant::now();
    let placed = settle(context, &lowering, &tactics)?;
    let placing_seconds = begun_placing.elapsed().as_secs_f64();
    let mut program = Program::new(context, &lowering, &tactics, &placed.schedule, false)?;
    program.select(&placed.selected)?;
    let build_seconds = begun.elapsed().as_secs_f64();
    let mut random = 88_172_645_463_325_252u64;
    let mut inputs = Vec::new();
    for (i, &input) in graph.inputs.iter().enumerate() {
        let shape = graph.shape(input).to_vec();
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 40) as f32 / (1 << 24) as f32
            })
            .collect();
        let tensor = Tensor::f32(shape, values);
        program.set_input(i, tensor.data().bytes())?;
        inputs.push((graph.value(input).name.clone(), tensor));
    }
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let expected = interpret::run(&reference, &named)?;
    if verify {
        let mut kept = Program::new(context, &lowering, &tactics, &placed.schedule, true)?;
        kept.select(&placed.selected)?;
        for (i, (_, tensor)) in inputs.iter().enumerate() {
            kept.set_input(i, tensor.data().bytes())?;
        }
        kept.run()?;
        let wanted: Vec<_> = lowering.values.iter().map(|(v, _)| *v).collect();
        let values = interpret::values(&graph, &named, &wanted)?;
        for (id, view) in &lowering.values {
            let Some(want) = values.get(id).and_then(|t| t.as_f32().map(<[f32]>::to_vec)) else {
                continue;
            };
            let error = relative_error(&want, &kept.value(view)?);
            eprintln!("{error:9.2e}  {:?} {}", view.shape, graph.value(*id).name);
        }
    }
    program.run()?;
    let mut worst = 0.0f64;
    let mut same_top = true;
    for (i, want) in expected.iter().enumerate() {
        let want = want.as_f32().ok_or("an output that is not f32")?;
        let bytes = program.output(i)?;
        let got: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
            .collect();
        let error = relative_error(want, &got);
        worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        let top = |v: &[f32]| (0..v.len()).max_by(|&a, &b| v[a].total_cmp(&v[b]));
        same_top &= top(want) == top(&got);
    }
    let mut times = program.time(replays)?;
    times.sort_by(f64::total_cmp);
    let sum: f64 = tactics.iter().filter_map(|t| t.time_us).sum();
    if show {
        for (i, (layer, tactic)) in lowering.layers.iter().zip(&tactics).enumerate() {
            let others: Vec<String> =
                tactic.runners_up.iter().take(4).map(|(l, t)| format!("{l} {t:.2}")).collect();
            let slot = &placed.schedule.slots[i];
            eprintln!(
                "{i:3} s{} {:?} f{} {:7.2} us  {:12} {:28} {:?}  | {}",
                slot.stream,
                slot.after,
                placed.selected[i],
                tactic.time_us.unwrap_or(0.0),
                layer.layer.family(),
                tactic.candidate.label,
                layer.outputs[0].shape,
                others.join(", ")
            );
        }
    }
    println!(
        "{}",
        serde_json::json!({
            "model": model.file_stem().map(|s| s.to_string_lossy()),
            "us_p50": times[times.len() / 2],
            "us_min": times[0],
            "us_p90": times[times.len() * 9 / 10],
            "layers_sum_us": sum,
            "serial_us": placed.network_us.0,
            "streams": placed.schedule.slots.iter().map(|s| s.stream).max(),
            "swaps_tried": placed.tried.0,
            "swaps_kept": placed.tried.1,
            "placing_s": placing_seconds,
            "kernels": program.kernels(),
            "copies": lowering.layers.iter().filter(|l| l.op == "Copy").count(),
            "relative_error": worst,
            "same_top1": same_top,
            "build_s": build_seconds,
            "import_and_lower_s": lowered_seconds,
            "compiled": tuning.compiled,
            "compile_s": tuning.compile_seconds,
            "timing_s": tuning.timing_seconds,
            "arena_mib": program.arena_bytes as f64 / 1048576.0,
            "weights_mib": program.weight_bytes as f64 / 1048576.0,
        })
    );
    Ok(())
}

/// `|got - want| / |want|`, Euclidean.
fn relative_error(want: &[f32], got: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let pairs = want.iter().zip(got).map(|(&w, &g)| (f64::from(w), f64::from(g)));
    let difference: f64 = pairs.map(|(w, g)| square(w - g)).sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    (difference / norm).sqrt()
}
