//! The stand-in itself: that it does what the driver does, and notices what it is there to notice.

use tobiuo_gpu::{Context, DeviceBuffer, Launch, Module, Stream};
use tobiuo_kernels::random::{GENERATORS, POISON, Random};
use tobiuo_kernels::{Argument, ENTRY, Layer, Target};
use tobiuo_nvrtc::Nvrtc;
use tobiuo_standin::Standin;

fn orin() -> Target {
    Target::of_sm(87).expect("it is known")
}

/// Runs a layer's first candidate, captured or not, and gives its outputs' bytes, and those of
/// the reference.
fn run_layer(
    layer: &Layer,
    random: &mut Random,
    captured: bool,
) -> Result<[Vec<Vec<u8>>; 2], Box<dyn std::error::Error>> {
    let context = Context::new(0)?;
    let stream = Stream::new(&context)?;
    let candidate = layer.candidates(&orin()).into_iter().next().ok_or("no candidate")?;
    let code = Nvrtc::open()?.compile("kernel.cu", &candidate.source, 87, false)?;
    let function = Module::load(&context, &code.cubin)?.function(ENTRY)?;
    if candidate.shared > 0 {
        function.prepare(candidate.shared)?;
    }
    let memory = layer.random_memory(random);
    let upload = |bytes: &[u8]| -> Result<DeviceBuffer, tobiuo_gpu::GpuError> {
        let buffer = DeviceBuffer::new(&context, bytes.len())?;
        buffer.write(0, bytes, &stream)?;
        Ok(buffer)
    };
    let all = |list: &[Vec<u8>]| list.iter().map(|b| upload(b)).collect::<Result<Vec<_>, _>>();
    let (inputs, constants) = (all(&memory.inputs)?, all(&memory.constants)?);
    let sizes = layer.extents().outputs;
    let outputs =
        sizes.iter().map(|&len| upload(&vec![POISON; len])).collect::<Result<Vec<_>, _>>()?;
    let scratch = DeviceBuffer::new(&context, candidate.scratch)?;
    scratch.fill(0, candidate.zeroed, 0, &stream)?;
    let arguments: Vec<u64> = candidate
        .arguments
        .iter()
        .map(|a| match *a {
            Argument::Input(k) => inputs[k].address(),
            Argument::Output(k) => outputs[k].address(),
            Argument::Constant(k) => constants[k].address(),
            Argument::Scratch(at) => scratch.address() + at as u64,
            _ => 0,
        })
        .collect();
    let launch = Launch {
        grid: candidate.grid,
        block: [candidate.block, 1, 1],
        shared: candidate.shared,
        dependent: false,
    };
    let go = || {
        // SAFETY: the arguments are what the candidate says, in buffers of the extents' sizes,
        // alive until the stream is waited for.
        unsafe { function.launch(&launch, &arguments, &stream) }
    };
    if captured {
        stream.capture(go)?.launch(&stream)?;
    } else {
        go()?;
    }
    let mut got = Vec::new();
    for (buffer, &len) in outputs.iter().zip(&sizes) {
        let mut bytes = vec![0; len];
        buffer.read(0, &mut bytes, &stream)?;
        got.push(bytes);
    }
    let mut want: Vec<Vec<u8>> = sizes.iter().map(|&len| vec![POISON; len]).collect();
    let extents = layer.extents();
    let i: Vec<&[u8]> = of(&memory.inputs, &extents.inputs);
    let c: Vec<&[u8]> = of(&memory.constants, &extents.constants);
    layer.reference(&i, &c, &mut want);
    Ok([got, want])
}

/// The bytes of each operand that a kernel touches.
fn of<'a>(list: &'a [Vec<u8>], extents: &[usize]) -> Vec<&'a [u8]> {
    list.iter().zip(extents).map(|(bytes, &len)| &bytes[..len]).collect()
}

#[test]
fn every_family_runs_as_its_reference() {
    let outcome = Standin::new().test("every_family_runs_as_its_reference", || {
        let mut random = Random::new(7);
        for (name, generate) in GENERATORS {
            let layer = generate(&mut random);
            for captured in [false, true] {
                let [got, want] = run_layer(&layer, &mut random, captured).expect(name);
                assert!(got == want, "{name}");
                assert!(!got.is_empty() && got.iter().all(|b| !b.is_empty()), "{name}");
            }
        }
    });
    if let Some(outcome) = outcome {
        let report = outcome.clean_report();
        assert_eq!(report.kernels, 2 * GENERATORS.len() as u64);
        assert_eq!(report.functions["cuMemAlloc_v2"], report.functions["cuMemFree_v2"]);
    }
}
