//! First convolutions that read the network's input themselves, and others.

use tobiuo_ops::{Op, Slice};

use super::pool_tests::Net;
use super::*;
use crate::cuda::schedule::dependencies;

/// Steps of one, or the axis's elements from the last to the first.
fn slice(starts: [usize; 4], lens: [usize; 4], backwards: Option<usize>) -> Op {
    let step = |axis| if backwards == Some(axis) { -1 } else { 1 };
    let steps = (0..4).map(step).collect();
    Op::Slice(Slice { starts: starts.to_vec(), steps, lens: lens.to_vec() })
}

#[test]
fn a_first_convolution_reads_the_input_itself() {
    for (channels, kernel) in [(3, 3), (1, 1), (4, 2), (2, 4)] {
        let (mut net, x) = Net::new([2, channels, 9, 11]);
        let y = net.conv("a", x, 16, kernel);
        assert_eq!(net.all_families(&[y]), ["conv_planes", "permute"]);
    }
}

#[test]
fn where_several_layers_read_the_input_each_reads_it_as_suits_it() {
    let (mut net, x) = Net::new([1, 3, 10, 10]);
    let a = net.conv("a", x, 16, 3);
    let b = net.conv("b", x, 8, 1);
    let c = net.conv("c", x, 8, 5);
    let p = net.pool("p", x, 2, 0);
    let all = net.all_families(&[a, b, c, p]);
    // The 5x5 layer's result is stored as it is wanted, its input and the pool's are copied, and so
    // are three results.
    assert_eq!(all.iter().filter(|f| **f == "conv_planes").count(), 3, "{all:?}");
    assert_eq!(all.iter().filter(|f| **f == "permute").count(), 5, "{all:?}");
}

#[test]
fn inputs_may_be_turned_cut_and_read_backwards() {
    // Pixels with channels fastest, as some frameworks have them.
    let (mut net, x) = Net::new([2, 8, 9, 3]);
    let planes = Op::Transpose { perm: vec![0, 3, 1, 2] };
    let turned = net.graph.push1("turn", planes, &[x]).unwrap();
    let y = net.conv("a", turned, 16, 3);
    assert_eq!(net.all_families(&[y]), ["conv_planes", "permute"]);

    // Blue, green, red as red, green, blue.
    let (mut net, x) = Net::new([1, 3, 6, 7]);
    let op = slice([0, 2, 0, 0], [1, 3, 6, 7], Some(1));
    let turned = net.graph.push1("turn", op, &[x]).unwrap();
    let y = net.conv("a", turned, 16, 3);
    assert_eq!(net.all_families(&[y]), ["conv_planes", "permute"]);

    let (mut net, x) = Net::new([2, 4, 9, 8]);
    let part = net.graph.push1("cut", slice([0, 1, 2, 3], [2, 3, 7, 5], None), &[x]).unwrap();
    let y = net.conv("a", part, 16, 3);
    assert_eq!(net.all_families(&[y]), ["conv_planes", "permute"]);
}

#[test]
fn what_no_kernel_reads_so_is_copied() {
    // Too large a window, too many filters, too many channels.
    for (channels, filters, kernel) in [(3, 16, 7), (3, 72, 3), (5, 16, 3)] {
        let (mut net, x) = Net::new([1, channels, 9, 11]);
        let y = net.conv("a", x, filters, kernel);
        assert_eq!(net.all_families(&[y]), ["permute", "conv_planes"]);
    }
}

#[test]
fn a_last_convolution_stores_the_output_itself() {
    // Planes, and pixels without padding between them.
    for (batch, turn) in [(1, false), (2, false), (1, true), (3, true)] {
        for filters in [1, 5, 16] {
            let (mut net, x) = Net::new([batch, 16, 5, 7]);
            let mut y = net.conv("a", x, filters, 3);
            if turn {
                let op = Op::Transpose { perm: vec![0, 2, 3, 1] };
                y = net.graph.push1("turn", op, &[y]).unwrap();
            }
            assert_eq!(net.all_families(&[y]), ["permute", "conv_planes"]);
        }
    }
    let (mut net, x) = Net::new([2, 16, 1, 1]);
    let y = net.conv("a", x, 24, 1);
    let y = net.graph.push1("r", Op::Reshape { shape: vec![2, 24] }, &[y]).unwrap();
    assert_eq!(net.all_families(&[y]), ["permute", "conv_planes"]);
}

