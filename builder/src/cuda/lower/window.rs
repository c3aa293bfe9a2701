//! Pooling, resampling, padding.

use tobiuo_cpu::ops::tables::{self, Neighbours, Sources};
use tobiuo_ops::{Coordinates, Fact, Pad, PadMode, Pool, PoolKind, Resize, ResizeMode};
use tobiuo_tensor::DType;

use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::{View, granule};
use crate::graph::Node;
use tobiuo_kernels::{Layer, PoolLayer, RemapLayer, ResampleLayer, ResizeLayer};

/// Elements from one pixel to the next.
pub(super) fn pitch(view: &View) -> usize {
    view.pixel_pitch().expect("a picture the kernels can take")
}

/// A pair of attributes, one per spatial axis.
pub(super) fn two(v: &[usize]) -> Done<[usize; 2]> {
    <[usize; 2]>::try_from(v).map_err(|_| format!("{} spatial axes rather than 2", v.len()))
}

/// A table of places as the kernels read it: no place is negative.
fn places(table: &[Option<usize>]) -> Done<Vec<i32>> {
    let entry = |e: &Option<usize>| match e {
        None => Ok(-1),
        Some(i) => i32::try_from(*i).map_err(|_| format!("place {i} is beyond 2^31")),
    };
    table.iter().map(entry).collect()
}

