//! Streams, what is queued in them, and running it.
//!
//! Nothing runs before somebody waits for it, and then only what that wait needs: a host that
//! reads a result too early, or a stream that should have waited for another, gets old bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::driver::Driver;
use crate::kernel::Kernel;
use crate::memory::{Kind, read_host, write_host};
use crate::status::{ILLEGAL_ADDRESS, INVALID_VALUE, Status};

/// A point in a stream that an event marked.
#[derive(Debug)]
pub(crate) struct Point {
    pub stream: u64,
    done: AtomicBool,
    /// Virtual microseconds, as bits.
    time: AtomicU64,
}

impl Point {
    pub fn new(stream: u64) -> Arc<Point> {
        Arc::new(Point { stream, done: AtomicBool::new(false), time: AtomicU64::new(0) })
    }

    pub fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    pub fn time(&self) -> f64 {
        f64::from_bits(self.time.load(Ordering::Relaxed))
    }

    fn pass(&self, time: f64) {
        self.time.store(time.to_bits(), Ordering::Relaxed);
        self.done.store(true, Ordering::Relaxed);
    }
}

/// A launch of a kernel.
#[derive(Clone)]
pub(crate) struct Launch {
    pub kernel: Arc<Kernel>,
    pub module: u64,
    pub values: Vec<u64>,
}

/// Where an upload's bytes come from: pageable memory is read by the call, pinned memory when
/// the copy runs.
#[derive(Clone)]
pub(crate) enum Source {
    Bytes(Arc<[u8]>),
    Pinned { host: usize, len: usize },
}

/// Queued work.
#[derive(Clone)]
pub(crate) enum Work {
    Upload {
        to: u64,
        from: Source,
    },
    Download {
        to: usize,
        from: u64,
        len: usize,
    },
    Copy {
        to: u64,
        from: u64,
        len: usize,
    },
    Fill {
        at: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    Kernel(Launch),
    Graph(Arc<Executable>),
    Record(Arc<Point>),
    /// An event's record inside a graph: a new point each time the graph runs.
    RecordEvent(u64),
    Wait(Arc<Point>),
}

/// An instantiated graph.
pub(crate) struct Executable {
    pub nodes: Vec<Node>,
    runs: AtomicU64,
}

/// Work of a graph, and the nodes that must have ended before it.
#[derive(Clone)]
pub(crate) struct Node {
    pub work: Work,
    pub after: Vec<usize>,
}

impl Executable {
    pub fn new(nodes: Vec<Node>) -> Arc<Executable> {
        Arc::new(Executable { nodes, runs: AtomicU64::new(0) })
    }

    /// An order that the dependencies allow: the one of the capture, and every second time as
    /// far from it as they let it be.
    fn order(&self) -> Vec<usize> {
        let backwards = self.runs.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let mut left: Vec<usize> = (0..self.nodes.len()).collect();
        let mut done = vec![false; self.nodes.len()];
        let mut out = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let ready = |&i: &usize| self.nodes[i].after.iter().all(|&d| done[d]);
            let next = match backwards {
                true => left.iter().rposition(ready),
                false => left.iter().position(ready),
            };
            // Dependencies point backwards, so the first one left is always ready.
            let node = left.remove(next.unwrap_or(0));
            done[node] = true;
            out.push(node);
        }
        out
    }
}

/// A stream.
pub(crate) struct Stream {
    pub context: u64,
    pub queue: VecDeque<Work>,
    /// Virtual microseconds of work done.
    pub time: f64,
    /// The capture it takes part in.
    pub capture: Option<u64>,
}

impl Driver {
    /// Runs a stream's work, all of it or until a point is passed.
    pub fn run_stream(&mut self, id: u64, until: Option<&Arc<Point>>) -> Result<(), Status> {
        loop {
            if until.is_some_and(|p| p.done()) {
                return Ok(());
            }
            let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
            let context = stream.context;
            let Some(work) = stream.queue.pop_front() else { return Ok(()) };
            if let Work::Wait(point) = &work {
                if !point.done() {
                    stream.queue.push_front(work.clone());
                    self.run_stream(point.stream, Some(point))?;
                    if !point.done() {
                        // Its stream is gone, and ran all it had before.
                        point.pass(0.0);
                    }
                    continue;
                }
                stream.time = stream.time.max(point.time());
                continue;
            }
            if let Err((status, why)) = self.execute(id, &work) {
                if !why.is_empty() {
                    self.ledger.problem(why);
                }
                self.fault(context, status);
                return Err(status);
            }
        }
    }

