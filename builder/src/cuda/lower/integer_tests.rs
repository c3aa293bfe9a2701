//! Networks of integers, lowered and run by their layers' references: every bit as the CPU
//! device has it.

use tobiuo_ops::*;
use tobiuo_tensor::{Tensor, TensorData, numel};

use super::*;
use crate::cuda::interpret;
use crate::testing::Noise;

struct Net {
    graph: Graph,
    rng: Noise,
    given: Vec<Tensor>,
}

impl Net {
    fn new(seed: u64) -> Net {
        Net { graph: Graph::new(), rng: Noise::new(seed), given: Vec::new() }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.rng.next() % of.len() as u64) as usize]
    }

    fn unit(&mut self) -> f32 {
        (self.rng.next() % 2001) as f32 / 1000.0 - 1.0
    }

    fn floats(&mut self, shape: &[usize], low: f32, high: f32) -> ValueId {
        let values = (0..numel(shape)).map(|_| (self.unit() + 1.0) / 2.0 * (high - low) + low);
        let tensor = Tensor::f32(shape, values.collect::<Vec<f32>>());
        self.graph.add_constant("c", tensor)
    }

    fn bytes(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let values = (0..numel(shape)).map(|_| self.rng.next() as u8);
        let data = match dtype {
            DType::U8 => TensorData::U8(values.collect()),
            _ => TensorData::I8(values.map(|v| v as i8).collect()),
        };
        Tensor::new(shape, data)
    }

    /// An input of integers.
    fn input(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let tensor = self.bytes(dtype, shape);
        self.given.push(tensor);
        self.graph.add_input("x", dtype, shape.to_vec())
    }

    fn integer(&mut self) -> DType {
        self.pick(&[DType::I8, DType::U8])
    }

    fn quantization(&mut self, dtype: DType) -> Quantization {
        let zero = (self.rng.next() % 40) as i32 - 20;
        let zero = if dtype == DType::U8 { zero.max(0) } else { zero };
        Quantization { scale: 0.01 + 0.02 * (self.unit() + 1.0), zero_point: zero }
    }

    fn output(&mut self) -> Option<Requantization> {
        let to = self.integer();
        let Quantization { scale, zero_point } = self.quantization(to);
        Some(Requantization { to, scale, zero_point })
    }

    fn activation(&mut self) -> Option<Activation> {
        self.pick(&[
            None,
            Some(Activation::Relu),
            Some(Activation::Silu),
            Some(Activation::HardSwish),
            Some(Activation::LeakyRelu { alpha: 0.1 }),
            Some(Activation::Clip { min: -0.5, max: 1.0 }),
        ])
    }

    /// A convolution of integers; the padding keeps the size where the stride is 1.
    fn conv(
        &mut self,
        x: ValueId,
        sizes: [usize; 4],
        residual: Option<(ValueId, Option<Quantization>)>,
    ) -> ValueId {
        self.conv_to(x, sizes, residual, Net::output)
    }

    /// The same, its results being what `output` says.
    fn conv_to(
        &mut self,
        x: ValueId,
        [filters, kernel, stride, groups]: [usize; 4],
        residual: Option<(ValueId, Option<Quantization>)>,
        output: fn(&mut Net) -> Option<Requantization>,
    ) -> ValueId {
        let channels = self.graph.shape(x)[1];
        let spatial = self.graph.shape(x).len() - 2;
        let mut shape = vec![filters, channels / groups];
        shape.resize(2 + spatial, kernel);
        let w = self.bytes(DType::I8, &shape);
        let depth = numel(&shape[1..]) as f32;
        let w = self.graph.add_constant("w", w);
        let unit = 1.0 / (5000.0 * depth.sqrt());
        let m = self.floats(&[filters], 0.3 * unit, 1.5 * unit);
        let b = self.floats(&[filters], -1.0, 1.0);
        let zero = self.pick(&[0, 0, 3]);
        let after_activation = self.pick(&[false, false, true]);
        let op = QuantConv {
            kernel: vec![kernel; spatial],
            strides: vec![stride; spatial],
            pads: vec![kernel / 2; 2 * spatial],
            dilations: vec![1; spatial],
            groups,
            x_zero_point: zero,
            epilogue: Epilogue {
                residual: residual
                    .map(|(_, quantization)| Residual { quantization, after_activation }),
                activation: self.activation(),
                output: output(self),
            },
        };
        let mut inputs = vec![x, w, m, b];
        inputs.extend(residual.map(|r| r.0));
        self.graph.push1("conv", Op::QuantConv(op), &inputs).unwrap()
    }

    /// Lowers in a precision, and compares outputs and every bit with the CPU device.
    fn check(mut self, outputs: &[ValueId], precisions: &[Precision]) {
        for (i, &o) in outputs.iter().enumerate() {
            self.graph.outputs.push((format!("y{i}"), o));
        }
        let given: Vec<&Tensor> = self.given.iter().collect();
        let want = crate::testing::run(&self.graph, &self.given);
        for &precision in precisions {
            let lowering = lower(&self.graph, precision)
                .unwrap_or_else(|e| panic!("{precision:?}: {e} {:?}", self.graph.nodes));
            let got = interpret::tensors(&self.graph, &lowering, &given)
                .unwrap_or_else(|e| panic!("{precision:?}: {e} {:?}", self.graph.nodes));
            for (g, w) in got.iter().zip(&want) {
                assert!(g == w, "{precision:?} {:?}\n{g:?}\n{w:?}", self.graph.nodes);
            }
        }
    }
}

