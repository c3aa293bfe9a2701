use super::*;
use crate::reference::{load_at, store};
use crate::{Family, PermuteLayer};
use tobiuo_ops::Activation;

fn memory(values: &[f64], dtype: DType) -> Vec<u8> {
    let mut out = vec![0; values.len() * dtype.size()];
    values.iter().enumerate().for_each(|(i, &v)| store(&mut out, dtype, i, v));
    out
}

/// Runs a reference over memory that is exactly as long as the extents say; every output
/// element starts as 77.
fn run(family: &dyn Family, dtype: DType, inputs: &[Vec<u8>], constants: &[Vec<u8>]) -> Vec<f64> {
    let extents = family.extents();
    let cut = |parts: &[Vec<u8>], lens: &[usize]| -> Vec<Vec<u8>> {
        assert_eq!(parts.len(), lens.len());
        parts.iter().zip(lens).map(|(p, &n)| p[..n].to_vec()).collect()
    };
    let (inputs, constants) = (cut(inputs, &extents.inputs), cut(constants, &extents.constants));
    let inputs: Vec<&[u8]> = inputs.iter().map(|v| &v[..]).collect();
    let constants: Vec<&[u8]> = constants.iter().map(|v| &v[..]).collect();
    let count = extents.outputs[0] / dtype.size();
    let mut outputs = vec![memory(&vec![77.0; count], dtype)];
    family.reference(&inputs, &constants, &mut outputs);
    (0..count).map(|i| load_at(&outputs[0], dtype, i)).collect()
}

fn pool(average: Option<bool>) -> PoolLayer {
    PoolLayer {
        dtype: DType::F32,
        batch: 1,
        input: [2, 3],
        output: [2, 2],
        channels: 1,
        x_pitch: 1,
        y_pitch: 2,
        kernel: [2, 2],
        strides: [1, 2],
        pads: [0, 1, 1, 1],
        dilations: [1, 1],
        average,
        mean: None,
    }
}

#[test]
fn pools_count_what_they_are_told_to() {
    let x = [memory(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], DType::F32)];
    let run = |average| run(&pool(average), DType::F32, &x, &[]);
    // Windows begin one column to the left of the picture; gaps between pixels stay.
    assert_eq!(run(None), [4.0, 77.0, 6.0, 77.0, 4.0, 77.0, 6.0]);
    assert_eq!(run(Some(false)), [2.5, 77.0, 4.0, 77.0, 4.0, 77.0, 5.5]);
    assert_eq!(run(Some(true)), [1.25, 77.0, 4.0, 77.0, 1.0, 77.0, 2.75]);
}

#[test]
fn global_pools_take_all_pixels() {
    let layer = |max| GlobalPoolLayer {
        dtype: DType::F16,
        batch: 2,
        pixels: 2,
        channels: 2,
        x_pitch: 3,
        y_pitch: 2,
        max,
        mean: None,
    };
    let x = [1.0, -2.0, 9.0, 3.0, -4.0, 9.0, 5.0, -6.0, 9.0, 7.0, -8.0, 9.0];
    let x = [memory(&x, DType::F16)];
    assert_eq!(run(&layer(false), DType::F16, &x, &[]), [2.0, -3.0, 6.0, -7.0]);
    assert_eq!(run(&layer(true), DType::F16, &x, &[]), [3.0, -2.0, 7.0, -6.0]);
}

#[test]
fn rows_are_shared_and_padding_channels_zero() {
    let layer = ElementwiseLayer {
        dtype: DType::F32,
        pixels: 2,
        channels: 3,
        valid: 2,
        a_pitch: 3,
        b_pitch: 0,
        y_pitch: 4,
        op: ElementwiseOp::Sub,
        activation: Some(Activation::Relu),
    };
    let a = memory(&[5.0, 6.0, f64::NAN, 7.0, 8.0, f64::NAN], DType::F32);
    let b = memory(&[6.0, 4.0, 0.0], DType::F32);
    assert_eq!(run(&layer, DType::F32, &[a, b], &[]), [0.0, 2.0, 0.0, 77.0, 1.0, 4.0, 0.0]);
}

#[test]
fn resampling_goes_by_the_tables() {
    let layer = |linear| ResizeLayer {
        dtype: DType::F32,
        batch: 1,
        input: [1, 2],
        output: [1, 3],
        channels: 1,
        x_pitch: 2,
        y_pitch: 1,
        linear,
    };
    let x = [memory(&[10.0, 0.0, 20.0], DType::F32)];
    let integers = |v: &[f64]| memory(v, DType::I32);
    let nearest = [integers(&[0.0]), integers(&[1.0, 0.0, 1.0])];
    assert_eq!(run(&layer(false), DType::F32, &x, &nearest), [20.0, 10.0, 20.0]);
    let linear = [
        integers(&[0.0, 0.0]),
        integers(&[0.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
        memory(&[0.0], DType::F32),
        memory(&[0.25, 0.5, 0.75], DType::F32),
    ];
    assert_eq!(run(&layer(true), DType::F32, &x, &linear), [12.5, 15.0, 20.0]);
}

#[test]
fn copies_walk_backwards_and_pad() {
    let layer = PermuteLayer {
        from: DType::F32,
        to: DType::F16,
        dims: vec![2, 3],
        x_offset: 1,
        x_strides: vec![-1, 2],
        y_strides: vec![4, 1],
        valid: Some((1, 2)),
    };
    let x = [memory(&[1.0, 2.0, 3.0, 4.0], DType::F32)];
    assert_eq!(run(&layer, DType::F16, &x, &[]), [2.0, 4.0, 0.0, 77.0, 1.0, 3.0, 0.0]);
}
