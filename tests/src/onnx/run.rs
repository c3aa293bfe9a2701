//! Running cases on a device.

use std::path::Path;

use tobiuo::{ContextOptions, Engine, ExecutionContext};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_builder::options::{CacheChoice, DeviceChoice, TaskChoice};
use tobiuo_builder::tactics::Effort;
use tobiuo_builder::{BuildOptions, build, interpret};
use tobiuo_engine::Precision;
use tobiuo_gpu::Context;
use tobiuo_tensor::Tensor;

use crate::cases::dumps::Dump;
use crate::{cases, lowered};

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

/// Runs one case after the other. On a GPU its context is made once, not for every engine: to
/// make one takes longer than a case.
pub struct Runner {
    device: Device,
    /// Engines, and the cache that their builds share.
    folder: tempfile::TempDir,
    _context: Option<Context>,
}

impl Runner {
    /// One for a device.
    ///
    /// # Errors
    ///
    /// The device cannot be used.
    pub fn new(device: Device) -> Result<Runner, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("no folder for engines: {e}"))?;
        let context = match device {
            Device::Cuda(n, _) => Some(Context::new(n).map_err(|e| e.to_string())?),
            _ => None,
        };
        Ok(Runner { device, folder, _context: context })
    }

    /// Runs the case or the dump in a folder and compares the outputs with the expected ones.
    ///
    /// # Errors
    ///
    /// Why it does not pass.
    pub fn run(&self, folder: &Path) -> Result<(), String> {
        let made = match folder.join("model.json").is_file() {
            true => self.dump(folder),
            false => self.case(folder),
        };
        // Where the cases lie is of no interest.
        made.map_err(|e| {
            let here = format!("{}: ", folder.join("model.onnx").display());
            e.replace(&here, "").replace('\n', " ")
        })
    }

    fn case(&self, folder: &Path) -> Result<(), String> {
        // This case's expected values are written down with four digits.
        let rounded = folder.ends_with("test_averagepool_2d_ceil_last_window_starts_on_pad");
        let limit = if rounded { 1e-3 } else { self.device.limit() };
        let model = folder.join("model.onnx");
        cases::run_by(folder, limit, |graph, given| self.outputs(&model, graph, 1, given))
    }

    /// A dump, all layers of it whose outputs are known.
    fn dump(&self, folder: &Path) -> Result<(), String> {
        let dump = Dump::read(folder)?;
        let copy = tempfile::tempdir().map_err(|e| format!("no folder for the dump: {e}"))?;
        dump.copy_with_all_outputs(copy.path())?;
        let options = ImportOptions { batch: dump.batch, ..ImportOptions::default() };
        let graph = import(copy.path(), &options).map_err(|e| e.to_string())?;
        let outputs = self.outputs(copy.path(), graph, dump.batch, &dump.given())?;
        let f16 = self.device.limit() > 1e-5;
        let wrong: Vec<String> = (dump.layers.iter().zip(&outputs))
            .filter_map(|(layer, got)| {
                layer.compare(got, f16).err().map(|why| format!("{}: {why}", layer.name))
            })
            .collect();
        match (dump.layers.len(), wrong.is_empty()) {
            (0, _) => Err("no layer's output is known".into()),
            (_, true) => Ok(()),
            (_, false) => Err(wrong.join("; ")),
        }
    }

    /// What the device makes of a model, which `graph` is.
    fn outputs(
        &self,
        model: &Path,
        graph: Graph,
        batch: usize,
        given: &[(&str, &Tensor)],
    ) -> Result<Vec<Tensor>, String> {
        let (device, precision) = match self.device {
            Device::Reference => {
                return interpret::run(&graph, given).map_err(|e| e.to_string());
            }
            Device::Lowered(precision) => return lowered::run(graph, given, precision, true),
            Device::Cpu => (DeviceChoice::Cpu, None),
            Device::Cuda(n, precision) => (DeviceChoice::Cuda(n), Some(precision)),
        };
        let path = self.folder.path().join("case.tobiuo");
        let input_shapes = match model.is_file() {
            true => cases::shapes(model.parent().unwrap_or(model))?,
            false => Vec::new(),
        };
        let mut options = BuildOptions {
            device,
            precision,
            input_shapes,
            batches: vec![batch],
            task: TaskChoice::Tensors,
            ..BuildOptions::default()
        };
        options.cuda.effort = Effort::Fast;
        options.cuda.cache = CacheChoice::File(self.folder.path().join("tactics.jsonl"));
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
}
