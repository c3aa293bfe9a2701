//! The families' references against loops written the other way round: from each input element
//! to the outputs it reaches.

use half::f16;
use tobiuo_ops::Activation;
use tobiuo_tensor::DType;

use super::*;

/// Numbers in [-1, 1) that both f16 and f32 hold exactly.
struct Made(u64);

impl Made {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % 2048) as f64 / 1024.0 - 1.0
    }

    fn bytes(&mut self, len: usize, dtype: DType) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < len {
            out.extend(encode(self.next(), dtype));
        }
        out.truncate(len);
        out
    }
}

fn encode(value: f64, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        _ => (value as f32).to_le_bytes().to_vec(),
    }
}

fn decode(bytes: &[u8], dtype: DType, i: usize) -> f64 {
    match dtype {
        DType::F16 => f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f64(),
        _ => f64::from(f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap())),
    }
}

/// Runs a layer's reference on made-up memory: inputs, constants, output before and after.
fn run(layer: &Layer, types: (&[DType], &[DType], DType)) -> [Vec<Vec<u8>>; 4] {
    let extents = layer.extents();
    let mut numbers = Made(7);
    let mut fill = |lens: &[usize], types: &[DType]| -> Vec<Vec<u8>> {
        assert_eq!(lens.len(), types.len());
        lens.iter().zip(types).map(|(&len, &t)| numbers.bytes(len, t)).collect()
    };
    let inputs = fill(&extents.inputs, types.0);
    let constants = fill(&extents.constants, types.1);
    let before = fill(&extents.outputs, &[types.2]);
    let mut after = before.clone();
    let slices = |v: &'_ [Vec<u8>]| v.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(slices(&inputs), extents.inputs);
    let borrow: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let borrow_constants: Vec<&[u8]> = constants.iter().map(Vec::as_slice).collect();
    layer.reference(&borrow, &borrow_constants, &mut after);
    [inputs, constants, before, after]
}

fn close(got: f64, want: f64, dtype: DType, what: &str) {
    let unit = if dtype == DType::F16 { 6e-4 } else { 1e-7 };
    assert!((got - want).abs() <= unit * want.abs().max(1.0), "{what}: {got}, wanted {want}");
}

#[test]
fn convolution_with_everything() {
    let layer = ConvLayer {
        batch: 2,
        input: [7, 5],
        output: [4, 6],
        channels: 8,
        x_pitch: 16,
        filters: 5,
        filters_stored: 8,
        y_pitch: 24,
        kernel: [3, 2],
        strides: [2, 1],
        pads: [2, 1],
        dilations: [2, 1],
        residual_pitch: Some(8),
        activation: Some(Activation::LeakyRelu { alpha: 0.25 }),
        residual_last: false,
        pooled: false,
        planes: None,
        y_planes: None,
        x: DType::F16,
        x_zero_point: 0,
        y: Numbers::F16,
        residual: Numbers::F16,
    };
    let (h, f) = (DType::F16, DType::F32);
    let [inputs, constants, before, after] =
        run(&Layer::Conv(layer.clone()), (&[h, h], &[h, f], h));
    let l = &layer;
    let mut sums = vec![0.0; 2 * 4 * 6 * 5];
    for n in 0..2 {
        for ((ih, iw), c) in (0..7)
            .flat_map(|y| (0..5).map(move |x| (y, x)))
            .flat_map(|p| (0..8).map(move |c| (p, c)))
        {
            let x = decode(&inputs[0], h, ((n * 7 + ih) * 5 + iw) * 16 + c);
            for (r, s) in (0..3).flat_map(|r| (0..2).map(move |s| (r, s))) {
                // ih = 2 oh - 2 + 2 r, iw = ow - 1 + s
                let (top, left) = (ih as i32 + 2 - 2 * r, iw as i32 + 1 - s);
                if top < 0 || top % 2 != 0 || top / 2 >= 4 || !(0..6).contains(&left) {
                    continue;
                }
                for o in 0..5 {
                    let k = ((r * 2 + s) * 8) as usize + c;
                    let w = decode(&constants[0], h, l.weight_at(o, k));
                    sums[((n * 4 + (top / 2) as usize) * 6 + left as usize) * 5 + o] += x * w;
                }
            }
        }
    }
    for pixel in 0..48 {
        for o in 0..8 {
            let bias = if o < 5 { sums[pixel * 5 + o] + decode(&constants[1], f, o) } else { 0.0 };
            let v = bias + decode(&inputs[1], h, pixel * 8 + o);
            let want = if v < 0.0 { v / 4.0 } else { v };
            close(decode(&after[0], h, pixel * 24 + o), want, h, &format!("{pixel} {o}"));
        }
        if pixel < 47 {
            let gap = pixel * 48 + 16..pixel * 48 + 48;
            assert_eq!(after[0][gap.clone()], before[0][gap], "between the pixels");
        }
    }
}

#[test]
fn depthwise_of_both_types() {
    for dtype in [DType::F16, DType::F32] {
        let layer = DepthwiseLayer {
            dtype,
            batch: 1,
            input: [5, 6],
            output: [5, 3],
            channels: 16,
            multiplier: 1,
            x_pitch: 24,
            y_pitch: 16,
            kernel: [3, 3],
            strides: [1, 2],
            pads: [1, 1],
            dilations: [1, 1],
            residual_pitch: None,
            activation: Some(Activation::Relu),
            ends: None,
        };
        let [inputs, constants, _, after] =
            run(&Layer::Depthwise(layer), (&[dtype], &[dtype, DType::F32], dtype));
        for (oh, ow) in (0..5).flat_map(|y| (0..3).map(move |x| (y, x))) {
            for c in 0..16 {
                let mut want = decode(&constants[1], DType::F32, c);
                for (ih, iw) in (0..5).flat_map(|y| (0..6).map(move |x| (y, x))) {
                    let (r, s) = (ih as i32 - oh + 1, iw as i32 - 2 * ow + 1);
                    if (0..3).contains(&r) && (0..3).contains(&s) {
                        want += decode(&inputs[0], dtype, (ih * 6 + iw) * 24 + c)
                            * decode(&constants[0], dtype, (r * 3 + s) as usize * 16 + c);
                    }
                }
                let got = decode(&after[0], dtype, (oh * 3 + ow) as usize * 16 + c);
                close(got, want.max(0.0), dtype, &format!("{oh} {ow} {c}"));
            }
        }
    }
}

#[test]
fn fully_connected_rows() {
    for y_f32 in [false, true] {
        let layer = GemvLayer {
            dtype: DType::F16,
            batch: 3,
            depth: 24,
            x_pitch: 32,
            outputs: 5,
            y_pitch: 8,
            y_f32,
            activation: Some(Activation::Clip { min: -0.5, max: 1.5 }),
            y: None,
        };
        let h = DType::F16;
        let y = if y_f32 { DType::F32 } else { h };
        let [inputs, constants, before, after] =
            run(&Layer::Gemv(layer), (&[h], &[h, DType::F32], y));
        for (row, o) in (0..3).flat_map(|r| (0..5).map(move |o| (r, o))) {
            let mut want = decode(&constants[1], DType::F32, o);
            for k in (0..24).rev() {
                want += decode(&inputs[0], h, row * 32 + k) * decode(&constants[0], h, o * 24 + k);
            }
            let got = decode(&after[0], y, row * 8 + o);
            close(got, want.clamp(-0.5, 1.5), y, &format!("{row} {o}"));
        }
        assert_eq!(after[0][5 * y.size()..8 * y.size()], before[0][5 * y.size()..8 * y.size()]);
    }
}
