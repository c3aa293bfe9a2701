//! Layers of integers against plain loops: every bit.

use tobiuo_cpu::{Inputs, evaluate, prepare};
use tobiuo_ops::*;
use tobiuo_tensor::{DType, Tensor, TensorData, TensorViewMut};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    fn int(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    fn chance(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn real(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.next() >> 40) as f32 / (1 << 24) as f32)
    }

    fn reals(&mut self, n: usize, low: f32, high: f32) -> Tensor {
        Tensor::f32([n], (0..n).map(|_| self.real(low, high)).collect())
    }

    fn byte(&mut self) -> DType {
        if self.chance() { DType::I8 } else { DType::U8 }
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let data = match dtype {
            DType::I8 => TensorData::I8((0..n).map(|_| self.next() as i8).collect()),
            DType::U8 => TensorData::U8((0..n).map(|_| self.next() as u8).collect()),
            _ => TensorData::F32((0..n).map(|_| self.real(-4.0, 4.0)).collect()),
        };
        Tensor::new(shape.to_vec(), data)
    }

    fn zero_point(&mut self, dtype: DType) -> i32 {
        match (self.int(0, 2), dtype) {
            (0, DType::I8) => self.int(0, 255) as i32 - 128,
            (0, _) => self.int(0, 255) as i32,
            _ => 0,
        }
    }

    fn quantization(&mut self, dtype: DType) -> Quantization {
        Quantization { scale: self.real(0.01, 0.2), zero_point: self.zero_point(dtype) }
    }

    fn output(&mut self) -> Option<Requantization> {
        if self.int(0, 3) == 0 {
            return None;
        }
        let to = self.byte();
        Some(Requantization { to, scale: self.real(0.01, 0.2), zero_point: self.zero_point(to) })
    }

    fn activation(&mut self) -> Option<Activation> {
        [
            None,
            Some(Activation::Relu),
            Some(Activation::LeakyRelu { alpha: 0.1 }),
            Some(Activation::Clip { min: 0.0, max: 6.0 }),
            Some(Activation::Sigmoid),
            Some(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }),
            Some(Activation::HardSwish),
            Some(Activation::Silu),
        ][self.int(0, 7)]
    }
}

fn ints(t: &Tensor) -> Vec<i32> {
    t.to_i64().unwrap().iter().map(|&v| v as i32).collect()
}

/// Elements as bits, so that signs of zeros count.
fn bits(t: &Tensor) -> Vec<u32> {
    match t.data() {
        TensorData::F32(v) => v.iter().map(|x| x.to_bits()).collect(),
        _ => ints(t).iter().map(|&v| v as u32).collect(),
    }
}

/// One result as bits.
fn stored(v: f32, output: Option<Requantization>) -> u32 {
    let Some(r) = output else { return v.to_bits() };
    let (low, high) = if r.to == DType::U8 { (0.0, 255.0) } else { (-128.0, 127.0) };
    let q = f64::from((v * (1.0 / r.scale)).round_ties_even()) + f64::from(r.zero_point);
    if q.is_nan() { r.zero_point as u32 } else { q.clamp(low, high) as i32 as u32 }
}

/// The epilogue of one element.
fn finished(e: &Epilogue, sum: i64, m: f32, b: f32, residual: Option<f64>) -> u32 {
    let add = |v: f32| match (e.residual, residual) {
        (Some(Residual { quantization: Some(q), .. }), Some(r)) => {
            ((r as i32 - q.zero_point) as f32).mul_add(q.scale, v)
        }
        (Some(_), Some(r)) => v + r as f32,
        _ => v,
    };
    let after = e.residual.is_some_and(|r| r.after_activation);
    let mut v = (i32::try_from(sum).unwrap() as f32).mul_add(m, b);
    if !after {
        v = add(v);
    }
    v = e.activation.map_or(v, |a| a.exact(v));
    stored(if after { add(v) } else { v }, e.output)
}

fn epilogue(rng: &mut Rng, shape: &[usize]) -> (Epilogue, Option<Tensor>) {
    let mut e = Epilogue { residual: None, activation: rng.activation(), output: rng.output() };
    if rng.chance() {
        return (e, None);
    }
    let dtype = if rng.int(0, 3) == 0 { DType::F32 } else { rng.byte() };
    let quantization = (dtype != DType::F32).then(|| rng.quantization(dtype));
    e.residual = Some(Residual { quantization, after_activation: rng.chance() });
    (e, Some(rng.tensor(dtype, shape)))
}

