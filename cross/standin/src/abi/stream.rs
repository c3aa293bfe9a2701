//! Streams and events.

use std::ffi::{c_int, c_uint};

use super::Out;
use crate::driver::{Driver, Event, EventState};
use crate::queue::Stream;
use crate::status::*;

functions! {
    Context fn cuStreamCreate(stream: Out<u64>, flags: c_uint) |d, current| {
        new_stream(d, stream, flags, current)
    };
    Context fn cuStreamCreateWithPriority(stream: Out<u64>, flags: c_uint, _priority: c_int) |d, current| {
        new_stream(d, stream, flags, current)
    };
    Context fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |_d, _| {
        least.put(0)?;
        greatest.put(-5)
    };
    Release fn cuStreamDestroy_v2(stream: u64) |d, _| {
        d.stream(stream)?;
        // What is queued still runs.
        let ran = d.run_stream(stream, None);
        d.leave_capture(stream);
        d.end_of(|d| &mut d.streams, "stream", stream)?;
        ran
    };
    Context fn cuStreamSynchronize(stream: u64) |d, _| {
        d.refuse_capturing(stream)?;
        d.run_stream(stream, None)
    };
    Context fn cuStreamQuery(stream: u64) |d, _| {
        d.refuse_capturing(stream)?;
        if d.stream(stream)?.queue.is_empty() {
            return Ok(());
        }
        d.run_stream(stream, None)?;
        Err(NOT_READY)
    };
    Context fn cuStreamWaitEvent(stream: u64, event: u64, flags: c_uint) |d, _| {
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        d.wait(stream, event)
    };
    Context fn cuEventCreate(event: Out<u64>, flags: c_uint) |d, current| {
        if flags > 7 {
            return Err(INVALID_VALUE);
        }
        let handle = d.handle();
        let timed = flags & 2 == 0;
        let new = Event { context: current, timed, state: EventState::Never, asked: false };
        d.events.insert(handle, new);
        event.put(handle)
    };
    Release fn cuEventDestroy_v2(event: u64) |d, _| {
        d.end_of(|d| &mut d.events, "event", event).map(|_| ())
    };
    Context fn cuEventRecord(event: u64, stream: u64) |d, _| {
        d.event(event)?.asked = false;
        d.record(event, stream, false)
    };
    Context fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) |d, _| {
        d.event(event)?.asked = false;
        d.record(event, stream, flags & 1 != 0)
    };
    Context fn cuEventSynchronize(event: u64) |d, _| {
        pass(d, event)
    };
    Context fn cuEventQuery(event: u64) |d, _| {
        let asked = std::mem::replace(&mut d.event(event)?.asked, true);
        let done = match &d.event(event)?.state {
            EventState::Recorded(point) => point.done(),
            _ => true,
        };
        pass(d, event)?;
        if done || asked { Ok(()) } else { Err(NOT_READY) }
    };
    Context fn cuEventElapsedTime(ms: Out<f32>, first: u64, last: u64) |d, _| {
        elapsed(d, ms, first, last)
    };
}

fn new_stream(d: &mut Driver, stream: Out<u64>, flags: c_uint, context: u64) -> Result<(), Status> {
    if flags > 1 {
        return Err(INVALID_VALUE);
    }
    let handle = d.handle();
    let time = d.streams.values().map(|s| s.time).fold(0.0, f64::max);
    d.streams.insert(handle, Stream { context, queue: Default::default(), time, capture: None });
    stream.put(handle)
}

/// Runs what an event waits for.
fn pass(d: &mut Driver, event: u64) -> Result<(), Status> {
    let point = match &d.event(event)?.state {
        EventState::Never => return Ok(()),
        EventState::Captured { .. } => return Err(CAPTURED_EVENT),
        EventState::Recorded(point) => point.clone(),
    };
    if !point.done() {
        d.run_stream(point.stream, Some(&point))?;
    }
    Ok(())
}

fn elapsed(d: &mut Driver, ms: Out<f32>, first: u64, last: u64) -> Result<(), Status> {
    let mut times = [0.0; 2];
    for (event, time) in [first, last].into_iter().zip(&mut times) {
        let event = d.event(event)?;
        *time = match &event.state {
            _ if !event.timed => return Err(INVALID_HANDLE),
            EventState::Never => return Err(INVALID_HANDLE),
            EventState::Captured { .. } => return Err(CAPTURED_EVENT),
            EventState::Recorded(point) if !point.done() => return Err(NOT_READY),
            EventState::Recorded(point) => point.time(),
        };
    }
    ms.put(((times[1] - times[0]) / 1e3) as f32)
}
