//! What layers take on the device that an engine is for.

use tobiuo_tensor::Tensor;

use super::runner::{Runner, Times};
use crate::BuildError;
use crate::graph::Graph;

/// Runs that a time is the median of.
const RUNS: usize = 7;

/// Tells how long networks take.
pub trait Clock {
    /// Microseconds of a network and of its layers by their names.
    fn times(&mut self, graph: &Graph, inputs: &[Tensor]) -> Result<Times, BuildError>;

    /// The device, for people.
    fn name(&self) -> &'static str;
}

/// The CPU device.
#[derive(Clone, Copy, Debug)]
pub struct OnCpu;

impl Clock for OnCpu {
    fn times(&mut self, graph: &Graph, inputs: &[Tensor]) -> Result<Times, BuildError> {
        Runner::new(graph)?.times(inputs, RUNS)
    }

    fn name(&self) -> &'static str {
        "CPU"
    }
}
