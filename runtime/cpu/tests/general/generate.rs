//! Random operators and operands that fit each other.

use tobiuo_ops::*;
use tobiuo_tensor::DType::{self, *};
use tobiuo_tensor::{Tensor, TensorData, f16, numel};

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A shape of some hundred elements at most, now and then with an empty axis.
    fn shape(&mut self, min_rank: usize, max_rank: usize) -> Vec<usize> {
        let rank = self.between(min_rank as i64, max_rank as i64) as usize;
        loop {
            let shape: Vec<usize> = (0..rank)
                .map(|_| match self.below(24) {
                    0 => 0,
                    1..=5 => 1,
                    6..=8 => self.below(40) + 1,
                    _ => self.below(6) + 1,
                })
                .collect();
            if numel(&shape) <= 300 {
                return shape;
            }
        }
    }

    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n = numel(shape);
        let data = match dtype {
            F32 => TensorData::F32((0..n).map(|_| self.uniform(-3.0, 3.0)).collect()),
            F16 => {
                TensorData::F16((0..n).map(|_| f16::from_f32(self.uniform(-3.0, 3.0))).collect())
            }
            I64 => TensorData::I64((0..n).map(|_| self.between(-9, 9)).collect()),
            I32 => TensorData::I32((0..n).map(|_| self.between(-9, 9) as i32).collect()),
            I8 => TensorData::I8((0..n).map(|_| self.between(-5, 5) as i8).collect()),
            U8 => TensorData::U8((0..n).map(|_| self.below(12) as u8).collect()),
            _ => TensorData::Bool((0..n).map(|_| self.below(2) as u8).collect()),
        };
        Tensor::new(shape, data)
    }

    fn any(&mut self) -> DType {
        self.pick(&[F32, F32, F16, I64, I32, I8, U8, Bool])
    }

    /// A shape that broadcasts to `shape`.
    fn narrower(&mut self, shape: &[usize]) -> Vec<usize> {
        let skipped = if self.flip() { 0 } else { self.below(shape.len() + 1) };
        shape[skipped..].iter().map(|&d| if self.below(3) == 0 { 1 } else { d }).collect()
    }
}

pub type Case = (Op, Vec<Tensor>);

pub fn unary(r: &mut Random) -> Case {
    use Unary::*;
    let u =
        r.pick(&[Exp, Log, Sqrt, Abs, Neg, Reciprocal, Floor, Ceil, Round, Sign, Sin, Cos, Not]);
    let dtype = match u {
        Abs | Sign => r.pick(&[F32, I64, I32, I8, U8]),
        Neg => r.pick(&[F32, I64, I32, I8]),
        Not => Bool,
        _ => F32,
    };
    let shape = r.shape(0, 6);
    let mut x = r.tensor(dtype, &shape);
    if let Some(v) = x.as_f32_mut() {
        // Halves for the roundings; away from poles and from where digits cancel.
        match u {
            Round => v.iter_mut().for_each(|v| *v = (*v * 2.0).round() / 2.0),
            Log | Sqrt | Reciprocal => v.iter_mut().for_each(|v| *v = v.abs() + 0.1),
            _ => {}
        }
    }
    (Op::Unary(u), vec![x])
}

