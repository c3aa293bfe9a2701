//! Lowering: every node becomes a view or a layer over views.
//!
//! Pictures are `[N, H, W, C]` inside, channels padded to a multiple of 8 (the picture a first
//! convolution reads: to 4, where it does not read the caller's floats as they are); everything else
//! is row-major. A value's buffer may be a part of a concatenation's: then its producer writes there
//! and the Concat costs nothing.

mod chains;
mod concat;
mod conv;
mod elementwise;
mod index;
mod integer;
mod integer_light;
mod linear;
mod movement;
mod normalize;
mod operands;
mod planes;
mod pools;
mod reduce;
mod window;

use std::collections::HashMap;
use std::fmt;

use tobiuo_engine::Precision;
use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use super::view::{BufferId, View, channels_last, dense, granule};
use crate::graph::{Graph, Node, ValueId};
use concat::Places;
use tobiuo_kernels::{Layer, MapFunction};

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

impl Lowered {
    /// The views among the operands.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.operands.iter().filter_map(|operand| match operand {
            Operand::View(view) => Some(view),
            Operand::Constant(_) => None,
        })
    }
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

/// Layers joined.
struct Joined {
    /// The layer that is left out.
    gone: usize,
    /// The memory that nothing touches any more.
    between: BufferId,
    /// What others become.
    layers: Vec<(usize, Lowered)>,
}

impl Lowering {
    /// Joins each layer with others where `joined` does. `views` are where values are: those that
    /// are nowhere any more are taken out.
    fn join(
        &mut self,
        joined: fn(&Lowering, usize) -> Option<Joined>,
        views: &mut HashMap<ValueId, View>,
    ) {
        for i in 0..self.layers.len() {
            let Some(Joined { gone, between, layers }) = joined(self, i) else { continue };
            // Its place is kept until all are done.
            self.layers[gone].outputs.clear();
            for (i, layer) in layers {
                for (old, new) in self.layers[i].outputs.iter().zip(&layer.outputs) {
                    views.values_mut().filter(|v| *v == old).for_each(|v| *v = new.clone());
                }
                self.layers[i] = layer;
            }
            views.retain(|_, view| view.buffer != between);
        }
        self.layers.retain(|layer| !layer.outputs.is_empty());
    }

    /// An input or output.
    fn is_port(&self, buffer: BufferId) -> bool {
        self.inputs.iter().chain(&self.outputs).any(|v| v.buffer == buffer)
    }

    /// The layer in front of `second` that alone writes a buffer, where nobody else reads it.
    fn only_maker(&self, second: usize, buffer: BufferId) -> Option<usize> {
        let touches = |l: &Lowered| l.views().chain(&l.outputs).any(|v| v.buffer == buffer);
        let mut around = (0..self.layers.len()).filter(|&i| touches(&self.layers[i]));
        let (first, other) = (around.next()?, around.next()?);
        let alone = other == second && around.next().is_none();
        (alone && !self.is_port(buffer)).then_some(first)
    }
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
    /// Constants as they were packed for a type.
    constants: HashMap<(ValueId, DType), View>,
    /// The nodes that use each value.
    users: HashMap<ValueId, Vec<usize>>,
    out: Lowering,
    missing: Vec<NoKernel>,
}

type Done<T> = Result<T, String>;

