//! The k largest or smallest elements: `cuda/topk.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::{SCALAR, elements, types};
use crate::defines::{Defines, ceil_div};
use crate::memory::{each_index, read_integer, store_integer};
use crate::reference::load_at;
use crate::strided::{Strided, Walk, loaded, value_type};
use crate::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../../cuda/topk.cu");

/// Most elements that a block sorts in its static shared memory.
const MOST_SORTED: usize = 2048;

/// The k largest or smallest elements along an axis, in order, of equal ones the first first.
/// Input: x. Outputs: values, indices (i64).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopKLayer {
    /// Extents of the other axes.
    pub kept: Vec<usize>,
    /// Elements along the axis.
    pub axis: usize,
    /// How many.
    pub k: usize,
    /// Over the other axes, then the axis.
    pub x: Strided,
    /// Over the other axes, then the k; of x's type.
    pub values: Strided,
    /// As the values.
    pub indices: Strided,
    /// Largest rather than smallest.
    pub largest: bool,
}

impl TopKLayer {
    fn dims(&self, along: usize) -> Vec<usize> {
        [&self.kept[..], &[along]].concat()
    }

    fn order<T: PartialOrd + Copy>(&self, row: &[T]) -> Vec<usize> {
        let nan = |v: T| v.partial_cmp(&v).is_none();
        let mut order: Vec<usize> = (0..row.len()).collect();
        // Stable: of equal elements the first stays first.
        order.sort_by(|&i, &j| {
            let (a, b) = (row[i], row[j]);
            let ascending = a.partial_cmp(&b).unwrap_or_else(|| nan(a).cmp(&nan(b)));
            if self.largest { ascending.reverse() } else { ascending }
        });
        order
    }
}

impl Family for TopKLayer {
    fn name(&self) -> &'static str {
        "topk"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let n = self.kept.len();
        let (kept, _) =
            Walk::new(&self.kept, 0..n, &[&self.x, &self.values, &self.indices]).simplified(&[]);
        let operands = [
            ("X", &self.x, elements(&self.x, &self.dims(self.axis))),
            ("Y", &self.values, elements(&self.values, &self.dims(self.k))),
            ("I", &self.indices, elements(&self.indices, &self.dims(self.k))),
        ];
        let rows = kept.total();
        let candidate = |rank: bool, threads: usize| {
            let mut d = Defines::new(target, false);
            let bits = if self.x.dtype == DType::I64 { 64 } else { 32 };
            d.all(&[
                ("RANK", usize::from(rank)),
                ("THREADS", threads),
                ("LENGTH", self.axis),
                ("K", self.k),
                ("SORT", self.k.next_power_of_two()),
                ("KEY_BITS", bits),
                ("FLOATS", usize::from(self.x.dtype.is_float())),
                ("LARGEST", usize::from(self.largest)),
                ("X_OFFSET", self.x.offset),
                ("V_OFFSET", self.values.offset),
                ("I_OFFSET", self.indices.offset),
            ])
            .set("X_STEP", format!("({})", self.x.strides[n]))
            .set("V_STEP", format!("({})", self.values.strides[n]))
            .set("I_STEP", format!("({})", self.indices.strides[n]))
            .set("VALUE", value_type(self.x.dtype))
            .set("LOAD(e)", loaded(self.x.dtype, "e"));
            let text = types(&operands) + &kept.define("KEPT", 1);
            let blocks = if rank { rows * ceil_div(self.axis, threads) } else { rows };
            let waves = (blocks * threads) as f64 / (f64::from(target.sm_count) * 1024.0);
            let serial = if rank {
                self.axis as f64 * 0.003
            } else {
                let walks = (bits / 8 + 2) * ceil_div(self.axis, threads);
                let levels = self.k.next_power_of_two().ilog2() as usize;
                walks as f64 * 0.03 + (levels * levels) as f64 * 0.05 + 2.0
            };
            Candidate {
                label: format!("{} threads {threads}", if rank { "rank" } else { "select" }),
                source: d.source(&[SCALAR, &text, SOURCE]),
                grid: [blocks as u32, 1, 1],
                block: threads as u32,
                shared: 0,
                specific: false,
                arguments: vec![Argument::Input(0), Argument::Output(0), Argument::Output(1)],
                scratch: 0,
                zeroed: 0,
                predicted_us: 1.6 + serial * waves.max(1.0),
            }
        };
        let mut out = vec![candidate(true, 128), candidate(true, 256)];
        if self.k <= MOST_SORTED {
            out.extend([256, 1024].map(|threads| candidate(false, threads)));
        }
        out
    }

    fn extents(&self) -> Extents {
        let chosen = self.dims(self.k);
        Extents {
            inputs: vec![self.x.bytes(&self.dims(self.axis))],
            constants: vec![],
            outputs: vec![self.values.bytes(&chosen), self.indices.bytes(&chosen)],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let size = self.x.dtype.size();
        each_index(&self.kept, |kept| {
            let place = |of: &Strided, i: usize| of.at(&[kept, &[i]].concat());
            let places = (0..self.axis).map(|i| place(&self.x, i));
            let order = if self.x.dtype.is_float() {
                let row: Vec<f64> = places.map(|p| load_at(inputs[0], self.x.dtype, p)).collect();
                self.order(&row)
            } else {
                let row: Vec<i64> =
                    places.map(|p| read_integer(inputs[0], self.x.dtype, p)).collect();
                self.order(&row)
            };
            for (n, &i) in order[..self.k].iter().enumerate() {
                let (from, to) = (place(&self.x, i) * size, place(&self.values, n) * size);
                outputs[0][to..to + size].copy_from_slice(&inputs[0][from..from + size]);
                let to = place(&self.indices, n);
                store_integer(&mut outputs[1], DType::I64, to, i as i64);
            }
        });
    }
}
