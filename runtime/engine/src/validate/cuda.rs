//! Plans of CUDA devices.

use tobiuo_tensor::DType;

use super::{inconsistent, limit, limits, rank};
use crate::error::shown;
use crate::{
    ChannelOrder, CudaArgument, CudaHead, CudaKernel, CudaKey, CudaLaunch, CudaProgram, CudaVision,
    EngineError, Manifest, Place, Plan, Program, Task,
};

/// Alignment of modules in the code section, bytes.
const MODULE_ALIGN: u64 = 64;
/// Alignment of what an argument points at in weights and scratch memory, bytes: that of the
/// counters and numbers there.
const ALIGN: u64 = 4;
/// What every CUDA device allows, by the CUDA programming guide's table of technical
/// specifications: blocks in x, y, z; threads in x, y, z; threads of a block.
const GRID: [u32; 3] = [0x7fff_ffff, 65_535, 65_535];
const BLOCK: [u32; 3] = [1024, 1024, 64];
const THREADS: u64 = 1024;

/// Lengths of the sections, bytes.
#[derive(Clone, Copy)]
pub(super) struct Regions {
    pub weights: u64,
    pub code: u64,
}

/// Lengths of everything that an argument may point into.
struct Lens {
    arena: u64,
    weights: u64,
    scratch: u64,
    inputs: Vec<u64>,
    outputs: Vec<u64>,
}

/// What is counted over all plans.
pub(super) fn limits(manifest: &Manifest) -> Result<(), EngineError> {
    let programs = || {
        manifest.plans.iter().filter_map(|p| match &p.program {
            Program::Cuda(program) => Some(program),
            Program::Cpu(_) => None,
        })
    };
    let total = |count: fn(&CudaProgram) -> usize| programs().map(count).sum::<usize>() as u64;
    limit("launches", total(|p| p.launches.len()), limits::LAUNCHES as u64)?;
    limit("modules", total(|p| p.modules.len()), limits::LAUNCHES as u64)?;
    let waits = total(|p| p.launches.iter().map(|l| l.after.len()).sum());
    limit("launches waited for", waits, limits::WAITS as u64)
}

pub(super) fn plan(
    manifest: &Manifest,
    plan: &Plan,
    (key, program): (&CudaKey, &CudaProgram),
    regions: Regions,
    here: &str,
) -> Result<(), EngineError> {
    let lens = self::lens(plan, program, regions).map_err(|e| {
        if e.place().is_empty() {
            e.at(here)
        } else {
            let at = format!("{here}, {}", e.place());
            e.at(at)
        }
    })?;
    for (i, module) in program.modules.iter().enumerate() {
        let end = module.offset.checked_add(module.bytes);
        if module.bytes == 0 || end.is_none_or(|end| end > regions.code) {
            return Err(inconsistent(format!(
                "{} bytes at byte {} of the code section, which has {}",
                module.bytes, module.offset, regions.code
            ))
            .at(format!("{here}, module {i}")));
        }
        if module.offset % MODULE_ALIGN != 0 {
            return Err(inconsistent(format!(
                "it begins at byte {} of the code section, which is no multiple of {MODULE_ALIGN}",
                module.offset
            ))
            .at(format!("{here}, module {i}")));
        }
    }
    for (i, launch) in program.launches.iter().enumerate() {
        self::launch(program, i, launch, key, &lens).map_err(|e| {
            e.at(format!("{here}, launch {i} {} ({})", shown(&launch.name), shown(&launch.op)))
        })?;
    }
    if let Some(last) = program.launches.last()
        && last.stream != 0
    {
        return Err(inconsistent(format!(
            "the last launch is on stream {}, not on the main one, 0",
            last.stream
        ))
        .at(here));
    }
    let mut written = vec![false; lens.outputs.len()];
    for argument in program.launches.iter().flat_map(|l| &l.arguments) {
        if let CudaArgument::Output { index, .. } = argument {
            written[*index as usize] = true;
        }
    }
    let missing = written.iter().zip(&lens.outputs).position(|(&w, &bytes)| !w && bytes > 0);
    if let Some(i) = missing {
        let name = shown(&manifest.outputs[i].name);
        return Err(inconsistent(format!("no launch writes output {i} {name}")).at(here));
    }
    match &program.vision {
        Some(vision) => self::vision(manifest, plan, program, vision, &lens)
            .map_err(|e| e.at(format!("{here}, vision"))),
        None => Ok(()),
    }
}

