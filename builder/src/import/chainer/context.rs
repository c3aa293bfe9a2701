//! What the translation of one layer sees and does.

use tobiuo_ops::Op;
use tobiuo_tensor::Tensor;

use super::fields::Fields;
use super::importer::Importer;
use super::model::Layer;
use crate::graph::ValueId;
use crate::import::stop::{Res, Stop, invalid};

/// What the translation of one layer sees and does.
pub struct Context<'c, 'a> {
    /// The whole translation.
    pub importer: &'c mut Importer<'a>,
    /// The layer as the file has it.
    pub layer: &'c Layer,
    /// Its parameters.
    pub fields: Fields<'c>,
    /// Its sources' values.
    pub sources: Vec<ValueId>,
}

/// So that a reason given as text stops a translation with `?`: what is read from a dump and
/// does not fit is damage.
impl From<String> for Stop {
    fn from(reason: String) -> Stop {
        Stop::Invalid(reason)
    }
}

impl<'c, 'a> Context<'c, 'a> {
    /// Of a layer and its sources.
    pub fn new(
        importer: &'c mut Importer<'a>,
        layer: &'c Layer,
        sources: Vec<ValueId>,
    ) -> Context<'c, 'a> {
        Context { importer, layer, fields: Fields::new(&layer.fields), sources }
    }

    /// Exactly so many sources.
    pub fn take<const N: usize>(&self) -> Res<[ValueId; N]> {
        match <[ValueId; N]>::try_from(self.sources.as_slice()) {
            Ok(sources) => Ok(sources),
            Err(_) => invalid(format!("it has {} sources, {N} are needed", self.sources.len())),
        }
    }

    /// The only source.
    pub fn source(&self) -> Res<ValueId> {
        Ok(self.take::<1>()?[0])
    }

    /// The only source, pictures `[N, C, H, W]`, and its shape.
    pub fn picture(&self) -> Res<(ValueId, [usize; 4])> {
        let x = self.source()?;
        match <[usize; 4]>::try_from(self.shape(x)) {
            Ok(shape) => Ok((x, shape)),
            Err(_) => invalid(format!(
                "its source {:?} must be [N, C, H, W], the first axis being the batch",
                self.shape(x)
            )),
        }
    }

    /// A value's shape, with the batch.
    pub fn shape(&self, v: ValueId) -> &[usize] {
        self.importer.graph.shape(v)
    }

    /// The first axis of a value: the batch, or 1 for most constants.
    pub fn lead(&self, v: ValueId) -> Res<usize> {
        match self.shape(v).first() {
            Some(&n) => Ok(n),
            None => invalid("its source is a number without axes"),
        }
    }

    /// The shape without the batch that the dump notes must be the source's.
    pub fn expect_shape(&self, key: &'static str, v: ValueId) -> Res<()> {
        match self.fields.sizes(key)? {
            Some(noted) if Some(&noted[..]) != self.shape(v).get(1..) => invalid(format!(
                "{key} is {noted:?}, its source is {:?} with the batch",
                self.shape(v)
            )),
            _ => Ok(()),
        }
    }

    /// A weight that must be there; its name is `<layer>_<key>`.
    pub fn weight(&mut self, key: &str) -> Res<Tensor> {
        match self.optional_weight(key)? {
            Some(tensor) => Ok(tensor),
            None => invalid(format!("{key}_weights_file is missing")),
        }
    }

    /// A weight, where the layer names one.
    pub fn optional_weight(&mut self, key: &str) -> Res<Option<Tensor>> {
        match self.fields.weight_file(key)? {
            Some(file) => Ok(Some(self.importer.file(file)?)),
            None => Ok(None),
        }
    }

    /// A new constant, named after the layer.
    pub fn constant(&mut self, key: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}_{key}", self.layer.name);
        self.importer.graph.add_constant(&name, tensor)
    }

    /// A new constant without axes.
    pub fn number(&mut self, key: &str, value: f32) -> ValueId {
        self.constant(key, Tensor::f32(Vec::new(), vec![value]))
    }

    /// Adds an op and gives its outputs.
    pub fn emit_all(&mut self, op: Op, inputs: &[ValueId]) -> Res<Vec<ValueId>> {
        self.importer.emit(op, inputs, &self.layer.name)
    }

    /// As [`Context::emit_all`] for an op with one output.
    pub fn emit(&mut self, op: Op, inputs: &[ValueId]) -> Res<ValueId> {
        Ok(self.emit_all(op, inputs)?[0])
    }

    /// The same elements in another shape; the value itself where it has that shape.
    pub fn reshape(&mut self, v: ValueId, shape: Vec<usize>) -> Res<ValueId> {
        if self.shape(v) == shape {
            return Ok(v);
        }
        self.emit(Op::Reshape { shape }, &[v])
    }

    /// Operands that broadcast against each other as numpy does it for each picture: where one
    /// from an input has fewer axes than others, axes of size 1 come behind its batch.
    pub fn aligned(&mut self, operands: &[ValueId]) -> Res<Vec<ValueId>> {
        let rank = operands.iter().map(|&v| self.shape(v).len()).max().unwrap_or(0);
        let mut out = Vec::with_capacity(operands.len());
        for &v in operands {
            let mut shape = self.shape(v).to_vec();
            if self.importer.is_batched(v) {
                let missing = rank - shape.len();
                shape.splice(1..1, std::iter::repeat_n(1, missing));
            }
            out.push(self.reshape(v, shape)?);
        }
        Ok(out)
    }
}