pub fn binary(r: &mut Random) -> Case {
    use Binary::*;
    let kind = r.pick(&[
        Add,
        Sub,
        Mul,
        Div,
        Pow,
        Min,
        Max,
        Mod,
        FMod,
        Equal,
        Less,
        LessOrEqual,
        Greater,
        GreaterOrEqual,
        And,
        Or,
        Xor,
    ]);
    let dtype = match kind {
        And | Or | Xor => Bool,
        Equal => r.pick(&[F32, I64, I32, I8, U8, Bool]),
        _ => r.pick(&[F32, F32, F32, I64, I32, I8, U8]),
    };
    let shape = r.shape(0, 6);
    let (a, b) = (r.narrower(&shape), r.narrower(&shape));
    let (mut a, mut b) = (r.tensor(dtype, &a), r.tensor(dtype, &b));
    match kind {
        Pow if dtype == F32 => {
            a.as_f32_mut().unwrap().iter_mut().for_each(|v| *v = v.abs() + 0.1);
            if r.flip() {
                b.as_f32_mut().unwrap().fill(2.0);
            }
        }
        Pow => {
            // Small enough that 8 bits hold the power.
            let small = |t: &Tensor, n| {
                let v: Vec<f32> = t.to_f64().iter().map(|v| (v % n) as f32).collect();
                let cast = Op::Cast { to: dtype };
                tobiuo_cpu::evaluate(&cast, &[&Tensor::f32(t.shape(), v)]).unwrap().remove(0)
            };
            (a, b) = (small(&a, 3.0), small(&b, 4.0));
            // 0 to a negative power has no integer value.
            if let (true, Some(v)) = (b.to_f64().iter().any(|&v| v < 0.0), a.to_i64()) {
                let v = v.iter().map(|&v| if v == 0 { 1.0 } else { v as f32 }).collect();
                let ones = Tensor::f32(a.shape(), v);
                a = tobiuo_cpu::evaluate(&Op::Cast { to: dtype }, &[&ones]).unwrap().remove(0);
            }
        }
        Equal if dtype == F32 => {
            a.as_f32_mut().unwrap().iter_mut().for_each(|v| *v = v.round());
            b.as_f32_mut().unwrap().iter_mut().for_each(|v| *v = v.round());
        }
        // A quotient must not be near a jump.
        Div | Mod | FMod if dtype == F32 => {
            let v = b.as_f32_mut().unwrap();
            v.iter_mut().for_each(|v| *v = (*v).signum() * (v.abs() + 0.5));
            if kind != Div {
                // Quarters: remainders are exact.
                let quarter = |v: &mut f32| *v = (*v * 4.0).round() / 4.0;
                v.iter_mut().for_each(|v| {
                    quarter(v);
                    if *v == 0.0 {
                        *v = 0.25
                    }
                });
                a.as_f32_mut().unwrap().iter_mut().for_each(quarter);
            }
        }
        _ => {}
    }
    if kind == Sub && dtype == U8 {
        // a + 12 never is below b.
        let more = a.to_i64().unwrap().iter().map(|&v| v as u8 + 12).collect();
        a = Tensor::new(a.shape(), TensorData::U8(more));
    }
    let activation = match dtype {
        F32 if !kind.is_comparison() => r.pick(&[
            None,
            Some(Activation::Relu),
            Some(Activation::Sigmoid),
            Some(Activation::Clip { min: -0.5, max: 1.5 }),
        ]),
        _ => None,
    };
    (Op::Binary { kind, activation }, vec![a, b])
}

pub fn select(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 6));
    let (c, x, y) = (r.narrower(&shape), r.narrower(&shape), r.narrower(&shape));
    (Op::Where, vec![r.tensor(Bool, &c), r.tensor(dtype, &x), r.tensor(dtype, &y)])
}

pub fn softmax(r: &mut Random) -> Case {
    let shape = r.shape(1, 5);
    (Op::Softmax { axis: r.below(shape.len()), log: r.flip() }, vec![r.tensor(F32, &shape)])
}

pub fn concat(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(1, 5));
    let axis = r.below(shape.len());
    let inputs = (0..=r.below(4))
        .map(|_| {
            let mut shape = shape.clone();
            shape[axis] = r.below(5);
            r.tensor(dtype, &shape)
        })
        .collect();
    (Op::Concat { axis }, inputs)
}

pub fn slice(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 6));
    let mut s = Slice { starts: vec![], steps: vec![], lens: vec![] };
    for &d in &shape {
        let whole = r.below(3) == 0;
        let start = if whole || d == 0 { 0 } else { r.below(d) };
        let step: i64 = if whole { 1 } else { r.pick(&[1, 1, -1, 2, -2, 3, -7]) };
        let most = match (d, step > 0) {
            (0, _) => 0,
            (_, true) => (d - start).div_ceil(step as usize),
            (_, false) => start / step.unsigned_abs() as usize + 1,
        };
        s.starts.push(start);
        s.steps.push(step);
        s.lens.push(if whole { d } else { r.below(most + 1) });
    }
    (Op::Slice(s), vec![r.tensor(dtype, &shape)])
}

