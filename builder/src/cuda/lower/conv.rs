//! Convolutions.

use tobiuo_ops::Conv;
use tobiuo_tensor::DType;

use super::layers::{pitch, two};
use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{ConvLayer, DepthwiseLayer, Layer};

impl Lower<'_> {
    /// A constant's values.
    pub(super) fn floats(&self, value: ValueId, what: &str) -> Done<Vec<f32>> {
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
                multiplier: 1,
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
}
