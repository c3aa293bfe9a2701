//! Passes on small graphs, and all of them on random networks.

mod cleaning;
mod fusing;
mod patterns;

use proptest::prelude::*;
use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor};

use super::*;
use crate::graph::ValueId;
use crate::testing::*;

const TOLERANCE: f64 = 1e-5;

fn pass(name: &str) -> &'static Pass {
    PASSES.iter().find(|p| p.name == name).unwrap()
}

/// Runs one pass, and checks that the graph still computes the same.
fn apply(name: &str, graph: Graph) -> Graph {
    let mut rng = Noise::new(7);
    let inputs = random_inputs(&graph, &mut rng);
    graph.check().unwrap();
    let wanted = run(&graph, &inputs);
    let names: Vec<String> = graph.outputs.iter().map(|(n, _)| n.clone()).collect();
    let after = (pass(name).run)(graph).unwrap();
    after.check().unwrap();
    let got = run(&after, &inputs);
    let d = distance(&wanted, &got);
    assert!(d <= TOLERANCE, "{name}: relative L2 {d:e}");
    assert!(after.outputs.iter().map(|(n, _)| n).eq(&names));
    after
}

fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes.iter().map(|n| n.op.name()).collect()
}

fn input(g: &mut Graph, shape: &[usize]) -> ValueId {
    g.add_input("x", DType::F32, shape.to_vec())
}

fn output(mut g: Graph, v: ValueId) -> Graph {
    g.outputs.push(("y".into(), v));
    g
}

fn activation(g: &mut Graph, a: Activation, x: ValueId) -> ValueId {
    g.push1("act", Op::Activation(a), &[x]).unwrap()
}

fn bin(g: &mut Graph, kind: Binary, a: ValueId, b: ValueId) -> ValueId {
    g.push1("bin", binary(kind), &[a, b]).unwrap()
}

#[test]
fn unknown_passes_are_named() {
    let options = PassOptions { until: Some("nonsense".into()), with: vec![] };
    let e = optimise(Graph::new(), &options, &mut |_| ()).unwrap_err();
    assert!(e.to_string().contains("fold-constants"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every pass, alone and in its place in the list, keeps what random networks compute.
    #[test]
    fn random_networks_stay_the_same(
        choices in prop::collection::vec(any::<u32>(), 1..24),
        batch in 1usize..3,
        seed in 1u64..1000,
    ) {
        let graph = random_network(&choices, batch, seed);
        let mut rng = Noise::new(seed);
        let inputs = random_inputs(&graph, &mut rng);
        let wanted = run(&graph, &inputs);
        let mut staged = graph.clone();
        for pass in PASSES {
            for g in [graph.clone(), std::mem::take(&mut staged)] {
                let g = (pass.run)(g).unwrap();
                g.check().unwrap();
                let d = distance(&wanted, &run(&g, &inputs));
                prop_assert!(d <= TOLERANCE, "{}: relative L2 {d:e}", pass.name);
                staged = g;
            }
        }
    }
}
