//! Calibration on a GPU: the network in f32 by the engine's own kernels, and beside it kernels
//! that count the magnitudes of every tensor observed.

use tobiuo_engine::Precision;
use tobiuo_gpu::Context;
use tobiuo_kernels::{
    CountedTensor, HISTOGRAM_BINS, HISTOGRAM_TENSORS, HistogramLayer, HistogramStep, Layer, Strided,
};
use tobiuo_nvrtc::Nvrtc;
use tobiuo_tensor::{DType, Tensor};

use super::histogram::Histogram;
use super::select::observed;
use crate::BuildError;
use crate::cuda::lower::{Buffer, Lowered, Lowering, Operand, lower};
use crate::cuda::make::tune::{caches, no_compiler};
use crate::cuda::schedule::Schedule;
use crate::cuda::view::{BufferId, View, dense};
use crate::graph::{Graph, ValueId};
use crate::hardware::Gpu;
use crate::options::CudaOptions;
use crate::progress::Progress;
use crate::tactics::{Chooser, Compiler, Effort, Program, TacticCache};

/// The GPU that is calibrated on.
#[derive(Clone, Copy, Debug)]
pub struct OnGpu<'a> {
    /// The device; it must be in this machine.
    pub gpu: &'a Gpu,
    /// Where compiled kernels are kept.
    pub options: &'a CudaOptions,
}

/// Tensors that are counted together, and where their counts are.
struct Counted {
    names: Vec<String>,
    extremes: View,
    broken: View,
    counts: View,
}

/// A network on a GPU whose tensors are counted.
pub(super) struct Collector {
    program: Program,
    counted: Vec<Counted>,
    outputs: Vec<View>,
}

impl Collector {
    /// Makes a graph ready: kernels by the cost model, none is timed.
    pub fn new(
        graph: &Graph,
        on: OnGpu<'_>,
        progress: &mut dyn Progress,
        share: f64,
    ) -> Result<Collector, BuildError> {
        let no = |what: &str| BuildError::NoDevice(what.into());
        let device = on.gpu.device.as_ref().ok_or_else(|| no("the GPU is not in this machine"))?;
        let target = on.gpu.target().ok_or_else(|| no("nothing is known of this GPU"))?;
        let mut lowering = materialised(graph)?;
        let counted = count(graph, &mut lowering)?;
        let nvrtc = Nvrtc::open_for(on.gpu.sm, Some(device.driver)).map_err(no_compiler)?;
        let (_, store) = caches(on.options)?;
        let compiler = Compiler::new(nvrtc, store);
        let mut chooser = Chooser {
            compiler: &compiler,
            target: &target,
            device: None,
            effort: Effort::Fast,
            cache: &mut TacticCache::in_memory(),
            device_key: "",
            scratch_limit: None,
            memory_limit: None,
            deadline: None,
            full: None,
        };
        let (tactics, _) = chooser.choose(&lowering, progress, share)?;
        let context = Context::new(device.ordinal)?;
        let schedule = Schedule::serial(tactics.len());
        // No two tensors share memory: the counting kernels run last.
        let program = Program::new(&context, &lowering, &tactics, &schedule, true)?;
        Ok(Collector { program, counted, outputs: lowering.outputs })
    }

    /// Runs on a sample.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<(), BuildError> {
        for (i, tensor) in inputs.iter().enumerate() {
            self.program.set_input(i, tensor.data().bytes())?;
        }
        Ok(self.program.run()?)
    }

    /// The outputs of the last run.
    pub fn outputs(&self, graph: &Graph) -> Result<Vec<Tensor>, BuildError> {
        let of = |(i, view): (usize, &View)| -> Result<Tensor, BuildError> {
            let bytes = self.program.output(i)?;
            let broken = || BuildError::Device("an output cannot be read".into());
            crate::verify::tensor_of(&bytes, view.dtype, &view.shape).ok_or_else(broken)
        };
        self.outputs.iter().take(graph.outputs.len()).enumerate().map(of).collect()
    }

    /// What the last run's tensors count.
    pub fn histograms(
        &self,
        see: &mut dyn FnMut(&str, Histogram) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        for group in &self.counted {
            let words = |view: &View| -> Result<Vec<u32>, BuildError> {
                let bytes = self.program.elements(view)?;
                let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                Ok(bytes.chunks_exact(4).map(word).collect())
            };
            let extremes = words(&group.extremes)?;
            let broken = words(&group.broken)?;
            let counts = words(&group.counts)?;
            let each = counts.chunks_exact(HISTOGRAM_BINS).zip(extremes.chunks_exact(2));
            for (i, (bins, ends)) in each.enumerate() {
                let ends = (f32::from_bits(ends[0]), f32::from_bits(ends[1]));
                let histogram = Histogram::counted(ends, u64::from(broken[i]), bins);
                see(&group.names[i], histogram)?;
            }
        }
        Ok(())
    }
}

