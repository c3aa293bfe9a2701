//! Strided copies between layouts and element types: `cuda/permute.cu`.

use serde::{Deserialize, Serialize};
use tobiuo_tensor::DType;

use super::defines::{Defines, ceil_div};
use super::memory::{at, each_index, reach};
use super::numbers::kind;
use super::reference::{load_at, store};
use super::{Argument, Candidate, Extents, Family, Target};

const SOURCE: &str = include_str!("../cuda/permute.cu");

/// A copy of a box of elements from one set of strides to another.
///
/// Input: x. Output: y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermuteLayer {
    /// Element type read.
    pub from: DType,
    /// Element type written.
    pub to: DType,
    /// Extents of the box, outermost first.
    pub dims: Vec<usize>,
    /// Elements from x's address to the element of the first index.
    pub x_offset: usize,
    /// Elements from one index to the next in x, per axis (0: broadcast; may be negative).
    pub x_strides: Vec<i64>,
    /// Elements from one index to the next in y, per axis.
    pub y_strides: Vec<i64>,
    /// Along this axis only so many elements come from x; the others are written as zero.
    pub valid: Option<(usize, usize)>,
}

impl Family for PermuteLayer {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn candidates(&self, target: &Target) -> Vec<Candidate> {
        let l = self.simplified();
        let rank = l.dims.len();
        let total: usize = l.dims.iter().product();
        let list = |v: &[i64]| {
            let items: Vec<String> = v.iter().map(|x| format!("{x}LL")).collect();
            format!("{{{}}}", items.join(","))
        };
        let bytes = (total * (l.from.size() + l.to.size())) as f64;
        let time = 1.6 + bytes / (target.bandwidth_gbs * 1e3);
        let dims: Vec<String> = l.dims.iter().map(|d| d.to_string()).collect();
        let mut out = Vec::new();
        let mut add = |label: String,
                       (tile, vec): (Option<usize>, usize),
                       threads: usize,
                       blocks: usize,
                       us: f64| {
            let mut d = Defines::new(target, true);
            d.all(&[
                ("X_KIND", kind(l.from)),
                ("Y_KIND", kind(l.to)),
                ("RANK", rank),
                ("TILE", usize::from(tile.is_some())),
                ("P", tile.unwrap_or(0)),
                ("VEC", vec),
                ("TOTAL", total),
                ("THREADS", threads),
            ])
            .set("VALID_AXIS", l.valid.map_or(-1, |v| v.0 as i64))
            .set("VALID", l.valid.map_or(0, |v| v.1))
            .set("X_OFFSET", l.x_offset)
            .set("DIMS", format!("{{{}}}", dims.join(",")))
            .set("X_STRIDES", list(&l.x_strides))
            .set("Y_STRIDES", list(&l.y_strides));
            out.push(Candidate {
                label,
                source: d.source(&[SOURCE]),
                grid: [blocks as u32, 1, 1],
                block: threads as u32,
                shared: 0,
                specific: false,
                arguments: vec![Argument::Input(0), Argument::Output(0)],
                scratch: 0,
                zeroed: 0,
                predicted_us: us,
            });
        };
        let last = rank - 1;
        let fastest =
            (0..rank).filter(|&i| l.x_strides[i] != 0).min_by_key(|&i| l.x_strides[i].abs());
        let strided = fastest.is_some_and(|p| p != last && l.dims[p] >= 8 && l.dims[last] >= 8);
        for threads in [128, 256] {
            let penalty = if strided { time } else { 0.0 };
            add(
                format!("plain {threads}"),
                (None, 0),
                threads,
                ceil_div(total, threads),
                time + penalty + 0.3,
            );
            // Several elements that follow one another in y.
            let vec = [8, 4, 2].into_iter().find(|&v| l.dims[last].is_multiple_of(v));
            if let Some(vec) = vec.filter(|_| l.y_strides[last] == 1 && total < 1 << 31) {
                let blocks = ceil_div(total / vec, threads);
                add(
                    format!("vector {vec} x {threads}"),
                    (None, vec),
                    threads,
                    blocks,
                    time + penalty,
                );
            }
        }
        if let (true, Some(p)) = (strided, fastest) {
            let tiles = ceil_div(l.dims[p], 32) * ceil_div(l.dims[last], 32);
            let blocks = tiles * (total / l.dims[p] / l.dims[last]);
            add("tiled".to_string(), (Some(p), 0), 256, blocks, time);
        }
        out
    }

    fn extents(&self) -> Extents {
        let mut read = self.dims.clone();
        if let Some((axis, n)) = self.valid {
            read[axis] = read[axis].min(n);
        }
        Extents {
            inputs: vec![reach(self.x_offset, &read, &self.x_strides) * self.from.size()],
            constants: vec![],
            outputs: vec![reach(0, &self.dims, &self.y_strides) * self.to.size()],
        }
    }

    fn reference(&self, inputs: &[&[u8]], _: &[&[u8]], outputs: &mut [Vec<u8>]) {
        let size = self.to.size();
        each_index(&self.dims, |i| {
            let y = at(0, &self.y_strides, i);
            if self.valid.is_some_and(|(axis, n)| i[axis] >= n) {
                outputs[0][y * size..][..size].fill(0);
                return;
            }
            let x = at(self.x_offset, &self.x_strides, i);
            if self.from == self.to {
                outputs[0][y * size..][..size].copy_from_slice(&inputs[0][x * size..][..size]);
            } else {
                store(&mut outputs[0], self.to, y, load_at(inputs[0], self.from, x));
            }
        });
    }
}

impl PermuteLayer {
    /// Axes of one element dropped, neighbours that are contiguous on both sides merged, and
    /// the axis that is fastest in y put last.
    pub fn simplified(&self) -> PermuteLayer {
        // Extent, stride in x, stride in y, valid elements where they are fewer.
        type Axis = (usize, i64, i64, Option<usize>);
        let mut axes: Vec<Axis> = (0..self.dims.len())
            .map(|i| {
                let valid = self.valid.filter(|v| v.0 == i).map(|v| v.1);
                (self.dims[i], self.x_strides[i], self.y_strides[i], valid)
            })
            .filter(|a| a.0 != 1)
            .collect();
        axes.sort_by_key(|&(_, x, y, _)| std::cmp::Reverse((y, x)));
        let mut merged: Vec<Axis> = Vec::new();
        for (d, x, y, valid) in axes {
            match merged.last_mut() {
                Some(last)
                    if last.1 == x * d as i64
                        && last.2 == y * d as i64
                        && valid.is_none()
                        && last.3.is_none() =>
                {
                    *last = (last.0 * d, x, y, None);
                }
                _ => merged.push((d, x, y, valid)),
            }
        }
        if merged.is_empty() {
            merged.push((1, 1, 1, None));
        }
        PermuteLayer {
            valid: merged.iter().enumerate().find_map(|(i, a)| a.3.map(|v| (i, v))),
            dims: merged.iter().map(|a| a.0).collect(),
            x_strides: merged.iter().map(|a| a.1).collect(),
            y_strides: merged.iter().map(|a| a.2).collect(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_axes_merge() {
        let nchw_to_nhwc = PermuteLayer {
            from: DType::F32,
            to: DType::F16,
            dims: vec![1, 3, 4, 5],
            x_offset: 0,
            x_strides: vec![60, 20, 5, 1],
            y_strides: vec![80, 1, 20, 4],
            valid: None,
        };
        let s = nchw_to_nhwc.simplified();
        assert_eq!(s.dims, [20, 3]);
        assert_eq!(s.x_strides, [1, 20]);
        assert_eq!(s.y_strides, [4, 1]);
    }
}
