//! Command lists on the stand-in driver: what they check, what they keep alive, what they do.

use std::path::Path;
use std::sync::Arc;

use tobiuo_gpu::{
    CommandList, Context, DeviceBuffer, DeviceSlice, Event, Function, GpuError, GpuErrorKind,
    KernelArgument, Launch, Module, PinnedBuffer, Stream, device, devices,
};
use tobiuo_kernels::{ENTRY, Layer, PermuteLayer, Target};
use tobiuo_nvrtc::Nvrtc;
use tobiuo_standin::{Description, Device, Standin};
use tobiuo_tensor::DType;

/// A kernel that copies so many bytes.
fn copy(context: &Context, bytes: usize) -> (Function, Launch) {
    let layer = Layer::Permute(PermuteLayer {
        from: DType::U8,
        to: DType::U8,
        dims: vec![bytes],
        x_offset: 0,
        x_strides: vec![1],
        y_strides: vec![1],
        valid: None,
    });
    let target = Target::of_sm(87).unwrap();
    let candidate = layer.candidates(&target).remove(0);
    let compiler = std::env::var_os("TOBIUO_NVRTC").expect("within the stand-in");
    let nvrtc = Nvrtc::open_file(Path::new(&compiler)).unwrap();
    let code = nvrtc.compile("kernel.cu", &candidate.source, 87, false).unwrap();
    let function = Module::load(context, &code.cubin).unwrap().function(ENTRY).unwrap();
    let launch = Launch {
        grid: candidate.grid,
        block: [candidate.block, 1, 1],
        shared: candidate.shared,
        dependent: false,
    };
    (function, launch)
}

fn read(slice: &DeviceSlice, stream: &Stream) -> Vec<u8> {
    let mut bytes = vec![0; slice.len()];
    slice.read(&mut bytes, stream).unwrap();
    bytes
}

