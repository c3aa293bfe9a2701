//! Constant folding: nodes whose operands are all constants are computed now.

use tobiuo_cpu::evaluate;
use tobiuo_ops::Op;
use tobiuo_tensor::{DType, checked_numel};

use crate::graph::{Editor, Graph, GraphError};

/// A folded result may be this many times larger than its operands...
const GROWTH: usize = 8;
/// ... or up to this many bytes, whatever its operands (Expand, Tile).
const ALWAYS: usize = 4 << 20;
/// All the bytes that folding may add beyond its operands' in one graph.
const BUDGET: usize = 256 << 20;

/// The pass. Weights of 8 bits stay integers: integer layers want them.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    fold(graph, true)
}

/// As [`run`], with the integers that no integer layer took made floats.
pub fn run_all(graph: Graph) -> Result<Graph, GraphError> {
    fold(graph, false)
}

fn fold(graph: Graph, keep_integers: bool) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    let mut added = 0usize;
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        let constants: Option<Vec<_>> = node.inputs.iter().map(|&v| edit.constant(v)).collect();
        let Some(constants) = constants else { continue };
        let integers = matches!(node.op, Op::Dequantize { .. })
            && constants.first().is_some_and(|t| t.dtype() != DType::I32);
        if keep_integers && integers {
            continue;
        }
        let bytes_in: usize = constants.iter().map(|t| t.data().bytes().len()).sum();
        let bytes_out = node.outputs.iter().try_fold(0usize, |sum, &o| {
            let fact = edit.graph().fact(o);
            sum.checked_add(checked_numel(&fact.shape)?.checked_mul(fact.dtype.size())?)
        });
        let Some(bytes_out) = bytes_out else { continue };
        let growth = bytes_out.saturating_sub(bytes_in);
        let grows_much = bytes_out > ALWAYS.max(bytes_in.saturating_mul(GROWTH));
        if grows_much || added.saturating_add(growth) > BUDGET {
            log::debug!("'{}' stays: folded it would take {bytes_out} bytes", node.name);
            continue;
        }
        let results = match (&node.op, constants.as_slice()) {
            // No arithmetic: the elements are only seen in another shape.
            (Op::Reshape { shape }, [x]) => {
                (**x).clone().reshaped(shape.clone()).map(|t| vec![t]).ok_or("sizes differ".into())
            }
            _ => {
                let operands: Vec<_> = constants.iter().map(|t| &**t).collect();
                evaluate(&node.op, &operands).map_err(|e| e.to_string())
            }
        };
        let results = match results {
            Ok(results) => results,
            Err(e) => {
                log::debug!("'{}' stays: {e}", node.name);
                continue;
            }
        };
        added += growth;
        for (&o, tensor) in node.outputs.iter().zip(results) {
            let name = edit.graph().value(o).name.clone();
            let constant = edit.add_constant(&name, tensor);
            edit.swap_names(o, constant);
            edit.replace(o, constant);
        }
        edit.remove(i);
    }
    Ok(edit.finish())
}
