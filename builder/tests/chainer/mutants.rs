//! A dump with a layer of every type, changed at random: an error or a graph that runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::interpret;
use tobiuo_tensor::Tensor;

use crate::dump::Dump;
use crate::hostile::{network, read};

/// A small generator (xorshift64*): the test is the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

/// A value changed somewhere inside.
fn distort(value: &mut Value, strings: &[String], random: &mut Random) {
    match value {
        Value::Array(list) if !list.is_empty() && random.below(10) > 0 => {
            let at = random.below(list.len());
            distort(&mut list[at], strings, random);
        }
        Value::Object(map) if !map.is_empty() && random.below(10) > 0 => {
            let at = random.below(map.len());
            match random.below(12) {
                0 => {
                    let key = map.keys().nth(at).unwrap().clone();
                    map.remove(&key);
                }
                1 => {
                    let key = map.keys().nth(at).unwrap().clone();
                    let moved = map.remove(&key).unwrap();
                    map.insert(strings[random.below(strings.len())].clone(), moved);
                }
                _ => distort(map.values_mut().nth(at).unwrap(), strings, random),
            }
        }
        other => {
            *other = match random.below(14) {
                0 => Value::Null,
                1 => json!(-1 - random.below(4) as i64),
                2 => json!(u64::MAX >> random.below(64)),
                3 => json!(i64::MIN),
                4 => json!(1u64 << random.below(40)),
                5 => json!([0.5, -0.0, 1e30, -3.0][random.below(4)]),
                6 => json!(random.below(2) == 1),
                7 => json!([]),
                8 => json!([random.below(4), random.below(4)]),
                9 => json!([null, null, random.below(5) as i64 - 2]),
                10 | 11 => json!(strings[random.below(strings.len())]),
                _ => json!(random.below(8)),
            }
        }
    }
}

/// A dump with a layer of every type, on small shapes.
fn everything() -> Dump {
    let window = json!({
        "window_height": 2, "window_width": 2, "stride_y": 2, "stride_x": 2, "pad_h": 0,
        "pad_w": 0, "cover_all": true,
    });
    let conv = json!({
        "kernel_h": 2, "kernel_w": 2, "stride_y": 1, "stride_x": 1, "pad_h": 0, "pad_w": 0,
        "dilation_y": 1, "dilation_x": 1, "groups": 1, "n_out": 2,
    });
    let resize = json!({"n_channels": 2, "input_hw": [3, 3], "output_hw": [5, 6]});
    let mut dump = network()
        .constant("k", &[1, 3, 1, 1], &[1.0, 2.0, 3.0])
        .layer("Convolution2DFunction", "c", &["relu_0"], conv.clone())
        .weight("kernel", &[2, 3, 2, 2], &[0.25; 24])
        .weight("bias", &[2], &[0.0, 1.0])
        .layer("Deconvolution2DFunction", "d", &["c_0"], conv)
        .weight("kernel", &[2, 2, 2, 2], &[0.25; 16])
        .weight("bias", &[2], &[0.0, 1.0])
        .layer("BatchNormalizationFunction", "bn", &["c_0"], json!({"eps": 1e-5}));
    for key in ["gamma", "beta", "mean", "var"] {
        dump = dump.weight(key, &[2], &[1.0, 2.0]);
    }
    let lrn = json!({"n": 3, "k": 1, "alpha": 0.1, "beta": 0.75});
    dump.layer("LinearFunction", "fc", &["c_0"], json!({"n_out": 2}))
        .weight("kernel", &[2, 18], &[0.1; 36])
        .weight("bias", &[2], &[0.0, 1.0])
        .layer("AddConstant", "ac", &["c_0"], json!({}))
        .weight("constant", &[1], &[2.0])
        .layer("DivFromConstant", "dc", &["c_0"], json!({}))
        .weight("constant", &[2, 3, 3], &[2.0; 18])
        .layer("LocalResponseNormalization", "lrn", &["c_0"], lrn)
        .layer("LeakyReLU", "leaky", &["c_0"], json!({"slope": 0.1}))
        .layer("Softmax", "soft", &["c_0"], json!({"axis": 0}))
        .layer("MaxPooling2D", "max", &["c_0"], window.clone())
        .layer("AveragePooling2D", "avg", &["c_0"], window)
        .layer("Concat", "cat", &["c_0", "bn_0"], json!({"axis": 0}))
        .layer("Copy", "copy", &["c_0"], json!({}))
        .layer("Reshape", "re", &["c_0"], json!({"shape": [3, 6]}))
        .layer("Transpose", "tr", &["c_0"], json!({"axes": [1, 2, 0]}))
        .layer("Mul", "mul", &["relu_0", "k"], json!({}))
        .layer("Unary", "un", &["c_0"], json!({"operation": "exp"}))
        .layer("MatMul", "mm", &["c_0", "bn_0"], json!({"transa": true, "transb": false}))
        .layer("LinearInterpolate", "li", &["c_0", "bn_0", "ac_0"], json!({}))
        .layer("BroadcastTo", "br", &["fc_0"], json!({"in_shape": [2], "out_shape": [2]}))
        .layer("ResizeImages", "rs", &["c_0"], resize.clone())
        .layer("ResizeArgmax", "ra", &["c_0"], resize)
        .layer("GetItem", "gi", &["c_0"], json!({"slices": [0, [null, null, -1], [0, 2, 1]]}))
        .layer("Where", "wh", &["c_0", "bn_0", "ac_0"], json!({}))
        .layer("ArgMax", "am", &["c_0"], json!({"shape": [2, 3, 3]}))
        .layer("Sum", "su", &["c_0"], json!({"shape": [2, 3, 3]}))
        .layer("Shift", "sh", &["c_0"], json!({"kh": 1, "kw": 1, "dx": 1, "dy": 1}))
        .layer("CornerPooling", "cp", &["c_0"], json!({"dir": "top"}))
        .layer("SplitAxis", "sp", &["re_0"], json!({"axis": 1, "sections": 1}))
        .layer("TobiuoOp", "op", &["c_0"], json!({"op": {"activation": {"elu": {"alpha": 1.0}}}}))
}

