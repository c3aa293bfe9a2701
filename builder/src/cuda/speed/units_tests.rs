use std::collections::{HashMap, HashSet};

use tobiuo_ops::*;

use super::*;
use crate::testing::Noise;

/// A 1x1 convolution of 8 channels.
fn conv(g: &mut Graph, rng: &mut Noise, name: &str, x: ValueId) -> ValueId {
    let w = rng.tensor(&[8, 8, 1, 1]);
    let w = g.add_constant(&format!("{name}.w"), w);
    let b = rng.tensor(&[8]);
    let b = g.add_constant(&format!("{name}.b"), b);
    let op = Op::Conv(Conv {
        kernel: vec![1, 1],
        strides: vec![1, 1],
        pads: vec![0; 4],
        dilations: vec![1, 1],
        groups: 1,
        residual: false,
        activation: None,
    });
    g.push(name, op, &[x, w, b], &[&format!("{name}.y")]).unwrap()[0]
}

fn add(g: &mut Graph, a: ValueId, b: ValueId) -> ValueId {
    g.push1("add", Op::Binary { kind: Binary::Add, activation: None }, &[a, b]).unwrap()
}

/// `first`, then a chain, and `last`, of which the ends are in floats in any case.
fn chain(between: &[&str]) -> Graph {
    let mut g = Graph::new();
    let mut rng = Noise::new(1);
    let mut x = g.add_input("x", DType::F32, vec![1, 8, 4, 4]);
    for name in [&["first"], between, &["last"]].concat() {
        x = conv(&mut g, &mut rng, name, x);
    }
    g.outputs = vec![("y".into(), x)];
    g
}

fn times(list: &[(&str, f64)]) -> Vec<(String, f64)> {
    list.iter().map(|(name, us)| (name.to_string(), *us)).collect()
}

fn selected(g: &Graph) -> HashSet<usize> {
    (0..g.nodes.len()).filter(|&i| !["first", "last"].contains(&&g.nodes[i].name[..])).collect()
}

/// Names of the nodes in floats that need not be there.
fn in_floats(
    g: &Graph,
    int8: &[(&str, f64)],
    float: &[(&str, f64)],
    conversion: f64,
) -> Vec<String> {
    let units = Units::new(g, &selected(g), &times(int8), &times(float));
    let side = units.in_floats(g, &|_| conversion);
    let free = |i: &usize| side[*i] && units.units[*i].free;
    let nodes = (0..side.len()).filter(free).flat_map(|i| &units.units[i].nodes);
    nodes.map(|&n| g.nodes[n].name.clone()).collect()
}

#[test]
fn a_chain_needs_no_conversions() {
    // Neighbours store what the next layer reads: each layer is where it is faster.
    let g = chain(&["a", "b", "c"]);
    let int8 = [("a", 2.0), ("b", 4.0), ("c", 2.0)];
    let float = [("a", 3.0), ("b", 3.9), ("c", 3.0)];
    assert_eq!(in_floats(&g, &int8, &float, 1.5), ["b"]);
    // What takes the same either way is on integers.
    assert!(in_floats(&g, &float, &float, 1.5).is_empty());
}

#[test]
fn a_tensor_that_is_wanted_both_ways_costs_a_conversion() {
    // `a` is read by `b` and, as an operand of `add`, again.
    let mut g = Graph::new();
    let mut rng = Noise::new(1);
    let x = g.add_input("x", DType::F32, vec![1, 8, 4, 4]);
    let first = conv(&mut g, &mut rng, "first", x);
    let a = conv(&mut g, &mut rng, "a", first);
    let b = conv(&mut g, &mut rng, "b", a);
    let sum = add(&mut g, a, b);
    let c = conv(&mut g, &mut rng, "c", sum);
    let last = conv(&mut g, &mut rng, "last", c);
    g.outputs = vec![("y".into(), last)];
    let int8 = [("a", 2.0), ("b + add", 4.0), ("c", 2.0)];
    let float = [("a", 2.5), ("b", 3.5), ("c", 3.0)];
    // The sum is where its convolution is.
    let units = Units::new(&g, &selected(&g), &times(&int8), &times(&float));
    let fused: HashMap<&str, usize> =
        g.nodes.iter().zip(&units.of_node).map(|(n, &u)| (n.name.as_str(), u)).collect();
    assert_eq!(fused["b"], fused["add"]);
    assert_eq!(in_floats(&g, &int8, &float, 1.5), ["b", "add"]);
    // With `b` in floats and `c` not there is nothing to convert; were `a` on integers for
    // something else too, there would be.
    let outside = |conversion: f64| {
        let mut g = g.clone();
        let d = conv(&mut g, &mut Noise::new(3), "d", a);
        g.outputs.push(("d".into(), d));
        let int8 = [&int8[..], &[("d", 2.0)]].concat();
        let float = [&float[..], &[("d", 9.0)]].concat();
        in_floats(&g, &int8, &float, conversion)
    };
    assert_eq!(outside(0.1), ["b", "add"]);
    assert!(outside(2.0).is_empty());
}

#[test]
fn names_of_fused_layers_are_taken_apart() {
    let g = chain(&["a", "b + c", "d"]);
    let known = by_name(&g);
    let node = |name: &str| known[name];
    assert_eq!(nodes_of("b + c", &known), Some(vec![node("b + c")]));
    assert_eq!(nodes_of("a + b + c + d", &known), Some(vec![node("a"), node("b + c"), node("d")]));
    assert_eq!(nodes_of("b + c.y", &known), Some(vec![node("b + c")]));
    assert_eq!(nodes_of("a (Quantize)", &known), None);
}