    /// Runs everything that a context has queued.
    pub fn run_context(&mut self, context: u64) -> Result<(), Status> {
        let mut streams: Vec<u64> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(&i, _)| i).collect();
        // Never in the order in which they were made: nobody may count on it.
        streams.sort_unstable_by(|a, b| b.cmp(a));
        streams.into_iter().try_for_each(|s| self.run_stream(s, None))
    }

    /// The context is lost: queues are dropped, every later call says so.
    pub fn fault(&mut self, context: u64, status: Status) {
        if let Some(c) = self.contexts.get_mut(&context) {
            c.sticky.get_or_insert(status);
        }
        for stream in self.streams.values_mut().filter(|s| s.context == context) {
            for work in stream.queue.drain(..) {
                if let Work::Record(point) = work {
                    point.pass(stream.time);
                }
            }
        }
    }

    fn execute(&mut self, stream: u64, work: &Work) -> Result<(), (Status, String)> {
        let illegal = |why: String| (ILLEGAL_ADDRESS, why);
        let copy_time = |len: usize| 1.5 + len as f64 / 2e4;
        let cost = match work {
            Work::Upload { to, from } => match from {
                Source::Bytes(bytes) => {
                    self.memory.write(*to, bytes).map_err(illegal)?;
                    copy_time(bytes.len())
                }
                Source::Pinned { host, len } => {
                    self.pinned(*host, *len).map_err(illegal)?;
                    self.memory.write(*to, &read_host(*host, *len)).map_err(illegal)?;
                    copy_time(*len)
                }
            },
            Work::Download { to, from, len } => {
                let bytes = self.memory.read(*from, *len).map_err(illegal)?.into_owned();
                if self.memory.find_host(*to).is_some() {
                    self.pinned(*to, *len).map_err(illegal)?;
                }
                write_host(*to, &bytes);
                copy_time(*len)
            }
            Work::Copy { to, from, len } => {
                self.memory.copy(*to, *from, *len).map_err(illegal)?;
                copy_time(*len / 10)
            }
            Work::Fill { at, pattern, count } => {
                self.memory.fill(*at, pattern, *count).map_err(illegal)?;
                copy_time(*count / 10)
            }
            Work::Kernel(launch) => self.execute_kernel(launch)?,
            Work::Graph(executable) => {
                for node in executable.order() {
                    self.execute(stream, &executable.nodes[node].work)?;
                }
                1.0
            }
            Work::Record(point) => {
                point.pass(self.streams.get(&stream).map_or(0.0, |s| s.time));
                0.0
            }
            Work::RecordEvent(event) => {
                let point = Point::new(stream);
                point.pass(self.streams.get(&stream).map_or(0.0, |s| s.time));
                if let Some(event) = self.events.get_mut(event) {
                    event.state = crate::driver::EventState::Recorded(point);
                }
                0.0
            }
            Work::Wait(_) => 0.0,
        };
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.time += cost;
        }
        Ok(())
    }

    fn execute_kernel(&mut self, launch: &Launch) -> Result<f64, (Status, String)> {
        let name = &launch.kernel.name;
        self.ledger.entries.kernels += 1;
        if let Some(code) = self.faults.kernel(self.ledger.entries.kernels) {
            self.ledger.entries.injected.push(format!("kernel '{name}' faults with {code}"));
            return Err((code, String::new()));
        }
        if !self.modules.contains_key(&launch.module) {
            let why = format!("kernel '{name}' runs after its module was unloaded");
            return Err((ILLEGAL_ADDRESS, why));
        }
        launch.kernel.run(&launch.values, &mut self.memory)?;
        Ok(launch.kernel.cost)
    }

    /// That host bytes which were pinned when a copy was queued still are.
    fn pinned(&self, host: usize, len: usize) -> Result<(), String> {
        match self.memory.find_host(host) {
            Some((_, base, region)) if host - base + len <= region.len => Ok(()),
            _ => Err(format!("a copy of {len} bytes at pinned {host:#x}, which is not there")),
        }
    }

    /// Where the bytes of an upload come from.
    pub fn source(&mut self, host: usize, len: usize) -> Result<Source, Status> {
        match self.memory.find_host(host) {
            Some((_, base, region)) => {
                if host - base + len > region.len {
                    self.ledger.problem(format!("an upload of {len} bytes leaves pinned memory"));
                    return Err(INVALID_VALUE);
                }
                Ok(Source::Pinned { host, len })
            }
            None => Ok(Source::Bytes(read_host(host, len).into())),
        }
    }

    /// True when host memory is page-locked.
    pub fn is_pinned(&self, host: usize) -> bool {
        self.memory.find_host(host).is_some_and(|(_, _, r)| r.kind != Kind::Device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_run_of_a_graph_takes_the_other_order_that_is_allowed() {
        let node = |after: &[usize]| Node { work: Work::RecordEvent(0), after: after.to_vec() };
        let graph = Executable::new(vec![node(&[]), node(&[0]), node(&[0]), node(&[1, 2])]);
        assert_eq!(graph.order(), [0, 1, 2, 3]);
        assert_eq!(graph.order(), [0, 2, 1, 3]);
        assert_eq!(graph.order(), [0, 1, 2, 3]);
    }
}