/// The regions' lengths, once the tensors are found to be exactly the inputs and outputs.
fn lens(plan: &Plan, program: &CudaProgram, regions: Regions) -> Result<Lens, EngineError> {
    limit("scratch bytes", program.scratch, limits::ARENA)?;
    if program.zeroed > program.scratch {
        return Err(inconsistent(format!(
            "{} bytes of scratch memory are zeroed; there are {}",
            program.zeroed, program.scratch
        )));
    }
    if let Some(percent) = program.carveout.filter(|&percent| percent > 100) {
        return Err(inconsistent(format!("{percent} % of shared memory are preferred")));
    }
    let mut bytes = Vec::with_capacity(plan.tensors.len());
    let mut sum = 0u64;
    for (i, tensor) in plan.tensors.iter().enumerate() {
        let at = |e: EngineError| e.at(format!("tensor {i} {}", shown(&tensor.name)));
        rank(tensor).map_err(at)?;
        if tensor.place != Place::Bound {
            return Err(at(inconsistent("it has a place, in a plan for a CUDA device")));
        }
        let n = tensor.bytes().unwrap_or(u64::MAX);
        sum = sum.saturating_add(n);
        bytes.push(n);
    }
    limit("bytes of inputs and outputs", sum, limits::ARENA)?;
    let mut seen = vec![false; plan.tensors.len()];
    for &t in plan.inputs.iter().chain(&plan.outputs) {
        if std::mem::replace(&mut seen[t as usize], true) {
            return Err(inconsistent(format!(
                "{} is an input or output twice",
                super::tensor_name(plan, t)
            )));
        }
    }
    if let Some(t) = seen.iter().position(|seen| !seen) {
        return Err(inconsistent(format!(
            "{} is neither input nor output",
            super::tensor_name(plan, t as u32)
        )));
    }
    let of = |list: &[u32]| list.iter().map(|&t| bytes[t as usize]).collect();
    Ok(Lens {
        arena: plan.arena,
        weights: regions.weights,
        scratch: program.scratch,
        inputs: of(&plan.inputs),
        outputs: of(&plan.outputs),
    })
}

fn geometry(function: &str, grid: [u32; 3], block: [u32; 3]) -> Result<(), EngineError> {
    if function.is_empty() || function.contains('\0') {
        return Err(inconsistent(format!("a kernel named {}", shown(function))));
    }
    for (what, is, most) in [("grid", grid, GRID), ("block", block, BLOCK)] {
        if is.iter().zip(&most).any(|(&n, &most)| n == 0 || n > most) {
            return Err(inconsistent(format!("a {what} of {is:?}; at most {most:?}, at least 1")));
        }
    }
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    if threads > THREADS {
        return Err(inconsistent(format!("{threads} threads in a block; at most {THREADS}")));
    }
    Ok(())
}

fn launch(
    program: &CudaProgram,
    i: usize,
    launch: &CudaLaunch,
    key: &CudaKey,
    lens: &Lens,
) -> Result<(), EngineError> {
    if launch.module as usize >= program.modules.len() {
        return Err(inconsistent(format!(
            "its kernel is in module {}; the plan has {}",
            launch.module,
            program.modules.len()
        )));
    }
    geometry(&launch.function, launch.grid, launch.block)?;
    if launch.shared > key.shared_per_block {
        return Err(inconsistent(format!(
            "{} bytes of shared memory; a block of the engine's device has {}",
            launch.shared, key.shared_per_block
        )));
    }
    if launch.stream >= limits::STREAMS {
        return Err(inconsistent(format!(
            "stream {}; there are at most {}",
            launch.stream,
            limits::STREAMS
        )));
    }
    for &after in &launch.after {
        if after as usize >= i {
            return Err(inconsistent(format!(
                "it comes after launch {after}, which is not earlier"
            )));
        }
        if program.launches[after as usize].stream == launch.stream {
            return Err(inconsistent(format!(
                "it is said to come after launch {after}, which is on its own stream"
            )));
        }
    }
    limit("arguments", launch.arguments.len() as u64, limits::ARGUMENTS as u64)?;
    for (a, argument) in launch.arguments.iter().enumerate() {
        self::argument(argument, lens)
            .map_err(|e| inconsistent(format!("argument {a}: {}", e.reason())))?;
    }
    Ok(())
}

fn argument(argument: &CudaArgument, lens: &Lens) -> Result<(), EngineError> {
    let port = |lens: &[u64], index: u32, what: &str| {
        lens.get(index as usize).copied().ok_or_else(|| {
            inconsistent(format!("{what} {index} is named; there are {}", lens.len()))
        })
    };
    let (region, len, offset, bytes, align) = match *argument {
        CudaArgument::Arena { offset, bytes } => ("arena", lens.arena, offset, bytes, 1),
        CudaArgument::Weights { offset, bytes } => {
            ("weights section", lens.weights, offset, bytes, ALIGN)
        }
        CudaArgument::Scratch { offset, bytes } => {
            ("scratch memory", lens.scratch, offset, bytes, ALIGN)
        }
        CudaArgument::Input { index, offset, bytes } => {
            ("input", port(&lens.inputs, index, "input")?, offset, bytes, 1)
        }
        CudaArgument::Output { index, offset, bytes } => {
            ("output", port(&lens.outputs, index, "output")?, offset, bytes, 1)
        }
        CudaArgument::Null => return Ok(()),
    };
    if offset.checked_add(bytes).is_none_or(|end| end > len) {
        return Err(inconsistent(format!(
            "{bytes} bytes at byte {offset} of the {region}, which has {len}"
        )));
    }
    if offset % align != 0 {
        return Err(inconsistent(format!(
            "byte {offset} of the {region}, which is no multiple of {align}"
        )));
    }
    Ok(())
}

