//! Copies by tables of places: `cuda/remap.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{candidates, converted, copy, types};
use crate::defines::float;
use crate::memory::{each_index, reach, read_integer, store_integer};
use crate::reference::store;
use crate::strided::{Strided, Walk};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/remap.cu");

/// A copy in which tables say, for some axes, which place of x each place of y is a copy of.
/// Input: x. Constants: one table (i32) per axis that has one; a negative entry means no place,
/// and the element has the fixed value. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemapLayer {
    /// Extents of the result.
    pub dims: Vec<usize>,
    /// Extents of x; the result's where an axis has no table.
    pub from: Vec<usize>,
    /// Axes with a table, ascending.
    pub tables: Vec<usize>,
    /// Over the axes of x.
    pub x: Strided,
    /// Over the axes of the result; of x's type, or f16 for f32 or f32 for f16.
    pub y: Strided,
    /// Where there is no place in x.
    #[serde(with = "tobiuo_ops::float")]
    pub fixed: f32,
}

impl RemapLayer {
    fn fixed_code(&self) -> String {
        match self.y.dtype {
            DType::F32 => float(self.fixed),
            DType::F16 => format!("to_f16({})", float(self.fixed)),
            dtype => format!("(Y){}ll", fixed_integer(dtype, self.fixed)),
        }
    }
}

/// As the CPU device casts the value; the smallest i64 is no literal, the next one is near.
fn fixed_integer(dtype: DType, value: f32) -> i64 {
    match dtype {
        DType::I64 => (value as i64).max(i64::MIN + 1),
        DType::I32 => (value as i32).into(),
        DType::I8 => (value as i8).into(),
        DType::U8 => (value as u8).into(),
        _ => i64::from(value != 0.0),
    }
}

impl Family for RemapLayer {
    fn name(&self) -> &'static str {
        "remap"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let mut plain = self.x.clone();
        self.tables.iter().for_each(|&axis| plain.strides[axis] = 0);
        let walk = Walk::new(&self.dims, 0..self.dims.len(), &[&plain, &self.y]);
        let (walk, axes) = walk.simplified(&self.tables);
        let last_is_table = axes.contains(&walk.dims.len().wrapping_sub(1));
        let contiguous = !last_is_table && walk.strides[0].last() == Some(&1);
        // Places that tables give are as aligned as their strides.
        let strides =
            self.tables.iter().map(|&a| self.x.strides[a].unsigned_abs().trailing_zeros());
        let most = if contiguous { 1 << strides.min().unwrap_or(4).min(4) } else { 1 };
        let widest = walk.vector(&[&plain, &self.y], most);
        let e = self.extents();
        let mut arguments = vec![Argument::Input(0), Argument::Output(0)];
        arguments.extend((0..self.tables.len()).map(Argument::Constant));
        let bytes = 2 * e.outputs[0];
        candidates(target, [walk.total(), widest], bytes, SOURCE, &arguments, |d, v| {
            let (mut parameters, mut look) = (String::new(), String::new());
            for (n, (&axis, &at)) in self.tables.iter().zip(&axes).enumerate() {
                parameters.push_str(&format!(", const int* __restrict__ t{n}"));
                look.push_str(&format!(
                    " int p{n} = t{n}[LOCATE_k{at}]; inside = inside && p{n} >= 0; ox += \
                     (Offset)p{n} * ({});",
                    self.x.strides[axis]
                ));
            }
            d.all(&[("X_OFFSET", self.x.offset), ("Y_OFFSET", self.y.offset)])
                .set("TABLE_PARAMETERS", parameters)
                .set("TABLES(inside, ox)", look)
                .set("FIXED", self.fixed_code())
                .set("CONVERT(e)", converted(self.x.dtype, self.y.dtype));
            types(&[("X", &self.x), ("Y", &self.y)], &[e.inputs[0], e.outputs[0]])
                + &walk.define("LOCATE", v)
        })
    }

    fn extents(&self) -> Extents {
        let x = reach(self.x.offset, &self.from, &self.x.strides);
        Extents {
            inputs: vec![x * self.x.dtype.size()],
            constants: self.tables.iter().map(|&axis| 4 * self.dims[axis]).collect(),
            outputs: vec![self.y.bytes(&self.dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], constants: &[&[u8]], outputs: &mut [Vec<u8>]) {
        each_index(&self.dims, |i| {
            let mut from: Vec<i64> = i.iter().map(|&k| k as i64).collect();
            for (&axis, table) in self.tables.iter().zip(constants) {
                from[axis] = read_integer(table, DType::I32, i[axis]);
            }
            let (y, to) = (self.y.at(i), self.y.dtype);
            if from.iter().all(|&k| k >= 0) {
                let from: Vec<usize> = from.iter().map(|&k| k as usize).collect();
                copy((inputs[0], self.x.dtype, self.x.at(&from)), (&mut outputs[0], to, y));
            } else if to.is_float() {
                store(&mut outputs[0], to, y, self.fixed.into());
            } else {
                store_integer(&mut outputs[0], to, y, fixed_integer(to, self.fixed));
            }
        });
    }
}
