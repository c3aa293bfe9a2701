//! Kernels: found in a module's source by name, run as the reference of the layer they compute.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tobiuo_kernels::vision::{DeviceMemory, VISION_MARK, VisionModule};
use tobiuo_kernels::{Argument, Extents, LAUNCH_MARK, LAYER_MARK, LaunchNote, Layer};

use crate::memory::Memory;
use crate::status::{ILLEGAL_ADDRESS, LAUNCH_FAILED, Status};

/// A kernel of a module.
pub(crate) struct Kernel {
    pub name: String,
    /// Virtual microseconds of one run.
    pub cost: f64,
    idle: bool,
    kind: Kind,
}

enum Kind {
    Layer(Box<LayerKernel>),
    Vision { module: Box<VisionModule>, geometry: Geometry, arguments: usize },
}

/// Name of the environment variable with what is slow: `factor:text&text;factor:text`, for kernels
/// with these texts in their layer's description. The first that fits counts.
pub(crate) const SLOW: &str = "TOBIUO_STANDIN_SLOW";
/// Set: kernels take their time and compute nothing.
pub(crate) const IDLE: &str = "TOBIUO_STANDIN_IDLE";

fn slowness(source: &str) -> f64 {
    let Ok(what) = std::env::var(SLOW) else { return 1.0 };
    let layer = source.lines().find(|l| l.starts_with(LAYER_MARK)).unwrap_or_default();
    let rules = what.split(';').filter_map(|rule| rule.split_once(':'));
    let mut fits = rules.filter(|(_, text)| text.split('&').all(|t| layer.contains(t)));
    fits.next().and_then(|(factor, _)| factor.parse().ok()).unwrap_or(1.0)
}

/// How a kernel wants to be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub grid: Option<[u32; 3]>,
    pub block: [u32; 3],
    pub shared: u32,
}

impl Kernel {
    /// Finds a kernel in a source: its name as a word in front of a parenthesis or at the end of
    /// a `#define`; the layer is the last one marked before it. `None`: no such kernel.
    pub fn find(source: &str, name: &str) -> Option<Result<Kernel, String>> {
        let at = definition(source, name)?;
        let kind = match source.rfind(VISION_MARK) {
            Some(mark) => Kernel::vision(&source[mark..], name),
            None => LayerKernel::parse(source, at, name).map(|l| Kind::Layer(Box::new(l))),
        };
        let bytes = match &kind {
            Ok(Kind::Layer(l)) => l.bytes(),
            _ => 1 << 20,
        };
        // Differs between candidates, so that timing them chooses one; the same in every run.
        let spread = source.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let cost = 2.0 + bytes as f64 / 1e5 + f64::from(spread % 997) / 997.0;
        let cost = cost * slowness(source);
        let idle = std::env::var_os(IDLE).is_some();
        Some(kind.map(|kind| Kernel { name: name.into(), cost, idle, kind }))
    }

    fn vision(source: &str, name: &str) -> Result<Kind, String> {
        let module = VisionModule::of_source(source)
            .ok_or_else(|| format!("kernel '{name}': its module is not read"))?;
        let kernels =
            [Some(module.upload()), Some(module.preprocess()), module.decode(), module.select()];
        let kernel = kernels.into_iter().flatten().find(|k| k.function == name);
        let kernel = kernel.ok_or_else(|| format!("the module launches no kernel '{name}'"))?;
        let arguments = match name {
            "upload" | "preprocess" => 3,
            "decode" => 4,
            "suppress" => 6,
            _ => 2,
        };
        let geometry = Geometry { grid: Some(kernel.grid), block: [kernel.block, 1, 1], shared: 0 };
        Ok(Kind::Vision { module: Box::new(module), geometry, arguments })
    }

    /// How it wants to be launched.
    pub fn geometry(&self) -> Geometry {
        match &self.kind {
            Kind::Layer(l) => {
                Geometry { grid: l.note.grid, block: l.note.block, shared: l.note.shared }
            }
            Kind::Vision { geometry, .. } => *geometry,
        }
    }

    /// How many arguments it takes, each of 8 bytes.
    pub fn arguments(&self) -> usize {
        match &self.kind {
            Kind::Layer(l) => l.note.arguments.len(),
            Kind::Vision { arguments, .. } => *arguments,
        }
    }

    /// Runs its reference on the memory that the arguments name.
    pub fn run(&self, values: &[u64], memory: &mut Memory) -> Result<(), (Status, String)> {
        if self.idle {
            return Ok(());
        }
        let name = &self.name;
        let run = AssertUnwindSafe(|| match &self.kind {
            Kind::Layer(l) => l.run(values, memory),
            Kind::Vision { module, .. } => {
                module.run(name, values, &mut Seen(memory)).map_err(|why| (ILLEGAL_ADDRESS, why))
            }
        });
        let done = catch_unwind(run).unwrap_or_else(|p| Err((LAUNCH_FAILED, panic_text(&*p))));
        done.map_err(|(status, why)| (status, format!("kernel '{name}': {why}")))
    }
}

/// The memory as the camera kernels' references see it.
struct Seen<'a>(&'a mut Memory);

impl DeviceMemory for Seen<'_> {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), String> {
        into.copy_from_slice(&self.0.read(address, into.len())?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), String> {
        self.0.write(address, bytes)
    }
}

