//! Damaged, hostile and unsupported dumps: an error that names layer, file and reason, no panic,
//! no hang, no huge allocation.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::dump::{Dump, write, write_raw};
use serde_json::{Value, json};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::import::{ImportError, ImportOptions, NodeStatus, check, import};

pub fn read(folder: &Path) -> Result<Graph, ImportError> {
    import(folder, &ImportOptions::default())
}

/// The error of a dump: its exit status and parts of its text.
fn expect(dump: &Dump, status: u8, parts: &[&str]) {
    let e = match read(dump.path()) {
        Ok(g) => panic!("imported {} nodes", g.nodes.len()),
        Err(e) => e,
    };
    let text = e.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(text.contains(&*dump.path().to_string_lossy()), "the dump is not named: {text}");
    assert_eq!(e.exit_status(), status, "{text}");
}

/// x `[2, 4, 4]`, a convolution and a ReLU.
pub fn network() -> Dump {
    let conv = json!({
        "kernel_h": 3, "kernel_w": 3, "stride_y": 1, "stride_x": 1, "pad_h": 1, "pad_w": 1,
        "dilation_y": 1, "dilation_x": 1, "groups": 1, "n_out": 3, "cover_all": false,
    });
    Dump::new()
        .input("x", &[2, 4, 4])
        .layer("Convolution2DFunction", "conv", &["x"], conv)
        .weight("kernel", &[3, 2, 3, 3], &[0.5; 54])
        .weight("bias", &[3], &[1.0; 3])
        .layer("ReLU", "relu", &["conv_0"], json!({}))
        .output("relu_0", "y")
}

/// The network with a field of a layer changed.
fn with(layer: usize, key: &str, value: Value) -> Dump {
    let mut dump = network();
    dump.model["layers"][layer][key] = value;
    dump.save()
}

#[test]
fn sources_that_are_missing() {
    expect(&with(2, "source", json!("conv_1")), 4, &["no layer makes", "'relu' takes 'conv_1'"]);
    let mut dump = network();
    dump.model["layers"][2]["source"] = json!("a");
    dump.model["layers"][1]["source"] = json!("b");
    let dump = dump.save();
    expect(&dump, 4, &["model.json", "layer 'relu' takes 'a'", "layer 'conv' takes 'b'"]);
    let mut dump = network();
    dump.model["outputs"] = json!([["none", "y"]]);
    expect(&dump.save(), 4, &["output 'y'", "no layer makes 'none'"]);
    let mut dump = network();
    dump.model["inputs"] = json!(["x", "z"]);
    expect(&dump.save(), 4, &["'z'", "no layer of type input"]);
    let mut dump = network();
    dump.model["inputs"] = json!(["x", "x"]);
    expect(&dump.save(), 4, &["'x' twice"]);
}

#[test]
fn cycles_and_names_given_twice() {
    let mut dump = network();
    dump.model["layers"][1]["source"] = json!("relu_0");
    expect(&dump.save(), 4, &["cycle", "'conv' (Convolution2DFunction)", "'relu' (ReLU)"]);
    expect(&with(2, "source", json!("relu_0")), 4, &["cycle", "'relu' (ReLU) -> 'relu' (ReLU)"]);
    expect(&with(2, "output_names", json!(["conv_0"])), 4, &["'conv_0'", "defined twice"]);
    expect(&with(2, "output_names", json!(["x"])), 4, &["'x'", "defined twice"]);
    expect(&with(2, "name", json!("conv")), 4, &["two layers are called 'conv'"]);
    let mut dump = network();
    dump.model["outputs"] = json!([["relu_0", "y"], ["conv_0", "y"]]);
    expect(&dump.save(), 4, &["two outputs are called 'y'"]);
}

#[test]
fn unknown_types_are_all_listed() {
    let dump = network()
        .layer("SpatialPyramid", "a", &["relu_0"], json!({"levels": 3}))
        .layer("ReLU", "b", &["a_0"], json!({}))
        .layer("Roll", "c", &["b_0"], json!({}))
        .layer("Concat", "d", &["relu_0", "conv_0"], json!({"axis": 7}))
        .save();
    let e = read(dump.path()).unwrap_err();
    let found: Vec<(&str, NodeStatus)> =
        e.nodes().iter().map(|n| (n.name.as_str(), n.status)).collect();
    use NodeStatus::{Invalid, NotChecked, Unsupported};
    assert_eq!(found, [("a", Unsupported), ("b", NotChecked), ("c", Unsupported), ("d", Invalid)]);
    expect(&dump, 9, &["'a' (SpatialPyramid of relu_0: f32 [1, 3, 4, 4]; levels=3)", "'Roll'"]);
    let report = check(dump.path(), &ImportOptions::default()).unwrap();
    assert!(!report.supported);
    assert_eq!(report.nodes.len(), 6);
    assert_eq!((report.operators["ReLU"].total, report.operators["ReLU"].supported), (2, 1));
    // A key that nobody knows may change what a layer means.
    expect(&with(2, "negative", json!(true)), 9, &["'relu' (ReLU", "'negative' is not known"]);
}

