//! Pairs: a convolution and a 1x1 convolution that reads its result, in one kernel. Which of the
//! possible ones are joined is decided by timing ([`tune()`]).

mod tune;

use std::collections::HashSet;

use tobiuo_kernels::{ConvPairLayer, Layer};

use super::lower::{Lowered, Lowering, Operand};
use super::view::{BufferId, View};
pub use tune::tune;

/// Two layers of a lowering that can be one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The first one's number.
    pub first: usize,
    /// The second one's.
    pub second: usize,
    /// Both as one.
    pub layer: ConvPairLayer,
}

/// The names of two layers that are joined, as records hold them.
pub type Names = [String; 2];

fn views(layer: &Lowered) -> impl Iterator<Item = &View> {
    layer.operands.iter().filter_map(|operand| match operand {
        Operand::View(view) => Some(view),
        Operand::Constant(_) => None,
    })
}

/// The layers that can be joined, in their order. A layer may be in two of them.
pub fn possible(lowering: &Lowering) -> Vec<Pair> {
    let mut out = Vec::new();
    for (first, a) in lowering.layers.iter().enumerate() {
        let Layer::Conv(one) = &a.layer else { continue };
        let made = &a.outputs[0];
        for (second, b) in lowering.layers.iter().enumerate().skip(first + 1) {
            let (Layer::Conv(two), [Operand::View(read)]) = (&b.layer, &b.operands[..]) else {
                continue;
            };
            let same = (read.buffer, read.offset, &read.strides, &read.shape)
                == (made.buffer, made.offset, &made.strides, &made.shape);
            // Results that lie in one another's gaps are no two results for the references.
            if !same || b.outputs[0].buffer == made.buffer {
                continue;
            }
            let others = lowering.layers.iter().enumerate().filter(|&(i, _)| i != second);
            let mut read = others.flat_map(|(_, l)| views(l)).chain(&lowering.outputs);
            let keep = read.any(|view| view.buffer == made.buffer);
            if let Some(layer) = ConvPairLayer::new(one, two, keep) {
                out.push(Pair { first, second, layer });
            }
        }
    }
    out
}

/// A pair as a layer.
fn lowered(lowering: &Lowering, pair: &Pair) -> Lowered {
    let [a, b] = [pair.first, pair.second].map(|i| &lowering.layers[i]);
    let kept = a.outputs.iter().filter(|_| pair.layer.keep);
    Lowered {
        name: name(lowering, pair),
        op: b.op,
        layer: Layer::ConvPair(pair.layer.clone()),
        operands: a.operands.clone(),
        outputs: b.outputs.iter().chain(kept).cloned().collect(),
        constants: a.constants.iter().chain(&b.constants).copied().collect(),
        flops: a.flops + b.flops,
    }
}

/// The lowering with pairs joined, of which none has a layer of another.
pub fn join(lowering: &Lowering, pairs: &[&Pair]) -> Lowering {
    let mut layers = Vec::with_capacity(lowering.layers.len());
    let mut gone: HashSet<BufferId> = HashSet::new();
    for (i, layer) in lowering.layers.iter().enumerate() {
        if pairs.iter().any(|p| p.second == i) {
            continue;
        }
        match pairs.iter().find(|p| p.first == i) {
            None => layers.push(layer.clone()),
            Some(pair) => {
                layers.push(lowered(lowering, pair));
                if !pair.layer.keep {
                    gone.insert(layer.outputs[0].buffer);
                }
            }
        }
    }
    let values = lowering.values.iter().filter(|(_, view)| !gone.contains(&view.buffer));
    Lowering { layers, values: values.cloned().collect(), ..lowering.clone() }
}

/// Every layer that timing may choose from: the lowering's own, and its possible pairs.
pub fn layers_and_pairs(lowering: &Lowering) -> Vec<Layer> {
    let single = lowering.layers.iter().map(|l| l.layer.clone());
    single.chain(possible(lowering).into_iter().map(|p| Layer::ConvPair(p.layer))).collect()
}

fn names(lowering: &Lowering, pair: &Pair) -> Names {
    [pair.first, pair.second].map(|i| lowering.layers[i].name.clone())
}

/// What a pair is called as a layer.
fn name(lowering: &Lowering, pair: &Pair) -> String {
    names(lowering, pair).join(" + ")
}

/// The lowering with the pairs of these names joined; `None` where one cannot be.
pub fn join_named(lowering: &Lowering, wanted: &[Names]) -> Option<Lowering> {
    let wanted: Vec<String> = wanted.iter().map(|n| n.join(" + ")).collect();
    join_layers(lowering, &wanted.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The lowering with the pairs joined that are called so as layers; `None` where one cannot be.
pub fn join_layers(lowering: &Lowering, wanted: &[&str]) -> Option<Lowering> {
    let possible = possible(lowering);
    let find = |n: &&str| possible.iter().find(|p| name(lowering, p) == **n);
    let pairs: Vec<&Pair> = wanted.iter().map(find).collect::<Option<_>>()?;
    let mut used = HashSet::new();
    let apart = pairs.iter().flat_map(|p| [p.first, p.second]).all(|i| used.insert(i));
    apart.then(|| join(lowering, &pairs))
}

#[cfg(test)]
mod tests;
