//! Operands that lie in memory with any strides, and the code that finds their elements.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use crate::memory::{at, reach};

/// An operand of a general kernel: element `[i, j, ...]` of the layer's box lies
/// `offset + i * strides[0] + j * strides[1] ...` elements from its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strided {
    /// Element type.
    pub dtype: DType,
    /// Elements from the address to the element of the first index.
    pub offset: usize,
    /// Elements per index step, one per axis of the box; 0 broadcasts, negative walks back.
    pub strides: Vec<i64>,
    /// The address is a multiple of 16 bytes.
    pub aligned: bool,
}

impl Strided {
    /// Bytes from the address to behind the last element of a box.
    pub(crate) fn bytes(&self, dims: &[usize]) -> usize {
        reach(self.offset, dims, &self.strides) * self.dtype.size()
    }

    /// The element at an index, counted from the address.
    pub(crate) fn at(&self, index: &[usize]) -> usize {
        at(self.offset, &self.strides, index)
    }
}

/// A box of indices and each operand's strides in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Walk {
    pub dims: Vec<usize>,
    /// Per operand, per axis.
    pub strides: Vec<Vec<i64>>,
}

impl Walk {
    /// The box of some axes of the operands' own.
    pub fn new(dims: &[usize], axes: std::ops::Range<usize>, operands: &[&Strided]) -> Walk {
        let strides = operands.iter().map(|o| o.strides[axes.clone()].to_vec()).collect();
        Walk { dims: dims.to_vec(), strides }
    }

    /// Axes of one element dropped, the axes that are fastest in the last operand (then in the
    /// others, last first) put last, neighbours merged that are contiguous in every operand.
    /// The axes `special` stay by themselves; their new places are returned.
    pub fn simplified(&self, special: &[usize]) -> (Walk, Vec<usize>) {
        struct Axis {
            dim: usize,
            strides: Vec<i64>,
            special: Option<usize>,
        }
        let mut axes: Vec<Axis> = (0..self.dims.len())
            .map(|i| Axis {
                dim: self.dims[i],
                strides: self.strides.iter().map(|s| s[i]).collect(),
                special: special.iter().position(|&s| s == i),
            })
            .filter(|a| a.dim != 1 || a.special.is_some())
            .collect();
        axes.sort_by_key(|a| {
            let key: Vec<i64> = a.strides.iter().rev().map(|s| s.abs()).collect();
            std::cmp::Reverse(key)
        });
        let mut merged: Vec<Axis> = Vec::new();
        for axis in axes {
            match merged.last_mut() {
                Some(last)
                    if axis.special.is_none()
                        && last.special.is_none()
                        && last
                            .strides
                            .iter()
                            .zip(&axis.strides)
                            .all(|(&outer, &inner)| outer == inner * axis.dim as i64) =>
                {
                    last.dim *= axis.dim;
                    last.strides = axis.strides;
                }
                _ => merged.push(axis),
            }
        }
        let walk = Walk {
            dims: merged.iter().map(|a| a.dim).collect(),
            strides: (0..self.strides.len())
                .map(|o| merged.iter().map(|a| a.strides[o]).collect())
                .collect(),
        };
        let place = |n| merged.iter().position(|a| a.special == Some(n)).expect("kept above");
        (walk, (0..special.len()).map(place).collect())
    }

    /// Number of indices.
    pub fn total(&self) -> usize {
        self.dims.iter().product()
    }

    /// Elements that a thread may take at once, a power of two: the last axis has to be
    /// contiguous or broadcast in every operand and everything aligned. `limit` is the most.
    pub fn vector(&self, operands: &[&Strided], limit: usize) -> usize {
        let Some(last) = self.dims.len().checked_sub(1) else { return 1 };
        let fits = |v: usize| {
            self.dims[last].is_multiple_of(v)
                && operands.iter().zip(&self.strides).all(|(o, strides)| match strides[last] {
                    0 => true,
                    1 => {
                        let step = (v * o.dtype.size()).min(16) / o.dtype.size();
                        let outer = &strides[..last];
                        o.aligned
                            && o.offset.is_multiple_of(step)
                            && outer.iter().all(|s| s.unsigned_abs().is_multiple_of(step as u64))
                    }
                    _ => false,
                })
        };
        [16, 8, 4, 2].into_iter().find(|&v| v <= limit && fits(v)).unwrap_or(1)
    }

