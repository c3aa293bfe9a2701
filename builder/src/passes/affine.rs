//! Nodes that compute `scale[c] * x + shift[c]` with constants, per channel (axis 1).

use tobiuo_ops::{Binary, Op, Unary};
use tobiuo_tensor::{DType, Tensor};

use crate::graph::{Editor, Node, ValueId};

/// `y = scale[c] * x + shift[c]` with channels on axis 1, in f64.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub x: ValueId,
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
}

/// A constant that varies over axis 1 of `shape` only, as one number per channel.
fn per_channel(k: &Tensor, shape: &[usize]) -> Option<Vec<f64>> {
    let &channels = shape.get(1)?;
    let values = k.to_f64();
    if values.len() == 1 && k.shape().len() <= shape.len() {
        return Some(vec![values[0]; channels]);
    }
    let missing = shape.len().checked_sub(k.shape().len())?;
    let fits = k.shape().iter().enumerate().all(|(i, &d)| d == 1 || i + missing == 1);
    (fits && values.len() == channels).then_some(values)
}

/// What an affine node computes; `None` for all others.
pub(super) fn affine(edit: &Editor, node: &Node) -> Option<Affine> {
    let graph = edit.graph();
    let out = graph.fact(*node.outputs.first()?);
    if out.dtype != DType::F32 || out.shape.len() < 2 {
        return None;
    }
    let channels = out.shape[1];
    let found = match &node.op {
        Op::BatchNorm { epsilon } => {
            let [x, parameters @ ..] = &node.inputs[..] else { return None };
            let p: Option<Vec<Vec<f64>>> =
                parameters.iter().map(|&v| Some(graph.constant(v)?.to_f64())).collect();
            let p: [Vec<f64>; 4] = p?.try_into().ok()?;
            let [gamma, beta, mean, variance] = p;
            let scale: Vec<f64> = gamma
                .iter()
                .zip(&variance)
                .map(|(g, v)| g / (v + f64::from(*epsilon)).sqrt())
                .collect();
            let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
            Affine { x: *x, scale, shift }
        }
        Op::Unary(Unary::Neg) => {
            Affine { x: node.inputs[0], scale: vec![-1.0; channels], shift: vec![0.0; channels] }
        }
        Op::Binary { kind, activation: None } => {
            let [a, b] = node.inputs[..] else { return None };
            let (x, k, reversed) = match (graph.constant(a), graph.constant(b)) {
                (None, Some(k)) => (a, k, false),
                (Some(k), None) => (b, k, true),
                _ => return None,
            };
            if graph.fact(x) != out {
                return None;
            }
            let k = per_channel(k, &out.shape)?;
            let ones = vec![1.0; channels];
            let zeros = vec![0.0; channels];
            let (scale, shift) = match (kind, reversed) {
                (Binary::Add, _) => (ones, k),
                (Binary::Sub, false) => (ones, k.iter().map(|v| -v).collect()),
                (Binary::Sub, true) => (vec![-1.0; channels], k),
                (Binary::Mul, _) => (k, zeros),
                (Binary::Div, false) => (k.iter().map(|v| 1.0 / v).collect(), zeros),
                _ => return None,
            };
            Affine { x, scale, shift }
        }
        _ => return None,
    };
    let finite = |v: &[f64]| v.len() == channels && v.iter().all(|x| x.is_finite());
    (finite(&found.scale) && finite(&found.shift)).then_some(found)
}
