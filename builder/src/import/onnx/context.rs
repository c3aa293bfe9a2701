//! What the translation of one node sees and does.

use std::sync::Arc;

use tobiuo_cpu::evaluate;
use tobiuo_ops::{Fact, Op, infer};
use tobiuo_tensor::{DType, Tensor, TensorData};

use super::attributes::Attributes;
use super::importer::Importer;
use super::proto::NodeProto;
use super::stop::{Res, Stop, invalid, unsupported};
use crate::graph::ValueId;

/// Outputs of a node; `None` where it is not given.
pub type Outputs = Vec<Option<ValueId>>;

/// What the translation of one node sees and does.
pub struct Context<'c, 'a> {
    /// The whole translation.
    pub importer: &'c mut Importer<'a>,
    /// The node as the file has it.
    pub node: &'c NodeProto<'a>,
    /// Its name, or one made up.
    pub name: &'c str,
    /// Its attributes.
    pub attributes: Attributes<'c, 'a>,
    /// The standard's version.
    pub opset: i64,
    inputs: Vec<Option<ValueId>>,
}

impl<'c, 'a> Context<'c, 'a> {
    /// Of a node and its operands.
    pub fn new(
        importer: &'c mut Importer<'a>,
        node: &'c NodeProto<'a>,
        name: &'c str,
        attributes: Attributes<'c, 'a>,
        inputs: Vec<Option<ValueId>>,
    ) -> Context<'c, 'a> {
        let opset = importer.opset;
        Context { importer, node, name, attributes, opset, inputs }
    }

    /// Checks that nothing was passed over: no attribute unread, no wanted output missing.
    pub fn finish(&self, outputs: &Outputs) -> Res<()> {
        if let Some(name) = self.attributes.unread().first() {
            return unsupported(
                format!(
                    "attribute '{name}' is not known for this operator in opset {}",
                    self.opset
                ),
                "",
            );
        }
        for (i, &name) in self.node.outputs.iter().enumerate() {
            let given = outputs.get(i).is_some_and(|o| o.is_some());
            if !given && !name.is_empty() && self.importer.is_used(name) {
                return unsupported(
                    format!("its output {i} ('{name}') is used, which is not supported"),
                    "only the outputs that inference needs are computed",
                );
            }
        }
        Ok(())
    }

