//! Reshape and Concat: views where they are, one copy where not.

use tobiuo_tensor::DType;

use super::{Done, Lower};
use crate::cuda::view::{View, refine, split};
use crate::graph::Node;

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
        let target = if self.is_only_output(to) {
            self.new_dense(self.graph.fact(to).dtype, shape)
        } else if shape.len() == 4 && view.dtype == self.picture_type(view.dtype) {
            self.new_picture(to)
        } else {
            self.new_dense(view.dtype, shape)
        };
        match refine(&view.shape, shape) {
            Some(dims)
                if target.channels_stored <= shape.get(1).copied().unwrap_or(0)
                    || shape.len() != 4 =>
            {
                let x = split(&view.shape, &view.strides, &dims);
                let y = split(shape, &target.strides, &dims);
                self.copy_box(&node.name, (&view, &x), (&target, &y), dims, None);
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
        let fact = self.graph.fact(out).clone();
        let picture = fact.shape.len() == 4
            && axis == 1
            && matches!(fact.dtype, DType::F32 | DType::I8 | DType::U8);
        let target: View = match self.views.get(&out) {
            Some(view) => view.clone(),
            None if self.is_only_output(out) => self.new_dense(fact.dtype, &fact.shape),
            None if picture => self.new_picture(out),
            None => self.new_dense(self.stored(fact.dtype), &fact.shape),
        };
        let mut at = 0;
        for &operand in &node.inputs {
            let view = self.exact(operand)?;
            let len = view.shape[axis];
            let mut part = target.clone();
            part.offset += at as i64 * target.strides[axis];
            part.shape[axis] = len;
            // Behind the last channels lies the padding, which is theirs to write.
            let last = axis == 1 && at + len == fact.shape[1];
            part.channels_stored = match part.shape.len() {
                4 if last => target.channels_stored.saturating_sub(at),
                4 => part.shape[1],
                _ => 0,
            };
            let there = view.buffer == part.buffer && view.offset == part.offset;
            if !there && view.shape.iter().all(|&d| d > 0) {
                self.copy(&node.name, &view, &part);
            }
            at += len;
        }
        self.views.insert(out, target);
        Ok(())
    }
}
