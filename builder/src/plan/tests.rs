use std::sync::Arc;

use proptest::prelude::*;
use tobiuo_engine::*;
use tobiuo_ops::{Activation, Binary, Op, Slice};
use tobiuo_tensor::{DType, Tensor, TensorViewMut, ViewDataMut};

use super::arena::{Interval, pack};
use super::weights::Weights;
use super::{PlanReport, plan};
use crate::graph::{Graph, ValueId};
use crate::passes::{PassOptions, optimise};
use crate::testing::*;

/// A graph planned, written as an engine, read back and run.
fn through_engine(graph: &Graph, inputs: &[Tensor]) -> (Vec<Tensor>, Plan, PlanReport) {
    let port = |name: &str, v: ValueId| Port {
        name: name.into(),
        dtype: graph.fact(v).dtype,
        shape: graph.shape(v).to_vec(),
    };
    let mut weights = Weights::new();
    let (plan, report) = plan(graph.clone(), 1, &mut weights).unwrap();
    let manifest = Manifest {
        builder: "test".into(),
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Fp32,
        provenance: Provenance::default(),
        inputs: graph.inputs.iter().map(|&v| port(&graph.value(v).name, v)).collect(),
        outputs: graph.outputs.iter().map(|(n, v)| port(n, *v)).collect(),
        task: Task::Tensors,
        preprocess: None,
        labels: vec![],
        plans: vec![plan.clone()],
    };
    let mut section = vec![0; weights.size() as usize];
    for (at, tensor) in weights.parts() {
        let bytes = tensor.data().bytes();
        section[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let file = encode(&manifest, &section).unwrap_or_else(|e| panic!("{e}\n{plan:#?}"));
    let engine = Arc::new(EngineFile::from_bytes(&file).unwrap());
    let mut executor = crate::device::executor(&engine, 0).unwrap();
    // What earlier runs left in the arena must not matter, so the second run counts.
    for pass in 0..2 {
        for (i, input) in inputs.iter().enumerate() {
            let TensorViewMut { data: ViewDataMut::F32(to), .. } = executor.input_mut(i) else {
                panic!("inputs are f32")
            };
            if pass == 0 {
                to.fill(f32::NAN);
            } else {
                to.copy_from_slice(input.as_f32().unwrap());
            }
        }
        executor.run();
    }
    let outputs = (0..graph.outputs.len()).map(|i| executor.output(i).to_tensor()).collect();
    (outputs, plan, report)
}

/// Checks that the planned graph computes what the graph does.
fn check(graph: &Graph) -> (Plan, PlanReport) {
    let inputs = random_inputs(graph, &mut Noise::new(5));
    let (got, plan, report) = through_engine(graph, &inputs);
    let d = distance(&run(graph, &inputs), &got);
    assert!(d <= 1e-5, "relative L2 {d:e}: {report:?}");
    (plan, report)
}

fn step_names(plan: &Plan) -> Vec<&'static str> {
    let Program::Cpu(steps) = &plan.program else { panic!() };
    steps.iter().map(|s| s.op.name()).collect()
}

fn act(g: &mut Graph, a: Activation, x: ValueId) -> ValueId {
    g.push1("act", Op::Activation(a), &[x]).unwrap()
}

fn slice(g: &mut Graph, x: ValueId, start: usize, len: usize) -> ValueId {
    let mut lens = g.shape(x).to_vec();
    let mut starts = vec![0; lens.len()];
    (starts[1], lens[1]) = (start, len);
    let steps = vec![1; lens.len()];
    g.push1("slice", Op::Slice(Slice { starts, steps, lens }), &[x]).unwrap()
}

fn concat(g: &mut Graph, parts: &[ValueId]) -> ValueId {
    g.push1("concat", Op::Concat { axis: 1 }, parts).unwrap()
}

fn with_output(mut g: Graph, y: ValueId) -> Graph {
    g.outputs.push(("y".into(), y));
    g
}

#[test]
fn concatenation_is_free_at_batch_1() {
    let mut rng = Noise::new(1);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, a, 4, conv_op(3, 1, 1, 1));
    let ab = concat(&mut g, &[a, b]);
    let abc = concat(&mut g, &[ab, a, x]);
    let y = act(&mut g, Activation::Tanh, abc);
    let (plan, report) = check(&with_output(g, y));
    assert_eq!(report.free_concats, 2);
    assert_eq!(report.copies, 2, "a second use and an input are copied");
    assert!(!step_names(&plan).contains(&"Concat"));
}

