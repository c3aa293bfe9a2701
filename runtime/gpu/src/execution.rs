//! Streams, events and captured graphs.

use cudarc::driver::sys as cu;

use crate::commands::{CommandList, PinnedId};
use crate::context::Context;
use crate::error::GpuError;

/// A queue of device work.
pub struct Stream {
    context: Context,
    handle: cu::CUstream,
}

// SAFETY: a stream handle may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: the driver allows concurrent calls on one stream.
unsafe impl Sync for Stream {}

const STREAM_NON_BLOCKING: u32 = 1;
const CAPTURE_THREAD_LOCAL: u32 = 1;
const EVENT_RECORD_EXTERNAL: u32 = 1;
const ERROR_NOT_READY: i32 = 600;
const EVENT_DISABLE_TIMING: u32 = 2;
const EVENT_BLOCKING_SYNC: u32 = 1;

impl Stream {
    /// A stream that does not wait for the legacy default stream.
    pub fn new(context: &Context) -> Result<Stream, GpuError> {
        let api = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for one handle.
        let status = unsafe { (api.stream_create)(&mut handle, STREAM_NON_BLOCKING) };
        api.check(status, "creating a stream")?;
        Ok(Stream { context: context.clone(), handle })
    }

    /// A stream whose work goes before that of streams without a priority, where the device
    /// has to choose.
    pub fn with_high_priority(context: &Context) -> Result<Stream, GpuError> {
        let api = context.enter()?;
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: both are places for one int.
        let status = unsafe { (api.stream_priority_range)(&mut least, &mut greatest) };
        api.check(status, "reading the streams' priorities")?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for one handle.
        let status = unsafe {
            (api.stream_create_with_priority)(&mut handle, STREAM_NON_BLOCKING, greatest)
        };
        api.check(status, "creating a stream")?;
        Ok(Stream { context: context.clone(), handle })
    }

    pub(crate) fn raw(&self) -> cu::CUstream {
        self.handle
    }

    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits until all queued work is done; reports faults of the kernels in it.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: the handle is alive.
        api.check(unsafe { (api.stream_synchronize)(self.handle) }, "waiting for the stream")
    }

    /// Lets later work wait for an event recorded elsewhere.
    pub fn wait(&self, event: &Event) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: both handles are alive.
        let status = unsafe { (api.stream_wait_event)(self.handle, event.handle, 0) };
        api.check(status, "waiting for an event")
    }

    /// Captures the work that `record` queues into a graph, instead of running it.
    pub fn capture(
        &self,
        record: impl FnOnce() -> Result<(), GpuError>,
    ) -> Result<Graph, GpuError> {
        let api = self.context.enter()?;
        // SAFETY: the handle is alive.
        let status = unsafe { (api.stream_begin_capture)(self.handle, CAPTURE_THREAD_LOCAL) };
        api.check(status, "starting a graph capture")?;
        let recorded = record();
        let mut graph = std::ptr::null_mut();
        // SAFETY: `graph` is a place for one handle; ends the capture begun above.
        let status = unsafe { (api.stream_end_capture)(self.handle, &mut graph) };
        let ended = api.check(status, "ending a graph capture");
        let made = recorded.and(ended).and_then(|()| {
            let mut exec = std::ptr::null_mut();
            // SAFETY: `exec` is a place for one handle, `graph` was captured just now.
            let status = unsafe { (api.graph_instantiate)(&mut exec, graph, 0) };
            api.check(status, "instantiating a graph")?;
            Ok(Graph { context: self.context.clone(), exec, list: None })
        });
        if !graph.is_null() {
            // SAFETY: made above; the executable graph does not need it any more.
            unsafe { (api.graph_destroy)(graph) };
        }
        made
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: created in `new`, destroyed nowhere else.
            unsafe { (api.stream_destroy)(self.handle) };
        }
    }
}

/// A point in a stream.
pub struct Event {
    context: Context,
    handle: cu::CUevent,
}

// SAFETY: an event handle may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: the driver allows concurrent calls on one event.
unsafe impl Sync for Event {}

impl Event {
    /// An event that keeps its time.
    pub fn timed(context: &Context) -> Result<Event, GpuError> {
        Event::with_flags(context, 0)
    }

    /// An event whose waiters sleep instead of spinning, without a time.
    pub fn blocking(context: &Context) -> Result<Event, GpuError> {
        Event::with_flags(context, EVENT_DISABLE_TIMING | EVENT_BLOCKING_SYNC)
    }

