//! BatchNorm and multiplications and additions of constants, folded into the weights and bias
//! of the Conv, ConvTranspose or Gemm before them, or of the Conv or Gemm behind them.
//!
//! Folded weights are computed in f64 and rounded once. Behind a convolution an affine map
//! always folds. Before one, a shift does so only where no zeros are padded: padding is
//! added after the shift, so the border would see it where it is not.

use tobiuo_ops::{Conv, Gemm, Op};
use tobiuo_tensor::{DType, Tensor};

use super::affine::{Affine, affine};
use crate::graph::{Editor, Graph, GraphError, Node, ValueId};

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        if let Some(map) = affine(&edit, &node) {
            fold_behind(&mut edit, i, &map)?;
        } else {
            while fold_before(&mut edit, i)? {}
        }
    }
    Ok(edit.finish())
}

fn f32_constant(edit: &Editor, v: ValueId) -> Option<Tensor> {
    edit.constant(v).filter(|t| t.dtype() == DType::F32).map(|t| (*t).clone())
}

fn name_of(edit: &Editor, v: ValueId) -> String {
    edit.graph().value(v).name.clone()
}

/// A constant of new elements in the place of an old one.
fn constant(edit: &mut Editor, name: &str, shape: &[usize], values: Vec<f64>) -> ValueId {
    let values = values.into_iter().map(|v| v as f32).collect();
    edit.add_constant(name, Tensor::f32(shape, values))
}

fn all_finite(values: &[f64]) -> bool {
    values.iter().all(|v| (*v as f32).is_finite())
}

/// Folds affine node `i` into the node that makes its operand.
fn fold_behind(edit: &mut Editor, i: usize, map: &Affine) -> Result<(), GraphError> {
    if !edit.used_once(map.x) {
        return Ok(());
    }
    let Some((p, before)) = edit.made_by(map.x) else { return Ok(()) };
    let folded = match &before.op {
        Op::Conv(c) if c.activation.is_none() && !c.residual => {
            behind_conv(edit, &before, map, |per_output, o| o / per_output)
        }
        Op::ConvTranspose(c) if c.activation.is_none() => {
            // Weight [C, O/groups, kh, kw]: rows of group g hold outputs g * O/groups + j.
            let groups = c.groups;
            let shape = edit.graph().shape(before.inputs[1]).to_vec();
            let (per_group_in, out) = (shape[0] / groups.max(1), shape[1]);
            let taps: usize = shape[2..].iter().product();
            behind_conv(edit, &before, map, move |_, k| {
                let (row, j) = (k / (out * taps), k / taps % out);
                row / per_group_in * out + j
            })
        }
        Op::Gemm(g) if g.activation.is_none() => behind_gemm(edit, &before, g, map),
        _ => None,
    };
    if let Some((op, inputs)) = folded {
        edit.rewrite(p, op, &inputs)?;
        edit.absorb(p, i);
    }
    Ok(())
}

/// `channel(elements per output channel, k)` is the output channel of weight element `k`.
fn behind_conv(
    edit: &mut Editor,
    node: &Node,
    map: &Affine,
    channel: impl Fn(usize, usize) -> usize,
) -> Option<(Op, Vec<ValueId>)> {
    let weight = f32_constant(edit, node.inputs[1])?;
    let bias = f32_constant(edit, node.inputs[2])?;
    let per_output = weight.numel() / map.scale.len().max(1);
    let w: Vec<f64> = (weight.to_f64().iter().enumerate())
        .map(|(k, v)| v * map.scale[channel(per_output, k)])
        .collect();
    let b: Vec<f64> = (bias.to_f64().iter().zip(&map.scale).zip(&map.shift))
        .map(|((b, scale), shift)| b * scale + shift)
        .collect();
    if !all_finite(&w) || !all_finite(&b) {
        return None;
    }
    let (w_name, b_name) = (name_of(edit, node.inputs[1]), name_of(edit, node.inputs[2]));
    let w = constant(edit, &w_name, weight.shape(), w);
    let b = constant(edit, &b_name, bias.shape(), b);
    Some((node.op.clone(), vec![node.inputs[0], w, b]))
}

/// c as one number per column, or per element where it varies over rows.
fn expand_c(c: Option<&Tensor>, beta: f64, m: usize, n: usize) -> Option<(Vec<usize>, Vec<f64>)> {
    let Some(c) = c else { return Some((vec![n], vec![0.0; n])) };
    let values: Vec<f64> = c.to_f64().iter().map(|v| v * beta).collect();
    let (rows, columns) = match *c.shape() {
        [] => (1, 1),
        [columns] => (1, columns),
        [rows, columns] => (rows, columns),
        _ => return None,
    };
    let at = |r: usize, k: usize| values[(r % rows) * columns + k % columns];
    if rows == 1 {
        Some((vec![n], (0..n).map(|k| at(0, k)).collect()))
    } else {
        Some((vec![m, n], (0..m * n).map(|k| at(k / n, k % n)).collect()))
    }
}

/// A Gemm's constants in f64: b, and c spread to `[N]` or `[M, N]` with beta in it.
struct GemmParts {
    b: Tensor,
    c_shape: Vec<usize>,
    c: Vec<f64>,
    c_name: String,
    m: usize,
    n: usize,
}

