//! Nodes that become compute layers.

use tobiuo_ops::{
    Activation, Binary, Conv, Coordinates, Gemm, NearestRounding, Pool, PoolKind, Reduce, Resize,
    ResizeMode,
};
use tobiuo_tensor::DType;

use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::View;
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ConvLayer, DepthwiseLayer, ElementwiseLayer, ElementwiseOp, GemvLayer, GlobalPoolLayer, Layer,
    PoolLayer, ResizeLayer,
};

fn pitch(view: &View) -> usize {
    view.pixel_pitch().expect("a picture the kernels can take")
}

fn two(v: &[usize]) -> Done<[usize; 2]> {
    <[usize; 2]>::try_from(v).map_err(|_| format!("{} spatial axes rather than 2", v.len()))
}

impl Lower<'_> {
    fn floats(&self, value: ValueId, what: &str) -> Done<Vec<f32>> {
        let tensor = self.graph.constant(value).ok_or(format!("its {what} is no constant"))?;
        Ok(tensor.as_f32().ok_or(format!("its {what} is not f32"))?.to_vec())
    }

    pub(super) fn conv(&mut self, node: &Node, conv: &Conv) -> Done<()> {
        let weights = self.floats(node.inputs[1], "weight")?;
        let bias = self.floats(node.inputs[2], "bias")?;
        let shape = <[usize; 4]>::try_from(self.graph.shape(node.inputs[1]))
            .map_err(|_| "only two spatial axes have a kernel")?;
        let [filters, per_group, kh, kw] = shape;
        let channels = self.graph.shape(node.inputs[0])[1];
        let depthwise =
            conv.groups == channels && per_group == 1 && filters == channels && channels > 1;
        if conv.groups != 1 && !depthwise {
            return Err(format!(
                "no kernel takes {} groups of {per_group} channels yet",
                conv.groups
            ));
        }
        if self.dtype != DType::F16 && !depthwise {
            return Err("the tensor-core convolution is f16 only".into());
        }
        if kh > 16 || kw > 16 {
            return Err(format!("a {kh}x{kw} kernel is larger than 16x16"));
        }
        let x = if channels <= 4 && !depthwise {
            self.thin_picture(node.inputs[0])?
        } else {
            self.picture(node.inputs[0])?
        };
        let residual = if conv.residual { Some(self.picture(node.inputs[3])?) } else { None };
        let y = self.new_picture(node.outputs[0]);
        let (strides, dilations) = (two(&conv.strides)?, two(&conv.dilations)?);
        let pads = [conv.pads[0], conv.pads[1]];
        let (input, output) = ([x.shape[2], x.shape[3]], [y.shape[2], y.shape[3]]);
        let residual_pitch = residual.as_ref().map(pitch);
        let mut operands = vec![Operand::View(x.clone())];
        operands.extend(residual.map(Operand::View));
        let stored = if channels <= 4 && !depthwise { 4 } else { channels.next_multiple_of(8) };
        if depthwise {
            let layer = DepthwiseLayer {
                dtype: self.dtype,
                batch: x.shape[0],
                input,
                output,
                channels: stored,
                x_pitch: pitch(&x),
                y_pitch: pitch(&y),
                kernel: [kh, kw],
                strides,
                pads,
                dilations,
                residual_pitch,
                activation: conv.activation,
            };
            let w = self.constant(pack::depthwise_weights(
                &weights,
                filters,
                kh * kw,
                stored,
                self.dtype,
            ));
            let b = self.constant(pack::padded(&bias, stored, DType::F32));
            self.add(node, Layer::Depthwise(layer), operands, &y, vec![w, b]);
        } else {
            let layer = ConvLayer {
                batch: x.shape[0],
                input,
                output,
                channels: stored,
                x_pitch: pitch(&x),
                filters,
                filters_stored: y.channels_stored.min(filters.next_multiple_of(8)),
                y_pitch: pitch(&y),
                kernel: [kh, kw],
                strides,
                pads,
                dilations,
                residual_pitch,
                activation: conv.activation,
            };
            let tail = ConvLayer::WEIGHT_TAIL;
            let w =
                pack::conv_weights(&weights, shape, stored, layer.weight_pitch(), tail, DType::F16);
            let w = self.constant(w);
            let b = self.constant(pack::padded(&bias, filters.next_multiple_of(8), DType::F32));
            self.add(node, Layer::Conv(layer), operands, &y, vec![w, b]);
        }
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

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

    pub(super) fn pool(&mut self, node: &Node, pool: &Pool) -> Done<()> {
        let x = self.picture(node.inputs[0])?;
        let y = self.new_picture(node.outputs[0]);
        let layer = PoolLayer {
            dtype: self.dtype,
            batch: x.shape[0],
            input: [x.shape[2], x.shape[3]],
            output: [y.shape[2], y.shape[3]],
            channels: y.channels_stored.min(x.channels_stored),
            x_pitch: pitch(&x),
            y_pitch: pitch(&y),
            kernel: two(&pool.kernel)?,
            strides: two(&pool.strides)?,
            pads: <[usize; 4]>::try_from(&pool.pads[..]).map_err(|_| "pads are not four")?,
            dilations: two(&pool.dilations)?,
            average: match pool.kind {
                PoolKind::Max => None,
                PoolKind::Average { count_include_pad } => Some(count_include_pad),
            },
        };
        self.add(node, Layer::Pool(layer), vec![Operand::View(x)], &y, vec![]);
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn reduce(
        &mut self,
        node: &Node,
        kind: Reduce,
        axes: &[usize],
        keep: bool,
    ) -> Done<()> {
        let max = match kind {
            Reduce::Mean => false,
            Reduce::Max => true,
            _ => return Err(format!("no kernel computes {} yet", kind.name())),
        };
        if axes != [2, 3] || self.graph.shape(node.inputs[0]).len() != 4 {
            return Err("only the two spatial axes of a picture can be reduced yet".into());
        }
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
        };
        self.add(node, Layer::GlobalPool(layer), vec![Operand::View(x)], &y, vec![]);
        if !keep {
            y = y.reshaped(&[n, c]).ok_or("a pooled picture is no view of rows")?;
        }
        self.views.insert(node.outputs[0], y);
        Ok(())
    }

    pub(super) fn activation(&mut self, node: &Node, activation: Activation) -> Done<()> {
        self.elementwise(node, node.inputs[0], None, ElementwiseOp::None, Some(activation))
    }

    pub(super) fn binary(
        &mut self,
        node: &Node,
        kind: Binary,
        activation: Option<Activation>,
    ) -> Done<()> {
        let op = match kind {
            Binary::Add => ElementwiseOp::Add,
            Binary::Sub => ElementwiseOp::Sub,
            Binary::Mul => ElementwiseOp::Mul,
            Binary::Div => ElementwiseOp::Div,
            Binary::Min => ElementwiseOp::Min,
            Binary::Max => ElementwiseOp::Max,
            Binary::Pow => ElementwiseOp::Pow,
            _ => return Err(format!("no kernel computes {} yet", kind.name())),
        };
        let (a, b) = (node.inputs[0], node.inputs[1]);
        let commutes = matches!(kind, Binary::Add | Binary::Mul | Binary::Min | Binary::Max);
        let full = self.graph.shape(node.outputs[0]) == self.graph.shape(a);
        if commutes && !full {
            self.elementwise(node, b, Some(a), op, activation)
        } else {
            self.elementwise(node, a, Some(b), op, activation)
        }
    }

    fn elementwise(
        &mut self,
        node: &Node,
        a: ValueId,
        b: Option<ValueId>,
        op: ElementwiseOp,
        activation: Option<Activation>,
    ) -> Done<()> {
        let out = node.outputs[0];
        let shape = self.graph.shape(out).to_vec();
        if self.graph.fact(out).dtype != DType::F32 || self.graph.shape(a) != shape {
            return Err(
                "operands that broadcast both ways, or are no floats, have no kernel yet".into()
            );
        }
        let picture = shape.len() == 4;
        // Anything else than a picture runs as one pixel with all its elements as channels.
        let total: usize = shape.iter().product();
        if !picture && !total.is_multiple_of(8) {
            return Err(format!("{total} elements, no multiple of 8, have no kernel yet"));
        }
        let x = if picture { self.picture(a)? } else { self.row_major(a)? };
        if x.dtype != self.dtype {
            return Err(format!("an operand is stored as {}", x.dtype));
        }
        let (pixels, channels) =
            if picture { (shape[0] * shape[2] * shape[3], shape[1]) } else { (1, total) };
        let mut operands = vec![Operand::View(x.clone())];
        let mut b_pitch = 0;
        if let Some(b) = b {
            if let Some(constant) = self.graph.constant(b).cloned() {
                let values = constant.as_f32().ok_or("its constant is not f32")?;
                let per_channel = constant.shape().iter().rev().nth(2).copied().unwrap_or(1)
                    == channels
                    && values.len() == channels;
                let row: Vec<f32> = if values.len() == 1 {
                    vec![values[0]; channels]
                } else if (picture && per_channel) || (!picture && values.len() == total) {
                    values.to_vec()
                } else {
                    return Err(format!(
                        "a constant of shape {:?} has no kernel yet",
                        constant.shape()
                    ));
                };
                let number =
                    self.constant(pack::padded(&row, channels.next_multiple_of(8), self.dtype));
                operands.push(Operand::Constant(number));
            } else {
                let b_shape = self.graph.shape(b).to_vec();
                if b_shape == shape {
                    let y = if picture { self.picture(b)? } else { self.row_major(b)? };
                    b_pitch = if picture { pitch(&y) } else { total };
                    operands.push(Operand::View(y));
                } else if picture && b_shape == [1, shape[1], 1, 1] && shape[0] == 1 {
                    let y = self.picture(b)?;
                    operands.push(Operand::View(y));
                } else {
                    return Err(format!("{b_shape:?} broadcast to {shape:?} has no kernel yet"));
                }
            }
        }
        let y = if picture { self.new_picture(out) } else { self.new_dense(self.dtype, &shape) };
        let layer = ElementwiseLayer {
            dtype: self.dtype,
            pixels,
            channels: if picture {
                y.channels_stored.min(channels.next_multiple_of(8))
            } else {
                total
            },
            valid: channels,
            a_pitch: if picture { pitch(&x) } else { total },
            b_pitch,
            y_pitch: if picture { pitch(&y) } else { total },
            op,
            activation,
        };
        self.add(node, Layer::Elementwise(layer), operands, &y, vec![]);
        self.views.insert(out, y);
        Ok(())
    }

    pub(super) fn resize(&mut self, node: &Node, resize: &Resize) -> Done<()> {
        let x = self.picture(node.inputs[0])?;
        let y = self.new_picture(node.outputs[0]);
        if x.shape[..2] != y.shape[..2] {
            return Err("resampling of batch or channels has no kernel yet".into());
        }
        let linear = match resize.mode {
            ResizeMode::Nearest { .. } => false,
            ResizeMode::Linear { antialias: false } => true,
            _ => return Err("cubic and antialiased resampling have no kernel yet".into()),
        };
        let mut tables = Vec::new();
        for axis in [2, 3] {
            tables.push(source_table(resize, axis, x.shape[axis], y.shape[axis])?);
        }
        let mut constants = Vec::new();
        for (indices, _) in &tables {
            constants.push(self.constant(pack::integers(indices)));
        }
        if linear {
            for (_, weights) in &tables {
                constants.push(self.constant(pack::floats(weights.iter().copied(), DType::F32)));
            }
        }
        let layer = ResizeLayer {
            dtype: self.dtype,
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
}

/// Source indices of each output index along an axis and, for linear, two of them with the
/// share of the second.
fn source_table(
    resize: &Resize,
    axis: usize,
    from: usize,
    to: usize,
) -> Done<(Vec<i32>, Vec<f32>)> {
    let scale = f64::from(resize.scales[axis]);
    let (input, output) = (from as f64, to as f64);
    let (mut indices, mut weights) = (Vec::new(), Vec::new());
    for i in 0..to {
        let o = i as f64;
        let x = match &resize.coordinates {
            Coordinates::HalfPixel => (o + 0.5) / scale - 0.5,
            Coordinates::PytorchHalfPixel => {
                if to > 1 {
                    (o + 0.5) / scale - 0.5
                } else {
                    0.0
                }
            }
            Coordinates::AlignCorners => {
                if to > 1 {
                    o * (input - 1.0) / (output - 1.0)
                } else {
                    0.0
                }
            }
            Coordinates::Asymmetric => o / scale,
            Coordinates::TfHalfPixelForNn => (o + 0.5) / scale,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = output / (scale * input);
                let offset = input / 2.0 * (1.0 - adjustment);
                offset + (o + 0.5) / scale - 0.5
            }
            other => return Err(format!("{other:?} coordinates have no kernel yet")),
        };
        let clamp = |v: f64| v.clamp(0.0, input - 1.0) as i32;
        match resize.mode {
            ResizeMode::Nearest { rounding } => indices.push(clamp(match rounding {
                NearestRounding::RoundPreferFloor => (x - 0.5).ceil(),
                NearestRounding::RoundPreferCeil => (x + 0.5).floor(),
                NearestRounding::Floor => x.floor(),
                NearestRounding::Ceil => x.ceil(),
            })),
            _ => {
                let low = x.floor();
                indices.extend([clamp(low), clamp(low + 1.0)]);
                weights.push((x - low) as f32);
            }
        }
    }
    Ok((indices, weights))
}
