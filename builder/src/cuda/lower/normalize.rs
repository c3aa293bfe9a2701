//! Normalisations.

use tobiuo_ops::Op;

use super::{Done, Lower};
use crate::cuda::view::View;
use crate::graph::Node;
use tobiuo_kernels::{Layer, LrnLayer, NormLayer};

impl Lower<'_> {
    pub(super) fn layer_norm(&mut self, node: &Node, axis: usize, epsilon: f32) -> Done<()> {
        // Scale and bias have the row's shape: they broadcast over what stays apart.
        self.norm(node, axis, epsilon, |factor, shape| Some(factor.expanded(shape)))
    }

    pub(super) fn instance_norm(&mut self, node: &Node, epsilon: f32) -> Done<()> {
        self.norm(node, 2, epsilon, |factor, shape| {
            let mut one_each = vec![1; shape.len() - 1];
            one_each[0] = shape[1];
            Some(factor.reshaped(&one_each)?.expanded(shape))
        })
    }

    fn norm(
        &mut self,
        node: &Node,
        axis: usize,
        epsilon: f32,
        spread: impl Fn(View, &[usize]) -> Option<View>,
    ) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let y = self.result(node.outputs[0], std::slice::from_ref(&view), false);
        let mut operands = Vec::new();
        let mut strided = Vec::new();
        let mut take = |l: &mut Self, view: &View| {
            let (operand, place) = l.strided(view);
            operands.push(operand);
            strided.push(place);
        };
        take(self, &view);
        for &factor in &node.inputs[1..] {
            let factor = self.exact(factor)?;
            let spread = spread(factor, &view.shape).ok_or("its factors are no rows")?;
            take(self, &spread);
        }
        let [x, scale, bias] = <[_; 3]>::try_from(strided).map_err(|_| "it takes 3 operands")?;
        let (_, to) = self.strided(&y);
        let (kept, row) = (view.shape[..axis].to_vec(), view.shape[axis..].to_vec());
        let layer = NormLayer { kept, row, x, scale, bias, y: to, epsilon };
        self.add(node, Layer::Norm(layer), operands, &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn lrn(&mut self, node: &Node) -> Done<()> {
        let Op::Lrn { size, alpha, beta, bias } = node.op else {
            return Err("it is no Lrn".into());
        };
        let view = self.view(node.inputs[0])?;
        let y = self.result(node.outputs[0], std::slice::from_ref(&view), false);
        let (operand, x) = self.strided(&view);
        let (_, to) = self.strided(&y);
        let layer = LrnLayer {
            dims: view.shape.clone(),
            x,
            y: to,
            size,
            alpha: alpha / size as f32,
            beta,
            bias,
        };
        self.add(node, Layer::Lrn(layer), vec![operand], &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }
}
