//! Stream capture: work becomes nodes of a graph, events become dependencies between streams.

use std::collections::HashMap;
use std::thread::ThreadId;

use crate::driver::{Driver, EventState};
use crate::queue::{Node, Point, Work};
use crate::status::*;

/// Modes of `cuStreamBeginCapture`.
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// A capture under way.
pub(crate) struct Capture {
    origin: u64,
    thread: ThreadId,
    mode: u32,
    nodes: Vec<Node>,
    /// The last nodes of each stream that takes part.
    tails: HashMap<u64, Vec<usize>>,
    invalid: bool,
}

impl Driver {
    pub fn begin_capture(&mut self, stream: u64, mode: u32) -> Result<(), Status> {
        if mode > RELAXED || self.stream(stream)?.capture.is_some() {
            return Err(INVALID_VALUE);
        }
        let id = self.handle();
        let thread = std::thread::current().id();
        let (nodes, tails) = (Vec::new(), HashMap::from([(stream, Vec::new())]));
        let capture = Capture { origin: stream, thread, mode, nodes, tails, invalid: false };
        self.captures.insert(id, capture);
        self.stream(stream)?.capture = Some(id);
        Ok(())
    }

    /// Ends a capture; its nodes.
    pub fn end_capture(&mut self, stream: u64) -> Result<Vec<Node>, Status> {
        let Some(id) = self.stream(stream)?.capture else { return Err(INVALID_VALUE) };
        let capture = &self.captures[&id];
        if capture.origin != stream {
            self.invalidate(id);
            return Err(CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(&id).expect("it was there");
        for stream in self.streams.values_mut().filter(|s| s.capture == Some(id)) {
            stream.capture = None;
        }
        // Events of the capture mean nothing any more.
        for event in self.events.values_mut() {
            if matches!(event.state, EventState::Captured { capture, .. } if capture == id) {
                event.state = EventState::Never;
            }
        }
        if capture.invalid {
            return Err(CAPTURE_INVALIDATED);
        }
        let mut joined = vec![false; capture.nodes.len()];
        let mut open = capture.tails[&stream].clone();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut joined[node], true) {
                open.extend(&capture.nodes[node].after);
            }
        }
        if joined.contains(&false) {
            return Err(CAPTURE_UNJOINED);
        }
        Ok(capture.nodes)
    }

    /// Queues work, or makes it a node of the capture the stream is in.
    pub fn submit(&mut self, stream: u64, work: Work) -> Result<(), Status> {
        let Some(id) = self.stream(stream)?.capture else {
            self.stream(stream)?.queue.push_back(work);
            return Ok(());
        };
        let capture = self.captures.get_mut(&id).expect("streams leave a capture with its end");
        if capture.invalid {
            return Err(CAPTURE_INVALIDATED);
        }
        let node = capture.nodes.len();
        let tail = capture.tails.entry(stream).or_default();
        capture.nodes.push(Node { work, after: std::mem::replace(tail, vec![node]) });
        Ok(())
    }

    pub fn record(&mut self, event: u64, stream: u64, external: bool) -> Result<(), Status> {
        let context = self.event(event)?.context;
        let invalid = self.is_invalid(stream)?;
        let s = self.stream(stream)?;
        if s.context != context {
            return Err(INVALID_HANDLE);
        }
        let state = match s.capture {
            Some(_) if invalid => return Err(CAPTURE_INVALIDATED),
            Some(_) if external => return self.submit(stream, Work::RecordEvent(event)),
            Some(capture) => {
                let after = self.captures[&capture].tails.get(&stream).cloned().unwrap_or_default();
                EventState::Captured { capture, after }
            }
            None => {
                let point = Point::new(stream);
                s.queue.push_back(Work::Record(point.clone()));
                EventState::Recorded(point)
            }
        };
        self.event(event)?.state = state;
        Ok(())
    }

    pub fn wait(&mut self, stream: u64, event: u64) -> Result<(), Status> {
        let capture = self.stream(stream)?.capture;
        if capture.is_some() && self.is_invalid(stream)? {
            return Err(CAPTURE_INVALIDATED);
        }
        match (&self.event(event)?.state, capture) {
            (EventState::Never, None) => Ok(()),
            // An event from outside: the graph would depend on work it does not hold.
            (EventState::Never | EventState::Recorded(_), Some(id)) => {
                self.invalidate(id);
                Err(CAPTURE_ISOLATION)
            }
            (EventState::Recorded(point), None) => {
                let work = Work::Wait(point.clone());
                self.submit(stream, work)
            }
            (EventState::Captured { capture: of, .. }, Some(id)) if *of != id => {
                let of = *of;
                self.invalidate(id);
                self.invalidate(of);
                Err(CAPTURE_MERGE)
            }
            (EventState::Captured { capture: of, after }, _) => {
                let (of, after) = (*of, after.clone());
                self.stream(stream)?.capture = Some(of);
                let capture = self.captures.get_mut(&of).expect("its events end with it");
                let tail = capture.tails.entry(stream).or_default();
                for node in after {
                    if !tail.contains(&node) {
                        tail.push(node);
                    }
                }
                Ok(())
            }
        }
    }

    fn is_invalid(&mut self, stream: u64) -> Result<bool, Status> {
        let capture = self.stream(stream)?.capture;
        Ok(capture.is_some_and(|id| self.captures.get(&id).is_none_or(|c| c.invalid)))
    }

    /// The capture can only be ended now, and gives no graph.
    pub fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.invalid = true;
        }
    }

    /// Refuses a call that no stream under capture permits: waiting for it.
    pub fn refuse_capturing(&mut self, stream: u64) -> Result<(), Status> {
        match self.stream(stream)?.capture {
            Some(id) => {
                self.invalidate(id);
                Err(CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// Refuses what would wait for the whole context while one of its streams is captured.
    pub fn refuse_any_capture(&mut self, context: u64) -> Result<(), Status> {
        let captured: Vec<u64> = self
            .streams
            .values()
            .filter(|s| s.context == context)
            .filter_map(|s| s.capture)
            .collect();
        captured.iter().for_each(|&id| self.invalidate(id));
        if captured.is_empty() { Ok(()) } else { Err(CAPTURE_UNSUPPORTED) }
    }

    /// Refuses a potentially unsafe call (an allocation and such) on a thread that captures.
    pub fn refuse_unsafe(&mut self, name: &str) -> Result<(), Status> {
        let here = std::thread::current().id();
        let hit = |c: &Capture| match c.mode {
            GLOBAL => true,
            THREAD_LOCAL => c.thread == here,
            _ => false,
        };
        let captures: Vec<u64> =
            self.captures.iter().filter(|(_, c)| hit(c)).map(|(&id, _)| id).collect();
        if captures.is_empty() {
            return Ok(());
        }
        captures.iter().for_each(|&id| self.invalidate(id));
        self.ledger.problem(format!("{name} while this thread captures a stream"));
        Err(CAPTURE_UNSUPPORTED)
    }

    /// A stream is destroyed: a capture it takes part in cannot go on.
    pub fn leave_capture(&mut self, stream: u64) {
        let Some(id) = self.streams.get(&stream).and_then(|s| s.capture) else { return };
        self.invalidate(id);
        if self.captures.get(&id).is_some_and(|c| c.origin == stream) {
            self.captures.remove(&id);
            for s in self.streams.values_mut().filter(|s| s.capture == Some(id)) {
                s.capture = None;
            }
            for event in self.events.values_mut() {
                if matches!(event.state, EventState::Captured { capture, .. } if capture == id) {
                    event.state = EventState::Never;
                }
            }
        }
    }
}