impl Lower<'_> {
    pub(super) fn pool(&mut self, node: &Node, pool: &Pool) -> Done<()> {
        // One spatial axis is two of which the first has one element.
        let flat = pool.kernel.len() == 1;
        let pair = |v: &[usize], one: usize| if flat { Ok([one, v[0]]) } else { two(v) };
        let (kernel, strides) = (pair(&pool.kernel, 1)?, pair(&pool.strides, 1)?);
        let dilations = pair(&pool.dilations, 1)?;
        let n = pool.kernel.len();
        let (begin, end) = (pair(&pool.pads[..n], 0)?, pair(&pool.pads[n..], 0)?);
        let out = node.outputs[0];
        let (x, y) = if flat {
            let view = self.view(node.inputs[0])?;
            let mut shape = view.shape.clone();
            shape.insert(2, 1);
            let picture = view.reshaped(&shape).ok_or("an axis of one element is no view")?;
            let x = self.picture_of(&node.name, &picture)?;
            let mut to = self.graph.shape(out).to_vec();
            to.insert(2, 1);
            let dtype = x.dtype;
            (x, self.new_channels_last(&to, to[1].next_multiple_of(granule(dtype)), dtype))
        } else {
            (self.picture(node.inputs[0])?, self.new_picture(out))
        };
        let layer = PoolLayer {
            dtype: x.dtype,
            batch: x.shape[0],
            input: [x.shape[2], x.shape[3]],
            output: [y.shape[2], y.shape[3]],
            channels: y.channels_stored.min(x.channels_stored),
            x_pitch: pitch(&x),
            y_pitch: pitch(&y),
            kernel,
            strides,
            pads: [begin[0], begin[1], end[0], end[1]],
            dilations,
            average: match pool.kind {
                PoolKind::Max => None,
                PoolKind::Average { count_include_pad } => Some(count_include_pad),
            },
            mean: None,
        };
        self.add(node, Layer::Pool(layer), vec![Operand::View(x)], &y, vec![]);
        let view = if flat {
            y.reshaped(self.graph.shape(out)).ok_or("an axis of one element is no view")?
        } else {
            y
        };
        self.views.insert(out, view);
        Ok(())
    }

    pub(super) fn pad(&mut self, node: &Node, pad: &Pad) -> Done<()> {
        let (from, to) = (self.graph.shape(node.inputs[0]), self.graph.shape(node.outputs[0]));
        let made: Result<Vec<_>, _> =
            (0..to.len()).map(|axis| tables::pad(pad, axis, from[axis], to[axis])).collect();
        let fixed = if let PadMode::Constant { value } = pad.mode { value } else { 0.0 };
        self.remap(node, made.map_err(|e| e.to_string())?, fixed)
    }

    /// A copy by tables of places, for the axes that have one.
    fn remap(&mut self, node: &Node, made: Vec<Option<Sources>>, fixed: f32) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let out = node.outputs[0];
        let mut y = self.result(out, std::slice::from_ref(&view), false);
        if view.dtype != y.dtype && !view.dtype.is_float() {
            return Err(format!("{} would be copied to {}", view.dtype, y.dtype));
        }
        y.channels_stored = if y.shape.len() == 4 { y.channels_stored } else { 0 };
        let (mut tables, mut constants) = (Vec::new(), Vec::new());
        for (axis, table) in made.into_iter().enumerate() {
            let Some(table) = table else { continue };
            tables.push(axis);
            constants.push(self.constant(pack::integers(&places(&table)?)));
        }
        let (operand, x) = self.strided(&view);
        let (_, to) = self.strided(&y);
        let layer = RemapLayer { dims: y.shape.clone(), from: view.shape, tables, x, y: to, fixed };
        self.add(node, Layer::Remap(layer), vec![operand], &y, constants);
        self.views.insert(out, y);
        Ok(())
    }

    pub(super) fn resize(&mut self, node: &Node, resize: &Resize) -> Done<()> {
        let fact = self.graph.fact(node.inputs[0]).clone();
        let extrapolation = match resize.coordinates {
            Coordinates::TfCropAndResize { extrapolation, .. } => extrapolation,
            _ => 0.0,
        };
        let rank = fact.shape.len();
        if let ResizeMode::Nearest { .. } = resize.mode {
            let mut made: Vec<Option<Sources>> = Vec::new();
            for axis in 0..rank {
                let table = tables::nearest(resize, axis, &fact).map_err(|e| e.to_string())?;
                let same = table.len() == fact.shape[axis]
                    && table.iter().enumerate().all(|(i, s)| *s == Some(i));
                made.push((!same).then_some(table));
            }
            let whole = |t: &Option<Sources>| t.iter().flatten().all(Option::is_some);
            if self.resizes_pictures(node, &fact)
                && made[..2].iter().all(Option::is_none)
                && made.iter().all(whole)
            {
                let same = |axis: usize| (0..fact.shape[axis]).map(Some).collect();
                let [rows, columns] =
                    [2, 3].map(|axis| made[axis].clone().unwrap_or_else(|| same(axis)));
                let constants = vec![
                    self.constant(pack::integers(&places(&rows)?)),
                    self.constant(pack::integers(&places(&columns)?)),
                ];
                return self.resize_picture(node, false, constants);
            }
            return self.remap(node, made, extrapolation);
        }
        let mut passes: Vec<(usize, Neighbours)> = Vec::new();
        for axis in 0..rank {
            let made = tables::neighbours(resize, axis, &fact).map_err(|e| e.to_string())?;
            passes.extend(made.map(|p| (axis, p)));
        }
        let simple = |(axis, p): &(usize, Neighbours)| {
            *axis >= 2 && p.taps <= 2 && p.starts.iter().all(Option::is_some)
        };
        if fact.dtype == DType::F32
            && self.resizes_pictures(node, &fact)
            && passes.iter().all(simple)
        {
            return self.resize_linear(node, &fact, &passes);
        }
        // What shrinks the tensor first, what grows it last.
        passes.sort_by(|a, b| {
            let growth =
                |p: &(usize, Neighbours)| p.1.starts.len() as f64 / fact.shape[p.0].max(1) as f64;
            growth(a).total_cmp(&growth(b))
        });
        self.resample(node, passes, extrapolation)
    }

    /// True when the kernel for channels-last pictures can be taken, without a copy before it
    /// or behind it.
    fn resizes_pictures(&self, node: &Node, fact: &Fact) -> bool {
        let here = self.views.get(&node.inputs[0]).is_some_and(|v| self.is_picture(v));
        fact.shape.len() == 4
            && matches!(fact.dtype, DType::F32 | DType::I8 | DType::U8)
            && here
            && !self.is_only_output(node.outputs[0])
    }

    /// Bilinear resampling of the two last axes by tables.
    fn resize_linear(
        &mut self,
        node: &Node,
        fact: &Fact,
        passes: &[(usize, Neighbours)],
    ) -> Done<()> {
        let (mut indices, mut shares) = (Vec::new(), Vec::new());
        for axis in [2, 3] {
            let (mut index, mut share) = (Vec::new(), Vec::new());
            match passes.iter().find(|p| p.0 == axis) {
                None => {
                    let len = fact.shape[axis] as i32;
                    index.extend((0..len).flat_map(|i| [i, i]));
                    share.resize(fact.shape[axis], 0.0);
                }
                Some((_, p)) => {
                    for (i, &start) in places(&p.starts)?.iter().enumerate() {
                        let second = start + i32::from(p.taps == 2);
                        index.extend([start, second]);
                        share.push(if p.taps == 2 { p.weights[2 * i + 1] } else { 0.0 });
                    }
                }
            }
            indices.push(self.constant(pack::integers(&index)));
            shares.push(self.constant(pack::floats(share, DType::F32)));
        }
        self.resize_picture(node, true, [indices, shares].concat())
    }

    fn resize_picture(&mut self, node: &Node, linear: bool, constants: Vec<usize>) -> Done<()> {
        let x = self.picture(node.inputs[0])?;
        let y = self.new_picture(node.outputs[0]);
        let layer = ResizeLayer {
            dtype: x.dtype,
            batch: x.shape[0],
            input: [x.shape[2], x.shape[3]],
            output: [y.shape[2], y.shape[3]],
            channels: y.channels_stored.min(x.channels_stored),
            x_pitch: pitch(&x),
            y_pitch: pitch(&y),
            linear,
        };
        self.add(node, Layer::Resize(layer), vec![Operand::View(x)], &y, constants);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    /// One layer for each axis that changes.
    fn resample(
        &mut self,
        node: &Node,
        passes: Vec<(usize, Neighbours)>,
        extrapolation: f32,
    ) -> Done<()> {
        let out = node.outputs[0];
        let mut from = self.view(node.inputs[0])?;
        let count = passes.len();
        for (i, (axis, p)) in passes.into_iter().enumerate() {
            let mut shape = from.shape.clone();
            shape[axis] = p.starts.len();
            let y = if i + 1 == count {
                self.result(out, std::slice::from_ref(&from), false)
            } else {
                self.new_dense(self.dtype, &shape)
            };
            let constants = vec![
                self.constant(pack::integers(&places(&p.starts)?)),
                self.constant(pack::floats(p.weights, DType::F32)),
            ];
            let (operand, x) = self.strided(&from);
            let (_, to) = self.strided(&y);
            let layer = ResampleLayer {
                dims: shape,
                axis,
                length: from.shape[axis],
                taps: p.taps,
                x,
                y: to,
                extrapolation,
            };
            self.add(node, Layer::Resample(layer), vec![operand], &y, constants);
            from = y;
        }
        self.views.insert(out, from);
        Ok(())
    }
}
