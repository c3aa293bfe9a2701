//! Layers without windows: element by element, constants, movement, forms of dumps.

use crate::dump::{Dump, write_raw};
use crate::every_way::{check, each_picture, numbers, read, single, tensor};
use serde_json::{Value, json};
use tobiuo_builder::import::{ImportOptions, import};
use tobiuo_tensor::Tensor;

fn element_wise(kind: &str, more: Value, f: impl Fn(f64) -> f64) {
    each_picture(single(kind, &[2, 3, 5], more), &[2, 3, 5], |x| {
        (vec![2, 3, 5], x.iter().map(|&v| f(f64::from(v)) as f32).collect())
    });
}

#[test]
fn activations_and_copies() {
    element_wise("ReLU", json!({}), |x| x.max(0.0));
    element_wise("Sigmoid", json!({}), |x| 1.0 / (1.0 + (-x).exp()));
    element_wise("Tanh", json!({}), f64::tanh);
    for slope in [0.1, 2.0, -0.5] {
        let f = |x: f64| if x >= 0.0 { x } else { slope * x };
        element_wise("LeakyReLU", json!({"slope": slope}), f);
    }
    element_wise("Copy", json!({}), |x| x);
    element_wise("Dropout", json!({"dropout_ratio": 0.5}), |x| x);
}

#[test]
fn unary_functions() {
    let unary = |operation: &str, f: fn(f64) -> f64| {
        // Of exp(x), so that logarithms and roots are defined.
        let dump = Dump::new()
            .input("x", &[2, 3, 5])
            .layer("Unary", "e", &["x"], json!({"operation": "exp"}))
            .layer("Unary", "u", &["e_0"], json!({"operation": operation}))
            .output("u_0", "y");
        each_picture(dump, &[2, 3, 5], |x| {
            (vec![2, 3, 5], x.iter().map(|&v| f(f64::from(v).exp()) as f32).collect())
        });
    };
    unary("exp", f64::exp);
    unary("log", f64::ln);
    unary("sqrt", f64::sqrt);
    unary("abs", f64::abs);
    unary("neg", |x| -x);
    unary("recip", f64::recip);
    element_wise("Unary", json!({"operation": "abs"}), f64::abs);
}

#[test]
fn constants_of_one_number_and_of_arrays() {
    type Function = fn(f64, f64) -> f64;
    let kinds: [(&str, Function); 4] = [
        ("AddConstant", |x, c| x + c),
        ("MulConstant", |x, c| x * c),
        ("SubFromConstant", |x, c| c - x),
        ("DivFromConstant", |x, c| c / (x + 2.0)),
    ];
    for (kind, f) in kinds {
        // The divisor stays away from 0.
        let shift = if kind == "DivFromConstant" { 2.0 } else { 0.0 };
        let dump = || {
            Dump::new()
                .input("x", &[2, 2, 3])
                .layer("AddConstant", "s", &["x"], json!({}))
                .weight("constant", &[1], &[shift])
                .layer(kind, "layer", &["s_0"], json!({}))
        };
        let apply = |x: &[f32], c: &dyn Fn(usize) -> f64| {
            let y = x.iter().enumerate().map(|(i, &v)| f(f64::from(v), c(i)) as f32);
            (vec![2, 2, 3], y.collect::<Vec<f32>>())
        };
        // A Python number is written with one axis, a numpy scalar with none.
        for shape in [&[1][..], &[]] {
            let dump = dump().weight("constant", shape, &[1.5]).output("layer_0", "y");
            each_picture(dump, &[2, 2, 3], |x| apply(x, &|_| 1.5));
        }
        let values = numbers(12, 3);
        for shape in [&[2, 2, 3][..], &[1, 2, 2, 3]] {
            let dump = dump().weight("constant", shape, &values).output("layer_0", "y");
            each_picture(dump, &[2, 2, 3], |x| apply(x, &|i| f64::from(values[i])));
        }
        let dump = dump().weight("constant", &[2, 1, 1], &values[..2]).output("layer_0", "y");
        each_picture(dump, &[2, 2, 3], |x| apply(x, &|i| f64::from(values[i / 6])));
    }
}

