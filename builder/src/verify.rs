//! An engine's outputs against the FP32 CPU reference of the graph as it was imported.

mod cuda;
mod integers;
pub(crate) use cuda::tensor as tensor_of;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tobiuo_cpu::CpuExecutor;
use tobiuo_engine::{DeviceKey, EngineFile, Plan, Precision, Task};
use tobiuo_tensor::{DType, Tensor, TensorData, TensorViewMut, ViewDataMut, numel};

use crate::BuildError;
use crate::device::executor;
use crate::graph::Graph;
use crate::hash::model_hash;
use crate::import::{ImportError, ImportOptions, import};
use crate::interpret;

/// What to compare and how.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Every layer, not outputs only.
    pub layers: bool,
    /// How many random inputs.
    pub samples: usize,
    /// Of the random inputs.
    pub seed: u64,
    /// Largest relative L2 error that is right; `None`: by the engine's precision, of a network
    /// 1e-4 in f32, 1e-2 in f16 or TF32 and 0.25 in INT8, of a layer of a CUDA engine 1e-5 in f32
    /// and else 2e-3. Integers that a layer of a CUDA engine stores are right bit for bit only.
    pub tolerance: Option<f64>,
    /// The calibration cache of an INT8 engine's build, to compare its layers.
    pub calibration: Option<PathBuf>,
    /// Inputs given by name; others are random. With all given, one sample is run.
    pub inputs: Vec<(String, Tensor)>,
    /// Shapes that the model leaves open, as at the build; those of the engine's inputs where
    /// this is empty.
    pub input_shapes: Vec<(String, Vec<usize>)>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions {
            layers: false,
            samples: 3,
            seed: 1,
            tolerance: None,
            calibration: None,
            inputs: Vec::new(),
            input_shapes: Vec::new(),
        }
    }
}

/// How far one tensor is off, the worst of all samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Its name in the model.
    pub name: String,
    /// The step that makes it; empty for outputs.
    pub layer: String,
    /// Its operator; empty for outputs.
    pub op: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// Square root of sum of squared differences over sum of squared reference values;
    /// infinite where either is not a number and the other is, and as JSON then `null`.
    pub relative_l2: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Within the tolerance.
    pub ok: bool,
}

/// What verification found for one plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanComparison {
    /// Items per run.
    pub batch: usize,
    /// The engine's outputs.
    pub outputs: Vec<Comparison>,
    /// With `layers`: in the order they run.
    pub layers: Vec<Comparison>,
    /// Steps whose result has no counterpart of its name in the model (fused differently).
    pub layers_without_counterpart: usize,
    /// First layer over the tolerance.
    pub first_difference: Option<String>,
    /// Of a classifier on a GPU or in INT8: the class with the highest score is the same, or one
    /// whose score is as high within the tolerance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_top1: Option<bool>,
}

/// What verification found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifyReport {
    /// All outputs, and layers where they were compared, are within the tolerance.
    pub ok: bool,
    /// The engine says that it comes from this very model.
    pub same_model: bool,
    /// Largest relative L2 error that is right.
    pub tolerance: f64,
    /// Random inputs run per plan.
    pub samples: usize,
    /// Per plan.
    pub plans: Vec<PlanComparison>,
}

