//! Reshape and Concat: views where they are, one copy where not.

use super::{Done, Lower};
use crate::cuda::view::{View, refine, split};
use crate::graph::Node;
use tobiuo_kernels::PermuteLayer;

impl Lower<'_> {
    pub(super) fn reshape(&mut self, node: &Node, shape: &[usize]) -> Done<()> {
        let (from, to) = (node.inputs[0], node.outputs[0]);
        let view = self.view(from)?;
        if let Some(reshaped) = view.reshaped(shape) {
            self.views.insert(to, reshaped);
            return Ok(());
        }
        // A copy through the box that both shapes are merges of, straight into the layout
        // that the result is wanted in.
        let target = if shape.len() == 4 && view.dtype == self.dtype {
            self.new_picture(to)
        } else {
            self.new_dense(view.dtype, shape)
        };
        match refine(&view.shape, shape) {
            Some(box_dims)
                if target.channels_stored <= shape.get(1).copied().unwrap_or(0)
                    || shape.len() != 4 =>
            {
                let layer = PermuteLayer {
                    from: view.dtype,
                    to: target.dtype,
                    x_strides: split(&view.shape, &view.strides, &box_dims),
                    y_strides: split(shape, &target.strides, &box_dims),
                    x_offset: 0,
                    dims: box_dims,
                    valid: None,
                };
                self.push_copy(&node.name, layer, &view, &target);
            }
            _ => {
                let rows = self.row_major(from)?;
                let reshaped = rows.reshaped(shape).ok_or("a dense value cannot be reshaped")?;
                self.copy(&node.name, &reshaped, &target);
            }
        }
        self.views.insert(to, target);
        Ok(())
    }

    pub(super) fn concat(&mut self, node: &Node, axis: usize) -> Done<()> {
        let out = node.outputs[0];
        let shape = self.graph.shape(out).to_vec();
        let target: View = match self.views.get(&out) {
            Some(view) => view.clone(),
            None if shape.len() == 4
                && axis == 1
                && self.graph.fact(out).dtype == tobiuo_tensor::DType::F32 =>
            {
                self.new_picture(out)
            }
            None => {
                let dtype = self.stored(self.graph.fact(out).dtype);
                self.new_dense(dtype, &shape)
            }
        };
        let mut at = 0;
        for &operand in &node.inputs {
            let view = self.view(operand)?;
            let len = view.shape[axis];
            let mut part = target.clone();
            part.offset += at as i64 * target.strides[axis];
            part.shape[axis] = len;
            part.channels_stored = if part.shape.len() == 4 { part.shape[1] } else { 0 };
            let there = view.buffer == part.buffer && view.offset == part.offset;
            if !there {
                self.copy(&node.name, &view, &part);
            }
            at += len;
        }
        self.views.insert(out, target);
        Ok(())
    }
}
