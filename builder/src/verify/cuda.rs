//! Verification of CUDA engines: whole outputs through the runtime's executor, and each layer
//! by itself in a copy of the engine whose buffers are kept apart.

use std::collections::HashMap;
use std::sync::Arc;

use tobiuo_cpu::evaluate;
use tobiuo_cuda::{CudaEngine, CudaExecutor, ExecutorOptions, device_key};
use tobiuo_engine::{
    CudaKey, DeviceKey, EngineFile, Precision, Program as PlanProgram, Task, ThisDevice,
};
use tobiuo_gpu::{Context, devices};
use tobiuo_kernels::{Candidate, Target};
use tobiuo_nvrtc::Compiled;
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::integers::{is_exact, with_integers};
use super::{Comparison, PlanComparison, VerifyOptions, blank, copy_in, sample, worse};
use crate::BuildError;
use crate::cuda::joins;
use crate::cuda::lower::{Lowering, lower};
use crate::cuda::schedule::{Schedule, Slot};
use crate::graph::{Graph, ValueId};
use crate::interpret;
use crate::passes::{PassOptions, optimise};
use crate::tactics::{Program, Tactic};

/// Largest relative L2 errors that are right, of one layer and of a whole network.
pub(super) fn tolerances(precision: Precision) -> (f64, f64) {
    match precision {
        Precision::Fp32 => (1e-5, 1e-4),
        // Layers in f16; what is integers is the same bit for bit. Of a network on integers it is
        // the accuracy that counts (--accuracy-drop, tobiuo eval): broken is only what is far off.
        Precision::Int8 => (2e-3, 0.25),
        // TF32 has as many bits as f16.
        _ => (2e-3, 1e-2),
    }
}

/// An engine on the first device that it fits.
pub(super) struct OnDevice {
    context: Context,
    engine: CudaEngine,
    key: CudaKey,
}

impl OnDevice {
    pub fn new(file: &EngineFile) -> Result<OnDevice, BuildError> {
        let list = devices()?;
        let this = |d| ThisDevice::from(DeviceKey::Cuda(device_key(d)));
        let fits = list.iter().find(|d| file.check_device(&this(d)).is_ok());
        let Some(device) = fits.or(list.first()) else {
            return Err(BuildError::NoDevice(
                "the engine is for a GPU; the driver shows none".into(),
            ));
        };
        file.check_device(&this(device))?;
        let DeviceKey::Cuda(key) = file.manifest().device.clone() else {
            return Err(BuildError::Usage("the engine is not for a GPU".into()));
        };
        let context = Context::new(device.ordinal)?;
        let engine = CudaEngine::new(&context, file.weights(), &|_| ())?;
        Ok(OnDevice { context, engine, key })
    }
}

/// Compares one plan with its model.
pub(super) fn compare_plan(
    graph: &Graph,
    file: &EngineFile,
    on: &OnDevice,
    index: usize,
    options: &VerifyOptions,
) -> Result<PlanComparison, BuildError> {
    let manifest = file.manifest();
    let plan = &manifest.plans[index];
    let (of_layer, of_whole) = tolerances(manifest.precision);
    let (of_layer, of_whole) =
        (options.tolerance.unwrap_or(of_layer), options.tolerance.unwrap_or(of_whole));
    let ready = on.engine.plan(plan, file.code())?;
    let mut executor = CudaExecutor::new(&ready, &ExecutorOptions::default())?;
    let mut outputs: Vec<Comparison> = (graph.outputs.iter().zip(&plan.outputs))
        .map(|((name, _), &t)| blank(name, "", "", &plan.tensors[t as usize].shape))
        .collect();
    let mut kept = match options.layers {
        true => Some(Kept::new(graph, file, on, (index, options))?),
        false => None,
    };
    let mut same_top1 = matches!(manifest.task, Task::Classify { .. }).then_some(true);
    for number in 0..super::samples(graph, options) {
        let inputs = sample(graph, options, number);
        let by_name: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let reference =
            interpret::run(graph, &by_name).map_err(|e| BuildError::Usage(e.to_string()))?;
        for (i, (name, tensor)) in inputs.iter().enumerate() {
            copy_in(executor.input_mut(i), tensor).ok_or_else(|| wrong_type(name, tensor))?;
        }
        executor.run()?;
        for (i, wanted) in reference.iter().enumerate() {
            let got = executor.output(i).to_tensor();
            worse(&mut outputs[i], wanted, &got, of_whole);
            if let (Task::Classify { output }, Some(same)) = (&manifest.task, &mut same_top1)
                && *output == i
            {
                *same &= same_top(wanted, &got, of_whole);
            }
        }
        if let Some(kept) = &mut kept {
            kept.compare(&inputs, of_layer)?;
        }
    }
    let (layers, without) = kept.map_or((Vec::new(), 0), |k| (k.layers, k.without));
    let first_difference = layers.iter().find(|l| !l.ok).map(|l| l.layer.clone());
    Ok(PlanComparison {
        batch: plan.batch,
        outputs,
        layers,
        layers_without_counterpart: without,
        first_difference,
        same_top1,
    })
}

