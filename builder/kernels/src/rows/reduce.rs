//! Reductions over any axes: `cuda/reduce.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_ops::Reduce;
use tobiuo_tensor::DType;

use super::{candidates, elements, types};
use crate::memory::{each_index, lower, read_integer, store_integer, upper, wrap};
use crate::reference::{load_at, store};
use crate::strided::{Strided, Walk, loaded, stored, value_type};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/reduce.cu");

/// A reduction. Input: x. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReduceLayer {
    /// The function.
    pub kind: Reduce,
    /// Extents of the axes that stay.
    pub kept: Vec<usize>,
    /// Extents of the axes that are reduced.
    pub reduced: Vec<usize>,
    /// Over the kept axes, then the reduced ones.
    pub x: Strided,
    /// Over the kept axes.
    pub y: Strided,
}

impl ReduceLayer {
    fn dims(&self) -> Vec<usize> {
        [&self.kept[..], &self.reduced].concat()
    }
}

fn lowest(dtype: DType) -> i64 {
    match dtype {
        DType::I64 => i64::MIN,
        DType::I32 => i32::MIN.into(),
        DType::I8 => i8::MIN.into(),
        _ => 0,
    }
}

fn highest(dtype: DType) -> i64 {
    match dtype {
        DType::I64 => i64::MAX,
        DType::I32 => i32::MAX.into(),
        DType::I8 => i8::MAX.into(),
        // What is no boolean becomes one when it is stored.
        _ => u8::MAX.into(),
    }
}

impl Family for ReduceLayer {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let (n, dims) = (self.kept.len(), self.dims());
        let (kept, _) = Walk::new(&self.kept, 0..n, &[&self.x, &self.y]).simplified(&[]);
        let (row, _) = Walk::new(&self.reduced, n..dims.len(), &[&self.x]).simplified(&[]);
        let (dtype, floats) = (self.x.dtype, self.x.dtype.is_float());
        let integer = |v: i64| format!("(long long){}ull", v as u64);
        let (join, init) = match (self.kind, floats) {
            (Reduce::Prod, _) => ("Product", "(ACC)1".to_string()),
            (Reduce::Max | Reduce::LogSumExp, true) => {
                ("Largest", "-__int_as_float(0x7f800000)".into())
            }
            (Reduce::Max, false) => ("Largest", integer(lowest(dtype))),
            (Reduce::Min, true) => ("Smallest", "__int_as_float(0x7f800000)".into()),
            (Reduce::Min, false) => ("Smallest", integer(highest(dtype))),
            _ => ("Sum", "(ACC)0".into()),
        };
        let term = match self.kind {
            Reduce::L1 => 1,
            Reduce::L2 | Reduce::SumSquare => 2,
            _ => 0,
        };
        let last = match self.kind {
            Reduce::Mean => 1,
            Reduce::L2 => 2,
            Reduce::LogSum => 3,
            _ => 0,
        };
        let operands = [
            ("X", &self.x, elements(&self.x, &dims)),
            ("Y", &self.y, elements(&self.y, &self.kept)),
        ];
        let shape = [kept.total(), row.total()];
        let bytes = self.x.bytes(&dims);
        let arguments = [Argument::Input(0), Argument::Output(0)];
        candidates(target, shape, bytes, false, SOURCE, &arguments, |d| {
            d.all(&[("TERM", term), ("LAST", last), ("FLOATS", usize::from(floats))])
                .all(&[("X_OFFSET", self.x.offset), ("Y_OFFSET", self.y.offset)])
                .set("LOG_SUM_EXP", u8::from(self.kind == Reduce::LogSumExp))
                .set("INIT", &init)
                .set("JOIN", join)
                .set("VALUE", value_type(dtype))
                .set("ACC", if floats { "float" } else { "long long" })
                .set("LOAD(e)", loaded(dtype, "e"))
                .set("STORE(v)", stored(self.y.dtype, "v"));
            types(&operands) + &kept.define("KEPT", 1) + &row.define("ROW", 1)
        })
    }

    fn extents(&self) -> Extents {
        Extents {
            inputs: vec![self.x.bytes(&self.dims())],
            constants: vec![],
            outputs: vec![self.y.bytes(&self.kept)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let count: usize = self.reduced.iter().product();
        each_index(&self.kept, |kept| {
            let mut places = Vec::with_capacity(count);
            each_index(&self.reduced, |row| places.push(self.x.at(&[kept, row].concat())));
            let y = self.y.at(kept);
            if self.x.dtype.is_float() {
                let row: Vec<f64> =
                    places.iter().map(|&i| load_at(inputs[0], self.x.dtype, i)).collect();
                store(&mut outputs[0], self.y.dtype, y, floats(self.kind, &row));
            } else {
                let one = |&i: &usize| match self.x.dtype {
                    DType::Bool => i64::from(inputs[0][i] != 0),
                    dtype => read_integer(inputs[0], dtype, i),
                };
                let row: Vec<i64> = places.iter().map(one).collect();
                let value = integers(self.kind, self.x.dtype, &row);
                store_integer(&mut outputs[0], self.y.dtype, y, value);
            }
        });
    }
}

fn floats(kind: Reduce, row: &[f64]) -> f64 {
    let sum = || row.iter().sum::<f64>();
    let squares = || row.iter().map(|x| x * x).sum::<f64>();
    match kind {
        Reduce::Mean => sum() / row.len() as f64,
        Reduce::Max => row.iter().copied().fold(f64::NEG_INFINITY, upper),
        Reduce::Min => row.iter().copied().fold(f64::INFINITY, lower),
        Reduce::Prod => row.iter().product(),
        Reduce::L1 => row.iter().map(|x| x.abs()).sum(),
        Reduce::L2 => squares().sqrt(),
        Reduce::SumSquare => squares(),
        Reduce::LogSum => sum().ln(),
        Reduce::LogSumExp => {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, upper);
            let most = if most.is_finite() { most } else { 0.0 };
            most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
        }
        _ => sum(),
    }
}

fn integers(kind: Reduce, dtype: DType, row: &[i64]) -> i64 {
    let sum = |f: fn(i64) -> i64| row.iter().fold(0i64, |a, &x| a.wrapping_add(f(x)));
    let value = match kind {
        Reduce::Mean => wrap(dtype, sum(|x| x)).checked_div(row.len() as i64).unwrap_or(0),
        Reduce::Max => row.iter().copied().max().unwrap_or(lowest(dtype)),
        Reduce::Min => row.iter().copied().min().unwrap_or(highest(dtype)),
        Reduce::Prod => row.iter().fold(1i64, |a, &x| a.wrapping_mul(x)),
        Reduce::L1 => sum(i64::wrapping_abs),
        Reduce::SumSquare => sum(|x| x.wrapping_mul(x)),
        _ => sum(|x| x),
    };
    if dtype == DType::Bool { i64::from(value != 0) } else { wrap(dtype, value) }
}
