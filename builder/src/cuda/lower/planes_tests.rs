//! First convolutions that read the network's input themselves, and others.

use tobiuo_ops::{Op, Slice};

use super::pool_tests::Net;

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
    assert_eq!(all.iter().filter(|f| **f == "conv_planes").count(), 2, "{all:?}");
    // The copies of the 5x5 layer's and the pool's input, and of four results.
    assert_eq!(all.iter().filter(|f| **f == "permute").count(), 6, "{all:?}");
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
        assert_eq!(net.all_families(&[y]), ["permute", "conv", "permute"]);
    }
}