/// Compares an engine with its model, sample by sample.
///
/// The reference is the graph as imported, before any pass, run op by op. A layer of a CPU
/// engine is compared with the reference's value of its name; a layer of a CUDA engine with
/// what the reference makes of the operands that the layer itself had, so that a difference is
/// the layer's own.
pub fn verify(
    model: &Path,
    engine: &Path,
    options: &VerifyOptions,
) -> Result<VerifyReport, BuildError> {
    let engine = Arc::new(EngineFile::open(engine)?);
    let manifest = engine.manifest();
    let gpu = match &manifest.device {
        DeviceKey::Cuda(_) => Some(cuda::OnDevice::new(&engine)?),
        _ => {
            engine.check_device(&tobiuo_engine::ThisDevice::cpu())?;
            None
        }
    };
    let mut plans = Vec::new();
    let mut same_model = false;
    for index in 0..manifest.plans.len() {
        let plan = &manifest.plans[index];
        let graph = import_for(model, &engine, index, options)?;
        same_model |= index == 0 && model_hash(&graph) == manifest.provenance.model_hash;
        check_interface(&graph, &engine, plan)?;
        check_given(&graph, options)?;
        plans.push(match &gpu {
            Some(gpu) => cuda::compare_plan(&graph, &engine, gpu, index, options)?,
            None => compare_plan(&graph, &engine, index, options)?,
        });
    }
    let fine = |p: &PlanComparison| {
        p.outputs.iter().chain(&p.layers).all(|c| c.ok) && p.same_top1 != Some(false)
    };
    Ok(VerifyReport {
        ok: plans.iter().all(fine),
        same_model,
        tolerance: options.tolerance.unwrap_or(cuda::tolerances(manifest.precision).1),
        samples: options.samples,
        plans,
    })
}

fn import_for(
    model: &Path,
    engine: &EngineFile,
    index: usize,
    options: &VerifyOptions,
) -> Result<Graph, BuildError> {
    let manifest = engine.manifest();
    let plan = &manifest.plans[index];
    let mut import_options = ImportOptions { batch: plan.batch, input_shapes: Vec::new() };
    import_options.input_shapes = if options.input_shapes.is_empty() {
        let shape = |(port, &t): (&tobiuo_engine::Port, &u32)| {
            (port.name.clone(), plan.tensors[t as usize].shape.clone())
        };
        manifest.inputs.iter().zip(&plan.inputs).map(shape).collect()
    } else {
        options.input_shapes.clone()
    };
    match import(model, &import_options) {
        // The engine's own shapes do not fit the model's inputs.
        Err(ImportError::InputShape { problems, .. }) if options.input_shapes.is_empty() => {
            Err(BuildError::Usage(format!(
                "the engine is not made from this model: {}",
                problems.join("; ")
            )))
        }
        result => Ok(result?),
    }
}

/// The model and the engine have the same inputs and outputs.
fn check_interface(graph: &Graph, engine: &EngineFile, plan: &Plan) -> Result<(), BuildError> {
    let manifest = engine.manifest();
    let of_engine = |ports: &[tobiuo_engine::Port], tensors: &[u32]| -> Vec<String> {
        let shape = |t: &u32| plan.tensors[*t as usize].shape.clone();
        let pairs = ports.iter().zip(tensors);
        pairs.map(|(p, t)| format!("'{}' {} {:?}", p.name, p.dtype, shape(t))).collect()
    };
    let of_model =
        |name: &str, v| format!("'{name}' {} {:?}", graph.fact(v).dtype, graph.shape(v).to_vec());
    let inputs: Vec<String> =
        graph.inputs.iter().map(|&v| of_model(&graph.value(v).name, v)).collect();
    let outputs: Vec<String> = graph.outputs.iter().map(|(n, v)| of_model(n, *v)).collect();
    for (what, model, engine) in [
        ("inputs", inputs, of_engine(&manifest.inputs, &plan.inputs)),
        ("outputs", outputs, of_engine(&manifest.outputs, &plan.outputs)),
    ] {
        if model != engine {
            return Err(BuildError::Usage(format!(
                "the engine is not made from this model: the model's {what} are {}, the \
                 engine's {}",
                model.join(", "),
                engine.join(", ")
            )));
        }
    }
    Ok(())
}

/// Every input that is given is one of the model's.
fn check_given(graph: &Graph, options: &VerifyOptions) -> Result<(), BuildError> {
    let names: Vec<&str> = graph.inputs.iter().map(|&v| graph.value(v).name.as_str()).collect();
    match options.inputs.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        Some((name, _)) => Err(BuildError::Usage(format!(
            "--input {name}: the model's inputs are {}",
            names.join(", ")
        ))),
        None => Ok(()),
    }
}

