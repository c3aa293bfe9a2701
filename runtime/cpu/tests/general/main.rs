//! The kernels of element-wise, movement, reduction, normalisation and resampling operators
//! against their plain forms and against the onnx package.

mod generate;
mod golden;
mod reference;
mod reference_resize;

use proptest::prelude::*;
use tobiuo_cpu::{Inputs, prepare};
use tobiuo_ops::{Coordinates, Fact, NearestRounding, Op, Resize, ResizeMode};
use tobiuo_ops::{in_place_inputs, infer};
use tobiuo_tensor::{DType, Tensor, TensorData, TensorView, TensorViewMut, f16};

fn fact(t: &Tensor) -> Fact {
    Fact::new(t.dtype(), t.shape())
}

/// A tensor of garbage.
fn poisoned(f: &Fact) -> Tensor {
    let n = f.numel();
    let data = match f.dtype {
        DType::F32 => TensorData::F32(vec![f32::NAN; n]),
        DType::F16 => TensorData::F16(vec![f16::NAN; n]),
        DType::I64 => TensorData::I64(vec![-0x5A5A_5A5A; n]),
        DType::I32 => TensorData::I32(vec![-0x5A5A_5A5A; n]),
        DType::I8 => TensorData::I8(vec![-91; n]),
        DType::U8 => TensorData::U8(vec![165; n]),
        DType::Bool => TensorData::Bool(vec![165; n]),
        other => unimplemented!("{other}"),
    };
    Tensor::new(f.shape.clone(), data)
}

/// Runs an op's kernel on poisoned memory; `overwritten` is an operand that the output takes
/// the place of.
fn run(op: &Op, inputs: &[&Tensor], outs: &[Fact], overwritten: Option<usize>) -> Vec<Tensor> {
    let facts: Vec<Fact> = inputs.iter().map(|t| fact(t)).collect();
    let no_constants: Vec<Option<TensorView<'_>>> = vec![None; inputs.len()];
    let kernel = prepare(op, &facts, &no_constants).unwrap();
    let mut results: Vec<Tensor> = outs.iter().map(poisoned).collect();
    if let Some(i) = overwritten {
        results[0] = inputs[i].clone().reshaped(outs[0].shape.clone()).unwrap();
    }
    let mut scratch = vec![0xA5u8; kernel.scratch_bytes() + 64];
    let aligned = scratch.as_ptr().align_offset(64);
    let mut views: Vec<TensorViewMut<'_>> = results.iter_mut().map(Tensor::view_mut).collect();
    let operand = |i: usize| (Some(i) != overwritten).then(|| inputs[i].view());
    kernel.run(Inputs::new(inputs.len(), &operand), &mut views, &mut scratch[aligned..]);
    drop(views);
    results
}

fn compare(op: &Op, inputs: &[&Tensor], got: &Tensor, expected: &[f64], how: &str) {
    let shapes: Vec<Fact> = inputs.iter().map(|t| fact(t)).collect();
    let got = got.to_f64();
    assert_eq!(got.len(), expected.len());
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        let close = g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= 2e-5 * (1.0 + e.abs());
        assert!(close, "{op:?} of {shapes:?} ({how}): element {i} is {g}, expected {e}");
    }
}

/// The kernel against the plain form, with poisoned outputs and in place.
fn check(op: &Op, inputs: &[&Tensor]) {
    let facts: Vec<Fact> = inputs.iter().map(|t| fact(t)).collect();
    let outs = infer(op, &facts).unwrap_or_else(|e| panic!("{op:?} of {facts:?}: {e}"));
    let expected = reference::evaluate(op, inputs, &outs);
    let got = run(op, inputs, &outs, None);
    for (g, e) in got.iter().zip(&expected) {
        assert_eq!(g.shape(), e.shape);
        compare(op, inputs, g, &e.data, "own output");
    }
    for i in in_place_inputs(op, &facts, &outs[0]) {
        let got = run(op, inputs, &outs, Some(i));
        compare(op, inputs, &got[0], &expected[0].data, &format!("in place of operand {i}"));
    }
}

/// Half of five elements: both coordinates are whole numbers, where terms are added in the order
/// of the onnx package's reference implementation (`onnx/reference/ops/op_resize.py`).
#[test]
fn a_coordinate_on_an_element_is_not_beside_it() {
    let x = Tensor::f32([5], vec![0.0, 1.0, 2.0, 3.0, 4.0]);
    for rounding in [NearestRounding::Floor, NearestRounding::Ceil] {
        let op = Op::Resize(Resize {
            sizes: vec![2],
            scales: vec![0.5],
            mode: ResizeMode::Nearest { rounding },
            coordinates: Coordinates::HalfPixelSymmetric,
        });
        let got = run(&op, &[&x], &[Fact::new(DType::F32, [2])], None);
        assert_eq!(got[0].to_f64(), [1.0, 3.0], "{rounding:?}");
    }
}

