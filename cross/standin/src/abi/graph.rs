//! What a stream captures, as graphs.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;

use super::Out;
use crate::driver::{Driver, Graph, Instance};
use crate::queue::{Executable, Work};
use crate::status::*;

functions! {
    Context fn cuStreamIsCapturing(stream: u64, state: Out<c_int>) |d, _| {
        state.put(c_int::from(d.stream(stream)?.capture.is_some()))
    };
    Context fn cuStreamBeginCapture_v2(stream: u64, mode: c_uint) |d, _| d.begin_capture(stream, mode);
    Context fn cuStreamEndCapture(stream: u64, graph: Out<u64>) |d, current| {
        let nodes = match d.end_capture(stream) {
            Ok(nodes) => nodes,
            Err(status) => {
                graph.put(0)?;
                return Err(status);
            }
        };
        let handle = d.handle();
        d.graphs.insert(handle, Graph { context: current, nodes });
        graph.put(handle)
    };
    Context fn cuGraphInstantiateWithFlags(instance: Out<u64>, graph: u64, flags: u64) |d, current| {
        if flags > 15 {
            return Err(INVALID_VALUE);
        }
        let Some(found) = d.graphs.get(&graph) else {
            d.ledger.problem("a graph that is not there is instantiated");
            return Err(INVALID_VALUE);
        };
        let executable = Executable::new(found.nodes.clone());
        let handle = d.handle();
        d.instances.insert(handle, Instance { context: current, executable });
        instance.put(handle)
    };
    Context fn cuGraphUpload(instance: u64, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        d.refuse_capturing(stream)?;
        find_instance(d, instance).map(|_| ())
    };
    Context fn cuGraphLaunch(instance: u64, stream: u64) |d, current| {
        d.own_stream(stream, current)?;
        let executable = find_instance(d, instance)?;
        d.submit(stream, Work::Graph(executable))
    };
    Release fn cuGraphExecDestroy(instance: u64) |d, _| {
        d.end_of(|d| &mut d.instances, "executable graph", instance).map(|_| ())
    };
    Release fn cuGraphDestroy(graph: u64) |d, _| {
        d.end_of(|d| &mut d.graphs, "graph", graph).map(|_| ())
    };
    Context fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: Out<usize>) |d, _| {
        let found = d.graphs.get(&graph).ok_or(INVALID_VALUE)?;
        // Only their number is given.
        if nodes.is_null() { count.put(found.nodes.len()) } else { Err(NOT_SUPPORTED) }
    };
}

fn find_instance(d: &mut Driver, instance: u64) -> Result<Arc<Executable>, Status> {
    match d.instances.get(&instance) {
        Some(found) => Ok(found.executable.clone()),
        None => {
            d.ledger.problem("an executable graph that is not there is used");
            Err(INVALID_VALUE)
        }
    }
}
