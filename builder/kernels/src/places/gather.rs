//! An operand indexed by numbers in memory: `cuda/gather.cu`.

use serde::{Deserialize, Serialize};

use super::{candidates, converted, copy, types};
use crate::memory::{each_index, reach, read_integer};
use crate::strided::{Strided, Walk};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/gather.cu");

/// x indexed along an axis; indices out of range give zeros. Inputs: x, indices. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatherLayer {
    /// Extents of the result.
    pub dims: Vec<usize>,
    /// Over the result's axes, without the place that the index gives.
    pub x: Strided,
    /// Elements of x along the axis.
    pub length: usize,
    /// Elements from one place along the axis to the next.
    pub step: i64,
    /// i64 or i32, over the result's axes.
    pub indices: Strided,
    /// Over the result's axes.
    pub y: Strided,
}

impl GatherLayer {
    fn x_bytes(&self) -> usize {
        let dims = [&self.dims[..], &[self.length]].concat();
        let strides = [&self.x.strides[..], &[self.step]].concat();
        reach(self.x.offset, &dims, &strides) * self.x.dtype.size()
    }
}

impl Family for GatherLayer {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let operands = [&self.x, &self.indices, &self.y];
        let (walk, _) = Walk::new(&self.dims, 0..self.dims.len(), &operands).simplified(&[]);
        // Neighbours that are taken together have one index.
        let shared = walk.strides[1].last() == Some(&0);
        let step = self.step.unsigned_abs() as usize;
        let most = if shared { 1 << step.trailing_zeros().min(3) } else { 1 };
        let whole = [operands[0], operands[2]];
        let both = Walk {
            dims: walk.dims.clone(),
            strides: vec![walk.strides[0].clone(), walk.strides[2].clone()],
        };
        let contiguous = both.strides[0].last() == Some(&1);
        let widest = if contiguous { both.vector(&whole, most) } else { 1 };
        let e = self.extents();
        let bytes = 2 * e.outputs[0];
        let arguments = [Argument::Input(0), Argument::Input(1), Argument::Output(0)];
        candidates(target, [walk.total(), widest], bytes, SOURCE, &arguments, |d, v| {
            d.all(&[
                ("X_OFFSET", self.x.offset),
                ("I_OFFSET", self.indices.offset),
                ("Y_OFFSET", self.y.offset),
                ("LENGTH", self.length),
            ])
            .set("STEP", format!("({})", self.step))
            .set("CONVERT(e)", converted(self.x.dtype, self.y.dtype));
            let names = [("X", &self.x), ("I", &self.indices), ("Y", &self.y)];
            types(&names, &[e.inputs[0], e.inputs[1], e.outputs[0]]) + &walk.define("LOCATE", v)
        })
    }

    fn extents(&self) -> Extents {
        Extents {
            inputs: vec![self.x_bytes(), self.indices.bytes(&self.dims)],
            constants: vec![],
            outputs: vec![self.y.bytes(&self.dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&self.dims, |i| {
            let index = read_integer(inputs[1], self.indices.dtype, self.indices.at(i));
            let place = if index < 0 { index.wrapping_add(self.length as i64) } else { index };
            let y = self.y.at(i);
            if (0..self.length as i64).contains(&place) {
                let x = (self.x.at(i) as i64 + place * self.step) as usize;
                copy((inputs[0], self.x.dtype, x), (&mut outputs[0], self.y.dtype, y));
            } else {
                let size = self.y.dtype.size();
                outputs[0][y * size..][..size].fill(0);
            }
        });
    }
}
