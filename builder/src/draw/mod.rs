//! Pictures of graphs: Graphviz's dot, or SVG laid out here so that nothing need be installed.

mod layout;
mod svg;

use std::collections::HashMap;
use std::fmt::Write;

use tobiuo_engine::{CudaArgument, CudaLaunch, CudaProgram, Place, Plan, Program};

use crate::graph::Graph;

/// Boxes and arrows.
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    /// The boxes.
    pub boxes: Vec<DrawnBox>,
    /// From box, to box, text.
    pub arrows: Vec<(usize, usize, String)>,
}

/// A box: its lines of text and what it stands for.
#[derive(Clone, Debug)]
pub struct DrawnBox {
    /// Text, the first line the most important.
    pub lines: Vec<String>,
    /// What it stands for; gives its colour.
    pub kind: BoxKind,
}

/// What a box stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BoxKind {
    Input,
    Output,
    /// Convolution, matrix product.
    Heavy,
    /// Moves elements only.
    Movement,
    Other,
}

impl BoxKind {
    fn of(op: &tobiuo_ops::Op) -> BoxKind {
        use tobiuo_ops::Op::*;
        match op {
            Conv(_) | ConvTranspose(_) | Gemm(_) | MatMul | QuantConv(_) | QuantGemm(_) => {
                BoxKind::Heavy
            }
            Concat { .. }
            | Slice(_)
            | Gather { .. }
            | Reshape { .. }
            | Transpose { .. }
            | Expand { .. }
            | Tile { .. }
            | Pad(_)
            | Cast { .. } => BoxKind::Movement,
            _ => BoxKind::Other,
        }
    }

    fn of_launch(launch: &CudaLaunch) -> BoxKind {
        match launch.op.as_str() {
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" | "QuantConv" | "QuantGemm" => {
                BoxKind::Heavy
            }
            "Copy" | "Concat" | "Slice" | "Gather" | "Reshape" | "Transpose" | "Expand"
            | "Tile" | "Pad" | "Cast" => BoxKind::Movement,
            _ => BoxKind::Other,
        }
    }

    fn colour(self) -> &'static str {
        match self {
            BoxKind::Input => "#d5e8d4",
            BoxKind::Output => "#ffe6cc",
            BoxKind::Heavy => "#dae8fc",
            BoxKind::Movement => "#f5f5f5",
            BoxKind::Other => "#fff2cc",
        }
    }
}

fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("x")
}

