//! The camera pipeline's kernels of a plan: where they read and write, which launches they save.
//!
//! A frame becomes the network's picture in the layout that its first layer reads, so a copy from
//! the input tensor is left out; boxes or classes are taken from what the output tensor would be
//! converted from, so that conversion is left out too. Where there are no such copies, input and
//! output are what is written and read.

use tobiuo_engine::{
    ChannelOrder, CudaArgument, CudaHead, CudaKernel, CudaLaunch, CudaModule, CudaVision, Plan,
    Preprocess, Program, Task,
};
use tobiuo_kernels::vision::{Channels, Head, Picture, VisionKernel, VisionModule};
use tobiuo_kernels::{Layer, Target};
use tobiuo_nvrtc::{Compiled, NvrtcError};
use tobiuo_tensor::DType;

use super::assemble::Home;
use super::lower::{Lowering, Operand};
use super::sections::Sections;
use super::view::{View, dense};

/// What the kernels are made for.
#[derive(Clone, Copy, Debug)]
pub struct Camera<'a> {
    /// How frames become the picture.
    pub preprocess: &'a Preprocess,
    /// What the outputs mean.
    pub task: &'a Task,
}

/// The kernels as a module, and how a plan uses them; the module's number is still to be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// Its source.
    pub module: VisionModule,
    /// For the plan.
    pub vision: CudaVision,
}

/// Compiles the kernels into a plan. Plans whose picture or output the kernels do not take stay as
/// they are: the host then does their work.
pub fn add(
    plan: &mut Plan,
    (lowering, homes): (&Lowering, &[Home]),
    camera: &Camera,
    target: &Target,
    compile: &mut dyn FnMut(&str) -> Result<Compiled, NvrtcError>,
    sections: &mut Sections,
) -> Result<(), NvrtcError> {
    let Program::Cuda(program) = &mut plan.program else { return Ok(()) };
    let Some(design) = design(&program.launches, lowering, homes, camera) else { return Ok(()) };
    let code = compile(&design.module.source(target))?;
    let module =
        CudaModule { offset: sections.code.add(&code.cubin), bytes: code.cubin.len() as u64 };
    let known = program.modules.iter().position(|&m| m == module);
    let number = known.unwrap_or_else(|| {
        program.modules.push(module);
        program.modules.len() - 1
    });
    program.vision = Some(CudaVision { module: number as u32, ..design.vision });
    Ok(())
}

/// Where the kernels of a plan read and write; `None` where they do not go.
pub fn design(
    launches: &[CudaLaunch],
    lowering: &Lowering,
    homes: &[Home],
    camera: &Camera,
) -> Option<Design> {
    let context = Context { launches, lowering, homes };
    let (picture, at, first) = context.picture(camera.preprocess)?;
    let (head, output, last) = context.head(camera.task)?;
    let module = VisionModule { picture, head: Some(head) };
    let p = &module.picture;
    let vision = CudaVision {
        module: 0,
        picture: at,
        dtype: p.dtype,
        strides: p.strides,
        channels_stored: p.stored as u32,
        replaces: first.into_iter().chain(last).map(|i| i as u32).collect(),
        upload: kernel(module.upload()),
        preprocess: kernel(module.preprocess()),
        head: CudaHead {
            output,
            decode: module.decode().map(kernel),
            select: kernel(module.select()?),
        },
    };
    Some(Design { module, vision })
}

fn kernel(k: VisionKernel) -> CudaKernel {
    CudaKernel { function: k.function.into(), grid: k.grid, block: [k.block, 1, 1] }
}

struct Context<'a> {
    launches: &'a [CudaLaunch],
    lowering: &'a Lowering,
    homes: &'a [Home],
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::F32)
}

fn unsigned<const N: usize>(strides: &[i64]) -> Option<[u64; N]> {
    let list: Option<Vec<u64>> = strides.iter().map(|&s| u64::try_from(s).ok()).collect();
    list?.try_into().ok()
}

