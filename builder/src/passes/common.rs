//! Common subexpressions: equal constants are one, equal nodes on equal operands run once.

use std::collections::HashMap;

use crate::graph::{Editor, Graph, GraphError, ValueId};

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    let mut constants: HashMap<[u8; 32], ValueId> = HashMap::new();
    let mut equal = Vec::new();
    for (id, value) in edit.graph().values() {
        if let Some(t) = &value.constant {
            let mut hash = blake3::Hasher::new();
            hash.update(format!("{} {:?} ", t.dtype(), t.shape()).as_bytes());
            hash.update(t.data().bytes());
            match constants.entry(*hash.finalize().as_bytes()) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    equal.push((id, *first.get()));
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(id);
                }
            }
        }
    }
    for (id, first) in equal {
        edit.replace(id, first);
    }
    let mut seen: HashMap<(String, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        // `Debug` prints floats so that different ones print differently, except NaN's payload.
        let key = (format!("{:?}", node.op), node.inputs.clone());
        match seen.get(&key).cloned() {
            // Two outputs of the graph stay two tensors.
            Some(first)
                if !node
                    .outputs
                    .iter()
                    .zip(&first)
                    .any(|(&a, &b)| edit.is_output(a) && edit.is_output(b)) =>
            {
                for (&o, &f) in node.outputs.iter().zip(&first) {
                    edit.replace(o, f);
                }
                edit.remove(i);
            }
            Some(_) => {}
            None => {
                seen.insert(key, node.outputs.clone());
            }
        }
    }
    Ok(edit.finish())
}
