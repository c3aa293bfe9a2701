//! Rewriting graphs: what every pass needs, so that a pass is one sweep over the nodes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tobiuo_ops::{Op, infer};
use tobiuo_tensor::Tensor;

use super::{Graph, GraphError, Node, Value, ValueId};

/// A graph being rewritten.
///
/// Node numbers stay what they were until [`Editor::finish`]: removed nodes are only marked
/// and new ones wait behind the node they were added to, so that a sweep `0..len()` sees
/// every original node once, operands before their users.
#[derive(Debug)]
pub struct Editor {
    graph: Graph,
    dead: Vec<bool>,
    added: HashMap<usize, Vec<Node>>,
    producers: HashMap<ValueId, usize>,
    uses: HashMap<ValueId, usize>,
    outputs: HashSet<ValueId>,
    replaced: HashMap<ValueId, ValueId>,
}

impl Editor {
    /// Starts rewriting.
    pub fn new(graph: Graph) -> Editor {
        let mut uses: HashMap<ValueId, usize> = HashMap::new();
        for &v in graph.nodes.iter().flat_map(|n| &n.inputs) {
            *uses.entry(v).or_default() += 1;
        }
        Editor {
            dead: vec![false; graph.nodes.len()],
            added: HashMap::new(),
            producers: graph.producers(),
            uses,
            outputs: graph.outputs.iter().map(|&(_, v)| v).collect(),
            replaced: HashMap::new(),
            graph,
        }
    }

    /// Number of nodes the graph had at the start.
    pub fn len(&self) -> usize {
        self.dead.len()
    }

    /// True when there is no node.
    pub fn is_empty(&self) -> bool {
        self.dead.is_empty()
    }

    /// The graph as it stands; its nodes may name replaced values.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Node `i`, its operands brought up to date, or `None` when it was removed.
    pub fn node(&mut self, i: usize) -> Option<Node> {
        if self.dead[i] {
            return None;
        }
        for k in 0..self.graph.nodes[i].inputs.len() {
            let v = self.graph.nodes[i].inputs[k];
            self.graph.nodes[i].inputs[k] = self.resolve(v);
        }
        Some(self.graph.nodes[i].clone())
    }

    /// What a value was replaced by, itself if by nothing.
    pub fn resolve(&self, mut v: ValueId) -> ValueId {
        while let Some(&next) = self.replaced.get(&v) {
            v = next;
        }
        v
    }

    /// The number of the node that makes a value.
    pub fn producer(&self, v: ValueId) -> Option<usize> {
        self.producers.get(&v).copied()
    }

    /// The node that makes a value and its number.
    pub fn made_by(&mut self, v: ValueId) -> Option<(usize, Node)> {
        let i = self.producer(v)?;
        Some((i, self.node(i)?))
    }

    /// How often nodes use a value.
    pub fn uses(&self, v: ValueId) -> usize {
        self.uses.get(&v).copied().unwrap_or(0)
    }

    /// True when a value is an output of the graph.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// True when one node, once, is all that uses a value, so that it may disappear.
    pub fn used_once(&self, v: ValueId) -> bool {
        self.uses(v) == 1 && !self.is_output(v)
    }

    /// A constant's elements.
    pub fn constant(&self, v: ValueId) -> Option<Arc<Tensor>> {
        self.graph.constant(v).cloned()
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>) -> ValueId {
        self.graph.add_constant(name, tensor)
    }

    /// Lets everything that uses `from` use `to`, which must be made before `from`'s users.
    pub fn replace(&mut self, from: ValueId, to: ValueId) {
        debug_assert_ne!(from, to);
        let n = self.uses.remove(&from).unwrap_or(0);
        *self.uses.entry(to).or_default() += n;
        if self.outputs.remove(&from) {
            self.outputs.insert(to);
        }
        self.replaced.insert(from, to);
    }

    /// Removes node `i`; its outputs must have been replaced or be made by another node.
    pub fn remove(&mut self, i: usize) {
        if !std::mem::replace(&mut self.dead[i], true) {
            for k in 0..self.graph.nodes[i].inputs.len() {
                let v = self.resolve(self.graph.nodes[i].inputs[k]);
                if let Some(n) = self.uses.get_mut(&v) {
                    *n = n.saturating_sub(1);
                }
            }
        }
    }

    /// Gives node `i` another op and operands; its outputs' types and shapes must stay.
    pub fn rewrite(&mut self, i: usize, op: Op, inputs: &[ValueId]) -> Result<(), GraphError> {
        let node = &self.graph.nodes[i];
        let facts: Vec<_> = inputs.iter().map(|&v| self.graph.fact(v).clone()).collect();
        let fail = |reason: String| GraphError { node: node.name.clone(), op: op.name(), reason };
        let made = infer(&op, &facts).map_err(fail)?;
        let wanted = node.outputs.iter().map(|&o| self.graph.fact(o));
        if made.len() != node.outputs.len() || !made.iter().zip(wanted).all(|(a, b)| a == b) {
            return Err(fail("rewritten, it would give other types or shapes".into()));
        }
        for k in 0..self.graph.nodes[i].inputs.len() {
            let v = self.resolve(self.graph.nodes[i].inputs[k]);
            if let Some(n) = self.uses.get_mut(&v) {
                *n = n.saturating_sub(1);
            }
        }
        for &v in inputs {
            *self.uses.entry(v).or_default() += 1;
        }
        let node = &mut self.graph.nodes[i];
        node.op = op;
        node.inputs = inputs.to_vec();
        Ok(())
    }

