//! Layers whose operands lie in memory with any strides.

use tobiuo_ops::{Binary, Unary};
use tobiuo_tensor::DType;

use super::{Memory, Random, tolerance};
use crate::memory::each_index;
use crate::{Extents, Layer, MapArgument, MapFunction, MapLayer, MapStep, Strided};

pub(super) const INTEGERS: [DType; 4] = [DType::I64, DType::I32, DType::I8, DType::U8];

/// Up to `rank` axes of at most `most` elements together.
pub(super) fn dims(random: &mut Random, rank: usize, most: usize) -> Vec<usize> {
    let mut dims: Vec<usize> = Vec::new();
    for _ in 0..random.from_to(0, rank) {
        let room = (most / dims.iter().product::<usize>()).max(1);
        let side = random.pick(&[1, 3, 8, 16, 70, 300]).min(room);
        dims.push(random.from_to(1, side));
    }
    dims
}

/// An operand over a box: its axes in any order, at times with gaps, and where `input` at times
/// broadcast or walked backwards.
pub(super) fn strided(random: &mut Random, dims: &[usize], dtype: DType, input: bool) -> Strided {
    let mut order: Vec<usize> = (0..dims.len()).rev().collect();
    if random.once_in(2) {
        for i in (1..dims.len()).rev() {
            order.swap(i, random.from_to(0, i));
        }
    }
    let gaps = random.once_in(2);
    let mut out = Strided { dtype, offset: 0, strides: vec![0; dims.len()], aligned: true };
    let mut step = 1;
    for axis in order {
        if input && random.once_in(6) {
            continue;
        }
        out.strides[axis] = step;
        step *= dims[axis] as i64;
        if gaps && random.once_in(3) {
            let gap = step as usize + random.from_to(1, 9);
            step = gap.next_multiple_of(random.pick(&[1, 8])) as i64;
        }
        if input && random.once_in(12) {
            out.offset += out.strides[axis] as usize * (dims[axis] - 1);
            out.strides[axis] = -out.strides[axis];
        }
    }
    out
}

/// Random elements of an operand over a box, poison between them.
pub(super) fn fill(
    random: &mut Random,
    operand: &Strided,
    dims: &[usize],
    len: usize,
    range: (f32, f32),
) -> Vec<u8> {
    let mut at = Vec::new();
    each_index(dims, |i| at.push(operand.at(i)));
    at.sort_unstable();
    at.dedup();
    random.memory(len, operand.dtype, range, at)
}

/// A range in which integers and floats of every type do something.
pub(super) fn range(dtype: DType) -> (f32, f32) {
    match dtype {
        DType::Bool | DType::U8 => (0.0, 100.0),
        DType::I8 => (-100.0, 100.0),
        DType::I64 | DType::I32 => (-1000.0, 1000.0),
        _ => (-3.0, 3.0),
    }
}

fn float_step(random: &mut Random, steps: &[MapStep], inputs: usize) -> MapStep {
    use MapFunction::{Affine, PRelu};
    let last = match steps.len() {
        0 => MapArgument::Input(0),
        n => MapArgument::Step(n - 1),
    };
    let other = if random.once_in(3) {
        MapArgument::Float(random.float(-2.0, 2.0).to_bits())
    } else {
        MapArgument::Input(random.from_to(0, inputs - 1))
    };
    // Functions with steps are given exact values, so that no rounding decides.
    let exact = MapArgument::Input(random.from_to(0, inputs - 1));
    let (function, arguments) = match random.from_to(0, 7) {
        0 => (PRelu, vec![last, other]),
        1 => (Affine, vec![last, other, exact]),
        2 => {
            let u = random.pick(&[Unary::Sin, Unary::Cos, Unary::Abs, Unary::Neg]);
            (MapFunction::Unary(u), vec![last])
        }
        3 => {
            let stepped = [Unary::Floor, Unary::Ceil, Unary::Round, Unary::Sign, Unary::Exp];
            (MapFunction::Unary(random.pick(&stepped)), vec![exact])
        }
        4 => match random.activation() {
            Some(a) => (MapFunction::Activation(a), vec![last]),
            None => (MapFunction::Cast, vec![last]),
        },
        _ => {
            let kinds = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Min, Binary::Max];
            (MapFunction::Binary(random.pick(&kinds)), vec![last, other])
        }
    };
    MapStep { function, arguments, dtype: DType::F32 }
}

fn integer_step(random: &mut Random, dtype: DType, inputs: usize) -> MapStep {
    use Binary::*;
    let argument = |random: &mut Random| MapArgument::Input(random.from_to(0, inputs - 1));
    let a = argument(random);
    if random.once_in(4) {
        let u = random.pick(&[Unary::Abs, Unary::Sign]);
        return MapStep { function: MapFunction::Unary(u), arguments: vec![a], dtype };
    }
    let b = match random.once_in(3) {
        true => MapArgument::Integer(random.from_to(0, 5) as i64),
        false => argument(random),
    };
    let kind = random.pick(&[
        Add,
        Sub,
        Mul,
        Div,
        Pow,
        Min,
        Max,
        Mod,
        FMod,
        Equal,
        Less,
        LessOrEqual,
        Greater,
    ]);
    let dtype = if kind.is_comparison() { DType::Bool } else { dtype };
    MapStep { function: MapFunction::Binary(kind), arguments: vec![a, b], dtype }
}

pub(super) fn map(random: &mut Random) -> Layer {
    let dims = dims(random, 5, 100_000);
    let count = random.from_to(1, 3);
    let floats = random.once_in(2);
    let integer = random.pick(&INTEGERS);
    let inputs: Vec<Strided> = (0..count)
        .map(|_| {
            let dtype = if floats { random.pick(&[DType::F16, DType::F32]) } else { integer };
            strided(random, &dims, dtype, true)
        })
        .collect();
    let mut steps = Vec::new();
    if floats {
        for _ in 0..random.from_to(1, 4) {
            steps.push(float_step(random, &steps, count));
        }
    } else {
        steps.push(integer_step(random, integer, count));
    }
    let mut dtype = steps[steps.len() - 1].dtype;
    if !floats && random.once_in(3) {
        let last = MapArgument::Step(steps.len() - 1);
        dtype = random.pick(&[DType::F32, DType::I32, DType::I8, DType::U8, DType::Bool]);
        steps.push(MapStep { function: MapFunction::Cast, arguments: vec![last], dtype });
    }
    if dtype == DType::F32 {
        dtype = random.pick(&[DType::F16, DType::F32]);
    }
    let output = strided(random, &dims, dtype, false);
    let axis = random.from_to(0, dims.len().max(1) - 1);
    let valid = (!dims.is_empty() && dims[axis] > 1 && random.once_in(4))
        .then(|| (axis, random.from_to(1, dims[axis] - 1)));
    Layer::Map(MapLayer { dims, valid, inputs, output, steps })
}

pub(super) fn map_memory(l: &MapLayer, e: Extents, random: &mut Random) -> Memory {
    let mut dims = l.dims.clone();
    if let Some((axis, n)) = l.valid {
        dims[axis] = dims[axis].min(n);
    }
    let inputs = l.inputs.iter().zip(&e.inputs);
    let inputs = inputs.map(|(i, &len)| fill(random, i, &dims, len, range(i.dtype))).collect();
    Memory {
        inputs,
        constants: vec![],
        outputs: vec![l.output.dtype],
        tolerance: tolerance(l.output.dtype),
    }
}
