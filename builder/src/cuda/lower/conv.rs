//! Convolutions, transposed ones too, over one or two spatial axes.

use tobiuo_ops::{Activation, Binary, Conv, ConvTranspose, Op};
use tobiuo_tensor::DType;

use super::window::pitch;
use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::{View, dense, granule};
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ConvLayer, DepthwiseLayer, Ends, GeneralConvLayer, Layer, Numbers, PermuteLayer,
};

/// A convolution's attributes over two axes; a single spatial axis is the columns of one row.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub pads: [usize; 2],
    pub dilations: [usize; 2],
    pub groups: usize,
    pub transposed: bool,
    pub residual: bool,
    pub activation: Option<Activation>,
}

pub(super) fn axes(v: &[usize], missing: usize) -> Done<[usize; 2]> {
    match *v {
        [one] => Ok([missing, one]),
        [a, b] => Ok([a, b]),
        _ => Err(format!("{} spatial axes, where the kernels take one or two", v.len())),
    }
}

/// The elements of a picture must be within reach of the kernels' offsets.
pub(super) fn within_reach(view: &View) -> Done<()> {
    let elements = view.shape[0] * view.shape[2] * view.shape[3] * pitch(view);
    if i32::try_from(elements).is_err() {
        return Err(format!("{:?} is more than 2^31 elements in memory", view.shape));
    }
    Ok(())
}

