//! Layers found and joined: the network computes what it did.

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

    /// Lowers; joins the layers of these names; both must give the same bits.
    fn joined(mut self, outputs: &[ValueId], wanted: &[&[&str]]) -> (Lowering, Lowering) {
        for (i, &y) in outputs.iter().enumerate() {
            self.graph.outputs.push((format!("y{i}"), y));
        }
        let graph = &self.graph;
        let plain = lower(graph, Precision::Fp16).unwrap();
        let names: Vec<Names> = named(wanted);
        let joined = join_named(&plain, &names).expect("can be joined");
        let given: Vec<Tensor> =
            graph.inputs.iter().map(|&x| self.noise.tensor(graph.shape(x))).collect();
        let given: Vec<&Tensor> = given.iter().collect();
        let run = |l: &Lowering| interpret::tensors(graph, l, &given).unwrap();
        assert!(run(&plain) == run(&joined), "other bits");
        let fewer: usize = wanted.iter().map(|n| n.len() - 1).sum();
        assert_eq!(joined.layers.len() + fewer, plain.layers.len());
        (plain, joined)
    }
}

fn named(names: &[&[&str]]) -> Vec<Names> {
    names.iter().map(|n| n.iter().map(|n| n.to_string()).collect()).collect()
}

fn net() -> Net {
    Net { graph: Graph::new(), noise: Noise::new(5) }
}

fn kept(lowering: &Lowering) -> Vec<bool> {
    let keep = |l: &Lowered| match &l.layer {
        Layer::ConvPair(pair) => Some(pair.keep),
        Layer::ConvChain(chain) => Some(chain.keep),
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
    let (plain, joined) = n.joined(&[e], &[&["b", "c"], &["d", "e"]]);
    let found: Vec<Names> = possible(&plain).iter().map(|j| names(&plain, j)).collect();
    assert_eq!(found, named(&[&["a", "b"], &["a", "b", "c"], &["b", "c"], &["d", "e"]]));
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
fn three_are_one_with_a_residual_that_is_made_behind_the_first() {
    let mut n = net();
    let x = n.graph.add_input("x", DType::F32, vec![2, 16, 7, 5]);
    let a = n.conv("a", x, 32, 3, 2);
    let shortcut = n.conv("shortcut", x, 64, 1, 2);
    let b = n.conv("b", a, 64, 1, 1);
    let sum = n
        .graph
        .push1("s", Op::Binary { kind: Binary::Add, activation: None }, &[b, shortcut])
        .unwrap();
    // The sum's own reader stands between the second and the third.
    let d = n.conv("d", sum, 16, 3, 1);
    let c = n.conv("c", sum, 32, 1, 1);
    let e = n.conv("e", c, 32, 3, 1);
    let f = n.conv("f", e, 32, 1, 1);
    let g = n.conv("g", f, 8, 1, 1);
    // A chain's last stores pixels; who makes an output stores that.
    let h = n.conv("h", g, 8, 3, 1);
    let (plain, joined) = n.joined(&[d, h], &[&["a", "b", "c"], &["e", "f", "g"]]);
    assert_eq!(kept(&joined), [true, false]);
    let first = joined.layers.iter().find(|l| l.name == "a + b + c").unwrap();
    assert_eq!((first.operands.len(), first.outputs.len(), first.constants.len()), (2, 2, 6));
    let found = possible(&plain);
    let three: Vec<Names> =
        (found.iter().filter(|j| j.members.len() == 3)).map(|j| names(&plain, j)).collect();
    assert_eq!(three, named(&[&["a", "b", "c"], &["e", "f", "g"]]));
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
    let (plain, joined) = n.joined(&[all, d, b], &[&["a", "b"], &["c", "d"]]);
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
    let twice = named(&[&["a", "d"], &["a", "b"]]);
    assert!(join_named(&lowering, &twice).is_none());
    // f32 has kernels of its own.
    assert_eq!(possible(&lower(&n.graph, Precision::Fp32).unwrap()), []);
}
