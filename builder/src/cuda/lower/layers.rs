//! Nodes that become compute layers.

use tobiuo_ops::{
    Activation, Binary, Coordinates, NearestRounding, Pool, PoolKind, Reduce, Resize, ResizeMode,
};
use tobiuo_tensor::DType;

use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::View;
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ElementwiseLayer, ElementwiseOp, GlobalPoolLayer, Layer, PoolLayer, ResizeLayer,
};

/// Elements from one pixel to the next.
pub(super) fn pitch(view: &View) -> usize {
    view.pixel_pitch().expect("a picture the kernels can take")
}

/// A pair of attributes, one per spatial axis.
pub(super) fn two(v: &[usize]) -> Done<[usize; 2]> {
    <[usize; 2]>::try_from(v).map_err(|_| format!("{} spatial axes rather than 2", v.len()))
}

impl Lower<'_> {
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
