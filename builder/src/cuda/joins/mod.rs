//! Layers joined: a convolution and the 1x1 convolutions behind it, in one kernel. Which of the
//! possible ones are joined is decided by timing ([`tune()`]).

mod tune;

use std::collections::HashSet;

use tobiuo_kernels::{ConvChainLayer, ConvLayer, ConvPairLayer, Layer};

use super::lower::{Lowered, Lowering};
use super::view::BufferId;
pub use tune::tune;

/// Layers of a lowering that can be one.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Their numbers: each but the first reads what the one in front of it makes.
    pub members: Vec<usize>,
    /// All as one.
    pub layer: Layer,
    /// Other layers read what the last but one makes; what those in front make nobody else does.
    keep: bool,
}

/// The names of layers that are joined, as records hold them.
pub type Names = Vec<String>;

/// A layer that is a convolution.
fn conv(layer: &Lowered) -> Option<&ConvLayer> {
    match &layer.layer {
        Layer::Conv(conv) => Some(conv),
        _ => None,
    }
}

/// True when others than `second`, or whoever runs the network, read what `first` makes.
fn kept(lowering: &Lowering, first: usize, second: usize) -> bool {
    let made = lowering.layers[first].outputs[0].buffer;
    let others = lowering.layers.iter().enumerate().filter(|&(i, _)| i != second);
    let read = others.flat_map(|(_, l)| l.views());
    read.chain(&lowering.outputs).any(|view| view.buffer == made)
}

/// Convolutions of which the second reads the first's result as its x, and nothing else of it.
fn neighbours(lowering: &Lowering) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    for (first, a) in lowering.layers.iter().enumerate().filter(|(_, l)| conv(l).is_some()) {
        let made = &a.outputs[0];
        for (second, b) in lowering.layers.iter().enumerate().skip(first + 1) {
            let mut read = b.views();
            let (Some(_), Some(x)) = (conv(b), read.next()) else { continue };
            let same = (x.buffer, x.offset, &x.strides, &x.shape)
                == (made.buffer, made.offset, &made.strides, &made.shape);
            // Results that lie in one another's gaps are no two results for the references.
            let apart = b.outputs[0].buffer != made.buffer;
            if same && apart && read.all(|view| view.buffer != made.buffer) {
                out.push((first, second));
            }
        }
    }
    out
}

/// The layers that can be joined, in their order. A layer may be in several.
pub fn possible(lowering: &Lowering) -> Vec<Join> {
    let neighbours = neighbours(lowering);
    let conv = |i: usize| conv(&lowering.layers[i]).expect("neighbours are convolutions");
    let mut out = Vec::new();
    for &(a, b) in &neighbours {
        let keep = kept(lowering, a, b);
        if let Some(layer) = ConvPairLayer::new(conv(a), conv(b), keep) {
            out.push(Join { members: vec![a, b], layer: Layer::ConvPair(Box::new(layer)), keep });
        }
        for &(_, c) in neighbours.iter().filter(|n| n.0 == b && !keep) {
            let keep = kept(lowering, b, c);
            if let Some(layer) = ConvChainLayer::new(conv(a), conv(b), conv(c), keep) {
                out.push(Join {
                    members: vec![a, b, c],
                    layer: Layer::ConvChain(Box::new(layer)),
                    keep,
                });
            }
        }
    }
    out
}

impl Join {
    /// Where the joined layer stands: what the last but one reads is there, and nobody has read
    /// what it makes.
    fn place(&self) -> usize {
        self.members[self.members.len() - 2]
    }

    fn members<'l>(&self, lowering: &'l Lowering) -> impl Iterator<Item = &'l Lowered> {
        self.members.iter().map(|&i| &lowering.layers[i])
    }
}

/// Joined layers as one.
fn lowered(lowering: &Lowering, join: &Join) -> Lowered {
    let members = || join.members(lowering);
    let last = members().last().expect("there are members");
    let between = lowering.layers[join.place()].outputs.iter().filter(|_| join.keep);
    // Of those behind the first what they read beside x.
    let operands = members().enumerate().flat_map(|(i, l)| l.operands.iter().skip(i.min(1)));
    Lowered {
        name: name(lowering, join),
        op: last.op,
        layer: join.layer.clone(),
        operands: operands.cloned().collect(),
        outputs: last.outputs.iter().chain(between).cloned().collect(),
        constants: members().flat_map(|l| &l.constants).copied().collect(),
        flops: members().map(|l| l.flops).sum(),
    }
}

/// The lowering with layers joined; no layer is in two of the joins.
pub fn join(lowering: &Lowering, joins: &[&Join]) -> Lowering {
    let mut layers = Vec::with_capacity(lowering.layers.len());
    let mut gone: HashSet<BufferId> = HashSet::new();
    for (i, layer) in lowering.layers.iter().enumerate() {
        let Some(join) = joins.iter().find(|j| j.members.contains(&i)) else {
            layers.push(layer.clone());
            continue;
        };
        if join.place() == i {
            layers.push(lowered(lowering, join));
        }
        let stays = join.members.last() == Some(&i) || (join.place() == i && join.keep);
        if !stays {
            gone.insert(layer.outputs[0].buffer);
        }
    }
    let values = lowering.values.iter().filter(|(_, view)| !gone.contains(&view.buffer));
    Lowering { layers, values: values.cloned().collect(), ..lowering.clone() }
}

/// Every layer that timing may choose from: the lowering's own, and what can be joined.
pub fn layers_and_joins(lowering: &Lowering) -> Vec<Layer> {
    let single = lowering.layers.iter().map(|l| l.layer.clone());
    single.chain(possible(lowering).into_iter().map(|j| j.layer)).collect()
}

fn names(lowering: &Lowering, join: &Join) -> Names {
    join.members(lowering).map(|l| l.name.clone()).collect()
}

/// What joined layers are called as one.
fn name(lowering: &Lowering, join: &Join) -> String {
    names(lowering, join).join(" + ")
}

/// The lowering with the layers of these names joined; `None` where some cannot be.
pub fn join_named(lowering: &Lowering, wanted: &[Names]) -> Option<Lowering> {
    let wanted: Vec<String> = wanted.iter().map(|n| n.join(" + ")).collect();
    join_layers(lowering, &wanted.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The lowering with those joined that are called so as one; `None` where some cannot be.
pub fn join_layers(lowering: &Lowering, wanted: &[&str]) -> Option<Lowering> {
    let possible = possible(lowering);
    let find = |n: &&str| possible.iter().find(|j| name(lowering, j) == **n);
    let joins: Vec<&Join> = wanted.iter().map(find).collect::<Option<_>>()?;
    let mut used = HashSet::new();
    let apart = joins.iter().flat_map(|j| &j.members).all(|i| used.insert(i));
    apart.then(|| join(lowering, &joins))
}

#[cfg(test)]
mod tests;
