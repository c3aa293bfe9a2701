//! Graphs run on the CPU device, whatever device an engine is made for: its integers are every
//! device's.

use std::sync::Arc;
use std::time::Instant;

use tobiuo_cpu::CpuExecutor;
use tobiuo_engine::{
    DeviceKey, EngineFile, Manifest, Plan, Precision, Program, Provenance, Task, encode,
};
use tobiuo_tensor::{Tensor, TensorView, TensorViewMut};

use crate::BuildError;
use crate::build::{VERSION, ports};
use crate::graph::Graph;
use crate::plan::plan;
use crate::plan::weights::Weights;

/// The bytes of an engine of the CPU device of a graph.
pub fn engine_bytes(graph: &Graph, batch: usize) -> Result<Vec<u8>, BuildError> {
    let mut weights = Weights::new();
    let (inputs, outputs) = ports(graph);
    let (plan, _) = plan(graph.clone(), batch, &mut weights)?;
    let metadata = &graph.metadata;
    let manifest = Manifest {
        builder: VERSION.into(),
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Int8,
        provenance: Provenance::default(),
        inputs,
        outputs,
        task: metadata.task.clone().unwrap_or(Task::Tensors),
        preprocess: metadata.preprocess.clone(),
        labels: metadata.labels.clone(),
        plans: vec![plan],
    };
    let mut section = vec![0; weights.size() as usize];
    for (at, tensor) in weights.parts() {
        let bytes = tensor.data().bytes();
        section[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(encode(&manifest, &section)?)
}

/// A graph made ready.
pub struct Runner {
    executor: CpuExecutor,
}

fn device(e: impl std::fmt::Display) -> BuildError {
    BuildError::Device(e.to_string())
}

impl Runner {
    /// Makes a graph ready.
    pub fn new(graph: &Graph) -> Result<Runner, BuildError> {
        let bytes = engine_bytes(graph, 1)?;
        let engine = Arc::new(EngineFile::from_bytes(&bytes)?);
        Ok(Runner { executor: crate::device::executor(&engine, 0).map_err(device)? })
    }

    /// The plan that runs.
    pub fn plan(&self) -> &Plan {
        self.executor.program().plan()
    }

    /// Sets the inputs, in the graph's order.
    pub fn load(&mut self, inputs: &[Tensor]) -> Result<(), BuildError> {
        for (i, tensor) in inputs.iter().enumerate() {
            let name = &self.plan().tensors[self.plan().inputs[i] as usize].name;
            let wrong = format!("calibration: input '{name}' cannot be {}", tensor.dtype());
            crate::verify::copy_in(self.executor.input_mut(i), tensor)
                .ok_or(BuildError::Usage(wrong))?;
        }
        Ok(())
    }

    /// Runs on what was loaded; the outputs.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BuildError> {
        self.load(inputs)?;
        self.executor.run();
        let outputs = self.plan().outputs.len();
        Ok((0..outputs).map(|i| self.executor.output(i).to_tensor()).collect())
    }

    /// Runs step by step; `see` gets each step's outputs with their names.
    pub fn observe(
        &mut self,
        inputs: &[Tensor],
        see: &mut dyn FnMut(&str, TensorView<'_>),
    ) -> Result<(), BuildError> {
        self.load(inputs)?;
        let names: Vec<String> = self.plan().tensors.iter().map(|t| t.name.clone()).collect();
        self.executor.run_with(&mut |_, step, views| {
            for (&t, view) in step.outputs.iter().zip(views) {
                see(&names[t as usize], *view);
            }
        });
        Ok(())
    }

    /// Median microseconds of the whole network and of each step by its name, of `runs` runs.
    pub fn times(&mut self, inputs: &[Tensor], runs: usize) -> Result<Times, BuildError> {
        self.run(inputs)?;
        let Program::Cpu(steps) = &self.plan().program else {
            unreachable!("made for the CPU device")
        };
        let names: Vec<String> = steps.iter().map(|s| s.name.clone()).collect();
        let (mut whole, mut layers) = (Vec::new(), vec![Vec::new(); names.len()]);
        for _ in 0..runs.max(1) {
            self.load(inputs)?;
            let begin = Instant::now();
            self.executor.run();
            whole.push(begin.elapsed().as_secs_f64() * 1e6);
            for (all, t) in layers.iter_mut().zip(self.executor.layer_times()) {
                all.push(t.as_secs_f64() * 1e6);
            }
        }
        let layers = names.into_iter().zip(layers.iter_mut().map(|v| median(v))).collect();
        Ok(Times { network: median(&mut whole), layers })
    }
}

/// Measured times, microseconds.
#[derive(Clone, Debug)]
pub struct Times {
    /// The whole network.
    pub network: f64,
    /// By layer.
    pub layers: Vec<(String, f64)>,
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A tensor of the elements of an executor's input.
pub fn filled(shape: &[usize], fill: impl FnOnce(TensorViewMut<'_>)) -> Tensor {
    let mut tensor = Tensor::f32(shape, vec![0.0; shape.iter().product()]);
    fill(tensor.view_mut());
    tensor
}
