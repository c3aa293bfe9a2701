//! The translation's state: names bound to values, nodes taken in order, problems gathered.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tobiuo_tensor::DType;

use super::attributes::{self, Attributes};
use super::context::Context;
use super::proto::{Decode, Dim, GraphProto, NodeProto, TensorProto, ValueInfo};
use super::stop::{Res, Stop, invalid};
use super::wire::Message;
use super::{inputs, ops, order, tensor};
use crate::graph::{Graph, ValueId};
use crate::import::{NodeReport, NodeStatus, UnsupportedNode};

/// Elements that folding may make beyond the model's own size.
const FOLD_FLOOR: usize = 1 << 22;
/// Subgraphs inside subgraphs.
const MAX_DEPTH: usize = 16;

/// What a name stands for.
enum Binding<'a> {
    /// A value of the graph.
    Value(ValueId),
    /// A weight that nobody used yet.
    Weight(Box<TensorProto<'a>>),
    /// A value that is not known, and why.
    Unknown(String),
}

/// The translation of one model.
pub struct Importer<'a> {
    /// What has been translated.
    pub graph: Graph,
    /// The model's folder, for external data.
    pub folder: &'a Path,
    /// The standard's version the model asks for.
    pub opset: i64,
    /// Names of the model's own functions, by domain.
    pub functions: Vec<(String, String)>,
    /// Every node in the order it was looked at.
    pub reports: Vec<NodeReport>,
    /// Things a user should know.
    pub notes: Vec<String>,
    /// Elements that constant folding may still make.
    pub fold_budget: usize,
    names: HashMap<&'a str, Binding<'a>>,
    /// Names that some node or output uses.
    used: HashSet<&'a str>,
    value_infos: HashMap<&'a str, ValueInfo<'a>>,
    /// Names bound since the outermost graph's start, in order: the end of a subgraph's scope.
    bound: Vec<&'a str>,
    /// Values that stand in for outputs of nodes that cannot be translated, and those
    /// computed from them.
    stand_ins: HashSet<ValueId>,
    dims: HashMap<&'a str, usize>,
    depth: usize,
}

impl<'a> Importer<'a> {
    /// A fresh one. `size` is the model's bytes.
    pub fn new(folder: &'a Path, opset: i64, size: usize) -> Importer<'a> {
        Importer {
            graph: Graph::new(),
            folder,
            opset,
            functions: Vec::new(),
            reports: Vec::new(),
            notes: Vec::new(),
            fold_budget: FOLD_FLOOR.saturating_add(size),
            names: HashMap::new(),
            used: HashSet::new(),
            value_infos: HashMap::new(),
            bound: Vec::new(),
            stand_ins: HashSet::new(),
            dims: HashMap::new(),
            depth: 0,
        }
    }

    /// Adds a note once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn bind(&mut self, name: &'a str, binding: Binding<'a>) -> Res<()> {
        if self.names.insert(name, binding).is_some() {
            return invalid(format!("'{name}' is defined twice"));
        }
        self.bound.push(name);
        Ok(())
    }

    /// Binds inputs and weights. Inputs that are also weights (before IR version 4) are weights.
    pub fn bind_inputs(
        &mut self,
        graph: &mut GraphProto<'a>,
        shapes: &inputs::Resolved<'a>,
    ) -> Res<()> {
        self.dims = shapes.dims.clone();
        self.bind_weights(graph)?;
        for input in &shapes.inputs {
            let id = self.graph.add_input(input.name, input.dtype, input.shape.clone());
            self.bind(input.name, Binding::Value(id))?;
        }
        Ok(())
    }

    fn bind_weights(&mut self, graph: &mut GraphProto<'a>) -> Res<()> {
        for t in graph.initializers.drain(..) {
            let (name, data_type) = (t.name, t.data_type);
            if name.is_empty() {
                return invalid("an initializer has no name");
            }
            self.bind(name, Binding::Weight(Box::new(t)))?;
            if matches!(data_type, 10 | 11 | 16) {
                let from = super::proto::type_name(data_type);
                self.note(format!("weights of type {from} are computed as f32"));
            }
        }
        self.value_infos.extend(graph.value_infos.drain(..).map(|v| (v.name, v)));
        Ok(())
    }

