//! What the stand-in is there to notice: each mistake made on purpose, with safe means, because
//! the driver's layer is careful; and the driver's own answers to trouble.

use std::mem::forget;

use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, Event, GpuErrorKind, PinnedBuffer, Stream, devices,
};
use tobiuo_standin::{Description, Device, Outcome, Standin};

fn problems(outcome: &Outcome) -> String {
    outcome.report.as_ref().expect("a report").problems.join("\n")
}

#[test]
fn work_is_put_off_until_somebody_waits() {
    let outcome = Standin::new().test("work_is_put_off_until_somebody_waits", || {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        let buffer = DeviceBuffer::new(&context, 64).expect("memory");
        let mut bytes = [0; 64];
        buffer.read(0, &mut bytes, &stream).expect("read");
        assert_eq!(bytes, [0xff; 64], "fresh memory is poisoned");
        let mut up = PinnedBuffer::new(&context, 64).expect("memory");
        let mut down = PinnedBuffer::new(&context, 64).expect("memory");
        up.bytes_mut().fill(7);
        // SAFETY: the stream is waited for below; writing in between shows when bytes are read.
        unsafe { buffer.write_async(0, &up, 64, &stream) }.expect("queued");
        // SAFETY: as above.
        unsafe { buffer.read_async(0, &mut down, 64, &stream) }.expect("queued");
        assert_eq!(down.bytes(), [0; 64], "nothing has run yet");
        up.bytes_mut().fill(8);
        stream.synchronize().expect("it runs");
        assert_eq!(down.bytes(), [8; 64], "pinned bytes are read when the copy runs");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn a_stream_that_does_not_wait_for_another_gets_old_bytes() {
    let name = "a_stream_that_does_not_wait_for_another_gets_old_bytes";
    let outcome = Standin::new().test(name, || {
        let context = Context::new(0).expect("a device");
        let new = || Stream::new(&context).expect("a stream");
        let (a, b) = (new(), new());
        let buffer = DeviceBuffer::new(&context, 4).expect("memory");
        let mut bytes = [0; 4];
        buffer.fill(0, 4, 1, &a).expect("queued");
        buffer.read(0, &mut bytes, &b).expect("read");
        assert_eq!(bytes, [0xff; 4]);
        let event = Event::timed(&context).expect("an event");
        event.record(&a).expect("recorded");
        assert!(!event.is_done().expect("asked"));
        b.wait(&event).expect("queued");
        buffer.read(0, &mut bytes, &b).expect("read");
        assert_eq!(bytes, [1; 4]);
        let late = Event::timed(&context).expect("an event");
        buffer.fill(0, 4, 2, &a).expect("queued");
        late.record(&a).expect("recorded");
        late.synchronize().expect("done");
        assert!(event.microseconds_to(&late).expect("both are done") > 0.0);
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn branches_of_a_graph_are_joined_or_refused() {
    let outcome = Standin::new().test("branches_of_a_graph_are_joined_or_refused", || {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        let buffer = DeviceBuffer::new(&context, 8).expect("memory");
        let (left, right) = (buffer.slice(0..4), buffer.slice(4..8));
        let mut list = CommandList::new(&context).expect("a list");
        let pinned = list.pin(PinnedBuffer::new(&context, 8).expect("memory"));
        list.fill(&left, 1).expect("added");
        let first = list.last().expect("one");
        list.barrier(1, &[first]).expect("added");
        list.join().expect("added");
        list.copy(&left, &right).expect("added");
        list.download(&buffer.whole(), pinned, 0).expect("added");
        let mut graph = list.capture().expect("captured");
        for _ in 0..2 {
            graph.launch(&stream).expect("launched");
            graph.wait().expect("done");
            assert_eq!(graph.bytes(pinned), [1; 8]);
        }
        // A branch that nobody joins.
        let other = Stream::new(&context).expect("a stream");
        let fork = Event::blocking(&context).expect("an event");
        let open = stream.capture(|| {
            fork.record(&stream)?;
            other.wait(&fork)?;
            buffer.fill(0, 8, 3, &other)
        });
        assert!(open.err().expect("unjoined").to_string().contains("904"));
        // Waiting for a stream that is captured.
        let waits = stream.capture(|| stream.synchronize());
        assert!(waits.err().expect("refused").to_string().contains("900"));
        // Work from outside.
        fork.record(&other).expect("recorded");
        let outside = stream.capture(|| stream.wait(&fork));
        assert!(outside.err().expect("isolated").to_string().contains("905"));
        // All of it leaves the streams usable.
        stream.capture(|| buffer.fill(0, 8, 3, &stream)).expect("captured");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn memory_allocated_during_a_capture_is_refused_and_noted() {
    let name = "memory_allocated_during_a_capture_is_refused_and_noted";
    let outcome = Standin::new().test(name, || {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        let graph = stream.capture(|| DeviceBuffer::new(&context, 4).map(|_| ()));
        assert!(graph.err().expect("refused").to_string().contains("900"));
    });
    if let Some(outcome) = outcome {
        assert!(problems(&outcome).contains("cuMemAlloc_v2 while this thread captures"));
    }
}

#[test]
fn what_is_left_is_a_leak() {
    let outcome = Standin::new().test("what_is_left_is_a_leak", || {
        let context = Context::new(0).expect("a device");
        forget(Stream::new(&context).expect("a stream"));
        forget(DeviceBuffer::new(&context, 100).expect("memory"));
    });
    if let Some(outcome) = outcome {
        let problems = problems(&outcome);
        assert!(problems.contains("a context is retained 1 times"), "{problems}");
        assert!(problems.contains("leak: a stream was left"), "{problems}");
        assert!(problems.contains("leak: 100 bytes of device memory"), "{problems}");
    }
}

#[test]
fn a_fault_stays_until_the_context_is_made_again() {
    let standin = Standin::new().fail("cuStreamSynchronize#1:700");
    let outcome = standin.test("a_fault_stays_until_the_context_is_made_again", || {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        let buffer = DeviceBuffer::new(&context, 4).expect("memory");
        let fault = buffer.write(0, &[1; 4], &stream).expect_err("the fault");
        assert_eq!(fault.kind(), GpuErrorKind::ContextLost);
        let again = DeviceBuffer::new(&context, 4).expect_err("it stays");
        assert!(again.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{again}");
        drop((buffer, stream, context));
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        let buffer = DeviceBuffer::new(&context, 4).expect("memory");
        buffer.write(0, &[1; 4], &stream).expect("it works again");
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn memory_runs_out_where_the_device_ends() {
    let small = Device { memory: 1 << 20, ..Device::default() };
    let standin = Standin::new().with(&Description { driver: 12020, devices: vec![small] });
    let outcome = standin.test("memory_runs_out_where_the_device_ends", || {
        let context = Context::new(0).expect("a device");
        assert_eq!(context.device().driver, 12020);
        let half = DeviceBuffer::new(&context, 600 << 10).expect("it fits");
        let more = DeviceBuffer::new(&context, 600 << 10).expect_err("it does not");
        assert_eq!(more.kind(), GpuErrorKind::OutOfMemory);
        assert!(more.to_string().contains("of 1048576 bytes are free"), "{more}");
        // Shared with the host on this device.
        assert!(PinnedBuffer::new(&context, 600 << 10).is_err());
        drop(half);
        DeviceBuffer::new(&context, 600 << 10).expect("it fits again");
    });
    if let Some(outcome) = outcome {
        assert!(outcome.clean_report().peak_bytes >= 600 << 10);
    }
}

#[test]
fn drivers_without_a_device_or_too_old_say_so() {
    let none = Standin::new().device("none");
    let outcome = none.test("drivers_without_a_device_or_too_old_say_so", || {
        let error = devices().expect_err("there is none");
        println!("{:?}: {error}", error.kind());
    });
    let Some(outcome) = outcome else { return };
    assert!(outcome.stdout.contains("NoDevice"), "{}", outcome.stdout);
    let old = Standin::new().without("cuGraphInstantiateWithFlags");
    let outcome = old.test("drivers_without_a_device_or_too_old_say_so", || ());
    let stdout = outcome.expect("here").stdout;
    assert!(stdout.contains("OldDriver: the NVIDIA driver has no function cuGraphI"), "{stdout}");
}

#[test]
fn every_call_made_to_fail_is_an_error_and_nothing_stays() {
    const NAME: &str = "every_call_made_to_fail_is_an_error_and_nothing_stays";
    fn body() -> Result<(), tobiuo_gpu::GpuError> {
        let context = Context::new(0)?;
        let stream = Stream::new(&context)?;
        let buffer = DeviceBuffer::new(&context, 8)?;
        let mut list = CommandList::new(&context)?;
        let pinned = list.pin(PinnedBuffer::new(&context, 8)?);
        list.upload(pinned, 0, &buffer.whole())?;
        let mut graph = list.capture()?;
        graph.upload(&stream)?;
        graph.launch(&stream)?;
        graph.wait()
    }
    let run = |standin: Standin| standin.test(NAME, || println!("ended {}", body().is_ok()));
    let Some(clean) = run(Standin::new()) else { return };
    assert!(clean.stdout.contains("ended true"));
    let calls = clean.clean_report().calls;
    assert!((30..300).contains(&calls), "{calls} calls");
    for n in 1..=calls {
        for code in [2, 700, 999] {
            let outcome = run(Standin::new().fail(&format!("{n}:{code}"))).expect("here");
            let report = outcome.clean_report();
            assert_eq!(report.injected.len(), 1, "{report:#?}");
            // Errors of clean-ups have nobody to hear them.
            let cleaned = ["Free", "Destroy", "Release", "cuCtxSetCurrent"];
            let heard = !cleaned.iter().any(|c| report.injected[0].contains(c));
            assert!(!heard || outcome.stdout.contains("ended false"), "{report:#?}");
        }
    }
    // The device is lost from some call on.
    for n in (1..=calls).step_by(3) {
        let outcome = run(Standin::new().fail(&format!("{n}+:719"))).expect("here");
        outcome.clean_report();
    }
}
