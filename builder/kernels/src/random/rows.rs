//! Reductions, softmax, normalisation, the place of the largest, the k largest.

use tobiuo_ops::Reduce;
use tobiuo_tensor::DType;

use super::general::{INTEGERS, dims, fill, range, strided};
use super::{Memory, Random, tolerance};
use crate::{
    ArgReduceLayer, CountedTensor, Extents, HISTOGRAM_TENSORS, HistogramLayer, HistogramStep,
    Layer, NormLayer, ReduceLayer, SoftmaxLayer, TopKLayer,
};

fn float(random: &mut Random) -> DType {
    random.pick(&[DType::F16, DType::F32])
}

/// Kept axes, and the extents of a row.
fn shape(random: &mut Random, rank: usize) -> (Vec<usize>, Vec<usize>) {
    let row = dims(random, rank, 3000);
    let most = 60_000 / row.iter().product::<usize>();
    (dims(random, 3, most.clamp(1, 2000)), row)
}

pub(super) fn reduce(random: &mut Random) -> Layer {
    use Reduce::*;
    let (kept, reduced) = shape(random, 3);
    let all = [kept.clone(), reduced.clone()].concat();
    let (kind, from, to) = match random.from_to(0, 3) {
        0 => {
            let dtype = random.pick(&[DType::I64, DType::I32]);
            (random.pick(&[Mean, Sum, Max, Min, Prod, L1, SumSquare]), dtype, dtype)
        }
        1 => {
            let dtype = random.pick(&[DType::I8, DType::U8, DType::Bool]);
            (random.pick(&[Max, Min]), dtype, dtype)
        }
        _ => {
            let kinds = [Mean, Sum, Max, Min, Prod, L1, L2, SumSquare, LogSum, LogSumExp];
            (random.pick(&kinds), float(random), float(random))
        }
    };
    let x = strided(random, &all, from, true);
    let y = strided(random, &kept, to, false);
    Layer::Reduce(ReduceLayer { kind, kept, reduced, x, y })
}

pub(super) fn reduce_memory(l: &ReduceLayer, e: Extents, random: &mut Random) -> Memory {
    let all = [l.kept.clone(), l.reduced.clone()].concat();
    let count = l.reduced.iter().product::<usize>() as f32;
    // Sums away from zero and inside f16, products near one.
    let range = match l.kind {
        _ if !l.x.dtype.is_float() => range(l.x.dtype),
        Reduce::Prod => (1.0 - 1.0 / count, 1.0 + 1.0 / count),
        Reduce::LogSum => (2.0, 4.0),
        Reduce::LogSumExp => (1.0, 4.0),
        _ => (-0.5, 1.5),
    };
    Memory {
        inputs: vec![fill(random, &l.x, &all, e.inputs[0], range)],
        constants: vec![],
        outputs: vec![l.y.dtype],
        tolerance: tolerance(l.y.dtype),
    }
}

pub(super) fn softmax(random: &mut Random) -> Layer {
    let axis = random.pick(&[1, 16, 80, 600, 3000]);
    let axis = random.from_to(1, axis);
    let kept = dims(random, 3, (60_000 / axis).min(2000));
    let all = [kept.clone(), vec![axis]].concat();
    let (from, to) = (float(random), float(random));
    let x = strided(random, &all, from, true);
    let y = strided(random, &all, to, false);
    Layer::Softmax(SoftmaxLayer { kept, axis, x, y, log: random.once_in(3) })
}

pub(super) fn softmax_memory(l: &SoftmaxLayer, e: Extents, random: &mut Random) -> Memory {
    let all = [l.kept.clone(), vec![l.axis]].concat();
    Memory {
        inputs: vec![fill(random, &l.x, &all, e.inputs[0], (-5.0, 5.0))],
        constants: vec![],
        outputs: vec![l.y.dtype],
        tolerance: tolerance(l.y.dtype),
    }
}

pub(super) fn norm(random: &mut Random) -> Layer {
    let (kept, row) = shape(random, 3);
    let all = [kept.clone(), row.clone()].concat();
    let mut operand = |input| {
        let dtype = float(random);
        strided(random, &all, dtype, input)
    };
    let (x, mut scale, mut bias, y) = (operand(true), operand(true), operand(true), operand(false));
    // Layer normalisation has one factor per place of a row, instance normalisation per row.
    for factor in [&mut scale, &mut bias] {
        let shared = if kept.len() % 2 == 0 { 0..kept.len() } else { kept.len()..all.len() };
        factor.strides[shared].fill(0);
        factor.offset = 0;
        factor.strides.iter_mut().for_each(|s| *s = s.abs());
    }
    Layer::Norm(NormLayer { kept, row, x, scale, bias, y, epsilon: 1e-3 })
}

