use std::collections::BTreeMap;

use proptest::prelude::*;
use tobiuo_ops::{Activation, Op};
use tobiuo_tensor::{DType, Tensor, npy};

use super::calibrators::Calibrator;
use super::clock::OnCpu;
use super::insert::{Range, Ranges};
use super::{Decision, How, Int8Options, Network, apply, decide, select};
use crate::BuildError;
use crate::graph::{Graph, ValueId};
use crate::interpret;
use crate::passes::{PassOptions, optimise};
use crate::testing::*;

/// The ranges of one random input.
fn ranges(graph: &Graph, inputs: &[tobiuo_tensor::Tensor]) -> Ranges {
    let names: Vec<String> = graph.inputs.iter().map(|&v| graph.value(v).name.clone()).collect();
    let named: Vec<_> = names.iter().map(String::as_str).zip(inputs).collect();
    let mut out = Ranges::new();
    interpret::each(graph, &named, &mut |v, t| {
        let values = t.as_f32().unwrap_or_default();
        let clip = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let low = values.iter().fold(0.0f32, |m, x| m.min(*x));
        out.insert(graph.value(v).name.clone(), Range { clip, low });
    })
    .unwrap();
    out
}

/// A graph with one picture input `[1, 8, 8, 8]` and what `make` puts behind it.
fn network(make: impl FnOnce(&mut Graph, &mut Noise, ValueId) -> ValueId) -> Graph {
    let mut rng = Noise::new(3);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![1, 8, 8, 8]);
    let y = make(&mut g, &mut rng, x);
    g.outputs.push(("y".into(), y));
    g
}

/// Calibrates on ten random samples; `plain` is what is calibrated.
fn calibrated(plain: &Graph, graph: &Graph) -> Result<Decision, BuildError> {
    let folder = tempfile::tempdir().unwrap();
    let samples = folder.path().join("x.npy");
    let mut shape = plain.shape(plain.inputs[0]).to_vec();
    shape[0] = 10;
    npy::write(&samples, &Noise::new(9).tensor(&shape)).unwrap();
    let options = Int8Options {
        calibration: Some(samples),
        calibrator: Some(Calibrator::MinMax),
        ..Int8Options::default()
    };
    let network = Network { graph, plain, gpu: None };
    let how = How { clock: &mut OnCpu, recorded: None };
    decide(&network, &options, "0123456789abcdef", how, &mut (), 1.0)
}

fn activated(g: &mut Graph, name: &str, x: ValueId, a: Activation) -> ValueId {
    g.push1(name, Op::Activation(a), &[x]).unwrap()
}

#[test]
fn activations_that_overflow_name_their_layer() {
    let g = network(|g, rng, x| {
        let a = conv(g, rng, x, 8, conv_op(3, 1, 1, 1));
        let huge = g.add_constant("w", Tensor::f32([8, 8, 1, 1], vec![3e38; 64]));
        let zero = g.add_constant("b", Tensor::f32([8], vec![0.0; 8]));
        g.push1("overflows", conv_op(1, 1, 0, 1), &[a, huge, zero]).unwrap()
    });
    let e = calibrated(&g, &g).unwrap_err();
    let said = e.to_string();
    assert!(e.exit_status() == 6 && said.contains("'overflows'"), "{said}");
    assert!(said.contains("NaN or infinite") && said.contains("sample"), "{said}");
}

#[test]
fn weights_that_are_no_numbers_name_their_layer() {
    let g = network(|g, rng, x| {
        let mut w = vec![0.5; 64];
        w[5] = f32::NAN;
        let w = g.add_constant("w", Tensor::f32([8, 8, 1, 1], w));
        let zero = g.add_constant("b", Tensor::f32([8], vec![0.0; 8]));
        let a = g.push1("broken", conv_op(1, 1, 0, 1), &[x, w, zero]).unwrap();
        conv(g, rng, a, 8, conv_op(3, 1, 1, 1))
    });
    let e = calibrated(&g, &g).unwrap_err();
    assert!(e.exit_status() == 6 && e.to_string().contains("'broken'"), "{e}");
}