#[test]
fn weight_files_that_do_not_fit() {
    let file = "conv_kernel.weights";
    let cases: &[(&[u8], &str)] = &[
        (b"", "does not begin with a line"),
        (b"4", "does not begin with a line"),
        (b"4\n3,2,3,3", "a line for the shape"),
        (b"\xff\xfe\n3\n", "does not begin with a line"),
        (b"8\n1\n\0\0\0\0\0\0\0\0", "elements of '8' bytes"),
        (b"-4\n1\n\0\0\0\0", "elements of '-4' bytes"),
        (b"4\n3,2,x,3\n", "'3,2,x,3' is no shape"),
        (b"4\n1,1,1,1,1,1,1,1,1\n\0\0\0\0", "is no shape"),
        (b"4\n3,2,-3,3\n", "is no shape"),
        (b"4\n0,2,3,3\n", "is no shape"),
        (b"4\n3,2,3,3\n\0\0\0\0", "does not fit the 4 bytes"),
        (b"4\n18446744073709551615,3\n\0\0\0\0", "does not fit the 4 bytes"),
        (b"4\n4294967296,4294967296\n\0\0\0\0", "does not fit the 4 bytes"),
        (b"1\n4\n\0\x01\x02\x00", "booleans, 0 or 1; one is 2"),
        (b"4\n2\n\0\0\0\0\0\0\0\0", "its kernel [2] does not have 3 x 3 taps"),
    ];
    for (bytes, part) in cases {
        let dump = network().save();
        std::fs::write(dump.path().join(file), bytes).unwrap();
        expect(&dump, 4, &["'conv' (Convolution2DFunction", part]);
    }
    let long = network().save();
    std::fs::write(long.path().join(file), [b'1'; 4096]).unwrap();
    expect(&long, 4, &["file 'conv_kernel.weights'", "does not begin with a line"]);
    let dump = network().save();
    write(&dump.path().join(file), &[3, 2, 3, 3], &[0.0; 55]);
    expect(&dump, 4, &["'conv'", "file 'conv_kernel.weights'", "[3, 2, 3, 3]", "220 bytes"]);
    write_raw(&dump.path().join(file), 2, &[3, 2, 3, 3], &[0; 4 * 54]);
    expect(&dump, 4, &["'conv'", "elements of 2 bytes"]);
    std::fs::remove_file(dump.path().join(file)).unwrap();
    expect(&dump, 4, &["'conv'", "file 'conv_kernel.weights'", "No such file"]);
    std::fs::create_dir(dump.path().join(file)).unwrap();
    expect(&dump, 4, &["'conv'", "not a regular file"]);
}

