//! The graph: typed nodes in topological order over numbered values.
//!
//! Importers build it, passes rewrite it, the planner lays it out. A value is an input, a
//! constant, or the output of exactly one node; its type and static shape are known from the
//! moment it exists, because [`Graph::push`] infers them.

mod edit;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use tobiuo_engine::{Preprocess, Task};
use tobiuo_ops::{Fact, Op, infer};
use tobiuo_tensor::{DType, Shape, Tensor};

pub use edit::Editor;

/// A value's number in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A tensor of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the model, or one made up by a pass; unique.
    pub name: String,
    /// Type and shape.
    pub fact: Fact,
    /// Its elements when it is a constant.
    pub constant: Option<Arc<Tensor>>,
}

/// An operator applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// The layer's name in the model; fused nodes join names with ` + `.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<ValueId>,
    /// Its results.
    pub outputs: Vec<ValueId>,
}

/// What the model's file says beside the graph.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// File name without its folder.
    pub model: String,
    /// `onnx` or `chainer`.
    pub format: String,
    /// Producer, version, opset.
    pub producer: String,
    /// Class names, where the file has them.
    pub labels: Vec<String>,
    /// What the outputs mean, where the file says so.
    pub task: Option<Task>,
    /// How pictures become the input, where the file says so.
    pub preprocess: Option<Preprocess>,
    /// Key and value as the file has them.
    pub properties: Vec<(String, String)>,
    /// What a user should know about the import: types that were widened and such.
    pub notes: Vec<String>,
}

/// A network.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Nodes, each after the nodes whose values it uses.
    pub nodes: Vec<Node>,
    values: Vec<Value>,
    names: HashSet<String>,
    /// Named inputs.
    pub inputs: Vec<ValueId>,
    /// Outputs and their names in the model (a value may be an output under two names).
    pub outputs: Vec<(String, ValueId)>,
    /// What the file says beside the graph.
    pub metadata: Metadata,
}

/// A node that does not fit its inputs.
#[derive(Debug)]
pub struct GraphError {
    /// The node's name.
    pub node: String,
    /// The operator's name.
    pub op: &'static str,
    /// Why.
    pub reason: String,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node '{}' ({}): {}", self.node, self.op, self.reason)
    }
}

impl std::error::Error for GraphError {}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// A name not yet taken: `base`, or `base` with a number.
    fn unique(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{base}.{n}");
            n += 1;
        }
        name
    }

    fn add_value(&mut self, name: &str, fact: Fact, constant: Option<Arc<Tensor>>) -> ValueId {
        let name = self.unique(name);
        self.values.push(Value { name, fact, constant });
        ValueId(u32::try_from(self.values.len() - 1).expect("fewer than 2^32 values"))
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: &str, dtype: DType, shape: Shape) -> ValueId {
        let id = self.add_value(name, Fact { dtype, shape }, None);
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>) -> ValueId {
        let tensor = tensor.into();
        let fact = Fact { dtype: tensor.dtype(), shape: tensor.shape().to_vec() };
        self.add_value(name, fact, Some(tensor))
    }

    /// Adds a node behind the others and its outputs, types and shapes inferred. Outputs are
    /// named `outputs[i]`, or after the node where a name is missing.
    pub fn push(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
        outputs: &[&str],
    ) -> Result<Vec<ValueId>, GraphError> {
        let facts: Vec<Fact> = inputs.iter().map(|&i| self.fact(i).clone()).collect();
        let facts = infer(&op, &facts).map_err(|reason| GraphError {
            node: name.to_string(),
            op: op.name(),
            reason,
        })?;
        let ids: Vec<ValueId> = facts
            .into_iter()
            .enumerate()
            .map(|(i, fact)| {
                let base = outputs.get(i).map_or_else(|| format!("{name}:{i}"), |s| s.to_string());
                self.add_value(&base, fact, None)
            })
            .collect();
        self.nodes.push(Node {
            name: name.to_string(),
            op,
            inputs: inputs.to_vec(),
            outputs: ids.clone(),
        });
        Ok(ids)
    }

    /// As [`Graph::push`] for an op with one output.
    pub fn push1(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        Ok(self.push(name, op, inputs, &[])?[0])
    }

    /// Renames a value, to `name` with a number where it is taken.
    pub fn rename(&mut self, id: ValueId, name: &str) {
        let old = std::mem::take(&mut self.values[id.0 as usize].name);
        self.names.remove(&old);
        self.values[id.0 as usize].name = self.unique(name);
    }

    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A value's type and shape.
    pub fn fact(&self, id: ValueId) -> &Fact {
        &self.value(id).fact
    }

    /// A value's shape.
    pub fn shape(&self, id: ValueId) -> &[usize] {
        &self.fact(id).shape
    }

    /// A value's elements when it is a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        self.value(id).constant.as_ref()
    }

    /// Every value with its number.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// For each value, the numbers of the nodes that use it (once per use).
    pub fn users(&self) -> HashMap<ValueId, Vec<usize>> {
        let mut users: HashMap<ValueId, Vec<usize>> = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            for &v in &node.inputs {
                users.entry(v).or_default().push(i);
            }
        }
        users
    }

    /// For each value that a node makes, that node's number.
    pub fn producers(&self) -> HashMap<ValueId, usize> {
        let pairs = self.nodes.iter().enumerate();
        pairs.flat_map(|(i, n)| n.outputs.iter().map(move |&o| (o, i))).collect()
    }

    /// True when a value is one of the graph's outputs.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.iter().any(|&(_, o)| o == id)
    }

    /// Lets every use of `from`, as an operand or as an output, use `to`.
    pub fn replace_uses(&mut self, from: ValueId, to: ValueId) {
        let swap = |v: &mut ValueId| {
            if *v == from {
                *v = to;
            }
        };
        self.nodes.iter_mut().flat_map(|n| &mut n.inputs).for_each(swap);
        self.outputs.iter_mut().map(|(_, v)| v).for_each(swap);
    }
}
