//! Convolutions and fully connected layers of integers.

use tobiuo_ops::{Epilogue, Op, QuantConv, QuantGemm};
use tobiuo_tensor::{DType, TensorData};

use super::conv::{Window, axes, within_reach};
use super::window::pitch;
use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::View;
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ConvLayer, DepthwiseLayer, Ends, GemvLayer, IntegerConvLayer, Layer, Numbers,
};

/// A convolution's operands in memory, and what is behind its sums.
struct Product {
    x: View,
    residual: Option<View>,
    y: View,
    stored: Numbers,
    added: Numbers,
}

impl Lower<'_> {
    /// A constant's integers.
    fn integers(&self, value: ValueId, what: &str) -> Done<Vec<i8>> {
        let tensor = self.graph.constant(value).ok_or(format!("its {what} is no constant"))?;
        match tensor.data() {
            TensorData::I8(v) => Ok(v.clone()),
            _ => Err(format!("its {what} is not i8")),
        }
    }

    /// Multiplier and bias of each filter, side by side.
    fn ends(&self, node: &Node) -> Done<Vec<f32>> {
        let multipliers = self.floats(node.inputs[2], "multiplier")?;
        let bias = self.floats(node.inputs[3], "bias")?;
        Ok(multipliers.into_iter().zip(bias).flat_map(|(m, b)| [m, b]).collect())
    }

    /// How results are stored, and how the residual is.
    fn numbers(&self, epilogue: &Epilogue) -> (Numbers, Numbers, bool) {
        let float = Numbers::float(self.dtype);
        let stored = epilogue.output.map_or(float, |r| Numbers::integers(r.to, r.quantization()));
        (stored, float, epilogue.residual.is_some_and(|r| r.after_activation))
    }

    fn residual_numbers(&self, node: &Node, epilogue: &Epilogue) -> Numbers {
        let float = Numbers::float(self.dtype);
        let Some(q) = epilogue.residual.and_then(|r| r.quantization) else { return float };
        Numbers::integers(self.graph.fact(node.inputs[4]).dtype, q)
    }

    pub(super) fn quant_conv(&mut self, node: &Node, conv: &QuantConv) -> Done<()> {
        let window = Window {
            kernel: axes(&conv.kernel, 1)?,
            strides: axes(&conv.strides, 1)?,
            pads: axes(&conv.pads[..conv.pads.len() / 2], 0)?,
            dilations: axes(&conv.dilations, 1)?,
            groups: conv.groups,
            transposed: false,
            residual: conv.epilogue.residual.is_some(),
            activation: conv.epilogue.activation,
        };
        let x = self.planes(node.inputs[0])?;
        let residual = match window.residual {
            true => Some(self.planes(node.inputs[4])?),
            false => None,
        };
        let y = self.new_planes(node.outputs[0]);
        within_reach(&x)?;
        let (stored, _, _) = self.numbers(&conv.epilogue);
        let added = self.residual_numbers(node, &conv.epilogue);
        let p = Product { x, residual, y, stored, added };
        let (channels, [kh, kw]) = (p.x.shape[1], window.kernel);
        let per_group = self.graph.shape(node.inputs[1])[1];
        if channels > 1 && per_group == 1 && conv.groups == channels && kw <= 28 && kh * kw <= 256 {
            self.quant_depthwise(node, conv, window, &p)?;
        } else {
            self.quant_product(node, (conv.x_zero_point, &conv.epilogue), window, &p)?;
        }
        self.set_planes(node.outputs[0], p.y);
        Ok(())
    }

    fn quant_depthwise(
        &mut self,
        node: &Node,
        conv: &QuantConv,
        window: Window,
        p: &Product,
    ) -> Done<()> {
        let weights = self.integers(node.inputs[1], "weight")?;
        let ends = self.ends(node)?;
        let (channels, filters) = (p.x.shape[1], p.y.shape[1]);
        let stored = p.y.channels_stored.min(filters.next_multiple_of(8));
        let taps = window.kernel[0] * window.kernel[1];
        let layer = DepthwiseLayer {
            dtype: p.x.dtype,
            batch: p.x.shape[0],
            input: [p.x.shape[2], p.x.shape[3]],
            output: [p.y.shape[2], p.y.shape[3]],
            channels: stored,
            multiplier: filters / channels,
            x_pitch: pitch(&p.x),
            y_pitch: pitch(&p.y),
            kernel: window.kernel,
            strides: window.strides,
            pads: window.pads,
            dilations: window.dilations,
            residual_pitch: p.residual.as_ref().map(pitch),
            activation: window.activation,
            ends: Some(Ends {
                x_zero_point: conv.x_zero_point,
                y: p.stored,
                residual: p.added,
                residual_last: self.numbers(&conv.epilogue).2,
            }),
        };
        let w = self.constant(pack::depthwise_integers(&weights, filters, taps, stored));
        let e = self.constant(pack::padded(&ends, 2 * stored, DType::F32));
        let operands = [p.x.clone()].into_iter().chain(p.residual.clone()).map(Operand::View);
        self.add(node, Layer::Depthwise(layer), operands.collect(), &p.y, vec![w, e]);
        Ok(())
    }

    /// Any other product of integers.
    fn quant_product(
        &mut self,
        node: &Node,
        (x_zero_point, epilogue): (i32, &Epilogue),
        window: Window,
        p: &Product,
    ) -> Done<()> {
        let weights = self.integers(node.inputs[1], "weight")?;
        let ends = self.ends(node)?;
        let per_group = p.x.shape[1] / window.groups;
        let filters = p.y.shape[1];
        let filters_stored = p.y.channels_stored.min(filters.next_multiple_of(8));
        let [kh, kw] = window.kernel;
        let residual_last = self.numbers(epilogue).2;
        // The kernels of tensor cores have no f32 beside integers.
        let halves = [p.stored, p.added].iter().all(|n| n.dtype != DType::F32)
            || (p.stored.is_integer() && p.residual.is_none());
        let dense = window.groups == 1 && kh <= 16 && kw <= 16 && halves;
        let sizes = (
            [p.x.shape[2], p.x.shape[3]],
            [p.y.shape[2], p.y.shape[3]],
            p.residual.as_ref().map(pitch),
        );
        let shape = [filters, per_group, kh, kw];
        let ends_len = 2 * filters.next_multiple_of(8);
        // What each filter's sum has too often where x has a zero point.
        let sum = |row: &[i8]| row.iter().map(|&w| i32::from(w)).sum();
        let each = per_group * kh * kw;
        let totals: Option<Vec<i32>> =
            (x_zero_point != 0).then(|| weights.chunks_exact(each).map(sum).collect());
        let (layer, packed, totals) = if dense {
            let layer = ConvLayer {
                batch: p.x.shape[0],
                input: sizes.0,
                output: sizes.1,
                channels: per_group.next_multiple_of(16),
                x_pitch: pitch(&p.x),
                filters,
                filters_stored,
                y_pitch: pitch(&p.y),
                kernel: window.kernel,
                strides: window.strides,
                pads: window.pads,
                dilations: window.dilations,
                residual_pitch: sizes.2,
                activation: window.activation,
                residual_last,
                pooled: false,
                planes: None,
                y_planes: None,
                x: p.x.dtype,
                x_zero_point,
                y: p.stored,
                residual: if p.residual.is_some() { p.added } else { Numbers::F16 },
            };
            let taps = kh * kw;
            let at = |f: usize, tap: usize, c: usize| weights[(f * per_group + c) * taps + tap];
            let packed = pack::conv_integers(&layer, [taps, per_group], at);
            (Layer::Conv(layer), packed, totals)
        } else {
            // Of a single group channels are read as stored, so that pieces are whole.
            let channels = match window.groups {
                1 => per_group.next_multiple_of(16),
                _ => per_group,
            };
            let depth = kh * kw * channels;
            let layer = IntegerConvLayer {
                x: p.x.dtype,
                x_zero_point,
                batch: p.x.shape[0],
                input: sizes.0,
                output: sizes.1,
                groups: window.groups,
                channels,
                x_pitch: pitch(&p.x),
                filters: filters / window.groups,
                filters_stored,
                y_pitch: pitch(&p.y),
                weight_pitch: depth.next_multiple_of(16),
                blocks: false,
                kernel: window.kernel,
                strides: window.strides,
                pads: window.pads,
                dilations: window.dilations,
                residual_pitch: sizes.2,
                residual: p.added,
                residual_last,
                activation: window.activation,
                y: p.stored,
            };
            let pitch = layer.weight_pitch;
            let packed = pack::integer_weights(&weights, shape, channels, pitch);
            (Layer::IntegerConv(layer), packed, totals)
        };
        let mut constants =
            vec![self.constant(packed), self.constant(pack::padded(&ends, ends_len, DType::F32))];
        if let Some(totals) = totals {
            constants.push(self.constant(pack::integers(&totals)));
        }
        let operands = [p.x.clone()].into_iter().chain(p.residual.clone()).map(Operand::View);
        self.add(node, layer, operands.collect(), &p.y, constants);
        Ok(())
    }

    pub(super) fn quant_gemm(&mut self, node: &Node, gemm: &QuantGemm) -> Done<()> {
        let (rows, depth) = {
            let shape = self.graph.shape(node.inputs[0]);
            (shape[0], shape[1])
        };
        let outputs = self.graph.shape(node.outputs[0])[1];
        let x = self.rows_as_picture(node.inputs[0])?;
        let (stored, _, _) = self.numbers(&gemm.epilogue);
        let out = node.outputs[0];
        let few = rows <= 4 && gemm.x_zero_point == 0 && gemm.epilogue.residual.is_none();
        if few {
            // An output of the network needs no f16 between.
            let is_output = self.is_only_output(out) && !stored.is_integer();
            let stored = if is_output { Numbers::F32 } else { stored };
            let y_pitch = if is_output { outputs } else { outputs.next_multiple_of(16) };
            let mut y = self.new_dense(stored.dtype, &[rows, y_pitch]);
            y.shape[1] = outputs;
            let layer = GemvLayer {
                dtype: x.dtype,
                batch: rows,
                depth: depth.next_multiple_of(16),
                x_pitch: pitch(&x),
                outputs,
                y_pitch,
                y_f32: false,
                activation: gemm.epilogue.activation,
                y: Some(stored),
            };
            let weights = self.integers(node.inputs[1], "weight")?;
            let shape = [outputs, depth, 1, 1];
            let packed = pack::integer_weights(&weights, shape, layer.depth, layer.depth);
            let ends = self.ends(node)?;
            let constants = vec![
                self.constant(packed),
                self.constant(pack::padded(&ends, 2 * outputs, DType::F32)),
            ];
            self.add(node, Layer::Gemv(layer), vec![Operand::View(x)], &y, constants);
            self.views.insert(out, y);
            return Ok(());
        }
        let residual = match gemm.epilogue.residual {
            Some(_) => Some(self.rows_as_picture(node.inputs[4])?),
            None => None,
        };
        let y_pitch = outputs.next_multiple_of(16);
        let y = self.new_channels_last(&[1, outputs, 1, rows], y_pitch, stored.dtype);
        let added = self.residual_numbers(node, &gemm.epilogue);
        let p = Product { x, residual, y, stored, added };
        let window = Window {
            kernel: [1, 1],
            strides: [1, 1],
            pads: [0, 0],
            dilations: [1, 1],
            groups: 1,
            transposed: false,
            residual: p.residual.is_some(),
            activation: gemm.epilogue.activation,
        };
        self.quant_product(node, (gemm.x_zero_point, &gemm.epilogue), window, &p)?;
        let view = View {
            shape: vec![rows, outputs],
            strides: vec![y_pitch as i64, 1],
            channels_stored: 0,
            ..p.y
        };
        self.views.insert(out, view);
        Ok(())
    }

    /// Rows `[M, K]` as a picture `[1, K, 1, M]`.
    fn rows_as_picture(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        let [rows, depth] = view.shape[..] else {
            return Err(format!("operand {:?} is no matrix", view.shape));
        };
        let [down, across] = [view.strides[0], view.strides[1]];
        let strides = vec![down * rows as i64, across, down * rows as i64, down];
        let picture =
            View { shape: vec![1, depth, 1, rows], strides, channels_stored: depth, ..view };
        self.picture_of(&self.graph.value(value).name.clone(), &picture)
    }

    /// When all that follows a float convolution is a Quantize by one scale: its result, and how
    /// that is stored. The convolution then stores it.
    pub(super) fn quantised_behind(&self, value: ValueId) -> Option<(ValueId, Numbers)> {
        if self.graph.is_output(value) {
            return None;
        }
        let [user] = self.users.get(&value)?[..] else { return None };
        let user = &self.graph.nodes[user];
        let Op::Quantize { axis: None, to } = user.op else { return None };
        let numbers = self.one_scale(user, to)?;
        Some((user.outputs[0], numbers))
    }

    /// What the integers of a Quantize or Dequantize by one constant scale stand for.
    pub(super) fn one_scale(&self, node: &Node, dtype: DType) -> Option<Numbers> {
        let &[scale] = self.graph.constant(node.inputs[1])?.as_f32()? else { return None };
        let zero_point = match node.inputs.get(2) {
            None => 0,
            Some(&z) => i32::try_from(*self.graph.constant(z)?.to_i64()?.first()?).ok()?,
        };
        Some(Numbers { dtype, scale, zero_point })
    }
}