/// Runs an op with and without constant weights and, where it may, over its residual.
fn check(op: &Op, inputs: &[&Tensor], wanted: &[u32]) {
    let got = evaluate(op, inputs).unwrap();
    assert_eq!(bits(&got[0]), wanted, "{op:?}");
    let facts: Vec<Fact> = inputs.iter().map(|t| Fact::new(t.dtype(), t.shape())).collect();
    let out = infer(op, &facts).unwrap().remove(0);
    let kernel = prepare(op, &facts, &vec![None; facts.len()]).unwrap();
    let mut scratch = vec![0xa5u64; kernel.scratch_bytes().div_ceil(8) + 16];
    let bytes: &mut [u8] = bytemuck_bytes(&mut scratch);
    let at = bytes.as_ptr().align_offset(64);
    let places = in_place_inputs(op, &facts, &out);
    for place in std::iter::once(None).chain(places.into_iter().map(Some)) {
        let mut result = match place {
            Some(i) => inputs[i].clone(),
            None => poisoned(&out),
        };
        let get = |i: usize| (Some(i) != place).then(|| inputs[i].view());
        let view: TensorViewMut<'_> = result.view_mut();
        kernel.run(Inputs::new(inputs.len(), &get), &mut [view], &mut bytes[at..]);
        assert_eq!(bits(&result), wanted, "{op:?} over {place:?}");
    }
}

fn bytemuck_bytes(words: &mut [u64]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}

fn poisoned(out: &Fact) -> Tensor {
    let n = out.numel();
    let data = match out.dtype {
        DType::I8 => TensorData::I8(vec![99; n]),
        DType::U8 => TensorData::U8(vec![99; n]),
        _ => TensorData::F32(vec![f32::NAN; n]),
    };
    Tensor::new(out.shape.clone(), data)
}

#[test]
fn convolutions() {
    let mut rng = Rng(1);
    for round in 0..160 {
        let groups = if round % 3 == 0 { rng.int(1, 5) } else { 1 };
        let depthwise = round % 5 == 0;
        let (cg, og) =
            if depthwise { (1, rng.int(1, 2)) } else { (rng.int(1, 40), rng.int(1, 11)) };
        let one_axis = round % 11 == 0;
        let axes = if one_axis { 1 } else { 2 };
        let many =
            |rng: &mut Rng, low, high| (0..axes).map(|_| rng.int(low, high)).collect::<Vec<_>>();
        let kernel = many(&mut rng, 1, 3);
        let (strides, dilations) = (many(&mut rng, 1, 2), many(&mut rng, 1, 2));
        let pads: Vec<usize> = (0..2 * axes).map(|_| rng.int(0, 2)).collect();
        let mut shape = vec![rng.int(1, 2), cg * groups];
        shape.extend((0..axes).map(|i| {
            let extent = (kernel[i] - 1) * dilations[i] + 1;
            rng.int(extent, if round % 7 == 0 { 80 } else { 14 })
        }));
        let dtype = rng.byte();
        let x = rng.tensor(dtype, &shape);
        let mut weight_shape = vec![og * groups, cg];
        weight_shape.extend(&kernel);
        let w = rng.tensor(DType::I8, &weight_shape);
        let x_zero_point = rng.zero_point(dtype);
        let mut a = QuantConv {
            kernel,
            strides,
            pads,
            dilations,
            groups,
            x_zero_point,
            epilogue: Epilogue::default(),
        };
        let filters = og * groups;
        let (m, b) = (rng.reals(filters, 1e-5, 1e-3), rng.reals(filters, -2.0, 2.0));
        let facts: Vec<Fact> =
            [&x, &w, &m, &b].map(|t| Fact::new(t.dtype(), t.shape())).into_iter().collect();
        let out = infer(&Op::QuantConv(a.clone()), &facts).unwrap().remove(0).shape;
        let (e, residual) = epilogue(&mut rng, &out);
        a.epilogue = e.clone();

        let two = |v: &[usize], one: usize| if axes == 2 { [v[0], v[1]] } else { [one, v[0]] };
        let ([h, wd], [oh, ow]) = (two(&shape[2..], 1), two(&out[2..], 1));
        let ([kh, kw], [sy, sx]) = (two(&a.kernel, 1), two(&a.strides, 1));
        let ([dy, dx], [py, px]) = (two(&a.dilations, 1), two(&a.pads, 0));
        let (xs, ws) = (ints(&x), ints(&w));
        let (ms, bs) = (m.as_f32().unwrap(), b.as_f32().unwrap());
        let added = residual.as_ref().map(Tensor::to_f64);
        let mut wanted = Vec::new();
        for n in 0..shape[0] {
            for o in 0..filters {
                for y in 0..oh {
                    for xx in 0..ow {
                        let mut sum = 0i64;
                        for c in 0..cg {
                            for ky in 0..kh {
                                for kx in 0..kw {
                                    let iy = (y * sy + ky * dy).wrapping_sub(py);
                                    let ix = (xx * sx + kx * dx).wrapping_sub(px);
                                    if iy < h && ix < wd {
                                        let channel = o / og * cg + c;
                                        let at = ((n * shape[1] + channel) * h + iy) * wd + ix;
                                        let k = ((o * cg + c) * kh + ky) * kw + kx;
                                        sum += i64::from(xs[at] - x_zero_point) * i64::from(ws[k]);
                                    }
                                }
                            }
                        }
                        let at = wanted.len();
                        let r = added.as_ref().map(|v| v[at]);
                        wanted.push((sum, ms[o], bs[o], r));
                    }
                }
            }
        }
        let wanted: Vec<u32> =
            wanted.into_iter().map(|(s, m, b, r)| finished(&e, s, m, b, r)).collect();
        let mut inputs = vec![&x, &w, &m, &b];
        inputs.extend(&residual);
        check(&Op::QuantConv(a), &inputs, &wanted);
    }
}

