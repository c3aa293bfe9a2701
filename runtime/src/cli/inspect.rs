use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use tobiuo::manifest::{CudaKey, CudaProgram, DeviceKey, Manifest, Place, Plan, Program, Task};
use tobiuo::{DeviceChoice, Engine, Error};
use tobiuo_engine::EngineFile;

use super::args::Args;
use super::{Command, print, print_json};

pub const COMMAND: Command = Command {
    name: "inspect",
    synopsis: "ENGINE",
    summary: "what an engine is: device, inputs, outputs, where it comes from, its layers",
    options: "
  --layers          also every step of every plan, or every launch with its kernel
",
    device: false,
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only("inspect", &["layers"])?;
    let (path, _) = args.engine_path("inspect", 1)?;
    // Without its device: an engine can be looked at anywhere.
    let file = EngineFile::open(path)?;
    let here = Engine::from_file(file.clone(), DeviceChoice::Auto).err();
    if args.json {
        print_json(&document(&file, here.as_ref(), args.layers))
    } else {
        print(&text(&file, here.as_ref(), args.layers))
    }
}

/// The engine as a document: file facts and the manifest, whose plans' tensors and steps go
/// in with `layers` alone.
fn document(file: &EngineFile, why_not: Option<&Error>, layers: bool) -> Value {
    let m = file.manifest();
    let mut manifest = serde_json::to_value(m).unwrap_or(Value::Null);
    if let (false, Some(plans)) = (layers, manifest["plans"].as_array_mut()) {
        for (value, plan) in plans.iter_mut().zip(&m.plans) {
            *value = json!({
                "batch": plan.batch,
                "arena": plan.arena,
                "layers": steps(plan),
                "ops": ops(plan),
            });
        }
    }
    json!({
        "file": file.path().to_string_lossy(),
        "bytes": file.len(),
        "hash": file.hash_hex(),
        "weights_bytes": file.weights().len(),
        "code_bytes": file.code().len(),
        "runs_here": why_not.is_none(),
        "why_not": why_not.map(ToString::to_string),
        "manifest": manifest,
    })
}

fn steps(plan: &Plan) -> usize {
    match &plan.program {
        Program::Cpu(steps) => steps.len(),
        Program::Cuda(program) => program.launches.len(),
        _ => 0,
    }
}

