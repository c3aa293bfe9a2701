//! Cases of the onnx package's own backend tests: `golden.json`, written by `golden.py`.

use tobiuo_ops::Op;
use tobiuo_tensor::{Tensor, TensorData};

fn tensor(v: &serde_json::Value) -> Tensor {
    let shape: Vec<usize> = serde_json::from_value(v["shape"].clone()).unwrap();
    let data = v["data"].as_array().unwrap();
    // Infinities are written as text.
    let real = |e: &serde_json::Value| match e.as_str() {
        Some(text) => text.parse().unwrap(),
        None => e.as_f64().unwrap() as f32,
    };
    let int = |e: &serde_json::Value| e.as_i64().unwrap();
    let data = match v["type"].as_str().unwrap() {
        "f32" => TensorData::F32(data.iter().map(real).collect()),
        "i64" => TensorData::I64(data.iter().map(int).collect()),
        "i32" => TensorData::I32(data.iter().map(|e| int(e) as i32).collect()),
        "i8" => TensorData::I8(data.iter().map(|e| int(e) as i8).collect()),
        "u8" => TensorData::U8(data.iter().map(|e| int(e) as u8).collect()),
        _ => TensorData::Bool(data.iter().map(|e| int(e) as u8).collect()),
    };
    Tensor::new(shape, data)
}

#[test]
fn onnx_backend_cases() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden.json")).unwrap();
    assert!(cases.len() > 150, "{} cases", cases.len());
    let mut failures = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let op: Op = serde_json::from_value(case["op"].clone()).unwrap();
        let inputs: Vec<Tensor> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
        let got = match tobiuo_cpu::evaluate(&op, &inputs.iter().collect::<Vec<_>>()) {
            Ok(got) => got,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        for (got, expected) in got.iter().zip(case["outputs"].as_array().unwrap()) {
            let expected = tensor(expected);
            let close = |(g, e): (f64, f64)| {
                g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= 1e-5 + 1e-5 * e.abs()
            };
            let fits = got.shape() == expected.shape()
                && got.dtype() == expected.dtype()
                && got.to_f64().into_iter().zip(expected.to_f64()).all(close);
            if !fits {
                failures.push(format!(
                    "{name}: {op:?}\n  got {:?} {:?}\n  expected {:?} {:?}",
                    got.shape(),
                    got.to_f64(),
                    expected.shape(),
                    expected.to_f64()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
