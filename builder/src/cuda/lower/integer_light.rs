//! Element-wise functions and pools of integers.

use tobiuo_ops::{Binary, PoolKind, QuantBinary, QuantPool, Requantization};
use tobiuo_tensor::DType;

use super::window::{pitch, two};
use super::{Done, Lower, Operand};
use crate::cuda::pack;
use crate::cuda::view::{BufferId, View, granule};
use crate::graph::{Node, ValueId};
use tobiuo_kernels::{
    ElementwiseOp, GlobalPoolLayer, IntegerElementwiseLayer, Layer, LookupLayer, Mean, Numbers,
    PoolLayer,
};

/// An operand of a function: where it is, what it stands for, and elements from one pixel to the
/// next (0: one row for all).
struct Side {
    operand: Operand,
    numbers: Numbers,
    pitch: usize,
}

impl Lower<'_> {
    fn stored_as(&self, output: Option<Requantization>) -> Numbers {
        let float = Numbers::float(self.dtype);
        output.map_or(float, |r| Numbers::integers(r.to, r.quantization()))
    }

    pub(super) fn quantise(&mut self, node: &Node, axis: Option<usize>, to: DType) -> Done<()> {
        let x = self.view(node.inputs[0])?;
        let y = self.one_scale(node, to).filter(|_| axis.is_none());
        let y = y.ok_or("its scale is not one constant number")?;
        self.converted(node, x.clone(), Numbers::float(x.dtype), y)
    }

    pub(super) fn dequantise(&mut self, node: &Node, axis: Option<usize>) -> Done<()> {
        let x = self.view(node.inputs[0])?;
        if !matches!(x.dtype, DType::I8 | DType::U8) {
            return Err(format!("{} is dequantised", x.dtype));
        }
        let numbers = self.one_scale(node, x.dtype).filter(|_| axis.is_none());
        let numbers = numbers.ok_or("its scale is not one constant number")?;
        self.converted(node, x, numbers, Numbers::float(self.dtype))
    }

    /// The same numbers stored another way.
    fn converted(&mut self, node: &Node, x: View, from: Numbers, to: Numbers) -> Done<()> {
        if self.is_picture(&x) {
            let side = Side { pitch: pitch(&x), operand: Operand::View(x), numbers: from };
            return self.of_pictures(node, ElementwiseOp::None, vec![side], to, None);
        }
        let x = self.roomy(node.inputs[0], x)?;
        self.of_rows(node, ElementwiseOp::None, vec![(x, from)], to, None)
    }

    /// A value in row-major order, in memory that pieces of 8 elements do not leave.
    fn roomy(&mut self, value: ValueId, view: View) -> Done<View> {
        let size = view.dtype.size();
        let elements = view.shape.iter().product::<usize>().next_multiple_of(8);
        let start = view.offset as usize * size;
        let whole = view.buffer.constant().is_none()
            && view.is_dense()
            && start.is_multiple_of(16)
            && start + elements * size <= self.room(view.buffer);
        if whole {
            return Ok(view);
        }
        let to = self.new_rows(view.dtype, &view.shape);
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        Ok(to)
    }

    /// Bytes of a buffer; of the caller's memory without padding.
    fn room(&self, buffer: BufferId) -> usize {
        match self.out.inputs.iter().find(|input| input.buffer == buffer) {
            Some(input) => input.shape.iter().product::<usize>() * input.dtype.size(),
            None => self.out.buffers[buffer.0].bytes,
        }
    }

    /// Row-major memory of whole pieces of 8 elements.
    fn new_rows(&mut self, dtype: DType, shape: &[usize]) -> View {
        let view = self.new_dense(dtype, shape);
        let elements = shape.iter().product::<usize>().next_multiple_of(8);
        let memory = &mut self.out.buffers[view.buffer.0];
        memory.bytes = memory.bytes.max(elements * dtype.size());
        view
    }

    /// A function of row-major operands of the result's shape.
    fn of_rows(
        &mut self,
        node: &Node,
        op: ElementwiseOp,
        operands: Vec<(View, Numbers)>,
        to: Numbers,
        activation: Option<tobiuo_ops::Activation>,
    ) -> Done<()> {
        let out = node.outputs[0];
        let shape = self.graph.shape(out).to_vec();
        let y = self.new_rows(to.dtype, &shape);
        let valid: usize = shape.iter().product();
        let channels = valid.next_multiple_of(8);
        if i32::try_from(channels).is_err() {
            return Err(format!("{shape:?} is more than 2^31 elements"));
        }
        let layer = IntegerElementwiseLayer {
            pixels: 1,
            channels,
            valid,
            a: operands[0].1,
            b: operands.get(1).map_or(Numbers::F16, |b| b.1),
            y: to,
            a_pitch: channels,
            b_pitch: channels,
            y_pitch: channels,
            op,
            activation,
        };
        let operands = operands.into_iter().map(|(v, _)| Operand::View(v)).collect();
        self.add(node, Layer::IntegerElementwise(layer), operands, &y, vec![]);
        self.views.insert(out, y);
        Ok(())
    }

    /// A function of pictures of the result's shape, the second perhaps a row of channels.
    fn of_pictures(
        &mut self,
        node: &Node,
        op: ElementwiseOp,
        sides: Vec<Side>,
        to: Numbers,
        activation: Option<tobiuo_ops::Activation>,
    ) -> Done<()> {
        let out = node.outputs[0];
        let shape = self.graph.shape(out).to_vec();
        let y = self.new_picture(out);
        let layer = IntegerElementwiseLayer {
            pixels: shape[0] * shape[2] * shape[3],
            channels: y.channels_stored.min(shape[1].next_multiple_of(8)),
            valid: shape[1],
            a: sides[0].numbers,
            b: sides.get(1).map_or(Numbers::F16, |b| b.numbers),
            y: to,
            a_pitch: sides[0].pitch,
            b_pitch: sides.get(1).map_or(0, |b| b.pitch),
            y_pitch: pitch(&y),
            op,
            activation,
        };
        let operands = sides.into_iter().map(|s| s.operand).collect();
        self.add(node, Layer::IntegerElementwise(layer), operands, &y, vec![]);
        self.views.insert(out, y);
        Ok(())
    }

    pub(super) fn quant_binary(&mut self, node: &Node, binary: &QuantBinary) -> Done<()> {
        let op = match binary.kind {
            Binary::Add => ElementwiseOp::Add,
            Binary::Sub => ElementwiseOp::Sub,
            Binary::Mul => ElementwiseOp::Mul,
            Binary::Min => ElementwiseOp::Min,
            Binary::Max => ElementwiseOp::Max,
            other => return Err(format!("no kernel computes {other:?} of integers")),
        };
        let shape = self.graph.shape(node.outputs[0]).to_vec();
        let mut sides = [(node.inputs[0], binary.a), (node.inputs[1], binary.b)];
        if op != ElementwiseOp::Sub && self.graph.shape(sides[0].0) != shape {
            sides.swap(0, 1);
        }
        let to = self.stored_as(binary.output);
        let stands_for = |l: &Self, (v, q): (ValueId, Option<tobiuo_ops::Quantization>)| match q {
            Some(q) => Numbers::integers(l.graph.fact(v).dtype, q),
            None => Numbers::float(l.dtype),
        };
        if shape.len() == 4 && self.graph.shape(sides[0].0) == shape {
            let x = self.picture(sides[0].0)?;
            let a = Side {
                pitch: pitch(&x),
                operand: Operand::View(x),
                numbers: stands_for(self, sides[0]),
            };
            if let Some(b) = self.second_side(sides[1], &shape)? {
                return self.of_pictures(node, op, vec![a, b], to, binary.activation);
            }
        }
        if sides.iter().any(|s| self.graph.shape(s.0) != shape) {
            let shapes = sides.map(|s| self.graph.shape(s.0).to_vec());
            return Err(format!("no kernel broadcasts integers {shapes:?} to {shape:?}"));
        }
        let mut operands = Vec::new();
        for side in sides {
            let view = self.view(side.0)?;
            operands.push((self.roomy(side.0, view)?, stands_for(self, side)));
        }
        self.of_rows(node, op, operands, to, binary.activation)
    }

    /// The second operand of a function of pictures: another picture, or a row of channels.
    fn second_side(
        &mut self,
        (value, q): (ValueId, Option<tobiuo_ops::Quantization>),
        shape: &[usize],
    ) -> Done<Option<Side>> {
        let fact = self.graph.fact(value).clone();
        let numbers = match q {
            Some(q) => Numbers::integers(fact.dtype, q),
            None => Numbers::float(self.dtype),
        };
        let channels = shape[1];
        if let Some(tensor) = self.graph.constant(value).cloned() {
            let own = tensor.shape();
            let per_channel =
                tensor.numel() == channels && own.len() >= 3 && own[own.len() - 3] == channels;
            if tensor.numel() != 1 && !per_channel {
                return Ok(None);
            }
            let at = |i: usize| if per_channel { i } else { 0 };
            let stored = channels.next_multiple_of(granule(fact.dtype));
            // Float constants are not rounded.
            let (bytes, numbers) = match (q, tensor.as_f32(), tensor.to_i64()) {
                (None, Some(values), _) => {
                    let row: Vec<f32> = (0..channels).map(|c| values[at(c)]).collect();
                    (pack::padded(&row, stored, DType::F32), Numbers::F32)
                }
                (Some(_), _, Some(values)) => {
                    let mut row: Vec<u8> = (0..channels).map(|c| values[at(c)] as u8).collect();
                    row.resize(stored, 0);
                    (row, numbers)
                }
                _ => return Ok(None),
            };
            let operand = Operand::Constant(self.constant(bytes));
            return Ok(Some(Side { operand, numbers, pitch: 0 }));
        }
        let row = fact.shape == [1, channels, 1, 1] && shape[0] == 1;
        if fact.shape != shape && !row {
            return Ok(None);
        }
        let view = self.picture(value)?;
        let pitch = if fact.shape == shape { pitch(&view) } else { 0 };
        Ok(Some(Side { operand: Operand::View(view), numbers, pitch }))
    }

    pub(super) fn lookup(&mut self, node: &Node) -> Done<()> {
        let out = node.outputs[0];
        let table = self.graph.constant(node.inputs[1]).cloned();
        let table = table.ok_or("its table is no constant")?;
        // Tables of floats give what floats are stored as.
        let (dtype, bytes) = match table.as_f32() {
            Some(values) => (self.dtype, pack::floats(values.iter().copied(), self.dtype)),
            None => (table.dtype(), table.data().bytes().to_vec()),
        };
        let table = self.constant(bytes);
        let shape = self.graph.shape(out).to_vec();
        let x = self.view(node.inputs[0])?;
        let (x, y, pixels, channels) = if self.is_picture(&x) {
            let y = self.new_picture(out);
            let channels = y.channels_stored.min(shape[1].next_multiple_of(8));
            (x, y, shape[0] * shape[2] * shape[3], channels)
        } else {
            let x = self.roomy(node.inputs[0], x)?;
            let y = self.new_rows(dtype, &shape);
            (x, y, 1, shape.iter().product::<usize>().next_multiple_of(8))
        };
        let [x_pitch, y_pitch] = [&x, &y].map(|v| if pixels == 1 { channels } else { pitch(v) });
        if i32::try_from(channels).is_err() {
            return Err(format!("{shape:?} is more than 2^31 elements"));
        }
        let layer = LookupLayer { x: x.dtype, y: dtype, pixels, channels, x_pitch, y_pitch };
        self.add(node, Layer::Lookup(layer), vec![Operand::View(x)], &y, vec![table]);
        self.views.insert(out, y);
        Ok(())
    }

    pub(super) fn quant_pool(&mut self, node: &Node, quant: &QuantPool) -> Done<()> {
        let pool = &quant.pool;
        // One spatial axis is two of which the first has one element.
        let flat = pool.kernel.len() == 1;
        let pair = |v: &[usize], one: usize| if flat { Ok([one, v[0]]) } else { two(v) };
        let (kernel, strides) = (pair(&pool.kernel, 1)?, pair(&pool.strides, 1)?);
        let dilations = pair(&pool.dilations, 1)?;
        let n = pool.kernel.len();
        let (begin, end) = (pair(&pool.pads[..n], 0)?, pair(&pool.pads[n..], 0)?);
        let PoolKind::Average { count_include_pad } = pool.kind else {
            return Err("it is no average".into());
        };
        let x = self.planes(node.inputs[0])?;
        let y = self.new_planes(node.outputs[0]);
        let mean = Mean { x: quant.x, y: self.stored_as(quant.output) };
        let input = [x.shape[2], x.shape[3]];
        let channels = y.channels_stored.min(x.channels_stored);
        let all = kernel == input && [begin, end] == [[0; 2]; 2] && dilations == [1, 1];
        let layer = if all {
            Layer::GlobalPool(GlobalPoolLayer {
                dtype: x.dtype,
                batch: x.shape[0],
                pixels: input[0] * input[1],
                channels,
                x_pitch: pitch(&x),
                y_pitch: pitch(&y),
                max: false,
                mean: Some(mean),
            })
        } else {
            Layer::Pool(PoolLayer {
                dtype: x.dtype,
                batch: x.shape[0],
                input,
                output: [y.shape[2], y.shape[3]],
                channels,
                x_pitch: pitch(&x),
                y_pitch: pitch(&y),
                kernel,
                strides,
                pads: [begin[0], begin[1], end[0], end[1]],
                dilations,
                average: Some(count_include_pad),
                mean: Some(mean),
            })
        };
        self.add(node, layer, vec![Operand::View(x)], &y, vec![]);
        self.set_planes(node.outputs[0], y);
        Ok(())
    }
}
