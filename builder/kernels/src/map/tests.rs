use tobiuo_ops::{Activation, Binary, Unary};

use super::*;

fn target() -> Target {
    Target {
        sm: 87,
        sm_count: 8,
        shared_per_block: 166_912,
        shared_per_sm: 167_936,
        l2_bytes: 4 << 20,
        clock_ghz: 0.9,
        bandwidth_gbs: 100.0,
    }
}

fn dense(dtype: DType, strides: &[i64]) -> Strided {
    Strided { dtype, offset: 0, strides: strides.to_vec(), aligned: true }
}

fn step(function: MapFunction, arguments: &[MapArgument], dtype: DType) -> MapStep {
    MapStep { function, arguments: arguments.to_vec(), dtype }
}

#[test]
fn chains_of_every_type() {
    use MapArgument::{Float, Input, Integer, Step};
    // (i % 3 > 0) ? relu(x * 2) : -1, of i as i32 broadcast over rows, as f16, a channel padded.
    let layer = MapLayer {
        dims: vec![2, 4],
        valid: Some((1, 3)),
        inputs: vec![dense(DType::I32, &[0, 1]), dense(DType::F32, &[3, 1])],
        output: dense(DType::F16, &[4, 1]),
        steps: vec![
            step(MapFunction::Binary(Binary::Mod), &[Input(0), Integer(3)], DType::I32),
            step(MapFunction::Binary(Binary::Greater), &[Step(0), Integer(0)], DType::Bool),
            step(MapFunction::Binary(Binary::Mul), &[Input(1), Float(2f32.to_bits())], DType::F32),
            step(MapFunction::Activation(Activation::Relu), &[Step(2)], DType::F32),
            step(MapFunction::Where, &[Step(1), Step(3), Float((-1f32).to_bits())], DType::F32),
        ],
    };
    let i: Vec<u8> = [-1i32, 0, 4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let x: Vec<u8> =
        [1.5f32, 2.5, 3.5, -4.0, 5.0, 6.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let e = layer.extents();
    assert_eq!((e.inputs, e.outputs), (vec![12, 24], vec![16]));
    let mut out = vec![vec![0xff; 16]];
    layer.reference(&[&i, &x], &[], &mut out);
    let got: Vec<f64> = (0..8).map(|i| load_at(&out[0], DType::F16, i)).collect();
    assert_eq!(got, [3.0, -1.0, 7.0, 0.0, 0.0, -1.0, 12.0, 0.0]);
    let source = &layer.candidates(&target())[0].source;
    assert!(source.contains("bool s1 = s0 > (int)(long long)0ull;"), "{source}");
}

#[test]
fn integers_wrap_and_divide_as_the_cpu_device() {
    let run = |kind, a: i64, b: i64, dtype| {
        let steps = [step(
            MapFunction::Binary(kind),
            &[MapArgument::Input(0), MapArgument::Input(1)],
            dtype,
        )];
        evaluate(&steps, &[Value::Integer(a), Value::Integer(b)], &[dtype; 2]).integer()
    };
    assert_eq!(run(Binary::Add, 127, 1, DType::I8), -128);
    assert_eq!(run(Binary::Sub, 0, 1, DType::U8), 255);
    assert_eq!(run(Binary::Div, -7, 2, DType::I64), -3);
    assert_eq!(run(Binary::Div, i64::MIN, -1, DType::I64), i64::MIN);
    let least = i64::from(i32::MIN);
    assert_eq!(run(Binary::Div, least, -1, DType::I32), least);
    assert_eq!(run(Binary::Div, 5, 0, DType::I32), 0);
    assert_eq!(run(Binary::Mod, -7, 3, DType::I32), 2);
    assert_eq!(run(Binary::FMod, -7, 3, DType::I32), -1);
    assert_eq!(run(Binary::Pow, 3, 5, DType::U8), 243);
    assert_eq!(run(Binary::Pow, 2, -1, DType::I64), 0);
    assert_eq!(run(Binary::Pow, -1, -3, DType::I64), -1);
}

#[test]
fn casts_saturate_floats_and_truncate_integers() {
    let run = |x: Value, from: DType, to: DType| {
        evaluate(&[step(MapFunction::Cast, &[MapArgument::Input(0)], to)], &[x], &[from])
    };
    let float = Value::Float;
    assert_eq!(run(float(-1.5), DType::F32, DType::U8), Value::Integer(0));
    assert_eq!(run(float(300.0), DType::F32, DType::I8), Value::Integer(127));
    assert_eq!(run(float(f64::NAN), DType::F32, DType::I64), Value::Integer(0));
    assert_eq!(run(float(0.25), DType::F32, DType::Bool), Value::Integer(1));
    assert_eq!(run(Value::Integer(300), DType::I64, DType::U8), Value::Integer(44));
    assert_eq!(run(Value::Integer(1 << 31), DType::I64, DType::I32), Value::Integer(-(1 << 31)));
    assert_eq!(run(float(1.0 / 3.0), DType::F32, DType::F16), float(0.333251953125));
}

#[test]
fn unary_functions_of_integers() {
    let run = |u, x, dtype| {
        let steps = [step(MapFunction::Unary(u), &[MapArgument::Input(0)], dtype)];
        evaluate(&steps, &[Value::Integer(x)], &[dtype]).integer()
    };
    assert_eq!(run(Unary::Abs, -128, DType::I8), -128);
    assert_eq!(run(Unary::Sign, -5, DType::I64), -1);
    assert_eq!(run(Unary::Not, 0, DType::Bool), 1);
}
