//! One axis resampled by weighted sums: `cuda/resample.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{candidates, types};
use crate::defines::float;
use crate::memory::{each_index, reach, read_integer};
use crate::reference::{load_at, store};
use crate::strided::{Strided, Walk, loaded, stored};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/resample.cu");

/// One axis resampled: each place of y is a weighted sum of `taps` neighbours in x. Input: x.
/// Constants: the first neighbour of each place (i32; negative: none, the element is
/// `extrapolation`), the weights (f32, `taps` for each place). Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResampleLayer {
    /// Extents of the result.
    pub dims: Vec<usize>,
    /// The axis.
    pub axis: usize,
    /// Elements of x along it.
    pub length: usize,
    /// Neighbours in a sum.
    pub taps: usize,
    /// Over the axes of x.
    pub x: Strided,
    /// Over the axes of the result.
    pub y: Strided,
    /// Where there is no neighbour.
    #[serde(with = "tobiuo_ops::float")]
    pub extrapolation: f32,
}

impl Family for ResampleLayer {
    fn name(&self) -> &'static str {
        "resample"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let mut plain = self.x.clone();
        plain.strides[self.axis] = 0;
        let step = self.x.strides[self.axis];
        let walk = Walk::new(&self.dims, 0..self.dims.len(), &[&plain, &self.y]);
        let (walk, axes) = walk.simplified(&[self.axis]);
        let contiguous = axes[0] + 1 != walk.dims.len() && walk.strides[0].last() == Some(&1);
        let most = if contiguous { 1 << step.unsigned_abs().trailing_zeros().min(3) } else { 1 };
        let widest = walk.vector(&[&plain, &self.y], most);
        let e = self.extents();
        let arguments =
            [Argument::Input(0), Argument::Output(0), Argument::Constant(0), Argument::Constant(1)];
        let bytes = e.inputs[0] + e.outputs[0];
        candidates(target, [walk.total(), widest], bytes, SOURCE, &arguments, |d, v| {
            let all =
                [("X_OFFSET", self.x.offset), ("Y_OFFSET", self.y.offset), ("TAPS", self.taps)];
            d.all(&all)
                .set("PLACE", format!("LOCATE_k{}", axes[0]))
                .set("STEP", format!("({step})"))
                .set("EXTRAPOLATION", float(self.extrapolation))
                .set("LOAD(e)", loaded(self.x.dtype, "e"))
                .set("STORE(v)", stored(self.y.dtype, "v"));
            types(&[("X", &self.x), ("Y", &self.y)], &[e.inputs[0], e.outputs[0]])
                + &walk.define("LOCATE", v)
        })
    }

    fn extents(&self) -> Extents {
        let mut from = self.dims.clone();
        from[self.axis] = self.length;
        let x = reach(self.x.offset, &from, &self.x.strides);
        let places = self.dims[self.axis];
        Extents {
            inputs: vec![x * self.x.dtype.size()],
            constants: vec![4 * places, 4 * places * self.taps],
            outputs: vec![self.y.bytes(&self.dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&self.dims, |i| {
            let place = i[self.axis];
            let start = read_integer(constants[0], DType::I32, place);
            let mut from = i.to_vec();
            let value = if start < 0 {
                self.extrapolation.into()
            } else {
                (0..self.taps)
                    .map(|t| {
                        from[self.axis] = start as usize + t;
                        load_at(constants[1], DType::F32, place * self.taps + t)
                            * load_at(inputs[0], self.x.dtype, self.x.at(&from))
                    })
                    .sum()
            };
            store(&mut outputs[0], self.y.dtype, self.y.at(i), value);
        });
    }
}