    /// Number of operands given, trailing missing ones not counted.
    pub fn input_count(&self) -> usize {
        self.inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1)
    }

    /// Checks the number of operands.
    pub fn expect_inputs(&self, least: usize, most: usize) -> Res<()> {
        let n = self.input_count();
        if n >= least && n <= most && self.inputs[..least].iter().all(Option::is_some) {
            return Ok(());
        }
        let range = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let given = self.inputs.iter().flatten().count();
        invalid(format!("it takes {range} operands in opset {}, {given} are given", self.opset))
    }

    /// Operand `i`.
    pub fn input(&self, i: usize) -> Res<ValueId> {
        match self.optional(i) {
            Some(v) => Ok(v),
            None => invalid(format!("operand {i} is missing")),
        }
    }

    /// Operand `i`, where it is given.
    pub fn optional(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Every operand; a missing one is an error.
    pub fn all_inputs(&self) -> Res<Vec<ValueId>> {
        (0..self.input_count()).map(|i| self.input(i)).collect()
    }

    /// A value's shape.
    pub fn shape(&self, v: ValueId) -> Vec<usize> {
        self.importer.graph.shape(v).to_vec()
    }

    /// A value's number of axes.
    pub fn rank(&self, v: ValueId) -> usize {
        self.importer.graph.shape(v).len()
    }

    /// A value's element type.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.importer.dtype(v)
    }

    /// A value's elements, where it is constant.
    pub fn constant(&self, v: ValueId) -> Option<Arc<Tensor>> {
        self.importer.graph.constant(v).cloned()
    }

    /// The elements of operand `i`, which must be constant; `None` where it is not given.
    pub fn constant_input(&self, i: usize, what: &str) -> Res<Option<Arc<Tensor>>> {
        let Some(v) = self.optional(i) else { return Ok(None) };
        if let Some(t) = self.constant(v) {
            return Ok(Some(t));
        }
        let name = self.node.inputs.get(i).copied().unwrap_or_default();
        if self.importer.is_stand_in(v) {
            return Err(Stop::NotChecked(format!(
                "not checked: {what} ('{name}') comes from a node that cannot be translated"
            )));
        }
        unsupported(
            format!("{what} ('{name}') is computed while the network runs"),
            "shapes are static: it must follow from constants and shapes alone",
        )
    }

    /// The integers of operand `i`, which must be constant; `None` where it is not given.
    pub fn int_input(&self, i: usize, what: &str) -> Res<Option<Vec<i64>>> {
        let Some(t) = self.constant_input(i, what)? else { return Ok(None) };
        match (t.to_i64(), t.dtype()) {
            (Some(v), DType::I64 | DType::I32) if t.shape().len() <= 1 => Ok(Some(v)),
            _ => invalid(format!(
                "{what} is {} {:?}, a list of integers is expected",
                t.dtype(),
                t.shape()
            )),
        }
    }

    /// One integer of operand `i`, which must be constant.
    pub fn int_scalar(&self, i: usize, what: &str) -> Res<Option<i64>> {
        match self.int_input(i, what)?.as_deref() {
            None => Ok(None),
            Some(&[v]) => Ok(Some(v)),
            Some(v) => invalid(format!("{what} has {} elements, one is expected", v.len())),
        }
    }

    /// One number of operand `i`, which must be constant.
    pub fn number(&self, i: usize, what: &str) -> Res<Option<f64>> {
        let Some(t) = self.constant_input(i, what)? else { return Ok(None) };
        match t.to_f64().as_slice() {
            &[v] => Ok(Some(v)),
            v => invalid(format!("{what} has {} elements, one is expected", v.len())),
        }
    }

    /// An axis of a tensor of `rank` axes, negative ones counted from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Res<usize> {
        let r = rank as i64;
        if (-r..r).contains(&axis) {
            Ok((if axis < 0 { axis + r } else { axis }) as usize)
        } else {
            invalid(format!("axis {axis} is not in a tensor of {rank} axes"))
        }
    }

    /// Several different axes, in the order given.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Res<Vec<usize>> {
        let mut out = Vec::with_capacity(axes.len().min(rank));
        for &a in axes {
            let axis = self.axis(a, rank)?;
            if out.contains(&axis) {
                return invalid(format!("axes {axes:?} name axis {axis} twice"));
            }
            out.push(axis);
        }
        Ok(out)
    }

    /// A new constant.
    pub fn add_constant(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("{}/constant", self.name);
        self.importer.graph.add_constant(&name, tensor)
    }

    /// Counts elements of a constant that is about to be made up against what folding may make:
    /// a file may claim any shape.
    pub fn make_up(&mut self, elements: usize) -> Res<()> {
        match self.importer.fold_budget.checked_sub(elements) {
            Some(left) => {
                self.importer.fold_budget = left;
                Ok(())
            }
            None => unsupported(format!("it needs a constant of {elements} elements"), ""),
        }
    }

    /// A constant f32 of no axes.
    pub fn scalar(&mut self, value: f32) -> ValueId {
        self.add_constant(Tensor::f32(Vec::new(), vec![value]))
    }

    /// A constant number of a type, of no axes; `None` where the type cannot hold it.
    pub fn scalar_of(&mut self, dtype: DType, value: f64) -> Option<ValueId> {
        let data = scalar_data(dtype, value)?;
        Some(self.add_constant(Tensor::new(Vec::new(), data)))
    }

    /// Adds an op and gives its outputs. Where every operand is constant it is computed now,
    /// within limits: that is what makes shape arithmetic static.
    pub fn emit_all(&mut self, op: Op, inputs: &[ValueId]) -> Res<Vec<ValueId>> {
        let graph = &mut self.importer.graph;
        let facts: Vec<Fact> = inputs.iter().map(|&i| graph.fact(i).clone()).collect();
        let outs = match infer(&op, &facts) {
            Ok(outs) => outs,
            Err(reason) => return unsupported(format!("{}: {reason}", op.name()), ""),
        };
        let work: usize = facts.iter().chain(&outs).map(Fact::numel).fold(0, usize::saturating_add);
        let constants: Option<Vec<Arc<Tensor>>> =
            inputs.iter().map(|&i| graph.constant(i).cloned()).collect();
        if let Some(constants) = constants
            && is_light(&op, &facts)
            && work <= self.importer.fold_budget
        {
            let operands: Vec<&Tensor> = constants.iter().map(|t| &**t).collect();
            let results = match evaluate(&op, &operands) {
                Ok(results) => results,
                Err(e) => return unsupported(format!("{}: {e}", op.name()), ""),
            };
            self.importer.fold_budget -= work;
            let base = format!("{}/{}", self.name, op.name());
            let graph = &mut self.importer.graph;
            return Ok(results.into_iter().map(|t| graph.add_constant(&base, t)).collect());
        }
        let base = format!("{}/{}", self.name, op.name());
        let names: Vec<&str> = outs.iter().map(|_| base.as_str()).collect();
        match self.importer.graph.push("", op, inputs, &names) {
            Ok(ids) => {
                self.importer.derive(inputs, &ids);
                Ok(ids)
            }
            Err(e) => unsupported(format!("{}: {}", e.op, e.reason), ""),
        }
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
}

/// One element of a type; `None` where the type cannot hold the number.
pub fn scalar_data(dtype: DType, value: f64) -> Option<TensorData> {
    fn int<T: TryFrom<i64>>(value: f64) -> Option<Vec<T>> {
        let whole = value.fract() == 0.0 && value.abs() < 9.2e18;
        if whole { T::try_from(value as i64).ok().map(|v| vec![v]) } else { None }
    }
    Some(match dtype {
        DType::F32 => TensorData::F32(vec![value as f32]),
        DType::I64 => TensorData::I64(int(value)?),
        DType::I32 => TensorData::I32(int(value)?),
        DType::I8 => TensorData::I8(int(value)?),
        DType::U8 => TensorData::U8(int(value)?),
        DType::Bool => TensorData::Bool(vec![u8::from(value != 0.0)]),
        _ => return None,
    })
}

/// True for ops whose work is in proportion to their operands and outputs: those are computed
/// at import. Convolutions of constants and such are left to the constant folding pass, and
/// 8-bit weights stay what they are: integer layers want them.
fn is_light(op: &Op, inputs: &[Fact]) -> bool {
    if let (Op::Dequantize { .. }, Some(x)) = (op, inputs.first()) {
        return x.dtype == DType::I32;
    }
    !matches!(
        op,
        Op::Conv(_)
            | Op::ConvTranspose(_)
            | Op::Gemm(_)
            | Op::MatMul
            | Op::Pool(_)
            | Op::Lrn { .. }
            | Op::Resize(_)
    )
}