pub fn gather(r: &mut Random) -> Case {
    let (dtype, mut shape) = (r.any(), r.shape(1, 4));
    let axis = r.below(shape.len());
    shape[axis] = shape[axis].max(1);
    let len = shape[axis] as i64;
    let mut indices = r.shape(0, 3);
    indices.iter_mut().for_each(|d| *d = (*d).min(4));
    // One too far on both sides: zeros.
    let wide = r.flip();
    let values = (0..numel(&indices)).map(|_| r.between(-len - 1, len));
    let values = match wide {
        true => TensorData::I64(values.collect()),
        false => TensorData::I32(values.map(|v| v as i32).collect()),
    };
    (Op::Gather { axis }, vec![r.tensor(dtype, &shape), Tensor::new(indices, values)])
}

pub fn reshape(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 5));
    let to = vec![1, numel(&shape)];
    (Op::Reshape { shape: to }, vec![r.tensor(dtype, &shape)])
}

pub fn transpose(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 6));
    let mut perm: Vec<usize> = (0..shape.len()).collect();
    (1..perm.len()).for_each(|i| perm.swap(i, r.below(i + 1)));
    (Op::Transpose { perm }, vec![r.tensor(dtype, &shape)])
}

pub fn expand(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 6));
    let from = r.narrower(&shape);
    (Op::Expand { shape }, vec![r.tensor(dtype, &from)])
}

pub fn tile(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 4));
    let repeats = shape.iter().map(|_| r.pick(&[1, 1, 2, 3, 0])).collect();
    (Op::Tile { repeats }, vec![r.tensor(dtype, &shape)])
}

pub fn pad(r: &mut Random) -> Case {
    let (dtype, shape) = (r.any(), r.shape(0, 4));
    // A value that every type has.
    let value = if dtype == Bool { 1.0 } else { 3.0 };
    let mode =
        r.pick(&[PadMode::Constant { value }, PadMode::Reflect, PadMode::Edge, PadMode::Wrap]);
    let (mut begins, mut ends) = (vec![], vec![]);
    for &d in &shape {
        let d = d as i64;
        let mut begin = if r.flip() { 0 } else { r.between(-d / 2, 9) };
        let mut end = if r.flip() { 0 } else { r.between(-d / 2, 9) };
        let left = d + begin.min(0) + end.min(0);
        if left <= 0 && !matches!(mode, PadMode::Constant { .. }) {
            (begin, end) = (0, 0);
        }
        begins.push(begin);
        ends.push(end);
    }
    (Op::Pad(Pad { begins, ends, mode }), vec![r.tensor(dtype, &shape)])
}

pub fn resize(r: &mut Random) -> Case {
    let mut shape = r.shape(1, 4);
    shape.iter_mut().for_each(|d| *d = (*d).clamp(1, 9));
    let antialias = r.flip();
    let mode = match r.below(3) {
        0 => {
            use NearestRounding::*;
            let rounding = r.pick(&[RoundPreferFloor, RoundPreferCeil, Floor, Ceil]);
            ResizeMode::Nearest { rounding }
        }
        1 => ResizeMode::Linear { antialias },
        _ => ResizeMode::Cubic { a: r.pick(&[-0.75, -0.5]), exclude_outside: r.flip(), antialias },
    };
    let nearest = matches!(mode, ResizeMode::Nearest { .. });
    let dtype = if nearest { r.any() } else { F32 };
    let coordinates = match r.below(7) {
        0 => Coordinates::HalfPixel,
        1 => Coordinates::HalfPixelSymmetric,
        2 => Coordinates::PytorchHalfPixel,
        3 => Coordinates::AlignCorners,
        4 => Coordinates::Asymmetric,
        5 if nearest => Coordinates::TfHalfPixelForNn,
        _ if antialias && !nearest => Coordinates::HalfPixel,
        _ => Coordinates::TfCropAndResize {
            starts: shape.iter().map(|_| r.pick(&[0.0f32, 0.25, -0.25])).collect(),
            ends: shape.iter().map(|_| r.pick(&[1.0f32, 0.5, 1.25])).collect(),
            // A value that every type has.
            extrapolation: if dtype == Bool { 1.0 } else { 7.0 },
        },
    };
    let (mut sizes, mut scales) = (vec![], vec![]);
    for (axis, &d) in shape.iter().enumerate() {
        // At most three axes change, or the plain form takes for ever.
        if axis + 3 < shape.len() || r.below(3) == 0 {
            sizes.push(d);
            scales.push(1.0);
        } else if r.flip() {
            let scale = r.pick(&[2.0f32, 3.0, 0.5, 0.6, 1.7, 0.3]);
            let size = ((scale * d as f32) as usize).max(1);
            sizes.push(size);
            scales.push(if scale * (d as f32) < 0.5 { size as f32 / d as f32 } else { scale });
        } else {
            let size = r.below(12) + 1;
            sizes.push(size);
            scales.push(size as f32 / d as f32);
        }
    }
    (Op::Resize(Resize { sizes, scales, mode, coordinates }), vec![r.tensor(dtype, &shape)])
}

