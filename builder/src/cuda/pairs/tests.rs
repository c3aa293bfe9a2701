//! Pairs found and joined: the network computes what it did.

use tobiuo_engine::Precision;
use tobiuo_ops::{Activation, Binary, Conv, Op};
use tobiuo_tensor::{DType, Tensor};

use super::*;
use crate::cuda::interpret;
use crate::cuda::lower::lower;
use crate::graph::{Graph, ValueId};
use crate::testing::Noise;

struct Net {
    graph: Graph,
    noise: Noise,
}

impl Net {
    fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        filters: usize,
        kernel: usize,
        stride: usize,
    ) -> ValueId {
        let channels = self.graph.shape(x)[1];
        let w = self.noise.tensor(&[filters, channels, kernel, kernel]);
        let w = self.graph.add_constant(&format!("{name}.w"), w);
        let b = self.noise.tensor(&[filters]);
        let b = self.graph.add_constant(&format!("{name}.b"), b);
        let op = Op::Conv(Conv {
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            pads: vec![kernel / 2; 4],
            dilations: vec![1; 2],
            groups: 1,
            activation: Some(Activation::Relu),
            residual: false,
        });
        self.graph.push1(name, op, &[x, w, b]).unwrap()
    }

    /// Lowers; joins the pairs of these names; both must give the same bits.
    fn joined(mut self, outputs: &[ValueId], wanted: &[[&str; 2]]) -> (Lowering, Lowering) {
        for (i, &y) in outputs.iter().enumerate() {
            self.graph.outputs.push((format!("y{i}"), y));
        }
        let graph = &self.graph;
        let plain = lower(graph, Precision::Fp16).unwrap();
        let names: Vec<Names> = wanted.iter().map(|n| n.map(String::from)).collect();
        let joined = join_named(&plain, &names).expect("can be joined");
        let given: Vec<Tensor> =
            graph.inputs.iter().map(|&x| self.noise.tensor(graph.shape(x))).collect();
        let given: Vec<&Tensor> = given.iter().collect();
        let run = |l: &Lowering| interpret::tensors(graph, l, &given).unwrap();
        assert!(run(&plain) == run(&joined), "other bits");
        assert_eq!(joined.layers.len() + wanted.len(), plain.layers.len());
        (plain, joined)
    }
}

fn net() -> Net {
    Net { graph: Graph::new(), noise: Noise::new(5) }
}

fn kept(lowering: &Lowering) -> Vec<bool> {
    let keep = |l: &Lowered| match &l.layer {
        Layer::ConvPair(pair) => Some(pair.keep),
        _ => None,
    };
    lowering.layers.iter().filter_map(keep).collect()
}

#[test]
fn what_lies_between_is_stored_where_others_read_it() {
    let mut n = net();
    let x = n.graph.add_input("x", DType::F32, vec![2, 16, 6, 5]);
    let a = n.conv("a", x, 24, 3, 2);
    let b = n.conv("b", a, 40, 1, 1);
    let c = n.conv("c", b, 16, 1, 1);
    // A residual: b is read again, a only by b.
    let d = n.conv("d", c, 40, 3, 1);
    let sum =
        n.graph.push1("s", Op::Binary { kind: Binary::Add, activation: None }, &[d, b]).unwrap();
    let e = n.conv("e", sum, 8, 1, 1);
    let (plain, joined) = n.joined(&[e], &[["b", "c"], ["d", "e"]]);
    let pairs = possible(&plain);
    let found: Vec<Names> = pairs.iter().map(|p| names(&plain, p)).collect();
    assert_eq!(found, [["a", "b"], ["b", "c"], ["d", "e"]].map(|n| n.map(String::from)));
    assert_eq!(kept(&joined), [true, false]);
    let first = &joined.layers.iter().find(|l| l.name == "b + c").unwrap();
    assert_eq!(first.outputs.len(), 2);
    assert_eq!(
        first.flops,
        plain
            .layers
            .iter()
            .filter(|l| ["b", "c"].contains(&&*l.name))
            .map(|l| l.flops)
            .sum::<u64>()
    );
    // What is not stored is not to be compared either.
    for (_, view) in &joined.values {
        let touched = joined.layers.iter().flat_map(|l| &l.outputs);
        assert!(touched.chain(&joined.inputs).any(|v| v.buffer == view.buffer));
    }
}

#[test]
fn an_output_of_the_network_is_kept_and_parts_of_concatenations_are_read_and_written() {
    let mut n = net();
    let x = n.graph.add_input("x", DType::F32, vec![1, 8, 7, 7]);
    let a = n.conv("a", x, 16, 1, 1);
    let b = n.conv("b", a, 24, 1, 1);
    let c = n.conv("c", b, 16, 1, 1);
    let d = n.conv("d", c, 8, 1, 1);
    let all = n.graph.push1("all", Op::Concat { axis: 1 }, &[a, c]).unwrap();
    let (plain, joined) = n.joined(&[all, d, b], &[["a", "b"], ["c", "d"]]);
    assert_eq!(kept(&joined), [true, true]);
    assert_eq!(possible(&plain).len(), 3);
}

#[test]
fn what_cannot_be_joined_is_not() {
    let mut n = net();
    let x = n.graph.add_input("x", DType::F32, vec![1, 16, 8, 8]);
    let a = n.conv("a", x, 16, 1, 1);
    // A window, a stride, a residual of its own.
    let b = n.conv("b", a, 16, 3, 1);
    let c = n.conv("c", a, 16, 1, 2);
    let d = n.conv("d", a, 16, 1, 1);
    let sum =
        n.graph.push1("s", Op::Binary { kind: Binary::Add, activation: None }, &[d, b]).unwrap();
    for y in [b, c, sum] {
        n.graph.outputs.push(("y".into(), y));
    }
    let lowering = lower(&n.graph, Precision::Fp16).unwrap();
    assert_eq!(possible(&lowering), []);
    let twice = [["a", "d"], ["a", "b"]].map(|n| n.map(String::from));
    assert!(join_named(&lowering, &twice).is_none());
    // f32 has kernels of its own.
    assert_eq!(possible(&lower(&n.graph, Precision::Fp32).unwrap()), []);
}