#[test]
fn dead_layers_and_constant_channels_are_noted_and_harmless() {
    let g = network(|g, rng, x| {
        let live = conv(g, rng, x, 8, conv_op(3, 1, 1, 1));
        let w = g.add_constant("w", Tensor::f32([8, 8, 1, 1], vec![-1.0; 64]));
        let b = g.add_constant("b", Tensor::f32([8], vec![-1000.0; 8]));
        let off = g.push1("off", conv_op(1, 1, 0, 1), &[live, w, b]).unwrap();
        let dead = activated(g, "dead", off, Activation::Relu);
        let mut w = rng.tensor(&[8, 8, 1, 1]).as_f32().unwrap().to_vec();
        w[..16].fill(0.0);
        let w = g.add_constant("w", Tensor::f32([8, 8, 1, 1], w));
        let b = g.add_constant("b", Tensor::f32([8], vec![0.25; 8]));
        let constant = g.push1("constant", conv_op(1, 1, 0, 1), &[live, w, b]).unwrap();
        let sum = g.push1("sum", binary(tobiuo_ops::Binary::Add), &[dead, constant]).unwrap();
        conv(g, rng, sum, 8, conv_op(3, 1, 1, 1))
    });
    let g = optimised(&g);
    let decision = calibrated(&g, &g).unwrap();
    let notes = decision.report.notes.join("\n");
    assert!(notes.contains("was 0 in all samples"), "{notes}");
    assert!(notes.contains("2 of 8 filters are all zeros"), "{notes}");
    let integers = apply(&g, &decision.ranges, &decision.floats).unwrap();
    let inputs = random_inputs(&g, &mut Noise::new(5));
    let d = distance(&run(&g, &inputs), &run(&integers, &inputs));
    assert!(d < 0.05, "{d}");
}

/// A layer that is dead, and with it all behind it, is named.
#[test]
fn a_dead_network_names_its_first_dead_layer() {
    let g = network(|g, rng, x| {
        let w = g.add_constant("w", Tensor::f32([8, 8, 1, 1], vec![-1.0; 64]));
        let b = g.add_constant("b", Tensor::f32([8], vec![-1000.0; 8]));
        let off = g.push1("off", conv_op(1, 1, 0, 1), &[x, w, b]).unwrap();
        let mut v = activated(g, "dead", off, Activation::Relu);
        for i in 0..3 {
            let w = g.add_constant("w", rng.tensor(&[8, 8, 1, 1]));
            let b = g.add_constant("b", Tensor::f32([8], vec![0.0; 8]));
            v = g.push1(&format!("behind{i}"), conv_op(1, 1, 0, 1), &[v, w, b]).unwrap();
        }
        v
    });
    let g = optimised(&g);
    let e = calibrated(&g, &g).unwrap_err();
    let said = e.to_string();
    assert!(e.exit_status() == 6 && said.contains("layer 'off"), "{said}");
}

/// Outputs of which nothing is left make no engine, whatever calibrator was asked for.
#[test]
fn outputs_that_are_lost_make_no_engine() {
    let g = network(|g, rng, x| {
        let x = conv(g, rng, x, 8, conv_op(3, 1, 1, 1));
        let x = conv(g, rng, x, 8, conv_op(3, 1, 1, 1));
        // The difference of two large numbers: rounding is all that is left of it.
        let w = g.add_constant("w", rng.tensor(&[8, 8, 1, 1]));
        let b = g.add_constant("b", Tensor::f32([8], vec![1e5; 8]));
        let large = g.push1("large", conv_op(1, 1, 0, 1), &[x, w, b]).unwrap();
        let mut eye = vec![0.0; 64];
        (0..8).for_each(|i| eye[i * 9] = 1.0);
        let w = g.add_constant("w", Tensor::f32([8, 8, 1, 1], eye));
        let b = g.add_constant("b", Tensor::f32([8], vec![-1e5; 8]));
        let back = g.push1("back", conv_op(1, 1, 0, 1), &[large, w, b]).unwrap();
        conv(g, rng, back, 8, conv_op(1, 1, 0, 1))
    });
    let e = calibrated(&g, &g).unwrap_err();
    assert!(e.exit_status() == 7 && e.to_string().contains("nothing of them is left"), "{e}");
}