pub fn reduce(r: &mut Random) -> Case {
    use Reduce::*;
    let kind = r.pick(&[Mean, Sum, Max, Min, Prod, L1, L2, SumSquare, LogSum, LogSumExp]);
    let dtype = match kind {
        L2 | LogSum | LogSumExp => F32,
        Max | Min => r.pick(&[F32, I64, I32, I8, U8, Bool]),
        _ => r.pick(&[F32, F32, I64, I32]),
    };
    let mut shape = r.shape(0, 5);
    if kind == Prod {
        shape.iter_mut().for_each(|d| *d = (*d).min(2));
    }
    let axes: Vec<usize> = (0..shape.len()).filter(|_| r.flip()).collect();
    let mut x = r.tensor(dtype, &shape);
    if let (LogSum, Some(v)) = (kind, x.as_f32_mut()) {
        v.iter_mut().for_each(|v| *v = v.abs() + 0.1);
    }
    if let (Sum | Mean, Some(v)) = (kind, x.as_f32_mut()) {
        // No cancelling digits.
        v.iter_mut().for_each(|v| *v = v.abs());
    }
    (Op::Reduce { kind, axes, keep_dims: r.flip() }, vec![x])
}

/// Few different values, so that there are ties.
fn with_ties(r: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let mut x = r.tensor(dtype, shape);
    if let Some(v) = x.as_f32_mut() {
        v.iter_mut().for_each(|v| *v = v.round());
    }
    x
}

pub fn arg_reduce(r: &mut Random) -> Case {
    let mut shape = r.shape(1, 4);
    let axis = r.below(shape.len());
    shape[axis] = shape[axis].max(1);
    let dtype = r.pick(&[F32, I64, I32, I8, U8, Bool]);
    let op = Op::ArgReduce { axis, min: r.flip(), keep_dims: r.flip(), select_last: r.flip() };
    (op, vec![with_ties(r, dtype, &shape)])
}

pub fn top_k(r: &mut Random) -> Case {
    let shape = r.shape(1, 4);
    let axis = r.below(shape.len());
    let dtype = r.pick(&[F32, I64, I32, I8, U8]);
    let k = r.below(shape[axis] + 1);
    let op = Op::TopK { k, axis, largest: r.flip(), sorted: true };
    (op, vec![with_ties(r, dtype, &shape)])
}

pub fn cast(r: &mut Random) -> Case {
    let all = [F32, F16, I64, I32, I8, U8, Bool];
    let (from, to) = (r.pick(&all), r.pick(&all));
    let shape = r.shape(0, 3);
    let mut x = r.tensor(from, &shape);
    let unsigned = to == U8;
    if unsigned || to == F16 {
        // Values that every type has.
        let values = x.to_f64().iter().map(|v| v.abs().round() as f32).collect();
        let whole = Tensor::f32(x.shape(), values);
        x = tobiuo_cpu::evaluate(&Op::Cast { to: from }, &[&whole]).unwrap().remove(0);
    }
    (Op::Cast { to }, vec![x])
}

pub fn layer_norm(r: &mut Random) -> Case {
    let mut shape = r.shape(1, 4);
    shape.iter_mut().skip(1).for_each(|d| *d = (*d).max(2));
    let axis = r.below(shape.len());
    let inner = shape[axis..].to_vec();
    let inputs = vec![r.tensor(F32, &shape), r.tensor(F32, &inner), r.tensor(F32, &inner)];
    (Op::LayerNorm { axis, epsilon: 1e-2 }, inputs)
}

pub fn instance_norm(r: &mut Random) -> Case {
    let shape = r.shape(3, 5);
    let c = [shape[1]];
    let inputs = vec![r.tensor(F32, &shape), r.tensor(F32, &c), r.tensor(F32, &c)];
    (Op::InstanceNorm { epsilon: 1e-2 }, inputs)
}

