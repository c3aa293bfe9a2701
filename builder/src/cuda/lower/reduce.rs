//! Reductions, softmax, places of extremes.

use tobiuo_ops::Reduce;
use tobiuo_tensor::DType;

use super::window::pitch;
use super::{Done, Lower, Operand};
use crate::cuda::view::View;
use crate::graph::Node;
use tobiuo_kernels::{
    ArgReduceLayer, GlobalPoolLayer, Layer, ReduceLayer, SoftmaxLayer, Strided, TopKLayer,
};

/// An operand's axes put in the order that a kernel of rows has them in.
fn ordered(operand: &Strided, axes: &[usize]) -> Strided {
    Strided { strides: axes.iter().map(|&a| operand.strides[a]).collect(), ..operand.clone() }
}

impl Lower<'_> {
    /// The other axes and their extents, in order.
    fn others(view: &View, axes: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let kept: Vec<usize> = (0..view.shape.len()).filter(|i| !axes.contains(i)).collect();
        let dims = kept.iter().map(|&i| view.shape[i]).collect();
        (kept, dims)
    }

    pub(super) fn reduce(
        &mut self,
        node: &Node,
        kind: Reduce,
        axes: &[usize],
        keep: bool,
    ) -> Done<()> {
        let (input, out) = (node.inputs[0], node.outputs[0]);
        let view = self.view(input)?;
        let pooled = matches!(kind, Reduce::Mean | Reduce::Max) && axes == [2, 3];
        if pooled && self.is_picture(&view) && view.shape[2] * view.shape[3] > 0 {
            return self.global_pool(node, kind == Reduce::Max, keep);
        }
        let (kept_axes, kept) = Self::others(&view, axes);
        let (operand, x) = self.strided(&view);
        let x = ordered(&x, &[&kept_axes[..], axes].concat());
        let reduced = axes.iter().map(|&a| view.shape[a]).collect();
        let y = self.result(out, &[], false);
        let (_, to) = self.strided(&y);
        // Reduced axes that stay have one element.
        let to = if keep { ordered(&to, &kept_axes) } else { to };
        let layer = ReduceLayer { kind, kept, reduced, x, y: to };
        self.add(node, Layer::Reduce(layer), vec![operand], &y, vec![]);
        self.views.insert(out, y);
        Ok(())
    }

    /// Mean or maximum over the pixels of a picture.
    fn global_pool(&mut self, node: &Node, max: bool, keep: bool) -> Done<()> {
        let x = self.picture(node.inputs[0])?;
        let (n, c) = (x.shape[0], x.shape[1]);
        let mut y = self.new_channels_last(&[n, c, 1, 1], c.next_multiple_of(8), self.dtype);
        let layer = GlobalPoolLayer {
            dtype: self.dtype,
            batch: n,
            pixels: x.shape[2] * x.shape[3],
            channels: y.channels_stored.min(x.channels_stored),
            x_pitch: pitch(&x),
            y_pitch: y.channels_stored,
            max,
            mean: None,
        };
        self.add(node, Layer::GlobalPool(layer), vec![Operand::View(x)], &y, vec![]);
        if !keep {
            y = y.reshaped(&[n, c]).ok_or("a pooled picture is no view of rows")?;
        }
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn softmax(&mut self, node: &Node, axis: usize, log: bool) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let y = self.result(node.outputs[0], std::slice::from_ref(&view), false);
        let (axes, kept) = Self::others(&view, &[axis]);
        let axes = [&axes[..], &[axis]].concat();
        let (operand, x) = self.strided(&view);
        let (_, to) = self.strided(&y);
        let layer = SoftmaxLayer {
            kept,
            axis: view.shape[axis],
            x: ordered(&x, &axes),
            y: ordered(&to, &axes),
            log,
        };
        self.add(node, Layer::Softmax(layer), vec![operand], &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn arg_reduce(
        &mut self,
        node: &Node,
        axis: usize,
        [min, select_last]: [bool; 2],
        keep: bool,
    ) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let y = self.new_dense(DType::I64, self.graph.shape(node.outputs[0]));
        let (axes, kept) = Self::others(&view, &[axis]);
        let (operand, x) = self.strided(&view);
        let (_, to) = self.strided(&y);
        let layer = ArgReduceLayer {
            kept,
            axis: view.shape[axis],
            x: ordered(&x, &[&axes[..], &[axis]].concat()),
            y: if keep { ordered(&to, &axes) } else { to },
            min,
            select_last,
        };
        self.add(node, Layer::ArgReduce(layer), vec![operand], &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn top_k(&mut self, node: &Node, k: usize, axis: usize, largest: bool) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let shape = self.graph.shape(node.outputs[0]).to_vec();
        // The values are copies of what is stored.
        let values = self.new_dense(view.dtype, &shape);
        let indices = self.new_dense(DType::I64, &shape);
        let (axes, kept) = Self::others(&view, &[axis]);
        let axes = [&axes[..], &[axis]].concat();
        let (operand, x) = self.strided(&view);
        let (_, v) = self.strided(&values);
        let (_, i) = self.strided(&indices);
        let layer = TopKLayer {
            kept,
            axis: view.shape[axis],
            k,
            x: ordered(&x, &axes),
            values: ordered(&v, &axes),
            indices: ordered(&i, &axes),
            largest,
        };
        let outputs = vec![values.clone(), indices.clone()];
        self.add_all(node, Layer::TopK(layer), vec![operand], outputs, vec![]);
        self.views.insert(node.outputs[0], values);
        self.views.insert(node.outputs[1], indices);
        Ok(())
    }
}