fn gemm_parts(edit: &Editor, node: &Node, g: &Gemm) -> Option<GemmParts> {
    let b = f32_constant(edit, node.inputs[1])?;
    let c = match node.inputs.get(2) {
        Some(&v) => Some(f32_constant(edit, v)?),
        None => None,
    };
    let &[m, n] = edit.graph().shape(node.outputs[0]) else { return None };
    let (c_shape, c) = expand_c(c.as_ref(), f64::from(g.beta), m, n)?;
    let c_name = match node.inputs.get(2) {
        Some(&v) => name_of(edit, v),
        None => format!("{}.bias", node.name),
    };
    Some(GemmParts { b, c_shape, c, c_name, m, n })
}

fn behind_gemm(
    edit: &mut Editor,
    node: &Node,
    g: &Gemm,
    map: &Affine,
) -> Option<(Op, Vec<ValueId>)> {
    let p = gemm_parts(edit, node, g)?;
    let k = p.b.numel() / p.n.max(1);
    let column = |e: usize| if g.trans_b { e / k } else { e % p.n };
    let alpha = f64::from(g.alpha);
    let b: Vec<f64> =
        (p.b.to_f64().iter().enumerate()).map(|(e, v)| v * alpha * map.scale[column(e)]).collect();
    let c: Vec<f64> = (p.c.iter().enumerate())
        .map(|(e, v)| v * map.scale[e % p.n] + map.shift[e % p.n])
        .collect();
    gemm_of(edit, node, g, &p, b, c)
}

fn gemm_of(
    edit: &mut Editor,
    node: &Node,
    g: &Gemm,
    p: &GemmParts,
    b: Vec<f64>,
    c: Vec<f64>,
) -> Option<(Op, Vec<ValueId>)> {
    if !all_finite(&b) || !all_finite(&c) {
        return None;
    }
    let b_name = name_of(edit, node.inputs[1]);
    let b = constant(edit, &b_name, p.b.shape(), b);
    let c = constant(edit, &p.c_name, &p.c_shape, c);
    let op = Op::Gemm(Gemm { alpha: 1.0, beta: 1.0, ..g.clone() });
    Some((op, vec![node.inputs[0], b, c]))
}

/// Folds the affine node that makes the operand of Conv or Gemm `i` into it; true if it did.
fn fold_before(edit: &mut Editor, i: usize) -> Result<bool, GraphError> {
    let Some(node) = edit.node(i) else { return Ok(false) };
    if !matches!(node.op, Op::Conv(_) | Op::Gemm(_)) || !edit.used_once(node.inputs[0]) {
        return Ok(false);
    }
    let Some((p, before)) = edit.made_by(node.inputs[0]) else { return Ok(false) };
    let Some(map) = affine(edit, &before) else { return Ok(false) };
    let folded = match &node.op {
        Op::Conv(c) => before_conv(edit, &node, c, &map),
        Op::Gemm(g) if !g.trans_a => before_gemm(edit, &node, g, &map),
        _ => None,
    };
    let Some((op, mut inputs)) = folded else { return Ok(false) };
    inputs[0] = map.x;
    edit.rewrite(i, op, &inputs)?;
    edit.join_name(i, &before.name);
    edit.remove(p);
    Ok(true)
}

fn before_conv(
    edit: &mut Editor,
    node: &Node,
    c: &Conv,
    map: &Affine,
) -> Option<(Op, Vec<ValueId>)> {
    let shifts = map.shift.iter().any(|&s| s != 0.0);
    if shifts && c.pads.iter().any(|&p| p != 0) {
        return None;
    }
    let weight = f32_constant(edit, node.inputs[1])?;
    let bias = f32_constant(edit, node.inputs[2])?;
    let [outputs, per_group, ref kernel @ ..] = *weight.shape() else { return None };
    let taps: usize = kernel.iter().product();
    let outputs_per_group = (outputs / c.groups.max(1)).max(1);
    let mut b = bias.to_f64();
    let mut w = weight.to_f64();
    for (k, v) in w.iter_mut().enumerate() {
        let o = k / (per_group * taps);
        let input = o / outputs_per_group * per_group + k / taps % per_group;
        b[o] += *v * map.shift[input];
        *v *= map.scale[input];
    }
    if !all_finite(&w) || !all_finite(&b) {
        return None;
    }
    let (w_name, b_name) = (name_of(edit, node.inputs[1]), name_of(edit, node.inputs[2]));
    let w = constant(edit, &w_name, weight.shape(), w);
    let b = constant(edit, &b_name, bias.shape(), b);
    let mut inputs = node.inputs.clone();
    (inputs[1], inputs[2]) = (w, b);
    Some((node.op.clone(), inputs))
}

fn before_gemm(
    edit: &mut Editor,
    node: &Node,
    g: &Gemm,
    map: &Affine,
) -> Option<(Op, Vec<ValueId>)> {
    let p = gemm_parts(edit, node, g)?;
    let rows = p.b.numel() / p.n.max(1);
    let mut b = p.b.to_f64();
    let mut shift = vec![0.0; p.n];
    for (e, v) in b.iter_mut().enumerate() {
        let (row, column) = if g.trans_b { (e % rows, e / rows) } else { (e / p.n, e % p.n) };
        *v *= f64::from(g.alpha);
        shift[column] += *v * map.shift[row];
        *v *= map.scale[row];
    }
    let c = p.c.iter().enumerate().map(|(e, v)| v + shift[e % p.n]).collect();
    debug_assert!(p.c.len() == p.n || p.c.len() == p.m * p.n);
    gemm_of(edit, node, g, &p, b, c)
}
