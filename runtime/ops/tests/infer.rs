//! Shapes, types and messages of every operator.

use tobiuo_ops::*;
use tobiuo_tensor::DType::{self, *};

fn f(dtype: DType, shape: &[usize]) -> Fact {
    Fact::new(dtype, shape)
}

fn x(shape: &[usize]) -> Fact {
    f(F32, shape)
}

fn conv(kernel: &[usize], strides: &[usize], pads: &[usize], dilations: &[usize]) -> Conv {
    Conv {
        kernel: kernel.into(),
        strides: strides.into(),
        pads: pads.into(),
        dilations: dilations.into(),
        groups: 1,
        activation: None,
        residual: false,
    }
}

fn pool(kernel: usize, stride: usize, pads: [usize; 2], dilation: usize, ceil_mode: bool) -> Op {
    Op::Pool(Pool {
        kind: PoolKind::Max,
        kernel: vec![kernel],
        strides: vec![stride],
        pads: pads.into(),
        dilations: vec![dilation],
        ceil_mode,
    })
}

fn slice(starts: &[usize], steps: &[i64], lens: &[usize]) -> Op {
    Op::Slice(Slice { starts: starts.into(), steps: steps.into(), lens: lens.into() })
}

fn pad(begins: &[i64], ends: &[i64], mode: PadMode) -> Op {
    Op::Pad(Pad { begins: begins.into(), ends: ends.into(), mode })
}

const ZERO: PadMode = PadMode::Constant { value: 0.0 };

fn resize(sizes: &[usize], scales: &[f32], mode: ResizeMode) -> Op {
    let coordinates = Coordinates::HalfPixel;
    Op::Resize(Resize { sizes: sizes.into(), scales: scales.into(), mode, coordinates })
}

const LINEAR: ResizeMode = ResizeMode::Linear { antialias: false };
const NEAREST: ResizeMode = ResizeMode::Nearest { rounding: NearestRounding::Floor };

fn reduce(kind: Reduce, axes: &[usize], keep_dims: bool) -> Op {
    Op::Reduce { kind, axes: axes.into(), keep_dims }
}

fn binary(kind: Binary) -> Op {
    Op::Binary { kind, activation: None }
}

fn gemm(trans_a: bool, trans_b: bool) -> Op {
    Op::Gemm(Gemm { trans_a, trans_b, alpha: 1.0, beta: 1.0, activation: None })
}

