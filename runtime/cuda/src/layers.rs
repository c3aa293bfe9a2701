//! Time of each launch, measured on the device.

use std::time::Duration;

use tobiuo_gpu::{CommandList, Event, GpuError, Graph, Stream};

use crate::engine::{CudaPlan, place};
use crate::launches::Memory;

/// Launches of one kernel in a row in a measured graph.
const ROW: usize = 8;
/// Measured runs of each graph; the median counts.
const RUNS: usize = 9;

/// Runs each launch alone, [`ROW`] times in a row as one graph, and times that with the
/// device's own events: microseconds of one.
pub(crate) fn times(
    plan: &CudaPlan,
    memory: &Memory,
    stream: &Stream,
) -> Result<Vec<Duration>, GpuError> {
    let context = plan.engine().context();
    let (begin, end) = (Event::timed(context)?, Event::timed(context)?);
    let mut out = Vec::with_capacity(plan.program().launches.len());
    for (i, launch) in plan.program().launches.iter().enumerate() {
        let timed = (|| {
            let (geometry, arguments) = memory.bound(plan, i)?;
            let mut list = CommandList::new(context)?;
            for _ in 0..ROW {
                list.launch(&plan.functions()[i], geometry, &arguments, 0, &[])?;
            }
            let mut graph = list.capture()?;
            graph.upload(stream)?;
            graph.launch(stream)?;
            median(&mut graph, stream, &begin, &end)
        })();
        let us = timed.map_err(|e: GpuError| e.at(place(i, &launch.name)))? / ROW as f64;
        out.push(Duration::from_secs_f64(us.max(0.0) * 1e-6));
    }
    Ok(out)
}

fn median(graph: &mut Graph, stream: &Stream, begin: &Event, end: &Event) -> Result<f64, GpuError> {
    let mut runs = [0.0; RUNS];
    for run in &mut runs {
        // The first launch keeps the device busy until the host has queued the measured one.
        graph.launch(stream)?;
        begin.record(stream)?;
        graph.launch(stream)?;
        end.record(stream)?;
        end.synchronize()?;
        *run = begin.microseconds_to(end)?;
    }
    runs.sort_unstable_by(f64::total_cmp);
    Ok(runs[RUNS / 2])
}
