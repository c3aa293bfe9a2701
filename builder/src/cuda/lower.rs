//! Lowering: every node becomes a view or a layer over views.
//!
//! Pictures are `[N, H, W, C]` inside, channels padded to a multiple of 8 (the picture a first
//! convolution reads: to 4); everything else is row-major. A value's buffer may be a part of a
//! concatenation's: then its producer writes there and the Concat costs nothing.

mod concat;
mod conv;
mod layers;
mod linear;
mod movement;

use std::collections::HashMap;
use std::fmt;

use tobiuo_engine::Precision;
use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use super::view::{BufferId, View, channels_last, dense};
use crate::graph::{Graph, Node, ValueId};
use concat::Places;
use tobiuo_kernels::{Layer, PermuteLayer};

/// What a layer reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A view of a buffer.
    View(View),
    /// A packed constant, by number.
    Constant(usize),
}

/// A layer bound to memory.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The layer's name in the model.
    pub name: String,
    /// The operator it comes from.
    pub op: &'static str,
    /// What runs.
    pub layer: Layer,
    /// What it reads.
    pub operands: Vec<Operand>,
    /// What it writes.
    pub outputs: Vec<View>,
    /// Packed constants, by number.
    pub constants: Vec<usize>,
    /// Arithmetic operations (2 per multiply-add).
    pub flops: u64,
}

/// A buffer of the lowering.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Size in bytes.
    pub bytes: usize,
    /// An input or output: keeps its memory for the whole run.
    pub pinned: bool,
}

/// A lowered graph.
#[derive(Clone, Debug, Default)]
pub struct Lowering {
    /// What runs, in order.
    pub layers: Vec<Lowered>,
    /// Memory.
    pub buffers: Vec<Buffer>,
    /// Packed constants.
    pub constants: Vec<Vec<u8>>,
    /// The graph's inputs, dense.
    pub inputs: Vec<View>,
    /// The graph's outputs, dense.
    pub outputs: Vec<View>,
    /// Where each value of the graph is, for comparing layer by layer.
    pub values: Vec<(ValueId, View)>,
}

/// A node that the CUDA device has no kernel for.
#[derive(Clone, Debug, PartialEq)]
pub struct NoKernel {
    /// The node's name.
    pub node: String,
    /// The operator's name.
    pub op: &'static str,
    /// What is missing.
    pub why: String,
}

impl fmt::Display for NoKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node '{}' ({}): {}", self.node, self.op, self.why)
    }
}

