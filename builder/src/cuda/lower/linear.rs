//! Matrix products.

use tobiuo_ops::Gemm;
use tobiuo_tensor::DType;

use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::View;
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{ConvLayer, GemvLayer, Layer};

impl Lower<'_> {
    pub(super) fn gemm(&mut self, node: &Node, gemm: &Gemm) -> Done<()> {
        if self.dtype != DType::F16 {
            return Err("the fully connected kernels are f16 only".into());
        }
        let b = self.floats(node.inputs[1], "matrix")?;
        let shape = self.graph.shape(node.inputs[1]).to_vec();
        let out_shape = self.graph.shape(node.outputs[0]).to_vec();
        let (rows, outputs) = (out_shape[0], out_shape[1]);
        let depth = if gemm.trans_b { shape[1] } else { shape[0] };
        // As [outputs, depth], scaled.
        let mut w = vec![0.0; outputs * depth];
        for o in 0..outputs {
            for k in 0..depth {
                let v = if gemm.trans_b { b[o * depth + k] } else { b[k * outputs + o] };
                w[o * depth + k] = gemm.alpha * v;
            }
        }
        let bias = match node.inputs.get(2) {
            None => vec![0.0; outputs],
            Some(&c) => {
                let c_values = self.floats(c, "bias")?;
                if c_values.len() != outputs && c_values.len() != 1 {
                    return Err("its bias differs between rows".into());
                }
                (0..outputs).map(|o| gemm.beta * c_values[o % c_values.len()]).collect()
            }
        };
        if gemm.trans_a || depth % 8 != 0 {
            return Err(format!("a transposed operand or a depth of {depth}, no multiple of 8"));
        }
        // A flattened picture is read as it lies; the weights' columns take its order instead.
        let (x, order) = match self.flattened_picture(node.inputs[0]) {
            Some((view, order)) => (view, Some(order)),
            None => (self.row_major(node.inputs[0])?, None),
        };
        let is_output = self.graph.is_output(node.outputs[0])
            && !self.graph.users().contains_key(&node.outputs[0]);
        let y_f32 = is_output && rows <= 4;
        let dtype = if y_f32 { DType::F32 } else { self.dtype };
        let y_pitch = if y_f32 { outputs } else { outputs.next_multiple_of(8) };
        let mut y = self.new_dense(dtype, &[rows, y_pitch]);
        y.shape[1] = outputs;
        let operands = vec![Operand::View(x.clone())];
        let tail = ConvLayer::WEIGHT_TAIL;
        let pitch = if rows <= 4 { depth } else { depth.next_multiple_of(64) };
        let packed = pack::matrix(&w, outputs, depth, pitch, order.as_deref(), tail, DType::F16);
        let packed = self.constant(packed);
        let bias = self.constant(pack::padded(&bias, outputs.next_multiple_of(8), DType::F32));
        let layer = if rows <= 4 {
            Layer::Gemv(GemvLayer {
                dtype: self.dtype,
                batch: rows,
                depth,
                x_pitch: depth,
                outputs,
                y_pitch,
                y_f32,
                activation: gemm.activation,
            })
        } else {
            Layer::Conv(ConvLayer {
                batch: 1,
                input: [rows, 1],
                output: [rows, 1],
                channels: depth,
                x_pitch: depth,
                filters: outputs,
                filters_stored: outputs.next_multiple_of(8),
                y_pitch,
                kernel: [1, 1],
                strides: [1, 1],
                pads: [0, 0],
                dilations: [1, 1],
                residual_pitch: None,
                activation: gemm.activation,
            })
        };
        self.add(node, layer, operands, &y, vec![packed, bias]);
        self.views.insert(node.outputs[0], y);
        Ok(())
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
        if shape.len() != 4 || shape[1] % 8 != 0 || picture.pixel_pitch() != Some(shape[1]) {
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
}
