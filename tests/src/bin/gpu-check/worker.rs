//! Checking one layer after another, in a process of its own: a kernel that faults takes its
//! process's context along, and no other's.

use std::io::{BufRead, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tobiuo_gpu::{Context, GpuErrorKind};
use tobiuo_kernels::random::{Memory, POISON, Random};
use tobiuo_kernels::{Candidate, Extents, Layer, Target};
use tobiuo_nvrtc::Nvrtc;

use crate::compare::Expected;
use crate::device::{Bench, Code, Trouble};
use crate::unit::{Goal, Unit};

/// What a worker says, one line of JSON each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A candidate is about to be compiled and run.
    Start { goal: usize, candidate: usize, label: String },
    /// It is right; its worst relative error.
    Passed { error: f64 },
    /// It is not. After a fault the worker ends.
    Failed { why: String, fault: bool },
    /// The layer itself cannot be checked, or its inputs were written.
    Broken { why: String },
    /// All candidates have been run.
    Done { reference: f64, compile: f64, run: f64 },
}

/// A layer's expected results.
pub struct Reference {
    pub memory: Memory,
    pub extents: Extents,
    pub expected: Vec<Expected>,
}

impl Reference {
    /// Makes random memory and runs the layer's plain loops over it.
    pub fn new(layer: &Layer, seed: u64) -> Result<Reference, String> {
        let extents = layer.extents();
        let memory = layer.random_memory(&mut Random::new(seed));
        let lengths = |m: &[Vec<u8>]| m.iter().map(Vec::len).collect::<Vec<_>>();
        if lengths(&memory.inputs) != extents.inputs
            || lengths(&memory.constants) != extents.constants
            || memory.outputs.len() != extents.outputs.len()
        {
            return Err(format!(
                "random memory of {:?} and {:?} bytes for {} outputs does not have the layer's extents {extents:?}",
                lengths(&memory.inputs),
                lengths(&memory.constants),
                memory.outputs.len()
            ));
        }
        let inputs: Vec<&[u8]> = memory.inputs.iter().map(Vec::as_slice).collect();
        let constants: Vec<&[u8]> = memory.constants.iter().map(Vec::as_slice).collect();
        let over = |byte: u8| {
            let mut outputs: Vec<Vec<u8>> =
                extents.outputs.iter().map(|&len| vec![byte; len]).collect();
            layer.reference(&inputs, &constants, &mut outputs);
            outputs
        };
        let outputs = over(POISON);
        let floats = memory.outputs.iter().all(|d| d.is_float());
        let complement = if floats { None } else { Some(over(!POISON)) };
        let mut expected = Vec::new();
        for (i, (bytes, &dtype)) in outputs.into_iter().zip(&memory.outputs).enumerate() {
            let other = complement.as_ref().filter(|_| !dtype.is_float());
            let e = Expected::new(dtype, bytes, other.map(|c| c[i].as_slice()));
            if e.elements() == 0 {
                return Err(format!("the reference writes nothing into output {i}"));
            }
            if e.has_nan() {
                return Err(format!("the reference's output {i} has NaN in it"));
            }
            expected.push(e);
        }
        Ok(Reference { memory, extents, expected })
    }
}

/// Compiles a candidate.
pub fn compile(
    nvrtc: &Nvrtc,
    goal: Goal,
    target: &Target,
    candidate: &Candidate,
) -> Result<Code, String> {
    match goal {
        Goal::Native => nvrtc
            .compile("kernel.cu", &candidate.source, target.sm, candidate.specific)
            .map(|c| Code::Cubin(c.cubin)),
        Goal::Ptx(sm) => nvrtc.compile_ptx("kernel.cu", &candidate.source, sm).map(Code::Ptx),
    }
    .map_err(|e| e.to_string())
}

/// Checks units as they come in on stdin until it ends or the device is lost.
pub fn serve(device: usize) -> Result<(), Box<dyn std::error::Error>> {
    let context = Context::new(device)?;
    let nvrtc = Nvrtc::open()?;
    let mut out = std::io::stdout().lock();
    let mut emit = |event: Event| {
        serde_json::to_writer(&mut out, &event)?;
        out.write_all(b"\n")?;
        out.flush()
    };
    for line in std::io::stdin().lock().lines() {
        let unit: Unit = serde_json::from_str(&line?)?;
        if !check(&context, &nvrtc, &unit, &mut emit)? {
            break;
        }
    }
    Ok(())
}

