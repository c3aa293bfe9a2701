//! The translation's state: names bound to values, layers taken in order, problems gathered.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tobiuo_ops::Op;
use tobiuo_tensor::DType;

use super::context::Context;
use super::fields::{self, Fields};
use super::model::{Layer, Model};
use super::{ops, weights};
use crate::graph::{Graph, ValueId};
use crate::import::order::{self, Item};
use crate::import::stop::{Res, Stop, invalid, unsupported};
use crate::import::{NodeReport, NodeStatus, UnsupportedNode};

/// What a tensor's name stands for.
enum Binding {
    Value(ValueId),
    /// A value that is not known, and why.
    Unknown(String),
}

/// The translation of one dump.
pub struct Importer<'a> {
    /// What has been translated.
    pub graph: Graph,
    /// The dump's folder.
    pub folder: &'a Path,
    /// Pictures at a time.
    pub batch: usize,
    /// Every layer in the order it was looked at.
    pub reports: Vec<NodeReport>,
    /// Things a user should know.
    pub notes: Vec<String>,
    names: HashMap<String, Binding>,
    /// The first tensor of a layer, by the layer's name: what old dumps call a source.
    layers: HashMap<String, String>,
    /// Values whose first axis is the batch: those that come from an input.
    batched: HashSet<ValueId>,
}

impl<'a> Importer<'a> {
    /// A fresh one.
    pub fn new(folder: &'a Path, batch: usize) -> Importer<'a> {
        Importer {
            graph: Graph::new(),
            folder,
            batch,
            reports: Vec::new(),
            notes: Vec::new(),
            names: HashMap::new(),
            layers: HashMap::new(),
            batched: HashSet::new(),
        }
    }

    /// Adds a note once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Declares the inputs.
    pub fn inputs(&mut self, model: &Model) -> Result<(), String> {
        for input in &model.inputs {
            let mut shape = vec![self.batch];
            shape.extend(&input.shape);
            let id = self.graph.add_input(&input.name, DType::F32, shape);
            self.batched.insert(id);
            self.names.insert(input.name.clone(), Binding::Value(id));
        }
        Ok(())
    }

    /// Translates all layers, each one as far as possible.
    pub fn layers(&mut self, model: &Model) -> Result<(), String> {
        for layer in &model.layers {
            if let Some(first) = layer.outputs.first() {
                self.layers.insert(layer.name.clone(), first.clone());
            }
        }
        let made: HashSet<&str> =
            model.layers.iter().flat_map(|l| &l.outputs).map(String::as_str).collect();
        let resolve = |name: &'_ str| -> Option<&str> {
            if made.contains(name) || self.names.contains_key(name) {
                return None;
            }
            self.layers.get(name).map(String::as_str)
        };
        let mut missing = Vec::new();
        let mut items = Vec::with_capacity(model.layers.len());
        for layer in &model.layers {
            let mut item = Item::default();
            for source in &layer.sources {
                let source = resolve(source).unwrap_or(source);
                if !made.contains(source) && !self.names.contains_key(source) {
                    missing.push(format!("layer '{}' takes '{source}'", layer.name));
                }
                item.inputs.push(source);
            }
            item.outputs.extend(layer.outputs.iter().map(String::as_str));
            items.push(item);
        }
        if !missing.is_empty() {
            let more = missing.len().saturating_sub(10);
            missing.truncate(10);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(format!("no layer makes a tensor that is used: {}{more}", {
                missing.join(", ")
            }));
        }
        let title = |i: usize| {
            let layer = &model.layers[i];
            format!("'{}' ({})", layer.name, layer.kind)
        };
        let order = order::topological(&items, &title, |name| self.names.contains_key(name))?;
        for i in order {
            self.layer(&model.layers[i]);
        }
        Ok(())
    }

    fn layer(&mut self, layer: &Layer) {
        let first_node = self.graph.nodes.len();
        let result = self.translate(layer);
        let mut report = NodeReport {
            name: layer.name.clone(),
            op_type: layer.kind.clone(),
            domain: String::new(),
            status: NodeStatus::Supported,
            problem: None,
        };
        let outputs = match result {
            Ok(outputs) => {
                self.name_nodes(&layer.name, first_node);
                outputs
            }
            Err(stop) => {
                self.graph.nodes.truncate(first_node);
                let problem = self.problem(layer, stop);
                report.status = problem.status;
                report.problem = Some(problem);
                Vec::new()
            }
        };
        self.reports.push(report);
        for (i, name) in layer.outputs.iter().enumerate() {
            let binding = match outputs.get(i) {
                Some(&id) => Binding::Value(id),
                None => Binding::Unknown(format!("layer '{}' cannot be translated", layer.name)),
            };
            self.names.insert(name.clone(), binding);
        }
    }

    /// A layer that became one op keeps its name; several are told apart by their op.
    fn name_nodes(&mut self, name: &str, first: usize) {
        let made = &mut self.graph.nodes[first..];
        if let [node] = made {
            node.name = name.to_string();
            return;
        }
        for node in made {
            node.name = format!("{name}/{}", node.op.name());
        }
    }

    fn problem(&self, layer: &Layer, stop: Stop) -> UnsupportedNode {
        let inputs = layer.sources.iter().take(16).map(|source| match self.value(source) {
            Ok(id) => format!("{source}: {}", self.graph.fact(id)),
            Err(_) => format!("{source}: unknown"),
        });
        let (status, reason, would_need) = match stop {
            Stop::Unsupported { reason, need } => (NodeStatus::Unsupported, reason, need),
            Stop::Invalid(reason) => (NodeStatus::Invalid, reason, String::new()),
            Stop::NotChecked(reason) => (NodeStatus::NotChecked, reason, String::new()),
        };
        UnsupportedNode {
            name: layer.name.clone(),
            op_type: layer.kind.clone(),
            domain: String::new(),
            attributes: fields::describe(&layer.fields),
            inputs: inputs.collect(),
            status,
            reason,
            would_need,
        }
    }

