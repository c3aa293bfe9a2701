//! Indexing, padding, resampling, windows of channels.

use tobiuo_tensor::DType;

use super::general::{dims, fill, range, strided};
use super::{Memory, Random, tolerance};
use crate::{Extents, GatherLayer, Layer, LrnLayer, RemapLayer, ResampleLayer, Strided};

fn float(random: &mut Random) -> DType {
    random.pick(&[DType::F16, DType::F32])
}

fn any(random: &mut Random) -> DType {
    use DType::*;
    random.pick(&[F16, F32, F16, F32, I64, I32, I8, U8, Bool])
}

pub(super) fn gather(random: &mut Random) -> Layer {
    let dims = dims(random, 4, 30_000);
    let length = random.from_to(1, 100);
    let dtype = any(random);
    // x has an axis more: the one that is indexed.
    let with_axis = [dims.clone(), vec![length]].concat();
    let mut x = strided(random, &with_axis, dtype, true);
    let step = x.strides.pop().expect("the axis");
    let index = random.pick(&[DType::I64, DType::I32]);
    let mut indices = strided(random, &dims, index, true);
    if random.once_in(2) && !dims.is_empty() {
        let last = dims.len() - 1;
        if indices.strides[last] < 0 {
            indices.offset -= indices.strides[last].unsigned_abs() as usize * (dims[last] - 1);
        }
        indices.strides[last] = 0;
    }
    let y = strided(random, &dims, dtype, false);
    Layer::Gather(GatherLayer { dims, x, length, step, indices, y })
}

pub(super) fn gather_memory(l: &GatherLayer, e: Extents, random: &mut Random) -> Memory {
    let with_axis = [l.dims.clone(), vec![l.length]].concat();
    let mut x = l.x.clone();
    x.strides.push(l.step);
    let n = l.length as f32;
    // Some out of range on either side.
    let indices = fill(random, &l.indices, &l.dims, e.inputs[1], (-n - 2.0, n + 2.0));
    Memory {
        inputs: vec![fill(random, &x, &with_axis, e.inputs[0], range(x.dtype)), indices],
        constants: vec![],
        outputs: vec![l.y.dtype],
        tolerance: 0.0,
    }
}

pub(super) fn remap(random: &mut Random) -> Layer {
    let to = dims(random, 4, 30_000);
    let mut from = to.clone();
    let tables: Vec<usize> = (0..to.len()).filter(|_| random.once_in(2)).collect();
    tables.iter().for_each(|&axis| from[axis] = random.from_to(1, 2 * to[axis]));
    let dtype = any(random);
    let y_dtype = if dtype.is_float() { float(random) } else { dtype };
    let x = strided(random, &from, dtype, true);
    let y = strided(random, &to, y_dtype, false);
    let fixed = random.pick(&[0.0, 1.0, -3.5, 77.0]);
    Layer::Remap(RemapLayer { dims: to, from, tables, x, y, fixed })
}

pub(super) fn remap_memory(l: &RemapLayer, e: Extents, random: &mut Random) -> Memory {
    let table = |axis: usize, random: &mut Random| {
        let entry = |_| random.from_to(0, l.from[axis]) as i32 - 1;
        (0..l.dims[axis]).map(entry).flat_map(i32::to_le_bytes).collect()
    };
    Memory {
        inputs: vec![fill(random, &l.x, &l.from, e.inputs[0], range(l.x.dtype))],
        constants: l.tables.iter().map(|&axis| table(axis, random)).collect(),
        outputs: vec![l.y.dtype],
        tolerance: 0.0,
    }
}

/// An operand whose axes are never broadcast.
fn whole(random: &mut Random, dims: &[usize], dtype: DType) -> Strided {
    strided(random, dims, dtype, false)
}

pub(super) fn resample(random: &mut Random) -> Layer {
    let mut to = dims(random, 4, 10_000);
    to.push(random.from_to(1, 20));
    let axis = random.from_to(0, to.len() - 1);
    let length = random.from_to(1, 30);
    let mut from = to.clone();
    from[axis] = length;
    let (a, b) = (float(random), float(random));
    Layer::Resample(ResampleLayer {
        x: whole(random, &from, a),
        y: whole(random, &to, b),
        taps: random.from_to(1, length.min(8)),
        dims: to,
        axis,
        length,
        extrapolation: -1.5,
    })
}

pub(super) fn resample_memory(l: &ResampleLayer, e: Extents, random: &mut Random) -> Memory {
    let places = l.dims[l.axis];
    let mut from = l.dims.clone();
    from[l.axis] = l.length;
    let start = |_| match random.once_in(9) {
        true => -1,
        false => random.from_to(0, l.length - l.taps) as i32,
    };
    let starts = (0..places).map(start).flat_map(i32::to_le_bytes).collect();
    let weights = random.memory(e.constants[1], DType::F32, (0.1, 1.0), 0..places * l.taps);
    Memory {
        inputs: vec![fill(random, &l.x, &from, e.inputs[0], (-0.5, 1.5))],
        constants: vec![starts, weights],
        outputs: vec![l.y.dtype],
        tolerance: tolerance(l.y.dtype),
    }
}

pub(super) fn lrn(random: &mut Random) -> Layer {
    let mut shape = vec![random.from_to(1, 3), random.from_to(1, 70)];
    shape.extend(dims(random, 2, 200));
    let (a, b) = (float(random), float(random));
    Layer::Lrn(LrnLayer {
        x: whole(random, &shape, a),
        y: whole(random, &shape, b),
        dims: shape,
        size: random.from_to(1, 9),
        alpha: 0.1,
        beta: random.pick(&[0.75, 0.5, 0.9]),
        bias: random.pick(&[1.0, 2.0]),
    })
}

pub(super) fn lrn_memory(l: &LrnLayer, e: Extents, random: &mut Random) -> Memory {
    Memory {
        inputs: vec![fill(random, &l.x, &l.dims, e.inputs[0], (-3.0, 3.0))],
        constants: vec![],
        outputs: vec![l.y.dtype],
        tolerance: tolerance(l.y.dtype),
    }
}
