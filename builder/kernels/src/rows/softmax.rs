//! Softmax over one axis: `cuda/softmax.cu`.

use serde::{Deserialize, Serialize};

use super::{candidates, elements, is_f16, types};
use crate::memory::{each_index, upper};
use crate::reference::{load_at, store};
use crate::strided::{Strided, Walk, loaded, stored};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/softmax.cu");

/// Softmax or its logarithm. Input: x. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftmaxLayer {
    /// Extents of the other axes.
    pub kept: Vec<usize>,
    /// Elements along the axis.
    pub axis: usize,
    /// Over the other axes, then the axis.
    pub x: Strided,
    /// As x.
    pub y: Strided,
    /// The logarithm.
    pub log: bool,
}

impl SoftmaxLayer {
    fn dims(&self) -> Vec<usize> {
        [&self.kept[..], &[self.axis]].concat()
    }
}

impl Family for SoftmaxLayer {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let (n, dims) = (self.kept.len(), self.dims());
        let (kept, _) = Walk::new(&self.kept, 0..n, &[&self.x, &self.y]).simplified(&[]);
        let operands =
            [("X", &self.x, elements(&self.x, &dims)), ("Y", &self.y, elements(&self.y, &dims))];
        let shape = [kept.total(), self.axis];
        let bytes = self.x.bytes(&dims) + self.y.bytes(&dims);
        let arguments = [Argument::Input(0), Argument::Output(0)];
        let fast = is_f16(&[&self.y]);
        candidates(target, shape, bytes, fast, SOURCE, &arguments, |d| {
            d.all(&[("X_OFFSET", self.x.offset), ("Y_OFFSET", self.y.offset)])
                .set("LOGARITHM", u8::from(self.log))
                .set("X_STEP", format!("({})", self.x.strides[n]))
                .set("Y_STEP", format!("({})", self.y.strides[n]))
                .set("LOAD(e)", loaded(self.x.dtype, "e"))
                .set("STORE(v)", stored(self.y.dtype, "v"));
            types(&operands) + &kept.define("KEPT", 1)
        })
    }

    fn extents(&self) -> Extents {
        let dims = self.dims();
        Extents {
            inputs: vec![self.x.bytes(&dims)],
            constants: vec![],
            outputs: vec![self.y.bytes(&dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&self.kept, |kept| {
            let place = |of: &Strided, i: usize| of.at(&[kept, &[i]].concat());
            let row: Vec<f64> = (0..self.axis)
                .map(|i| load_at(inputs[0], self.x.dtype, place(&self.x, i)))
                .collect();
            let most = row.iter().copied().fold(f64::NEG_INFINITY, upper);
            let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
            for (i, x) in row.iter().enumerate() {
                let v = if self.log { x - most - sum.ln() } else { (x - most).exp() / sum };
                store(&mut outputs[0], self.y.dtype, place(&self.y, i), v);
            }
        });
    }
}