/// Random inputs: f32 uniform in 0..1, as pictures are; integers 0 and 1.
fn sample(graph: &Graph, options: &VerifyOptions, number: usize) -> Vec<(String, Tensor)> {
    // SplitMix64: any seed will do.
    let mut state = options.seed.wrapping_add((number as u64) << 32);
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut random = |dtype: DType, shape: &[usize]| {
        let n = numel(shape);
        let mut unit = || (next() >> 40) as f32 / (1u64 << 24) as f32;
        let data = match dtype {
            DType::F32 => TensorData::F32((0..n).map(|_| unit()).collect()),
            DType::F16 => TensorData::F16((0..n).map(|_| half::f16::from_f32(unit())).collect()),
            DType::I64 => TensorData::I64((0..n).map(|_| i64::from(unit() > 0.5)).collect()),
            DType::I32 => TensorData::I32((0..n).map(|_| i32::from(unit() > 0.5)).collect()),
            DType::I8 => TensorData::I8((0..n).map(|_| i8::from(unit() > 0.5)).collect()),
            DType::U8 => TensorData::U8((0..n).map(|_| (unit() * 255.0) as u8).collect()),
            _ => TensorData::Bool((0..n).map(|_| u8::from(unit() > 0.5)).collect()),
        };
        Tensor::new(shape, data)
    };
    let one = |&v: &crate::graph::ValueId| {
        let value = graph.value(v);
        let given = options.inputs.iter().find(|(name, _)| *name == value.name);
        let tensor = match given {
            Some((_, t)) => t.clone(),
            None => random(value.fact.dtype, &value.fact.shape),
        };
        (value.name.clone(), tensor)
    };
    graph.inputs.iter().map(one).collect()
}

/// Copies elements into an executor's input; types and lengths agree.
pub(crate) fn copy_in(to: TensorViewMut<'_>, from: &Tensor) -> Option<()> {
    match (to.data, from.data()) {
        (ViewDataMut::F32(a), TensorData::F32(b)) => a.copy_from_slice(b),
        (ViewDataMut::F16(a), TensorData::F16(b)) => a.copy_from_slice(b),
        (ViewDataMut::I64(a), TensorData::I64(b)) => a.copy_from_slice(b),
        (ViewDataMut::I32(a), TensorData::I32(b)) => a.copy_from_slice(b),
        (ViewDataMut::I8(a), TensorData::I8(b)) => a.copy_from_slice(b),
        (ViewDataMut::U8(a), TensorData::U8(b)) => a.copy_from_slice(b),
        (ViewDataMut::Bool(a), TensorData::Bool(b)) => a.copy_from_slice(b),
        _ => return None,
    }
    Some(())
}

/// Adds a sample to a comparison, which keeps the worst.
fn worse(c: &mut Comparison, reference: &Tensor, got: &Tensor, tolerance: f64) {
    let (a, b) = (reference.to_f64(), got.to_f64());
    let (mut difference, mut norm, mut most) = (0.0, 0.0, 0.0f64);
    for (&x, &y) in a.iter().zip(&b) {
        // Equal infinities, and NaN in both, are equal.
        if x == y || (x.is_nan() && y.is_nan()) {
            norm += if x.is_finite() { x * x } else { 0.0 };
            continue;
        }
        let d = (x - y).abs();
        let d = if d.is_nan() { f64::INFINITY } else { d };
        difference += d * d;
        norm += if x.is_finite() { x * x } else { 0.0 };
        most = most.max(d);
    }
    let relative = match (difference > 0.0, norm > 0.0) {
        (false, _) => 0.0,
        (true, true) => (difference / norm).sqrt(),
        (true, false) => f64::INFINITY,
    };
    c.relative_l2 = c.relative_l2.max(relative);
    c.max_abs = c.max_abs.max(most);
    c.ok = c.relative_l2 <= tolerance;
}

fn blank(name: &str, layer: &str, op: &str, shape: &[usize]) -> Comparison {
    Comparison {
        name: name.into(),
        layer: layer.into(),
        op: op.into(),
        shape: shape.to_vec(),
        relative_l2: 0.0,
        max_abs: 0.0,
        ok: true,
    }
}