#[test]
fn shapes_that_disagree() {
    let cases = [
        (1, "n_out", json!(4), "n_out is 4, its kernel [3, 2, 3, 3]"),
        (1, "kernel_h", json!(2), "does not have 2 x 3 taps"),
        (1, "groups", json!(3), "3 groups"),
        (1, "stride_x", json!(0), "stride_x is 0"),
        (1, "stride_x", json!(-1), "stride_x is -1"),
        (1, "stride_x", json!(1.5), "stride_x is 1.5"),
        (1, "pad_h", json!(1u64 << 40), "pad_h is 1099511627776"),
        (1, "pad_h", json!([1]), "pad_h is [1], an integer"),
        (1, "pad_h", Value::Null, "pad_h is missing"),
        (1, "cover_all", json!("no"), "true or false"),
        (1, "output_shape", json!([1, 3, 5, 5]), "the dump notes [1, 3, 5, 5]"),
        (2, "output_shape", json!([1, 3, 4]), "the dump notes [1, 3, 4]"),
        (2, "output_names", json!(["a", "b"]), "makes 1 tensors, output_names lists 2"),
        (2, "output_names", json!([]), "output_names lists 0"),
    ];
    for (layer, key, value, part) in cases {
        let dump = with(layer, key, value);
        let status = if part.contains("groups") { 9 } else { 4 };
        expect(&dump, status, &[part]);
    }
    // The batch of a verbose dump is its own.
    assert!(read(with(2, "output_shape", json!([8, 3, 4, 4])).path()).is_ok());
    let constant = |shape: &[usize], values: usize, noted: Value| {
        let mut dump = network().constant("k", shape, &vec![1.0; values]).layer(
            "Add",
            "add",
            &["relu_0", "k"],
            json!({}),
        );
        dump.model["layers"][3]["shape"] = noted;
        dump.model["outputs"] = json!([["add_0", "y"]]);
        dump.save()
    };
    assert!(read(constant(&[1, 3, 4, 4], 48, json!([3, 4, 4])).path()).is_ok());
    let dump = constant(&[1, 3, 4, 4], 48, json!([3, 4, 5]));
    expect(&dump, 4, &["'k' (ConstantInput", "file 'k.tensor' has [1, 3, 4, 4]"]);
    // Dumped with two pictures: one constant for each.
    expect(&constant(&[2, 3, 4, 4], 96, json!([3, 4, 4])), 9, &["'add' (Add", "the batch, 1"]);
    let options = ImportOptions { batch: 2, ..ImportOptions::default() };
    assert!(import(constant(&[2, 3, 4, 4], 96, json!([3, 4, 4])).path(), &options).is_ok());
}

#[test]
fn options_that_do_not_fit() {
    let dump = network().save();
    let given = |name: &str, shape: &[usize], batch| {
        let input_shapes = vec![(name.to_string(), shape.to_vec())];
        import(dump.path(), &ImportOptions { batch, input_shapes })
    };
    assert!(given("x", &[1, 2, 4, 4], 1).is_ok());
    assert!(given("x", &[5, 2, 4, 4], 5).is_ok());
    for (name, shape, part) in [
        ("z", &[1, 2, 4, 4][..], "no input 'z', its inputs are 'x'"),
        ("x", &[1, 2, 8, 8], "the dump fixes it at [2, 4, 4]"),
        ("x", &[2, 2, 4, 4], "which --batch says"),
    ] {
        let e = given(name, shape, 1).unwrap_err();
        assert!(e.to_string().contains(part), "{e}");
        assert_eq!(e.exit_status(), 2);
    }
}

#[test]
fn paths_stay_in_the_dump() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("w.weights");
    write(&secret, &[3, 2, 3, 3], &[0.5; 54]);
    let absolute = secret.to_string_lossy().into_owned();
    for (path, part) in [
        ("../w.weights", "outside the model's folder"),
        ("a/../../w.weights", "outside the model's folder"),
        (absolute.as_str(), "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("", "outside the model's folder"),
        ("conv\0.weights", "outside the model's folder"),
        (".", "not a regular file"),
        ("none.weights", "No such file"),
    ] {
        expect(&with(1, "kernel_weights_file", json!(path)), 4, &["'conv'", "file '", part]);
    }
    #[cfg(unix)]
    {
        let dump = with(1, "kernel_weights_file", json!("link.weights"));
        std::os::unix::fs::symlink(&secret, dump.path().join("link.weights")).unwrap();
        expect(&dump, 4, &["'conv'", "file 'link.weights'", "leads out"]);
        // A link that stays inside is a file like others.
        let dump = with(1, "kernel_weights_file", json!("inner.weights"));
        let file = dump.path().join("conv_kernel.weights");
        std::os::unix::fs::symlink(file, dump.path().join("inner.weights")).unwrap();
        assert!(read(dump.path()).is_ok());
    }
    let other = with(1, "kernel_weights_file", json!(["conv_kernel.weights"]));
    expect(&other, 4, &["a file's name is expected"]);
}

