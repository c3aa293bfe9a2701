//! Random operators, lowered and run by their layers' references, against the CPU device.

use tobiuo_ops::*;
use tobiuo_tensor::{Tensor, TensorData, numel};

use super::*;
use crate::cuda::interpret;
use crate::testing::Noise;

/// Random elements of a type; floats of 1/8, so that f16 holds them and some are equal.
fn tensor(rng: &mut Noise, dtype: DType, shape: &[usize]) -> Tensor {
    let n = numel(shape);
    let mut integers = |low: i64, high: i64| -> Vec<i64> {
        (0..n).map(|_| low + (rng.next() % (high - low + 1) as u64) as i64).collect()
    };
    let data = match dtype {
        DType::F32 => TensorData::F32(integers(-24, 24).iter().map(|&v| v as f32 / 8.0).collect()),
        DType::I64 => TensorData::I64(integers(-50, 50)),
        DType::I32 => TensorData::I32(integers(-50, 50).iter().map(|&v| v as i32).collect()),
        DType::I8 => TensorData::I8(integers(-50, 50).iter().map(|&v| v as i8).collect()),
        DType::U8 => TensorData::U8(integers(0, 100).iter().map(|&v| v as u8).collect()),
        _ => TensorData::Bool(integers(0, 1).iter().map(|&v| v as u8).collect()),
    };
    Tensor::new(shape, data)
}

fn pick<T: Clone>(rng: &mut Noise, of: &[T]) -> T {
    of[(rng.next() % of.len() as u64) as usize].clone()
}

fn between(rng: &mut Noise, low: usize, high: usize) -> usize {
    low + (rng.next() % (high - low + 1) as u64) as usize
}

fn shape(rng: &mut Noise, rank: usize) -> Vec<usize> {
    (0..rank).map(|_| pick(rng, &[1, 2, 3, 5, 8])).collect()
}

struct Case {
    graph: Graph,
    given: Vec<Tensor>,
}

impl Case {
    fn input(&mut self, rng: &mut Noise, dtype: DType, shape: &[usize]) -> ValueId {
        self.given.push(tensor(rng, dtype, shape));
        self.graph.add_input("x", dtype, shape.to_vec())
    }

    /// An operand: an input, a constant, or at times one seen through other strides.
    fn operand(&mut self, rng: &mut Noise, dtype: DType, shape: &[usize]) -> ValueId {
        match rng.next() % 6 {
            0 => {
                let t = tensor(rng, dtype, shape);
                self.graph.add_constant("c", t)
            }
            1 => {
                let perm: Vec<usize> = (0..shape.len()).rev().collect();
                let turned: Vec<usize> = shape.iter().rev().copied().collect();
                let x = self.input(rng, dtype, &turned);
                self.graph.push1("turn", Op::Transpose { perm }, &[x]).unwrap()
            }
            2 => {
                let wide: Vec<usize> = shape.iter().map(|d| 2 * d + 1).collect();
                let x = self.input(rng, dtype, &wide);
                let steps: Vec<i64> = shape.iter().map(|_| pick(rng, &[1, 2, -1, -2])).collect();
                let start = |(&s, &d): (&i64, &usize)| if s < 0 { 2 * d } else { 1 };
                let starts = steps.iter().zip(shape).map(start).collect();
                let slice = Slice { starts, steps, lens: shape.to_vec() };
                self.graph.push1("slice", Op::Slice(slice), &[x]).unwrap()
            }
            3 if shape.len() == 4 && dtype == DType::F32 => {
                // A channels-last picture.
                let x = self.input(rng, dtype, shape);
                let pool = Pool {
                    kind: PoolKind::Max,
                    kernel: vec![1; 2],
                    strides: vec![1; 2],
                    pads: vec![0; 4],
                    dilations: vec![1; 2],
                    ceil_mode: false,
                };
                self.graph.push1("picture", Op::Pool(pool), &[x]).unwrap()
            }
            _ => self.input(rng, dtype, shape),
        }
    }
}

/// Makes a random node of one kind; `None` where what was drawn does not fit.
type Make = fn(&mut Case, &mut Noise) -> Option<Vec<ValueId>>;