impl Context<'_> {
    /// An address, of which `bytes` are touched.
    fn argument(&self, view: &View, bytes: u64) -> Option<CudaArgument> {
        let at = u64::try_from(view.offset).ok()? * view.dtype.size() as u64;
        Some(match self.homes[view.buffer.0] {
            Home::Arena { offset } => CudaArgument::Arena { offset: offset + at, bytes },
            Home::Input { index } => CudaArgument::Input { index, offset: at, bytes },
            Home::Output { index } => CudaArgument::Output { index, offset: at, bytes },
        })
    }

    /// A layer that copies a whole value, element types and layout aside: from, to.
    fn whole_copy(&self, i: usize) -> Option<(&View, &View)> {
        let layer = &self.lowering.layers[i];
        let ([Operand::View(from)], [to]) = (&layer.operands[..], &layer.outputs[..]) else {
            return None;
        };
        let floats = is_float(from.dtype) && is_float(to.dtype);
        let copies = layer.op == "Copy" && matches!(layer.layer, Layer::Permute(_));
        (copies && floats && from.shape == to.shape).then_some((from, to))
    }

    /// Layers that touch a view's buffer.
    fn users(&self, of: &View) -> Vec<usize> {
        let touches = |&i: &usize| {
            let layer = &self.lowering.layers[i];
            layer.views().chain(&layer.outputs).any(|v| v.buffer == of.buffer)
        };
        (0..self.lowering.layers.len()).filter(touches).collect()
    }

    /// Some of these launches touches bytes of the arena that the argument has.
    fn disturbed(&self, argument: &CudaArgument, by: std::ops::Range<usize>) -> bool {
        let CudaArgument::Arena { offset, bytes } = *argument else { return false };
        self.launches[by].iter().flat_map(|l| &l.arguments).any(|other| match *other {
            CudaArgument::Arena { offset: o, bytes: b } => o < offset + bytes && offset < o + b,
            _ => false,
        })
    }

    fn picture(&self, settings: &Preprocess) -> Option<(Picture, CudaArgument, Option<usize>)> {
        let input = self.lowering.inputs.get(settings.input)?;
        let &[_, count, height, width] = &input.shape[..] else { return None };
        let channels = match settings.channels {
            ChannelOrder::Rgb => Channels::Rgb,
            ChannelOrder::Bgr => Channels::Bgr,
            ChannelOrder::Gray => Channels::Gray,
        };
        let place = |view: &View| {
            let strides = unsigned(view.strides.get(1..)?)?;
            let stored = if strides[0] == 1 { view.channels_stored.max(count) } else { count };
            let mut picture = Picture {
                channels,
                height,
                width,
                dtype: view.dtype,
                strides,
                stored,
                aligned: false,
            };
            let at = self.argument(view, picture.extent())?;
            picture.aligned = match at {
                CudaArgument::Arena { offset, .. } | CudaArgument::Input { offset, .. } => {
                    offset.is_multiple_of(16)
                }
                _ => false,
            };
            Some((picture, at))
        };
        // The one layer that reads the input copies it into the layout that is wanted.
        let wanted = match self.users(input)[..] {
            [only] => self.whole_copy(only).filter(|(from, to)| {
                from.buffer == input.buffer
                    && from.offset == input.offset
                    && from.strides == dense(&input.shape)
                    && matches!(self.homes[to.buffer.0], Home::Arena { .. })
            }),
            _ => None,
        };
        if let Some((_, to)) = wanted
            && let Some((picture, at)) = place(to)
        {
            let copy = self.users(input)[0];
            if !self.disturbed(&at, 0..copy) {
                return Some((picture, at, Some(copy)));
            }
        }
        let (picture, at) = place(input).filter(|(p, _)| is_float(p.dtype))?;
        Some((picture, at, None))
    }

    fn head(&self, task: &Task) -> Option<(Head, CudaArgument, Option<usize>)> {
        let output = match task {
            Task::Detect(detect) => detect.output,
            Task::Classify { output } => *output,
            _ => return None,
        };
        let port = self.lowering.outputs.get(output)?;
        let read = |view: &View| {
            let head = head_of(task, view)?;
            let at = self.argument(view, head.extent())?;
            Some((head, at))
        };
        if let [only] = self.users(port)[..]
            && let Some((from, to)) = self.whole_copy(only)
            && to.buffer == port.buffer
            && matches!(self.homes[from.buffer.0], Home::Arena { .. })
            && let Some((head, at)) = read(from)
            && !self.disturbed(&at, only + 1..self.launches.len())
        {
            return Some((head, at, Some(only)));
        }
        let (head, at) = read(port)?;
        Some((head, at, None))
    }
}

/// How a task's output is read from a view of it.
fn head_of(task: &Task, view: &View) -> Option<Head> {
    let dtype = Some(view.dtype).filter(|&d| is_float(d))?;
    match task {
        Task::Detect(detect) => {
            let [_, a, b] = view.shape[..] else { return None };
            let [x, y] = unsigned(view.strides.get(1..)?)?;
            let (rows, anchors) = if detect.transposed { (b, a) } else { (a, b) };
            let (row_stride, anchor_stride) = if detect.transposed { (y, x) } else { (x, y) };
            let classes = detect.classes;
            // Candidates are numbered by anchor and class in 32 bits.
            let numbers = u32::try_from(anchors.checked_mul(classes)?).ok()?;
            (rows == classes + 4 && numbers > 0).then_some(Head::Detect {
                classes,
                anchors,
                row_stride,
                anchor_stride,
                dtype,
            })
        }
        Task::Classify { .. } => {
            // All axes but the batch and the classes are of one element.
            let classes: usize = view.shape.get(1..)?.iter().product();
            let axis = (1..view.shape.len()).find(|&i| view.shape[i] == classes)?;
            u32::try_from(classes).ok().filter(|&n| n > 0)?;
            let [stride] = unsigned(&view.strides[axis..=axis])?;
            Some(Head::Classify { classes, stride, dtype })
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "vision_tests.rs"]
mod tests;
