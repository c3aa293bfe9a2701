//! Element-wise nodes.

use tobiuo_ops::{Activation, Binary, Op};
use tobiuo_tensor::{DType, TensorData};

use super::window::pitch;
use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::{BufferId, View};
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ElementwiseLayer, ElementwiseOp, Layer, MapArgument, MapFunction, MapLayer, MapStep,
};

fn step(function: MapFunction, arguments: &[MapArgument], dtype: DType) -> MapStep {
    MapStep { function, arguments: arguments.to_vec(), dtype }
}

impl Lower<'_> {
    pub(super) fn activation(&mut self, node: &Node, activation: Activation) -> Done<()> {
        if self.picture_function(node, ElementwiseOp::None, Some(activation))? {
            return Ok(());
        }
        self.function(node, MapFunction::Activation(activation), DType::F32)
    }

    pub(super) fn binary(
        &mut self,
        node: &Node,
        kind: Binary,
        activation: Option<Activation>,
    ) -> Done<()> {
        let op = match kind {
            Binary::Add => Some(ElementwiseOp::Add),
            Binary::Sub => Some(ElementwiseOp::Sub),
            Binary::Mul => Some(ElementwiseOp::Mul),
            Binary::Div => Some(ElementwiseOp::Div),
            Binary::Min => Some(ElementwiseOp::Min),
            Binary::Max => Some(ElementwiseOp::Max),
            _ => None,
        };
        if let Some(op) = op
            && self.picture_function(node, op, activation)?
        {
            return Ok(());
        }
        let dtype = self.graph.fact(node.outputs[0]).dtype;
        let function = MapFunction::Binary(kind);
        self.map(node, &node.inputs, |a| {
            let mut steps = vec![step(function, a, dtype)];
            steps.extend(
                activation
                    .map(|act| step(MapFunction::Activation(act), &[MapArgument::Step(0)], dtype)),
            );
            steps
        })
    }

    /// A node that is one function of all its operands.
    pub(super) fn function(
        &mut self,
        node: &Node,
        function: MapFunction,
        dtype: DType,
    ) -> Done<()> {
        self.map(node, &node.inputs, |a| vec![step(function, a, dtype)])
    }

    pub(super) fn cast(&mut self, node: &Node, to: DType) -> Done<()> {
        let view = self.view(node.inputs[0])?;
        let from = self.graph.fact(node.inputs[0]).dtype;
        // Nothing changes where both are stored alike; f16 from f32 has to be rounded.
        if from == to || (view.dtype == DType::F16 && to == DType::F16) {
            self.views.insert(node.outputs[0], view);
            return Ok(());
        }
        if view.dtype == DType::F16 && to == DType::I32 && self.is_sum(node.inputs[0]) {
            return Err(
                "sums of products of integers do not fit into f16; --precision fp32 or tf32 \
                        computes them"
                    .into(),
            );
        }
        self.function(node, MapFunction::Cast, to)
    }

    /// Whether a value comes out of a product of matrices or a convolution.
    fn is_sum(&self, value: ValueId) -> bool {
        let made = self.graph.nodes.iter().find(|n| n.outputs.contains(&value));
        made.is_some_and(|n| matches!(n.op, Op::Conv(_) | Op::MatMul | Op::Gemm(_)))
    }

    pub(super) fn batch_norm(&mut self, node: &Node, epsilon: f32) -> Done<()> {
        let constants: Option<Vec<Vec<f32>>> = node.inputs[1..]
            .iter()
            .map(|&v| Some(self.graph.constant(v)?.as_f32()?.to_vec()))
            .collect();
        let rank = self.graph.shape(node.inputs[0]).len();
        let x = self.exact(node.inputs[0])?;
        // Per channel: broadcast over what follows.
        let per_channel = |view: View| -> Done<View> {
            let mut shape = vec![1; rank - 1];
            shape[0] = view.shape[0];
            view.reshaped(&shape).ok_or_else(|| "a channel's numbers are no row".into())
        };
        if let Some(parts) = constants {
            let [scale, bias, mean, variance] = &parts[..] else {
                return Err("it does not have five operands".into());
            };
            let factor: Vec<f32> =
                scale.iter().zip(variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
            let add: Vec<f32> = (0..bias.len()).map(|c| bias[c] - mean[c] * factor[c]).collect();
            let mut views = vec![x];
            for values in [factor, add] {
                let shape = vec![values.len()];
                let number = self.constant(pack::floats(values, DType::F32));
                views.push(per_channel(View {
                    buffer: BufferId::of_constant(number),
                    dtype: DType::F32,
                    offset: 0,
                    strides: vec![1],
                    shape,
                    channels_stored: 0,
                })?);
            }
            let a = [0, 1, 2].map(MapArgument::Input);
            let steps = vec![step(MapFunction::Affine, &a, DType::F32)];
            return self.map_views(node, &views, steps);
        }
        let mut views = vec![x];
        for &v in &node.inputs[1..] {
            let view = self.exact(v)?;
            views.push(per_channel(view)?);
        }
        use MapArgument::{Float, Input, Step};
        let binary = |kind, a: [MapArgument; 2]| step(MapFunction::Binary(kind), &a, DType::F32);
        let root = MapFunction::Unary(tobiuo_ops::Unary::Sqrt);
        let steps = vec![
            binary(Binary::Add, [Input(4), Float(epsilon.to_bits())]),
            step(root, &[Step(0)], DType::F32),
            binary(Binary::Div, [Input(1), Step(1)]),
            binary(Binary::Mul, [Input(3), Step(2)]),
            binary(Binary::Sub, [Input(2), Step(3)]),
            step(MapFunction::Affine, &[Input(0), Step(2), Step(4)], DType::F32),
        ];
        self.map_views(node, &views, steps)
    }

    /// A layer of element-wise steps over operands; constants of one element become literals.
    pub(super) fn map(
        &mut self,
        node: &Node,
        operands: &[ValueId],
        steps: impl FnOnce(&[MapArgument]) -> Vec<MapStep>,
    ) -> Done<()> {
        let mut arguments: Vec<Option<MapArgument>> =
            operands.iter().map(|&v| self.literal(v)).collect();
        // A step's type is that of an operand.
        if arguments.iter().all(Option::is_some) {
            arguments[0] = None;
        }
        let mut views = Vec::new();
        let mut taken = Vec::new();
        for (&operand, argument) in operands.iter().zip(arguments) {
            taken.push(match argument {
                Some(literal) => literal,
                None => {
                    views.push(self.exact(operand)?);
                    MapArgument::Input(views.len() - 1)
                }
            });
        }
        self.map_views(node, &views, steps(&taken))
    }

    fn map_views(&mut self, node: &Node, views: &[View], steps: Vec<MapStep>) -> Done<()> {
        let out = node.outputs[0];
        let y = self.result(out, views, true);
        let mut dims = y.shape.clone();
        let mut valid = None;
        if dims.len() == 4 && y.channels_stored > dims[1] {
            valid = Some((1, dims[1]));
            dims[1] = y.channels_stored;
        }
        let (mut operands, mut inputs) = (Vec::new(), Vec::new());
        for view in views {
            let (operand, input) = self.strided(&view.expanded(&y.shape));
            operands.push(operand);
            inputs.push(input);
        }
        let (_, output) = self.strided(&y);
        let layer = MapLayer { dims, valid, inputs, output, steps };
        self.add(node, Layer::Map(layer), operands, &y, vec![]);
        self.views.insert(out, y);
        Ok(())
    }

    /// A constant of one element as a step's argument.
    fn literal(&self, value: ValueId) -> Option<MapArgument> {
        let tensor = self.graph.constant(value).filter(|t| t.numel() == 1)?;
        match tensor.data() {
            TensorData::F32(v) => Some(MapArgument::Float(v[0].to_bits())),
            TensorData::F16(_) => None,
            TensorData::Bool(v) => Some(MapArgument::Integer(i64::from(v[0] != 0))),
            _ => Some(MapArgument::Integer(tensor.to_i64()?[0])),
        }
    }

    /// The same for what is common and has a kernel of its own: floats in channels-last
    /// pictures, with another such picture, a row of channels or a number. False where the
    /// operands are something else.
    fn picture_function(
        &mut self,
        node: &Node,
        op: ElementwiseOp,
        activation: Option<Activation>,
    ) -> Done<bool> {
        let out = node.outputs[0];
        let shape = self.graph.shape(out).to_vec();
        if shape.len() != 4 || self.graph.fact(out).dtype != DType::F32 || self.is_only_output(out)
        {
            return Ok(false);
        }
        let commutes = !matches!(op, ElementwiseOp::Sub | ElementwiseOp::Div);
        let (mut a, mut b) = (node.inputs[0], node.inputs.get(1).copied());
        if commutes && self.graph.shape(a) != shape {
            (a, b) = (b.unwrap_or(a), Some(a));
        }
        let is_here = |l: &Self, v: ValueId| l.views.get(&v).is_some_and(|v| l.is_picture(v));
        if self.graph.shape(a) != shape || !is_here(self, a) {
            return Ok(false);
        }
        let channels = shape[1];
        let x = self.view(a)?;
        let mut operands = vec![Operand::View(x.clone())];
        let mut b_pitch = 0;
        if let Some(b) = b {
            let row = [1, channels, 1, 1];
            if let Some(constant) = self.graph.constant(b).cloned() {
                let Some(values) = constant.as_f32() else { return Ok(false) };
                let own = constant.shape();
                let per_channel =
                    values.len() == channels && own.len() >= 3 && own[own.len() - 3] == channels;
                let row = match values {
                    [v] => vec![*v; channels],
                    _ if per_channel => values.to_vec(),
                    _ => return Ok(false),
                };
                let bytes = pack::padded(&row, channels.next_multiple_of(8), self.dtype);
                operands.push(Operand::Constant(self.constant(bytes)));
            } else {
                let own = self.graph.shape(b);
                if !is_here(self, b) || (own != shape && (own != row || shape[0] != 1)) {
                    return Ok(false);
                }
                let y = self.view(b)?;
                if y.shape == shape {
                    b_pitch = pitch(&y);
                }
                operands.push(Operand::View(y));
            }
        }
        let y = self.new_picture(out);
        let layer = ElementwiseLayer {
            dtype: self.dtype,
            pixels: shape[0] * shape[2] * shape[3],
            channels: y.channels_stored.min(channels.next_multiple_of(8)),
            valid: channels,
            a_pitch: pitch(&x),
            b_pitch,
            y_pitch: pitch(&y),
            op,
            activation,
        };
        self.add(node, Layer::Elementwise(layer), operands, &y, vec![]);
        self.views.insert(out, y);
        Ok(true)
    }
}