fn vision(
    manifest: &Manifest,
    plan: &Plan,
    program: &CudaProgram,
    vision: &CudaVision,
    lens: &Lens,
) -> Result<(), EngineError> {
    let Some(preprocess) = &manifest.preprocess else {
        return Err(inconsistent("kernels for pictures, but no input is one"));
    };
    if vision.module as usize >= program.modules.len() {
        return Err(inconsistent(format!(
            "its kernels are in module {}; the plan has {}",
            vision.module,
            program.modules.len()
        )));
    }
    let bytes = match vision.picture {
        CudaArgument::Arena { bytes, .. } => bytes,
        CudaArgument::Input { index, bytes, .. } if index as usize == preprocess.input => bytes,
        other => return Err(inconsistent(format!("the picture goes to {other:?}"))),
    };
    argument(&vision.picture, lens)?;
    if !matches!(vision.dtype, DType::F16 | DType::F32) {
        return Err(inconsistent(format!("a picture of {}, not of f32 or f16", vision.dtype)));
    }
    let channels = match preprocess.channels {
        ChannelOrder::Gray => 1,
        ChannelOrder::Rgb | ChannelOrder::Bgr => 3,
    };
    if vision.channels_stored < channels || vision.channels_stored > 64 {
        return Err(inconsistent(format!(
            "{} channels stored of {channels}",
            vision.channels_stored
        )));
    }
    // The port's shape was found to be the tensor's but for the batch.
    let shape = plan
        .inputs
        .get(preprocess.input)
        .map(|&t| &plan.tensors[t as usize].shape[..])
        .unwrap_or_default();
    let &[_, _, height, width] = shape else {
        return Err(inconsistent(format!("the picture input has the shape {shape:?}")));
    };
    let extents = [u64::from(vision.channels_stored), height as u64, width as u64];
    let last = extents.iter().zip(&vision.strides).try_fold(0u64, |sum, (&n, &stride)| {
        sum.checked_add(n.saturating_sub(1).checked_mul(stride)?)
    });
    let end = last
        .and_then(|last| last.checked_add(1))
        .and_then(|n| n.checked_mul(vision.dtype.size() as u64));
    if end.is_none_or(|end| end > bytes) {
        return Err(inconsistent(format!(
            "a picture of {extents:?} with strides {:?} does not fit {bytes} bytes",
            vision.strides
        )));
    }
    let mut next = 0;
    for &replaced in &vision.replaces {
        if u64::from(replaced) < next || replaced as usize >= program.launches.len() {
            return Err(inconsistent(format!(
                "it replaces the launches {:?} of {}: not ascending, or not there",
                vision.replaces,
                program.launches.len()
            )));
        }
        next = u64::from(replaced) + 1;
    }
    kernel(&vision.upload).map_err(|e| e.at("upload"))?;
    kernel(&vision.preprocess).map_err(|e| e.at("preprocess"))?;
    head(manifest, plan, &vision.head, lens).map_err(|e| e.at("head"))
}

fn head(manifest: &Manifest, plan: &Plan, head: &CudaHead, lens: &Lens) -> Result<(), EngineError> {
    let (output, decodes) = match &manifest.task {
        Task::Detect(detect) => (detect.output, true),
        Task::Classify { output } => (*output, false),
        Task::Tensors => return Err(inconsistent("results of a network that only gives tensors")),
    };
    match head.output {
        CudaArgument::Arena { .. } => {}
        CudaArgument::Output { index, .. } if index as usize == output => {}
        other => return Err(inconsistent(format!("the output is read from {other:?}"))),
    }
    argument(&head.output, lens)?;
    if head.decode.is_some() != decodes {
        return Err(inconsistent("boxes are decoded exactly where the task is to detect"));
    }
    // Candidates are numbered by anchor and class in 32 bits.
    let shape = plan.outputs.get(output).and_then(|&t| plan.tensors[t as usize].shape.get(1..));
    let numbers = shape
        .unwrap_or_default()
        .iter()
        .try_fold(1u32, |product, &n| product.checked_mul(u32::try_from(n).ok()?));
    if numbers.is_none() {
        return Err(inconsistent(format!("an output of {shape:?} is too large for the kernels")));
    }
    head.decode.iter().chain([&head.select]).try_for_each(kernel)
}

fn kernel(kernel: &CudaKernel) -> Result<(), EngineError> {
    geometry(&kernel.function, kernel.grid, kernel.block)
}