#[test]
fn functions_of_two_tensors() {
    type Function = fn(f64, f64) -> f64;
    let kinds: [(&str, Function); 6] = [
        ("Add", |a, b| a + b),
        ("Sub", |a, b| a - b),
        ("Mul", |a, b| a * b),
        ("Div", |a, b| a / b),
        ("Maximum", f64::max),
        ("Minimum", f64::min),
    ];
    for (kind, f) in kinds {
        let dump = Dump::new()
            .input("a", &[2, 3])
            .input("b", &[2, 3])
            .input("c", &[3])
            .layer("Unary", "e", &["b"], json!({"operation": "exp"}))
            .layer(kind, "two", &["a", "e_0"], json!({}))
            // The axes of a picture are broadcast, never the batch against one of them.
            .layer(kind, "few", &["a", "c"], json!({}))
            .output("two_0", "y")
            .output("few_0", "z")
            .save();
        for batch in [1, 3] {
            let (a, b) = (tensor(&[batch, 2, 3], 1), tensor(&[batch, 2, 3], 2));
            let c = Tensor::f32([batch, 3], (1..=3 * batch).map(|i| i as f32).collect());
            let y: Vec<f32> =
                a.to_f64().iter().zip(b.to_f64()).map(|(a, b)| f(*a, b.exp()) as f32).collect();
            let of = |i: usize| c.to_f64()[i / 6 * 3 + i % 3];
            let z = a.to_f64().iter().enumerate().map(|(i, a)| f(*a, of(i)) as f32).collect();
            let want = [Tensor::f32([batch, 2, 3], y), Tensor::f32([batch, 2, 3], z)];
            check(&dump, batch, &[("a", a), ("b", b), ("c", c)], &want);
        }
    }
}

#[test]
fn constants_of_the_dump() {
    // With a batch of 1, without one, and a number; one that nothing uses is left alone.
    let dump = Dump::new()
        .input("x", &[2, 2])
        .constant("ConstantInput-0", &[1, 2, 2], &[1.0, 2.0, 3.0, 4.0])
        .constant("ConstantInput-1", &[2, 1], &[10.0, 20.0])
        .constant("ConstantInput-2", &[], &[100.0])
        .constant("ConstantInput-3", &[4, 1, 3, 3], &[0.0; 36])
        .layer("Add", "a", &["x", "ConstantInput-0"], json!({}))
        .layer("Add", "b", &["a_0", "ConstantInput-1"], json!({}))
        .layer("Mul", "c", &["ConstantInput-2", "b_0"], json!({}))
        .layer("Concat", "d", &["c_0", "ConstantInput-0"], json!({"axis": 0}))
        .output("d_0", "y")
        .output("ConstantInput-0", "k")
        .save();
    for batch in [1, 2] {
        let x = Tensor::f32([batch, 2, 2], vec![0.5; 4 * batch]);
        let picture = [1150.0, 1250.0, 2350.0, 2450.0, 1.0, 2.0, 3.0, 4.0];
        let constant = [1.0, 2.0, 3.0, 4.0];
        let want = [
            Tensor::f32([batch, 4, 2], picture.repeat(batch)),
            Tensor::f32([batch, 2, 2], constant.repeat(batch)),
        ];
        check(&dump, batch, &[("x", x)], &want);
    }
}

