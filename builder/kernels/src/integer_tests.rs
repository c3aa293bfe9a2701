//! The references of integer layers against loops written another way.

use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::*;

/// Sums of integers the other way round, then each step of the end by itself.
#[test]
fn convolution_of_integers() {
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
        x: DType::U8,
        y,
        residual,
    };
    let extents = layer.extents();
    let pitch = layer.weight_pitch();
    assert_eq!((pitch, extents.constants[1]), (256, 48));
    let mut random = random::Random::new(3);
    let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| random.bits() as u8).collect() };
    let (x, r) = (bytes(extents.inputs[0]), bytes(extents.inputs[1]));
    let w = bytes(extents.constants[0]);
    let pairs: Vec<f32> = (0..6).flat_map(|f| [2e-6 * (f + 1) as f32, f as f32 - 2.5]).collect();
    let ends: Vec<u8> = pairs.iter().flat_map(|v| v.to_le_bytes()).collect();
    let before = vec![0xaa; extents.outputs[0]];
    let mut outputs = vec![before.clone()];
    Layer::Conv(layer).reference(&[&x, &r], &[&w, &ends], &mut outputs);
    let mut sums = vec![0i64; 20 * 6];
    for (at, c) in (0..20i32).flat_map(|p| (0..16).map(move |c| (p, c))) {
        let v = i64::from(x[at as usize * 32 + c]);
        for (dy, dx) in (-1..=1).flat_map(|a| (-1..=1).map(move |b| (a, b))) {
            let (oy, ox) = (at / 4 + dy, at % 4 + dx);
            if !(0..5).contains(&oy) || !(0..4).contains(&ox) {
                continue;
            }
            let tap = ((1 - dy) * 3 + 1 - dx) as usize;
            for f in 0..6 {
                let weight = i64::from(w[f * pitch + tap * 16 + c] as i8);
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