/// Checks one layer; false after a fault.
fn check(
    context: &Context,
    nvrtc: &Nvrtc,
    unit: &Unit,
    emit: &mut dyn FnMut(Event) -> std::io::Result<()>,
) -> std::io::Result<bool> {
    let begun = Instant::now();
    let reference = match Reference::new(&unit.layer, unit.seed) {
        Ok(reference) => reference,
        Err(why) => {
            emit(Event::Broken { why })?;
            emit(Event::Done { reference: 0.0, compile: 0.0, run: 0.0 })?;
            return Ok(true);
        }
    };
    let reference_seconds = begun.elapsed().as_secs_f64();
    let (mut compile_seconds, mut run_seconds) = (0.0, 0.0);
    let Reference { memory, extents, expected } = &reference;
    let bench = match Bench::new(context, memory, &extents.outputs, true) {
        Ok(bench) => bench,
        Err(e) => {
            emit(Event::Broken { why: e.to_string() })?;
            if e.kind() == GpuErrorKind::ContextLost {
                return Ok(false);
            }
            emit(Event::Done { reference: reference_seconds, compile: 0.0, run: 0.0 })?;
            return Ok(true);
        }
    };
    for (g, &goal) in unit.goals.iter().enumerate().skip(unit.begin.0) {
        let target = goal.target(context.device());
        let first = if g == unit.begin.0 { unit.begin.1 } else { 0 };
        for (number, candidate) in unit.candidates(&target) {
            if number < first {
                continue;
            }
            let label = candidate.label.clone();
            emit(Event::Start { goal: g, candidate: number, label })?;
            let begun = Instant::now();
            let code = compile(nvrtc, goal, &target, &candidate);
            compile_seconds += begun.elapsed().as_secs_f64();
            let code = match code {
                Ok(code) => code,
                Err(why) => {
                    emit(Event::Failed { why, fault: false })?;
                    continue;
                }
            };
            let begun = Instant::now();
            let result = bench.check(&candidate, &code, &target, expected, memory.tolerance);
            run_seconds += begun.elapsed().as_secs_f64();
            match result {
                Ok(error) => emit(Event::Passed { error })?,
                Err(Trouble::Wrong(why)) => emit(Event::Failed { why, fault: false })?,
                Err(Trouble::Gpu(e)) => {
                    let fault = e.kind() == GpuErrorKind::ContextLost;
                    emit(Event::Failed { why: e.to_string(), fault })?;
                    if fault {
                        return Ok(false);
                    }
                }
            }
        }
    }
    match bench.unchanged(memory) {
        Ok(()) => {}
        Err(Trouble::Wrong(why)) => emit(Event::Broken { why })?,
        Err(Trouble::Gpu(e)) => {
            emit(Event::Broken { why: e.to_string() })?;
            if e.kind() == GpuErrorKind::ContextLost {
                return Ok(false);
            }
        }
    }
    emit(Event::Done { reference: reference_seconds, compile: compile_seconds, run: run_seconds })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobiuo_kernels::random::GENERATORS;

    /// What is compared on a GPU must itself be sound: memory as long as the extents, every
    /// element a number, candidates to run.
    #[test]
    fn random_layers_of_every_family_have_a_reference() {
        let target = Target {
            sm: 87,
            sm_count: 8,
            shared_per_block: 163 << 10,
            shared_per_sm: 164 << 10,
            l2_bytes: 4 << 20,
            clock_ghz: 0.918,
            bandwidth_gbs: 102.0,
        };
        for (name, make) in GENERATORS {
            let mut random = Random::new(7);
            let mut checked = 0;
            while checked < 4 {
                let layer = make(&mut random);
                // Integers' generators also make float layers that store integers.
                let family = layer.family();
                assert!(family == *name || name.strip_suffix("_i8") == Some(family), "{family}");
                assert!(!layer.candidates(&target).is_empty(), "{layer:?}");
                let extents = layer.extents();
                let bytes: usize = extents.inputs.iter().chain(&extents.outputs).sum();
                if bytes > 50_000 {
                    continue;
                }
                if let Err(why) = Reference::new(&layer, checked) {
                    panic!("{layer:?}: {why}");
                }
                checked += 1;
            }
        }
    }
}