#[test]
fn concatenation_at_batch_2_is_a_step() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![2, 4, 8, 8]);
    let a = act(&mut g, Activation::Relu, x);
    let b = act(&mut g, Activation::Tanh, x);
    let y = concat(&mut g, &[a, b]);
    let (plan, report) = check(&with_output(g, y));
    assert_eq!((report.free_concats, report.copies), (0, 0));
    assert!(step_names(&plan).contains(&"Concat"));
}

/// The block of current YOLO models: a convolution's halves and what follows from one of
/// them, concatenated. All of it is written where it is read.
#[test]
fn split_and_concatenate_again_copies_nothing() {
    let mut rng = Noise::new(2);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let all = conv(&mut g, &mut rng, x, 8, conv_op(1, 1, 0, 1));
    let (a, b) = (slice(&mut g, all, 0, 4), slice(&mut g, all, 4, 4));
    let c = conv(&mut g, &mut rng, b, 4, conv_op(3, 1, 1, 1));
    let abc = concat(&mut g, &[a, b, c]);
    let y = conv(&mut g, &mut rng, abc, 4, conv_op(1, 1, 0, 1));
    let (plan, report) = check(&with_output(g, y));
    assert_eq!(step_names(&plan), ["Conv", "Conv", "Conv"]);
    assert_eq!((report.views, report.free_concats, report.copies), (2, 1, 0));
}

#[test]
fn halves_the_wrong_way_round_are_copied() {
    let mut rng = Noise::new(2);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let all = conv(&mut g, &mut rng, x, 8, conv_op(1, 1, 0, 1));
    let (a, b) = (slice(&mut g, all, 0, 4), slice(&mut g, all, 4, 4));
    let y = concat(&mut g, &[b, a]);
    let (_, report) = check(&with_output(g, y));
    assert_eq!(report.free_concats, 0);
}

#[test]
fn unaligned_parts_are_no_views() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 3, 3]);
    let a = act(&mut g, Activation::Relu, x);
    let (b, c) = (slice(&mut g, a, 1, 2), slice(&mut g, a, 0, 3));
    let y = concat(&mut g, &[b, c]);
    let (plan, report) = check(&with_output(g, y));
    assert_eq!((report.views, report.free_concats), (1, 0));
    assert_eq!(step_names(&plan), ["Relu", "Slice", "Concat"]);
}

#[test]
fn chains_run_in_place_but_not_over_what_is_needed() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let a = act(&mut g, Activation::Tanh, x);
    let b = act(&mut g, Activation::Sigmoid, a);
    let c = act(&mut g, Activation::Relu, b);
    let d = g.push1("add", binary(Binary::Add), &[a, c]).unwrap();
    let e = act(&mut g, Activation::Tanh, d);
    let y = act(&mut g, Activation::Erf, e);
    let (_, report) = check(&with_output(g, y));
    // b -> c, a (or c) -> d, d -> e, e -> y.
    assert_eq!(report.in_place, 4);
    assert_eq!(report.arena, report.arena_lower_bound);
}

