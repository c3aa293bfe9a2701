//! What passes and the planner ask of an op beside its shapes.

use crate::{Fact, Op, Pool, PoolKind};

impl Op {
    /// True when output element `i` depends on element `i` of the first input alone (and on
    /// constants of the op): such an op may follow another one in place.
    pub fn is_elementwise_unary(&self) -> bool {
        matches!(self, Op::Activation(_) | Op::Unary(_) | Op::Cast { .. })
    }
}

/// The operands whose bytes output 0 may take over exactly: it has their type and as many
/// elements, and the kernels read what they overwrite before they overwrite it.
///
/// An operand qualifies only where it is not needed afterwards; that is the caller's to know.
/// `inputs` and `output` are facts that [`infer`](fn@crate::infer) accepted.
pub fn in_place_inputs(op: &Op, inputs: &[Fact], output: &Fact) -> Vec<usize> {
    let candidates: &[usize] = match op {
        Op::Conv(c) if c.residual => &[3],
        Op::QuantConv(q) if q.epilogue.residual.is_some() => &[4],
        Op::QuantGemm(q) if q.epilogue.residual.is_some() => &[4],
        Op::Activation(_)
        | Op::Unary(_)
        | Op::PRelu
        | Op::BatchNorm { .. }
        | Op::Reshape { .. }
        | Op::Softmax { .. }
        | Op::LayerNorm { .. }
        | Op::InstanceNorm { .. }
        | Op::Lookup => &[0],
        Op::Binary { .. } => &[0, 1],
        _ => &[],
    };
    // As many elements as the output means that the operand is not broadcast.
    let fits = |f: &Fact| f.numel() == output.numel() && f.dtype == output.dtype;
    candidates.iter().copied().filter(|&i| inputs.get(i).is_some_and(fits)).collect()
}

/// True for the op whose output is its input's bytes, whatever the shapes.
pub fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. })
}

/// The element of input 0 from which the output's elements follow one another unchanged, or
/// `None` when the op moves, repeats or computes anything.
///
/// Beside Reshape that is a Transpose whose axes longer than 1 keep their order, a Slice or a
/// cropping Pad that takes one contiguous run, an Expand or Tile that repeats nothing, a Cast
/// to the same type and a Concat of one tensor.
pub fn view_offset(op: &Op, inputs: &[Fact]) -> Option<usize> {
    let x = inputs.first()?;
    match op {
        Op::Reshape { .. } => Some(0),
        Op::Transpose { perm } => {
            let kept = perm.iter().filter(|&&p| x.shape.get(p).is_some_and(|&d| d > 1));
            kept.is_sorted().then_some(0)
        }
        Op::Expand { shape } => (shape.iter().product::<usize>() == x.numel()).then_some(0),
        Op::Tile { repeats } => {
            let once = |(&r, &d): (&usize, &usize)| r == 1 || (d == 0 && r > 0);
            repeats.iter().zip(&x.shape).all(once).then_some(0)
        }
        Op::Cast { to } => (*to == x.dtype).then_some(0),
        Op::Concat { .. } => (inputs.len() == 1).then_some(0),
        Op::Slice(s) => {
            let step_is_one = |i: usize| s.steps[i] == 1 || s.lens[i] <= 1;
            if !(0..s.lens.len()).all(step_is_one) {
                return None;
            }
            contiguous(&x.shape, |i| (s.starts[i], s.lens[i]))
        }
        Op::Pad(p) => {
            if p.begins.iter().chain(&p.ends).any(|&e| e > 0) {
                return None;
            }
            let part = |i: usize| {
                let begin = p.begins[i].unsigned_abs() as usize;
                let end = p.ends[i].unsigned_abs() as usize;
                (begin, x.shape[i] - begin - end)
            };
            contiguous(&x.shape, part)
        }
        _ => None,
    }
}

/// First element of a box of `shape` (start and length per axis), where it is one run.
fn contiguous(shape: &[usize], part: impl Fn(usize) -> (usize, usize)) -> Option<usize> {
    let (mut offset, mut stride) = (0, 1);
    // From the last axis: whole axes, then one part of an axis, then single elements.
    let mut whole = true;
    for i in (0..shape.len()).rev() {
        let (start, len) = part(i);
        if len == 0 {
            return Some(0);
        }
        if !whole && len != 1 {
            return None;
        }
        whole &= len == shape[i];
        offset += start * stride;
        stride *= shape[i];
    }
    Some(offset)
}

/// Floating-point operations of an op: twice the multiply-adds of convolutions and matrix
/// products, the window's elements for pools, one per input element for reductions and
/// normalisations, one per output element for other arithmetic, none for movement. Saturates.
///
/// `inputs` and `outputs` are facts that [`infer`](fn@crate::infer) accepted and returned.
pub fn flops(op: &Op, inputs: &[Fact], outputs: &[Fact]) -> u64 {
    let (Some(x), Some(y)) = (inputs.first(), outputs.first()) else { return 0 };
    let product = |factors: &[usize]| factors.iter().fold(1u64, |n, &f| n.saturating_mul(f as u64));
    let weight_per_filter =
        |i: usize| inputs.get(i).map_or(0, |w| product(w.shape.get(1..).unwrap_or(&[])));
    match op {
        Op::Conv(_) | Op::QuantConv(_) | Op::QuantGemm(_) => {
            (2 * y.numel() as u64).saturating_mul(weight_per_filter(1))
        }
        Op::ConvTranspose(_) => (2 * x.numel() as u64).saturating_mul(weight_per_filter(1)),
        Op::Gemm(g) => {
            let k = x.shape.get(usize::from(!g.trans_a)).copied().unwrap_or(0);
            product(&[2, y.numel(), k])
        }
        Op::MatMul => product(&[2, y.numel(), x.shape.last().copied().unwrap_or(0)]),
        Op::Pool(Pool { kind: PoolKind::Max | PoolKind::Average { .. }, kernel, .. }) => {
            (y.numel() as u64).saturating_mul(product(kernel))
        }
        Op::Lrn { size, .. } => product(&[2, y.numel(), *size]),
        Op::Reduce { .. } | Op::ArgReduce { .. } | Op::TopK { .. } => x.numel() as u64,
        Op::Softmax { .. } | Op::LayerNorm { .. } | Op::InstanceNorm { .. } => {
            product(&[5, y.numel()])
        }
        Op::BatchNorm { .. } => product(&[2, y.numel()]),
        Op::QuantPool(a) => (y.numel() as u64).saturating_mul(product(&a.pool.kernel)),
        Op::Activation(_)
        | Op::PRelu
        | Op::Unary(_)
        | Op::Binary { .. }
        | Op::Where
        | Op::Quantize { .. }
        | Op::Dequantize { .. }
        | Op::QuantBinary(_)
        | Op::Lookup => y.numel() as u64,
        Op::Resize(r) => {
            let taps = match r.mode {
                crate::ResizeMode::Nearest { .. } => 0,
                crate::ResizeMode::Linear { .. } => 2,
                crate::ResizeMode::Cubic { .. } => 4,
            };
            let axes = r.sizes.iter().zip(&x.shape).filter(|(a, b)| a != b).count();
            product(&[2, y.numel(), taps, axes])
        }
        _ => 0,
    }
}

/// Bytes of all inputs and outputs together: what an op reads and writes at least. Saturates.
pub fn bytes(inputs: &[Fact], outputs: &[Fact]) -> u64 {
    inputs.iter().chain(outputs).fold(0u64, |n, f| n.saturating_add(f.bytes() as u64))
}