fn wrong_type(name: &str, tensor: &Tensor) -> BuildError {
    BuildError::Usage(format!("input '{name}' is {}, not what it wants", tensor.dtype()))
}

/// The class with the highest score is the same, or one whose score is as high within the
/// tolerance.
pub(super) fn same_top(wanted: &Tensor, got: &Tensor, tolerance: f64) -> bool {
    let classes = wanted.shape().last().copied().unwrap_or(1).max(1);
    let (wanted, got) = (wanted.to_f64(), got.to_f64());
    let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    wanted.chunks(classes).zip(got.chunks(classes)).all(|(w, g)| {
        let (Some(a), Some(b)) = (top(w), top(g)) else { return true };
        w[a] - w[b] <= tolerance * w.iter().fold(0.0f64, |m, v| m.max(v.abs()))
    })
}

/// The engine's kernels over buffers of their own, with the graph that they were made from.
struct Kept {
    graph: Graph,
    lowering: Lowering,
    program: Program,
    layers: Vec<Comparison>,
    /// Nodes whose result or operands are nowhere whole: fused into others.
    without: usize,
}

/// The passes that an engine says it was built with.
fn pass_options(options: &str) -> PassOptions {
    let mut passes = PassOptions { until: None, with: vec!["merge-siblings".into()] };
    for word in options.split(' ') {
        if let Some(name) = word.strip_prefix("passes-until=") {
            passes.until = Some(name.into());
        }
        if let Some(names) = word.strip_prefix("with=") {
            passes.with.extend(names.split(',').map(String::from));
        }
    }
    passes.with.sort();
    passes.with.dedup();
    passes
}

impl Kept {
    fn new(
        graph: &Graph,
        file: &EngineFile,
        on: &OnDevice,
        (index, options): (usize, &VerifyOptions),
    ) -> Result<Kept, BuildError> {
        let manifest = file.manifest();
        let mut passes = pass_options(&manifest.provenance.options);
        if manifest.precision == Precision::Int8 {
            passes.with.push("integers".into());
        }
        let (graph, _) = optimise(graph.clone(), &passes, &mut |_| ())?;
        let graph = with_integers(graph, file, index, options)?;
        let lowering = with_joins(lower(&graph, manifest.precision)?, file, index);
        let (tactics, schedule) = again(&lowering, file, &on.key, index)?;
        let program = Program::new(&on.context, &lowering, &tactics, &schedule, true)?;
        Ok(Kept { graph, lowering, program, layers: Vec::new(), without: 0 })
    }

    /// Runs a sample and compares what each node made of what it was given.
    fn compare(&mut self, inputs: &[(String, Tensor)], tolerance: f64) -> Result<(), BuildError> {
        for (i, (_, tensor)) in inputs.iter().enumerate() {
            self.program.set_input(i, tensor.data().bytes())?;
        }
        self.program.run()?;
        let mut values: HashMap<ValueId, Arc<Tensor>> = HashMap::new();
        for (id, view) in &self.lowering.values {
            let bytes = self.program.elements(view)?;
            if let Some(tensor) = tensor(&bytes, view.dtype, &view.shape) {
                // As the graph has it: what is stored as f16 is a float there.
                let fact = self.graph.fact(*id);
                let wide = fact.dtype == DType::F32 && tensor.dtype() == DType::F16;
                let tensor = if wide { as_f32(&tensor) } else { tensor };
                if tensor.dtype() == fact.dtype && tensor.shape() == fact.shape {
                    values.insert(*id, Arc::new(tensor));
                }
            }
        }
        for (id, value) in self.graph.values() {
            if let Some(constant) = &value.constant {
                values.insert(id, constant.clone());
            }
        }
        let first = self.layers.is_empty();
        let mut at = 0;
        self.without = 0;
        for node in &self.graph.nodes {
            let operands: Option<Vec<&Tensor>> =
                node.inputs.iter().map(|v| values.get(v).map(|t| &**t)).collect();
            let results: Option<Vec<&Tensor>> =
                node.outputs.iter().map(|v| values.get(v).map(|t| &**t)).collect();
            let (Some(operands), Some(results)) = (operands, results) else {
                self.without += 1;
                continue;
            };
            let wanted = evaluate(&node.op, &operands)
                .map_err(|e| BuildError::Device(format!("node '{}': {e}", node.name)))?;
            for ((id, wanted), got) in node.outputs.iter().zip(&wanted).zip(results) {
                if first {
                    let name = &self.graph.value(*id).name;
                    self.layers.push(blank(name, &node.name, node.op.name(), got.shape()));
                }
                let exact = is_exact(node, got.dtype());
                worse(&mut self.layers[at], wanted, got, if exact { 0.0 } else { tolerance });
                at += 1;
            }
        }
        Ok(())
    }
}