#[test]
fn lists_do_what_they_say_queued_and_captured() {
    let name = "lists_do_what_they_say_queued_and_captured";
    let outcome = Standin::new().test(name, || {
        let context = Context::new(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let (function, launch) = copy(&context, 64);
        let begin = Arc::new(Event::timed(&context).unwrap());
        let end = Arc::new(Event::timed(&context).unwrap());
        for captured in [false, true] {
            let mut list = CommandList::new(&context).unwrap();
            let from = list.pin(PinnedBuffer::new(&context, 100).unwrap());
            let to = list.pin(PinnedBuffer::new(&context, 300).unwrap());
            {
                // The list keeps what it uses: these are dropped before it runs.
                let buffer = DeviceBuffer::new(&context, 256).unwrap();
                let [a, b, c, d] = [0, 64, 128, 192].map(|at| buffer.slice(at..at + 64));
                list.record(&begin).unwrap();
                list.upload(from, 36, &a).unwrap();
                let arguments = [&a, &b].map(|s| KernelArgument::Memory(s.clone()));
                let first = list.launch(&function, launch, &arguments, 0, &[]).unwrap();
                // A branch, from mapped memory.
                let arguments = [
                    KernelArgument::Pinned { buffer: from, offset: 0, bytes: 64 },
                    KernelArgument::Memory(c.clone()),
                ];
                list.launch(&function, launch, &arguments, 1, &[first]).unwrap();
                list.fill(&d, 7).unwrap();
                list.join().unwrap();
                list.copy(&c.part(0..32).unwrap(), &d.part(16..48).unwrap()).unwrap();
                list.download(&buffer.whole(), to, 44).unwrap();
                list.record(&end).unwrap();
            }
            assert_eq!(list.last(), Some(list.len() - 1));
            let fill = |round: u8| -> Vec<u8> { (0..100).map(|i| i as u8 ^ round).collect() };
            let want = |x: &[u8]| {
                let mut d = [7; 64];
                d[16..48].copy_from_slice(&x[..32]);
                [&x[36..], &x[36..], &x[..64], &d[..]].concat()
            };
            if captured {
                let mut graph = list.capture().unwrap();
                graph.upload(&stream).unwrap();
                for round in 0..3 {
                    graph.bytes_mut(from).copy_from_slice(&fill(round));
                    graph.launch(&stream).unwrap();
                    assert_eq!(graph.bytes(to)[44..], want(&fill(round)));
                    assert!(graph.is_done().unwrap());
                    assert!(begin.microseconds_to(&end).unwrap() > 0.0);
                }
            } else {
                for round in 0..3 {
                    list.bytes_mut(from).copy_from_slice(&fill(round));
                    list.enqueue(&stream).unwrap();
                    assert_eq!(list.bytes(to)[44..], want(&fill(round)));
                    assert!(list.is_done().unwrap());
                }
                list.clear().unwrap();
                assert!(list.is_empty() && list.bytes(to).len() == 300);
            }
        }
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn mapped_uploads_read_the_host_once() {
    let outcome = Standin::new().test("mapped_uploads_read_the_host_once", || {
        let context = Context::new(0).unwrap();
        let stream = Stream::new(&context).unwrap();
        let buffer = DeviceBuffer::new(&context, 40).unwrap();
        let mut list = CommandList::new(&context).unwrap();
        let host = list.pin(PinnedBuffer::new(&context, 50).unwrap());
        list.upload_mapped(host, 10, &buffer.whole()).unwrap();
        // Copies of nothing are none.
        list.upload(host, 50, &buffer.slice(40..40)).unwrap();
        list.fill(&buffer.slice(3..3), 1).unwrap();
        list.bytes_mut(host).iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        list.enqueue(&stream).unwrap();
        assert_eq!(read(&buffer.whole(), &stream), (10..50).collect::<Vec<u8>>());
        let mut graph = list.capture().unwrap();
        graph.bytes_mut(host).fill(9);
        graph.launch(&stream).unwrap();
        graph.wait().unwrap();
        assert_eq!(read(&buffer.whole(), &stream), [9; 40]);
    });
    if let Some(outcome) = outcome {
        let report = outcome.clean_report();
        assert!(!report.functions.contains_key("cuMemcpyHtoDAsync_v2"), "{report:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let two = Description {
        devices: vec![Device::default(), Device::default()],
        ..Description::default()
    };
    let outcome = Standin::new().with(&two).test("what_does_not_fit_is_refused", || {
        let context = Context::new(0).unwrap();
        let other = Context::new(1).unwrap();
        let (function, launch) = copy(&context, 8);
        let buffer = DeviceBuffer::new(&context, 64).unwrap();
        let abroad = DeviceBuffer::new(&other, 64).unwrap();
        let mut list = CommandList::new(&context).unwrap();
        let host = list.pin(PinnedBuffer::new(&context, 32).unwrap());
        let refused = |made: Result<usize, GpuError>, says: &str| {
            let e = made.expect_err(says);
            assert!(e.kind() == GpuErrorKind::Driver && e.to_string().contains(says), "{e}");
        };
        refused(list.upload(host, 1, &buffer.slice(0..32)), "32 bytes at 1");
        refused(list.upload(host, usize::MAX, &buffer.slice(0..32)), "pinned buffer of 32");
        refused(list.upload_mapped(host, 32, &buffer.slice(0..1)), "1 bytes at 32");
        refused(list.download(&buffer.whole(), host, 0), "64 bytes at 0");
        refused(list.copy(&buffer.slice(0..3), &buffer.slice(8..12)), "a copy of 3 bytes to 4");
        refused(list.copy(&buffer.whole(), &abroad.whole()), "memory of CUDA device 1");
        refused(list.fill(&abroad.whole(), 0), "in work for device 0");
        let memory = |b: &DeviceBuffer| KernelArgument::Memory(b.whole());
        refused(list.launch(&function, launch, &[memory(&abroad)], 0, &[]), "CUDA device 1");
        let many = vec![KernelArgument::Null; 17];
        refused(list.launch(&function, launch, &many, 0, &[]), "17 arguments");
        let far = KernelArgument::Pinned { buffer: host, offset: 30, bytes: 4 };
        refused(list.launch(&function, launch, &[far], 0, &[]), "4 bytes at 30");
        refused(list.launch(&function, launch, &[memory(&buffer)], 0, &[0]), "after command 0");
        let mut there = CommandList::new(&other).unwrap();
        refused(there.launch(&function, launch, &[memory(&abroad)], 0, &[]), "another device");
        refused(there.upload(host, 0, &abroad.slice(0..1)), "no such pinned buffer");
        assert!(list.is_empty() && there.is_empty(), "nothing of it was added");
        assert!(buffer.whole().part(60..65).is_none());
        assert!(std::panic::catch_unwind(|| buffer.slice(60..65)).is_err());
    });
    if let Some(outcome) = outcome {
        outcome.clean_report();
    }
}

#[test]
fn devices_are_listed_and_missing_ones_said() {
    let two = Description {
        devices: vec![
            Device::default(),
            Device { name: "Second".into(), sm: 72, integrated: false, ..Device::default() },
        ],
        ..Description::default()
    };
    let outcome =
        Standin::new().with(&two).test("devices_are_listed_and_missing_ones_said", || {
            let all = devices().unwrap();
            assert_eq!(all.len(), 2);
            assert_eq!(
                (&all[1].name[..], all[1].compute, all[1].integrated),
                ("Second", (7, 2), false)
            );
            assert_eq!(device(1).unwrap(), all[1]);
            let e = device(2).unwrap_err();
            assert_eq!(e.kind(), GpuErrorKind::NoDevice);
            assert!(e.to_string().contains("devices 0 to 1"), "{e}");
            assert_eq!(Context::new(7).err().unwrap().kind(), GpuErrorKind::NoDevice);
            let (free, total) = Context::new(0).unwrap().memory().unwrap();
            assert!(free <= total && total > 0);
            let context = Context::new(0).unwrap();
            let e = Module::load(&context, b"no code").err().unwrap();
            assert_eq!(e.kind(), GpuErrorKind::BadCode, "{e}");
        });
    if let Some(outcome) = outcome {
        // Looking at devices makes no context on them.
        assert_eq!(outcome.clean_report().functions["cuDevicePrimaryCtxRetain"], 2);
    }
}