    fn with_flags(context: &Context, flags: u32) -> Result<Event, GpuError> {
        let api = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is a place for one handle.
        let status = unsafe { (api.event_create)(&mut handle, flags) };
        api.check(status, "creating an event")?;
        Ok(Event { context: context.clone(), handle })
    }

    /// Marks this point of a stream.
    pub fn record(&self, stream: &Stream) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: both handles are alive.
        let status = unsafe { (api.event_record)(self.handle, stream.raw()) };
        api.check(status, "recording an event")
    }

    /// Marks a point of work that is being captured: the event is recorded whenever the graph
    /// runs.
    pub(crate) fn record_in_graph(&self, stream: &Stream) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: both handles are alive.
        let status = unsafe {
            (api.event_record_with_flags)(self.handle, stream.raw(), EVENT_RECORD_EXTERNAL)
        };
        api.check(status, "recording an event in a graph")
    }

    /// True when the stream has passed the point.
    pub fn is_done(&self) -> Result<bool, GpuError> {
        let api = self.context.enter()?;
        // SAFETY: the handle is alive.
        match unsafe { (api.event_query)(self.handle) } {
            ERROR_NOT_READY => Ok(false),
            status => api.check(status, "asking for an event").map(|()| true),
        }
    }

    /// Waits until the stream has passed the point.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: the handle is alive.
        api.check(unsafe { (api.event_synchronize)(self.handle) }, "waiting for an event")
    }

    /// Microseconds from this event to a later one; both are timed and done.
    pub fn microseconds_to(&self, later: &Event) -> Result<f64, GpuError> {
        let api = self.context.enter()?;
        let mut ms = 0.0;
        // SAFETY: `ms` is a place for one float, both handles are alive.
        let status = unsafe { (api.event_elapsed)(&mut ms, self.handle, later.handle) };
        api.check(status, "reading the time between two events")?;
        Ok(f64::from(ms) * 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: created in `with_flags`, destroyed nowhere else.
            unsafe { (api.event_destroy)(self.handle) };
        }
    }
}

/// Captured work, launched as one.
pub struct Graph {
    context: Context,
    exec: cu::CUgraphExec,
    /// What it was captured from, with all that its work touches.
    list: Option<CommandList>,
}

// SAFETY: a graph may be launched from any thread, one at a time (`launch` takes `&mut`).
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn with_list(mut self, list: CommandList) -> Graph {
        self.list = Some(list);
        self
    }

    /// A pinned buffer's bytes, once the last run has done with them.
    ///
    /// Panics when the list that the graph was captured from has no such buffer.
    pub fn bytes(&self, buffer: PinnedId) -> &[u8] {
        self.list.as_ref().expect("a graph of a command list").bytes(buffer)
    }

    /// A pinned buffer's bytes to write, once the last run has done with them.
    ///
    /// Panics when the list that the graph was captured from has no such buffer.
    pub fn bytes_mut(&mut self, buffer: PinnedId) -> &mut [u8] {
        self.list.as_mut().expect("a graph of a command list").bytes_mut(buffer)
    }

    /// Waits for the last run; reports faults of the kernels in it.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.list.as_ref().map_or(Ok(()), CommandList::wait)
    }

    /// True when the last run has ended.
    pub fn is_done(&self) -> Result<bool, GpuError> {
        self.list.as_ref().map_or(Ok(true), CommandList::is_done)
    }

    /// Prepares the device so that the first launch is as fast as the others.
    pub fn upload(&mut self, stream: &Stream) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: both handles are alive.
        api.check(unsafe { (api.graph_upload)(self.exec, stream.raw()) }, "uploading a graph")
    }

    /// Queues one run.
    pub fn launch(&mut self, stream: &Stream) -> Result<(), GpuError> {
        let api = self.context.enter()?;
        // SAFETY: both handles are alive; what the graph's kernels touch was promised alive
        // by whoever launched them into the capture.
        api.check(unsafe { (api.graph_launch)(self.exec, stream.raw()) }, "launching a graph")?;
        self.list.as_ref().map_or(Ok(()), |list| list.mark(stream))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Its memory goes with the list: not before the last run has ended.
        if let Err(e) = self.wait() {
            log::debug!("{e}");
        }
        if let Ok(api) = self.context.enter() {
            // SAFETY: made in `capture`, destroyed nowhere else.
            unsafe { (api.graph_exec_destroy)(self.exec) };
        }
    }
}
