//! Plans from end to end: values, threads, sharing, and plans that break the rules.

mod common;
#[path = "common/plan.rs"]
mod plan;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use common::random;
use plan::{Maker, network};
use proptest::prelude::*;
use tobiuo_cpu::{CpuExecutor, CpuProgram, Threads, evaluate};
use tobiuo_engine::manifest::{Place, Plan, Program};
use tobiuo_ops::{Activation, Op};
use tobiuo_tensor::{Tensor, TensorView, ViewData, ViewDataMut};

fn threads(n: usize) -> Threads {
    Threads::with_count(NonZeroUsize::new(n).unwrap()).unwrap()
}

fn fill(executor: &mut CpuExecutor, seed: u64) {
    let ViewDataMut::F32(x) = executor.input_mut(0).data else { panic!("f32") };
    x.copy_from_slice(&random(x.len(), seed));
}

fn values(view: TensorView<'_>) -> Vec<f32> {
    let ViewData::F32(v) = view.data else { panic!("f32") };
    v.to_vec()
}

/// All steps' outputs, one op after the other on tensors of their own.
fn by_op(plan: &Plan, weights: &[u8], input: Tensor) -> Vec<Tensor> {
    let Program::Cpu(steps) = &plan.program else { panic!("a CPU program") };
    let mut known: Vec<Option<Tensor>> = plan
        .tensors
        .iter()
        .map(|t| match t.place {
            Place::Bound => panic!("a plan for the CPU"),
            Place::Weights(at) => {
                let bytes = t.shape.iter().product::<usize>() * 4;
                let part = &weights[at as usize..at as usize + bytes];
                let data = ViewData::from_bytes(t.dtype, part).unwrap();
                Some(TensorView { shape: &t.shape, data }.to_tensor())
            }
            Place::Arena(_) => None,
        })
        .collect();
    known[plan.inputs[0] as usize] = Some(input);
    let mut all = vec![];
    for step in steps {
        let inputs: Vec<&Tensor> =
            step.inputs.iter().map(|&t| known[t as usize].as_ref().unwrap()).collect();
        let out = evaluate(&step.op, &inputs).unwrap().remove(0);
        known[step.outputs[0] as usize] = Some(out.clone());
        all.push(out);
    }
    all
}

#[test]
fn a_plan_gives_what_its_ops_give() {
    let (plan, section) = network();
    let input = Tensor::f32([1, 3, 96, 96], random(3 * 96 * 96, 5));
    let want = by_op(&plan, (*section).as_ref(), input.clone());
    for n in [1, 2, 5] {
        let threads = threads(n);
        assert_eq!(threads.count(), n);
        let released: Mutex<Vec<Range<u64>>> = Mutex::default();
        let program = CpuProgram::new(plan.clone(), section.clone(), &threads, &|r| {
            released.lock().unwrap().push(r);
        })
        .unwrap();
        // Weights of convolutions (but depthwise ones) are packed, and so is MatMul's matrix.
        assert_eq!(released.into_inner().unwrap().len(), 5);
        let mut executor = CpuExecutor::new(program, &threads).unwrap();
        for _ in 0..3 {
            fill(&mut executor, 5);
            let mut seen = 0;
            executor.run_with(&mut |i, step, outputs| {
                assert_eq!(i, seen);
                seen += 1;
                let want = want[i].as_f32().unwrap();
                for (a, b) in values(outputs[0]).iter().zip(want) {
                    let near = (a - b).abs() <= 1e-5 * (1.0 + b.abs());
                    assert!(near, "{n} threads, step {i} {}: {a}, not {b}", step.name);
                }
            });
            assert_eq!(seen, want.len());
            let stepwise = [0, 1].map(|i| values(executor.output(i)));
            fill(&mut executor, 5);
            executor.run();
            assert_eq!(stepwise, [0, 1].map(|i| values(executor.output(i))));
            assert_eq!(executor.layer_times().len(), want.len());
            assert!(executor.layer_times()[0] > std::time::Duration::ZERO);
        }
    }
}

#[test]
fn executors_of_one_program_are_independent() {
    let (plan, section) = network();
    let shared = threads(2);
    let program = CpuProgram::new(plan, section, &shared, &|_| ()).unwrap();
    let run = |threads: &Threads, seed: u64| {
        let mut executor = CpuExecutor::new(program.clone(), threads).unwrap();
        (0..4)
            .map(|i| {
                fill(&mut executor, seed + i);
                executor.run();
                values(executor.output(0))
            })
            .collect::<Vec<_>>()
    };
    let alone = [10, 20, 30].map(|seed| run(&shared, seed));
    std::thread::scope(|scope| {
        // Two on the same threads, one on its own: of another number, which the splits
        // were not made for.
        let own = threads(3);
        let handles = [(10, shared.clone()), (20, shared.clone()), (30, own)]
            .map(|(seed, t)| scope.spawn(move || run(&t, seed)));
        for (handle, alone) in handles.into_iter().zip(&alone) {
            assert_eq!(&handle.join().unwrap(), alone);
        }
    });
}

