use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use tobiuo::manifest::{Manifest, Place, Plan, Program, Task};
use tobiuo::{Engine, Error};

use super::args::Args;
use super::{Command, print, print_json};

pub const COMMAND: Command = Command {
    name: "inspect",
    synopsis: "ENGINE",
    summary: "what an engine is: device, inputs, outputs, where it comes from, its layers",
    options: "
  --layers          also every step of every plan
",
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only("inspect", &["layers"])?;
    let (engine, _) = args.engine("inspect", 1)?;
    if args.json {
        print_json(&document(&engine, args.layers))
    } else {
        print(&text(&engine, args.layers))
    }
}

/// The engine as a document: file facts and the manifest, whose plans' tensors and steps go
/// in with `layers` alone.
fn document(engine: &Engine, layers: bool) -> Value {
    let file = engine.file();
    let m = engine.manifest();
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
        "manifest": manifest,
    })
}

fn steps(plan: &Plan) -> usize {
    match &plan.program {
        Program::Cpu(steps) => steps.len(),
        _ => 0,
    }
}

/// How often each operator occurs.
fn ops(plan: &Plan) -> BTreeMap<&'static str, usize> {
    let mut count = BTreeMap::new();
    if let Program::Cpu(steps) = &plan.program {
        for step in steps {
            *count.entry(step.op.name()).or_default() += 1;
        }
    }
    count
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn text(engine: &Engine, layers: bool) -> String {
    let file = engine.file();
    let m: &Manifest = engine.manifest();
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
    for plan in &m.plans {
        let ops: Vec<String> = ops(plan).iter().map(|(op, n)| format!("{op} {n}")).collect();
        row(
            "plan",
            format!(
                "batch {}: {} layers, arena {:.1} MiB; {}",
                plan.batch,
                steps(plan),
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
    let Program::Cpu(steps) = &plan.program else { return };
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