#[test]
fn fully_connected() {
    let mut rng = Rng(2);
    for round in 0..60 {
        let (m, k) = (rng.int(1, 4), rng.int(1, 300));
        let n = rng.int(1, if round % 4 == 0 { 400 } else { 20 });
        let dtype = rng.byte();
        let x = rng.tensor(dtype, &[m, k]);
        let w = rng.tensor(DType::I8, &[n, k]);
        let (mult, bias) = (rng.reals(n, 1e-5, 1e-3), rng.reals(n, -2.0, 2.0));
        let (e, residual) = epilogue(&mut rng, &[m, n]);
        let x_zero_point = rng.zero_point(dtype);
        let (xs, ws) = (ints(&x), ints(&w));
        let added = residual.as_ref().map(Tensor::to_f64);
        let mut wanted = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let sum = (0..k)
                    .map(|q| i64::from(xs[i * k + q] - x_zero_point) * i64::from(ws[j * k + q]))
                    .sum();
                let r = added.as_ref().map(|v| v[i * n + j]);
                let (m, b) = (mult.as_f32().unwrap()[j], bias.as_f32().unwrap()[j]);
                wanted.push(finished(&e, sum, m, b, r));
            }
        }
        let mut inputs = vec![&x, &w, &mult, &bias];
        inputs.extend(&residual);
        check(&Op::QuantGemm(QuantGemm { x_zero_point, epilogue: e }), &inputs, &wanted);
    }
}

#[test]
fn element_wise() {
    let mut rng = Rng(3);
    let shapes: &[(&[usize], &[usize])] = &[
        (&[2, 5, 7, 9], &[2, 5, 7, 9]),
        (&[2, 5, 7, 9], &[1, 5, 1, 1]),
        (&[5, 1, 3], &[2, 1, 4, 1]),
        (&[1000], &[1]),
    ];
    for round in 0..80 {
        let (sa, sb) = shapes[round % shapes.len()];
        let side = |rng: &mut Rng, shape| {
            let dtype = if rng.int(0, 3) == 0 { DType::F32 } else { rng.byte() };
            let q = (dtype != DType::F32).then(|| rng.quantization(dtype));
            (rng.tensor(dtype, shape), q)
        };
        let (a, qa) = side(&mut rng, sa);
        let (b, qb) = side(&mut rng, sb);
        if qa.is_none() && qb.is_none() {
            continue;
        }
        let kinds = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Min, Binary::Max];
        let kind = kinds[rng.int(0, 4)];
        let (activation, output) = (rng.activation(), rng.output());
        let real = |t: &Tensor, q: Option<Quantization>| -> Tensor {
            match q {
                None => t.clone(),
                Some(q) => {
                    let of = |v: i32| (v - q.zero_point) as f32 * q.scale;
                    Tensor::f32(t.shape(), ints(t).into_iter().map(of).collect())
                }
            }
        };
        // Broadcasting is the f32 op's, which has tests of its own.
        let plain = Op::Binary { kind, activation: None };
        let v = evaluate(&plain, &[&real(&a, qa), &real(&b, qb)]).unwrap().remove(0);
        let wanted: Vec<u32> = (v.as_f32().unwrap().iter())
            .map(|&v| stored(activation.map_or(v, |f| f.exact(v)), output))
            .collect();
        let op = Op::QuantBinary(QuantBinary { kind, a: qa, b: qb, activation, output });
        check(&op, &[&a, &b], &wanted);
    }
}

