//! Whatever the attributes and shapes, inference and the queries answer; they never panic,
//! overflow or take long. (Test builds check arithmetic overflow.)

use proptest::prelude::*;
use tobiuo_ops::*;
use tobiuo_tensor::DType;

/// Small values that fit together often, and values that overflow whatever they meet.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0usize..5,
        3 => 0usize..40,
        1 => prop::sample::select(vec![usize::MAX, usize::MAX / 2, 1 << 40, 1 << 62, 1 << 32]),
    ]
}

fn signed() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -3i64..4, 1 => any::<i64>(), 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

fn real() -> impl Strategy<Value = f32> {
    prop_oneof![4 => Just(1.0f32), 2 => 0.1f32..4.0, 1 => any::<f32>(), 1 => Just(f32::NAN)]
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        6 => prop::collection::vec(size(), 0..5),
        2 => prop::collection::vec(size(), 0..10),
    ]
}

fn dtype() -> impl Strategy<Value = DType> {
    use DType::*;
    prop_oneof![6 => Just(F32), 2 => prop::sample::select(vec![F16, I64, I32, I8, U8, Bool])]
}

fn fact() -> impl Strategy<Value = Fact> {
    (dtype(), sizes()).prop_map(|(dtype, shape)| Fact { dtype, shape })
}

fn activation() -> impl Strategy<Value = Option<Activation>> {
    prop_oneof![
        Just(None),
        Just(Some(Activation::Relu)),
        (real(), real()).prop_map(|(min, max)| Some(Activation::Clip { min, max })),
        real().prop_map(|alpha| Some(Activation::Elu { alpha })),
    ]
}

type Window = (Vec<usize>, Vec<usize>, Vec<usize>, Vec<usize>);

/// Kernel, strides, pads and dilations, of matching lengths most of the time.
fn window() -> impl Strategy<Value = Window> {
    let matched = (1usize..4).prop_flat_map(|n| {
        let v = |len| prop::collection::vec(size(), len);
        (v(n), v(n), v(2 * n), v(n))
    });
    prop_oneof![5 => matched, 1 => (sizes(), sizes(), sizes(), sizes())]
}

fn windowed() -> impl Strategy<Value = Op> {
    prop_oneof![
        (window(), size(), activation(), any::<bool>()).prop_map(
            |((kernel, strides, pads, dilations), groups, activation, residual)| Op::Conv(Conv {
                kernel,
                strides,
                pads,
                dilations,
                groups,
                activation,
                residual
            })
        ),
        (window(), sizes(), size(), activation()).prop_map(
            |((kernel, strides, pads, dilations), output_padding, groups, activation)| {
                Op::ConvTranspose(ConvTranspose {
                    kernel,
                    strides,
                    pads,
                    dilations,
                    output_padding,
                    groups,
                    activation,
                })
            }
        ),
        (window(), any::<bool>(), any::<bool>()).prop_map(
            |((kernel, strides, pads, dilations), max, ceil_mode)| {
                let kind = match max {
                    true => PoolKind::Max,
                    false => PoolKind::Average { count_include_pad: ceil_mode },
                };
                Op::Pool(Pool { kind, kernel, strides, pads, dilations, ceil_mode })
            }
        ),
    ]
}

fn moving() -> impl Strategy<Value = Op> {
    let signs = || prop::collection::vec(signed(), 0..5);
    let reals = || prop::collection::vec(real(), 0..5);
    prop_oneof![
        size().prop_map(|axis| Op::Concat { axis }),
        (sizes(), signs(), sizes()).prop_map(|(starts, steps, lens)| Op::Slice(Slice {
            starts,
            steps,
            lens
        })),
        size().prop_map(|axis| Op::Gather { axis }),
        sizes().prop_map(|shape| Op::Reshape { shape }),
        sizes().prop_map(|perm| Op::Transpose { perm }),
        sizes().prop_map(|shape| Op::Expand { shape }),
        sizes().prop_map(|repeats| Op::Tile { repeats }),
        (signs(), signs(), any::<bool>()).prop_map(|(begins, ends, zero)| {
            let mode = if zero { PadMode::Constant { value: 0.0 } } else { PadMode::Reflect };
            Op::Pad(Pad { begins, ends, mode })
        }),
        (sizes(), reals(), reals(), any::<bool>()).prop_map(|(sizes, scales, roi, antialias)| {
            let coordinates = match antialias {
                true => Coordinates::HalfPixel,
                false => Coordinates::TfCropAndResize {
                    starts: roi.clone(),
                    ends: roi,
                    extrapolation: 0.0,
                },
            };
            Op::Resize(Resize {
                sizes,
                scales,
                mode: ResizeMode::Linear { antialias },
                coordinates,
            })
        }),
        dtype().prop_map(|to| Op::Cast { to }),
    ]
}