const BOTH: &[Precision] = &[Precision::Int8, Precision::Fp32];

#[test]
fn convolutions() {
    for seed in 0..60 {
        let mut n = Net::new(seed + 1);
        let dtype = n.integer();
        let channels = n.pick(&[3, 16, 24, 40]);
        let side = n.pick(&[1, 4, 7]);
        let shape =
            if seed % 5 == 4 { vec![2, channels, side] } else { vec![1, channels, side, 5] };
        let x = n.input(dtype, &shape);
        let filters = n.pick(&[5, 16, 33]);
        let kernel = n.pick(&[1, 3]);
        let stride = n.pick(&[1, 1, 2]);
        let first = n.conv(x, [filters, kernel, stride, 1], None);
        let again = n.conv(first, [filters, 3, 1, 1], None);
        let q = n.quantization(DType::I8);
        let q = Quantization { zero_point: q.zero_point.max(0), ..q };
        let sum = n.conv(again, [filters, 1, 1, 1], Some((first, Some(q))));
        n.check(&[sum, first], BOTH);
    }
}

#[test]
fn floats_that_are_outputs_are_not_rounded_to_f16() {
    for seed in 0..30 {
        let mut n = Net::new(seed + 600);
        let dtype = n.integer();
        let [batch, side] = [n.pick(&[1, 2]), n.pick(&[1, 7])];
        let x = n.input(dtype, &[batch, 24, side, 5]);
        let a = n.conv(x, [16, 3, 1, 1], None);
        let filters = n.pick(&[5, 16]);
        let kernel = n.pick(&[1, 3]);
        let y = n.conv_to(a, [filters, kernel, 1, 1], None, |_| None);
        let mut graph = n.graph.clone();
        graph.outputs.push(("y".into(), y));
        let lowering = lower(&graph, Precision::Int8).unwrap();
        assert_eq!(lowering.layers.last().unwrap().layer.family(), "conv_planes_i8");
        n.check(&[y], &[Precision::Int8]);
    }
}

#[test]
fn groups_and_depthwise() {
    for seed in 0..30 {
        let mut n = Net::new(seed + 100);
        let dtype = n.integer();
        let groups = n.pick(&[2, 3, 8, 24]);
        let x = n.input(dtype, &[1, 24, 6, 5]);
        let a = n.conv(x, [24, 3, 1, groups], None);
        let filters = n.pick(&[24, 48]);
        let b = n.conv(a, [filters, 3, 2, 24], None);
        n.check(&[b], BOTH);
    }
}

#[test]
fn concatenations_pools_and_resizes() {
    for seed in 0..30 {
        let mut n = Net::new(seed + 200);
        let dtype = n.integer();
        let x = n.input(dtype, &[1, 16, 8, 6]);
        let r = n.output();
        let widths = [n.pick(&[8, 16, 32]), n.pick(&[16, 20])];
        let mut parts = Vec::new();
        for width in widths {
            let y = n.conv(x, [width, 3, 1, 1], None);
            parts.push(y);
        }
        let same = n.graph.fact(parts[0]).dtype == n.graph.fact(parts[1]).dtype;
        let joined = match same {
            true => n.graph.push1("join", Op::Concat { axis: 1 }, &parts).unwrap(),
            false => parts[0],
        };
        let window = |kind| Pool {
            kind,
            kernel: vec![3; 2],
            strides: vec![2; 2],
            pads: vec![1; 4],
            dilations: vec![1; 2],
            ceil_mode: false,
        };
        let most = n.graph.push1("most", Op::Pool(window(PoolKind::Max)), &[joined]).unwrap();
        let after = n.conv(most, [24, 1, 1, 1], None);
        let after_type = n.graph.fact(after).dtype;
        let x_q = n.quantization(after_type);
        let kind = PoolKind::Average { count_include_pad: seed % 2 == 0 };
        let pool = |pool| Op::QuantPool(QuantPool { pool, x: x_q, output: r });
        let mean = n.graph.push1("mean", pool(window(kind)), &[after]).unwrap();
        let shape = n.graph.shape(after)[2..].to_vec();
        let all = Pool {
            kernel: shape,
            strides: vec![1; 2],
            pads: vec![0; 4],
            ..window(PoolKind::Average { count_include_pad: false })
        };
        let global = n.graph.push1("global", pool(all), &[after]).unwrap();
        n.check(&[mean, global, most], BOTH);
    }
}