#[test]
fn a_residual_is_added_where_it_lies() {
    let mut rng = Noise::new(4);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, a, 4, conv_op(3, 1, 1, 1));
    let c = g.push1("add", binary(Binary::Add), &[a, b]).unwrap();
    let d = conv(&mut g, &mut rng, c, 4, conv_op(3, 1, 1, 1));
    let g = with_output(g, d);
    let (g, _) = optimise(g, &PassOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(g.nodes.len(), 3);
    // The residual `a` is also what the convolution reads: not in place.
    assert_eq!(check(&g).1.in_place, 0);

    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let a = conv(&mut g, &mut rng, x, 4, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, a, 4, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, b, 4, conv_op(3, 1, 1, 1));
    let c = g.push1("add", binary(Binary::Add), &[a, b]).unwrap();
    let d = conv(&mut g, &mut rng, c, 4, conv_op(3, 1, 1, 1));
    let (g, _) = optimise(with_output(g, d), &PassOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(check(&g).1.in_place, 1);
}

#[test]
fn odd_outputs_get_tensors_of_their_own() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 4, 8, 8]);
    let k = g.add_constant("k", Tensor::f32([3], vec![1.0, 2.0, 3.0]));
    let y = act(&mut g, Activation::Relu, x);
    let r = g.push1("flat", Op::Reshape { shape: vec![1, 256] }, &[y]).unwrap();
    for (name, v) in [("x again", x), ("k", k), ("y", y), ("y again", y), ("flat", r)] {
        g.outputs.push((name.into(), v));
    }
    let (plan, _) = check(&g);
    let mut ranges: Vec<_> = plan
        .outputs
        .iter()
        .chain(&plan.inputs)
        .map(|&t| match plan.tensors[t as usize].place {
            Place::Arena(at) => at,
            _ => panic!("outputs are in the arena"),
        })
        .collect();
    ranges.sort();
    ranges.dedup();
    assert_eq!(ranges.len(), 6);
}

#[test]
fn equal_constants_are_stored_once() {
    let mut w = Weights::new();
    let a = Arc::new(Tensor::f32([3], vec![1.0, 2.0, 3.0]));
    let b = Arc::new(Tensor::f32([3, 1], vec![1.0, 2.0, 3.0]));
    let c = Arc::new(Tensor::f32([1], vec![1.0]));
    assert_eq!((w.add(&a), w.add(&b), w.add(&c)), (0, 0, 64));
    assert_eq!(w.size(), 128);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn packing_never_overlaps(
        list in prop::collection::vec((0u64..40, 0usize..30, 0usize..12), 0..40)
    ) {
        let intervals: Vec<Interval> = list
            .iter()
            .map(|&(s, first, len)| Interval { size: s * 64, first, last: first + len })
            .collect();
        let p = pack(&intervals);
        prop_assert!(p.size >= p.lower_bound);
        for (i, a) in intervals.iter().enumerate() {
            prop_assert!(p.offsets[i].is_multiple_of(64) && p.offsets[i] + a.size <= p.size);
            for (j, b) in intervals.iter().enumerate().take(i) {
                let in_time = a.first <= b.last && b.first <= a.last;
                let in_space = p.offsets[i] < p.offsets[j] + b.size
                    && p.offsets[j] < p.offsets[i] + a.size;
                prop_assert!(!(in_time && in_space), "{a:?} and {b:?}");
            }
        }
        let busiest = (0..50)
            .map(|t| {
                let live = intervals.iter().filter(|i| i.first <= t && t <= i.last);
                live.map(|i| i.size).sum::<u64>()
            })
            .max();
        prop_assert_eq!(Some(p.lower_bound), busiest);
        prop_assert!(p.size as f64 <= p.lower_bound as f64 * 1.35 + 64.0, "{p:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random networks, with and without passes, give through arena and executor what their
    /// ops give one by one.
    #[test]
    fn plans_compute_what_graphs_do(
        choices in prop::collection::vec(any::<u32>(), 1..30),
        batch in 1usize..3,
        seed in 1u64..1000,
        passes in any::<bool>(),
    ) {
        let graph = random_network(&choices, batch, seed);
        let options = PassOptions { until: None, with: vec!["merge-siblings".into()] };
        let planned = if passes {
            optimise(graph.clone(), &options, &mut |_| ()).unwrap().0
        } else {
            graph.clone()
        };
        let inputs = random_inputs(&graph, &mut Noise::new(seed));
        let (got, _, report) = through_engine(&planned, &inputs);
        let d = distance(&run(&graph, &inputs), &got);
        prop_assert!(d <= 1e-5, "relative L2 {d:e}: {report:?}");
    }
}