pub fn lrn(r: &mut Random) -> Case {
    let shape = r.shape(2, 4);
    let op = Op::Lrn {
        size: r.below(7) + 1,
        alpha: r.uniform(0.0, 2.0),
        beta: r.pick(&[0.75, 0.5, 1.0, 0.3]),
        bias: 1.0,
    };
    (op, vec![r.tensor(F32, &shape)])
}

pub fn large() -> Vec<Case> {
    let r = &mut Random::new(1);
    let reduce = |kind, axes: &[usize]| Op::Reduce { kind, axes: axes.into(), keep_dims: true };
    let resize = |sizes: &[usize], scales: &[f32], mode| {
        let coordinates = Coordinates::HalfPixel;
        Op::Resize(Resize { sizes: sizes.into(), scales: scales.into(), mode, coordinates })
    };
    let floor = ResizeMode::Nearest { rounding: NearestRounding::Floor };
    let linear = ResizeMode::Linear { antialias: false };
    let add = Op::Binary { kind: Binary::Add, activation: Some(Activation::Relu) };
    let mul = Op::Binary { kind: Binary::Mul, activation: None };
    let picture = [1, 3, 150, 201];
    let mut t = |shape: &[usize]| r.tensor(F32, shape);
    let mut cases = vec![
        (add, vec![t(&[3, 151, 201]), t(&[3, 151, 201])]),
        (mul.clone(), vec![t(&[1, 4, 33_000]), t(&[1, 33_000])]),
        (mul, vec![t(&[90_001]), t(&[])]),
        (Op::Unary(Unary::Exp), vec![t(&[100_003])]),
        (Op::Softmax { axis: 2, log: false }, vec![t(&[1, 4, 16, 2100])]),
        (Op::Softmax { axis: 1, log: true }, vec![t(&[1, 16, 4, 2100])]),
        (Op::Softmax { axis: 1, log: false }, vec![t(&[20, 450])]),
        (Op::Concat { axis: 1 }, vec![t(&[1, 4, 20_000]), t(&[1, 3, 20_000])]),
        (Op::Concat { axis: 2 }, vec![t(&[40, 3, 700]), t(&[40, 3, 301])]),
        (Op::Transpose { perm: vec![0, 2, 1] }, vec![t(&[1, 84, 2100])]),
        (Op::Transpose { perm: vec![0, 2, 3, 1] }, vec![t(&picture)]),
        (Op::Transpose { perm: vec![0, 3, 1, 2] }, vec![t(&[1, 150, 201, 3])]),
        (Op::Transpose { perm: vec![3, 1, 2, 0] }, vec![t(&[31, 5, 7, 101])]),
        (Op::Transpose { perm: vec![0, 2, 1, 3] }, vec![t(&[1, 4, 16, 2100])]),
        (
            Op::Slice(Slice {
                starts: vec![0, 1, 149, 0],
                steps: vec![1, 1, -1, 2],
                lens: vec![1, 2, 150, 100],
            }),
            vec![t(&[1, 4, 150, 201])],
        ),
        (resize(&[1, 3, 300, 402], &[1.0, 1.0, 2.0, 2.0], floor), vec![t(&picture)]),
        (resize(&[1, 3, 300, 402], &[1.0, 1.0, 2.0, 2.0], linear), vec![t(&picture)]),
        (resize(&[1, 3, 75, 100], &[1.0, 1.0, 0.5, 0.5], linear), vec![t(&picture)]),
        (
            Op::Pad(Pad {
                begins: vec![0, 0, 2, 3],
                ends: vec![0, 0, 1, 4],
                mode: PadMode::Constant { value: 1.5 },
            }),
            vec![t(&picture)],
        ),
        (Op::Lrn { size: 5, alpha: 1e-4, beta: 0.75, bias: 2.0 }, vec![t(&[1, 6, 90, 101])]),
    ];
    // The plain reduction looks at every input element for every output element.
    for axes in [&[2, 3][..], &[0, 1, 2, 3]] {
        cases.push((reduce(Reduce::Mean, axes), vec![t(&[1, 5, 160, 161])]));
        cases.push((reduce(Reduce::Max, axes), vec![t(&[1, 5, 160, 161])]));
    }
    cases.push((reduce(Reduce::SumSquare, &[0]), vec![t(&[4000, 19])]));
    cases.push((reduce(Reduce::LogSumExp, &[1]), vec![t(&[3, 4000, 7])]));
    cases
}