/// One calibration serves a graph whose siblings were merged for a GPU.
#[test]
fn merged_siblings_take_the_ranges_of_their_parts() {
    let g = network(|g, rng, x| {
        let x = conv(g, rng, x, 8, conv_op(3, 1, 1, 1));
        let a = conv(g, rng, x, 8, conv_op(1, 1, 0, 1));
        let a = activated(g, "a", a, Activation::Silu);
        let b = conv(g, rng, x, 8, conv_op(1, 1, 0, 1));
        let b = activated(g, "b", b, Activation::Silu);
        let a = conv(g, rng, a, 8, conv_op(3, 1, 1, 1));
        let b = conv(g, rng, b, 8, conv_op(3, 1, 1, 1));
        g.push1("sum", binary(tobiuo_ops::Binary::Add), &[a, b]).unwrap()
    });
    let plain = optimised(&g);
    let options = PassOptions { with: vec!["merge-siblings".into()], ..PassOptions::default() };
    let merged = optimise(g, &options, &mut |_| ()).unwrap().0;
    let convolutions = |g: &Graph| g.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_))).count();
    assert_eq!((convolutions(&plain), convolutions(&merged)), (5, 4));
    let decision = calibrated(&plain, &merged).unwrap();
    assert_eq!(decision.ranges, calibrated(&plain, &plain).unwrap().ranges);
    let all: Vec<bool> = decision.report.layers.iter().map(|l| l.int8).collect();
    assert_eq!(all, [true; 4], "{:?}", decision.report.layers);
    let integers = apply(&merged, &decision.ranges, &decision.floats).unwrap();
    let floats = integers.nodes.iter().any(|n| matches!(n.op, Op::Conv(_)));
    assert!(!floats, "{:?}", integers.nodes);
    let inputs = random_inputs(&plain, &mut Noise::new(5));
    let d = distance(&run(&plain, &inputs), &run(&integers, &inputs));
    assert!(d < 0.05, "{d}");
}

fn optimised(graph: &Graph) -> Graph {
    optimise(graph.clone(), &PassOptions::default(), &mut |_| ()).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random networks on integers are near what they are in floats, through the arena too, and
    /// putting all layers back gives the floats again.
    #[test]
    fn integers_are_near_floats(
        choices in prop::collection::vec(any::<u32>(), 1..20),
        seed in 1u64..1000,
    ) {
        let graph = optimised(&random_network(&choices, 1, seed));
        let inputs = random_inputs(&graph, &mut Noise::new(seed));
        let ranges = ranges(&graph, &inputs);
        let wanted = run(&graph, &inputs);
        prop_assume!(wanted.iter().all(|t| t.to_f64().iter().all(|v| v.is_finite())));
        let integers = apply(&graph, &ranges, &BTreeMap::new()).unwrap();
        let got = run(&integers, &inputs);
        let d = distance(&wanted, &got);
        prop_assert!(d < 0.25, "relative L2 {d}: {:?}", integers.nodes);
        let mut runner = super::runner::Runner::new(&integers).unwrap();
        let planned = runner.run(&inputs).unwrap();
        prop_assert_eq!(distance(&got, &planned), 0.0, "the planned graph gives other bits");
        let all = graph.nodes.iter().map(|n| (n.name.clone(), String::new())).collect();
        let floats = apply(&graph, &ranges, &all).unwrap();
        prop_assert!(distance(&wanted, &run(&floats, &inputs)) < 1e-6);
    }
}

#[test]
fn cheap_ends_stay_floats_and_dear_ones_do_not() {
    let mut rng = Noise::new(1);
    let mut g = Graph::new();
    let x = g.add_input("x", tobiuo_tensor::DType::F32, vec![1, 1, 16, 16]);
    let mut v = conv(&mut g, &mut rng, x, 16, conv_op(1, 1, 0, 1));
    for _ in 0..3 {
        v = conv(&mut g, &mut rng, v, 16, conv_op(3, 1, 1, 1));
    }
    let y = conv(&mut g, &mut rng, v, 1, conv_op(1, 1, 0, 1));
    g.outputs.push(("y".into(), y));
    let ends: Vec<usize> = select::ends(&g).into_iter().map(|(i, _)| i).collect();
    assert_eq!(ends, [0, 4]);
    let mut rng = Noise::new(1);
    let mut g = Graph::new();
    let x = g.add_input("x", tobiuo_tensor::DType::F32, vec![1, 16, 16, 16]);
    let a = conv(&mut g, &mut rng, x, 16, conv_op(3, 1, 1, 1));
    let b = conv(&mut g, &mut rng, a, 16, conv_op(3, 1, 1, 1));
    let y = conv(&mut g, &mut rng, b, 16, conv_op(3, 1, 1, 1));
    g.outputs.push(("y".into(), y));
    assert!(select::ends(&g).is_empty());
    let n = apply(&g, &ranges(&g, &random_inputs(&g, &mut rng)), &BTreeMap::new()).unwrap();
    let integers = n.nodes.iter().filter(|n| matches!(n.op, Op::QuantConv(_))).count();
    assert_eq!(integers, 3);
}