fn as_f32(tensor: &Tensor) -> Tensor {
    Tensor::f32(tensor.shape(), tensor.to_f64().into_iter().map(|v| v as f32).collect())
}

/// A tensor of raw little-endian elements.
pub(crate) fn tensor(bytes: &[u8], dtype: DType, shape: &[usize]) -> Option<Tensor> {
    macro_rules! list {
        ($t:ty) => {
            bytes
                .chunks_exact(size_of::<$t>())
                .map(|b| <$t>::from_le_bytes(b.try_into().expect("whole elements")))
                .collect()
        };
    }
    let data = match dtype {
        DType::F32 => TensorData::F32(list!(f32)),
        DType::F16 => TensorData::F16(list!(half::f16)),
        DType::I64 => TensorData::I64(list!(i64)),
        DType::I32 => TensorData::I32(list!(i32)),
        DType::I8 => TensorData::I8(list!(i8)),
        DType::U8 => TensorData::U8(list!(u8)),
        DType::Bool => TensorData::Bool(bytes.to_vec()),
        _ => return None,
    };
    Some(Tensor::new(shape, data))
}

/// The lowering with those layers joined that the engine has joined.
fn with_joins(lowering: Lowering, file: &EngineFile, index: usize) -> Lowering {
    let PlanProgram::Cuda(program) = &file.manifest().plans[index].program else { return lowering };
    let several = |family: &str| ["conv_pair", "conv_chain"].iter().any(|f| family.starts_with(f));
    let joined = program.launches.iter().filter(|l| several(&l.family));
    let names: Vec<&str> = joined.map(|l| l.name.as_str()).collect();
    // What cannot be joined is told as a difference of the launches.
    joins::join_layers(&lowering, &names).unwrap_or(lowering)
}

/// The engine's own kernels for a lowering of its model.
fn again(
    lowering: &Lowering,
    file: &EngineFile,
    key: &CudaKey,
    index: usize,
) -> Result<(Vec<Tactic>, Schedule), BuildError> {
    let other = |why: String| {
        BuildError::Usage(format!(
            "the engine's layers cannot be compared one by one: {why}. It was made by {}; build \
             it again with this builder, or leave out --layers",
            file.manifest().builder
        ))
    };
    let PlanProgram::Cuda(program) = &file.manifest().plans[index].program else {
        return Err(other("it is not for a GPU".into()));
    };
    if program.launches.len() != lowering.layers.len() {
        return Err(other(format!(
            "it has {} launches, the model now gives {}",
            program.launches.len(),
            lowering.layers.len()
        )));
    }
    let mut target = Target::of_sm(key.sm).unwrap_or(Target {
        sm: key.sm,
        sm_count: key.sm_count,
        shared_per_block: key.shared_per_block,
        shared_per_sm: key.shared_per_block,
        l2_bytes: key.l2_bytes,
        clock_ghz: 1.0,
        bandwidth_gbs: 100.0,
    });
    (target.sm_count, target.l2_bytes) = (key.sm_count, key.l2_bytes);
    target.shared_per_block = key.shared_per_block;
    let mut tactics = Vec::new();
    for (i, (launch, layer)) in program.launches.iter().zip(&lowering.layers).enumerate() {
        let same = |c: &Candidate| {
            c.label == launch.tactic.label
                && c.grid == launch.grid
                && [c.block, 1, 1] == launch.block
                && c.shared == launch.shared
                && c.arguments.len() == launch.arguments.len()
        };
        let all = layer.layer.every_candidate(&target);
        let candidate = (launch.name == layer.name && launch.family == layer.layer.family())
            .then(|| all.into_iter().find(same))
            .flatten()
            .ok_or_else(|| {
                other(format!(
                    "launch {i} '{}' is a {} kernel '{}', which this builder does not make for \
                     layer '{}'",
                    launch.name, launch.family, launch.tactic.label, layer.name
                ))
            })?;
        let module = program.modules[launch.module as usize];
        let code = &file.code()[module.offset as usize..][..module.bytes as usize];
        tactics.push(Tactic {
            candidate,
            code: Compiled {
                cubin: code.to_vec(),
                registers: 0,
                spill_bytes: 0,
                shared_bytes: 0,
                log: String::new(),
            },
            time_us: None,
            runners_up: Vec::new(),
            finalists: Vec::new(),
            distinct: i,
        });
    }
    let slots: Vec<Slot> = (program.launches.iter())
        .map(|l| Slot {
            stream: l.stream as usize,
            after: l.after.iter().map(|&a| a as usize).collect(),
        })
        .collect();
    let streams = slots.iter().map(|s| s.stream + 1).max().unwrap_or(1);
    Ok((tactics, Schedule { slots, streams, carveout: program.carveout }))
}
