use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tobiuo_engine::{CudaKernel, CudaModule, CudaProgram, CudaVision, Plan, Program};
use tobiuo_gpu::{Context, DeviceBuffer, Function, GpuError, Module, Stream};

/// Bytes of weights that are uploaded before their pages are given back.
const PIECE: usize = 16 << 20;

/// An engine's weights on a device, shared by all that runs it there. Cheap to clone.
#[derive(Clone)]
pub struct CudaEngine {
    context: Context,
    weights: DeviceBuffer,
    modules: Arc<Mutex<HashMap<CudaModule, Module>>>,
}

impl CudaEngine {
    /// Uploads the weights, piece by piece; `release` is told each range that was.
    pub fn new(
        context: &Context,
        weights: &[u8],
        release: &dyn Fn(Range<u64>),
    ) -> Result<CudaEngine, GpuError> {
        let on_device =
            DeviceBuffer::new(context, weights.len()).map_err(|e| e.at("the engine's weights"))?;
        let stream = Stream::new(context)?;
        for (i, piece) in weights.chunks(PIECE).enumerate() {
            let at = i * PIECE;
            on_device.write(at, piece, &stream).map_err(|e| e.at("the engine's weights"))?;
            release(at as u64..(at + piece.len()) as u64);
        }
        Ok(CudaEngine { context: context.clone(), weights: on_device, modules: Arc::default() })
    }

    /// The same weights for plans with another code section, as a builder tries them.
    pub fn with_other_code(&self) -> CudaEngine {
        CudaEngine { modules: Arc::default(), ..self.clone() }
    }

    /// The device's context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The weights on the device.
    pub fn weights(&self) -> &DeviceBuffer {
        &self.weights
    }

    /// Loads a plan's kernels out of the engine's code section (each module once for all plans
    /// of the engine) and looks them up.
    pub fn plan(&self, plan: &Plan, code: &[u8]) -> Result<CudaPlan, GpuError> {
        let Program::Cuda(program) = &plan.program else {
            return Err(GpuError::other("the plan is not for a CUDA device"));
        };
        let modules = program
            .modules
            .iter()
            .map(|&module| self.module(module, code))
            .collect::<Result<Vec<_>, _>>()?;
        let mut known: HashMap<(u32, &str), (Function, u32)> = HashMap::new();
        let mut functions = Vec::with_capacity(program.launches.len());
        for (i, launch) in program.launches.iter().enumerate() {
            let found = (|| {
                let module = modules
                    .get(launch.module as usize)
                    .ok_or_else(|| GpuError::other(format!("no module {}", launch.module)))?;
                let entry = known.entry((launch.module, &launch.function));
                let (function, shared) = match entry {
                    std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
                    std::collections::hash_map::Entry::Vacant(e) => {
                        let function = module.function(&launch.function)?;
                        if program.carveout.is_some() {
                            function.prefer_shared(program.carveout)?;
                        }
                        e.insert((function, 0))
                    }
                };
                if launch.shared > *shared {
                    function.prepare(launch.shared)?;
                    *shared = launch.shared;
                }
                Ok(function.clone())
            })();
            functions.push(found.map_err(|e: GpuError| e.at(place(i, &launch.name)))?);
        }
        let vision = match &program.vision {
            Some(vision) => {
                let found = modules
                    .get(vision.module as usize)
                    .ok_or_else(|| GpuError::other(format!("no module {}", vision.module)))
                    .and_then(|module| VisionFunctions::find(module, vision));
                Some(found.map_err(|e| e.at("the camera's kernels"))?)
            }
            None => None,
        };
        Ok(CudaPlan {
            inner: Arc::new(Inner { engine: self.clone(), plan: plan.clone(), functions, vision }),
        })
    }

    fn module(&self, module: CudaModule, code: &[u8]) -> Result<Module, GpuError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = modules.get(&module) {
            return Ok(loaded.clone());
        }
        let end = module.offset.checked_add(module.bytes).filter(|&end| end <= code.len() as u64);
        let Some(end) = end else {
            return Err(GpuError::other(format!(
                "{} bytes of code at {} of {}",
                module.bytes,
                module.offset,
                code.len()
            )));
        };
        let loaded = Module::load(&self.context, &code[module.offset as usize..end as usize])
            .map_err(|e| e.at(format!("code at byte {}", module.offset)))?;
        modules.insert(module, loaded.clone());
        Ok(loaded)
    }
}

/// As messages name a launch.
pub(crate) fn place(i: usize, name: &str) -> String {
    format!("launch {i} {name:?}")
}

/// A plan with its kernels on a device. Cheap to clone.
#[derive(Clone)]
pub struct CudaPlan {
    inner: Arc<Inner>,
}

struct Inner {
    engine: CudaEngine,
    plan: Plan,
    functions: Vec<Function>,
    vision: Option<VisionFunctions>,
}

/// The kernels of the camera pipeline.
pub(crate) struct VisionFunctions {
    pub upload: Function,
    pub preprocess: Function,
    pub decode: Option<Function>,
    pub select: Function,
}

impl VisionFunctions {
    fn find(module: &Module, vision: &CudaVision) -> Result<VisionFunctions, GpuError> {
        let find = |kernel: &CudaKernel| module.function(&kernel.function);
        Ok(VisionFunctions {
            upload: find(&vision.upload)?,
            preprocess: find(&vision.preprocess)?,
            decode: vision.head.decode.as_ref().map(find).transpose()?,
            select: find(&vision.head.select)?,
        })
    }
}

impl CudaPlan {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The plan's launches and what they need.
    pub fn program(&self) -> &CudaProgram {
        match &self.inner.plan.program {
            Program::Cuda(program) => program,
            _ => unreachable!("checked when it was made"),
        }
    }

    /// The engine it belongs to.
    pub fn engine(&self) -> &CudaEngine {
        &self.inner.engine
    }

    /// The kernels of the camera pipeline, where the plan has them.
    pub(crate) fn vision(&self) -> Option<&VisionFunctions> {
        self.inner.vision.as_ref()
    }

    /// The kernel of each launch.
    pub fn functions(&self) -> &[Function] {
        &self.inner.functions
    }
}
