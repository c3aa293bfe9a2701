use proptest::prelude::*;
use tobiuo_engine::{CudaArgument, CudaProgram, Plan, Program};
use tobiuo_kernels::{Argument, Candidate, Layer, PermuteLayer};
use tobiuo_nvrtc::Compiled;
use tobiuo_tensor::DType;

use super::*;
use crate::cuda::layout::touched_by;
use crate::cuda::lower::{Buffer, Lowered, Operand, lower};
use crate::cuda::schedule::Slot;
use crate::cuda::view::{BufferId, dense};
use crate::passes::{PassOptions, optimise};
use crate::testing::random_network;

fn target() -> Target {
    Target::of_sm(90).unwrap()
}

/// A tactic whose code is a name, not a program.
fn tactic(candidate: Candidate, code: &[u8]) -> Tactic {
    let code = Compiled {
        cubin: code.to_vec(),
        registers: 0,
        spill_bytes: 0,
        shared_bytes: 0,
        log: String::new(),
    };
    Tactic {
        candidate,
        code,
        time_us: Some(1.5),
        runners_up: vec![("other".into(), 2.0)],
        finalists: vec![],
        distinct: 0,
    }
}

fn tactics(lowering: &Lowering) -> Vec<Tactic> {
    (lowering.layers.iter())
        .map(|l| {
            let best = l.layer.candidates(&target()).into_iter().next().unwrap();
            let code = blake3::hash(best.source.as_bytes());
            tactic(best, code.as_bytes())
        })
        .collect()
}

fn program(plan: &Plan) -> &CudaProgram {
    match &plan.program {
        Program::Cuda(p) => p,
        other => panic!("{other:?}"),
    }
}

/// Every relocation lies in its region.
fn inside(a: &Assembled, sections: &Sections) {
    let plan = &a.plan;
    let p = program(plan);
    let size = |t: u32| {
        let t = &plan.tensors[t as usize];
        (t.shape.iter().product::<usize>() * t.dtype.size()) as u64
    };
    for launch in &p.launches {
        let module = p.modules[launch.module as usize];
        assert!(module.offset + module.bytes <= sections.code.bytes().len() as u64);
        for argument in &launch.arguments {
            let (end, region) = match *argument {
                CudaArgument::Arena { offset, bytes } => (offset + bytes, plan.arena),
                CudaArgument::Weights { offset, bytes } => {
                    (offset + bytes, sections.weights.bytes().len() as u64)
                }
                CudaArgument::Scratch { offset, bytes } => (offset + bytes, p.scratch),
                CudaArgument::Input { index, offset, bytes } => {
                    (offset + bytes, size(plan.inputs[index as usize]))
                }
                CudaArgument::Output { index, offset, bytes } => {
                    (offset + bytes, size(plan.outputs[index as usize]))
                }
                CudaArgument::Null => (0, 0),
            };
            assert!(end <= region, "{}: {argument:?} in {region}", launch.name);
        }
    }
    assert!(p.zeroed <= p.scratch);
}

/// before[i][j]: launch j has surely ended when i starts.
fn order(schedule: &Schedule) -> Vec<Vec<bool>> {
    let n = schedule.slots.len();
    let mut before = vec![vec![false; n]; n];
    for (i, slot) in schedule.slots.iter().enumerate() {
        for (j, earlier) in schedule.slots[..i].iter().enumerate() {
            before[i][j] = slot.after.contains(&j) || earlier.stream == slot.stream;
        }
    }
    for k in 0..n {
        for i in 0..n {
            for j in 0..n {
                before[i][j] |= before[i][k] && before[k][j];
            }
        }
    }
    before
}

/// No two buffers that share bytes are in use at once, tickets are no one else's, and partial
/// sums are never those of a launch that may run at the same time.
fn apart(a: &Assembled, lowering: &Lowering, schedule: &Schedule) {
    let before = order(schedule);
    let one_after_other =
        |x: &[usize], y: &[usize]| x.iter().all(|&i| y.iter().all(|&j| before[j][i]));
    let touched = touched_by(lowering);
    for b in 0..lowering.buffers.len() {
        for c in 0..b {
            let (Home::Arena { offset: x }, Home::Arena { offset: y }) = (a.homes[b], a.homes[c])
            else {
                continue;
            };
            let (m, n) = (lowering.buffers[b].bytes as u64, lowering.buffers[c].bytes as u64);
            let share = x < y + n && y < x + m && !touched[b].is_empty() && !touched[c].is_empty();
            let apart = one_after_other(&touched[b], &touched[c])
                || one_after_other(&touched[c], &touched[b]);
            assert!(!share || apart, "buffers {b} and {c}");
        }
    }
    let p = program(&a.plan);
    let ranges: Vec<(usize, u64, u64)> = (p.launches.iter().enumerate())
        .flat_map(|(i, l)| l.arguments.iter().map(move |a| (i, a)))
        .filter_map(|(i, a)| match *a {
            CudaArgument::Scratch { offset, bytes } => Some((i, offset, offset + bytes)),
            _ => None,
        })
        .collect();
    for &(i, from, to) in &ranges {
        for &(j, other_from, other_to) in ranges.iter().filter(|r| r.0 < i) {
            if from < other_to && other_from < to {
                assert!(from >= p.zeroed && before[i][j], "scratch of launches {j} and {i}");
            }
        }
    }
}

fn view(buffer: usize, elements: usize) -> View {
    View {
        buffer: BufferId(buffer),
        dtype: DType::F32,
        offset: 0,
        shape: vec![elements],
        strides: dense(&[elements]),
        channels_stored: 0,
    }
}

