//! Rows normalised: `cuda/norm.cu`.

use serde::{Deserialize, Serialize};

use super::{candidates, elements, types};
use crate::defines::float;
use crate::memory::each_index;
use crate::reference::{load_at, store};
use crate::strided::{Strided, Walk, loaded, stored};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/norm.cu");

/// Rows brought to mean 0 and variance 1, then scaled and shifted. Inputs: x, scale, bias.
/// Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormLayer {
    /// Extents of the axes that stay apart.
    pub kept: Vec<usize>,
    /// Extents of the axes that are normalised together.
    pub row: Vec<usize>,
    /// Over the kept axes, then the row's.
    pub x: Strided,
    /// As x.
    pub scale: Strided,
    /// As x.
    pub bias: Strided,
    /// As x.
    pub y: Strided,
    /// Added to the variance.
    #[serde(with = "tobiuo_ops::float")]
    pub epsilon: f32,
}

impl NormLayer {
    fn dims(&self) -> Vec<usize> {
        [&self.kept[..], &self.row].concat()
    }

    fn operands(&self) -> [&Strided; 4] {
        [&self.x, &self.scale, &self.bias, &self.y]
    }
}

impl Family for NormLayer {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let (n, dims) = (self.kept.len(), self.dims());
        let (kept, _) = Walk::new(&self.kept, 0..n, &self.operands()).simplified(&[]);
        let (row, _) = Walk::new(&self.row, n..dims.len(), &self.operands()).simplified(&[]);
        let row_x = Walk { dims: row.dims.clone(), strides: vec![row.strides[0].clone()] };
        let names = ["X", "S", "B", "Y"];
        let operands: Vec<(&str, &Strided, usize)> = (0..4)
            .map(|i| (names[i], self.operands()[i], elements(self.operands()[i], &dims)))
            .collect();
        let shape = [kept.total(), row.total()];
        let bytes = self.x.bytes(&dims) + self.y.bytes(&dims);
        let arguments =
            [Argument::Input(0), Argument::Input(1), Argument::Input(2), Argument::Output(0)];
        candidates(target, shape, bytes, false, SOURCE, &arguments, |d| {
            d.all(&[
                ("X_OFFSET", self.x.offset),
                ("S_OFFSET", self.scale.offset),
                ("B_OFFSET", self.bias.offset),
                ("Y_OFFSET", self.y.offset),
            ])
            .set("EPSILON", float(self.epsilon))
            .set("LOAD(e)", loaded(self.x.dtype, "e"))
            .set("LOAD_S(e)", loaded(self.scale.dtype, "e"))
            .set("LOAD_B(e)", loaded(self.bias.dtype, "e"))
            .set("STORE(v)", stored(self.y.dtype, "v"));
            types(&operands)
                + &kept.define("KEPT", 1)
                + &row.define("ROW", 1)
                + &row_x.define("ROW_X", 1)
        })
    }

    fn extents(&self) -> Extents {
        let dims = self.dims();
        Extents {
            inputs: [&self.x, &self.scale, &self.bias].map(|o| o.bytes(&dims)).to_vec(),
            constants: vec![],
            outputs: vec![self.y.bytes(&dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let count = self.row.iter().product::<usize>() as f64;
        each_index(&self.kept, |kept| {
            let get = |of: &Strided, memory: &[u8], row: &[usize]| {
                load_at(memory, of.dtype, of.at(&[kept, row].concat()))
            };
            let (mut mean, mut variance) = (0.0, 0.0);
            each_index(&self.row, |row| mean += get(&self.x, inputs[0], row) / count);
            each_index(&self.row, |row| {
                variance += (get(&self.x, inputs[0], row) - mean).powi(2) / count;
            });
            let factor = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            each_index(&self.row, |row| {
                let v = (get(&self.x, inputs[0], row) - mean)
                    * factor
                    * get(&self.scale, inputs[1], row)
                    + get(&self.bias, inputs[2], row);
                store(&mut outputs[0], self.y.dtype, self.y.at(&[kept, row].concat()), v);
            });
        });
    }
}
