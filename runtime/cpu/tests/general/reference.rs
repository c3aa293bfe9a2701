//! Plain forms of the operators: loops over indices, in f64, one formula each. Slow and
//! obviously right; the kernels are checked against them.

use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor};

use crate::reference_resize::resize;

/// A tensor as f64 (integers in tests are small enough to be exact).
#[derive(Clone, Debug)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn of(t: &Tensor) -> Array {
        Array { shape: t.shape().to_vec(), data: t.to_f64() }
    }

    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Array {
        Array { shape: shape.to_vec(), data: indices(shape).iter().map(|i| f(i)).collect() }
    }

    pub fn at(&self, index: &[usize]) -> f64 {
        assert_eq!(index.len(), self.shape.len());
        let mut place = 0;
        for (&i, &n) in index.iter().zip(&self.shape) {
            assert!(i < n, "{index:?} is outside {:?}", self.shape);
            place = place * n + i;
        }
        self.data[place]
    }

    /// The element that broadcasting puts at `index`.
    fn broadcast_at(&self, index: &[usize]) -> f64 {
        let own = &index[index.len() - self.shape.len()..];
        let own: Vec<usize> =
            own.iter().zip(&self.shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect();
        self.at(&own)
    }
}

/// Every index of a shape, in row-major order.
pub fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &n in shape {
        all = all
            .iter()
            .flat_map(|index| {
                (0..n).map(move |i| {
                    let mut longer = index.clone();
                    longer.push(i);
                    longer
                })
            })
            .collect();
    }
    all
}

fn with(index: &[usize], axis: usize, i: usize) -> Vec<usize> {
    let mut index = index.to_vec();
    index[axis] = i;
    index
}

/// The elements along an axis through `index`.
fn line(x: &Array, index: &[usize], axis: usize) -> Vec<f64> {
    (0..x.shape[axis]).map(|i| x.at(&with(index, axis, i))).collect()
}

