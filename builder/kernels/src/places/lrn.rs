//! Local response normalisation: `cuda/lrn.cu`.

use serde::{Deserialize, Serialize};

use super::{candidates, types};
use crate::defines::float;
use crate::memory::each_index;
use crate::reference::{load_at, store};
use crate::strided::{Strided, Walk, loaded, stored};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/lrn.cu");

/// `x / (bias + alpha * sum of squares of `size` neighbouring channels)^beta`. Input: x.
/// Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrnLayer {
    /// Extents; axis 1 is the channels.
    pub dims: Vec<usize>,
    /// Over the axes.
    pub x: Strided,
    /// Over the axes.
    pub y: Strided,
    /// Channels in the window.
    pub size: usize,
    /// Scale of the sum.
    #[serde(with = "tobiuo_ops::float")]
    pub alpha: f32,
    /// Exponent.
    #[serde(with = "tobiuo_ops::float")]
    pub beta: f32,
    /// Offset.
    #[serde(with = "tobiuo_ops::float")]
    pub bias: f32,
}

impl LrnLayer {
    /// ONNX: `floor((size - 1) / 2)` channels before, `ceil((size - 1) / 2)` behind; no more
    /// than there are.
    fn reach(&self) -> (usize, usize) {
        ((self.size - 1) / 2, self.size / 2)
    }
}

impl Family for LrnLayer {
    fn name(&self) -> &'static str {
        "lrn"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let walk = Walk::new(&self.dims, 0..self.dims.len(), &[&self.x, &self.y]);
        let (walk, axes) = walk.simplified(&[1]);
        let e = self.extents();
        let (before, after) = self.reach();
        let channels = self.dims[1];
        let bytes = e.inputs[0] + e.outputs[0];
        let arguments = [Argument::Input(0), Argument::Output(0)];
        candidates(target, [walk.total(), 1], bytes, SOURCE, &arguments, |d, v| {
            d.all(&[
                ("X_OFFSET", self.x.offset),
                ("Y_OFFSET", self.y.offset),
                ("CHANNELS", channels),
                ("BEFORE", before.min(channels)),
                ("AFTER", after.min(channels)),
            ])
            .set("PLACE", format!("LOCATE_k{}", axes[0]))
            .set("STEP", format!("({})", self.x.strides[1]))
            .set("ALPHA", float(self.alpha))
            .set("BIAS", float(self.bias))
            .set("BETA", float(self.beta))
            .set("BETA_KIND", if self.beta == 0.75 { 3 } else { 2 * u8::from(self.beta == 0.5) })
            .set("LOAD(e)", loaded(self.x.dtype, "e"))
            .set("STORE(v)", stored(self.y.dtype, "v"));
            types(&[("X", &self.x), ("Y", &self.y)], &[e.inputs[0], e.outputs[0]])
                + &walk.define("LOCATE", v)
        })
    }

    fn extents(&self) -> Extents {
        Extents {
            inputs: vec![self.x.bytes(&self.dims)],
            constants: vec![],
            outputs: vec![self.y.bytes(&self.dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let (before, after) = self.reach();
        each_index(&self.dims, |i| {
            let mut at = i.to_vec();
            let mut value = |c: usize| {
                at[1] = c;
                load_at(inputs[0], self.x.dtype, self.x.at(&at))
            };
            let last = i[1].saturating_add(after).min(self.dims[1] - 1);
            let squares: f64 = (i[1].saturating_sub(before)..=last).map(|c| value(c).powi(2)).sum();
            let t = f64::from(self.bias) + f64::from(self.alpha) * squares;
            let result = value(i[1]) / t.powf(self.beta.into());
            store(&mut outputs[0], self.y.dtype, self.y.at(i), result);
        });
    }
}
