use std::collections::BTreeMap;

use proptest::prelude::*;
use tobiuo_ops::Op;

use super::insert::{Range, Ranges};
use super::{apply, select};
use crate::graph::Graph;
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
        let positive = values.iter().all(|x| *x >= 0.0);
        out.insert(graph.value(v).name.clone(), Range { clip, positive });
    })
    .unwrap();
    out
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
