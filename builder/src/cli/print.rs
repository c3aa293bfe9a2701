//! Reports as people read them.

use std::fmt::Write;

use serde::Serialize;
use tobiuo_engine::{Port, Task};

use crate::BuildError;
use crate::build::BuildReport;
use crate::import::{CheckReport, ImportError, NodeStatus, UnsupportedNode};
use crate::verify::{Comparison, VerifyReport};

/// The document that `--json` gives for an error.
#[derive(Serialize)]
pub(super) struct ErrorDocument<'a> {
    error: String,
    status: u8,
    /// The nodes that are not supported, where that is the error.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nodes: &'a [UnsupportedNode],
}

pub(super) fn error(e: &BuildError) -> ErrorDocument<'_> {
    let nodes = match e {
        BuildError::Import(import) => ImportError::nodes(import),
        _ => &[],
    };
    ErrorDocument { error: e.to_string(), status: e.exit_status(), nodes }
}

fn mib(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{:.1} KiB", bytes as f64 / 1024.0)
    } else {
        format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
    }
}

fn ports(ports: &[Port]) -> String {
    let one = |p: &Port| format!("{} {} {:?}", p.name, p.dtype, p.shape);
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The build's summary, to stderr.
pub(super) fn build(r: &BuildReport) {
    let engine = r.engine.display();
    if r.reused {
        eprintln!("{engine}: up to date ({}; --no-cache builds it anew)", mib(r.engine_bytes));
        return;
    }
    eprintln!("{engine}: {} for {} in {:.2} s", mib(r.engine_bytes), r.device, r.seconds);
    eprintln!("  inputs   {}", ports(&r.inputs));
    eprintln!("  outputs  {}", ports(&r.outputs));
    match &r.task {
        Task::Detect(d) => {
            eprintln!("  task     detect, {} classes, {} names", d.classes, r.labels)
        }
        Task::Classify { .. } => eprintln!("  task     classify, {} names", r.labels),
        _ => {}
    }
    if let (Some(first), Some(last)) = (r.passes.first(), r.passes.last()) {
        eprintln!(
            "  nodes    {} in the model, {} after passes",
            first.nodes_before, last.nodes_after
        );
    }
    for p in &r.plans {
        let ratio = p.arena as f64 / p.arena_lower_bound.max(1) as f64;
        eprintln!(
            "  batch {:<3}{} steps, arena {} ({:.3} of the lower bound, {} unshared), {} views, \
             {} free concats, {} copies, {} in place",
            p.batch,
            p.steps,
            mib(p.arena),
            ratio,
            mib(p.arena_unshared),
            p.views,
            p.free_concats,
            p.copies,
            p.in_place
        );
    }
    for note in &r.notes {
        eprintln!("  note: {note}");
    }
}

/// 9 where something is not supported, 4 where the model only breaks the standard.
pub(super) fn check_status(r: &CheckReport) -> u8 {
    if r.nodes.iter().any(|n| n.status == NodeStatus::Unsupported) { 9 } else { 4 }
}

pub(super) fn check(r: &CheckReport) -> String {
    let mut out = format!("{} ({})\n", r.model, r.producer);
    let _ = writeln!(out, "inputs   {}", r.inputs.join(", "));
    let _ = writeln!(out, "outputs  {}", r.outputs.join(", "));
    let wide = r.operators.keys().map(|k| k.chars().count()).max().unwrap_or(0).max(8);
    let _ = writeln!(out, "{:wide$}  nodes  supported", "operator");
    for (op, n) in &r.operators {
        let _ = writeln!(out, "{op:wide$}  {:5}  {}", n.total, n.supported);
    }
    let problems: Vec<_> = r.nodes.iter().filter_map(|n| n.problem.as_ref()).collect();
    for p in &problems {
        let _ = writeln!(out, "{p}");
    }
    for note in &r.notes {
        let _ = writeln!(out, "note: {note}");
    }
    let good = r.nodes.iter().filter(|n| n.status == NodeStatus::Supported).count();
    let verdict = if r.supported { "supported" } else { "NOT supported" };
    let _ = writeln!(out, "{verdict}: {good} of {} nodes", r.nodes.len());
    out
}

fn comparison(out: &mut String, c: &Comparison) {
    let mark = if c.ok { "ok  " } else { "OVER" };
    let _ = write!(
        out,
        "  {mark} rel L2 {:9.2e}  max abs {:9.2e}  {}",
        c.relative_l2, c.max_abs, c.name
    );
    let _ = write!(out, " {:?}", c.shape);
    if !c.layer.is_empty() {
        let _ = write!(out, "  {} ({})", c.layer, c.op);
    }
    out.push('\n');
}

pub(super) fn verify(r: &VerifyReport) -> String {
    let mut out = String::new();
    if !r.same_model {
        out.push_str(
            "note: the engine says that it was built from another model or version of it\n",
        );
    }
    for p in &r.plans {
        let _ = writeln!(out, "batch {}", p.batch);
        p.layers.iter().for_each(|c| comparison(&mut out, c));
        if !p.layers.is_empty() {
            let _ = writeln!(
                out,
                "  {} layers compared, {} have no tensor of their own in the model",
                p.layers.len(),
                p.layers_without_counterpart
            );
        }
        if let Some(first) = &p.first_difference {
            let _ = writeln!(out, "  the first layer that differs is '{first}'");
        }
        p.outputs.iter().for_each(|c| comparison(&mut out, c));
    }
    let verdict = if r.ok { "within" } else { "OVER" };
    let _ = writeln!(out, "{verdict} the tolerance of {:e}", r.tolerance);
    out
}
