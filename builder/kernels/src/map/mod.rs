//! Element-wise work of any kind on operands of any strides and types: `cuda/scalar.cuh` and
//! text made here.

mod expression;

#[cfg(test)]
mod tests;

pub use expression::{MapArgument, MapFunction, MapStep};

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use crate::defines::{Defines, ceil_div};
use crate::memory::{each_index, read_integer, store_integer};
use crate::reference::{load_at, store};
use crate::strided::{Strided, Walk, index_types, loaded, memory_type, stored, value_type};
use crate::{Argument, Candidate, Extents, Family, Target};
use expression::{Value, evaluate, statements};

const SCALAR: &str = include_str!("../../cuda/scalar.cuh");

/// A chain of element-wise functions over a box of elements.
///
/// Inputs: one per operand. Output: the last step's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapLayer {
    /// Extents of the box, outermost first.
    pub dims: Vec<usize>,
    /// Along this axis only so many elements are computed; the others are written as zero.
    pub valid: Option<(usize, usize)>,
    /// The operands.
    pub inputs: Vec<Strided>,
    /// The result.
    pub output: Strided,
    /// What is computed; the last step is the result.
    pub steps: Vec<MapStep>,
}

impl MapLayer {
    fn types(&self) -> Vec<DType> {
        self.inputs.iter().map(|i| i.dtype).collect()
    }

    /// What is read along each axis.
    fn read(&self) -> Vec<usize> {
        let mut dims = self.dims.clone();
        if let Some((axis, n)) = self.valid {
            dims[axis] = dims[axis].min(n);
        }
        dims
    }

    fn source(
        &self,
        target: &Target,
        walk: &Walk,
        mark: Option<usize>,
        v: usize,
        threads: usize,
    ) -> String {
        let types = self.types();
        let largest = self
            .inputs
            .iter()
            .chain([&self.output])
            .map(|o| o.bytes(&self.dims) / o.dtype.size())
            .max()
            .unwrap_or(0);
        let mut text = String::from("// Element-wise functions of strided operands.\n");
        text.push_str(index_types(largest));
        text.push_str(&walk.define("LOCATE", v));
        let y = self.output.dtype;
        // The function of one element each.
        let parameters: Vec<String> =
            types.iter().enumerate().map(|(i, &t)| format!("{} a{i}", value_type(t))).collect();
        let result = value_type(self.steps.last().expect("a map has steps").dtype);
        text.push_str(&format!(
            "__device__ __forceinline__ {result} compute({}) {{\n{}  return s{};\n}}\n",
            parameters.join(", "),
            statements(&self.steps, &types),
            self.steps.len() - 1
        ));
        let mut arguments: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(i, &t)| format!("const {}* x{i}", memory_type(t)))
            .collect();
        arguments.push(format!("{}* y", memory_type(y)));
        text.push_str(&format!(
            "extern \"C\" __global__ void __launch_bounds__(THREADS) KERNEL({}) {{\n  \
             release_dependents();\n  wait_for_producers();\n  \
             Index i = (Index)blockIdx.x * THREADS + threadIdx.x;\n  \
             if (i >= TOTAL) return;\n  Offset oy = {};\n",
            arguments.join(", "),
            self.output.offset
        ));
        for (i, input) in self.inputs.iter().enumerate() {
            text.push_str(&format!("  Offset o{i} = {};\n", input.offset));
        }
        let names: String = (0..self.inputs.len()).map(|i| format!("o{i}, ")).collect();
        text.push_str(&format!("  LOCATE(i, {names}oy)\n"));
        let inside = mark.map_or("true".into(), |axis| format!("LOCATE_k{axis} < VALID"));
        text.push_str(&format!("  const bool inside = {inside};\n"));
        let last = walk.dims.len().wrapping_sub(1);
        let mut elements = Vec::new();
        for (i, &t) in types.iter().enumerate() {
            let m = memory_type(t);
            if v > 1 && walk.strides[i][last] == 1 {
                text.push_str(&format!(
                    "  Pack<{m}, V> p{i} = {{}};\n  if (inside) p{i} = load_pack<{m}, V>(x{i} + o{i});\n"
                ));
                elements.push(loaded(t, &format!("p{i}.v[q]")));
            } else {
                text.push_str(&format!("  {m} p{i} = inside ? x{i}[o{i}] : ({m})0;\n"));
                elements.push(loaded(t, &format!("p{i}")));
            }
        }
        let ym = memory_type(y);
        let value = stored(y, &format!("compute({})", elements.join(", ")));
        text.push_str(&format!(
            "  Pack<{ym}, V> r;\n#pragma unroll\n  for (int q = 0; q < V; q++) r.v[q] = inside ? \
             {value} : ({ym})0;\n  store_pack<{ym}, V>(y + oy, r);\n}}\n"
        ));
        let mut d = Defines::new(target, y == DType::F16);
        d.all(&[("THREADS", threads), ("V", v), ("TOTAL", walk.total() / v)])
            .set("VALID", self.valid.map_or(0, |v| v.1));
        d.source(&[SCALAR, &text])
    }
}

