//! The references of integer layers against loops written another way.

use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::conv::weight_at;
use super::*;

/// Sums of integers the other way round, then each step of the end by itself.
#[test]
fn convolution_of_integers() {
    convolution_of(0);
    convolution_of(40);
}

fn convolution_of(zero: i32) {
    let y = Numbers { dtype: DType::U8, scale: 0.02, zero_point: 3 };
    let residual = Numbers { dtype: DType::I8, scale: 0.01, zero_point: -5 };
    let layer = ConvLayer {
        batch: 1,
        input: [5, 4],
        output: [5, 4],
        channels: 16,
        x_pitch: 32,
        filters: 6,
        filters_stored: 8,
        y_pitch: 16,
        kernel: [3, 3],
        strides: [1, 1],
        pads: [1, 1],
        dilations: [1, 1],
        residual_pitch: Some(16),
        activation: Some(Activation::Relu),
        residual_last: false,
        pooled: false,
        planes: None,
        y_planes: None,
        x: DType::U8,
        x_zero_point: zero,
        y,
        residual,
    };
    let extents = layer.extents();
    assert_eq!(extents.constants[..2], [2 * 8 * 128, 48]);
    let mut random = random::Random::new(3);
    let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| random.bits() as u8).collect() };
    let (x, r) = (bytes(extents.inputs[0]), bytes(extents.inputs[1]));
    let w = bytes(extents.constants[0]);
    let pairs: Vec<f32> = (0..6).flat_map(|f| [2e-6 * (f + 1) as f32, f as f32 - 2.5]).collect();
    let ends: Vec<u8> = pairs.iter().flat_map(|v| v.to_le_bytes()).collect();
    let before = vec![0xaa; extents.outputs[0]];
    let mut outputs = vec![before.clone()];
    let weight = |f, k| i32::from(w[weight_at(f, k, 8, 1)] as i8);
    let totals: Vec<i32> = (0..6).map(|f| (0..144).map(|k| weight(f, k)).sum()).collect();
    let totals: Vec<u8> = totals.iter().flat_map(|s| s.to_le_bytes()).collect();
    let constants: &[&[u8]] = if zero == 0 { &[&w, &ends] } else { &[&w, &ends, &totals] };
    assert_eq!(extents.constants, constants.iter().map(|c| c.len()).collect::<Vec<_>>());
    // Behind the sums, a piece of what lies outside the picture.
    Layer::Conv(layer).reference(&[&x, &r], constants, &mut outputs);
    let mut sums = vec![0i64; 20 * 6];
    for (at, c) in (0..20i32).flat_map(|p| (0..16).map(move |c| (p, c))) {
        let v = i64::from(x[at as usize * 32 + c]) - i64::from(zero);
        for (dy, dx) in (-1..=1).flat_map(|a| (-1..=1).map(move |b| (a, b))) {
            let (oy, ox) = (at / 4 + dy, at % 4 + dx);
            if !(0..5).contains(&oy) || !(0..4).contains(&ox) {
                continue;
            }
            let tap = ((1 - dy) * 3 + 1 - dx) as usize;
            for f in 0..6 {
                let weight = i64::from(w[weight_at(f, tap * 16 + c, 8, 1)] as i8);
                sums[(oy * 4 + ox) as usize * 6 + f] += v * weight;
            }
        }
    }
    for (pixel, f) in (0..20).flat_map(|p| (0..8).map(move |f| (p, f))) {
        let v = match f {
            0..6 => (sums[pixel * 6 + f] as f32).mul_add(pairs[2 * f], pairs[2 * f + 1]),
            _ => 0.0,
        };
        let add = f32::from(i16::from(r[pixel * 16 + f] as i8) + 5);
        let v = add.mul_add(0.01, v).max(0.0) * (1.0 / 0.02);
        let want = (v.round_ties_even() as i32 + 3).clamp(0, 255) as u8;
        assert_eq!(outputs[0][pixel * 16 + f], want, "{pixel} {f}");
    }
    assert_eq!(outputs[0][8..16], before[8..16], "between the pixels");
}

fn run(layer: Layer, inputs: &[&[u8]], len: usize) -> Vec<u8> {
    let mut outputs = vec![vec![0xaa; len]];
    layer.reference(inputs, &[], &mut outputs);
    outputs.swap_remove(0)
}

#[test]
fn functions_of_integers() {
    let n = |dtype, scale, zero_point| Numbers { dtype, scale, zero_point };
    let layer = |a, b, y, op| {
        Layer::IntegerElementwise(IntegerElementwiseLayer {
            pixels: 1,
            channels: 4,
            valid: 3,
            a,
            b,
            y,
            a_pitch: 4,
            b_pitch: 4,
            y_pitch: 4,
            op,
            activation: None,
        })
    };
    let floats: Vec<u8> = [0.5f32, -1.5, 300.0, 9.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let (f, u, i) = (Numbers::F32, n(DType::U8, 0.5, 10), n(DType::I8, 0.25, 0));
    let quantised = layer(f, f, u, ElementwiseOp::None);
    assert_eq!(run(quantised, &[&floats], 4), [11, 7, 255, 10]);
    let back = run(layer(u, f, f, ElementwiseOp::None), &[&[11, 7, 255, 10]], 16);
    let want: Vec<u8> = [0.5f32, -1.5, 122.5, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(back, want);
    // 0.5 + 0.25 * 5, -1.5 - 0.25 * 128, 122.5 + 0.25
    let sum = layer(u, i, i, ElementwiseOp::Add);
    assert_eq!(run(sum, &[&[11, 7, 255, 10], &[5, 128, 1, 7]], 4), [7, 128, 127, 0]);
}

#[test]
fn means_of_integers() {
    let mean = Mean {
        x: tobiuo_ops::Quantization { scale: 0.5, zero_point: -2 },
        y: Numbers { dtype: DType::U8, scale: 0.25, zero_point: 1 },
    };
    // Distances from -2: 3, 5, 0, 4; their mean is 3, of the number 1.5.
    let x = [1u8, 3, 254, 2];
    let global = Layer::GlobalPool(GlobalPoolLayer {
        dtype: DType::I8,
        batch: 1,
        pixels: 4,
        channels: 1,
        x_pitch: 1,
        y_pitch: 1,
        max: false,
        mean: Some(mean),
    });
    assert_eq!(run(global, &[&x], 1), [7]);
    let pool = |average, mean| {
        Layer::Pool(PoolLayer {
            dtype: DType::I8,
            batch: 1,
            input: [2, 2],
            output: [1, 1],
            channels: 1,
            x_pitch: 1,
            y_pitch: 1,
            kernel: [2, 3],
            strides: [1, 1],
            pads: [0, 1, 0, 0],
            dilations: [1, 1],
            average,
            mean,
        })
    };
    assert_eq!(run(pool(Some(false), Some(mean)), &[&x], 1), [7]);
    // The padding counts: 12 / 6 * 0.5.
    assert_eq!(run(pool(Some(true), Some(mean)), &[&x], 1), [5]);
    assert_eq!(run(pool(None, None), &[&x], 1), [3]);
}