#[test]
fn shapes_and_types() {
    let stem = Conv { groups: 1, ..conv(&[7, 7], &[2, 2], &[3, 3, 3, 3], &[1, 1]) };
    let depthwise = Conv { groups: 8, ..conv(&[3, 3], &[1, 1], &[1, 1, 1, 1], &[1, 1]) };
    let residual = Conv { residual: true, ..conv(&[1, 1], &[1, 1], &[0; 4], &[1, 1]) };
    let up = ConvTranspose {
        kernel: vec![4, 3],
        strides: vec![2, 3],
        pads: vec![1, 0, 1, 0],
        dilations: vec![1, 2],
        output_padding: vec![0, 1],
        groups: 2,
        activation: None,
    };
    let avg3 = Op::Pool(Pool {
        kind: PoolKind::Average { count_include_pad: false },
        kernel: vec![2, 2, 2],
        strides: vec![2, 2, 2],
        pads: vec![0; 6],
        dilations: vec![1; 3],
        ceil_mode: false,
    });
    let arg = |keep_dims| Op::ArgReduce { axis: 1, min: false, keep_dims, select_last: false };
    let table: Vec<(Op, Vec<Fact>, Vec<Fact>)> = vec![
        (
            Op::Conv(stem),
            vec![x(&[2, 3, 224, 224]), x(&[64, 3, 7, 7]), x(&[64])],
            vec![x(&[2, 64, 112, 112])],
        ),
        (
            Op::Conv(depthwise),
            vec![x(&[1, 8, 9, 7]), x(&[16, 1, 3, 3]), x(&[16])],
            vec![x(&[1, 16, 9, 7])],
        ),
        (
            Op::Conv(residual),
            vec![x(&[1, 2, 3, 4]), x(&[5, 2, 1, 1]), x(&[5]), x(&[1, 5, 3, 4])],
            vec![x(&[1, 5, 3, 4])],
        ),
        (
            Op::Conv(conv(&[3], &[2], &[0, 1], &[2])),
            vec![f(F16, &[1, 4, 10]), f(F16, &[6, 4, 3]), f(F16, &[6])],
            vec![f(F16, &[1, 6, 4])],
        ),
        (
            Op::ConvTranspose(up),
            vec![x(&[1, 4, 5, 6]), x(&[4, 3, 4, 3]), x(&[6])],
            vec![x(&[1, 6, 10, 21])],
        ),
        (pool(2, 2, [0, 0], 1, false), vec![x(&[1, 1, 5])], vec![x(&[1, 1, 2])]),
        (pool(2, 2, [0, 0], 1, true), vec![x(&[1, 1, 5])], vec![x(&[1, 1, 3])]),
        (pool(3, 2, [0, 0], 2, true), vec![x(&[1, 1, 8])], vec![x(&[1, 1, 3])]),
        // A third window would start in the end padding, at element 5 of 4 + 1.
        (pool(2, 3, [1, 1], 1, true), vec![x(&[1, 1, 4])], vec![x(&[1, 1, 2])]),
        // The only window may overhang.
        (pool(2, 2, [0, 0], 1, true), vec![x(&[1, 1, 1])], vec![x(&[1, 1, 1])]),
        (avg3, vec![x(&[1, 2, 4, 5, 6])], vec![x(&[1, 2, 2, 2, 3])]),
        (gemm(false, true), vec![x(&[2, 3]), x(&[4, 3]), x(&[4])], vec![x(&[2, 4])]),
        (gemm(true, false), vec![x(&[3, 2]), x(&[3, 4])], vec![x(&[2, 4])]),
        (Op::MatMul, vec![x(&[3]), x(&[3])], vec![x(&[])]),
        (Op::MatMul, vec![x(&[3]), x(&[5, 3, 4])], vec![x(&[5, 4])]),
        (Op::MatMul, vec![x(&[5, 2, 3]), x(&[3])], vec![x(&[5, 2])]),
        (Op::MatMul, vec![x(&[7, 1, 2, 3]), x(&[5, 3, 4])], vec![x(&[7, 5, 2, 4])]),
        (
            Op::BatchNorm { epsilon: 1e-5 },
            vec![x(&[2, 3, 4]), x(&[3]), x(&[3]), x(&[3]), x(&[3])],
            vec![x(&[2, 3, 4])],
        ),
        (
            Op::Lrn { size: 5, alpha: 1e-4, beta: 0.75, bias: 1.0 },
            vec![x(&[1, 3, 4, 4])],
            vec![x(&[1, 3, 4, 4])],
        ),
        (Op::Activation(Activation::Silu), vec![x(&[2, 3])], vec![x(&[2, 3])]),
        (Op::PRelu, vec![x(&[2, 3, 4]), x(&[3, 1])], vec![x(&[2, 3, 4])]),
        (Op::Unary(Unary::Not), vec![f(Bool, &[3])], vec![f(Bool, &[3])]),
        (Op::Unary(Unary::Abs), vec![f(I32, &[3])], vec![f(I32, &[3])]),
        (binary(Binary::Add), vec![x(&[2, 1, 3]), x(&[4, 1])], vec![x(&[2, 4, 3])]),
        (binary(Binary::Less), vec![f(I64, &[2]), f(I64, &[])], vec![f(Bool, &[2])]),
        (binary(Binary::Xor), vec![f(Bool, &[2]), f(Bool, &[2])], vec![f(Bool, &[2])]),
        (binary(Binary::Equal), vec![f(Bool, &[0]), f(Bool, &[1])], vec![f(Bool, &[0])]),
        (Op::Softmax { axis: 1, log: true }, vec![x(&[1, 4, 16, 9])], vec![x(&[1, 4, 16, 9])]),
        (
            Op::Concat { axis: 1 },
            vec![x(&[1, 2, 3]), x(&[1, 0, 3]), x(&[1, 5, 3])],
            vec![x(&[1, 7, 3])],
        ),
        (slice(&[3, 0], &[-2, 1], &[2, 2]), vec![x(&[4, 2])], vec![x(&[2, 2])]),
        (slice(&[4], &[1], &[0]), vec![x(&[4])], vec![x(&[0])]),
        (
            Op::Gather { axis: 1 },
            vec![f(U8, &[2, 9, 4]), f(I32, &[3, 5])],
            vec![f(U8, &[2, 3, 5, 4])],
        ),
        (Op::Gather { axis: 0 }, vec![x(&[9]), f(I64, &[])], vec![x(&[])]),
        (Op::Reshape { shape: vec![6, 1] }, vec![x(&[2, 3])], vec![x(&[6, 1])]),
        (Op::Reshape { shape: vec![0, 7] }, vec![x(&[2, 0])], vec![x(&[0, 7])]),
        (Op::Transpose { perm: vec![2, 0, 1] }, vec![x(&[2, 3, 4])], vec![x(&[4, 2, 3])]),
        (Op::Expand { shape: vec![5, 2, 3] }, vec![x(&[2, 1])], vec![x(&[5, 2, 3])]),
        (Op::Tile { repeats: vec![2, 0] }, vec![x(&[2, 3])], vec![x(&[4, 0])]),
        (pad(&[1, -1], &[2, -1], ZERO), vec![x(&[2, 3])], vec![x(&[5, 1])]),
        (pad(&[-2], &[5], ZERO), vec![x(&[2])], vec![x(&[5])]),
        (resize(&[1, 8], &[1.0, 2.0], LINEAR), vec![x(&[1, 4])], vec![x(&[1, 8])]),
        (resize(&[3], &[0.6], NEAREST), vec![f(I64, &[5])], vec![f(I64, &[3])]),
        (reduce(Reduce::Mean, &[1, 2], true), vec![x(&[2, 3, 4])], vec![x(&[2, 1, 1])]),
        (reduce(Reduce::Max, &[0, 2], false), vec![f(U8, &[2, 3, 4])], vec![f(U8, &[3])]),
        (reduce(Reduce::Sum, &[], false), vec![f(I32, &[2])], vec![f(I32, &[2])]),
        (arg(true), vec![x(&[2, 3])], vec![f(I64, &[2, 1])]),
        (arg(false), vec![f(U8, &[2, 3])], vec![f(I64, &[2])]),
        (
            Op::TopK { k: 2, axis: 0, largest: true, sorted: true },
            vec![x(&[5, 3])],
            vec![x(&[2, 3]), f(I64, &[2, 3])],
        ),
        (Op::Cast { to: Bool }, vec![x(&[2])], vec![f(Bool, &[2])]),
        (Op::Where, vec![f(Bool, &[3, 1]), f(I64, &[4]), f(I64, &[])], vec![f(I64, &[3, 4])]),
        (
            Op::LayerNorm { axis: 1, epsilon: 1e-5 },
            vec![x(&[2, 3, 4]), x(&[3, 4]), x(&[3, 4])],
            vec![x(&[2, 3, 4])],
        ),
        (
            Op::InstanceNorm { epsilon: 1e-5 },
            vec![x(&[2, 3, 4]), x(&[3]), x(&[3])],
            vec![x(&[2, 3, 4])],
        ),
    ];
    for (op, inputs, outputs) in table {
        assert_eq!(infer(&op, &inputs), Ok(outputs), "{op:?} of {inputs:?}");
    }
}

