//! Zero padding before a convolution or a pool becomes that node's own padding.

use tobiuo_ops::{Activation, Op, Pad, PadMode, Pool, PoolKind};

use crate::graph::{Editor, Graph, GraphError, ValueId};

/// Padding of the spatial axes only, nothing cropped: `[begin..., end...]`.
fn spatial(pad: &Pad) -> Option<Vec<usize>> {
    let outer = pad.begins.iter().take(2).chain(pad.ends.iter().take(2));
    if pad.begins.len() < 3 || outer.clone().any(|&n| n != 0) {
        return None;
    }
    let amounts = pad.begins[2..].iter().chain(&pad.ends[2..]);
    amounts.map(|&n| usize::try_from(n).ok()).collect()
}

/// True when no element of a value is negative, as far as the node that makes it tells.
fn never_negative(edit: &mut Editor, v: ValueId) -> bool {
    let Some((_, node)) = edit.made_by(v) else { return false };
    match node.op {
        Op::Activation(Activation::Relu | Activation::Sigmoid) => true,
        Op::Activation(Activation::Clip { min, .. }) => min >= 0.0,
        _ => false,
    }
}

/// The pool with the padding as its own, where the result is the same.
fn pool(edit: &mut Editor, pool: &Pool, pads: &[usize], value: f32, x: ValueId) -> Option<Pool> {
    if pool.ceil_mode {
        return None;
    }
    let sum: Vec<usize> = pool.pads.iter().zip(pads).map(|(a, b)| a + b).collect();
    // A window that lies in the padding alone would have had a result.
    let extents = pool.kernel.iter().zip(&pool.dilations).map(|(k, d)| (k - 1) * d);
    let inside = extents
        .enumerate()
        .all(|(axis, extent)| sum[axis] <= extent && sum[axis + pool.kernel.len()] <= extent);
    let kind = match pool.kind {
        // What is padded never wins: -inf does not either, nor 0 among numbers >= 0.
        PoolKind::Max if value == f32::NEG_INFINITY || value == f32::MIN => pool.kind,
        PoolKind::Max if value == 0.0 && never_negative(edit, x) => pool.kind,
        PoolKind::Average { count_include_pad }
            if value == 0.0 && (count_include_pad || pool.pads.iter().all(|&p| p == 0)) =>
        {
            PoolKind::Average { count_include_pad: true }
        }
        _ => return None,
    };
    inside.then(|| Pool { kind, pads: sum, ..pool.clone() })
}

/// The pass.
pub fn run(graph: Graph) -> Result<Graph, GraphError> {
    let mut edit = Editor::new(graph);
    for i in 0..edit.len() {
        let Some(node) = edit.node(i) else { continue };
        if !matches!(node.op, Op::Conv(_) | Op::Pool(_)) {
            continue;
        }
        // Padding shared by several nodes is absorbed by each; it dies with the last.
        let Some((p, before)) = edit.made_by(node.inputs[0]) else { continue };
        let Op::Pad(pad) = &before.op else { continue };
        let PadMode::Constant { value } = pad.mode else { continue };
        let Some(pads) = spatial(pad) else { continue };
        let x = before.inputs[0];
        let op = match &node.op {
            Op::Conv(c) if value == 0.0 => {
                let mut c = c.clone();
                c.pads.iter_mut().zip(&pads).for_each(|(a, b)| *a += b);
                Some(Op::Conv(c))
            }
            Op::Pool(old) => pool(&mut edit, old, &pads, value, x).map(Op::Pool),
            _ => None,
        };
        let Some(op) = op else { continue };
        let mut inputs = node.inputs.clone();
        inputs[0] = x;
        edit.rewrite(i, op, &inputs)?;
        edit.join_name(i, &before.name);
        if edit.uses(before.outputs[0]) == 0 && !edit.is_output(before.outputs[0]) {
            edit.remove(p);
        }
    }
    Ok(edit.finish())
}
