//! Matrix products.

use tobiuo_ops::{Activation, Gemm};
use tobiuo_tensor::DType;

use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::{View, dense};
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ConvLayer, GemvLayer, GeneralConvLayer, Layer, MatMulLayer, Numbers, PermuteLayer,
};

/// A product with constant weights: `[rows, depth]` times the transpose of `w`.
struct Dense<'a> {
    /// Row-major `[outputs, depth]`.
    w: &'a [f32],
    depth: usize,
    /// For each stored column of the rows the column of `w`, where they differ.
    order: Option<Vec<usize>>,
    /// One per output.
    bias: Vec<f32>,
    activation: Option<Activation>,
}

/// An operand of a general product: where it is, its strides (of `[.., rows, columns]`), and
/// how many elements may be loaded at once.
struct Factor {
    operand: Operand,
    shape: Vec<usize>,
    strides: Vec<usize>,
    vector: usize,
}

impl Factor {
    fn turned(mut self) -> Factor {
        let n = self.shape.len();
        self.shape.swap(n - 2, n - 1);
        self.strides.swap(n - 2, n - 1);
        self
    }

    /// Strides of the last two axes.
    fn last_two(&self) -> [usize; 2] {
        let n = self.strides.len();
        [self.strides[n - 2], self.strides[n - 1]]
    }

    /// Strides over the batch axes of a result, 0 where this operand is broadcast.
    fn batch(&self, axes: &[usize]) -> Vec<usize> {
        let own = self.shape.len() - 2;
        let lead = axes.len() - own;
        let stride = |i: usize| match i.checked_sub(lead) {
            Some(j) if self.shape[j] != 1 => self.strides[j],
            _ => 0,
        };
        (0..axes.len()).map(stride).collect()
    }
}

/// The last factors of a general product.
struct Finish {
    alpha: f32,
    beta: f32,
    c: Option<Factor>,
    activation: Option<Activation>,
}