#[test]
fn messages_name_both_sides() {
    let big = 1usize << 41;
    let c1 = conv(&[1, 1], &[1, 1], &[0; 4], &[1, 1]);
    let huge = usize::MAX;
    let table: Vec<(Op, Vec<Fact>, &str)> = vec![
        (
            Op::Conv(conv(&[7, 7], &[2, 2], &[3; 4], &[1, 1])),
            vec![x(&[1, 4, 224, 224]), x(&[64, 3, 7, 7]), x(&[64])],
            "weight [64, 3, 7, 7] needs 3 input channels per group, x [1, 4, 224, 224] gives 4",
        ),
        (
            Op::Conv(conv(&[3, 3], &[1, 1], &[0; 4], &[2, 1])),
            vec![x(&[1, 1, 4, 9]), x(&[2, 1, 3, 3]), x(&[2])],
            "the window covers 5 along the height, x [1, 1, 4, 9] with its padding has 4",
        ),
        (
            Op::Conv(Conv { groups: 0, ..c1.clone() }),
            vec![x(&[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[2])],
            "0 groups do not divide the 1 channels",
        ),
        (
            Op::Conv(Conv { strides: vec![1, 0], ..c1.clone() }),
            vec![x(&[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[2])],
            "strides [1, 0] holds a 0",
        ),
        (
            Op::Conv(Conv { pads: vec![huge, 0, huge, 0], ..c1.clone() }),
            vec![x(&[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[2])],
            "are too large",
        ),
        (
            Op::Conv(Conv { kernel: vec![1], ..c1.clone() }),
            vec![x(&[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[2])],
            "kernel has 1 entries, 2 are needed",
        ),
        (
            Op::Conv(Conv { residual: true, ..c1.clone() }),
            vec![x(&[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[2]), x(&[1, 2, 4, 8])],
            "residual [1, 2, 4, 8] must have the output's shape [1, 2, 4, 9]",
        ),
        (Op::Conv(c1.clone()), vec![x(&[1, 1, 4, 9])], "takes 3 inputs (x, weight, bias), 1 are"),
        (
            Op::Conv(c1.clone()),
            vec![f(U8, &[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[2])],
            "x is u8, this operator works on f32 or f16",
        ),
        (Op::Conv(c1), vec![x(&[1, 1, 4, 9]), x(&[2, 1, 1, 1]), x(&[3])], "bias [3] must be [2]"),
        (pool(2, 2, [2, 0], 1, false), vec![x(&[1, 1, 5])], "windows without an element"),
        (pool(9, 2, [0, 0], 1, true), vec![x(&[1, 1, 5])], "the window covers 9 along the length"),
        (
            Op::MatMul,
            vec![x(&[2, 3]), x(&[4, 5])],
            "a [2, 3] has 3 columns, b [4, 5] has 4 rows: they must agree",
        ),
        (Op::MatMul, vec![x(&[]), x(&[4, 5])], "need at least one axis each"),
        (gemm(true, false), vec![x(&[2, 3]), x(&[3, 5])], "a [2, 3] transposed has 2 columns"),
        (
            gemm(false, false),
            vec![x(&[2, 3]), x(&[3, 5]), x(&[3])],
            "c [3] does not broadcast to [2, 5]",
        ),
        (binary(Binary::Add), vec![x(&[2]), x(&[3])], "shapes [2] and [3] do not broadcast"),
        (binary(Binary::Add), vec![x(&[2]), f(I64, &[2])], "b is i64, a is f32: they must agree"),
        (binary(Binary::And), vec![x(&[2]), x(&[2])], "And is not defined for f32"),
        (binary(Binary::Add), vec![f(Bool, &[2]), f(Bool, &[2])], "Add is not defined for bool"),
        (
            Op::Binary { kind: Binary::Add, activation: Some(Activation::Relu) },
            vec![f(I64, &[2]), f(I64, &[2])],
            "an activation cannot follow a result of type i64",
        ),
        (
            Op::Activation(Activation::Clip { min: f32::NAN, max: 0.0 }),
            vec![x(&[2])],
            "not a number",
        ),
        (Op::Unary(Unary::Neg), vec![f(U8, &[2])], "Neg is not defined for u8"),
        (Op::Softmax { axis: 2, log: false }, vec![x(&[2, 3])], "axis 2 is not one of the 2 axes"),
        (
            Op::Concat { axis: 1 },
            vec![x(&[1, 2]), x(&[2, 2])],
            "input 1 [2, 2] does not fit input 0 [1, 2]: they may differ in axis 1 only",
        ),
        (Op::Concat { axis: 0 }, vec![], "takes at least 1 input"),
        (slice(&[3], &[-2], &[3]), vec![x(&[4])], "axis 0: 3 elements from 3 in steps of -2 leave"),
        (slice(&[0], &[i64::MAX], &[huge]), vec![x(&[4])], "leave x [4]"),
        (slice(&[0], &[0], &[1]), vec![x(&[4])], "the step of axis 0 is 0"),
        (Op::Gather { axis: 0 }, vec![x(&[4]), x(&[1])], "the indices are f32"),
        (Op::Gather { axis: 0 }, vec![x(&[0]), f(I64, &[1])], "axis 0 of x [0] has no element"),
        (
            Op::Reshape { shape: vec![7] },
            vec![x(&[2, 3])],
            "x [2, 3] has 6 elements, shape [7] has 7",
        ),
        (Op::Reshape { shape: vec![huge, huge] }, vec![x(&[2, 3])], "has too many"),
        (Op::Transpose { perm: vec![0, 0] }, vec![x(&[2, 3])], "perm [0, 0] is not a permutation"),
        (Op::Expand { shape: vec![2] }, vec![x(&[2, 1])], "x [2, 1] does not broadcast to [2]"),
        (Op::Expand { shape: vec![big] }, vec![x(&[1])], "the output is too large"),
        (Op::Tile { repeats: vec![huge] }, vec![x(&[2])], "is too large"),
        (pad(&[-2], &[-2], ZERO), vec![x(&[3])], "remove more than the 3 elements of x [3]"),
        (pad(&[-3], &[1], PadMode::Edge), vec![x(&[3])], "nothing is left of x [3] to pad from"),
        (pad(&[i64::MAX], &[i64::MAX], ZERO), vec![x(&[3])], "too large"),
        (
            resize(&[8], &[3.0], LINEAR),
            vec![x(&[4])],
            "x [4] times 3 gives 12, the output's size is 8",
        ),
        (resize(&[4], &[0.0], LINEAR), vec![x(&[4])], "the scale of axis 0 is 0"),
        (resize(&[4], &[1.0], LINEAR), vec![f(U8, &[4])], "x is u8"),
        (resize(&[4, 4], &[1.0], LINEAR), vec![x(&[4, 4])], "scales has 1 entries, 2 are needed"),
        (reduce(Reduce::Sum, &[1, 0], false), vec![x(&[2, 3])], "axes [1, 0] must ascend"),
        (reduce(Reduce::L2, &[0], false), vec![f(I32, &[2])], "ReduceL2 is not defined for i32"),
        (
            Op::ArgReduce { axis: 0, min: true, keep_dims: true, select_last: false },
            vec![x(&[0, 2])],
            "axis 0 of x [0, 2] has no element to choose",
        ),
        (
            Op::TopK { k: 6, axis: 0, largest: true, sorted: true },
            vec![x(&[5, 3])],
            "k is 6, axis 0 of x [5, 3] has only 5",
        ),
        (Op::Where, vec![x(&[1]), x(&[1]), x(&[1])], "the condition is f32, it must be bool"),
        (
            Op::LayerNorm { axis: 1, epsilon: 1e-5 },
            vec![x(&[2, 3, 4]), x(&[3, 4]), x(&[4])],
            "bias [4] must have the shape [3, 4] of x's normalised axes",
        ),
        (
            Op::InstanceNorm { epsilon: -1.0 },
            vec![x(&[2, 3, 4]), x(&[3]), x(&[3])],
            "epsilon is -1, it must not be negative",
        ),
        (
            Op::BatchNorm { epsilon: 0.0 },
            vec![x(&[2, 3, 4]), x(&[3]), x(&[2]), x(&[3]), x(&[3])],
            "bias [2] must be [3]: one value per channel of x [2, 3, 4]",
        ),
        (Op::Unary(Unary::Exp), vec![x(&[1; 9])], "input 0: 9 axes, at most 8 are supported"),
        (Op::Unary(Unary::Exp), vec![x(&[0, huge, 2])], "input 0: shape [0, "),
    ];
    for (op, inputs, message) in table {
        let got = infer(&op, &inputs).expect_err("must not be accepted");
        assert!(got.contains(message), "{op:?} of {inputs:?}:\n  {got}\n  lacks: {message}");
    }
}

#[test]
fn views_know_where_they_begin() {
    let t = |perm: &[usize]| Op::Transpose { perm: perm.into() };
    let table: Vec<(Op, &[usize], Option<usize>)> = vec![
        (Op::Reshape { shape: vec![24] }, &[2, 3, 4], Some(0)),
        (t(&[1, 0, 2]), &[1, 3, 4], Some(0)),
        (t(&[1, 0, 2]), &[2, 3, 4], None),
        (slice(&[0, 1, 0], &[1, 1, 1], &[1, 2, 4]), &[1, 3, 4], Some(4)),
        (slice(&[0, 1, 0], &[1, 1, 1], &[2, 2, 4]), &[2, 3, 4], None),
        (slice(&[1, 2, 1], &[1, 1, 1], &[1, 1, 3]), &[2, 3, 4], Some(21)),
        (slice(&[1, 2, 1], &[1, 1, 1], &[1, 1, 3]), &[2, 3, 5], Some(26)),
        (slice(&[3], &[-1], &[2]), &[4], None),
        (pad(&[0, -1], &[0, -1], ZERO), &[1, 5], Some(1)),
        (pad(&[0, 1], &[0, -1], ZERO), &[1, 5], None),
        (Op::Expand { shape: vec![1, 4] }, &[4], Some(0)),
        (Op::Expand { shape: vec![2, 4] }, &[4], None),
        (Op::Tile { repeats: vec![1, 1] }, &[2, 2], Some(0)),
        (Op::Cast { to: F32 }, &[2, 2], Some(0)),
        (Op::Cast { to: I32 }, &[2, 2], None),
        (Op::Concat { axis: 0 }, &[2, 2], Some(0)),
        (Op::Unary(Unary::Exp), &[2, 2], None),
    ];
    for (op, shape, offset) in table {
        infer(&op, &[x(shape)]).unwrap();
        assert_eq!(view_offset(&op, &[x(shape)]), offset, "{op:?} of {shape:?}");
    }
}

#[test]
fn operands_that_may_be_overwritten() {
    let table: Vec<(Op, Vec<Fact>, Vec<usize>)> = vec![
        (binary(Binary::Add), vec![x(&[2, 3]), x(&[2, 3])], vec![0, 1]),
        (binary(Binary::Add), vec![x(&[3]), x(&[2, 3])], vec![1]),
        (binary(Binary::Add), vec![x(&[2, 1]), x(&[1, 3])], vec![]),
        (binary(Binary::Less), vec![x(&[3]), x(&[3])], vec![]),
        (binary(Binary::Less), vec![f(I8, &[3]), f(I8, &[3])], vec![]),
        (binary(Binary::Equal), vec![f(Bool, &[3]), f(Bool, &[3])], vec![0, 1]),
        (Op::Cast { to: I32 }, vec![x(&[3])], vec![]),
        (Op::Softmax { axis: 0, log: false }, vec![x(&[3])], vec![0]),
        (Op::Reshape { shape: vec![1, 3] }, vec![x(&[3])], vec![0]),
        (Op::Activation(Activation::Relu), vec![x(&[3])], vec![0]),
        (Op::Cast { to: I64 }, vec![x(&[3])], vec![]),
        (Op::Transpose { perm: vec![1, 0] }, vec![x(&[3, 3])], vec![]),
        (
            Op::Conv(Conv { residual: true, ..conv(&[1, 1], &[1, 1], &[0, 0, 0, 0], &[1, 1]) }),
            vec![x(&[1, 2, 3, 4]), x(&[2, 2, 1, 1]), x(&[2]), x(&[1, 2, 3, 4])],
            vec![3],
        ),
    ];
    for (op, inputs, operands) in table {
        let output = &infer(&op, &inputs).unwrap()[0];
        assert_eq!(in_place_inputs(&op, &inputs, output), operands, "{op:?} of {inputs:?}");
    }
}

#[test]
fn work_is_counted() {
    let count = |op: Op, inputs: &[Fact]| {
        let outputs = infer(&op, inputs).unwrap();
        (flops(&op, inputs, &outputs), bytes(inputs, &outputs))
    };
    let stem = conv(&[7, 7], &[2, 2], &[3, 3, 3, 3], &[1, 1]);
    let inputs = [x(&[1, 3, 224, 224]), x(&[64, 3, 7, 7]), x(&[64])];
    let elements = 3 * 224 * 224 + 64 * 3 * 49 + 64 + 64 * 112 * 112;
    assert_eq!(count(Op::Conv(stem), &inputs), (2 * 64 * 112 * 112 * 147, 4 * elements));
    assert_eq!(count(gemm(true, false), &[x(&[3, 2]), x(&[3, 4])]).0, 2 * 2 * 3 * 4);
    assert_eq!(count(Op::MatMul, &[x(&[5, 2, 3]), x(&[3, 4])]).0, 5 * 2 * 2 * 3 * 4);
    assert_eq!(count(Op::Reshape { shape: vec![6] }, &[x(&[2, 3])]), (0, 48));
}

fn quant_conv(epilogue: Epilogue) -> Op {
    Op::QuantConv(QuantConv {
        kernel: vec![3, 3],
        strides: vec![2, 2],
        pads: vec![1; 4],
        dilations: vec![1, 1],
        groups: 1,
        x_zero_point: 3,
        epilogue,
    })
}

fn to(to: DType, scale: f32, zero_point: i32) -> Option<Requantization> {
    Some(Requantization { to, scale, zero_point })
}

#[test]
fn integer_layers() {
    let some = |scale, zero_point| Some(Quantization { scale, zero_point });
    let operands = [f(U8, &[1, 4, 9, 9]), f(I8, &[6, 4, 3, 3]), x(&[6]), x(&[6])];
    let shape = &[1, 6, 5, 5];
    let plain = Epilogue::default();
    let with = |r: Fact| [operands.as_slice(), &[r]].concat();
    let residual = |quantization| Epilogue {
        residual: Some(Residual { quantization, after_activation: true }),
        activation: Some(Activation::Silu),
        output: to(I8, 0.1, 0),
    };
    let give = |op: Op, inputs: &[Fact]| infer(&op, inputs);
    assert_eq!(give(quant_conv(plain.clone()), &operands), Ok(vec![x(shape)]));
    let stored = Epilogue { output: to(U8, 0.1, 0), ..plain.clone() };
    assert_eq!(give(quant_conv(stored), &operands), Ok(vec![f(U8, shape)]));
    let inputs = with(f(U8, shape));
    assert_eq!(give(quant_conv(residual(some(0.5, 9))), &inputs), Ok(vec![f(I8, shape)]));
    assert_eq!(give(quant_conv(residual(None)), &with(x(shape))), Ok(vec![f(I8, shape)]));

    let gemm = |epilogue| Op::QuantGemm(QuantGemm { x_zero_point: 0, epilogue });
    let product = [f(I8, &[2, 8]), f(I8, &[5, 8]), x(&[5]), x(&[5])];
    assert_eq!(give(gemm(plain.clone()), &product), Ok(vec![x(&[2, 5])]));

    let add = |a, b| {
        Op::QuantBinary(QuantBinary {
            kind: Binary::Add,
            a,
            b,
            activation: None,
            output: to(U8, 1.0, 0),
        })
    };
    let sides = [f(I8, &[2, 3]), x(&[3])];
    assert_eq!(give(add(some(1.0, 0), None), &sides), Ok(vec![f(U8, &[2, 3])]));
    let pool = Pool {
        kind: PoolKind::Average { count_include_pad: false },
        kernel: vec![2],
        strides: vec![2],
        pads: vec![0, 0],
        dilations: vec![1],
        ceil_mode: false,
    };
    let average = |scale| {
        Op::QuantPool(QuantPool {
            pool: pool.clone(),
            x: Quantization { scale, zero_point: 0 },
            output: None,
        })
    };
    assert_eq!(give(average(1.0), &[f(U8, &[1, 2, 8])]), Ok(vec![x(&[1, 2, 4])]));
    let max = Op::Pool(Pool { kind: PoolKind::Max, ..pool.clone() });
    assert_eq!(give(max, &[f(U8, &[1, 2, 8])]), Ok(vec![f(U8, &[1, 2, 4])]));
    let quantize = |axis| Op::Quantize { axis, to: I8 };
    assert_eq!(give(quantize(None), &[x(&[2, 3]), x(&[])]), Ok(vec![f(I8, &[2, 3])]));
    let per_axis = [x(&[2, 3]), x(&[3]), f(I8, &[3])];
    assert_eq!(give(quantize(Some(1)), &per_axis), Ok(vec![f(I8, &[2, 3])]));
    let back = Op::Dequantize { axis: None };
    assert_eq!(give(back.clone(), &[f(I32, &[2]), x(&[1])]), Ok(vec![x(&[2])]));
    assert_eq!(give(Op::Lookup, &[f(I8, &[7]), f(U8, &[256])]), Ok(vec![f(U8, &[7])]));

    let tanh = Epilogue { activation: Some(Activation::Tanh), ..plain.clone() };
    let wide = [f(I8, &[1, 65_794]), f(I8, &[1, 65_794]), x(&[1]), x(&[1])];
    let refused: Vec<(Op, Vec<Fact>, &str)> = vec![
        (quant_conv(plain.clone()), with(x(shape)), "takes 4 inputs"),
        (quant_conv(residual(None)), with(f(I8, shape)), "residual is i8, it must be f32"),
        (quant_conv(residual(some(0.5, 9))), with(f(I8, &[1])), "must have the output's shape"),
        (quant_conv(residual(some(0.5, 200))), with(f(I8, shape)), "zero point 200 is no i8"),
        (
            quant_conv(Epilogue { output: to(I32, 1.0, 0), ..plain.clone() }),
            operands.to_vec(),
            "stored as i32",
        ),
        (
            quant_conv(Epilogue { output: to(I8, 1e-45, 0), ..plain.clone() }),
            operands.to_vec(),
            "scale",
        ),
        (quant_conv(tanh), operands.to_vec(), "Tanh cannot follow integers"),
        (gemm(plain.clone()), wide.to_vec(), "does not fit 32 bits"),
        (add(None, None), vec![x(&[2]), x(&[2])], "integers"),
        (average(-1.0), vec![f(U8, &[1, 2, 8])], "scale -1"),
        (quantize(Some(2)), per_axis.to_vec(), "axis 2"),
        (quantize(Some(0)), per_axis.to_vec(), "one for each index of axis 0"),
        (back, vec![f(I8, &[2]), x(&[1]), f(U8, &[1])], "zero point is u8"),
        (Op::Lookup, vec![f(I8, &[2]), f(I8, &[255])], "[256]"),
    ];
    for (op, inputs, wanted) in refused {
        let said = infer(&op, &inputs).expect_err(wanted);
        assert!(said.contains(wanted), "{said}");
    }
}