    /// Translates a graph's nodes, each one as far as possible.
    pub fn nodes(&mut self, graph: &GraphProto<'a>) -> Res<()> {
        self.used.extend(graph.nodes.iter().flat_map(|n| n.inputs.iter().copied()));
        self.used.extend(graph.outputs.iter().map(|o| o.name));
        for node in &graph.nodes {
            for sub in node.attributes.iter().filter_map(|a| a.g) {
                // A subgraph that cannot be read is reported where it is translated.
                let _ = order::captured(sub, MAX_DEPTH, &mut |name| {
                    self.used.insert(name);
                });
            }
        }
        let order = {
            let names = &self.names;
            order::topological(&graph.nodes, MAX_DEPTH, |name| names.contains_key(name))?
        };
        for i in order {
            self.node(&graph.nodes[i], i)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeProto<'a>, index: usize) -> Res<()> {
        let name = if node.name.is_empty() {
            let first = node.outputs.iter().find(|o| !o.is_empty());
            first.map_or_else(|| format!("{}_{index}", node.op_type), |o| o.to_string())
        } else {
            node.name.to_string()
        };
        let first_node = self.graph.nodes.len();
        let result = self.translate(node, &name);
        let mut report = NodeReport {
            name: name.clone(),
            op_type: node.op_type.to_string(),
            domain: node.domain.to_string(),
            status: NodeStatus::Supported,
            problem: None,
        };
        let outputs = match result {
            Ok(outputs) => {
                self.name_nodes(&name, first_node);
                outputs
            }
            Err(stop) => {
                self.graph.nodes.truncate(first_node);
                let problem = self.problem(node, name.clone(), stop);
                report.status = problem.status;
                report.problem = Some(problem);
                Vec::new()
            }
        };
        let failed = report.problem.is_some();
        self.reports.push(report);
        for (i, &output) in node.outputs.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
            let binding = match outputs.get(i).copied().flatten() {
                Some(id) => Binding::Value(id),
                None if failed => self.stand_in(output, &name),
                None => Binding::Unknown(format!("'{name}' does not give it")),
            };
            self.bind(output, binding)?;
        }
        Ok(())
    }

    /// A node that became one op keeps its name; several are told apart by their op.
    fn name_nodes(&mut self, name: &str, first: usize) {
        let made = &mut self.graph.nodes[first..];
        if let [node] = made {
            node.name = name.to_string();
            return;
        }
        for node in made {
            if node.name.is_empty() {
                node.name = format!("{name}/{}", node.op.name());
            }
        }
    }

    /// The value of a node that could not be translated, where the file tells its type.
    fn stand_in(&mut self, output: &'a str, node: &str) -> Binding<'a> {
        let fact = self.value_infos.get(output).and_then(|v| {
            let dtype = tensor::dtype_of(v.elem_type?)?;
            let dims = v.shape.as_ref()?;
            let dims: Option<Vec<i64>> = dims
                .iter()
                .map(|d| match d {
                    Dim::Value(v) => (*v > 0).then_some(*v),
                    Dim::Param(p) => self.dims.get(p).map(|&d| d as i64),
                    Dim::Unknown => None,
                })
                .collect();
            Some((dtype, tensor::shape(&dims?).ok()?))
        });
        match fact {
            Some((dtype, shape)) => {
                let id = self.graph.add_input(output, dtype, shape);
                self.stand_ins.insert(id);
                Binding::Value(id)
            }
            None => Binding::Unknown(format!("'{node}' cannot be translated")),
        }
    }

    fn problem(&mut self, node: &NodeProto<'a>, name: String, stop: Stop) -> UnsupportedNode {
        let inputs = node.inputs.iter().map(|&i| match self.names.get(i) {
            _ if i.is_empty() => "none".to_string(),
            Some(Binding::Value(v)) => format!("{i}: {}", self.graph.fact(*v)),
            Some(Binding::Weight(t)) => {
                format!("{i}: {} {:?}", super::proto::type_name(t.data_type), t.dims)
            }
            Some(Binding::Unknown(_)) | None => format!("{i}: unknown"),
        });
        let inputs = inputs.take(16).collect();
        let (status, reason, would_need) = match stop {
            Stop::Unsupported { reason, need } => (NodeStatus::Unsupported, reason, need),
            Stop::Invalid(reason) => (NodeStatus::Invalid, reason, String::new()),
            Stop::NotChecked(reason) => (NodeStatus::NotChecked, reason, String::new()),
        };
        UnsupportedNode {
            name,
            op_type: node.op_type.to_string(),
            domain: node.domain.to_string(),
            attributes: attributes::describe(&node.attributes),
            inputs,
            status,
            reason,
            would_need,
        }
    }

    fn translate(&mut self, node: &NodeProto<'a>, name: &str) -> Res<Vec<Option<ValueId>>> {
        if node.op_type.is_empty() {
            return invalid("the node has no operator");
        }
        // An operator that is unknown is said to be so, whatever is known of its operands.
        let translator = ops::find(self, node)?;
        let attributes = Attributes::new(&node.attributes)?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            inputs.push(if input.is_empty() { None } else { Some(self.value(input)?) });
        }
        let first_value = self.graph.value_count();
        let mut context = Context::new(self, node, name, attributes, inputs);
        let outputs = translator(&mut context)?;
        context.finish(&outputs)?;
        let named: Vec<Option<ValueId>> =
            (0..node.outputs.len()).map(|i| outputs.get(i).copied().flatten()).collect();
        for (&output, id) in node.outputs.iter().zip(&named) {
            if let Some(id) = id.filter(|id| id.0 as usize >= first_value && !output.is_empty()) {
                self.graph.rename(id, output);
            }
        }
        Ok(named)
    }