impl Lower<'_> {
    pub(super) fn gemm(&mut self, node: &Node, gemm: &Gemm) -> Done<()> {
        let out_shape = self.graph.shape(node.outputs[0]).to_vec();
        let outputs = out_shape[1];
        let bias = self.bias_of_columns(node.inputs.get(2).copied(), gemm.beta, outputs)?;
        let (Some(bias), true) = (bias, self.graph.constant(node.inputs[1]).is_some()) else {
            return self.general_gemm(node, gemm);
        };
        let b = self.floats(node.inputs[1], "matrix")?;
        let depth = b.len() / outputs;
        let mut w = vec![0.0; outputs * depth];
        for o in 0..outputs {
            for k in 0..depth {
                let v = if gemm.trans_b { b[o * depth + k] } else { b[k * outputs + o] };
                w[o * depth + k] = gemm.alpha * v;
            }
        }
        // A flattened picture is read as it lies; the weights' columns take its order instead.
        let flattened = match gemm.trans_a {
            true => None,
            false => self.flattened_picture(node.inputs[0]),
        };
        let (x, order) = match flattened {
            Some((view, order)) => (view, Some(order)),
            None if gemm.trans_a => (self.view(node.inputs[0])?.transposed(&[1, 0]), None),
            None => (self.view(node.inputs[0])?, None),
        };
        let dense = Dense { w: &w, depth, order, bias, activation: gemm.activation };
        let y = self.dense_product(node, &x, dense)?;
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    /// A constant addend that is the same for every row, one value per column.
    fn bias_of_columns(
        &self,
        c: Option<ValueId>,
        beta: f32,
        columns: usize,
    ) -> Done<Option<Vec<f32>>> {
        let Some(c) = c else { return Ok(Some(vec![0.0; columns])) };
        if self.graph.constant(c).is_none() {
            return Ok(None);
        }
        let values = self.floats(c, "bias")?;
        let last = self.graph.shape(c).last().copied().unwrap_or(1);
        let same = values.len() == last && (last == columns || last == 1);
        Ok(same.then(|| (0..columns).map(|o| beta * values[o % last]).collect()))
    }

    pub(super) fn matmul(&mut self, node: &Node) -> Done<()> {
        let (a, b) = (node.inputs[0], node.inputs[1]);
        let out_shape = self.graph.shape(node.outputs[0]).to_vec();
        let (a_shape, b_shape) = (self.graph.shape(a).to_vec(), self.graph.shape(b).to_vec());
        let weights = b_shape.len() <= 2 && self.graph.constant(b).is_some();
        if !weights || self.graph.constant(a).is_some() {
            let finish = Finish { alpha: 1.0, beta: 0.0, c: None, activation: None };
            let (a, b) = (self.factor(a)?, self.factor(b)?);
            return self.general_product(node, a, b, finish);
        }
        let depth = b_shape[0];
        let outputs = b_shape.get(1).copied().unwrap_or(1);
        let values = self.floats(b, "matrix")?;
        let mut w = vec![0.0; outputs * depth];
        for (i, v) in values.into_iter().enumerate() {
            w[i % outputs * depth + i / outputs] = v;
        }
        let rows = a_shape.iter().product::<usize>() / depth;
        let x = match self.view(a)?.reshaped(&[rows, depth]) {
            Some(view) => view,
            None => self.row_major(a)?.reshaped(&[rows, depth]).ok_or("a is no matrix")?,
        };
        let bias = vec![0.0; outputs];
        let y = self.dense_product(
            node,
            &x,
            Dense { w: &w, depth, order: None, bias, activation: None },
        )?;
        // Rows may be further apart than they are long.
        let leading = match b_shape.len() {
            1 => &out_shape[..],
            _ => &out_shape[..out_shape.len() - 1],
        };
        let mut strides: Vec<i64> = dense(leading).iter().map(|s| s * y.strides[0]).collect();
        strides.truncate(leading.len());
        if b_shape.len() == 2 {
            strides.push(1);
        }
        self.views.insert(node.outputs[0], View { shape: out_shape, strides, ..y });
        Ok(())
    }

    /// A matrix with contiguous rows of a multiple of 8 elements: its view, and the elements
    /// from one row to the next.
    fn rows(&mut self, node: &Node, x: &View) -> (View, usize) {
        let (rows, depth) = (x.shape[0], x.shape[1]);
        let apart = usize::try_from(x.strides[0]).unwrap_or(0);
        let fits = x.dtype == self.dtype
            && (x.strides[1] == 1 || depth == 1)
            && depth.is_multiple_of(8)
            && x.offset % 8 == 0
            && (rows == 1 || (apart >= depth && apart.is_multiple_of(8)));
        if fits {
            return (x.clone(), if rows == 1 { depth } else { apart });
        }
        let stored = depth.next_multiple_of(8);
        let mut to = self.new_dense(self.dtype, &[rows, stored]);
        let copy = PermuteLayer {
            from: x.dtype,
            to: to.dtype,
            dims: vec![rows, stored],
            x_offset: 0,
            x_strides: x.strides.clone(),
            y_strides: to.strides.clone(),
            valid: Some((1, depth)),
        };
        self.push_copy(&node.name, copy, x, &to);
        to.shape[1] = depth;
        (to, stored)
    }

    /// A product with constant weights; its result `[rows, outputs]`.
    fn dense_product(&mut self, node: &Node, x: &View, dense: Dense<'_>) -> Done<View> {
        let rows = x.shape[0];
        let outputs = dense.bias.len();
        let (x, x_pitch) = self.rows(node, x);
        let depth = dense.depth.next_multiple_of(8);
        let few = rows <= 4;
        let is_output = self.graph.is_output(node.outputs[0])
            && !self.graph.users().contains_key(&node.outputs[0]);
        let y_f32 = is_output && few;
        let dtype = if y_f32 { DType::F32 } else { self.dtype };
        let y_pitch = if y_f32 { outputs } else { outputs.next_multiple_of(8) };
        let mut y = self.new_dense(dtype, &[rows, y_pitch]);
        y.shape[1] = outputs;
        let activation = dense.activation;
        let order = dense.order.as_deref();
        let (packed, layer) = if few {
            let layer = GemvLayer {
                dtype: self.dtype,
                batch: rows,
                depth,
                x_pitch,
                outputs,
                y_pitch,
                y_f32,
                activation,
                y: None,
            };
            let packed = pack::matrix(dense.w, outputs, dense.depth, depth, order, self.dtype);
            (packed, Layer::Gemv(layer))
        } else if self.dtype == DType::F16 {
            let layer = ConvLayer {
                batch: 1,
                input: [rows, 1],
                output: [rows, 1],
                channels: depth,
                x_pitch,
                filters: outputs,
                filters_stored: outputs.next_multiple_of(8),
                y_pitch,
                kernel: [1, 1],
                strides: [1, 1],
                pads: [0, 0],
                dilations: [1, 1],
                residual_pitch: None,
                activation,
                residual_last: false,
                pooled: false,
                planes: None,
                y_planes: None,
                x: DType::F16,
                x_zero_point: 0,
                y: Numbers::F16,
                residual: Numbers::F16,
            };
            let at = |f: usize, _: usize, k: usize| {
                dense.w[f * dense.depth + order.map_or(k, |order| order[k])]
            };
            let packed = pack::conv_weights(&layer, [1, dense.depth], at);
            (packed, Layer::Conv(layer))
        } else {
            let layer = GeneralConvLayer {
                dtype: self.dtype,
                tf32: self.tf32(),
                transposed: false,
                batch: 1,
                input: [rows, 1],
                output: [rows, 1],
                groups: 1,
                channels: depth,
                x_pitch,
                filters: outputs,
                filters_stored: outputs.next_multiple_of(8),
                y_pitch,
                kernel: [1, 1],
                strides: [1, 1],
                pads: [0, 0],
                dilations: [1, 1],
                weights_given: false,
                bias_given: false,
                residual_pitch: None,
                activation,
                residual_last: false,
            };
            let at = |_: usize, _: usize, k: usize, o: usize| match order {
                _ if k >= dense.depth => 0.0,
                Some(order) => dense.w[o * dense.depth + order[k]],
                None => dense.w[o * dense.depth + k],
            };
            let sizes = [1, 1, depth, outputs];
            let packed = pack::depth_first(sizes, layer.weight_pitch(), self.dtype, at);
            (packed, Layer::GeneralConv(layer))
        };
        let packed = self.constant(packed);
        let bias = pack::padded(&dense.bias, outputs.next_multiple_of(8), DType::F32);
        let bias = self.constant(bias);
        self.add(node, layer, vec![Operand::View(x)], &y, vec![packed, bias]);
        Ok(y)
    }

    /// For an operand `[N, C*H*W]` that is a reshaped picture: the picture's memory as rows,
    /// and for each element of a row the column it is in the model.
    fn flattened_picture(&mut self, value: ValueId) -> Option<(View, Vec<usize>)> {
        let producer = *self.graph.producers().get(&value)?;
        let node = &self.graph.nodes[producer];
        if !matches!(node.op, tobiuo_ops::Op::Reshape { .. }) {
            return None;
        }
        let picture = self.views.get(&node.inputs[0])?.clone();
        let shape = picture.shape.clone();
        if shape.len() != 4
            || shape[1] % 8 != 0
            || picture.dtype != self.dtype
            || picture.pixel_pitch() != Some(shape[1])
        {
            return None;
        }
        let [n, c, h, w] = [shape[0], shape[1], shape[2], shape[3]];
        if self.graph.shape(value) != [n, c * h * w] {
            return None;
        }
        let order = (0..h * w).flat_map(|p| (0..c).map(move |ch| ch * h * w + p)).collect();
        let strides = vec![(c * h * w) as i64, 1];
        Some((View { shape: vec![n, c * h * w], strides, channels_stored: 0, ..picture }, order))
    }

    /// A value of two axes or more (a single one as one row) for a general product.
    fn factor(&mut self, value: ValueId) -> Done<Factor> {
        let mut shape = self.graph.shape(value).to_vec();
        if self.graph.constant(value).is_some() {
            let values = self.floats(value, "operand")?;
            let number = self.constant(pack::floats(values, self.dtype));
            while shape.len() < 2 {
                shape.insert(0, 1);
            }
            let strides = dense(&shape).iter().map(|&s| s as usize).collect();
            return Ok(Factor { operand: Operand::Constant(number), shape, strides, vector: 8 });
        }
        let mut view = self.view(value)?;
        let reach =
            |v: &View| v.shape.iter().zip(&v.strides).map(|(&d, &s)| d as i64 * s).sum::<i64>();
        if view.dtype != self.dtype
            || view.strides.iter().any(|&s| s < 0)
            || i32::try_from(reach(&view)).is_err()
        {
            let to = self.new_dense(self.dtype, &view.shape);
            self.copy(&self.graph.value(value).name.clone(), &view, &to);
            view = to;
        }
        if i32::try_from(reach(&view)).is_err() {
            return Err(format!("{:?} is more than 2^31 elements in memory", view.shape));
        }
        let mut strides: Vec<usize> = view.strides.iter().map(|&s| s as usize).collect();
        while shape.len() < 2 {
            shape.insert(0, 1);
            strides.insert(0, 0);
        }
        let vector = [8, 4, 2].into_iter().find(|v| view.offset % v == 0).unwrap_or(1) as usize;
        Ok(Factor { operand: Operand::View(view), shape, strides, vector })
    }

    fn general_gemm(&mut self, node: &Node, gemm: &Gemm) -> Done<()> {
        let mut a = self.factor(node.inputs[0])?;
        let mut b = self.factor(node.inputs[1])?;
        if gemm.trans_a {
            a = a.turned();
        }
        if gemm.trans_b {
            b = b.turned();
        }
        let c = match node.inputs.get(2) {
            Some(&c) => Some(self.factor(c)?),
            None => None,
        };
        let (alpha, beta) = (gemm.alpha, gemm.beta);
        let finish = Finish { alpha, beta, c, activation: gemm.activation };
        self.general_product(node, a, b, finish)
    }

    fn general_product(
        &mut self,
        node: &Node,
        a: Factor,
        mut b: Factor,
        finish: Finish,
    ) -> Done<()> {
        let out_shape = self.graph.shape(node.outputs[0]).to_vec();
        if out_shape.contains(&0) || a.shape.contains(&0) {
            return Err("a product of nothing has no kernel".into());
        }
        let ranks = [0, 1].map(|i| self.graph.shape(node.inputs[i]).len());
        // A vector is a row on the left and a column on the right.
        if ranks[1] == 1 {
            b = b.turned();
        }
        let n = out_shape.len();
        let batch = out_shape[..n - usize::from(ranks[0] > 1) - usize::from(ranks[1] > 1)].to_vec();
        let (rows, depth) = (a.shape[a.shape.len() - 2], a.shape[a.shape.len() - 1]);
        let columns = b.shape[b.shape.len() - 1];
        let y = self.new_dense(self.dtype, &out_shape);
        let c = finish.c.as_ref().map(|c| {
            let [down, across] = c.last_two();
            let n = c.shape.len();
            [
                if c.shape[n - 2] == 1 { 0 } else { down },
                if c.shape[n - 1] == 1 { 0 } else { across },
            ]
        });
        let layer = MatMulLayer {
            dtype: self.dtype,
            tf32: self.tf32(),
            a_batch: a.batch(&batch),
            a: a.last_two(),
            a_vector: a.vector,
            b_batch: b.batch(&batch),
            b: b.last_two(),
            b_vector: b.vector,
            batch,
            rows,
            columns,
            depth,
            c,
            y_pitch: columns,
            alpha: finish.alpha,
            beta: finish.beta,
            activation: finish.activation,
        };
        let mut operands = vec![a.operand, b.operand];
        operands.extend(finish.c.map(|c| c.operand));
        self.add(node, Layer::MatMul(layer), operands, &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }
}
