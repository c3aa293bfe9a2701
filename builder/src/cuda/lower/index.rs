//! Gather and Tile.

use super::{Done, Lower};
use crate::cuda::view::View;
use crate::graph::Node;
use tobiuo_kernels::{GatherLayer, Layer, Strided};

impl Lower<'_> {
    pub(super) fn gather(&mut self, node: &Node, axis: usize) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let length = view.shape[axis];
        let shape = self.graph.shape(node.outputs[0]).to_vec();
        if let Some(tensor) = self.graph.constant(node.inputs[1]) {
            let indices = tensor.to_i64().ok_or("its indices are no integers")?;
            let places = indices.iter().map(|&i| {
                let from_start = if i < 0 { i + length as i64 } else { i };
                usize::try_from(from_start).ok().filter(|&p| p < length).ok_or_else(|| {
                    format!(
                        "index {i} does not exist: axis {axis} of {:?} takes {} to {}",
                        view.shape,
                        -(length as i64),
                        length as i64 - 1
                    )
                })
            });
            let places = places.collect::<Done<Vec<usize>>>()?;
            let axes = tensor.shape().len();
            if let Some(seen) = evenly_spaced(&view, axis, &places, axes, &shape) {
                self.views.insert(node.outputs[0], seen);
                return Ok(());
            }
        }
        let indices = self.exact(node.inputs[1])?;
        let rank = indices.shape.len();
        let y = self.result(node.outputs[0], &[], false);
        let (operand, whole) = self.strided(&view);
        let outer = &whole.strides[..axis];
        let inner = &whole.strides[axis + 1..];
        let x = Strided { strides: [outer, &vec![0; rank], inner].concat(), ..whole.clone() };
        let (index_operand, i) = self.strided(&indices);
        let around = |n: usize| vec![0; n];
        let strides = [around(axis), i.strides.clone(), around(inner.len())].concat();
        let (_, to) = self.strided(&y);
        let layer = GatherLayer {
            dims: shape,
            step: whole.strides[axis],
            x,
            length,
            indices: Strided { strides, ..i },
            y: to,
        };
        self.add(node, Layer::Gather(layer), vec![operand, index_operand], &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn tile(&mut self, node: &Node, repeats: &[usize]) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let y = self.result(node.outputs[0], &[], false);
        // Each axis as its repeats and its elements.
        let (mut dims, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, &count) in repeats.iter().enumerate() {
            let len = view.shape[axis];
            dims.extend([count, len]);
            from.extend([0, view.strides[axis]]);
            to.extend([y.strides[axis] * len as i64, y.strides[axis]]);
        }
        self.copy_box(&node.name, (&view, &from), (&y, &to), dims, None);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }
}

/// Places along an axis that are evenly spaced, as a view of the result's shape.
fn evenly_spaced(
    view: &View,
    axis: usize,
    places: &[usize],
    index_axes: usize,
    shape: &[usize],
) -> Option<View> {
    let first = *places.first()? as i64;
    let step = places.get(1).map_or(0, |&p| p as i64 - first);
    let even = places.iter().enumerate().all(|(n, &p)| p as i64 == first + n as i64 * step);
    // More index axes than one would have to split the axis.
    if !even || index_axes > 1 {
        return None;
    }
    let mut seen = view.clone();
    seen.offset += first * view.strides[axis];
    seen.channels_stored = 0;
    if index_axes == 0 {
        seen.shape.remove(axis);
        seen.strides.remove(axis);
    } else {
        seen.shape[axis] = places.len();
        seen.strides[axis] = step * view.strides[axis];
    }
    (seen.shape == shape).then_some(seen)
}