fn refused(plan: Plan, section: Arc<plan::Section>) -> String {
    match CpuProgram::new(plan, section, &threads(1), &|_| ()) {
        Ok(_) => panic!("the plan is accepted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn rules_are_checked() {
    let (good, section) = network();
    let broken = |change: &dyn Fn(&mut Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        refused(plan, section.clone())
    };
    let arena = |plan: &mut Plan, t: usize, at: u64| plan.tensors[t].place = Place::Arena(at);
    assert!(broken(&|p| arena(p, 0, u64::MAX - 63)).contains("inside the arena"));
    assert!(broken(&|p| arena(p, 0, 4)).contains("aligned"));
    assert!(broken(&|p| p.arena -= 64).contains("inside the arena"));
    assert!(broken(&|p| p.tensors[0].shape = vec![usize::MAX, 2]).contains("tensor 0"));
    assert!(broken(&|p| p.inputs = vec![9999]).contains("there is no tensor 9999"));
    assert!(broken(&|p| p.inputs = vec![1]).contains("is a weight"));
    assert!(broken(&|p| p.tensors[3].shape[1] += 1).contains("step 0"));
    let step = |p: &mut Plan, f: &dyn Fn(&mut tobiuo_engine::manifest::Step)| {
        let Program::Cpu(steps) = &mut p.program else { panic!("a CPU program") };
        f(&mut steps[0]);
    };
    assert!(broken(&|p| step(p, &|s| s.inputs[0] = 1 << 30)).contains("step 0 's0' (Conv)"));
    assert!(broken(&|p| step(p, &|s| s.outputs = vec![1])).contains("step 0"));
    // A convolution cannot run in its input's place.
    let at = good.tensors[3].place;
    assert!(broken(&|p| p.tensors[0].place = at).contains("overlaps"));
}

#[test]
fn only_element_wise_ops_run_in_place() {
    let make = |op: Op, shift: u64| {
        let mut m = Maker::default();
        let x = m.tensor(&[1, 4, 8, 8]);
        m.tensor(&[64]);
        let y = m.tensor_at(&[1, 4, 8, 8], Place::Arena(shift));
        m.step_into(op, &[x], y);
        m.finish(&[x], &[y])
    };
    let relu = Op::Activation(Activation::Relu);
    let (plan, section) = make(relu.clone(), 0);
    let threads = threads(1);
    let program = CpuProgram::new(plan, section, &threads, &|_| ()).unwrap();
    let mut executor = CpuExecutor::new(program, &threads).unwrap();
    fill(&mut executor, 3);
    executor.run();
    let want: Vec<f32> = random(256, 3).iter().map(|v| v.max(0.0)).collect();
    assert_eq!(values(executor.output(0)), want);
    let (plan, section) = make(relu, 64);
    assert!(refused(plan, section).contains("overlaps"));
    let (plan, section) = make(Op::Transpose { perm: vec![0, 1, 3, 2] }, 0);
    assert!(refused(plan, section).contains("overlaps"));
}

#[test]
fn memory_that_no_machine_has_is_an_error() {
    let mut m = Maker::default();
    let x = m.tensor(&[1, 4]);
    let (mut plan, section) = m.finish(&[x], &[x]);
    plan.arena = 1 << 62;
    let threads = threads(1);
    let program = CpuProgram::new(plan, section, &threads, &|_| ()).unwrap();
    let error = CpuExecutor::new(program, &threads).err().unwrap().to_string();
    assert!(error.contains("out of memory"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever the numbers in a plan, it is refused or runs.
    #[test]
    fn mutated_plans_do_no_harm(
        changes in prop::collection::vec((any::<u32>(), 0..6u8, any::<u64>()), 1..4),
    ) {
        let (mut plan, section) = network();
        for (which, kind, value) in changes {
            let t = which as usize % plan.tensors.len();
            let size = plan.tensors.len() as u64 + 2;
            let Program::Cpu(steps) = &mut plan.program else { panic!("a CPU program") };
            let s = which as usize % steps.len();
            match kind {
                0 => plan.tensors[t].place = Place::Arena(value % (plan.arena / 64) * 64),
                1 => plan.tensors[t].place = Place::Weights(value % 4096 * 64),
                2 => {
                    let axis = value as usize % plan.tensors[t].shape.len();
                    plan.tensors[t].shape[axis] = value as usize / 7 % 200;
                }
                3 => {
                    let i = value as usize % steps[s].inputs.len();
                    steps[s].inputs[i] = (value / 7 % size) as u32;
                }
                4 => steps[s].outputs[0] = (value % size) as u32,
                _ => {
                    let op = steps[value as usize % steps.len()].op.clone();
                    steps[s].op = op;
                }
            }
        }
        let threads = threads(1);
        if let Ok(program) = CpuProgram::new(plan, section, &threads, &|_| ()) {
            CpuExecutor::new(program, &threads).unwrap().run();
        }
    }
}
