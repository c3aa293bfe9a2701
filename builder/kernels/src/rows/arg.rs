//! The place of the largest or smallest element: `cuda/arg_reduce.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{candidates, elements, types};
use crate::memory::{each_index, read_integer, store_integer};
use crate::reference::load_at;
use crate::strided::{Strided, Walk, loaded};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/arg_reduce.cu");

/// ArgMax or ArgMin along one axis. Input: x. Output: places (i64).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgReduceLayer {
    /// Extents of the other axes.
    pub kept: Vec<usize>,
    /// Elements along the axis.
    pub axis: usize,
    /// Over the other axes, then the axis.
    pub x: Strided,
    /// Over the other axes.
    pub y: Strided,
    /// The smallest rather than the largest.
    pub min: bool,
    /// The last of equal elements rather than the first.
    pub select_last: bool,
}

impl ArgReduceLayer {
    fn dims(&self) -> Vec<usize> {
        [&self.kept[..], &[self.axis]].concat()
    }

    /// True when a later element takes the place of the best so far.
    fn wins<T: PartialOrd>(&self, new: T, best: T) -> bool {
        let nan = |v: &T| v.partial_cmp(v).is_none();
        match (nan(&new), nan(&best)) {
            (true, best_is_nan) => self.select_last || !best_is_nan,
            (false, true) => false,
            _ if new == best => self.select_last,
            _ => (new < best) == self.min,
        }
    }

    fn best<T: PartialOrd + Copy>(&self, row: &[T]) -> usize {
        (1..row.len()).fold(0, |best, i| if self.wins(row[i], row[best]) { i } else { best })
    }
}

impl Family for ArgReduceLayer {
    fn name(&self) -> &'static str {
        "arg_reduce"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let (n, dims) = (self.kept.len(), self.dims());
        let (kept, _) = Walk::new(&self.kept, 0..n, &[&self.x, &self.y]).simplified(&[]);
        let operands = [
            ("X", &self.x, elements(&self.x, &dims)),
            ("Y", &self.y, elements(&self.y, &self.kept)),
        ];
        let shape = [kept.total(), self.axis];
        let arguments = [Argument::Input(0), Argument::Output(0)];
        let bytes = self.x.bytes(&dims);
        candidates(target, shape, bytes, false, SOURCE, &arguments, |d| {
            // Small integers are shuffled as int.
            let value = match self.x.dtype {
                DType::F32 | DType::F16 => "float",
                DType::I64 => "long long",
                _ => "int",
            };
            d.all(&[("X_OFFSET", self.x.offset), ("Y_OFFSET", self.y.offset)])
                .set("SMALLEST", u8::from(self.min))
                .set("SELECT_LAST", u8::from(self.select_last))
                .set("X_STEP", format!("({})", self.x.strides[n]))
                .set("VALUE", value)
                .set("LOAD(e)", loaded(self.x.dtype, "e"));
            types(&operands) + &kept.define("KEPT", 1)
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
        each_index(&self.kept, |kept| {
            let places = (0..self.axis).map(|i| self.x.at(&[kept, &[i]].concat()));
            let best = if self.x.dtype.is_float() {
                let row: Vec<f64> = places.map(|p| load_at(inputs[0], self.x.dtype, p)).collect();
                self.best(&row)
            } else {
                let row: Vec<i64> =
                    places.map(|p| read_integer(inputs[0], self.x.dtype, p)).collect();
                self.best(&row)
            };
            store_integer(&mut outputs[0], DType::I64, self.y.at(kept), best as i64);
        });
    }
}