macro_rules! properties {
    ($($name:ident: $cases:expr, $generate:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(50))]
            $(
                #[test]
                fn $name(seed in any::<u64>()) {
                    let mut random = generate::Random::new(seed);
                    for _ in 0..$cases {
                        let (op, inputs) = $generate(&mut random);
                        check(&op, &inputs.iter().collect::<Vec<_>>());
                    }
                }
            )*
        }
    };
}

properties! {
    unary: 4, generate::unary;
    binary: 10, generate::binary;
    select: 4, generate::select;
    softmax: 4, generate::softmax;
    concat: 4, generate::concat;
    slice: 8, generate::slice;
    gather: 6, generate::gather;
    reshape: 2, generate::reshape;
    transpose: 8, generate::transpose;
    expand: 6, generate::expand;
    tile: 6, generate::tile;
    pad: 10, generate::pad;
    resize: 6, generate::resize;
    reduce: 6, generate::reduce;
    arg_reduce: 6, generate::arg_reduce;
    top_k: 6, generate::top_k;
    cast: 8, generate::cast;
    layer_norm: 4, generate::layer_norm;
    instance_norm: 4, generate::instance_norm;
    lrn: 4, generate::lrn;
}

/// Large enough that the work is shared between threads and that every blocked loop has full
/// and partial blocks.
#[test]
fn large_tensors() {
    for (op, inputs) in generate::large() {
        check(&op, &inputs.iter().collect::<Vec<_>>());
    }
}

/// `x * x` where both operands are the output's bytes.
#[test]
fn both_operands_in_place() {
    let op = Op::Binary { kind: tobiuo_ops::Binary::Mul, activation: None };
    let mut x = Tensor::f32([3], vec![1.0, -2.0, 3.0]);
    let f = fact(&x);
    let kernel = prepare(&op, &[f.clone(), f], &[None, None]).unwrap();
    kernel.run(Inputs::new(2, &|_| None), &mut [x.view_mut()], &mut []);
    assert_eq!(x, Tensor::f32([3], vec![1.0, 4.0, 9.0]));
}

#[test]
fn not_a_number_is_kept() {
    use tobiuo_ops::{Binary, Reduce};
    let nan = f32::NAN;
    let x = Tensor::f32([2, 40], (0..80).map(|i| if i == 17 { nan } else { i as f32 }).collect());
    let zero = Tensor::f32([1], vec![0.0]);
    let one =
        |op: Op, inputs: &[&Tensor]| tobiuo_cpu::evaluate(&op, inputs).unwrap().remove(0).to_f64();
    for kind in [Reduce::Max, Reduce::Min, Reduce::LogSumExp] {
        let y = one(Op::Reduce { kind, axes: vec![1], keep_dims: false }, &[&x]);
        assert!(y[0].is_nan() && !y[1].is_nan(), "{kind:?} {y:?}");
    }
    for kind in [Binary::Max, Binary::Min] {
        for inputs in [[&x, &zero], [&zero, &x]] {
            let y = one(Op::Binary { kind, activation: None }, &inputs);
            assert!(y[17].is_nan() && y.iter().filter(|v| v.is_nan()).count() == 1);
        }
    }
    let arg = Op::ArgReduce { axis: 1, min: true, keep_dims: false, select_last: false };
    assert_eq!(one(arg, &[&x]), [17.0, 0.0]);
    let top = Op::TopK { k: 2, axis: 1, largest: true, sorted: true };
    assert_eq!(tobiuo_cpu::evaluate(&top, &[&x]).unwrap()[1].to_f64(), [17.0, 39.0, 39.0, 38.0]);
}

#[test]
fn extremes_do_not_overflow() {
    use tobiuo_ops::Reduce;
    let x = Tensor::f32([1, 3], vec![1000.0, 1001.0, -1000.0]);
    check(&Op::Softmax { axis: 1, log: false }, &[&x]);
    check(&Op::Softmax { axis: 1, log: true }, &[&x]);
    let columns = Tensor::f32([1, 3, 2], vec![1000.0, 1.0, 1001.0, -1e38, -1000.0, 1e38]);
    check(&Op::Softmax { axis: 1, log: false }, &[&columns]);
    check(&Op::Softmax { axis: 1, log: true }, &[&columns]);
    let sum = tobiuo_cpu::evaluate(
        &Op::Reduce { kind: Reduce::LogSumExp, axes: vec![1], keep_dims: false },
        &[&x],
    );
    let expected = 1001.0 + (1.0 + (-1.0f64).exp()).ln();
    assert!((sum.unwrap()[0].to_f64()[0] - expected).abs() < 1e-3);
}

#[test]
fn a_constant_index_out_of_range_is_refused() {
    let x = Tensor::f32([3], vec![1.0, 2.0, 3.0]);
    let indices = Tensor::i64([2], vec![-3, 3]);
    let error = tobiuo_cpu::evaluate(&Op::Gather { axis: 0 }, &[&x, &indices]).unwrap_err();
    assert!(error.to_string().contains("index 3 does not exist: axis 0 of x [3] takes -3 to 2"));
}