/// Lowers a graph. With [`Precision::Fp16`] and [`Precision::Int8`] float activations and weights
/// are stored as f16, else as f32; sums are f32 in any case. Integer layers are what the graph
/// says, whatever the precision.
pub fn lower(graph: &Graph, precision: Precision) -> Result<Lowering, LowerError> {
    let mut l = Lower {
        graph,
        precision,
        dtype: match precision {
            Precision::Fp16 | Precision::Int8 => DType::F16,
            _ => DType::F32,
        },
        places: Places::of(graph),
        views: HashMap::new(),
        pictures: HashMap::new(),
        constants: HashMap::new(),
        users: graph.users(),
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
        // A sum, or its integers, that the convolution before it has computed already.
        if matches!(node.op, Op::Binary { .. } | Op::Quantize { .. })
            && l.views.contains_key(&node.outputs[0])
        {
            continue;
        }
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
    let gone = chains::join(&mut l.out);
    for joined in [pools::joined, planes::read, planes::stored] {
        l.out.join(joined, &mut l.views);
    }
    let mut values: Vec<_> = l.views.iter().map(|(&v, view)| (v, view.clone())).collect();
    values.retain(|(_, v)| v.buffer.constant().is_none() && !gone.contains(&v.buffer));
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
        let dtype = self.picture_type(self.graph.fact(value).dtype);
        self.new_channels_last(&shape, shape[1].next_multiple_of(granule(dtype)), dtype)
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
        self.add_all(node, layer, operands, vec![output.clone()], constants);
    }

    fn add_all(
        &mut self,
        node: &Node,
        layer: Layer,
        operands: Vec<Operand>,
        outputs: Vec<View>,
        constants: Vec<usize>,
    ) {
        let facts =
            |ids: &[ValueId]| ids.iter().map(|&v| self.graph.fact(v).clone()).collect::<Vec<_>>();
        let flops = match layer {
            Layer::Permute(_) => 0,
            _ => tobiuo_ops::flops(&node.op, &facts(&node.inputs), &facts(&node.outputs)),
        };
        let lowered = Lowered {
            name: node.name.clone(),
            op: node.op.name(),
            layer,
            operands: operands.into_iter().map(|o| self.settled(o)).collect(),
            outputs,
            constants,
            flops,
        };
        self.out.layers.push(lowered);
    }

    fn node(&mut self, node: &Node) -> Done<()> {
        // What has no element needs no layer.
        if node.outputs.iter().all(|&o| self.graph.fact(o).numel() == 0) {
            for &o in &node.outputs {
                let fact = self.graph.fact(o);
                let view = self.new_dense(self.stored(fact.dtype), &fact.shape);
                self.views.insert(o, view);
            }
            return Ok(());
        }
        match &node.op {
            Op::Conv(conv) => self.conv(node, conv),
            Op::ConvTranspose(conv) => self.conv_transpose(node, conv),
            Op::QuantConv(conv) => self.quant_conv(node, conv),
            Op::QuantGemm(gemm) => self.quant_gemm(node, gemm),
            Op::QuantBinary(binary) => self.quant_binary(node, binary),
            Op::QuantPool(pool) => self.quant_pool(node, pool),
            Op::Lookup => self.lookup(node),
            Op::Quantize { axis, to } => self.quantise(node, *axis, *to),
            Op::Dequantize { axis } => self.dequantise(node, *axis),
            Op::Gemm(gemm) => self.gemm(node, gemm),
            Op::MatMul => self.matmul(node),
            Op::BatchNorm { epsilon } => self.batch_norm(node, *epsilon),
            Op::Lrn { .. } => self.lrn(node),
            Op::Activation(a) => self.activation(node, *a),
            Op::PRelu => self.function(node, MapFunction::PRelu, DType::F32),
            Op::Unary(u) => {
                let dtype = self.graph.fact(node.outputs[0]).dtype;
                self.function(node, MapFunction::Unary(*u), dtype)
            }
            Op::Binary { kind, activation } => self.binary(node, *kind, *activation),
            Op::Where => {
                let dtype = self.graph.fact(node.outputs[0]).dtype;
                self.function(node, MapFunction::Where, dtype)
            }
            Op::Cast { to } => self.cast(node, *to),
            Op::Softmax { axis, log } => self.softmax(node, *axis, *log),
            Op::Pool(pool) => self.pool(node, pool),
            Op::Reduce { kind, axes, keep_dims } => self.reduce(node, *kind, axes, *keep_dims),
            Op::ArgReduce { axis, min, keep_dims, select_last } => {
                self.arg_reduce(node, *axis, [*min, *select_last], *keep_dims)
            }
            Op::TopK { k, axis, largest, .. } => self.top_k(node, *k, *axis, *largest),
            Op::LayerNorm { axis, epsilon } => self.layer_norm(node, *axis, *epsilon),
            Op::InstanceNorm { epsilon } => self.instance_norm(node, *epsilon),
            Op::Resize(resize) => self.resize(node, resize),
            Op::Pad(pad) => self.pad(node, pad),
            Op::Gather { axis } => self.gather(node, *axis),
            Op::Tile { repeats } => self.tile(node, repeats),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::Reshape { shape } => self.reshape(node, shape),
            Op::Transpose { perm } => self.seen_as(node, |v| v.transposed(perm)),
            Op::Slice(slice) => self.seen_as(node, |v| v.sliced(slice)),
            Op::Expand { shape } => self.seen_as(node, |v| v.expanded(shape)),
            _ => Err("no CUDA kernel family takes this operator yet".into()),
        }
    }

    /// A node that only changes the view.
    fn seen_as(&mut self, node: &Node, change: impl Fn(&View) -> View) -> Done<()> {
        let view = change(&self.view(node.inputs[0])?);
        self.views.insert(node.outputs[0], view);
        Ok(())
    }
}

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod integer_tests;
#[cfg(test)]
mod op_tests;
#[cfg(test)]
mod planes_tests;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod product_tests;
#[cfg(test)]
mod tests;