#[test]
fn mutants_never_panic_or_hang() {
    let dump = everything();
    let names: Vec<String> = dump.model["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| format!("{}_0", l["name"].as_str().unwrap()))
        .collect();
    let mut model = dump.model.clone();
    let outputs = names.iter().filter(|n| !matches!(n.as_str(), "x_0" | "k_0"));
    model["outputs"] = outputs.map(|n| json!([n, n])).collect();
    let path = dump.path().join("model.json");
    std::fs::write(&path, model.to_string()).unwrap();
    let graph = read(dump.path()).unwrap_or_else(|e| panic!("{e}"));
    run(&graph, "as written");
    let keys = [
        "source",
        "sources",
        "shape",
        "axis",
        "name",
        "type",
        "../x",
        "/etc/passwd",
        "",
        "ReLU",
        "Reshape",
        "Add",
        "Concat",
        "GetItem",
        "conv_0",
        "c_kernel.weights",
    ];
    let mut strings: Vec<String> = keys.iter().map(|s| s.to_string()).collect();
    strings.extend(names);
    strings.extend(
        model["layers"].as_array().unwrap().iter().map(|l| l["type"].as_str().unwrap().to_string()),
    );
    let weights: Vec<String> =
        ["conv_kernel", "c_bias", "d_kernel", "bn_var", "ac_constant", "fc_kernel"]
            .iter()
            .map(|n| format!("{n}.weights"))
            .collect();
    let (mut imported, mut ran) = (0, 0);
    let text = model.to_string().into_bytes();
    const MUTANTS: u64 = 2500;
    for seed in 0..MUTANTS {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1) << 20);
        let name = format!("mutant {seed}");
        let mut restore = None;
        match seed % 10 {
            // Bytes of the JSON.
            0 => {
                let mut bytes = text.clone();
                for _ in 0..=random.below(3) {
                    let at = random.below(bytes.len());
                    match random.below(3) {
                        0 => bytes[at] ^= 1 << random.below(8),
                        1 => bytes.truncate(at.max(1)),
                        _ => bytes[at] = b"0123456789,:[]{}\"-"[random.below(18)],
                    }
                }
                std::fs::write(&path, bytes).unwrap();
            }
            // Bytes of a weight.
            1 => {
                std::fs::write(&path, &text).unwrap();
                let file = dump.path().join(&weights[random.below(weights.len())]);
                let good = std::fs::read(&file).unwrap();
                let mut bytes = good.clone();
                let end = bytes.len().min(if random.below(2) == 0 { usize::MAX } else { 12 });
                let at = random.below(end);
                match random.below(3) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes.truncate(at),
                    _ => bytes[at] = b"0123456789,\n-"[random.below(13)],
                }
                std::fs::write(&file, bytes).unwrap();
                restore = Some((file, good));
            }
            // Meaning.
            _ => {
                let mut model = model.clone();
                (0..=random.below(2))
                    .for_each(|_| distort(&mut model["layers"], &strings, &mut random));
                std::fs::write(&path, model.to_string()).unwrap();
            }
        }
        let started = Instant::now();
        let result = std::panic::catch_unwind(|| read(dump.path()));
        let Ok(result) = result else { panic!("{name} panics the importer") };
        if let Ok(graph) = result {
            imported += 1;
            ran += usize::from(run(&graph, &name));
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{name} takes {:?}",
            started.elapsed()
        );
        if let Some((file, good)) = restore {
            std::fs::write(file, good).unwrap();
        }
    }
    assert!(imported > 200 && ran > 200, "{imported} of {MUTANTS} imported, {ran} ran");
}

/// What imports runs, too, where it is small.
fn run(graph: &Graph, name: &str) -> bool {
    let elements = graph.values().map(|(_, v)| v.fact.numel()).fold(0, usize::saturating_add);
    if elements > 100_000 {
        return false;
    }
    let inputs: Vec<(&str, Tensor)> = (graph.inputs.iter())
        .map(|&id| {
            let v = graph.value(id);
            (v.name.as_str(), Tensor::zeros(v.fact.dtype, v.fact.shape.clone()))
        })
        .collect();
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let run = std::panic::AssertUnwindSafe(|| interpret::run(graph, &inputs).map(|_| ()));
    match std::panic::catch_unwind(run) {
        Ok(_) => true,
        Err(_) => panic!("{name} imports and then panics a kernel"),
    }
}
