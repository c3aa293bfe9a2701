//! Reports as people read them.

use std::fmt::Write;

use serde::Serialize;
use tobiuo::console;
use tobiuo_engine::{Port, Task};

use crate::BuildError;
use crate::build::BuildReport;
use crate::cuda::make::{CudaPlanReport, CudaReport, LayerReport};
use crate::import::{CheckReport, ImportError, NodeStatus, UnsupportedNode};
use crate::quantize::report::GateReport;
use crate::verify::{Comparison, VerifyReport};

/// The document that `--json` gives for an error.
#[derive(Serialize)]
pub(super) struct ErrorDocument<'a> {
    error: String,
    status: u8,
    /// The nodes that are not supported, where that is the error.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nodes: &'a [UnsupportedNode],
    /// What the accuracy gate tried, where it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<&'a GateReport>,
}

pub(super) fn error(e: &BuildError) -> ErrorDocument<'_> {
    let nodes = match e {
        BuildError::Import(import) => ImportError::nodes(import),
        BuildError::Unsupported(nodes) => nodes,
        _ => &[],
    };
    let gate = match e {
        BuildError::Accuracy { gate, .. } => gate.as_deref(),
        _ => None,
    };
    ErrorDocument { error: e.to_string(), status: e.exit_status(), nodes, gate }
}

/// The same for a command line that makes no sense.
pub(super) fn usage_error(what: &str) -> ErrorDocument<'static> {
    ErrorDocument { error: what.into(), status: 2, nodes: &[], gate: None }
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
        console::say(format_args!(
            "{engine}: up to date ({}; --no-cache builds it anew)",
            mib(r.engine_bytes)
        ));
        return;
    }
    let tuned = r.cuda.as_ref().is_none_or(|c| c.device.tuned);
    let untuned = if tuned { "" } else { ", UNTUNED" };
    console::say(format_args!(
        "{engine}: {} for {}{untuned}, {}, in {:.2} s",
        mib(r.engine_bytes),
        r.device,
        r.precision,
        r.seconds
    ));
    if let Some(why) = &r.device_why {
        console::say(format_args!("  device   {why}"));
    }
    console::say(format_args!("  inputs   {}", ports(&r.inputs)));
    console::say(format_args!("  outputs  {}", ports(&r.outputs)));
    match &r.task {
        Task::Detect(d) => console::say(format_args!(
            "  task     detect, {} classes, {} names",
            d.classes, r.labels
        )),
        Task::Classify { .. } => {
            console::say(format_args!("  task     classify, {} names", r.labels))
        }
        _ => {}
    }
    if let (Some(first), Some(last)) = (r.passes.first(), r.passes.last()) {
        console::say(format_args!(
            "  nodes    {} in the model, {} after passes",
            first.nodes_before, last.nodes_after
        ));
    }
    for p in &r.plans {
        let ratio = p.arena as f64 / p.arena_lower_bound.max(1) as f64;
        console::say(format_args!(
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
        ));
    }
    if let Some(int8) = &r.int8 {
        int8.to_text().lines().for_each(|line| console::say(format_args!("  {line}")));
    }
    if let Some(c) = &r.cuda {
        cuda(c);
    }
    for note in &r.notes {
        console::say(format_args!("  note: {note}"));
    }
}

/// Layers of a plan that the summary names: the longest.
const LONGEST: usize = 12;