    fn translate(&mut self, layer: &Layer) -> Res<Vec<ValueId>> {
        // A type that is unknown is said to be so, whatever is known of its sources.
        let translator = ops::find(&layer.kind)?;
        let sources: Vec<ValueId> =
            layer.sources.iter().map(|name| self.value(name)).collect::<Res<_>>()?;
        let first_value = self.graph.value_count();
        let mut context = Context::new(self, layer, sources);
        let outputs = translator(&mut context)?;
        if let Some(key) = context.fields.unread().first() {
            return unsupported(
                format!("'{key}' is not known for this type of layer"),
                "only what is known is computed",
            );
        }
        if outputs.len() != layer.outputs.len() {
            return invalid(format!(
                "it makes {} tensors, output_names lists {}",
                outputs.len(),
                layer.outputs.len()
            ));
        }
        for &id in &outputs {
            self.check_batch(id)?;
        }
        check_output_shape(&self.graph, layer, &outputs, &self.batched)?;
        for (name, &id) in layer.outputs.iter().zip(&outputs) {
            if id.0 as usize >= first_value {
                self.graph.rename(id, name);
            }
        }
        Ok(outputs)
    }

    /// What comes from an input has the batch as its first axis.
    fn check_batch(&self, id: ValueId) -> Res<()> {
        let shape = self.graph.shape(id);
        if !self.is_batched(id) || shape.first() == Some(&self.batch) {
            return Ok(());
        }
        unsupported(
            format!(
                "its result {shape:?} does not have the batch, {}, as its first axis",
                self.batch
            ),
            "every picture of a batch must be computed by itself; a constant that was dumped with \
             several pictures cannot be used with another number of them",
        )
    }

    /// True for a value whose first axis is the batch.
    pub fn is_batched(&self, id: ValueId) -> bool {
        self.batched.contains(&id)
    }

    /// Adds an op; its outputs are batched where one of its operands is.
    pub fn emit(&mut self, op: Op, inputs: &[ValueId], base: &str) -> Res<Vec<ValueId>> {
        let kind = op.name();
        let base = format!("{base}/{kind}");
        match self.graph.push("", op, inputs, &[&base, &base]) {
            Ok(ids) => {
                if inputs.iter().any(|&v| self.is_batched(v)) {
                    self.batched.extend(&ids);
                }
                Ok(ids)
            }
            Err(e) => unsupported(format!("{}: {}", e.op, e.reason), ""),
        }
    }

    /// The value of a tensor's name.
    pub fn value(&self, name: &str) -> Res<ValueId> {
        let binding = self.names.get(name);
        let binding = binding.or_else(|| self.names.get(self.layers.get(name)?));
        match binding {
            Some(Binding::Value(id)) => Ok(*id),
            Some(Binding::Unknown(why)) => {
                Err(Stop::NotChecked(format!("not checked: source '{name}' is unknown, {why}")))
            }
            None => invalid(format!("no layer makes '{name}'")),
        }
    }

    /// Reads a file of the dump.
    pub fn file(&self, name: &str) -> Result<tobiuo_tensor::Tensor, String> {
        weights::read(self.folder, name).map_err(|e| format!("file '{name}': {e}"))
    }

    /// Declares the dump's outputs. An output of a layer that failed is left out: the caller has
    /// that layer's problem already.
    pub fn outputs(&mut self, model: &Model) -> Result<(), String> {
        let failed = self.reports.iter().any(|r| r.problem.is_some());
        for (tensor, name) in &model.outputs {
            let id = match self.value(tensor) {
                Ok(id) => id,
                Err(_) if failed => continue,
                Err(_) => return Err(format!("output '{name}': no layer makes '{tensor}'")),
            };
            let id = self.whole(id).map_err(|e| format!("output '{name}': {e}"))?;
            self.graph.outputs.push((name.clone(), id));
        }
        Ok(())
    }

    /// An output that depends on no input, once for every picture.
    fn whole(&mut self, id: ValueId) -> Result<ValueId, String> {
        let mut shape = self.graph.shape(id).to_vec();
        match shape.first_mut() {
            _ if self.is_batched(id) => return Ok(id),
            Some(first) if *first == self.batch => return Ok(id),
            Some(first @ 1) => *first = self.batch,
            _ => return Err(format!("{shape:?} has no axis for the batch")),
        }
        let name = self.graph.value(id).name.clone();
        self.graph.push1(&name, Op::Expand { shape }, &[id]).map_err(|e| e.to_string())
    }
}

/// Compares with the shape that a verbose dump notes: it has the dumped batch as first axis.
fn check_output_shape(
    graph: &Graph,
    layer: &Layer,
    outputs: &[ValueId],
    batched: &HashSet<ValueId>,
) -> Res<()> {
    let noted = match Fields::new(&layer.fields).sizes("output_shape") {
        Ok(Some(shape)) => shape,
        Ok(None) => return Ok(()),
        Err(e) => return invalid(e),
    };
    let fits = |id: &ValueId| {
        let shape = graph.shape(*id);
        let from = usize::from(batched.contains(id));
        shape.len() == noted.len() && shape.get(from..) == noted.get(from..)
    };
    if outputs.is_empty() || outputs.iter().any(fits) {
        return Ok(());
    }
    invalid(format!(
        "its result is {:?}, the dump notes {noted:?} (the first axis is the batch)",
        graph.shape(outputs[outputs.len() - 1])
    ))
}