/// The outputs of an op, `facts` being their types and shapes.
pub fn evaluate(op: &Op, inputs: &[&Tensor], facts: &[Fact]) -> Vec<Array> {
    let dtype = inputs[0].dtype();
    let xs: Vec<Array> = inputs.iter().map(|t| Array::of(t)).collect();
    let x = &xs[0];
    let shape = &*facts[0].shape;
    let each = |f: &dyn Fn(f64) -> f64| Array::from_fn(shape, |i| f(x.at(i)));
    let one = match op {
        Op::Unary(u) => each(&|v| unary(*u, v)),
        Op::Binary { kind, activation } => Array::from_fn(shape, |i| {
            let v = binary(*kind, dtype, x.broadcast_at(i), xs[1].broadcast_at(i));
            match activation {
                None => v,
                Some(Activation::Relu) => v.max(0.0),
                Some(Activation::Sigmoid) => 1.0 / (1.0 + (-v).exp()),
                Some(Activation::Clip { min, max }) => v.max((*min).into()).min((*max).into()),
                Some(other) => unimplemented!("{other:?} is not tested here"),
            }
        }),
        Op::Where => Array::from_fn(shape, |i| {
            if x.broadcast_at(i) != 0.0 { xs[1].broadcast_at(i) } else { xs[2].broadcast_at(i) }
        }),
        Op::Softmax { axis, log } => Array::from_fn(shape, |i| {
            let line = line(x, i, *axis);
            let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = line.iter().map(|v| (v - max).exp()).sum();
            let v = x.at(i) - max;
            if *log { v - sum.ln() } else { v.exp() / sum }
        }),
        Op::Concat { axis } => Array::from_fn(shape, |i| {
            let mut place = i[*axis];
            for x in &xs {
                if place < x.shape[*axis] {
                    return x.at(&with(i, *axis, place));
                }
                place -= x.shape[*axis];
            }
            unreachable!("the inputs together are as long as the output")
        }),
        Op::Slice(s) => Array::from_fn(shape, |i| {
            let source = |a: usize| (s.starts[a] as i64 + s.steps[a] * i[a] as i64) as usize;
            x.at(&(0..i.len()).map(source).collect::<Vec<_>>())
        }),
        Op::Gather { axis } => Array::from_fn(shape, |i| {
            let rank = xs[1].shape.len();
            let chosen = xs[1].at(&i[*axis..axis + rank]);
            let len = x.shape[*axis] as f64;
            let chosen = if chosen < 0.0 { chosen + len } else { chosen };
            if !(0.0..len).contains(&chosen) {
                return 0.0;
            }
            let mut index = i[..*axis].to_vec();
            index.push(chosen as usize);
            index.extend(&i[axis + rank..]);
            x.at(&index)
        }),
        Op::Reshape { .. } => Array { shape: shape.to_vec(), data: x.data.clone() },
        Op::Transpose { perm } => Array::from_fn(shape, |i| {
            let mut index = vec![0; i.len()];
            for (axis, &p) in perm.iter().enumerate() {
                index[p] = i[axis];
            }
            x.at(&index)
        }),
        Op::Expand { .. } => Array::from_fn(shape, |i| x.broadcast_at(i)),
        Op::Tile { .. } => Array::from_fn(shape, |i| {
            x.at(&i.iter().zip(&x.shape).map(|(i, n)| i % n).collect::<Vec<_>>())
        }),
        Op::Pad(p) => pad(p, x, shape),
        Op::Resize(r) => resize(r, x),
        Op::Reduce { kind, axes, keep_dims } => reduce(*kind, axes, *keep_dims, x, shape, dtype),
        Op::ArgReduce { axis, min, keep_dims, select_last } => Array::from_fn(shape, |i| {
            let mut index = i.to_vec();
            if !keep_dims {
                index.insert(*axis, 0);
            }
            let mut best = 0;
            let line = line(x, &index, *axis);
            for (n, &v) in line.iter().enumerate() {
                let better = if *min { v < line[best] } else { v > line[best] };
                if better || (*select_last && v == line[best]) {
                    best = n;
                }
            }
            best as f64
        }),
        Op::TopK { axis, largest, .. } => {
            let order = |i: &[usize]| {
                let line = line(x, i, *axis);
                let mut order: Vec<usize> = (0..line.len()).collect();
                // A stable sort: of equal elements the first stays first.
                order.sort_by(|&a, &b| {
                    let ascending = line[a].partial_cmp(&line[b]).unwrap();
                    if *largest { ascending.reverse() } else { ascending }
                });
                order[i[*axis]]
            };
            let values = Array::from_fn(shape, |i| x.at(&with(i, *axis, order(i))));
            let places = Array::from_fn(shape, |i| order(i) as f64);
            return vec![values, places];
        }
        Op::Cast { to } => each(&|v| match to {
            DType::Bool => f64::from(v != 0.0),
            DType::F32 | DType::F16 => v,
            _ => v.trunc(),
        }),
        Op::LayerNorm { axis, epsilon } => Array::from_fn(shape, |i| {
            let elements: Vec<f64> = indices(&x.shape[*axis..])
                .iter()
                .map(|j| x.at(&[&i[..*axis], j].concat()))
                .collect();
            normal(x.at(i), &elements, *epsilon) * xs[1].at(&i[*axis..]) + xs[2].at(&i[*axis..])
        }),
        Op::InstanceNorm { epsilon } => Array::from_fn(shape, |i| {
            let elements: Vec<f64> =
                indices(&x.shape[2..]).iter().map(|j| x.at(&[&i[..2], j].concat())).collect();
            normal(x.at(i), &elements, *epsilon) * xs[1].at(&i[1..2]) + xs[2].at(&i[1..2])
        }),
        Op::Lrn { size, alpha, beta, bias } => Array::from_fn(shape, |i| {
            let c = i[1] as i64;
            let (before, after) = ((*size as i64 - 1) / 2, *size as i64 / 2);
            let sum: f64 = (c - before..=c + after)
                .filter(|w| (0..x.shape[1] as i64).contains(w))
                .map(|w| x.at(&with(i, 1, w as usize)).powi(2))
                .sum();
            let (alpha, beta, bias) = (f64::from(*alpha), f64::from(*beta), f64::from(*bias));
            x.at(i) / (bias + alpha / *size as f64 * sum).powf(beta)
        }),
        other => unimplemented!("{} is tested elsewhere", other.name()),
    };
    vec![one]
}

fn normal(x: f64, all: &[f64], epsilon: f32) -> f64 {
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
    (x - mean) / (variance + f64::from(epsilon)).sqrt()
}

fn unary(u: Unary, v: f64) -> f64 {
    match u {
        Unary::Exp => v.exp(),
        Unary::Log => v.ln(),
        Unary::Sqrt => v.sqrt(),
        Unary::Abs => v.abs(),
        Unary::Neg => -v,
        Unary::Reciprocal => 1.0 / v,
        Unary::Floor => v.floor(),
        Unary::Ceil => v.ceil(),
        Unary::Round => v.round_ties_even(),
        Unary::Sign => f64::from(u8::from(v > 0.0)) - f64::from(u8::from(v < 0.0)),
        Unary::Sin => v.sin(),
        Unary::Cos => v.cos(),
        Unary::Not => f64::from(v == 0.0),
        other => unimplemented!("{other:?}"),
    }
}

