//! The graph that an INT8 engine was made from, made again to compare its layers.

use std::collections::{BTreeMap, HashSet};

use tobiuo_engine::{EngineFile, Precision, Program};
use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use super::VerifyOptions;
use crate::BuildError;
use crate::cuda::speed::units::{by_name, nodes_of};
use crate::graph::{Graph, Node};
use crate::quantize::cache::Cached;
use crate::quantize::select::{Kind, kind, select};
use crate::quantize::{apply, is_quantised};

/// An optimised graph with the integer layers that the engine's plan has. A model that came
/// quantised has them already; of one that was calibrated the scales are in the calibration's
/// cache, and which layers compute on integers is what the engine's kernels are.
pub(super) fn with_integers(
    graph: Graph,
    file: &EngineFile,
    index: usize,
    options: &VerifyOptions,
) -> Result<Graph, BuildError> {
    let manifest = file.manifest();
    let on_integers = graph.nodes.iter().any(|n| n.op.name().starts_with("Quant"));
    if manifest.precision != Precision::Int8 || on_integers || is_quantised(&graph) {
        return Ok(graph);
    }
    let Program::Cuda(program) = &manifest.plans[index].program else { return Ok(graph) };
    let known = by_name(&graph);
    let of_integers = ["QuantConv", "QuantGemm", "QuantBinary", "QuantPool", "Lookup"];
    let launches = program.launches.iter().filter(|l| of_integers.contains(&l.op.as_str()));
    let chosen: HashSet<usize> =
        launches.filter_map(|l| nodes_of(&l.name, &known)).flatten().collect();
    if chosen.is_empty() {
        return Ok(graph);
    }
    let Some(path) = &options.calibration else {
        return Err(BuildError::Usage(
            "--layers: the engine's layers compute on integers by scales of a calibration; \
             --calibration-cache names the file that the build wrote (or leave --layers out)"
                .into(),
        ));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| BuildError::Io { path: path.clone(), error })?;
    let cached = Cached::parse(&text)
        .map_err(|e| BuildError::Damaged(format!("--calibration-cache {}: {e}", path.display())))?;
    if cached.model.as_ref().is_some_and(|of| *of != manifest.provenance.model_hash) {
        return Err(BuildError::Usage(format!(
            "--calibration-cache {}: it is of another model than the engine",
            path.display()
        )));
    }
    // What moves elements follows its neighbours.
    let decides = |n: &Node| matches!(kind(&graph, n), Kind::Product | Kind::Light);
    let floats: BTreeMap<String, String> = (select(&graph, &HashSet::new()).nodes.into_iter())
        .filter(|&i| decides(&graph.nodes[i]) && !chosen.contains(&i))
        .map(|i| (graph.nodes[i].name.clone(), String::new()))
        .collect();
    apply(&graph, &cached.ranges, &floats)
}

/// True where a node's result must be the same bit for bit: integers, made by an operation that
/// is defined to the bit.
pub(super) fn is_exact(node: &Node, result: DType) -> bool {
    let defined = matches!(
        node.op,
        Op::QuantConv(_)
            | Op::QuantGemm(_)
            | Op::QuantBinary(_)
            | Op::QuantPool(_)
            | Op::Quantize { .. }
            | Op::Lookup
    );
    defined && matches!(result, DType::I8 | DType::U8)
}