#[test]
fn json_of_all_kinds() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_layer = format!(
        r#"{{"inputs": [], "outputs": ["y"], "layers": [{{"type": "ReLU", "name": "y", "x_a": {}1{}}}]}}"#,
        "{\"a\":".repeat(50_000),
        "}".repeat(50_000)
    );
    for (text, part) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "an object with 'inputs'"),
        ("{}", "no list of 'layers'"),
        ("{\"layers\": {}}", "no list of 'layers'"),
        ("{\"layers\": []}", "no list of 'outputs'"),
        ("{\"layers\": [], \"outputs\": []}", "'outputs' is empty"),
        ("{\"layers\": [1], \"outputs\": []}", "layer 0 is no object"),
        ("{\"layers\": [{}], \"outputs\": []}", "layer 0 has no type"),
        ("{\"layers\": [{\"type\": 3}]}", "its type is 3"),
        ("{\"layers\": [{\"type\": \"ReLU\"}]}", "layer 0 has no name"),
        ("{\"layers\": [{\"type\": \"input\", \"name\": \"x\"}]}", "'x' (input): it has no shape"),
        ("{\"layers\": [], \"outputs\": [[\"a\"]]}", "not [tensor, name]"),
        ("{\"layers\": [], \"outputs\": [{}]}", "neither [tensor, name] nor a name"),
        ("{\"layers\": [], \"outputs\": [\"y\"], \"inputs\": [3]}", "inputs: 3 is no name"),
        (&deep, "recursion limit"),
        (&deep_layer, "recursion limit"),
    ] {
        expect(&Dump::new().save_as(text.as_bytes()), 4, &["model.json", part]);
    }
    expect(&Dump::new().save_as(&[0xff, 0xfe, 0x00]), 4, &["model.json"]);
    let mut dump = network();
    dump.model["layers"][2]["sources"] = json!(["conv_0"]);
    expect(&dump.save(), 4, &["layer 'relu' has both"]);
    let dump = Dump::new().save();
    std::fs::remove_file(dump.path().join("model.json")).unwrap();
    std::fs::create_dir(dump.path().join("model.json")).unwrap();
    expect(&dump, 4, &["not a regular file"]);
}

#[test]
fn shapes_that_ask_for_much_memory() {
    let started = Instant::now();
    let huge = u64::MAX >> 1;
    for shape in
        [json!([huge]), json!([1u64 << 40, 1u64 << 40]), json!([3, 0, 4]), json!(vec![1; 20])]
    {
        let mut dump = network();
        dump.model["layers"][0]["shape"] = shape;
        let e = read(dump.save().path()).unwrap_err();
        assert!(e.to_string().contains("no tensor's shape"), "{e}");
    }
    let x = |c: usize, size: usize| Dump::new().input("x", &[c, size, size]);
    let one = |dump: Dump, kind: &str, more: Value| {
        let dump = dump.layer(kind, "l", &["x"], more).output("l_0", "y").save();
        // Refused, or left to the planner; never made here.
        let result = read(dump.path());
        if let Ok(graph) = result {
            let constants = graph.values().filter_map(|(_, v)| v.constant.as_ref());
            assert!(constants.map(|t| t.numel()).sum::<usize>() < 1 << 24);
        }
    };
    let far = 1u64 << 20;
    let pool = json!({
        "window_height": far, "window_width": far, "stride_y": 1, "stride_x": 1, "pad_h": far,
        "pad_w": far, "cover_all": true,
    });
    one(x(1 << 10, 1 << 14), "MaxPooling2D", pool.clone());
    one(x(1, 1), "AveragePooling2D", pool);
    one(x(1 << 20, 4), "Shift", json!({"kh": 1023, "kw": 1023, "dx": 1, "dy": 1}));
    one(x(4, 4), "Shift", json!({"kh": huge, "kw": 3, "dx": 1, "dy": 1}));
    one(x(1, 1), "BroadcastTo", json!({"in_shape": [1, 1, 1], "out_shape": [1 << 19, 1 << 20, 1]}));
    one(x(1, 3), "ResizeImages", json!({"output_hw": [huge, huge]}));
    one(x(1, 3), "ResizeImages", json!({"output_hw": [huge, 7], "mode": "nearest"}));
    one(x(3, 3), "LocalResponseNormalization", json!({"n": huge, "k": 1, "alpha": 1, "beta": 1}));
    one(x(1, 1 << 19), "CornerPooling", json!({"dir": "left"}));
    one(x(2, 2), "Reshape", json!({"shape": [huge, huge, -1]}));
    one(
        x(2, 2),
        "GetItem",
        json!({"slices": [[i64::MIN, i64::MAX, i64::MIN], [i64::MAX, i64::MIN, 1]]}),
    );
    assert!(started.elapsed() < Duration::from_secs(30));
    // Weights are as large as their files; the JSON has a limit of its own.
    let dump = Dump::new().save();
    let file = std::fs::File::create(dump.path().join("model.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    expect(&dump, 4, &["1099511627776 bytes"]);
}