fn binary(kind: Binary, dtype: DType, a: f64, b: f64) -> f64 {
    let truth = f64::from;
    let zero_division = !dtype.is_float() && b == 0.0;
    match kind {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::Mod | Binary::FMod if zero_division => 0.0,
        Binary::Div if dtype.is_float() => a / b,
        Binary::Div => (a / b).trunc(),
        Binary::Pow if dtype.is_float() => a.powf(b),
        Binary::Pow => a.powf(b).trunc(),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::Mod => a - b * (a / b).floor(),
        Binary::FMod => a - b * (a / b).trunc(),
        Binary::Equal => truth(a == b),
        Binary::Less => truth(a < b),
        Binary::LessOrEqual => truth(a <= b),
        Binary::Greater => truth(a > b),
        Binary::GreaterOrEqual => truth(a >= b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
        Binary::Xor => truth((a != 0.0) != (b != 0.0)),
        other => unimplemented!("{other:?}"),
    }
}

fn reduce(
    kind: Reduce,
    axes: &[usize],
    keep_dims: bool,
    x: &Array,
    shape: &[usize],
    dtype: DType,
) -> Array {
    Array::from_fn(shape, |out| {
        // Every input element whose kept axes are this output element's.
        let elements: Vec<f64> = indices(&x.shape)
            .into_iter()
            .filter(|i| {
                let kept: Vec<usize> = (0..i.len())
                    .filter(|a| keep_dims || !axes.contains(a))
                    .map(|a| if axes.contains(&a) { 0 } else { i[a] })
                    .collect();
                kept == out
            })
            .map(|i| x.at(&i))
            .collect();
        let sum = |f: &dyn Fn(f64) -> f64| elements.iter().map(|&v| f(v)).sum::<f64>();
        let (lowest, highest) = match dtype {
            DType::F32 => (f64::NEG_INFINITY, f64::INFINITY),
            DType::I64 => (i64::MIN as f64, i64::MAX as f64),
            DType::I32 => (i32::MIN.into(), i32::MAX.into()),
            DType::I8 => (-128.0, 127.0),
            DType::U8 => (0.0, 255.0),
            _ => (0.0, 1.0),
        };
        match kind {
            Reduce::Mean if dtype.is_float() => sum(&|v| v) / elements.len() as f64,
            Reduce::Mean if elements.is_empty() => 0.0,
            Reduce::Mean => (sum(&|v| v) / elements.len() as f64).trunc(),
            Reduce::Sum => sum(&|v| v),
            Reduce::Max => elements.iter().copied().fold(lowest, f64::max),
            Reduce::Min => elements.iter().copied().fold(highest, f64::min),
            Reduce::Prod => elements.iter().product(),
            Reduce::L1 => sum(&f64::abs),
            Reduce::L2 => sum(&|v| v * v).sqrt(),
            Reduce::SumSquare => sum(&|v| v * v),
            Reduce::LogSum => sum(&|v| v).ln(),
            Reduce::LogSumExp => sum(&f64::exp).ln(),
            other => unimplemented!("{other:?}"),
        }
    })
}

fn pad(p: &Pad, x: &Array, shape: &[usize]) -> Array {
    Array::from_fn(shape, |out| {
        let mut index = Vec::new();
        for (axis, &i) in out.iter().enumerate() {
            // First what negative pads leave of the axis, then walk to the element step by
            // step, turning round or jumping at the ends.
            let first = (-p.begins[axis]).max(0);
            let last = x.shape[axis] as i64 - 1 - (-p.ends[axis]).max(0);
            let mut at = i as i64 - p.begins[axis];
            let outside = |at: i64| at < first || at > last;
            while outside(at) {
                at = match p.mode {
                    PadMode::Constant { value } => return value.into(),
                    PadMode::Edge => at.clamp(first, last),
                    PadMode::Wrap if at < first => at + (last - first + 1),
                    PadMode::Wrap => at - (last - first + 1),
                    PadMode::Reflect if first == last => first,
                    PadMode::Reflect if at < first => 2 * first - at,
                    PadMode::Reflect => 2 * last - at,
                };
            }
            index.push(at as usize);
        }
        x.at(&index)
    })
}
