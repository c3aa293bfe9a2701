//! What `check` says of a translated model.

use super::{CheckReport, NodeReport, NodeStatus};
use crate::graph::Graph;

/// The report of a graph, of what was found of its nodes and of notes.
pub fn of(graph: &Graph, nodes: Vec<NodeReport>, notes: Vec<String>) -> CheckReport {
    let mut report = CheckReport {
        model: graph.metadata.model.clone(),
        producer: graph.metadata.producer.clone(),
        supported: nodes.iter().all(|r| r.status == NodeStatus::Supported),
        inputs: Vec::new(),
        outputs: Vec::new(),
        operators: Default::default(),
        nodes,
        notes,
    };
    for &id in &graph.inputs {
        report.inputs.push(format!("{}: {}", graph.value(id).name, graph.fact(id)));
    }
    for (name, id) in &graph.outputs {
        report.outputs.push(format!("{name}: {}", graph.fact(*id)));
    }
    for node in &report.nodes {
        let dot = if node.domain.is_empty() { "" } else { "." };
        let op = format!("{}{dot}{}", node.domain, node.op_type);
        let count = report.operators.entry(op).or_default();
        count.total += 1;
        count.supported += usize::from(node.status == NodeStatus::Supported);
    }
    report
}