/// A multiplier below 0 turns the order of a filter's sums around: the largest sum has the smallest
/// result.
#[test]
fn results_that_fall_are_not_pooled_as_sums() {
    let joined: &[&str] = &["conv_i8"];
    for (multiplier, families) in [(1e-4, joined), (0.0, joined), (-1e-4, &["conv_i8", "pool_i8"])]
    {
        let mut n = Net::new(700);
        let x = n.input(DType::I8, &[1, 16, 16, 16]);
        let w = n.bytes(DType::I8, &[16, 16, 3, 3]);
        let mut multipliers = vec![1e-4; 16];
        multipliers[5] = multiplier;
        let inputs = [
            x,
            n.graph.add_constant("w", w),
            n.graph.add_constant("m", Tensor::f32([16], multipliers)),
            n.floats(&[16], -1.0, 1.0),
        ];
        let conv = QuantConv {
            kernel: vec![3; 2],
            strides: vec![1; 2],
            pads: vec![1; 4],
            dilations: vec![1; 2],
            groups: 1,
            x_zero_point: 0,
            epilogue: Epilogue {
                activation: Some(Activation::LeakyRelu { alpha: 0.1 }),
                output: n.output(),
                ..Epilogue::default()
            },
        };
        let conv = n.graph.push1("conv", Op::QuantConv(conv), &inputs).unwrap();
        let pool = Pool {
            kind: PoolKind::Max,
            kernel: vec![2; 2],
            strides: vec![2; 2],
            pads: vec![0; 4],
            dilations: vec![1; 2],
            ceil_mode: false,
        };
        let y = n.graph.push1("pool", Op::Pool(pool), &[conv]).unwrap();
        let mut graph = n.graph.clone();
        graph.outputs.push(("y".into(), y));
        let lowering = lower(&graph, Precision::Int8).unwrap();
        let mut made: Vec<&str> = lowering.layers.iter().map(|l| l.layer.family()).collect();
        made.retain(|f| *f != "permute");
        assert_eq!(made, families, "{multiplier}");
        n.check(&[y], BOTH);
    }
}

#[test]
fn functions_and_fully_connected() {
    for seed in 0..40 {
        let mut n = Net::new(seed + 300);
        let types = [n.integer(), n.integer()];
        let shape: &[usize] = if seed % 3 == 0 { &[3, 21] } else { &[1, 20, 5, 4] };
        let a = n.input(types[0], shape);
        let b = n.input(types[1], shape);
        let kind = n.pick(&[Binary::Add, Binary::Sub, Binary::Mul, Binary::Min, Binary::Max]);
        let (qa, qb) = (n.quantization(types[0]), n.quantization(types[1]));
        let op = QuantBinary {
            kind,
            a: Some(qa),
            b: Some(qb),
            activation: n.activation(),
            output: n.output(),
        };
        let sum = n.graph.push1("sum", Op::QuantBinary(op), &[a, b]).unwrap();
        let to = n.integer();
        let table = n.bytes(to, &[256]);
        let table = n.graph.add_constant("table", table);
        let looked = n.graph.push1("lookup", Op::Lookup, &[sum, table]).unwrap();
        let rows = n.pick(&[1, 3, 9]);
        let depth = n.pick(&[16, 40]);
        let dtype = n.integer();
        let x = n.input(dtype, &[rows, depth]);
        let outputs = n.pick(&[7, 32]);
        let w = n.bytes(DType::I8, &[outputs, depth]);
        let w = n.graph.add_constant("w", w);
        let m = n.floats(&[outputs], 1e-5, 1e-4);
        let bias = n.floats(&[outputs], -1.0, 1.0);
        let x_zero_point = n.pick(&[0, 0, 5]);
        let epilogue = Epilogue { residual: None, activation: n.activation(), output: n.output() };
        let op = Op::QuantGemm(QuantGemm { x_zero_point, epilogue });
        let product = n.graph.push1("gemm", op, &[x, w, m, bias]).unwrap();
        n.check(&[sum, product, looked], BOTH);
    }
}

#[test]
fn quantised_floats_and_back() {
    for seed in 0..20 {
        let mut n = Net::new(seed + 400);
        let shape: &[usize] = if seed % 2 == 0 { &[1, 3, 5, 7] } else { &[2, 13] };
        let values = (0..numel(shape)).map(|_| n.unit()).collect::<Vec<f32>>();
        n.given.push(Tensor::f32(shape, values));
        let x = n.graph.add_input("x", DType::F32, shape.to_vec());
        let to = n.integer();
        let q = n.quantization(to);
        let scale = n.graph.add_constant("s", Tensor::f32(Vec::new(), vec![q.scale]));
        let zero = match to {
            DType::U8 => TensorData::U8(vec![q.zero_point as u8]),
            _ => TensorData::I8(vec![q.zero_point as i8]),
        };
        let zero = n.graph.add_constant("z", Tensor::new(Vec::new(), zero));
        let quantise = Op::Quantize { axis: None, to };
        let y = n.graph.push1("quantise", quantise, &[x, scale, zero]).unwrap();
        let back = Op::Dequantize { axis: None };
        let back = n.graph.push1("back", back, &[y, scale, zero]).unwrap();
        n.check(&[y, back], &[Precision::Fp32]);
    }
}