    /// True when some node or output uses a name.
    pub fn is_used(&self, name: &str) -> bool {
        !name.is_empty() && self.used.contains(name)
    }

    /// The value of a name; a weight is read on its first use.
    pub fn value(&mut self, name: &'a str) -> Res<ValueId> {
        match self.names.get(name) {
            None => invalid(format!("operand '{name}' is not defined anywhere in the model")),
            Some(Binding::Unknown(why)) => {
                Err(Stop::NotChecked(format!("not checked: operand '{name}' is unknown, {why}")))
            }
            Some(Binding::Value(id)) => Ok(*id),
            Some(Binding::Weight(t)) => {
                let tensor = tensor::decode(t, self.folder).map_err(|stop| match stop {
                    Stop::Invalid(r) => Stop::Invalid(format!("weight '{name}': {r}")),
                    Stop::Unsupported { reason, need } => {
                        Stop::Unsupported { reason: format!("weight '{name}': {reason}"), need }
                    }
                    stop => stop,
                })?;
                if t.external {
                    self.fold_budget = self.fold_budget.saturating_add(tensor.numel() * 4);
                }
                let id = self.graph.add_constant(name, tensor);
                self.names.insert(name, Binding::Value(id));
                Ok(id)
            }
        }
    }

    /// Marks values as computed from operands that may be stand-ins.
    pub fn derive(&mut self, from: &[ValueId], to: &[ValueId]) {
        if from.iter().any(|v| self.stand_ins.contains(v)) {
            self.stand_ins.extend(to);
        }
    }

    /// True when a value stands in for a node that cannot be translated, or is computed from
    /// such a value.
    pub fn is_stand_in(&self, id: ValueId) -> bool {
        self.stand_ins.contains(&id)
    }

    /// Translates a subgraph without inputs in place and gives its outputs' values.
    pub fn inline(&mut self, message: Message<'a>) -> Res<Vec<Option<ValueId>>> {
        if self.depth == MAX_DEPTH {
            return invalid(format!("subgraphs are nested more than {MAX_DEPTH} deep"));
        }
        let mut sub = match GraphProto::decode(message) {
            Ok(g) => g,
            Err(e) => return invalid(format!("the subgraph is damaged: {e}")),
        };
        if !sub.inputs.is_empty() {
            return invalid("a branch of If has inputs");
        }
        let outside = self.bound.len();
        self.depth += 1;
        let result = self.inline_nodes(&mut sub);
        self.depth -= 1;
        for name in self.bound.drain(outside..) {
            self.names.remove(name);
        }
        result
    }

    fn inline_nodes(&mut self, sub: &mut GraphProto<'a>) -> Res<Vec<Option<ValueId>>> {
        self.bind_weights(sub)?;
        self.nodes(sub)?;
        sub.outputs.iter().map(|o| self.value(o.name).map(Some)).collect()
    }

    /// Declares the model's outputs. An output of a node that failed is left out: the caller
    /// has that node's problem already.
    pub fn outputs(&mut self, graph: &GraphProto<'a>) -> Res<()> {
        let failed = self.reports.iter().any(|r| r.problem.is_some());
        let mut seen = HashSet::new();
        for output in &graph.outputs {
            if !seen.insert(output.name) {
                return invalid(format!("output '{}' is listed twice", output.name));
            }
            match self.value(output.name) {
                Ok(id) => self.graph.outputs.push((output.name.to_string(), id)),
                Err(Stop::NotChecked(_)) if failed => continue,
                Err(Stop::NotChecked(why)) => return invalid(why),
                Err(stop) => return Err(stop),
            }
            if output.elem_type == Some(10) {
                self.note(format!("output '{}' is f16 in the model, f32 here", output.name));
            }
        }
        if graph.outputs.is_empty() {
            return invalid("the model has no outputs");
        }
        Ok(())
    }

    /// The type an operand has in the graph.
    pub fn dtype(&self, id: ValueId) -> DType {
        self.graph.fact(id).dtype
    }
}
