use std::sync::Arc;
use std::time::Duration;

use tobiuo_engine::manifest::{Place, Step};
use tobiuo_tensor::{TensorView, TensorViewMut, ViewData, ViewDataMut};

use crate::memory::Memory;
use crate::program::{CpuProgram, bytes_of};
use crate::{CpuError, Threads};

/// What one run of a program works in.
pub(crate) struct State {
    pub arena: Memory,
    pub scratch: Memory,
    /// Time of each step in the last run.
    pub times: Vec<Duration>,
}

/// Runs a program: its own activations, shared weights. One per worker.
pub struct CpuExecutor {
    program: Arc<CpuProgram>,
    threads: Threads,
    /// Gone only while the driver has it, and after a kernel panicked.
    state: Option<Box<State>>,
}

const LOST: &str = "the executor's memory, lost in an earlier panic";

impl CpuExecutor {
    /// Takes the memory for one run at a time.
    pub fn new(program: Arc<CpuProgram>, threads: &Threads) -> Result<CpuExecutor, CpuError> {
        let state = State {
            arena: Memory::zeroed(program.plan().arena)?,
            scratch: Memory::zeroed(program.scratch_bytes() as u64)?,
            times: vec![Duration::ZERO; program.steps().len()],
        };
        Ok(CpuExecutor { program, threads: threads.clone(), state: Some(Box::new(state)) })
    }

    /// The program.
    pub fn program(&self) -> &Arc<CpuProgram> {
        &self.program
    }

    fn state(&self) -> &State {
        self.state.as_deref().expect(LOST)
    }

    /// Input `i` of the plan, to be written before each run: a run may overwrite it.
    ///
    /// Panics when there is no such input.
    pub fn input_mut(&mut self, i: usize) -> TensorViewMut<'_> {
        let desc = &self.program.plan().tensors[self.program.plan().inputs[i] as usize];
        let Place::Arena(at) = desc.place else { unreachable!("checked: inputs are in the arena") };
        let range = at as usize..at as usize + bytes_of(desc);
        let bytes = &mut self.state.as_deref_mut().expect(LOST).arena.bytes_mut()[range];
        let data = ViewDataMut::from_bytes(desc.dtype, bytes).expect("checked: aligned");
        TensorViewMut { shape: &desc.shape, data }
    }

    /// Output `i` of the plan, as the last run left it.
    ///
    /// Panics when there is no such output.
    pub fn output(&self, i: usize) -> TensorView<'_> {
        self.tensor(self.program.plan().outputs[i] as usize)
    }

    /// Any tensor of the plan. Outputs hold after a run; other tensors share their bytes with
    /// later ones and hold only right after the step that made them, see
    /// [`CpuExecutor::run_with`].
    ///
    /// Panics when there is no such tensor.
    pub fn tensor(&self, index: usize) -> TensorView<'_> {
        let desc = &self.program.plan().tensors[index];
        let (bytes, at) = match desc.place {
            Place::Arena(at) => (self.state().arena.bytes(), at),
            Place::Weights(at) => (self.program.weights(), at),
            Place::Bound => unreachable!("refused when the program was made"),
        };
        let bytes = &bytes[at as usize..at as usize + bytes_of(desc)];
        let data = ViewData::from_bytes(desc.dtype, bytes).expect("checked: aligned");
        TensorView { shape: &desc.shape, data }
    }

    /// Runs all steps on what the inputs hold. Allocates nothing.
    pub fn run(&mut self) {
        let state = self.state.take().expect(LOST);
        let all = 0..self.program.steps().len();
        self.state = Some(self.threads.run(&self.program, state, all));
    }

    /// Runs step by step; after each, `observe` gets its index, the step and its outputs.
    pub fn run_with(&mut self, observe: &mut dyn FnMut(usize, &Step, &[TensorView<'_>])) {
        for i in 0..self.program.steps().len() {
            let state = self.state.take().expect(LOST);
            self.state = Some(self.threads.run(&self.program, state, i..i + 1));
            let step = &self.program.steps()[i];
            let views: Vec<_> = step.outputs.iter().map(|&t| self.tensor(t as usize)).collect();
            observe(i, step, &views);
        }
    }

    /// Time that each step took in the last run, in the plan's order.
    pub fn layer_times(&self) -> &[Duration] {
        &self.state().times
    }

    /// Bytes of memory that this executor took for itself.
    pub fn memory_bytes(&self) -> usize {
        self.state().arena.bytes().len() + self.state().scratch.bytes().len()
    }
}
