//! Running one case on a device.

use std::path::Path;

use tobiuo::{ContextOptions, Engine, ExecutionContext};
use tobiuo_builder::cuda::{interpret as interpret_cuda, lower};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::options::{CacheChoice, DeviceChoice, TaskChoice};
use tobiuo_builder::passes::{PassOptions, optimise};
use tobiuo_builder::tactics::Effort;
use tobiuo_builder::{BuildOptions, build, interpret};
use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

use crate::cases;

/// What runs a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The graph as it is imported, node by node on the CPU device's kernels.
    Reference,
    /// An engine built for the CPU device.
    Cpu,
    /// The graph optimised and lowered for CUDA, its layers run by their references.
    Lowered(Precision),
    /// An engine built for a GPU, of this number.
    Cuda(usize, Precision),
}

impl Device {
    /// Largest relative L2 error of f32 outputs.
    fn limit(self) -> f64 {
        match self {
            Device::Reference | Device::Cpu => 1e-5,
            Device::Lowered(Precision::Fp32) | Device::Cuda(_, Precision::Fp32) => 1e-5,
            // TF32 has as many bits as f16.
            Device::Lowered(_) | Device::Cuda(..) => 4e-3,
        }
    }
}

/// Runs a case and compares its outputs with the expected ones.
///
/// # Errors
///
/// Why it does not pass.
pub fn run(folder: &Path, device: Device) -> Result<(), String> {
    // This case's expected values are written down with four digits.
    let rounded = folder.ends_with("test_averagepool_2d_ceil_last_window_starts_on_pad");
    let limit = if rounded { 1e-3 } else { device.limit() };
    let model = folder.join("model.onnx");
    let made = cases::run_by(folder, limit, |graph, given| match device {
        Device::Reference => interpret::run(&graph, given).map_err(|e| e.to_string()),
        Device::Cpu => engine(&model, DeviceChoice::Cpu, None, given),
        Device::Cuda(n, precision) => engine(&model, DeviceChoice::Cuda(n), Some(precision), given),
        Device::Lowered(precision) => lowered(graph, precision, given),
    });
    // Where the cases lie is of no interest.
    made.map_err(|e| e.replace(&format!("{}: ", model.display()), "").replace('\n', " "))
}

fn lowered(
    graph: Graph,
    precision: Precision,
    given: &[(&str, &Tensor)],
) -> Result<Vec<Tensor>, String> {
    let options = PassOptions::default();
    let (graph, _) = optimise(graph, &options, &mut |_| ()).map_err(|e| e.to_string())?;
    let lowering = lower::lower(&graph, precision).map_err(|e| e.to_string())?;
    let value = |id| {
        let name = &graph.value(id).name;
        given.iter().find(|(n, _)| n == name).map(|(_, tensor)| *tensor)
    };
    let inputs: Option<Vec<&Tensor>> = graph.inputs.iter().map(|&id| value(id)).collect();
    let inputs = inputs.ok_or("an input is not given")?;
    interpret_cuda::tensors(&graph, &lowering, &inputs).map_err(|e| e.to_string())
}

fn engine(
    model: &Path,
    device: DeviceChoice,
    precision: Option<Precision>,
    given: &[(&str, &Tensor)],
) -> Result<Vec<Tensor>, String> {
    let folder = tempfile::tempdir().map_err(|e| format!("no folder for the engine: {e}"))?;
    let path = folder.path().join("case.tobiuo");
    let input_shapes = cases::shapes(model.parent().unwrap_or(model))?;
    let task = TaskChoice::Tensors;
    let mut options =
        BuildOptions { device, precision, task, input_shapes, ..BuildOptions::default() };
    options.cuda.effort = Effort::Fast;
    options.cuda.cache = CacheChoice::None;
    build(model, &path, &options, &mut ()).map_err(|e| format!("built: {e}"))?;
    let engine = Engine::open(&path).map_err(|e| format!("opened: {e}"))?;
    let batch = ContextOptions::default().batch(engine.manifest().plans[0].batch);
    let context = ExecutionContext::new(&engine, &batch);
    let mut context = context.map_err(|e| format!("a context: {e}"))?;
    for &(name, tensor) in given {
        context.set_input(name, tensor).map_err(|e| format!("input '{name}': {e}"))?;
    }
    context.run().map_err(|e| format!("run: {e}"))?;
    Ok((0..engine.outputs().len()).map(|i| context.output_at(i).to_tensor()).collect())
}
