//! Runs a graph node by node on the CPU reference: the oracle for passes and `verify`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use tobiuo_cpu::evaluate;
use tobiuo_tensor::Tensor;

use crate::graph::{Graph, ValueId};

/// Why a graph cannot be run.
#[derive(Debug)]
#[non_exhaustive]
pub enum InterpretError {
    /// An input is not given.
    MissingInput(String),
    /// An input's type or shape is not the graph's.
    WrongInput {
        /// Its name.
        name: String,
        /// Type and shape wanted.
        wanted: String,
        /// Type and shape given.
        given: String,
    },
    /// A name is given that is no input.
    NoSuchInput(String),
    /// A node fails.
    Node {
        /// Its name.
        node: String,
        /// Its operator.
        op: &'static str,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for InterpretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterpretError::MissingInput(name) => write!(f, "input '{name}' is not given"),
            InterpretError::WrongInput { name, wanted, given } => {
                write!(f, "input '{name}' is {given}, the network wants {wanted}")
            }
            InterpretError::NoSuchInput(name) => write!(f, "the network has no input '{name}'"),
            InterpretError::Node { node, op, reason } => {
                write!(f, "node '{node}' ({op}): {reason}")
            }
        }
    }
}

impl std::error::Error for InterpretError {}

/// The graph's outputs, in its order, for inputs given by name.
pub fn run(graph: &Graph, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, InterpretError> {
    let wanted: Vec<ValueId> = graph.outputs.iter().map(|&(_, id)| id).collect();
    let mut values = values(graph, inputs, &wanted)?;
    // A value may be an output twice; the last use takes it.
    let last = |i: usize| !wanted[i + 1..].contains(&wanted[i]);
    Ok((0..wanted.len())
        .map(|i| {
            let shared =
                if last(i) { values.remove(&wanted[i]) } else { values.get(&wanted[i]).cloned() };
            shared.map_or_else(|| unreachable!("every wanted value is there"), Arc::unwrap_or_clone)
        })
        .collect())
}

/// Chosen values of the graph, for inputs given by name. Others are dropped after their last
/// use.
pub fn values(
    graph: &Graph,
    inputs: &[(&str, &Tensor)],
    wanted: &[ValueId],
) -> Result<HashMap<ValueId, Arc<Tensor>>, InterpretError> {
    let wanted: HashSet<ValueId> = wanted.iter().copied().collect();
    let mut out = HashMap::new();
    each(graph, inputs, &mut |id, tensor| {
        if wanted.contains(&id) {
            out.insert(id, tensor.clone());
        }
    })?;
    Ok(out)
}

/// Calls `see` with every value of the graph: inputs and constants first, then each node's
/// outputs as they are computed. A value lives until its last use unless `see` keeps it.
pub fn each(
    graph: &Graph,
    inputs: &[(&str, &Tensor)],
    see: &mut dyn FnMut(ValueId, &Arc<Tensor>),
) -> Result<(), InterpretError> {
    let mut live: HashMap<ValueId, Arc<Tensor>> = HashMap::new();
    for &id in &graph.inputs {
        let value = graph.value(id);
        let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == value.name) else {
            return Err(InterpretError::MissingInput(value.name.clone()));
        };
        if tensor.dtype() != value.fact.dtype || tensor.shape() != value.fact.shape {
            return Err(InterpretError::WrongInput {
                name: value.name.clone(),
                wanted: value.fact.to_string(),
                given: format!("{} {:?}", tensor.dtype(), tensor.shape()),
            });
        }
        live.insert(id, Arc::new((*tensor).clone()));
    }
    let is_input = |name: &str| graph.inputs.iter().any(|&id| graph.value(id).name == name);
    if let Some((name, _)) = inputs.iter().find(|(name, _)| !is_input(name)) {
        return Err(InterpretError::NoSuchInput(name.to_string()));
    }
    for (id, value) in graph.values() {
        if let Some(tensor) = &value.constant {
            live.insert(id, tensor.clone());
        }
    }
    live.iter().for_each(|(&id, tensor)| see(id, tensor));
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
    for &id in graph.nodes.iter().flat_map(|n| &n.inputs) {
        *uses.entry(id).or_default() += 1;
    }
    for node in &graph.nodes {
        let failed = |reason: String| InterpretError::Node {
            node: node.name.clone(),
            op: node.op.name(),
            reason,
        };
        let operands: Option<Vec<Arc<Tensor>>> =
            node.inputs.iter().map(|id| live.get(id).cloned()).collect();
        let Some(operands) = operands else {
            return Err(failed("it uses a value that no earlier node makes".into()));
        };
        let operands: Vec<&Tensor> = operands.iter().map(|t| &**t).collect();
        let results = evaluate(&node.op, &operands).map_err(|e| failed(e.to_string()))?;
        for id in &node.inputs {
            let left = uses.get_mut(id).expect("counted above");
            *left -= 1;
            if *left == 0 {
                live.remove(id);
            }
        }
        for (&id, tensor) in node.outputs.iter().zip(results) {
            let tensor = Arc::new(tensor);
            see(id, &tensor);
            if uses.contains_key(&id) {
                live.insert(id, tensor);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tobiuo_ops::{Binary, Op};
    use tobiuo_tensor::DType;

    fn graph() -> Graph {
        let mut g = Graph::new();
        let x = g.add_input("x", DType::F32, vec![2]);
        let two = g.add_constant("two", Tensor::f32([1], vec![2.0]));
        let mul = |kind| Op::Binary { kind, activation: None };
        let y = g.push1("double", mul(Binary::Mul), &[x, two]).unwrap();
        let z = g.push1("back", mul(Binary::Sub), &[y, x]).unwrap();
        g.outputs = vec![("y".into(), y), ("z".into(), z), ("y2".into(), y), ("c".into(), two)];
        g
    }

    #[test]
    fn outputs_in_order_with_doubles_and_constants() {
        let x = Tensor::f32([2], vec![1.0, -3.0]);
        let out = run(&graph(), &[("x", &x)]).unwrap();
        let y = Tensor::f32([2], vec![2.0, -6.0]);
        assert_eq!(out, [y.clone(), x, y, Tensor::f32([1], vec![2.0])]);
    }

    #[test]
    fn wrong_inputs_are_named() {
        let g = graph();
        let x = Tensor::f32([2], vec![0.0; 2]);
        let error = |inputs: &[(&str, &Tensor)]| run(&g, inputs).unwrap_err().to_string();
        assert_eq!(error(&[]), "input 'x' is not given");
        let long = Tensor::f32([3], vec![0.0; 3]);
        assert_eq!(error(&[("x", &long)]), "input 'x' is f32 [3], the network wants f32 [2]");
        assert_eq!(error(&[("x", &x), ("q", &x)]), "the network has no input 'q'");
    }
}
