//! An engine in words, for people.

use std::fmt::Write;

use tobiuo_ops::{Fact, bytes, flops};

use crate::error::shown;
use crate::{CudaProgram, Manifest, Place, Plan, Port, Program, Task};

/// What an engine is, as text: where it comes from, its device and precision, inputs,
/// outputs, what they mean, and per plan a table of its steps with their op, output shape,
/// MFLOP (a multiply-add is two), the bytes they read and write, and a total.
///
/// For a manifest that [`validate`](fn@crate::validate) accepted. Names are escaped: the text
/// has no control characters but newlines.
pub fn describe(manifest: &Manifest) -> String {
    let mut out = String::new();
    head(&mut out, manifest);
    for plan in &manifest.plans {
        out.push('\n');
        self::plan(&mut out, plan);
    }
    out
}

/// Like `shown`, without the quotes.
fn name(name: &str) -> String {
    let quoted = shown(name);
    match quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')) {
        Some(plain) => plain.into(),
        None => quoted.trim_start_matches('"').replace("\"...", "..."),
    }
}

fn head(out: &mut String, m: &Manifest) {
    let mut line = |what: &str, text: String| {
        if !text.is_empty() {
            // Writing to a String does not fail.
            let _ = writeln!(out, "{what:<10} {text}");
        }
    };
    let p = &m.provenance;
    let mut model = name(&p.model);
    if !p.producer.is_empty() {
        let _ = write!(model, " ({})", name(&p.producer));
    }
    line("model", model);
    line("hash", name(&p.model_hash));
    line("builder", name(&m.builder));
    line("options", name(&p.options));
    line("device", m.device.to_string());
    line("precision", m.precision.to_string());
    for (what, ports) in [("input", &m.inputs), ("output", &m.outputs)] {
        for port in ports {
            line(what, self::port(port));
        }
    }
    line("task", task(m));
    if let Some(p) = &m.preprocess {
        let fit = format!("{:?}", p.fit).to_lowercase();
        let channels = format!("{:?}", p.channels).to_lowercase();
        line("frames", format!("{fit}, {channels}, mean {:?}, std {:?}", p.mean, p.std));
    }
    if !m.labels.is_empty() {
        const SHOWN: usize = 20;
        let mut labels: Vec<String> = m.labels.iter().take(SHOWN).map(|l| name(l)).collect();
        if m.labels.len() > SHOWN {
            labels.push(format!("and {} more", m.labels.len() - SHOWN));
        }
        line("labels", labels.join(", "));
    }
    for pass in &p.passes {
        let nodes = format!("{} -> {} nodes", pass.nodes_before, pass.nodes_after);
        line("pass", format!("{:<28} {nodes}", name(&pass.name)));
    }
    for note in &p.notes {
        line("note", name(note));
    }
}

fn port(port: &Port) -> String {
    format!("{}: {} {}", name(&port.name), port.dtype, shape(&port.shape))
}

fn shape(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn task(m: &Manifest) -> String {
    let output = |i: usize| m.outputs.get(i).map_or(String::new(), |p| name(&p.name));
    match &m.task {
        Task::Detect(d) => format!(
            "detect {} classes in {} (score >= {}, overlap <= {}, at most {})",
            d.classes,
            output(d.output),
            d.score_threshold,
            d.iou_threshold,
            d.max_detections
        ),
        Task::Classify { output: i } => format!("classify {}", output(*i)),
        Task::Tensors => "tensors".into(),
    }
}

/// A CUDA plan's launches.
fn launches(out: &mut String, plan: &Plan, program: &CudaProgram) {
    let _ = writeln!(
        out,
        "plan for batch {}: {} launches, {} modules, arena {}, scratch {}",
        plan.batch,
        program.launches.len(),
        program.modules.len(),
        size(plan.arena),
        size(program.scratch)
    );
    if let Some(percent) = program.carveout {
        let _ = writeln!(out, "its kernels prefer {percent} % of shared memory");
    }
    let mut rows = vec![["#", "op", "kernel", "MFLOP", "us built", "name"].map(String::from)];
    for (i, l) in program.launches.iter().enumerate() {
        let time =
            l.tactic.nanoseconds.map_or(String::new(), |ns| format!("{:.1}", ns as f64 / 1e3));
        let kernel = format!("{} {}", name(&l.family), name(&l.tactic.label));
        rows.push([i.to_string(), name(&l.op), kernel, mega(l.flops), time, name(&l.name)]);
    }
    let flops = program.launches.iter().fold(0u64, |sum, l| sum.saturating_add(l.flops));
    let total = ["", "total", "", &mega(flops), "", ""].map(String::from);
    rows.push(total);
    table(out, &rows);
}

fn plan(out: &mut String, plan: &Plan) {
    if let Program::Cuda(program) = &plan.program {
        return launches(out, plan, program);
    }
    let constants: u64 = {
        // Places, not tensors: several tensors may share bytes.
        let mut places: Vec<(u64, u64)> = plan
            .tensors
            .iter()
            .filter_map(|t| match t.place {
                Place::Weights(at) => Some((at, at + t.bytes()?)),
                Place::Bound => None,
                Place::Arena(_) => None,
            })
            .collect();
        places.sort_unstable();
        let mut end = 0;
        places
            .iter()
            .map(|&(from, to)| {
                let n = to.saturating_sub(from.max(end));
                end = end.max(to);
                n
            })
            .sum()
    };
    let _ = writeln!(
        out,
        "plan for batch {}: {} steps, arena {}, weights {}",
        plan.batch,
        plan.steps().len(),
        size(plan.arena),
        size(constants)
    );
    let mut rows = vec![["#", "op", "output", "MFLOP", "bytes", "name"].map(String::from)];
    let (mut all_flops, mut all_bytes) = (0u64, 0u64);
    for (i, step) in plan.steps().iter().enumerate() {
        let facts = |list: &[u32]| -> Vec<Fact> {
            list.iter().filter_map(|&t| plan.tensors.get(t as usize)).map(|t| t.fact()).collect()
        };
        let (inputs, outputs) = (facts(&step.inputs), facts(&step.outputs));
        let (f, b) = (flops(&step.op, &inputs, &outputs), bytes(&inputs, &outputs));
        all_flops = all_flops.saturating_add(f);
        all_bytes = all_bytes.saturating_add(b);
        let mut op = step.op.name().to_string();
        if let Some(activation) = step.op.fused_activation() {
            op = format!("{op}+{}", activation.name());
        }
        let shapes: Vec<String> = outputs.iter().map(|o| shape(&o.shape)).collect();
        rows.push([i.to_string(), op, shapes.join(" "), mega(f), size(b), name(&step.name)]);
    }
    let total = [mega(all_flops), size(all_bytes)];
    rows.push([
        String::new(),
        "total".into(),
        String::new(),
        total[0].clone(),
        total[1].clone(),
        String::new(),
    ]);
    table(out, &rows);
}

/// Rows of a number, two texts, two numbers and a name.
fn table(out: &mut String, rows: &[[String; 6]]) {
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let w: Vec<usize> = (0..5).map(width).collect();
    for [n, op, shapes, f, b, name] in rows {
        let line = format!(
            "{n:>0$}  {op:<1$}  {shapes:<2$}  {f:>3$}  {b:>4$}  {name}",
            w[0], w[1], w[2], w[3], w[4]
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn mega(flops: u64) -> String {
    format!("{:.2}", flops as f64 / 1e6)
}

/// Bytes in the unit that suits, three digits.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1000.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}