impl Family for MapLayer {
    fn name(&self) -> &'static str {
        "map"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let operands: Vec<&Strided> = self.inputs.iter().chain([&self.output]).collect();
        let walk = Walk::new(&self.dims, 0..self.dims.len(), &operands);
        let special: Vec<usize> = self.valid.iter().map(|v| v.0).collect();
        let (walk, special) = walk.simplified(&special);
        let mark = special.first().copied();
        // A thread's elements are all computed or all padding.
        let most = match (mark, self.valid) {
            (Some(axis), Some((_, n))) if axis + 1 == walk.dims.len() => 1 << n.trailing_zeros(),
            _ => 16,
        };
        let size = operands.iter().map(|o| o.dtype.size()).max().unwrap_or(1);
        let widest = walk.vector(&operands, most.min(if size >= 4 { 8 } else { 16 }));
        let bytes: usize = operands
            .iter()
            .zip(&walk.strides)
            .map(|(o, strides)| {
                let touched =
                    walk.dims.iter().zip(strides).filter(|(_, s)| **s != 0).map(|(d, _)| d);
                touched.product::<usize>() * o.dtype.size()
            })
            .sum();
        let mut arguments: Vec<Argument> = (0..self.inputs.len()).map(Argument::Input).collect();
        arguments.push(Argument::Output(0));
        let mut vectors: Vec<usize> = [widest, 4, 1].into_iter().filter(|&v| v <= widest).collect();
        vectors.dedup();
        let mut out = Vec::new();
        for v in vectors {
            for threads in [64, 128, 256] {
                let total = walk.total() / v;
                out.push(Candidate {
                    label: format!("vector {v} threads {threads}"),
                    source: self.source(target, &walk, mark, v, threads),
                    grid: [ceil_div(total, threads) as u32, 1, 1],
                    block: threads as u32,
                    shared: 0,
                    specific: false,
                    arguments: arguments.clone(),
                    scratch: 0,
                    zeroed: 0,
                    predicted_us: 1.5
                        + bytes as f64 / (target.bandwidth_gbs * 1e3) * (1.0 + 0.5 / v as f64)
                        + threads as f64 * 1e-4,
                });
            }
        }
        out
    }

    fn extents(&self) -> Extents {
        let read = self.read();
        Extents {
            inputs: self.inputs.iter().map(|i| i.bytes(&read)).collect(),
            constants: vec![],
            outputs: vec![self.output.bytes(&self.dims)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let types = self.types();
        let mut elements = Vec::with_capacity(types.len());
        each_index(&self.dims, |index| {
            let y = self.output.at(index);
            if self.valid.is_some_and(|(axis, n)| index[axis] >= n) {
                let size = self.output.dtype.size();
                outputs[0][y * size..][..size].fill(0);
                return;
            }
            elements.clear();
            elements.extend(self.inputs.iter().zip(inputs).map(|(input, memory)| {
                let at = input.at(index);
                match input.dtype {
                    t if t.is_float() => Value::Float(load_at(memory, t, at)),
                    DType::Bool => Value::Integer(i64::from(memory[at] != 0)),
                    t => Value::Integer(read_integer(memory, t, at)),
                }
            }));
            match evaluate(&self.steps, &elements, &types) {
                Value::Float(v) => store(&mut outputs[0], self.output.dtype, y, v),
                Value::Integer(v) => store_integer(&mut outputs[0], self.output.dtype, y, v),
            }
        });
    }
}
