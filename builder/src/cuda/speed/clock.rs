//! What networks take on the GPU that an engine is for.

use std::collections::HashSet;

use tobiuo_engine::Precision;
use tobiuo_tensor::Tensor;

use super::{Version, measured, named, predicted};
use crate::BuildError;
use crate::cuda::make::tune::Tuner;
use crate::cuda::schedule::Schedule;
use crate::graph::Graph;
use crate::quantize::clock::Clock;
use crate::quantize::runner::Times;
use crate::tactics::compare;

impl Clock for Tuner {
    /// By timing a few candidates of each layer, and the network with the fastest; by the cost
    /// model where nothing can be timed.
    fn times(&mut self, graph: &Graph, _inputs: &[Tensor]) -> Result<Times, BuildError> {
        let Version { lowering, .. } = Version::of(graph.clone(), Precision::Int8)?;
        if let (true, Ok(fixed)) =
            (self.clock().is_some() && !self.late(), self.fixed(&[&lowering]))
        {
            let untimed = self.tuning.untimed;
            let tactics = self.choose(&lowering, fixed, Some(&HashSet::new()), (&mut (), 0.0))?;
            // Of the engine's own layers it is told later.
            self.tuning.untimed = untimed;
            if let (Some(times), Some(context)) = (measured(&tactics), self.clock()) {
                let schedule = Schedule::serial(tactics.len());
                let network = compare(context, &[(&*lowering, &tactics[..], &schedule)])?[0];
                return Ok(Times { network, layers: named(&lowering, &times) });
            }
        }
        let times = predicted(&lowering, &self.target);
        Ok(Times { network: times.iter().sum(), layers: named(&lowering, &times) })
    }

    fn name(&self) -> &'static str {
        if self.clock().is_some() { "GPU" } else { "GPU, predicted" }
    }
}
