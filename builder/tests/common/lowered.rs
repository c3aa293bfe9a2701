//! Graphs lowered for CUDA, their layers run by their references.

use tobiuo_builder::cuda::{interpret, lower};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::passes;
use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

/// A graph's outputs, with the passes before lowering or without.
pub fn run(
    graph: Graph,
    given: &[(&str, &Tensor)],
    precision: Precision,
    optimised: bool,
) -> Result<Vec<Tensor>, String> {
    let graph = if optimised { optimise(graph)? } else { graph };
    let lowering = lower::lower(&graph, precision).map_err(|e| e.to_string())?;
    let value = |id| {
        let name = &graph.value(id).name;
        given.iter().find(|(n, _)| n == name).expect("an input that is given").1
    };
    let inputs: Vec<&Tensor> = graph.inputs.iter().map(|&id| value(id)).collect();
    interpret::tensors(&graph, &lowering, &inputs).map_err(|e| e.to_string())
}

/// The graph after the passes.
pub fn optimise(graph: Graph) -> Result<Graph, String> {
    let options = passes::PassOptions::default();
    let done = passes::optimise(graph, &options, &mut |_| {}).map_err(|e| e.to_string())?;
    Ok(done.0)
}
