//! The identity of a model: blake3 over its graph and weights.

use crate::graph::Graph;

/// A hash over everything that a graph computes with: ops, attributes, wiring, names, types,
/// shapes and constants; hex. The same network saved twice has the same hash, whatever the
/// file's layout.
pub fn model_hash(graph: &Graph) -> String {
    let mut hash = blake3::Hasher::new();
    let mut text = |s: &str| {
        // With its length, so that no two sequences of texts are the same bytes.
        hash.update(&(s.len() as u64).to_le_bytes());
        hash.update(s.as_bytes());
    };
    text("tobiuo model 1");
    text(&graph.metadata.format);
    for (_, value) in graph.values() {
        text(&value.name);
        text(&format!("{} {:?}", value.fact.dtype, value.fact.shape));
        match &value.constant {
            Some(t) => text(blake3::hash(t.data().bytes()).to_hex().as_str()),
            None => text(""),
        }
    }
    for node in &graph.nodes {
        text(&node.name);
        text(&format!("{:?}", node.op));
        text(&format!("{:?} {:?}", node.inputs, node.outputs));
    }
    text(&format!("{:?} {:?}", graph.inputs, graph.outputs));
    hash.finalize().to_hex().to_string()
}