/// What was chosen for a CUDA engine.
fn cuda(c: &CudaReport) {
    let t = &c.tuning;
    console::say(format_args!(
        "  kernels  {} distinct in {}; {} compiled in {:.1} s ({} known), {} timed in {:.1} s \
         ({} known); NVRTC {}",
        c.kernels,
        mib(c.code),
        t.compiled,
        t.compile_seconds,
        t.compiled_before,
        t.timed,
        t.timing_seconds,
        t.timed_before,
        c.nvrtc
    ));
    let jetpack = c.driver.jetpack.as_ref();
    console::say(format_args!(
        "  driver   CUDA {} or newer{}",
        c.driver.oldest,
        jetpack.map_or(String::new(), |jetpack| format!(" (on a Jetson: JetPack {jetpack})"))
    ));
    if !c.device.tuned {
        console::say(format_args!(
            "  untuned  kernels were chosen by the cost model, not by timing them on the device; \
             build on the device for a faster engine"
        ));
    }
    for p in &c.plans {
        let m = &p.memory;
        let mut time = match p.network_us {
            Some(us) => format!(", {us:.1} us measured"),
            None => String::new(),
        };
        if let Some(us) = p.estimated_us {
            let _ = write!(time, ", layers alone {us:.1} us in all");
        }
        let streams = if p.streams > 1 { format!(" on {} streams", p.streams) } else { "".into() };
        console::say(format_args!(
            "  batch {:<3}{} launches{streams} ({} copies){time}; device memory: weights {}, arena \
             {} ({:.3} of the lower bound), scratch {}, inputs and outputs {}",
            p.batch,
            p.layers.len(),
            p.copies,
            mib(c.weights),
            mib(m.arena),
            m.arena as f64 / m.arena_lower_bound.max(1) as f64,
            mib(m.scratch),
            mib(m.bound)
        ));
        console::say(layers(p).trim_end());
    }
}

/// The longest layers of a plan, with what was chosen and what came near.
fn layers(p: &CudaPlanReport) -> String {
    let time = |l: &LayerReport| match l.tactic.nanoseconds {
        Some(ns) => ns as f64 / 1e3,
        None => l.predicted_us,
    };
    let mut order: Vec<&LayerReport> = p.layers.iter().collect();
    order.sort_by(|a, b| time(b).total_cmp(&time(a)));
    let mut rows = vec![["us".to_string(), "kernel".into(), "layer".into(), "runners-up".into()]];
    for l in order.iter().take(LONGEST) {
        let estimate = if l.tactic.nanoseconds.is_some() { "" } else { "~" };
        let others: Vec<String> = (l.tactic.runners_up.iter().take(2))
            .map(|(label, ns)| format!("{label} {:.2}", *ns as f64 / 1e3))
            .collect();
        rows.push([
            format!("{estimate}{:.2}", time(l)),
            format!("{} {}", l.family, l.tactic.label),
            format!("{} {:?}", shortened(&l.name, 40), l.shape),
            others.join(", "),
        ]);
    }
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for [a, b, c, d] in &rows {
        let line = format!("    {a:>0$}  {b:<1$}  {c:<2$}  {d}", widths[0], widths[1], widths[2]);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if p.layers.len() > LONGEST {
        let _ = writeln!(out, "    and {} more (--json has all)", p.layers.len() - LONGEST);
    }
    out
}

/// A name's end, where it is too long; without control characters.
fn shortened(name: &str, most: usize) -> String {
    let clean: Vec<char> = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    match clean.len().checked_sub(most) {
        Some(over) if over > 0 => {
            std::iter::once('…').chain(clean[over + 1..].iter().copied()).collect()
        }
        _ => clean.into_iter().collect(),
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
    let snr = match c.relative_l2 > 1e-5 && c.relative_l2.is_finite() {
        true => format!(" (SNR {:.1} dB)", -20.0 * c.relative_l2.log10()),
        false => String::new(),
    };
    let _ = write!(
        out,
        "  {mark} rel L2 {:9.2e}{snr}  max abs {:9.2e}  {}",
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
        match p.same_top1 {
            Some(true) => out.push_str("  ok   same class on top\n"),
            Some(false) => out.push_str("  OVER another class on top\n"),
            None => {}
        }
    }
    let verdict = if r.ok { "within" } else { "OVER" };
    let _ = writeln!(out, "{verdict} the tolerance of {:e}", r.tolerance);
    out
}