pub(super) fn norm_memory(l: &NormLayer, e: Extents, random: &mut Random) -> Memory {
    let all = [l.kept.clone(), l.row.clone()].concat();
    Memory {
        inputs: vec![
            fill(random, &l.x, &all, e.inputs[0], (-2.0, 3.0)),
            fill(random, &l.scale, &all, e.inputs[1], (0.5, 1.5)),
            fill(random, &l.bias, &all, e.inputs[2], (-1.0, 1.0)),
        ],
        constants: vec![],
        outputs: vec![l.y.dtype],
        tolerance: tolerance(l.y.dtype),
    }
}

fn any(random: &mut Random) -> DType {
    if random.once_in(2) { float(random) } else { random.pick(&INTEGERS) }
}

/// Whole numbers, so that some are equal.
fn ties(random: &mut Random, dtype: DType) -> (f32, f32) {
    if random.once_in(2) { range(dtype) } else { (1.0, 1.05) }
}

pub(super) fn arg_reduce(random: &mut Random) -> Layer {
    let most = random.pick(&[1, 16, 80, 600, 3000]);
    let axis = random.from_to(1, most);
    let kept = dims(random, 3, (60_000 / axis).min(2000));
    let all = [kept.clone(), vec![axis]].concat();
    let dtype = any(random);
    let x = strided(random, &all, dtype, true);
    let y = strided(random, &kept, DType::I64, false);
    let (min, select_last) = (random.once_in(2), random.once_in(2));
    Layer::ArgReduce(ArgReduceLayer { kept, axis, x, y, min, select_last })
}

pub(super) fn arg_reduce_memory(l: &ArgReduceLayer, e: Extents, random: &mut Random) -> Memory {
    let all = [l.kept.clone(), vec![l.axis]].concat();
    let range = ties(random, l.x.dtype);
    Memory {
        inputs: vec![fill(random, &l.x, &all, e.inputs[0], range)],
        constants: vec![],
        outputs: vec![DType::I64],
        tolerance: 0.0,
    }
}

pub(super) fn topk(random: &mut Random) -> Layer {
    let most = random.pick(&[1, 16, 300, 5000]);
    let axis = random.from_to(1, most);
    let k = if random.once_in(3) { axis } else { random.from_to(1, axis) };
    let kept = dims(random, 2, (20_000 / axis).clamp(1, 200));
    let dtype = any(random);
    let along = |n: usize| [kept.clone(), vec![n]].concat();
    let x = strided(random, &along(axis), dtype, true);
    let values = strided(random, &along(k), dtype, false);
    let indices = strided(random, &along(k), DType::I64, false);
    let largest = random.once_in(2);
    Layer::TopK(TopKLayer { kept, axis, k, x, values, indices, largest })
}

pub(super) fn topk_memory(l: &TopKLayer, e: Extents, random: &mut Random) -> Memory {
    let all = [l.kept.clone(), vec![l.axis]].concat();
    let range = ties(random, l.x.dtype);
    Memory {
        inputs: vec![fill(random, &l.x, &all, e.inputs[0], range)],
        constants: vec![],
        outputs: vec![l.x.dtype, DType::I64],
        tolerance: 0.0,
    }
}

pub(super) fn histogram(random: &mut Random) -> Layer {
    let tensor = |random: &mut Random| {
        let dims = dims(random, 4, 200_000);
        let x = strided(random, &dims, DType::F32, true);
        CountedTensor { dims, x }
    };
    let count = random.from_to(1, HISTOGRAM_TENSORS);
    let tensors = (0..count).map(|_| tensor(random)).collect();
    let step = random.pick(&[HistogramStep::Extremes, HistogramStep::Count]);
    Layer::Histogram(HistogramLayer { step, tensors })
}

/// Numbers with zeros, and some that are none, among them.
pub(super) fn histogram_memory(l: &HistogramLayer, e: Extents, random: &mut Random) -> Memory {
    let mut inputs = Vec::new();
    for (tensor, &len) in l.tensors.iter().zip(&e.inputs) {
        let low = random.pick(&[-3.0, 0.0, 0.5]);
        let mut bytes = fill(random, &tensor.x, &tensor.dims, len, (low, 100.0));
        for element in bytes.chunks_exact_mut(4) {
            match random.from_to(0, 19) {
                0..6 => element.copy_from_slice(&random.pick(&[0.0f32, -0.0]).to_le_bytes()),
                6 => element.copy_from_slice(&f32::NEG_INFINITY.to_le_bytes()),
                _ => {}
            }
        }
        inputs.push(bytes);
    }
    let mut outputs = vec![DType::F32, DType::I32];
    if l.step == HistogramStep::Count {
        let first = HistogramLayer { step: HistogramStep::Extremes, ..l.clone() };
        let first = Layer::Histogram(first);
        let mut found: Vec<Vec<u8>> = first.extents().outputs.iter().map(|&n| vec![0; n]).collect();
        let all: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        first.reference(&all, &[], &mut found);
        inputs.push(found.swap_remove(0));
        outputs = vec![DType::I32];
    }
    Memory { inputs, constants: vec![], outputs, tolerance: 0.0 }
}