/// The graph in f32 with every observed tensor in memory: what the lowering would fuse away
/// becomes an output.
fn materialised(graph: &Graph) -> Result<Lowering, BuildError> {
    let lowering = lower(graph, Precision::Fp32)?;
    let there = |v: &ValueId| lowering.values.binary_search_by_key(v, |(id, _)| *id).is_ok();
    let missing: Vec<ValueId> = observed(graph).into_iter().filter(|v| !there(v)).collect();
    if missing.is_empty() {
        return Ok(lowering);
    }
    let mut graph = graph.clone();
    for v in missing {
        let name = format!("{} (observed)", graph.value(v).name);
        graph.outputs.push((name, v));
    }
    Ok(lower(&graph, Precision::Fp32)?)
}

/// Adds the layers that count.
fn count(graph: &Graph, lowering: &mut Lowering) -> Result<Vec<Counted>, BuildError> {
    let mut tensors: Vec<(String, View, CountedTensor)> = Vec::new();
    for v in observed(graph) {
        let name = graph.value(v).name.clone();
        let at = lowering.values.binary_search_by_key(&v, |(id, _)| *id).ok();
        let view = at.map(|at| lowering.values[at].1.clone());
        let elements: usize = graph.shape(v).iter().product();
        if elements == 0 {
            continue;
        }
        let view = view.filter(|view| view.strides.iter().all(|&s| s >= 0));
        let counted = view.map(|view| {
            let x = Strided {
                dtype: DType::F32,
                offset: 0,
                strides: view.strides.clone(),
                aligned: false,
            };
            (CountedTensor { dims: view.shape.clone(), x }, view)
        });
        let Some((counted, view)) = counted.filter(|(c, _)| c.fits()) else {
            return Err(BuildError::Device(format!(
                "'{name}' does not lie in the GPU's memory as the counting kernels can read it"
            )));
        };
        tensors.push((name, view, counted));
    }
    let mut new = |dtype: DType, shape: [usize; 2]| {
        let bytes = (shape[0] * shape[1] * dtype.size()).next_multiple_of(16);
        lowering.buffers.push(Buffer { bytes, pinned: false });
        View {
            buffer: BufferId(lowering.buffers.len() - 1),
            dtype,
            offset: 0,
            strides: dense(&shape),
            shape: shape.to_vec(),
            channels_stored: 0,
        }
    };
    let mut out = Vec::new();
    let mut layers = Vec::new();
    for group in tensors.chunks(HISTOGRAM_TENSORS) {
        let n = group.len();
        let extremes = new(DType::F32, [n, 2]);
        let broken = new(DType::I32, [n, 1]);
        let counts = new(DType::I32, [n, HISTOGRAM_BINS]);
        let mut operands: Vec<Operand> =
            group.iter().map(|(_, view, _)| Operand::View(view.clone())).collect();
        let tensors: Vec<CountedTensor> = group.iter().map(|(.., c)| c.clone()).collect();
        let layer = |step, operands: &[Operand], outputs: Vec<View>| Lowered {
            name: format!("histograms {}", out.len()),
            op: "Histogram",
            layer: Layer::Histogram(HistogramLayer { step, tensors: tensors.clone() }),
            operands: operands.to_vec(),
            outputs,
            constants: Vec::new(),
            flops: 0,
        };
        let ends = vec![extremes.clone(), broken.clone()];
        layers.push(layer(HistogramStep::Extremes, &operands, ends));
        operands.push(Operand::View(extremes.clone()));
        layers.push(layer(HistogramStep::Count, &operands, vec![counts.clone()]));
        let names = group.iter().map(|(name, ..)| name.clone()).collect();
        out.push(Counted { names, extremes, broken, counts });
    }
    lowering.layers.extend(layers);
    Ok(out)
}