/// Runs `count` random cases of an operator in both precisions.
fn check(make: Make, count: u64, exact: bool) {
    for seed in 0..count {
        let mut rng = Noise::new(seed + 1);
        let mut case = Case { graph: Graph::new(), given: Vec::new() };
        let Some(outputs) = make(&mut case, &mut rng) else { continue };
        let graph = &mut case.graph;
        for (i, &o) in outputs.iter().enumerate() {
            graph.outputs.push((format!("y{i}"), o));
        }
        // At times something else reads the result too.
        if rng.next().is_multiple_of(3) && graph.fact(outputs[0]).dtype == DType::F32 {
            let again = graph.push1("again", Op::Unary(Unary::Neg), &[outputs[0]]).unwrap();
            graph.outputs.push(("again".into(), again));
        }
        let given: Vec<&Tensor> = case.given.iter().collect();
        let want = crate::testing::run(graph, &case.given);
        for (precision, limit) in [(Precision::Fp32, 2e-5), (Precision::Fp16, 4e-3)] {
            let text = || format!("seed {seed} {precision:?}: {:?}", graph.nodes);
            let lowering = lower(graph, precision).unwrap_or_else(|e| panic!("{}: {e}", text()));
            let got = interpret::tensors(graph, &lowering, &given)
                .unwrap_or_else(|e| panic!("{}: {e}", text()));
            let distance = distance(&got, &want);
            let limit = if exact { 0.0 } else { limit };
            assert!(distance <= limit, "{distance} {}\n{got:?}\n{want:?}", text());
        }
    }
}