    /// `#define NAME(i, a, b, ...)`: statements that take a number `i` of the box, the last axis
    /// in steps of `vector`, apart into indices `NAME_k0`, `NAME_k1`... and add the place in
    /// every operand to the variable given for it.
    pub fn define(&self, name: &str, vector: usize) -> String {
        let operands: Vec<String> = (0..self.strides.len()).map(|i| format!("o{i}")).collect();
        let mut out = format!("#define {name}(i, {}) Index {name}_r = (i);", operands.join(", "));
        let last = self.dims.len().wrapping_sub(1);
        for axis in (0..self.dims.len()).rev() {
            let count = if axis == last { self.dims[axis] / vector } else { self.dims[axis] };
            let scale =
                if axis == last && vector > 1 { format!(" * {vector}") } else { String::new() };
            let index = if axis == 0 {
                format!(" Index {name}_k0 = {name}_r{scale};")
            } else {
                format!(" Index {name}_k{axis} = {name}_r % {count}u{scale}; {name}_r /= {count}u;")
            };
            out.push_str(&index);
            for (operand, strides) in operands.iter().zip(&self.strides) {
                if strides[axis] != 0 {
                    write!(out, " {operand} += (Offset){name}_k{axis} * ({});", strides[axis])
                        .expect("writing to a String");
                }
            }
        }
        writeln!(out, " (void){name}_r;").expect("writing to a String");
        out
    }
}

/// `Index` and `Offset`, 32 bits wide where all counts and places fit.
pub(crate) fn index_types(largest: usize) -> &'static str {
    if largest < 1 << 31 {
        "typedef unsigned int Index;\ntypedef int Offset;\n"
    } else {
        "typedef unsigned long long Index;\ntypedef long long Offset;\n"
    }
}

/// The type of an element in memory.
pub(crate) fn memory_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::I64 => "long long",
        DType::I32 => "int",
        DType::I8 => "signed char",
        _ => "u8",
    }
}

/// The type that an element is computed in.
pub(crate) fn value_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float",
        DType::Bool => "bool",
        other => memory_type(other),
    }
}

/// An element read from memory as a value.
pub(crate) fn loaded(dtype: DType, element: &str) -> String {
    match dtype {
        DType::F16 => format!("to_f32({element})"),
        DType::Bool => format!("({element} != 0)"),
        _ => element.to_string(),
    }
}

/// A value as an element for memory.
pub(crate) fn stored(dtype: DType, value: &str) -> String {
    match dtype {
        DType::F16 => format!("to_f16({value})"),
        DType::Bool => format!("(u8)({value})"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_merge_where_every_operand_allows_it() {
        let walk = Walk {
            dims: vec![2, 8, 4, 1, 5],
            // A channels-last picture, a row of channels, the channels-last result.
            strides: vec![vec![160, 1, 40, 9, 8], vec![0, 1, 0, 9, 0], vec![160, 1, 40, 9, 8]],
        };
        let (s, _) = walk.simplified(&[]);
        assert_eq!(s.dims, [40, 8]);
        assert_eq!(s.strides, [[8, 1], [0, 1], [8, 1]]);
        let (s, special) = walk.simplified(&[2]);
        assert_eq!((s.dims.clone(), special), (vec![2, 4, 5, 8], vec![1]));
        assert_eq!(s.total(), walk.total());
    }

    #[test]
    fn vectors_need_alignment() {
        let x = |aligned, offset| Strided { dtype: DType::F16, offset, strides: vec![], aligned };
        let walk = |dims: &[usize], strides: &[i64]| Walk {
            dims: dims.to_vec(),
            strides: vec![strides.to_vec()],
        };
        assert_eq!(walk(&[3, 16], &[24, 1]).vector(&[&x(true, 0)], 8), 8);
        assert_eq!(walk(&[3, 16], &[24, 1]).vector(&[&x(false, 0)], 8), 1);
        assert_eq!(walk(&[3, 16], &[20, 1]).vector(&[&x(true, 0)], 8), 4);
        assert_eq!(walk(&[3, 16], &[24, 1]).vector(&[&x(true, 6)], 8), 2);
        assert_eq!(walk(&[3, 16], &[24, 2]).vector(&[&x(true, 0)], 8), 1);
        assert_eq!(walk(&[3, 16], &[1, 0]).vector(&[&x(true, 0)], 8), 8);
    }

    #[test]
    fn definitions_take_numbers_apart() {
        let walk = Walk { dims: vec![3, 8], strides: vec![vec![-8, 1], vec![0, 1]] };
        assert_eq!(
            walk.define("ALL", 4),
            "#define ALL(i, o0, o1) Index ALL_r = (i); Index ALL_k1 = ALL_r % 2u * 4; \
             ALL_r /= 2u; o0 += (Offset)ALL_k1 * (1); o1 += (Offset)ALL_k1 * (1); Index ALL_k0 = \
             ALL_r; o0 += (Offset)ALL_k0 * (-8); (void)ALL_r;\n"
        );
    }
}