/// How many samples are run: one where all inputs are given.
fn samples(graph: &Graph, options: &VerifyOptions) -> usize {
    let given = |name: &str| options.inputs.iter().any(|(n, _)| n == name);
    let fixed = graph.inputs.iter().all(|&v| given(&graph.value(v).name));
    if fixed { 1 } else { options.samples.max(1) }
}

fn compare_plan(
    graph: &Graph,
    engine: &Arc<EngineFile>,
    index: usize,
    options: &VerifyOptions,
) -> Result<PlanComparison, BuildError> {
    let plan = &engine.manifest().plans[index];
    let mut executor = executor(engine, index).map_err(|e| BuildError::Device(e.to_string()))?;
    let names: Vec<&str> = graph.outputs.iter().map(|(n, _)| n.as_str()).collect();
    let mut outputs: Vec<Comparison> = (names.iter().zip(&plan.outputs))
        .map(|(name, &t)| blank(name, "", "", &plan.tensors[t as usize].shape))
        .collect();
    let mut layers: Vec<Comparison> = Vec::new();
    let mut without = 0;
    let task = engine.manifest().task.clone();
    let classes =
        matches!(task, Task::Classify { .. }) && engine.manifest().precision == Precision::Int8;
    let mut same_top1 = classes.then_some(true);
    // The CPU device computes in f32 whatever is not on integers.
    let precision = match engine.manifest().precision {
        Precision::Int8 => Precision::Int8,
        _ => Precision::Fp32,
    };
    let tolerance = options.tolerance.unwrap_or(cuda::tolerances(precision).1);
    for number in 0..samples(graph, options) {
        let inputs = sample(graph, options, number);
        let by_name: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
        // Graph and engine were compared, so the interpreter's checks hold for both.
        let mut reference: HashMap<String, Arc<Tensor>> = HashMap::new();
        let mut results: HashMap<crate::graph::ValueId, Arc<Tensor>> = HashMap::new();
        interpret::each(graph, &by_name, &mut |id, tensor| {
            if graph.is_output(id) {
                results.insert(id, tensor.clone());
            }
            if options.layers {
                reference.insert(graph.value(id).name.clone(), tensor.clone());
            }
        })
        .map_err(|e| BuildError::Usage(e.to_string()))?;
        load(&mut executor, &inputs)?;
        if options.layers {
            let first = number == 0;
            without = 0;
            let mut at = 0;
            executor.run_with(&mut |_, step, views| {
                for (&t, view) in step.outputs.iter().zip(views) {
                    let desc = &plan.tensors[t as usize];
                    let Some(wanted) = reference
                        .get(&desc.name)
                        .filter(|r| r.shape() == desc.shape && r.dtype() == desc.dtype)
                    else {
                        without += 1;
                        continue;
                    };
                    if first {
                        layers.push(blank(&desc.name, &step.name, step.op.name(), &desc.shape));
                    }
                    worse(&mut layers[at], wanted, &view.to_tensor(), tolerance);
                    at += 1;
                }
            });
        } else {
            executor.run();
        }
        for (i, (_, v)) in graph.outputs.iter().enumerate() {
            let got = executor.output(i).to_tensor();
            worse(&mut outputs[i], &results[v], &got, tolerance);
            if let (Task::Classify { output }, Some(same)) = (&task, &mut same_top1)
                && *output == i
            {
                *same &= cuda::same_top(&results[v], &got, tolerance);
            }
        }
    }
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

fn load(executor: &mut CpuExecutor, inputs: &[(String, Tensor)]) -> Result<(), BuildError> {
    for (i, (name, tensor)) in inputs.iter().enumerate() {
        copy_in(executor.input_mut(i), tensor).ok_or_else(|| {
            BuildError::Usage(format!("input '{name}' is {}, not what it wants", tensor.dtype()))
        })?;
    }
    Ok(())
}