/// As [`crate::testing::distance`], where infinities and NaN are right in the same places.
fn distance(a: &[Tensor], b: &[Tensor]) -> f64 {
    assert_eq!(a.len(), b.len());
    let one = |(a, b): (&Tensor, &Tensor)| {
        assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
        let (mut d, mut n) = (0.0, 0.0);
        for (x, y) in a.to_f64().into_iter().zip(b.to_f64()) {
            if x == y || (x.is_nan() && y.is_nan()) {
                n += if y.is_finite() { y * y } else { 0.0 };
                continue;
            }
            d += (x - y) * (x - y);
            n += y * y;
        }
        if d == 0.0 { 0.0 } else { (d / n.max(1e-20)).sqrt() }
    };
    a.iter().zip(b).map(one).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

const INTEGERS: [DType; 4] = [DType::I64, DType::I32, DType::I8, DType::U8];

fn any(rng: &mut Noise) -> DType {
    if rng.next().is_multiple_of(2) { DType::F32 } else { pick(rng, &INTEGERS) }
}

/// A shape that broadcasts to another.
fn narrower(rng: &mut Noise, of: &[usize]) -> Vec<usize> {
    let cut = between(rng, 0, of.len());
    let cut = if rng.next().is_multiple_of(2) { 0 } else { cut };
    of[cut..].iter().map(|&d| if rng.next().is_multiple_of(3) { 1 } else { d }).collect()
}

#[test]
fn binary_functions_of_every_type() {
    use Binary::*;
    check(
        |c, rng| {
            let dtype = if rng.next().is_multiple_of(6) { DType::Bool } else { any(rng) };
            let kind = match dtype {
                DType::Bool => pick(rng, &[And, Or, Xor, Equal]),
                DType::F32 => {
                    pick(rng, &[Add, Sub, Mul, Div, Min, Max, Equal, Less, GreaterOrEqual, Mod])
                }
                _ => pick(rng, &[Add, Sub, Mul, Div, Pow, Min, Max, Mod, FMod, Equal, Greater]),
            };
            let rank = between(rng, 0, 5);
            let full = shape(rng, rank);
            let (a, b) = (narrower(rng, &full), narrower(rng, &full));
            let (a, b) = (c.operand(rng, dtype, &a), c.operand(rng, dtype, &b));
            let act = [None, Some(Activation::Relu), Some(Activation::Sigmoid)];
            let float = dtype == DType::F32 && !kind.is_comparison();
            let activation = if float { pick(rng, &act) } else { None };
            c.graph.push("b", Op::Binary { kind, activation }, &[a, b], &[]).ok()
        },
        300,
        false,
    );
}

#[test]
fn functions_of_one_tensor_and_choices() {
    check(
        |c, rng| {
            let rank = between(rng, 0, 5);
            let full = shape(rng, rank);
            let dtype = any(rng);
            let float = DType::F32;
            let op = match rng.next() % 5 {
                0 => Op::Unary(pick(rng, &[Unary::Abs, Unary::Sign])),
                1 => {
                    let all = [DType::I64, DType::I32, DType::I8, DType::U8, DType::Bool, float];
                    Op::Cast { to: pick(rng, &all) }
                }
                2 => {
                    let a = [
                        Activation::Relu,
                        Activation::Elu { alpha: 0.5 },
                        Activation::Gelu { tanh: false },
                        Activation::Mish,
                        Activation::HardSwish,
                        Activation::Softplus,
                    ];
                    let x = c.operand(rng, float, &full);
                    return c.graph.push("a", Op::Activation(pick(rng, &a)), &[x], &[]).ok();
                }
                3 => {
                    let x = c.operand(rng, float, &full);
                    let slope = narrower(rng, &full);
                    let slope = c.operand(rng, float, &slope);
                    return c.graph.push("p", Op::PRelu, &[x, slope], &[]).ok();
                }
                _ => {
                    let mut side = |t| {
                        let s = narrower(rng, &full);
                        c.operand(rng, t, &s)
                    };
                    let operands = [side(DType::Bool), side(dtype), side(dtype)];
                    return c.graph.push("w", Op::Where, &operands, &[]).ok();
                }
            };
            let x = c.operand(rng, dtype, &full);
            c.graph.push("u", op, &[x], &[]).ok()
        },
        300,
        false,
    );
}

#[test]
fn reductions_and_softmax() {
    use Reduce::*;
    check(
        |c, rng| {
            let rank = between(rng, 1, 5);
            let full = shape(rng, rank);
            let dtype = pick(rng, &[DType::F32, DType::F32, DType::I64, DType::I32, DType::U8]);
            let axes: Vec<usize> = (0..rank).filter(|_| rng.next().is_multiple_of(2)).collect();
            let kind = match dtype {
                DType::F32 => pick(rng, &[Mean, Sum, Max, Min, L1, L2, SumSquare, LogSumExp]),
                DType::U8 => pick(rng, &[Max, Min]),
                _ => pick(rng, &[Mean, Sum, Max, Min, Prod, L1, SumSquare]),
            };
            let axis = between(rng, 0, rank - 1);
            let op = match rng.next() % 3 {
                0 if dtype == DType::F32 => Op::Softmax { axis, log: rng.next().is_multiple_of(2) },
                _ => Op::Reduce { kind, axes, keep_dims: rng.next().is_multiple_of(2) },
            };
            let x = c.operand(rng, dtype, &full);
            c.graph.push("r", op, &[x], &[]).ok()
        },
        300,
        false,
    );
}

#[test]
fn extremes_and_indexing_are_exact() {
    check(
        |c, rng| {
            let rank = between(rng, 1, 4);
            let full = shape(rng, rank);
            let dtype = any(rng);
            let x = c.operand(rng, dtype, &full);
            let axis = between(rng, 0, rank - 1);
            let flag = |rng: &mut Noise| rng.next().is_multiple_of(2);
            let op = match rng.next() % 4 {
                0 => Op::ArgReduce {
                    axis,
                    min: flag(rng),
                    keep_dims: flag(rng),
                    select_last: flag(rng),
                },
                1 => {
                    let k = between(rng, 0, full[axis]);
                    Op::TopK { k, axis, largest: flag(rng), sorted: true }
                }
                2 => {
                    let repeats = full.iter().map(|_| between(rng, 1, 3)).collect();
                    Op::Tile { repeats }
                }
                _ => {
                    let index_rank = between(rng, 0, 2);
                    let i = shape(rng, index_rank);
                    let t = pick(rng, &[DType::I64, DType::I32]);
                    let len = full[axis] as i64;
                    let n = numel(&i);
                    let places: Vec<i64> =
                        (0..n).map(|_| (rng.next() % (2 * len as u64)) as i64 - len).collect();
                    let places = match t {
                        DType::I64 => TensorData::I64(places),
                        _ => TensorData::I32(places.iter().map(|&p| p as i32).collect()),
                    };
                    c.given.push(Tensor::new(i.clone(), places));
                    let indices = c.graph.add_input("i", t, i);
                    return c.graph.push("g", Op::Gather { axis }, &[x, indices], &[]).ok();
                }
            };
            c.graph.push("e", op, &[x], &[]).ok()
        },
        300,
        true,
    );
}

#[test]
fn pads_and_concatenations_are_exact() {
    check(
        |c, rng| {
            let rank = between(rng, 1, 4);
            let full = shape(rng, rank);
            let dtype = any(rng);
            if rng.next().is_multiple_of(2) {
                let axis = between(rng, 0, rank - 1);
                let mut parts = Vec::new();
                for _ in 0..between(rng, 1, 3) {
                    let mut part = full.clone();
                    part[axis] = between(rng, 1, 16);
                    parts.push(c.operand(rng, dtype, &part));
                }
                return c.graph.push("c", Op::Concat { axis }, &parts, &[]).ok();
            }
            let value = 2.5;
            let modes =
                [PadMode::Constant { value }, PadMode::Reflect, PadMode::Edge, PadMode::Wrap];
            let mut amounts = || full.iter().map(|_| between(rng, 0, 4) as i64 - 1).collect();
            let (begins, ends) = (amounts(), amounts());
            let pad = Pad { begins, ends, mode: pick(rng, &modes) };
            let x = c.operand(rng, dtype, &full);
            c.graph.push("p", Op::Pad(pad), &[x], &[]).ok()
        },
        300,
        true,
    );
}

#[test]
fn pools_and_resampling() {
    check(
        |c, rng| {
            let axes = between(rng, 1, 2);
            let mut full = vec![between(rng, 1, 2), between(rng, 1, 9)];
            full.extend((0..axes).map(|_| between(rng, 3, 9)));
            let x = c.operand(rng, DType::F32, &full);
            if rng.next().is_multiple_of(2) {
                let count_include_pad = rng.next().is_multiple_of(2);
                let kinds = [PoolKind::Max, PoolKind::Average { count_include_pad }];
                let mut each = |low, high, n| (0..n).map(|_| between(rng, low, high)).collect();
                let (kernel, strides) = (each(1, 3, axes), each(1, 3, axes));
                let (pads, dilations) = (each(0, 1, 2 * axes), each(1, 2, axes));
                let ceil_mode = rng.next().is_multiple_of(2);
                let kind = pick(rng, &kinds);
                let pool = Pool { kind, kernel, strides, pads, dilations, ceil_mode };
                return c.graph.push("p", Op::Pool(pool), &[x], &[]).ok();
            }
            let first = if rng.next().is_multiple_of(3) { 0 } else { 2 };
            let mut sizes = full.clone();
            sizes[first..].iter_mut().for_each(|s| *s = between(rng, 1, 12));
            let scales = sizes.iter().zip(&full).map(|(&s, &f)| s as f32 / f as f32).collect();
            let antialias = rng.next().is_multiple_of(2);
            let mode = match rng.next() % 3 {
                0 => ResizeMode::Nearest { rounding: NearestRounding::RoundPreferFloor },
                1 => ResizeMode::Linear { antialias },
                _ => ResizeMode::Cubic { a: -0.75, exclude_outside: antialias, antialias },
            };
            let crop = Coordinates::TfCropAndResize {
                starts: vec![0.1; full.len()],
                ends: vec![1.2; full.len()],
                extrapolation: 3.0,
            };
            let coordinates = pick(
                rng,
                &[Coordinates::HalfPixel, Coordinates::AlignCorners, Coordinates::Asymmetric, crop],
            );
            let resize = Resize { sizes, scales, mode, coordinates };
            c.graph.push("r", Op::Resize(resize), &[x], &[]).ok()
        },
        300,
        false,
    );
}

#[test]
fn normalisations() {
    check(
        |c, rng| {
            let rank = between(rng, 3, 4);
            let mut full = shape(rng, rank);
            full[rank - 1] += 3;
            let x = c.operand(rng, DType::F32, &full);
            let channels = [full[1]];
            match rng.next() % 4 {
                0 => {
                    let axis = between(rng, 0, rank - 1);
                    let (s, b) = (
                        c.operand(rng, DType::F32, &full[axis..]),
                        c.operand(rng, DType::F32, &full[axis..]),
                    );
                    let op = Op::LayerNorm { axis, epsilon: 0.1 };
                    c.graph.push("n", op, &[x, s, b], &[]).ok()
                }
                1 => {
                    let (s, b) = (
                        c.operand(rng, DType::F32, &channels),
                        c.operand(rng, DType::F32, &channels),
                    );
                    c.graph.push("n", Op::InstanceNorm { epsilon: 0.1 }, &[x, s, b], &[]).ok()
                }
                2 => {
                    let size = between(rng, 1, 7);
                    let op = Op::Lrn { size, alpha: 0.1, beta: 0.75, bias: 1.0 };
                    c.graph.push("l", op, &[x], &[]).ok()
                }
                _ => {
                    let mut operands = vec![x];
                    operands.extend((0..3).map(|_| c.operand(rng, DType::F32, &channels)));
                    let variance = rng.tensor_in(&channels, 0.5, 2.0);
                    operands.push(c.graph.add_constant("v", variance));
                    c.graph.push("bn", Op::BatchNorm { epsilon: 0.1 }, &operands, &[]).ok()
                }
            }
        },
        200,
        false,
    );
}

#[test]
fn outputs_that_are_inputs_constants_twice_or_empty() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, vec![2, 3]);
    let e = g.add_input("e", DType::I64, vec![0, 3]);
    let k = g.add_constant("k", Tensor::i64([2], vec![7, -8]));
    let y = g.push1("y", Op::Unary(Unary::Neg), &[x]).unwrap();
    let sum = Op::Reduce { kind: Reduce::Sum, axes: vec![0], keep_dims: false };
    let none = g.push1("none", sum, &[e]).unwrap();
    let nothing = g.push1("nothing", Op::Concat { axis: 0 }, &[e, e]).unwrap();
    for v in [x, k, y, y, none, nothing, e] {
        g.outputs.push(("o".into(), v));
    }
    let given =
        [Tensor::f32([2, 3], (0..6).map(|i| i as f32).collect()), Tensor::i64([0, 3], vec![])];
    let want = crate::testing::run(&g, &given);
    for precision in [Precision::Fp32, Precision::Fp16] {
        let lowering = lower(&g, precision).unwrap();
        let got = interpret::tensors(&g, &lowering, &[&given[0], &given[1]]).unwrap();
        assert_eq!(got, want);
    }
}