/// A lowering of copies between buffers: for each layer what it reads, what it writes, its
/// stream, and one launch it waits for. Buffer 0 is the input, the last one the output.
fn made_up(
    sizes: &[usize],
    layers: &[(usize, usize, usize, usize)],
) -> (Lowering, Vec<Tactic>, Schedule) {
    let last = sizes.len() - 1;
    let mut l = Lowering {
        buffers: (sizes.iter().enumerate())
            .map(|(i, s)| Buffer { bytes: s * 4, pinned: i == 0 || i == last })
            .collect(),
        inputs: vec![view(0, sizes[0])],
        outputs: vec![view(last, sizes[last])],
        constants: vec![vec![1; 40], vec![2; 40], vec![1; 40]],
        ..Lowering::default()
    };
    let mut schedule = Schedule { streams: 3, ..Schedule::serial(layers.len()) };
    let mut tactics = Vec::new();
    for (i, &(from, to, stream, waits)) in layers.iter().enumerate() {
        let (from, to) = (from % sizes.len(), to % sizes.len());
        let layer = Layer::Permute(PermuteLayer {
            from: DType::F32,
            to: DType::F32,
            dims: vec![1],
            x_strides: vec![1],
            x_offset: 0,
            y_strides: vec![1],
            valid: None,
        });
        let mut candidate = layer.candidates(&target()).remove(0);
        candidate.arguments.push(Argument::Scratch(0));
        candidate.zeroed = 256 * (waits % 2);
        candidate.scratch = candidate.zeroed + 100 * i;
        candidate.arguments.push(Argument::Scratch(candidate.zeroed));
        tactics.push(tactic(candidate, &[waits as u8]));
        l.layers.push(Lowered {
            name: format!("layer {i}"),
            op: "Copy",
            layer,
            operands: vec![Operand::View(view(from, sizes[from]))],
            outputs: vec![view(to, sizes[to])],
            constants: vec![],
            flops: 0,
        });
        let after = if i > 0 && waits % 3 != 0 { vec![waits % i] } else { vec![] };
        schedule.slots[i] = Slot { stream, after };
    }
    (l, tactics, schedule)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever runs beside whatever, memory in use is never shared.
    #[test]
    fn parallel_launches_never_share_memory_in_use(
        sizes in prop::collection::vec(1usize..400, 2..12),
        layers in prop::collection::vec((0usize..12, 0usize..12, 0usize..3, 0usize..64), 1..24),
    ) {
        let (l, tactics, schedule) = made_up(&sizes, &layers);
        let mut graph = Graph::new();
        let x = graph.add_input("x", DType::F32, vec![sizes[0]]);
        graph.outputs.push(("y".into(), x));
        for keep in [false, true] {
            let mut sections = Sections::default();
            let parts = Parts {
                graph: &graph,
                batch: 1,
                lowering: &l,
                tactics: &tactics,
                schedule: &schedule,
                target: &target(),
                keep,
            };
            let a = assemble(&parts, &mut sections).unwrap();
            inside(&a, &sections);
            apart(&a, &l, &schedule);
            prop_assert_eq!(sections.weights.parts(), 2);
            if keep {
                prop_assert_eq!(a.memory.arena, a.memory.arena_unshared);
            }
            for launch in &program(&a.plan).launches {
                prop_assert!(!launch.dependent || launch.after.is_empty());
            }
        }
    }

    /// Random networks, with and without a second plan: one place for each constant.
    #[test]
    fn networks_lie_in_their_regions(
        choices in prop::collection::vec(any::<u32>(), 1..20),
        seed in 1u64..1000,
    ) {
        let mut sections = Sections::default();
        let mut parts_of_first = None;
        for batch in [1, 2] {
            let graph = random_network(&choices, batch, seed);
            let (graph, _) = optimise(graph, &PassOptions::default(), &mut |_| ()).unwrap();
            // Networks with operators that have no kernel are for other tests.
            let Ok(l) = lower(&graph, tobiuo_engine::Precision::Fp16) else { return Ok(()) };
            let (tactics, schedule) = (tactics(&l), Schedule::serial(l.layers.len()));
            let parts = Parts {
                graph: &graph,
                batch,
                lowering: &l,
                tactics: &tactics,
                schedule: &schedule,
                target: &target(),
                keep: false,
            };
            let a = assemble(&parts, &mut sections).unwrap();
            inside(&a, &sections);
            apart(&a, &l, &schedule);
            prop_assert_eq!(a.plan.inputs.len(), graph.inputs.len());
            for (t, (name, v)) in a.plan.outputs.iter().zip(&graph.outputs) {
                let t = &a.plan.tensors[*t as usize];
                prop_assert_eq!((&t.name, &t.shape[..]), (name, graph.shape(*v)));
            }
            parts_of_first.get_or_insert(sections.weights.parts());
        }
        prop_assert_eq!(parts_of_first, Some(sections.weights.parts()));
    }
}

#[test]
fn what_is_too_far_is_an_error() {
    let (mut l, tactics, schedule) = made_up(&[8, 8], &[(0, 1, 0, 1)]);
    l.layers[0].outputs[0].offset = 9;
    let mut graph = Graph::new();
    graph.add_input("x", DType::F32, vec![8]);
    let parts = Parts {
        graph: &graph,
        batch: 1,
        lowering: &l,
        tactics: &tactics,
        schedule: &schedule,
        target: &target(),
        keep: false,
    };
    let error = assemble(&parts, &mut Sections::default()).unwrap_err();
    assert_eq!(error.layer, "layer 0");
    assert!(error.what.contains("element 9"), "{error}");
}