fn computing() -> impl Strategy<Value = Op> {
    use Binary::*;
    prop_oneof![
        (any::<bool>(), any::<bool>(), real(), real()).prop_map(
            |(trans_a, trans_b, alpha, beta)| {
                Op::Gemm(Gemm { trans_a, trans_b, alpha, beta, activation: None })
            }
        ),
        Just(Op::MatMul),
        Just(Op::Where),
        Just(Op::PRelu),
        real().prop_map(|epsilon| Op::BatchNorm { epsilon }),
        real().prop_map(|epsilon| Op::InstanceNorm { epsilon }),
        (size(), real()).prop_map(|(axis, epsilon)| Op::LayerNorm { axis, epsilon }),
        (size(), real()).prop_map(|(size, alpha)| Op::Lrn {
            size,
            alpha,
            beta: alpha,
            bias: alpha
        }),
        activation().prop_map(|a| Op::Activation(a.unwrap_or(Activation::Mish))),
        prop::sample::select(vec![Unary::Exp, Unary::Abs, Unary::Neg, Unary::Not])
            .prop_map(Op::Unary),
        (prop::sample::select(vec![Add, Div, Mod, Equal, Less, Xor]), activation())
            .prop_map(|(kind, activation)| Op::Binary { kind, activation }),
        (size(), any::<bool>()).prop_map(|(axis, log)| Op::Softmax { axis, log }),
        (prop::sample::select(vec![Reduce::Mean, Reduce::Max, Reduce::L2]), sizes(), any::<bool>())
            .prop_map(|(kind, axes, keep_dims)| Op::Reduce { kind, axes, keep_dims }),
        (size(), any::<bool>(), any::<bool>()).prop_map(|(axis, min, keep_dims)| Op::ArgReduce {
            axis,
            min,
            keep_dims,
            select_last: min
        }),
        (size(), size()).prop_map(|(k, axis)| Op::TopK { k, axis, largest: true, sorted: true }),
    ]
}

fn quantised() -> impl Strategy<Value = Op> {
    let zero = || prop_oneof![3 => Just(0), 1 => -200i32..400, 1 => any::<i32>()];
    let q = move || {
        let one = (real(), zero());
        prop::option::of(one.prop_map(|(scale, zero_point)| Quantization { scale, zero_point }))
    };
    let output = move || {
        prop::option::of(
            (dtype(), real(), zero()).prop_map(|(to, scale, zero_point)| Requantization {
                to,
                scale,
                zero_point,
            }),
        )
    };
    let residual =
        prop::option::of((q(), any::<bool>()).prop_map(|(quantization, after_activation)| {
            Residual { quantization, after_activation }
        }));
    let epilogue = (residual, activation(), output())
        .prop_map(|(residual, activation, output)| Epilogue { residual, activation, output })
        .boxed();
    prop_oneof![
        (window(), size(), zero(), epilogue.clone()).prop_map(
            |((kernel, strides, pads, dilations), groups, x_zero_point, epilogue)| {
                Op::QuantConv(QuantConv {
                    kernel,
                    strides,
                    pads,
                    dilations,
                    groups,
                    x_zero_point,
                    epilogue,
                })
            }
        ),
        (zero(), epilogue).prop_map(|(x_zero_point, epilogue)| Op::QuantGemm(QuantGemm {
            x_zero_point,
            epilogue
        })),
        (q(), q(), activation(), output()).prop_map(|(a, b, activation, output)| {
            Op::QuantBinary(QuantBinary { kind: Binary::Mul, a, b, activation, output })
        }),
        (window(), q(), output(), any::<bool>()).prop_map(
            |((kernel, strides, pads, dilations), x, output, ceil_mode)| {
                let kind = PoolKind::Average { count_include_pad: ceil_mode };
                let pool = Pool { kind, kernel, strides, pads, dilations, ceil_mode };
                let x = x.unwrap_or(Quantization { scale: 1.0, zero_point: 0 });
                Op::QuantPool(QuantPool { pool, x, output })
            }
        ),
        (prop::option::of(size()), dtype()).prop_map(|(axis, to)| Op::Quantize { axis, to }),
        prop::option::of(size()).prop_map(|axis| Op::Dequantize { axis }),
        Just(Op::Lookup),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn never_panics(
        // Boxed: by value they are too large for a test's stack.
        op in prop_oneof![
            windowed().boxed(),
            moving().boxed(),
            computing().boxed(),
            quantised().boxed(),
        ],
        inputs in prop::collection::vec(fact(), 0..5),
        matching in any::<bool>(),
    ) {
        // Half of the time all inputs agree, so that checks behind the first are reached.
        let inputs: Vec<Fact> = match inputs.first() {
            Some(first) if matching => vec![first.clone(); inputs.len()],
            _ => inputs,
        };
        if let Ok(outputs) = infer(&op, &inputs) {
            prop_assert!(!outputs.is_empty());
            for f in &outputs {
                prop_assert!(f.shape.len() <= MAX_RANK && f.numel() <= MAX_ELEMENTS);
                prop_assert_eq!(tobiuo_tensor::strides(&f.shape).len(), f.shape.len());
            }
            for i in in_place_inputs(&op, &inputs, &outputs[0]) {
                prop_assert_eq!(inputs[i].bytes(), outputs[0].bytes());
            }
            if let Some(offset) = view_offset(&op, &inputs) {
                prop_assert!(offset + outputs[0].numel() <= inputs[0].numel());
                prop_assert_eq!(inputs[0].dtype, outputs[0].dtype);
            }
            flops(&op, &inputs, &outputs);
            bytes(&inputs, &outputs);
        }
    }
}