/// How often each operator occurs.
fn ops(plan: &Plan) -> BTreeMap<&str, usize> {
    let mut count = BTreeMap::new();
    let mut add = |op| *count.entry(op).or_default() += 1;
    match &plan.program {
        Program::Cpu(steps) => steps.iter().for_each(|step| add(step.op.name())),
        Program::Cuda(program) => program.launches.iter().for_each(|l| add(&l.op)),
        _ => (),
    }
    count
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn text(file: &EngineFile, why_not: Option<&Error>, layers: bool) -> String {
    let m: &Manifest = file.manifest();
    let p = &m.provenance;
    let mut t = String::new();
    let mut row = |name: &str, value: String| {
        // Names come out of a file: nothing in them may steer the terminal.
        let value = value.replace(|c: char| c.is_control(), "?");
        let _ = writeln!(t, "{name:<12} {value}");
    };
    let path = file.path().display();
    row("engine", format!("{path}, {:.1} MiB, hash {}", mib(file.len()), file.hash_hex()));
    row("device", m.device.to_string());
    if let DeviceKey::Cuda(key) = &m.device {
        row("made for", key_text(key));
    }
    row(
        "runs here",
        match why_not {
            None => "yes".into(),
            Some(e) => format!("no: {}", e.to_string().lines().next().unwrap_or_default()),
        },
    );
    row("precision", m.precision.to_string());
    row("builder", m.builder.clone());
    row("model", format!("{} ({}, {})", p.model, p.format, p.producer));
    row("model hash", p.model_hash.clone());
    for port in &m.inputs {
        row("input", format!("{} {} {:?}", port.name, port.dtype, port.shape));
    }
    for port in &m.outputs {
        row("output", format!("{} {} {:?}", port.name, port.dtype, port.shape));
    }
    row("task", task(m));
    if let Some(pre) = &m.preprocess {
        row(
            "preprocess",
            format!(
                "{:?}, {:?}, border {}, (x / 255 - {:?}) / {:?}",
                pre.fit, pre.channels, pre.pad_value, pre.mean, pre.std
            )
            .to_lowercase(),
        );
    }
    if !m.labels.is_empty() {
        row("labels", m.labels.join(", "));
    }
    for pass in &p.passes {
        row("pass", format!("{}: {} -> {} nodes", pass.name, pass.nodes_before, pass.nodes_after));
    }
    for note in &p.notes {
        row("note", note.clone());
    }
    if !file.code().is_empty() {
        row("code", format!("{:.1} MiB", mib(file.code().len() as u64)));
    }
    for plan in &m.plans {
        let ops: Vec<String> = ops(plan).iter().map(|(op, n)| format!("{op} {n}")).collect();
        row(
            "plan",
            format!(
                "batch {}: {} {}, arena {:.1} MiB; {}",
                plan.batch,
                steps(plan),
                if let Program::Cuda(_) = plan.program { "launches" } else { "layers" },
                mib(plan.arena),
                ops.join(", ")
            ),
        );
    }
    if layers {
        m.plans.iter().for_each(|plan| layer_table(&mut t, plan));
    }
    t
}

fn task(m: &Manifest) -> String {
    match &m.task {
        Task::Detect(d) => format!(
            "detection: {} classes in output {}{}, score > {}, IoU {}, at most {}",
            d.classes,
            d.output,
            if d.transposed { " (transposed)" } else { "" },
            d.score_threshold,
            d.iou_threshold,
            d.max_detections
        ),
        Task::Classify { output } => format!("classification: scores in output {output}"),
        _ => "tensors".into(),
    }
}

fn layer_table(t: &mut String, plan: &Plan) {
    let _ = writeln!(t, "\nplan of batch {}", plan.batch);
    let steps = match &plan.program {
        Program::Cpu(steps) => steps,
        Program::Cuda(program) => return launch_table(t, program),
        _ => return,
    };
    for (i, step) in steps.iter().enumerate() {
        let tensor = |&n: &u32| {
            let d = &plan.tensors[n as usize];
            let place = match d.place {
                Place::Arena(at) => format!("@{at}"),
                Place::Weights(_) => "weights".into(),
                Place::Bound => "bound".into(),
            };
            format!("{} {:?} {place}", d.dtype, d.shape)
        };
        let list = |l: &[u32]| l.iter().map(tensor).collect::<Vec<_>>().join(", ");
        let name = step.name.replace(|c: char| c.is_control(), "?");
        let (ins, outs) = (list(&step.inputs), list(&step.outputs));
        let _ = writeln!(t, "{i:>4} {:<12} {name}: {ins} -> {outs}", step.op.name());
    }
}

/// What a CUDA engine needs of its device.
fn key_text(key: &CudaKey) -> String {
    let tuned = if key.tuned {
        format!(
            "tuned on it: {} multiprocessors, L2 {:.1} MiB",
            key.sm_count,
            mib(u64::from(key.l2_bytes))
        )
    } else {
        "untuned (kernels chosen by the cost model)".into()
    };
    format!(
        "sm_{}, driver for CUDA {}.{} or newer, {:.0} KiB shared memory a block; {tuned}",
        key.sm,
        key.driver / 1000,
        key.driver % 1000 / 10,
        f64::from(key.shared_per_block) / 1024.0,
    )
}

fn launch_table(t: &mut String, program: &CudaProgram) {
    let _ = writeln!(
        t,
        "{} modules, scratch {:.1} MiB, {} streams; times as measured when it was built",
        program.modules.len(),
        mib(program.scratch),
        program.launches.iter().map(|l| l.stream + 1).max().unwrap_or(1)
    );
    for (i, l) in program.launches.iter().enumerate() {
        let us = |ns: u64| format!("{:.1} us", ns as f64 / 1e3);
        let time = l.tactic.nanoseconds.map_or("not timed".into(), us);
        let others: Vec<String> =
            l.tactic.runners_up.iter().map(|(label, ns)| format!("{label} {}", us(*ns))).collect();
        let others = match others.is_empty() {
            true => String::new(),
            false => format!("; before {}", others.join(", ")),
        };
        let stream = match (l.stream, l.after.is_empty()) {
            (0, true) => String::new(),
            (s, true) => format!(", stream {s}"),
            (s, false) => format!(", stream {s} after {:?}", l.after),
        };
        let line = format!(
            "{i:>4} {:<12} {}: {} {}, {time}, grid {:?} block {:?}, {} B shared{stream}{others}",
            l.op, l.name, l.family, l.tactic.label, l.grid, l.block, l.shared
        );
        let _ = writeln!(t, "{}", line.replace(|c: char| c.is_control(), "?"));
    }
}