/// All nodes that cannot be lowered.
#[derive(Clone, Debug, PartialEq)]
pub struct LowerError(pub Vec<NoKernel>);

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the CUDA device has no kernel for {} of the nodes:", self.0.len())?;
        for n in &self.0 {
            writeln!(f, "  {n}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LowerError {}

struct Lower<'a> {
    graph: &'a Graph,
    precision: Precision,
    /// f16 or f32: how float activations are stored.
    dtype: DType,
    places: Places,
    views: HashMap<ValueId, View>,
    pictures: HashMap<ValueId, View>,
    out: Lowering,
    missing: Vec<NoKernel>,
}

type Done<T> = Result<T, String>;

/// Lowers a graph. With [`Precision::Fp16`] float activations and weights are stored as f16,
/// else as f32; sums are f32 in any case.
pub fn lower(graph: &Graph, precision: Precision) -> Result<Lowering, LowerError> {
    let mut l = Lower {
        graph,
        precision,
        dtype: if precision == Precision::Fp16 { DType::F16 } else { DType::F32 },
        places: Places::of(graph),
        views: HashMap::new(),
        pictures: HashMap::new(),
        out: Lowering::default(),
        missing: Vec::new(),
    };
    for &input in &graph.inputs {
        let fact = graph.fact(input);
        let view = l.new_dense(fact.dtype, &fact.shape);
        l.out.buffers[view.buffer.0].pinned = true;
        l.out.inputs.push(view.clone());
        l.views.insert(input, view);
    }
    for node in &graph.nodes {
        if let Err(why) = l.node(node) {
            l.missing.push(NoKernel { node: node.name.clone(), op: node.op.name(), why });
            // Go on with made-up outputs, so that every node is judged.
            for &o in &node.outputs {
                let fact = graph.fact(o);
                let view = l.new_dense(l.stored(fact.dtype), &fact.shape);
                l.views.insert(o, view);
            }
        }
    }
    for (name, value) in &graph.outputs {
        if let Err(why) = l.output(name, *value) {
            l.missing.push(NoKernel { node: name.clone(), op: "output", why });
        }
    }
    let mut values: Vec<_> = l.views.iter().map(|(&v, view)| (v, view.clone())).collect();
    values.sort_by_key(|(v, _)| *v);
    l.out.values = values;
    if l.missing.is_empty() { Ok(l.out) } else { Err(LowerError(l.missing)) }
}

impl Lower<'_> {
    /// How elements of a type are stored inside.
    fn stored(&self, dtype: DType) -> DType {
        if dtype == DType::F32 { self.dtype } else { dtype }
    }

    /// Products of f32 may be computed in TF32.
    fn tf32(&self) -> bool {
        self.precision == Precision::Tf32
    }

    fn new_buffer(&mut self, bytes: usize) -> BufferId {
        self.out.buffers.push(Buffer { bytes, pinned: false });
        BufferId(self.out.buffers.len() - 1)
    }

    fn new_dense(&mut self, dtype: DType, shape: &[usize]) -> View {
        let elements: usize = shape.iter().product();
        // Kernels may read a whole vector where one element is left.
        let buffer = self.new_buffer((elements * dtype.size()).next_multiple_of(16));
        View {
            buffer,
            dtype,
            offset: 0,
            strides: dense(shape),
            shape: shape.to_vec(),
            channels_stored: 0,
        }
    }

    /// Memory for a picture value: a part of a concatenation where it has its place there.
    fn new_picture(&mut self, value: ValueId) -> View {
        let shape = self.graph.shape(value).to_vec();
        if let Some((parent, channel)) = self.places.parent(value) {
            let parent_view = match self.views.get(&parent) {
                Some(view) => view.clone(),
                None => {
                    let view = self.new_picture(parent);
                    self.views.insert(parent, view.clone());
                    view
                }
            };
            let last = channel + shape[1] == parent_view.shape[1];
            let stored = if last { parent_view.channels_stored - channel } else { shape[1] };
            return View {
                offset: parent_view.offset + channel as i64,
                shape,
                channels_stored: stored,
                ..parent_view
            };
        }
        let pitch = shape[1].next_multiple_of(8);
        self.new_channels_last(&shape, pitch, self.dtype)
    }

    fn new_channels_last(&mut self, shape: &[usize], pitch: usize, dtype: DType) -> View {
        let pixels = shape[0] * shape[2] * shape[3];
        let buffer = self.new_buffer((pixels * pitch * dtype.size()).next_multiple_of(16));
        View {
            buffer,
            dtype,
            offset: 0,
            strides: channels_last(shape, pitch),
            shape: shape.to_vec(),
            channels_stored: pitch,
        }
    }

    fn constant(&mut self, bytes: Vec<u8>) -> usize {
        self.out.constants.push(bytes);
        self.out.constants.len() - 1
    }

    fn add(
        &mut self,
        node: &Node,
        layer: Layer,
        operands: Vec<Operand>,
        output: &View,
        constants: Vec<usize>,
    ) {
        let facts =
            |ids: &[ValueId]| ids.iter().map(|&v| self.graph.fact(v).clone()).collect::<Vec<_>>();
        let flops = match layer {
            Layer::Permute(_) => 0,
            _ => tobiuo_ops::flops(&node.op, &facts(&node.inputs), &facts(&node.outputs)),
        };
        self.out.layers.push(Lowered {
            name: node.name.clone(),
            op: node.op.name(),
            layer,
            operands,
            outputs: vec![output.clone()],
            constants,
            flops,
        });
    }

    /// A value's view; constants are put into memory of their own by a copy at build time.
    fn view(&mut self, value: ValueId) -> Done<View> {
        self.views
            .get(&value)
            .cloned()
            .ok_or_else(|| format!("operand '{}' is a constant", self.graph.value(value).name))
    }

    /// A value as a picture that the NHWC kernels can read.
    fn picture(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        if view.shape.len() != 4 {
            return Err(format!("operand {:?} is no [N, C, H, W]", view.shape));
        }
        if view.dtype == self.dtype
            && view.channels_stored % 8 == 0
            && view.pixel_pitch().is_some()
            && view.channels_stored >= view.shape[1]
        {
            return Ok(view);
        }
        if let Some(done) = self.pictures.get(&value) {
            return Ok(done.clone());
        }
        let pitch = view.shape[1].next_multiple_of(8);
        let to = self.new_channels_last(&view.shape.clone(), pitch, self.dtype);
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        self.pictures.insert(value, to.clone());
        Ok(to)
    }

    /// The picture a first convolution reads: few channels, padded to 4.
    fn thin_picture(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        let to = self.new_channels_last(&view.shape.clone(), 4, self.dtype);
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        Ok(to)
    }

    /// A value in row-major order.
    fn row_major(&mut self, value: ValueId) -> Done<View> {
        let view = self.view(value)?;
        if view.is_dense() {
            return Ok(view);
        }
        let to = self.new_dense(view.dtype, &view.shape.clone());
        self.copy(&self.graph.value(value).name.clone(), &view, &to);
        Ok(to)
    }

    /// Copies a view into another of the same shape; channels stored beyond the shape's are
    /// written as zeros.
    fn copy(&mut self, name: &str, from: &View, to: &View) {
        let mut dims = from.shape.clone();
        let mut valid = None;
        if to.shape.len() == 4 && to.channels_stored > to.shape[1] {
            valid = Some((1, dims[1]));
            dims[1] = to.channels_stored;
        }
        let layer = PermuteLayer {
            from: from.dtype,
            to: to.dtype,
            dims,
            x_offset: 0,
            x_strides: from.strides.clone(),
            y_strides: to.strides.clone(),
            valid,
        };
        self.push_copy(name, layer, from, to);
    }

    fn push_copy(&mut self, name: &str, layer: PermuteLayer, from: &View, to: &View) {
        self.out.layers.push(Lowered {
            name: format!("{name} (copy)"),
            op: "Copy",
            layer: Layer::Permute(layer),
            operands: vec![Operand::View(from.clone())],
            outputs: vec![to.clone()],
            constants: vec![],
            flops: 0,
        });
    }

    fn output(&mut self, name: &str, value: ValueId) -> Done<()> {
        let fact = self.graph.fact(value).clone();
        let view = self.view(value)?;
        // A value that was made dense, in the right type, by a layer of its own is the output.
        let mine = &self.out.buffers[view.buffer.0];
        let whole = (fact.shape.iter().product::<usize>() * fact.dtype.size()).next_multiple_of(16);
        if view.dtype == fact.dtype
            && view.is_dense()
            && view.offset == 0
            && !mine.pinned
            && mine.bytes == whole
        {
            self.out.buffers[view.buffer.0].pinned = true;
            self.out.outputs.push(view);
            return Ok(());
        }
        let to = self.new_dense(fact.dtype, &fact.shape);
        self.out.buffers[to.buffer.0].pinned = true;
        self.copy(name, &view, &to);
        self.out.outputs.push(to);
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Done<()> {
        match &node.op {
            Op::Conv(conv) => self.conv(node, conv),
            Op::ConvTranspose(conv) => self.conv_transpose(node, conv),
            Op::Gemm(gemm) => self.gemm(node, gemm),
            Op::MatMul => self.matmul(node),
            Op::Pool(pool) => self.pool(node, pool),
            Op::Reduce { kind, axes, keep_dims } => self.reduce(node, *kind, axes, *keep_dims),
            Op::Activation(a) => self.activation(node, *a),
            Op::Binary { kind, activation } => self.binary(node, *kind, *activation),
            Op::Resize(resize) => self.resize(node, resize),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Reshape { shape } => self.reshape(node, shape),
            Op::Transpose { perm } => {
                let view = self.view(node.inputs[0])?.transposed(perm);
                self.views.insert(node.outputs[0], view);
                Ok(())
            }
            Op::Slice(slice) => {
                let view = self.view(node.inputs[0])?.sliced(slice);
                self.views.insert(node.outputs[0], view);
                Ok(())
            }
            Op::Expand { shape } => {
                let view = self.view(node.inputs[0])?.expanded(shape);
                self.views.insert(node.outputs[0], view);
                Ok(())
            }
            _ => Err("no CUDA kernel family takes this operator yet".into()),
        }
    }
}

#[cfg(test)]
mod product_tests;
#[cfg(test)]
mod tests;