/// Text that is safe to show: one line, no control characters, not endless.
fn clean(text: &str) -> String {
    const LONGEST: usize = 60;
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut out: String = text.chars().take(LONGEST).map(shown).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// What the op does, in a few lines.
fn op_lines(name: &str, op: &tobiuo_ops::Op) -> Vec<String> {
    let mut first = op.name().to_string();
    if let tobiuo_ops::Op::Conv(c) = op {
        let _ = write!(first, " {} /{}", shape_text(&c.kernel), shape_text(&c.strides));
        if c.groups > 1 {
            let _ = write!(first, " groups {}", c.groups);
        }
        if c.residual {
            first.push_str(" + residual");
        }
    }
    if let Some(a) = op.fused_activation() {
        let _ = write!(first, " + {}", a.name());
    }
    vec![first, clean(name)]
}

/// The kernel, and the layer that it computes.
fn launch_lines(launch: &CudaLaunch) -> Vec<String> {
    let CudaLaunch { op, family, tactic, name, .. } = launch;
    vec![clean(op), clean(&format!("{family} {}", tactic.label)), clean(name)]
}

impl Drawing {
    fn add(&mut self, lines: Vec<String>, kind: BoxKind) -> usize {
        self.boxes.push(DrawnBox { lines, kind });
        self.boxes.len() - 1
    }

    /// A graph; constants are left out.
    pub fn of_graph(graph: &Graph) -> Drawing {
        let mut out = Drawing::default();
        let mut maker = HashMap::new();
        for &v in &graph.inputs {
            let value = graph.value(v);
            let shape = format!("{} {}", value.fact.dtype, shape_text(&value.fact.shape));
            maker.insert(v, out.add(vec![clean(&value.name), shape], BoxKind::Input));
        }
        for node in &graph.nodes {
            let b = out.add(op_lines(&node.name, &node.op), BoxKind::of(&node.op));
            for &v in &node.inputs {
                if let Some(&from) = maker.get(&v) {
                    out.arrows.push((from, b, shape_text(graph.shape(v))));
                }
            }
            maker.extend(node.outputs.iter().map(|&o| (o, b)));
        }
        for (name, v) in &graph.outputs {
            let b = out.add(vec![clean(name)], BoxKind::Output);
            if let Some(&from) = maker.get(v) {
                out.arrows.push((from, b, shape_text(graph.shape(*v))));
            }
        }
        out
    }

    /// A plan's steps. Steps read what was last written to the bytes they read, so views and
    /// free concatenations show as arrows from all who wrote a part.
    pub fn of_plan(plan: &Plan) -> Drawing {
        let mut out = Drawing::default();
        let steps = match &plan.program {
            Program::Cpu(steps) => steps,
            Program::Cuda(program) => return Drawing::of_launches(plan, program),
            _ => return out,
        };
        let range = |t: u32| {
            let desc = plan.tensors.get(t as usize)?;
            let Place::Arena(at) = desc.place else { return None };
            let elements = tobiuo_tensor::checked_numel(&desc.shape)?;
            let bytes = elements.checked_mul(desc.dtype.size())? as u64;
            (bytes > 0).then_some((at, at + bytes))
        };
        // Who wrote what, latest last.
        let mut written: Vec<(u64, u64, usize)> = Vec::new();
        let write = |written: &mut Vec<(u64, u64, usize)>, (from, to): (u64, u64), b: usize| {
            written.retain(|&(a, z, _)| a < from || z > to);
            written.push((from, to, b));
        };
        let name = |t: u32| plan.tensors.get(t as usize).map_or("?", |d| &d.name);
        let shape =
            |t: u32| plan.tensors.get(t as usize).map_or("".into(), |d| shape_text(&d.shape));
        for &t in &plan.inputs {
            let b = out.add(vec![clean(name(t)), shape(t)], BoxKind::Input);
            if let Some(r) = range(t) {
                write(&mut written, r, b);
            }
        }
        let read = |out: &mut Drawing, written: &[(u64, u64, usize)], t: u32, b: usize| {
            let Some((from, to)) = range(t) else { return };
            for &(_, _, w) in written.iter().filter(|&&(a, z, _)| a < to && from < z) {
                let arrow = (w, b, shape(t));
                if !out.arrows.contains(&arrow) {
                    out.arrows.push(arrow);
                }
            }
        };
        for step in steps {
            let b = out.add(op_lines(&step.name, &step.op), BoxKind::of(&step.op));
            for &t in &step.inputs {
                read(&mut out, &written, t, b);
            }
            for r in step.outputs.iter().filter_map(|&t| range(t)) {
                write(&mut written, r, b);
            }
        }
        for &t in &plan.outputs {
            let b = out.add(vec![clean(name(t))], BoxKind::Output);
            read(&mut out, &written, t, b);
        }
        out
    }

    /// A CUDA plan's launches. A launch names the bytes that it touches, not whether it reads or
    /// writes them; so arrows say which launch a launch waits for, and which touch the plan's
    /// inputs and outputs.
    fn of_launches(plan: &Plan, program: &CudaProgram) -> Drawing {
        let mut out = Drawing::default();
        let bound = |t: u32| {
            let desc = plan.tensors.get(t as usize);
            desc.map_or(("?", String::new()), |d| (d.name.as_str(), shape_text(&d.shape)))
        };
        for &t in &plan.inputs {
            let (name, shape) = bound(t);
            out.add(vec![clean(name), shape], BoxKind::Input);
        }
        let inputs = out.boxes.len();
        // The last launch of each stream.
        let mut last: HashMap<u32, usize> = HashMap::new();
        let mut ends: Vec<(usize, usize)> = Vec::new();
        for (i, launch) in program.launches.iter().enumerate() {
            let b = out.add(launch_lines(launch), BoxKind::of_launch(launch));
            for argument in &launch.arguments {
                match *argument {
                    CudaArgument::Input { index, .. } if (index as usize) < inputs => {
                        let shape = plan.inputs.get(index as usize).map(|&t| bound(t).1);
                        out.arrow((index as usize, b, shape.unwrap_or_default()));
                    }
                    CudaArgument::Output { index, .. } => ends.push((b, index as usize)),
                    _ => {}
                }
            }
            let streams = match launch.stream {
                0 => String::new(),
                stream => format!("stream {stream}"),
            };
            if let Some(before) = last.insert(launch.stream, b) {
                out.arrow((before, b, streams));
            }
            for &before in launch.after.iter().filter(|&&before| (before as usize) < i) {
                out.arrow((inputs + before as usize, b, String::new()));
            }
        }
        let outputs = out.boxes.len();
        for &t in &plan.outputs {
            out.add(vec![clean(bound(t).0)], BoxKind::Output);
        }
        for (b, index) in ends {
            if let Some(&t) = plan.outputs.get(index) {
                out.arrow((b, outputs + index, bound(t).1));
            }
        }
        out
    }

    fn arrow(&mut self, arrow: (usize, usize, String)) {
        if !self.arrows.contains(&arrow) {
            self.arrows.push(arrow);
        }
    }

    /// Graphviz's language.
    pub fn to_dot(&self) -> String {
        let quote = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
        let mut out = String::from(
            "digraph model {\n  node [shape=box, style=\"filled,rounded\", fontname=sans];\n",
        );
        for (i, b) in self.boxes.iter().enumerate() {
            let label = b.lines.iter().map(|l| quote(l)).collect::<Vec<_>>().join("\\n");
            let _ = writeln!(out, "  n{i} [label=\"{label}\", fillcolor=\"{}\"];", b.kind.colour());
        }
        for (from, to, text) in &self.arrows {
            let _ = writeln!(out, "  n{from} -> n{to} [label=\"{}\"];", quote(text));
        }
        out.push_str("}\n");
        out
    }

    /// A picture in layers from top to bottom.
    pub fn to_svg(&self) -> String {
        svg::render(self, &layout::layers(self))
    }
}

#[cfg(test)]
mod tests;