    /// Node `into` takes over the output of node `from`, which has one output like it and is
    /// removed; the names are joined.
    pub fn absorb(&mut self, into: usize, from: usize) {
        self.remove(from);
        let name = self.graph.nodes[from].name.clone();
        let outputs = self.graph.nodes[from].outputs.clone();
        let node = &mut self.graph.nodes[into];
        node.name = join_names(&node.name, &name);
        node.outputs = outputs;
        for &o in &self.graph.nodes[into].outputs {
            self.producers.insert(o, into);
        }
    }

    /// Node `i` stands for node `from` too, which nobody reads any more and which is removed; the
    /// names are joined.
    pub fn stand_for(&mut self, i: usize, from: usize) {
        self.remove(from);
        let name = join_names(&self.graph.nodes[from].name, &self.graph.nodes[i].name);
        self.graph.nodes[i].name = name;
    }

    /// Joins the name of a node that was folded into node `into` to its name.
    pub fn join_name(&mut self, into: usize, name: &str) {
        let node = &mut self.graph.nodes[into];
        node.name = join_names(&node.name, name);
    }

    /// Adds a node right behind original node `i` (and what was added there before).
    pub fn add_after(
        &mut self,
        i: usize,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let out = self.graph.push1(name, op, inputs)?;
        let node = self.graph.nodes.pop().expect("just pushed");
        for &v in inputs {
            *self.uses.entry(v).or_default() += 1;
        }
        self.added.entry(i).or_default().push(node);
        Ok(out)
    }

    /// Lets two values have each other's name: a new value takes over the name of the one it
    /// stands for.
    pub fn swap_names(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (a.0 as usize, b.0 as usize);
        if a != b {
            let name = std::mem::take(&mut self.graph.values[a].name);
            self.graph.values[a].name = std::mem::replace(&mut self.graph.values[b].name, name);
        }
    }

    /// The rewritten graph, without dead nodes and values.
    pub fn finish(mut self) -> Graph {
        let nodes = std::mem::take(&mut self.graph.nodes);
        let mut kept = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.into_iter().enumerate() {
            if !self.dead[i] {
                kept.push(node);
            }
            kept.extend(self.added.remove(&i).unwrap_or_default());
        }
        for v in kept.iter_mut().flat_map(|n| &mut n.inputs) {
            *v = self.resolve(*v);
        }
        let mut outputs = std::mem::take(&mut self.graph.outputs);
        outputs.iter_mut().for_each(|(_, v)| *v = self.resolve(*v));
        self.graph.nodes = kept;
        self.graph.outputs = outputs;
        self.graph.compact()
    }
}

/// `a + b`, cut where long chains would make names unreadable.
fn join_names(a: &str, b: &str) -> String {
    const LONGEST: usize = 400;
    if a.len() + b.len() > LONGEST { a.to_string() } else { format!("{a} + {b}") }
}

impl Graph {
    /// The graph without the nodes and values that no output needs; inputs all stay.
    pub fn compact(self) -> Graph {
        let mut needed: HashSet<ValueId> = self.outputs.iter().map(|&(_, v)| v).collect();
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if node.outputs.iter().any(|o| needed.contains(o)) {
                keep[i] = true;
                needed.extend(&node.inputs);
                needed.extend(&node.outputs);
            }
        }
        needed.extend(&self.inputs);
        let mut out = Graph { metadata: self.metadata, ..Graph::default() };
        let mut new_id: HashMap<ValueId, ValueId> = HashMap::new();
        for (i, value) in self.values.into_iter().enumerate() {
            let id = ValueId(i as u32);
            if needed.contains(&id) {
                let Value { name, fact, constant } = value;
                new_id.insert(id, out.add_value(&name, fact, constant));
            }
        }
        out.inputs = self.inputs.iter().map(|v| new_id[v]).collect();
        out.outputs = self.outputs.into_iter().map(|(n, v)| (n, new_id[&v])).collect();
        let nodes = self.nodes.into_iter().zip(keep).filter(|(_, k)| *k).map(|(n, _)| n);
        out.nodes = nodes
            .map(|mut node| {
                let ids = node.inputs.iter_mut().chain(&mut node.outputs);
                ids.for_each(|v| *v = new_id[v]);
                node
            })
            .collect();
        out
    }

    /// Checks what every graph must hold: each operand is an input, a constant or made by an
    /// earlier node, each value is made once, and types and shapes are what the ops give.
    pub fn check(&self) -> Result<(), GraphError> {
        let mut known: HashSet<ValueId> = self.inputs.iter().copied().collect();
        known.extend(self.values().filter(|(_, v)| v.constant.is_some()).map(|(id, _)| id));
        for node in &self.nodes {
            let fail = |reason| GraphError { node: node.name.clone(), op: node.op.name(), reason };
            for &v in &node.inputs {
                if !known.contains(&v) {
                    return Err(fail(format!("operand '{}' is not yet made", self.value(v).name)));
                }
            }
            let facts: Vec<_> = node.inputs.iter().map(|&v| self.fact(v).clone()).collect();
            let made = infer(&node.op, &facts).map_err(fail)?;
            if !node.outputs.iter().map(|&o| self.fact(o)).eq(&made) {
                return Err(fail("its outputs' types or shapes are not what it gives".into()));
            }
            for &o in &node.outputs {
                if !known.insert(o) {
                    return Err(fail(format!("value '{}' is made twice", self.value(o).name)));
                }
            }
        }
        let lost = self.outputs.iter().find(|(_, v)| !known.contains(v));
        lost.map_or(Ok(()), |(name, _)| {
            Err(GraphError {
                node: name.clone(),
                op: "output",
                reason: "no node makes this output of the graph".into(),
            })
        })
    }
}