/// A kernel of a family.
struct LayerKernel {
    note: LaunchNote,
    layer: Layer,
    extents: Extents,
}

/// Where an argument's memory is.
struct Range {
    at: u64,
    len: usize,
}

impl LayerKernel {
    fn parse(source: &str, at: usize, name: &str) -> Result<LayerKernel, String> {
        let (before, after) = source.split_at(at);
        let line = |mark: &str| {
            // A name given by an option stands in front of everything.
            let start = before.rfind(mark).or_else(|| Some(at + after.find(mark)?));
            let start = start.ok_or_else(|| {
                format!("kernel '{name}': its source has no line that begins with '{mark}'")
            })?;
            let rest = &source[start + mark.len()..];
            Ok::<&str, String>(rest.lines().next().unwrap_or_default())
        };
        let broken = |e: serde_json::Error| format!("kernel '{name}': its layer is not read: {e}");
        let layer: Layer = serde_json::from_str(line(LAYER_MARK)?).map_err(broken)?;
        let note: LaunchNote = serde_json::from_str(line(LAUNCH_MARK)?).map_err(broken)?;
        let extents = catch_unwind(AssertUnwindSafe(|| layer.extents()))
            .map_err(|p| format!("kernel '{name}': {}", panic_text(&*p)))?;
        Ok(LayerKernel { note, layer, extents })
    }

    fn bytes(&self) -> usize {
        let e = &self.extents;
        [&e.inputs, &e.constants, &e.outputs].into_iter().flatten().sum()
    }

    fn range(&self, argument: Argument, value: u64) -> Option<Range> {
        let of = |list: &[usize], k: usize| list.get(k).copied().unwrap_or(0);
        let len = match argument {
            Argument::Input(k) => of(&self.extents.inputs, k),
            Argument::Output(k) => of(&self.extents.outputs, k),
            Argument::Constant(k) => of(&self.extents.constants, k),
            Argument::Scratch(s) if s < self.note.zeroed => self.note.zeroed - s,
            Argument::Scratch(s) => self.note.scratch.saturating_sub(s),
            Argument::Null => return None,
        };
        Some(Range { at: value, len })
    }

    fn run(&self, values: &[u64], memory: &mut Memory) -> Result<(), (Status, String)> {
        let illegal = |argument: &dyn std::fmt::Debug, why: String| {
            let family = self.layer.family();
            (ILLEGAL_ADDRESS, format!("{family}: {argument:?}: {why}"))
        };
        let mut inputs = vec![Cow::Borrowed(&[][..]); self.extents.inputs.len()];
        let mut constants = vec![Cow::Borrowed(&[][..]); self.extents.constants.len()];
        let mut outputs = vec![Vec::new(); self.extents.outputs.len()];
        let mut written = Vec::new();
        let mut poisoned = Vec::new();
        let mut dirty = None;
        for (&argument, &value) in self.note.arguments.iter().zip(values) {
            let Some(Range { at, len }) = self.range(argument, value) else { continue };
            let bytes = memory.read(at, len).map_err(|why| illegal(&argument, why))?;
            match argument {
                Argument::Input(k) => inputs[k] = bytes,
                Argument::Constant(k) => constants[k] = bytes,
                Argument::Output(k) => {
                    outputs[k] = bytes.into_owned();
                    written.push((k, at));
                }
                Argument::Scratch(s) if s < self.note.zeroed => {
                    if bytes.iter().any(|&b| b != 0) {
                        dirty = Some(format!("{argument:?}: its {len} bytes are not all zero"));
                    }
                }
                Argument::Scratch(_) => poisoned.push((at, len)),
                Argument::Null => {}
            }
        }
        if let Some(what) = dirty {
            return Err((LAUNCH_FAILED, what));
        }
        let inputs: Vec<&[u8]> = inputs.iter().map(|b| &**b).collect();
        let constants: Vec<&[u8]> = constants.iter().map(|b| &**b).collect();
        self.layer.reference(&inputs, &constants, &mut outputs);
        for (k, at) in written {
            memory.write(at, &outputs[k]).map_err(|why| illegal(&Argument::Output(k), why))?;
        }
        for (at, len) in poisoned {
            let why = memory.write(at, &vec![0xff; len]);
            why.map_err(|why| illegal(&Argument::Scratch(self.note.zeroed), why))?;
        }
        Ok(())
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("its reference panicked: {}", text.unwrap_or_default())
}

/// Where a source defines a kernel of this name.
fn definition(source: &str, name: &str) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    source.match_indices(name).map(|(at, _)| at).find(|&at| {
        let before = &source[..at];
        let after = &source[at + name.len()..];
        let line = before.rsplit('\n').next().unwrap_or_default();
        !before.ends_with(word)
            && !after.starts_with(word)
            && !line.trim_start().starts_with("//")
            && (after.trim_start().starts_with('(')
                || (line.starts_with("#define ") && after.starts_with('\n')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_by_its_name_and_not_by_a_part_of_it() {
        let source = "// KERNEL(x)\n#define MY_KERNEL(x) 1\nvoid\nKERNEL(int x) {}\n";
        assert_eq!(definition(source, "KERNEL"), source.find("KERNEL(int"));
        assert_eq!(definition(source, "KERN"), None);
        assert_eq!(definition("#define KERNEL conv_3\n", "conv_3"), Some(15));
    }
}