impl Lower<'_> {
    /// A constant's values.
    pub(super) fn floats(&self, value: ValueId, what: &str) -> Done<Vec<f32>> {
        let tensor = self.graph.constant(value).ok_or(format!("its {what} is no constant"))?;
        Ok(tensor.as_f32().ok_or(format!("its {what} is not f32"))?.to_vec())
    }

    /// A value `[N, C, H, W]`, or `[N, C, L]` as `[N, C, 1, L]`, as a picture.
    pub(super) fn planes(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        let [n, c, len] = view.shape[..] else { return self.picture(value) };
        if let Some(done) = self.pictures.get(&value) {
            return Ok(done.clone());
        }
        let [a, b, step] = [view.strides[0], view.strides[1], view.strides[2]];
        let strides = vec![a, b, step * len as i64, step];
        let view = View { shape: vec![n, c, 1, len], strides, ..view };
        if self.is_picture(&view) {
            return Ok(view);
        }
        let dtype = self.picture_type(view.dtype);
        let to = self.new_channels_last(&view.shape, c.next_multiple_of(granule(dtype)), dtype);
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        self.pictures.insert(value, to.clone());
        Ok(to)
    }

    /// Memory for a result, as [`planes`](Self::planes) would give it.
    pub(super) fn new_planes(&mut self, value: ValueId) -> View {
        match self.graph.shape(value)[..] {
            [n, c, len] => {
                let dtype = self.picture_type(self.graph.fact(value).dtype);
                let pitch = c.next_multiple_of(granule(dtype));
                self.new_channels_last(&[n, c, 1, len], pitch, dtype)
            }
            _ => self.new_picture(value),
        }
    }

    pub(super) fn set_planes(&mut self, value: ValueId, y: View) {
        let view = match self.graph.shape(value).len() {
            3 => View {
                shape: vec![y.shape[0], y.shape[1], y.shape[3]],
                strides: vec![y.strides[0], y.strides[1], y.strides[3]],
                ..y
            },
            _ => y,
        };
        self.views.insert(value, view);
    }

    pub(super) fn conv(&mut self, node: &Node, conv: &Conv) -> Done<()> {
        let window = Window {
            kernel: axes(&conv.kernel, 1)?,
            strides: axes(&conv.strides, 1)?,
            pads: axes(&conv.pads[..conv.pads.len() / 2], 0)?,
            dilations: axes(&conv.dilations, 1)?,
            groups: conv.groups,
            transposed: false,
            residual: conv.residual,
            activation: conv.activation,
        };
        let channels = self.graph.shape(node.inputs[0])[1];
        let per_group = self.graph.shape(node.inputs[1])[1];
        let constants = [1, 2].iter().all(|&i| self.graph.constant(node.inputs[i]).is_some());
        let [kh, kw] = window.kernel;
        // The depthwise kernel holds its window's rows in registers.
        if constants
            && channels > 1
            && per_group == 1
            && conv.groups == channels
            && kw <= 28
            && kh * kw <= 256
        {
            return self.depthwise(node, window);
        }
        if constants && self.dtype == DType::F16 && conv.groups == 1 && kh <= 16 && kw <= 16 {
            return self.dense_conv(node, window);
        }
        self.general_conv(node, window)
    }

    pub(super) fn conv_transpose(&mut self, node: &Node, conv: &ConvTranspose) -> Done<()> {
        let window = Window {
            kernel: axes(&conv.kernel, 1)?,
            strides: axes(&conv.strides, 1)?,
            pads: axes(&conv.pads[..conv.pads.len() / 2], 0)?,
            dilations: axes(&conv.dilations, 1)?,
            groups: conv.groups,
            transposed: true,
            residual: false,
            activation: conv.activation,
        };
        self.general_conv(node, window)
    }

    fn depthwise(&mut self, node: &Node, window: Window) -> Done<()> {
        let weights = self.floats(node.inputs[1], "weight")?;
        let bias = self.floats(node.inputs[2], "bias")?;
        let x = self.planes(node.inputs[0])?;
        let residual = if window.residual { Some(self.planes(node.inputs[3])?) } else { None };
        let quantised = self.quantised_behind(node.outputs[0]);
        let result = quantised.map_or(node.outputs[0], |q| q.0);
        let y = self.new_planes(result);
        within_reach(&x)?;
        let float = Numbers::float(self.dtype);
        let ends = quantised.map(|(_, y)| Ends {
            x_zero_point: 0,
            y,
            residual: float,
            residual_last: false,
        });
        let (channels, filters) = (x.shape[1], y.shape[1]);
        let stored = y.channels_stored.min(filters.next_multiple_of(8));
        let [kh, kw] = window.kernel;
        let layer = DepthwiseLayer {
            dtype: self.dtype,
            batch: x.shape[0],
            input: [x.shape[2], x.shape[3]],
            output: [y.shape[2], y.shape[3]],
            channels: stored,
            multiplier: filters / channels,
            x_pitch: pitch(&x),
            y_pitch: pitch(&y),
            kernel: window.kernel,
            strides: window.strides,
            pads: window.pads,
            dilations: window.dilations,
            residual_pitch: residual.as_ref().map(pitch),
            activation: window.activation,
            ends,
        };
        let w = pack::depthwise_weights(&weights, filters, kh * kw, stored, self.dtype);
        let w = self.constant(w);
        let b = self.constant(pack::padded(&bias, stored, DType::F32));
        let operands = [x].into_iter().chain(residual).map(Operand::View).collect();
        self.add(node, Layer::Depthwise(layer), operands, &y, vec![w, b]);
        self.set_planes(result, y);
        Ok(())
    }

    /// A thin picture where that saves arithmetic, else a whole one; and its channels.
    fn dense_picture(&mut self, value: ValueId) -> Done<(View, usize)> {
        let shape = self.graph.shape(value);
        if shape[1] <= 4 && shape.len() == 4 {
            return Ok((self.thin_picture(value)?, 4));
        }
        let channels = shape[1].next_multiple_of(8);
        Ok((self.planes(value)?, channels))
    }

    /// One group on f16 tensor cores.
    fn dense_conv(&mut self, node: &Node, window: Window) -> Done<()> {
        let weights = self.floats(node.inputs[1], "weight")?;
        let bias = self.floats(node.inputs[2], "bias")?;
        let (x, channels) = self.dense_picture(node.inputs[0])?;
        let added = self.added_behind(node, window);
        let residual = match added {
            Some((_, other)) => Some(self.planes(other)?),
            None if window.residual => Some(self.planes(node.inputs[3])?),
            None => None,
        };
        let result = added.map_or(node.outputs[0], |(sum, _)| sum);
        let quantised = self.quantised_behind(result);
        let result = quantised.map_or(result, |q| q.0);
        let y = self.new_planes(result);
        within_reach(&x)?;
        let (filters, [kh, kw]) = (y.shape[1], window.kernel);
        let layer = ConvLayer {
            batch: x.shape[0],
            input: [x.shape[2], x.shape[3]],
            output: [y.shape[2], y.shape[3]],
            channels,
            x_pitch: pitch(&x),
            filters,
            filters_stored: y.channels_stored.min(filters.next_multiple_of(8)),
            y_pitch: pitch(&y),
            kernel: window.kernel,
            strides: window.strides,
            pads: window.pads,
            dilations: window.dilations,
            residual_pitch: residual.as_ref().map(pitch),
            activation: window.activation,
            residual_last: added.is_some(),
            pooled: false,
            planes: None,
            y_planes: None,
            x: DType::F16,
            x_zero_point: 0,
            y: quantised.map_or(Numbers::F16, |q| q.1),
            residual: Numbers::F16,
        };
        let (taps, read) = (kh * kw, x.shape[1]);
        let at = |f: usize, tap: usize, c: usize| weights[(f * read + c) * taps + tap];
        let w = self.constant(pack::conv_weights(&layer, [taps, read], at));
        let b = self.constant(pack::padded(&bias, filters.next_multiple_of(8), DType::F32));
        let operands = [x].into_iter().chain(residual).map(Operand::View).collect();
        self.add(node, Layer::Conv(layer), operands, &y, vec![w, b]);
        self.set_planes(result, y);
        Ok(())
    }

    /// When all that follows a convolution is an addition of something that is there already:
    /// the sum and the other operand. The convolution then computes the sum.
    fn added_behind(&self, node: &Node, window: Window) -> Option<(ValueId, ValueId)> {
        let out = node.outputs[0];
        if window.residual || self.graph.is_output(out) {
            return None;
        }
        let [user] = self.users.get(&out)?[..] else { return None };
        let user = &self.graph.nodes[user];
        let Op::Binary { kind: Binary::Add, activation: None } = user.op else { return None };
        let &other = user.inputs.iter().find(|&&v| v != out)?;
        let there = self.views.contains_key(&other);
        let same = self.graph.shape(other) == self.graph.shape(out);
        (there && same).then_some((user.outputs[0], other))
    }

    fn general_conv(&mut self, node: &Node, window: Window) -> Done<()> {
        let (w_value, b_value) = (node.inputs[1], node.inputs[2]);
        let (groups, transposed) = (window.groups, window.transposed);
        let shape = self.graph.shape(w_value).to_vec();
        let per_group = self.graph.shape(node.inputs[0])[1] / groups;
        let filters = if transposed { shape[1] } else { shape[0] / groups };
        let [weights_given, bias_given] =
            [w_value, b_value].map(|v| self.graph.constant(v).is_none());
        // Packed weights have rows for the padding channels; weights that come as they are do not.
        let (x, channels) = if groups == 1 && !weights_given {
            self.dense_picture(node.inputs[0])?
        } else {
            (self.planes(node.inputs[0])?, per_group)
        };
        let residual = if window.residual { Some(self.planes(node.inputs[3])?) } else { None };
        let y = self.new_planes(node.outputs[0]);
        within_reach(&x)?;
        let layer = GeneralConvLayer {
            dtype: self.dtype,
            tf32: self.tf32(),
            transposed,
            batch: x.shape[0],
            input: [x.shape[2], x.shape[3]],
            output: [y.shape[2], y.shape[3]],
            groups,
            channels,
            x_pitch: pitch(&x),
            filters,
            filters_stored: y.channels_stored.min((groups * filters).next_multiple_of(8)),
            y_pitch: pitch(&y),
            kernel: window.kernel,
            strides: window.strides,
            pads: window.pads,
            dilations: window.dilations,
            weights_given,
            bias_given,
            residual_pitch: residual.as_ref().map(pitch),
            activation: window.activation,
            residual_last: false,
        };
        let (mut operands, mut constants) = (vec![Operand::View(x)], Vec::new());
        let taps = window.kernel[0] * window.kernel[1];
        if weights_given {
            operands.push(Operand::View(self.weights_in_order(node, &layer)?));
        } else {
            let weights = self.floats(w_value, "weight")?;
            // [filters, channels of a group, taps], or transposed [channels, filters of a group, taps].
            let at = |g: usize, t: usize, c: usize, f: usize| {
                let (outer, inner) =
                    if transposed { (g * per_group + c, f) } else { (g * filters + f, c) };
                if c < per_group { weights[(outer * shape[1] + inner) * taps + t] } else { 0.0 }
            };
            let sizes = [groups, taps, channels, filters];
            let packed = pack::depth_first(sizes, layer.weight_pitch(), self.dtype, at);
            constants.push(self.constant(packed));
        }
        if bias_given {
            let view = self.view(b_value)?;
            let to = self.new_dense(DType::F32, &view.shape);
            self.copy(&node.name, &view, &to);
            operands.push(Operand::View(to));
        } else {
            let bias = self.floats(b_value, "bias")?;
            let len = (groups * filters).next_multiple_of(8);
            constants.push(self.constant(pack::padded(&bias, len, DType::F32)));
        }
        operands.extend(residual.map(Operand::View));
        self.add(node, Layer::GeneralConv(layer), operands, &y, constants);
        self.set_planes(node.outputs[0], y);
        Ok(())
    }

    /// Weights that are a value, copied into the order that the kernels read.
    fn weights_in_order(&mut self, node: &Node, layer: &GeneralConvLayer) -> Done<View> {
        let view = self.row_major(node.inputs[1])?;
        let [kh, kw] = layer.kernel;
        let dims = vec![layer.groups, kh, kw, layer.channels, layer.weight_pitch()];
        let inner = self.graph.shape(node.inputs[1])[1];
        let taps = kh * kw;
        let (channel, filter) = match layer.transposed {
            true => (inner * taps, taps),
            false => (taps, inner * taps),
        };
        let group = match layer.transposed {
            true => layer.channels * channel,
            false => layer.filters * filter,
        };
        let to = self.new_dense(self.dtype, &dims);
        let copy = PermuteLayer {
            from: view.dtype,
            to: to.dtype,
            x_offset: 0,
            x_strides: [group, kw, 1, channel, filter].map(|s| s as i64).to_vec(),
            y_strides: dense(&dims),
            dims,
            valid: Some((4, layer.filters)),
        };
        self.push_copy(&node.name, copy, &view, &to);
        Ok(to)
    }
}
