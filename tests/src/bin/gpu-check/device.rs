//! One layer's memory on the device, and runs of its candidates.
//!
//! Whether kernels keep to their memory is what is being tested: every range is allocated as
//! the layer's extents say, with guard bytes around.

use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, GpuError, KernelArgument, Launch, Module,
    Stream,
};
use tobiuo_kernels::random::{Memory, POISON};
use tobiuo_kernels::{Argument, Candidate, ENTRY, Target};

use crate::compare::Expected;

/// Bytes in front of and behind every argument's memory.
pub const GUARD: usize = 512;

/// Device code of a candidate.
pub enum Code {
    /// An ELF image for this device.
    Cubin(Vec<u8>),
    /// Text for the driver to assemble.
    Ptx(String),
}

/// A layer's memory on the device.
pub struct Bench {
    context: Context,
    stream: Stream,
    guard: usize,
    inputs: Vec<Guarded>,
    constants: Vec<Guarded>,
    outputs: Vec<Guarded>,
}

/// A range with guard bytes around it.
struct Guarded {
    buffer: DeviceBuffer,
    guard: usize,
    len: usize,
}

impl Guarded {
    fn new(context: &Context, guard: usize, len: usize) -> Result<Guarded, GpuError> {
        let buffer = DeviceBuffer::new(context, len + 2 * guard)?;
        Ok(Guarded { buffer, guard, len })
    }

    /// The range from a byte on.
    fn from(&self, at: usize) -> DeviceSlice {
        self.buffer.slice(self.guard + at..self.guard + self.len)
    }

    fn poison(&self, stream: &Stream) -> Result<(), GpuError> {
        self.buffer.fill(0, self.len + 2 * self.guard, POISON, stream)
    }

    fn read(&self, stream: &Stream) -> Result<Vec<u8>, GpuError> {
        let mut bytes = vec![0; self.len + 2 * self.guard];
        self.buffer.read(0, &mut bytes, stream)?;
        Ok(bytes)
    }

    /// The range's bytes out of all, or which guard was written.
    fn inside<'a>(&self, all: &'a [u8], what: &str) -> Result<&'a [u8], String> {
        let (before, rest) = all.split_at(self.guard);
        let (inside, behind) = rest.split_at(self.len);
        for (guard, side) in [(before, "in front of"), (behind, "behind")] {
            if let Some(at) = guard.iter().position(|&b| b != POISON) {
                return Err(format!("byte {at} of the guard {side} {what} was written"));
            }
        }
        Ok(inside)
    }
}

/// Why a candidate did not pass.
pub enum Trouble {
    /// The device or the driver: nothing more can be run in this process when it is a fault.
    Gpu(GpuError),
    /// The result.
    Wrong(String),
}

impl From<GpuError> for Trouble {
    fn from(e: GpuError) -> Trouble {
        Trouble::Gpu(e)
    }
}

impl Bench {
    /// Uploads a layer's memory. Without guards every range has exactly its extent, so that a
    /// memory checker sees what lies beyond.
    pub fn new(
        context: &Context,
        memory: &Memory,
        output_bytes: &[usize],
        guards: bool,
    ) -> Result<Bench, GpuError> {
        let stream = Stream::new(context)?;
        let guard = if guards { GUARD } else { 0 };
        let upload = |bytes: &Vec<u8>| {
            let range = Guarded::new(context, guard, bytes.len())?;
            range.poison(&stream)?;
            range.buffer.write(guard, bytes, &stream)?;
            Ok::<_, GpuError>(range)
        };
        let inputs = memory.inputs.iter().map(upload).collect::<Result<_, _>>()?;
        let constants = memory.constants.iter().map(upload).collect::<Result<_, _>>()?;
        let outputs = output_bytes
            .iter()
            .map(|&len| Guarded::new(context, guard, len))
            .collect::<Result<_, _>>()?;
        Ok(Bench { context: context.clone(), stream, guard, inputs, constants, outputs })
    }

    /// Runs a candidate three times, the last two as close together as the device allows, and
    /// compares the results; gives the worst relative error.
    pub fn check(
        &self,
        candidate: &Candidate,
        code: &Code,
        target: &Target,
        expected: &[Expected],
        tolerance: f64,
    ) -> Result<f64, Trouble> {
        let module = match code {
            Code::Cubin(cubin) => Module::load(&self.context, cubin)?,
            Code::Ptx(ptx) => Module::load_ptx(&self.context, ptx)?,
        };
        let function = module.function(ENTRY)?;
        if candidate.shared > 0 {
            function.prepare(candidate.shared)?;
        }
        let scratch = Guarded::new(&self.context, self.guard, candidate.scratch)?;
        scratch.poison(&self.stream)?;
        scratch.buffer.fill(self.guard, candidate.zeroed, 0, &self.stream)?;
        let arguments: Vec<KernelArgument> = candidate
            .arguments
            .iter()
            .map(|a| match *a {
                Argument::Input(i) => KernelArgument::Memory(self.inputs[i].from(0)),
                Argument::Output(i) => KernelArgument::Memory(self.outputs[i].from(0)),
                Argument::Constant(i) => KernelArgument::Memory(self.constants[i].from(0)),
                Argument::Scratch(at) => KernelArgument::Memory(scratch.from(at)),
                Argument::Null => KernelArgument::Null,
            })
            .collect();
        let launch = |dependent: bool| Launch {
            grid: candidate.grid,
            block: [candidate.block, 1, 1],
            shared: candidate.shared,
            dependent: dependent && target.dependent_launch(),
        };
        let mut worst = 0.0f64;
        let mut first: Vec<Vec<u8>> = Vec::new();
        for runs in [1, 2] {
            for output in &self.outputs {
                output.poison(&self.stream)?;
            }
            let mut list = CommandList::new(&self.context)?;
            for run in 0..runs {
                list.launch(&function, launch(run > 0), &arguments, 0, &[])?;
            }
            list.enqueue(&self.stream)?;
            self.stream.synchronize()?;
            for (i, (output, want)) in self.outputs.iter().zip(expected).enumerate() {
                let all = output.read(&self.stream)?;
                let name = format!("output {i}");
                let got = output.inside(&all, &name).map_err(Trouble::Wrong)?;
                if runs == 2 && first[i] == got {
                    continue;
                }
                let error = want.compare(got, tolerance).map_err(|why| {
                    let which = if runs == 1 { "first run" } else { "third run" };
                    Trouble::Wrong(format!("{name}, {which}: {why}"))
                })?;
                worst = worst.max(error.relative);
                first.push(got.to_vec());
            }
        }
        let all = scratch.read(&self.stream)?;
        let state = scratch.inside(&all, "the scratch memory").map_err(Trouble::Wrong)?;
        if let Some(at) = state[..candidate.zeroed].iter().position(|&b| b != 0) {
            return Err(Trouble::Wrong(format!("ticket byte {at} was not left zero")));
        }
        Ok(worst)
    }

    /// Checks that inputs and constants are as they were uploaded.
    pub fn unchanged(&self, memory: &Memory) -> Result<(), Trouble> {
        let ranges = self.inputs.iter().zip(&memory.inputs).map(|r| (r, "input"));
        let constants = self.constants.iter().zip(&memory.constants).map(|r| (r, "constant"));
        for ((range, bytes), what) in ranges.chain(constants) {
            let all = range.read(&self.stream)?;
            let inside = range.inside(&all, what).map_err(Trouble::Wrong)?;
            if inside != bytes {
                return Err(Trouble::Wrong(format!("an {what} was written")));
            }
        }
        Ok(())
    }
}