/// A detector's heads: of two scales, each of boxes and classes, all in one output.
fn heads(batch: usize) -> (Net, ValueId) {
    let (mut net, x) = Net::new([batch, 16, 8, 8]);
    let small = net.pool("small", x, 2, 0);
    let mut parts = Vec::new();
    for (name, of, pixels) in [("large", x, 64), ("small", small, 16)] {
        let boxes = net.conv(&format!("{name} boxes"), of, 8, 3);
        let classes = net.conv(&format!("{name} classes"), of, 5, 1);
        let cat = Op::Concat { axis: 1 };
        let both = net.graph.push1(&format!("{name} both"), cat, &[boxes, classes]).unwrap();
        let flat = Op::Reshape { shape: vec![batch, 13, pixels] };
        parts.push(net.graph.push1(&format!("{name} flat"), flat, &[both]).unwrap());
    }
    let all = net.graph.push1("all", Op::Concat { axis: 2 }, &parts).unwrap();
    (net, all)
}

#[test]
fn several_convolutions_store_their_parts_of_an_output() {
    for batch in [1, 2] {
        let (net, all) = heads(batch);
        let families = net.all_families(&[all]);
        assert_eq!(families.iter().filter(|f| **f == "permute").count(), 1, "{families:?}");
        assert_eq!(families.iter().filter(|f| **f == "conv_planes").count(), 4, "{families:?}");
    }
}

#[test]
fn parts_of_an_output_are_made_side_by_side() {
    for batch in [1, 2] {
        let (mut net, all) = heads(batch);
        net.graph.outputs.push(("y".into(), all));
        let lowering = lower(&net.graph, Precision::Fp16).unwrap();
        let before = dependencies(&lowering);
        let heads = |i: &usize| lowering.layers[*i].layer.family() == "conv_planes";
        for i in (0..before.len()).filter(heads) {
            assert!(!before[i].iter().any(heads), "{:?}", lowering.layers[i].name);
        }
    }
}

#[test]
fn what_others_read_or_is_not_all_there_is_copied() {
    let (mut net, x) = Net::new([1, 16, 6, 6]);
    let a = net.conv("a", x, 8, 3);
    let b = net.conv("b", a, 8, 3);
    assert_eq!(net.all_families(&[a, b]), ["permute", "conv", "conv_planes", "permute"]);

    // Some of the channels.
    let (mut net, x) = Net::new([1, 16, 6, 6]);
    let a = net.conv("a", x, 24, 3);
    let part = net.graph.push1("cut", slice([0, 8, 0, 0], [1, 8, 6, 6], None), &[a]).unwrap();
    assert_eq!(net.all_families(&[part]), ["permute", "conv", "permute"]);

    // Some of the pixels, and rows from the last on.
    let turned = slice([0, 0, 5, 0], [1, 24, 6, 6], Some(2));
    for op in [slice([0, 0, 1, 1], [1, 24, 4, 4], None), turned] {
        let (mut net, x) = Net::new([1, 16, 6, 6]);
        let a = net.conv("a", x, 24, 3);
        let part = net.graph.push1("cut", op, &[a]).unwrap();
        assert_eq!(net.all_families(&[part]), ["permute", "conv", "permute"]);
    }

    // A pool makes the other channels.
    let (mut net, x) = Net::new([1, 16, 6, 6]);
    let a = net.conv("a", x, 16, 3);
    let b = net.pool("b", x, 3, 1);
    let b = net.graph.push1("up", Op::Concat { axis: 2 }, &[b, b]).unwrap();
    let b = net.graph.push1("across", Op::Concat { axis: 3 }, &[b, b]).unwrap();
    let all = net.graph.push1("cat", Op::Concat { axis: 1 }, &[a, b]).unwrap();
    let families = net.all_families(&[all]);
    assert!(!families.contains(&"conv_planes"), "{families:?}");
}