#[test]
fn pools() {
    let mut rng = Rng(4);
    for round in 0..80 {
        let kernel = vec![rng.int(1, 4), rng.int(1, 4)];
        let dilations = vec![rng.int(1, 2), rng.int(1, 2)];
        let extent = |i: usize| (kernel[i] - 1) * dilations[i] + 1;
        let pads: Vec<usize> = (0..4).map(|i| rng.int(0, (extent(i % 2) - 1).min(2))).collect();
        let wide = if round % 10 == 0 { 700 } else { 15 };
        let shape =
            [rng.int(1, 2), rng.int(1, 5), rng.int(extent(0), 15), rng.int(extent(1), wide)];
        let padded = rng.chance();
        let pool = Pool {
            kind: PoolKind::Average { count_include_pad: padded },
            strides: vec![rng.int(1, 3), rng.int(1, 3)],
            pads,
            dilations,
            ceil_mode: rng.chance(),
            kernel,
        };
        let dtype = rng.byte();
        let x = rng.tensor(dtype, &shape);
        let (q, output) = (rng.quantization(dtype), rng.output());
        let average = Op::QuantPool(QuantPool { pool: pool.clone(), x: q, output });
        let max = Op::Pool(Pool { kind: PoolKind::Max, ..pool.clone() });
        let out = infer(&max, &[Fact::new(dtype, shape)]).unwrap().remove(0).shape;
        let xs = ints(&x);
        let (mut averages, mut maxima) = (Vec::new(), Vec::new());
        for plane in 0..shape[0] * shape[1] {
            for oy in 0..out[2] {
                for ox in 0..out[3] {
                    let (mut sum, mut n, mut most) = (0i32, 0usize, i32::MIN);
                    for ky in 0..pool.kernel[0] {
                        for kx in 0..pool.kernel[1] {
                            let y = oy * pool.strides[0] + ky * pool.dilations[0];
                            let xx = ox * pool.strides[1] + kx * pool.dilations[1];
                            let (ph, pw) = (shape[2] + pool.pads[0], shape[3] + pool.pads[1]);
                            let inside =
                                (pool.pads[0]..ph).contains(&y) && (pool.pads[1]..pw).contains(&xx);
                            if inside {
                                let (y, xx) = (y - pool.pads[0], xx - pool.pads[1]);
                                let v = xs[(plane * shape[2] + y) * shape[3] + xx];
                                (sum, most) = (sum + v - q.zero_point, most.max(v));
                            }
                            let counts = y < ph + pool.pads[2] && xx < pw + pool.pads[3];
                            n += usize::from(if padded { counts } else { inside });
                        }
                    }
                    averages.push(stored(sum as f32 * (q.scale / n as f32), output));
                    maxima.push(most as u32);
                }
            }
        }
        check(&average, &[&x], &averages);
        check(&max, &[&x], &maxima);
    }
}

#[test]
fn quantize_and_back() {
    let mut rng = Rng(5);
    for round in 0..40 {
        let shape = [2, 3, rng.int(1, 50)];
        let axis = if round % 2 == 0 { None } else { Some(rng.int(0, 2)) };
        let n = axis.map_or(1, |a| shape[a]);
        let dtype = rng.byte();
        let mut x = rng.tensor(DType::F32, &shape);
        x.as_f32_mut().unwrap()[..3].copy_from_slice(&[f32::NAN, f32::INFINITY, -1e30]);
        let scale_shape = if axis.is_none() { vec![] } else { vec![n] };
        let scale = rng.reals(n, 0.01, 0.1).reshaped(scale_shape.clone()).unwrap();
        let zero = rng.tensor(dtype, &scale_shape);
        let zeros = ints(&zero);
        let inner = axis.map_or(usize::MAX, |a| shape[a + 1..].iter().product());
        let scales = scale.as_f32().unwrap();
        let (low, high) = if dtype == DType::U8 { (0.0, 255.0) } else { (-128.0, 127.0) };
        let wanted: Vec<u32> = (x.as_f32().unwrap().iter().enumerate())
            .map(|(i, &v)| {
                let s = i / inner % n;
                let q = f64::from((v / scales[s]).round_ties_even()) + f64::from(zeros[s]);
                if v.is_nan() { zeros[s] as u32 } else { q.clamp(low, high) as i32 as u32 }
            })
            .collect();
        check(&Op::Quantize { axis, to: dtype }, &[&x, &scale, &zero], &wanted);
        let q = rng.tensor(dtype, &shape);
        let wanted: Vec<u32> = (ints(&q).iter().enumerate())
            .map(|(i, &v)| ((v - zeros[i / inner % n]) as f32 * scales[i / inner % n]).to_bits())
            .collect();
        check(&Op::Dequantize { axis }, &[&q, &scale, &zero], &wanted);
        let table = rng.tensor([DType::I8, DType::U8, DType::F32][round % 3], &[256]);
        let entries = bits(&table);
        let first = if dtype == DType::I8 { 128 } else { 0 };
        let wanted: Vec<u32> = ints(&q).iter().map(|&v| entries[(v + first) as usize]).collect();
        check(&Op::Lookup, &[&q, &table], &wanted);
    }
}
