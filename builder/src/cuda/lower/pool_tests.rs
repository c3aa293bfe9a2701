//! Pools joined with the convolution in front of them, and not joined.

use tobiuo_ops::{Activation, Conv, Op, Pool, PoolKind};

use super::*;
use crate::cuda::interpret;
use crate::testing::Noise;

/// A graph in the making, with made-up weights.
pub(super) struct Net {
    pub graph: Graph,
    noise: Noise,
}

impl Net {
    pub fn new(shape: [usize; 4]) -> (Net, ValueId) {
        let mut graph = Graph::new();
        let x = graph.add_input("x", DType::F32, shape.to_vec());
        (Net { graph, noise: Noise::new(3) }, x)
    }

    pub fn conv(&mut self, name: &str, x: ValueId, filters: usize, kernel: usize) -> ValueId {
        let activation = Activation::LeakyRelu { alpha: 0.1 };
        self.activated(name, x, [filters, kernel], activation)
    }

    fn activated(
        &mut self,
        name: &str,
        x: ValueId,
        [filters, kernel]: [usize; 2],
        activation: Activation,
    ) -> ValueId {
        let channels = self.graph.shape(x)[1];
        let w = self.noise.tensor(&[filters, channels, kernel, kernel]);
        let w = self.graph.add_constant(&format!("{name}.w"), w);
        let b = self.noise.tensor(&[filters]);
        let b = self.graph.add_constant(&format!("{name}.b"), b);
        let op = Op::Conv(Conv {
            kernel: vec![kernel; 2],
            strides: vec![1; 2],
            pads: vec![kernel / 2; 4],
            dilations: vec![1; 2],
            groups: 1,
            activation: Some(activation),
            residual: false,
        });
        self.graph.push1(name, op, &[x, w, b]).unwrap()
    }

    pub fn pool(&mut self, name: &str, x: ValueId, size: usize, pad: usize) -> ValueId {
        let op = Op::Pool(Pool {
            kind: PoolKind::Max,
            kernel: vec![size; 2],
            strides: vec![2; 2],
            pads: vec![pad; 4],
            dilations: vec![1; 2],
            ceil_mode: false,
        });
        self.graph.push1(name, op, &[x]).unwrap()
    }

    /// Lowers the graph for these outputs and compares it with the CPU device; the families of its
    /// layers, without copies.
    fn families(self, outputs: &[ValueId]) -> Vec<&'static str> {
        let mut families = self.all_families(outputs);
        families.retain(|f| *f != "permute");
        families
    }

    /// With copies.
    pub fn all_families(mut self, outputs: &[ValueId]) -> Vec<&'static str> {
        for (i, &v) in outputs.iter().enumerate() {
            self.graph.outputs.push((format!("y{i}"), v));
        }
        let given = self.noise.tensor(self.graph.shape(self.graph.inputs[0]));
        let want = crate::testing::run(&self.graph, std::slice::from_ref(&given));
        let lowering = lower(&self.graph, Precision::Fp16).unwrap();
        let got = interpret::tensors(&self.graph, &lowering, &[&given]).unwrap();
        for (got, want) in got.iter().zip(&want) {
            let (got, want) = (got.to_f64(), want.to_f64());
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-2 * (1.0 + b.abs());
            assert!(got.iter().zip(&want).all(near));
        }
        for (_, view) in &lowering.values {
            let touched = lowering.layers.iter().flat_map(|l| &l.outputs);
            let ports = lowering.inputs.iter().chain(&lowering.outputs);
            assert!(touched.chain(ports).any(|v| v.buffer == view.buffer));
        }
        lowering.layers.iter().map(|l| l.layer.family()).collect()
    }
}

#[test]
fn a_pool_behind_a_convolution_is_a_part_of_it() {
    // A first layer, patches, and windows of 1x1; odd sizes too, whose last row and column no
    // window has.
    for (channels, kernel, [h, w]) in [(3, 3, [10, 12]), (16, 3, [16, 15]), (24, 1, [7, 9])] {
        let (mut net, x) = Net::new([2, channels, h, w]);
        let a = net.conv("a", x, 16, kernel);
        let y = net.pool("p", a, 2, 0);
        let family = if channels == 3 { "conv_planes" } else { "conv" };
        assert_eq!(net.families(&[y]), [family]);
    }
}

#[test]
fn a_pool_is_apart_where_others_read_the_convolution_or_it_would_cost_more() {
    let (mut net, x) = Net::new([1, 16, 16, 16]);
    let a = net.conv("a", x, 16, 3);
    let y = net.pool("p", a, 2, 0);
    let b = net.conv("b", a, 16, 1);
    assert_eq!(net.families(&[y, b]), ["conv", "pool", "conv_planes"]);

    let (mut net, x) = Net::new([1, 16, 16, 16]);
    let a = net.conv("a", x, 16, 3);
    let y = net.pool("p", a, 2, 0);
    assert_eq!(net.families(&[y, a]), ["conv", "pool"]);

    let (mut net, x) = Net::new([1, 16, 16, 16]);
    let a = net.conv("a", x, 16, 3);
    let y = net.pool("p", a, 3, 1);
    assert_eq!(net.families(&[y]), ["conv", "pool"]);

    // SiLU falls before it rises: the largest sum has not the largest result.
    let (mut net, x) = Net::new([1, 16, 16, 16]);
    let a = net.activated("a", x, [16, 3], Activation::Silu);
    let y = net.pool("p", a, 2, 0);
    assert_eq!(net.families(&[y]), ["conv", "pool"]);

    // 14 x 14 pixels are 16 x 16 in whole patches.
    let (mut net, x) = Net::new([1, 16, 14, 14]);
    let a = net.conv("a", x, 16, 3);
    let y = net.pool("p", a, 2, 0);
    assert_eq!(net.families(&[y]), ["conv", "pool"]);
}

#[test]
fn pools_write_into_concatenations() {
    let (mut net, x) = Net::new([1, 16, 16, 16]);
    let a = net.conv("a", x, 32, 3);
    let p = net.pool("p", a, 2, 0);
    let b = net.conv("b", x, 24, 1);
    let q = net.pool("q", b, 2, 0);
    let all = net.graph.push1("cat", Op::Concat { axis: 1 }, &[p, q]).unwrap();
    let y = net.conv("y", all, 8, 1);
    assert_eq!(net.families(&[y]), ["conv", "conv", "conv_planes"]);
}