#[test]
fn interpolation_choice_and_sums() {
    let dump = Dump::new()
        .input("p", &[2, 3])
        .input("x", &[2, 3])
        .input("y", &[2, 3])
        .layer("LinearInterpolate", "i", &["p", "x", "y"], json!({}))
        .layer("Where", "w", &["c", "x", "y"], json!({}))
        .constant("c", &[1, 2, 3], &[1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
        .output("i_0", "i")
        .output("w_0", "w")
        .save();
    let inputs = ["p", "x", "y"].into_iter().zip(1..).map(|(n, s)| (n, tensor(&[2, 2, 3], s)));
    let inputs: Vec<(&str, Tensor)> = inputs.collect();
    let of = |k: usize, i: usize| inputs[k].1.to_f64()[i];
    let mixed = (0..12).map(|i| (of(0, i) * of(1, i) + (1.0 - of(0, i)) * of(2, i)) as f32);
    let chosen = [1, 2, 1, 2, 2, 1].repeat(2);
    let chosen = chosen.into_iter().enumerate().map(|(i, k)| of(k, i) as f32);
    let want = [mixed.collect(), chosen.collect()].map(|v: Vec<f32>| Tensor::f32([2, 2, 3], v));
    check(&dump, 2, &inputs, &want);

    let shape = [3, 2, 4];
    each_picture(single("Sum", &shape, json!({"shape": [3, 2, 4]})), &shape, |x| {
        (vec![2, 4], (0..8).map(|i| x[i] + x[8 + i] + x[16 + i]).collect())
    });
    let last = json!({"shape": [3, 2, 4], "axis": [2], "keepdims": true});
    each_picture(single("Sum", &shape, last), &shape, |x| {
        (vec![3, 2, 1], x.chunks(4).map(|r| r.iter().sum()).collect())
    });
    each_picture(single("ArgMax", &shape, json!({"shape": [3, 2, 4]})), &shape, |x| {
        let first = |i: usize| {
            (1..3).fold(0, |best, c| if x[8 * c + i] > x[8 * best + i] { c } else { best })
        };
        (vec![2, 4], (0..8).map(|i| first(i) as f32).collect())
    });
}

#[test]
fn a_condition_of_one_byte_per_element() {
    let dump = Dump::new()
        .input("x", &[3])
        .constant("c", &[1, 3], &[0.0; 3])
        .constant("k", &[1, 3], &[7.0; 3])
        .layer("Where", "w", &["c", "x", "k"], json!({}))
        .output("w_0", "y")
        .save();
    write_raw(&dump.path().join("c.tensor"), 1, &[1, 3], &[1, 0, 1]);
    let want = [Tensor::f32([1, 3], vec![1.0, 7.0, 3.0])];
    check(&dump, 1, &[("x", Tensor::f32([1, 3], vec![1.0, 2.0, 3.0]))], &want);
}

#[test]
fn movement() {
    let shape = [2, 3, 4];
    let same = |x: &[f32]| x.to_vec();
    for wanted in [json!([6, 4]), json!([-1, 4]), json!([6, -1])] {
        let dump = single("Reshape", &shape, json!({"shape": wanted}));
        each_picture(dump, &shape, |x| (vec![6, 4], same(x)));
    }
    let dump = single("Transpose", &shape, json!({"axes": [2, 0, 1]}));
    each_picture(dump, &shape, |x| {
        let at = |i: usize| x[(i / 3 % 2) * 12 + (i % 3) * 4 + i / 6];
        (vec![4, 2, 3], (0..24).map(at).collect())
    });
    // Chainer counted from the end: -1 of [N, C, H, W] is written as -2.
    let dump = single("Transpose", &shape, json!({"axes": [-2, 0, 1]}));
    each_picture(dump, &shape, |x| {
        let at = |i: usize| x[(i / 3 % 2) * 12 + (i % 3) * 4 + i / 6];
        (vec![4, 2, 3], (0..24).map(at).collect())
    });
    let more = json!({"in_shape": [2, 1, 1], "out_shape": [2, 2, 3]});
    each_picture(single("BroadcastTo", &[2, 1, 1], more), &[2, 1, 1], |x| {
        (vec![2, 2, 3], (0..12).map(|i| x[i / 6]).collect())
    });
    for (axis, wanted) in
        [(json!(0), vec![4, 3, 4]), (json!(2), vec![2, 3, 8]), (json!(-2), vec![2, 3, 8])]
    {
        let dump = Dump::new()
            .input("x", &shape)
            .layer("Concat", "layer", &["x", "x"], json!({"axis": axis}))
            .output("layer_0", "y");
        each_picture(dump, &shape, |x| {
            let rows = if wanted[0] == 4 {
                vec![x, x]
            } else {
                x.chunks(4).flat_map(|r| [r, r]).collect()
            };
            (wanted.clone(), rows.concat())
        });
    }
}

/// A picture's elements at some indices of each axis.
fn taken(x: &[f32], shape: [usize; 3], at: [&[usize]; 3]) -> Vec<f32> {
    let mut out = Vec::new();
    for &i in at[0] {
        for &j in at[1] {
            out.extend(at[2].iter().map(|&k| x[(i * shape[1] + j) * shape[2] + k]));
        }
    }
    out
}

#[test]
fn slices_are_numpys() {
    let shape = [3, 4, 5];
    let n = Value::Null;
    type Case = (Value, Vec<usize>, [&'static [usize]; 3]);
    let cases: Vec<Case> = vec![
        (json!([[1, 3, n]]), vec![2, 4, 5], [&[1, 2], &[0, 1, 2, 3], &[0, 1, 2, 3, 4]]),
        (json!([[n, n, n], 1, [n, n, 2]]), vec![3, 3], [&[0, 1, 2], &[1], &[0, 2, 4]]),
        (json!([-1, [n, n, -1], 0]), vec![4], [&[2], &[3, 2, 1, 0], &[0]]),
        (json!([0, 0, [-2, n, n]]), vec![2], [&[0], &[0], &[3, 4]]),
        (json!([0, 0, [n, -1, n]]), vec![4], [&[0], &[0], &[0, 1, 2, 3]]),
        (json!([0, 0, [-100, 100, 3]]), vec![2], [&[0], &[0], &[0, 3]]),
        (json!([0, 0, [4, n, -2]]), vec![3], [&[0], &[0], &[4, 2, 0]]),
        (json!([0, 0, [100, 1, -1]]), vec![3], [&[0], &[0], &[4, 3, 2]]),
        (json!([0, 0, [3, -5, -1]]), vec![3], [&[0], &[0], &[3, 2, 1]]),
        (json!([[n, n, n], [1, 2, n], 4]), vec![3, 1], [&[0, 1, 2], &[1], &[4]]),
    ];
    for (slices, out, at) in cases {
        let dump = single("GetItem", &shape, json!({"slices": slices}));
        each_picture(dump, &shape, |x| (out.clone(), taken(x, shape, at)));
    }
}

#[test]
fn layers_with_several_tensors() {
    let split = |more: Value, widths: [usize; 3]| {
        let mut dump = Dump::new().input("x", &[2, 6]).layer("SplitAxis", "s", &["x"], more);
        dump.model["layers"][1]["output_names"] = json!(["s_0", "s_1", "s_2"]);
        let dump = dump.output("s_2", "c").output("s_0", "a").output("s_1", "b").save();
        let x = tensor(&[2, 2, 6], 5);
        let rows: Vec<&[f32]> = x.as_f32().unwrap().chunks(6).collect();
        let part = |from: usize, width: usize| {
            let rows = rows.iter().flat_map(|r| r[from..from + width].to_vec());
            Tensor::f32([2, 2, width], rows.collect())
        };
        let [a, b, c] = widths;
        let want = [part(a + b, c), part(0, a), part(a, b)];
        check(&dump, 2, &[("x", x.clone())], &want);
    };
    split(json!({"axis": 1, "sections": 3}), [2, 2, 2]);
    split(json!({"axis": 1, "indices": [1, 4]}), [1, 3, 2]);
}

#[test]
fn old_dumps_name_layers() {
    let mut dump = Dump::new().input("x", &[3]).layer("ReLU", "ReLU-0-1", &["x"], json!({})).layer(
        "Tanh",
        "Tanh-1-1",
        &["ReLU-0-1"],
        json!({}),
    );
    for layer in dump.model["layers"].as_array_mut().unwrap() {
        layer.as_object_mut().unwrap().remove("output_names");
    }
    dump.model["outputs"] = json!(["Tanh-1-1"]);
    dump.model["layers"].as_array_mut().unwrap().reverse();
    let dump = dump.save();
    let graph = read(&dump, 1);
    assert_eq!(graph.outputs[0].0, "Tanh-1-1");
    assert_eq!(graph.metadata.format, "chainer");
    let want = [Tensor::f32([1, 3], vec![0.0, 0.5f32.tanh(), 1f32.tanh()])];
    check(&dump, 1, &[("x", Tensor::f32([1, 3], vec![-1.0, 0.5, 1.0]))], &want);
    // The file itself names the dump, too.
    assert!(import(&dump.path().join("model.json"), &ImportOptions::default()).is_ok());
}

#[test]
fn any_op_of_the_builder() {
    let more = json!({"op": "p_relu", "operands": ["x", "@slope"]});
    let dump = single("TobiuoOp", &[2, 2], more).weight("slope", &[2, 1], &[0.5, 2.0]);
    each_picture(dump, &[2, 2], |x| {
        let slope = |i: usize| if i < 2 { 0.5 } else { 2.0 };
        let y = x.iter().enumerate().map(|(i, &v)| if v < 0.0 { v * slope(i) } else { v });
        (vec![2, 2], y.collect())
    });
    let more = json!({"op": {"activation": {"clip": {"min": -0.5, "max": 0.25}}}});
    element_wise("TobiuoOp", more, |x| x.clamp(-0.5, 0.25));
    let more = json!({"op": {"reduce": {"kind": "mean", "axes": [2], "keep_dims": false}}});
    each_picture(single("TobiuoOp", &[2, 4], more), &[2, 4], |x| {
        (vec![2], x.chunks(4).map(|r| r.iter().sum::<f32>() / 4.0).collect())
    });
}

#[test]
fn several_inputs_in_the_order_of_the_list() {
    let mut dump = Dump::new()
        .input("x2", &[3, 2])
        .input("x1", &[3, 2])
        .layer("Sub", "Sub-0-1", &["x1", "x2"], json!({}))
        .layer("Mul", "Mul-1-1", &["Sub-0-1_0", "ConstantInput-0"], json!({}))
        .constant("ConstantInput-0", &[1, 3, 2], &[2.0; 6])
        .output("Mul-1-1_0", "out")
        .output("Sub-0-1_0", "difference");
    dump.model["inputs"] = json!(["x1", "x2"]);
    let dump = dump.save();
    let graph = read(&dump, 1);
    let names: Vec<&str> = graph.inputs.iter().map(|&i| graph.value(i).name.as_str()).collect();
    assert_eq!(names, ["x1", "x2"]);
    let (a, b) = (tensor(&[1, 3, 2], 1), tensor(&[1, 3, 2], 2));
    let difference: Vec<f32> =
        a.as_f32().unwrap().iter().zip(b.as_f32().unwrap()).map(|(a, b)| a - b).collect();
    let doubled = difference.iter().map(|v| 2.0 * v).collect();
    let want = [doubled, difference].map(|v| Tensor::f32([1, 3, 2], v));
    check(&dump, 1, &[("x1", a), ("x2", b)], &want);
}
