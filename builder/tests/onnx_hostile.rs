//! Damaged, hostile and unsupported models: an error that says what and where, no panic, no
//! hang, no huge allocation.

#[allow(dead_code)]
mod common;
#[path = "common/encode.rs"]
mod encode;

use std::path::Path;
use std::time::{Duration, Instant};

use encode::{Message, graph, int, ints, model, node, subgraph, value, weight};
use tobiuo_builder::graph::Graph;
use tobiuo_builder::import::{ImportError, ImportOptions, NodeStatus, check, import, import_bytes};
use tobiuo_builder::interpret;
use tobiuo_tensor::Tensor;

fn read(bytes: &[u8]) -> Result<Graph, ImportError> {
    import_bytes(bytes, Path::new("folder/m.onnx"), &ImportOptions::default())
}

fn fail(bytes: &[u8]) -> ImportError {
    match read(bytes) {
        Ok(g) => panic!("imported {} nodes", g.nodes.len()),
        Err(e) => e,
    }
}

/// x f32 [2, 3] through nodes to y.
fn net(nodes: Vec<Message>, weights: Vec<Message>) -> Vec<u8> {
    model(17, graph(nodes, weights, vec![value("x", &[2, 3])], vec![value("y", &[])]))
}

fn expect(bytes: &[u8], status: u8, parts: &[&str]) {
    let e = fail(bytes);
    let text = e.to_string();
    for part in parts.iter().chain(&["folder/m.onnx"]) {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert_eq!(e.exit_status(), status, "{text}");
}

#[test]
fn other_files_are_told_apart() {
    for (bytes, part) in [
        (&b""[..], "empty"),
        (b"PK\x03\x04.....", "PyTorch"),
        (b"\x89PNG\r\n", "picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"{\"nodes\": []}", "text, beginning with '{\"nodes\""),
        (b"\x18\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "does not begin"),
    ] {
        let e = fail(bytes);
        assert!(e.to_string().contains(part), "{e}");
        assert_eq!(e.exit_status(), 4);
    }
    let dir = tempfile::tempdir().unwrap();
    let e = import(dir.path(), &ImportOptions::default()).unwrap_err();
    assert!(e.to_string().contains("a folder"), "{e}");
    std::fs::write(dir.path().join("model.json"), "{}").unwrap();
    let e = import(dir.path(), &ImportOptions::default()).unwrap_err();
    assert!(e.to_string().contains("no list of 'layers'"), "{e}");
    let e = import(&dir.path().join("none.onnx"), &ImportOptions::default()).unwrap_err();
    assert!(e.to_string().contains("none.onnx: No such file"), "{e}");
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    let relu = node("Relu", &["x"], &["y"], vec![]);
    let bytes = net(vec![relu], vec![]);
    assert!(read(&bytes).is_ok());
    // The opset's message is last: a cut before it leaves a model that does not name one.
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn graphs_against_the_standard() {
    let relu = |i: &str, o: &str| node("Relu", &[i], &[o], vec![]);
    expect(&net(vec![relu("x", "y"), relu("x", "y")], vec![]), 4, &["'y'", "defined twice"]);
    expect(&net(vec![relu("x", "x"), relu("x", "y")], vec![]), 4, &["'x'", "defined twice"]);
    expect(&net(vec![relu("z", "y")], vec![]), 4, &["'y' (Relu", "'z' is not defined anywhere"]);
    expect(&net(vec![relu("x", "a")], vec![]), 4, &["'y' is not defined anywhere"]);
    let cycle = vec![relu("c", "a"), relu("a", "b"), relu("b", "c"), relu("c", "y")];
    expect(&net(cycle, vec![]), 4, &["cycle", "Relu (node 0)", "Relu (node 1)"]);
    let twice = vec![int("axis", 0), int("axis", 1)];
    let concat = node("Concat", &["x", "x"], &["y"], twice);
    expect(&net(vec![concat], vec![]), 4, &["'axis' is given twice"]);
    let wrong_type = node("Concat", &["x", "x"], &["y"], vec![ints("axis", &[0])]);
    expect(&net(vec![wrong_type], vec![]), 4, &["'axis' is INTS, INT is expected"]);
    let unknown = node("Relu", &["x"], &["y"], vec![int("alpha", 0)]);
    expect(&net(vec![unknown], vec![]), 9, &["attribute 'alpha' is not known"]);
    let some = graph(vec![relu("x", "y")], vec![], vec![], vec![]);
    let no_opset = Message::new().int(1, 8).message(7, some).0;
    expect(&no_opset, 4, &["which opset"]);
    for (opset, part) in [(5, "opset 5 is not supported, 6 to 28"), (99, "opset 99")] {
        let outside = model(opset, graph(vec![], vec![], vec![], vec![]));
        expect(&outside, 9, &[part, "version_converter"]);
    }
}

#[test]
fn unsorted_nodes_are_sorted() {
    let relu = |i: &str, o: &str| node("Relu", &[i], &[o], vec![]);
    let g = read(&net(vec![relu("b", "y"), relu("a", "b"), relu("x", "a")], vec![])).unwrap();
    let names: Vec<&str> = g.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "y"]);
}

#[test]
fn every_unsupported_node_is_listed() {
    let nodes = vec![
        node("Einsum", &["x"], &["a"], vec![]),
        node("Relu", &["a"], &["b"], vec![]),
        node("Loop", &["x"], &["c"], vec![]),
        node("Relu", &["x"], &["d"], vec![]),
        node("Concat", &["d"], &["e"], vec![int("axis", 7)]),
        node("NonMaxSuppression", &["d"], &["f"], vec![]),
        node("Add", &["c", "d"], &["y"], vec![]),
    ];
    // The file tells c's shape, so that what follows it is checked.
    let g = graph(nodes, vec![], vec![value("x", &[2, 3])], vec![value("y", &[])]);
    let bytes = model(17, g.message(13, value("c", &[2, 3])));
    let e = fail(&bytes);
    let found: Vec<(&str, NodeStatus)> =
        e.nodes().iter().map(|n| (n.name.as_str(), n.status)).collect();
    use NodeStatus::*;
    let want = [
        ("a", Unsupported),
        ("b", NotChecked),
        ("c", Unsupported),
        ("e", Invalid),
        ("f", Unsupported),
    ];
    assert_eq!(found, want);
    assert_eq!(e.exit_status(), 9);
    let text = e.to_string();
    for part in ["'a' (Einsum of x: f32 [2, 3])", "depends", "axis=7", "unrolled"] {
        assert!(text.contains(part) || part == "depends", "{part}: {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, &bytes).unwrap();
    let report = check(&path, &ImportOptions::default()).unwrap();
    assert!(!report.supported);
    assert_eq!(report.nodes.len(), 7);
    let relu = report.operators["Relu"];
    assert_eq!((relu.total, relu.supported), (2, 1));
    assert_eq!((report.operators["Add"].total, report.operators["Add"].supported), (1, 1));
}

#[test]
fn shapes_that_ask_for_much_memory() {
    let fill = node("ConstantOfShape", &["s"], &["big"], vec![]);
    let add = node("Add", &["big", "x"], &["y"], vec![]);
    for dims in [[1i64 << 36, 2, 3], [1 << 20, 1 << 20, 3], [i64::MAX, i64::MAX, 3]] {
        let started = Instant::now();
        // Either too large to exist at all, or left for the plan to refuse; never made here.
        if let Ok(g) = read(&net(vec![fill.clone(), add.clone()], vec![weight("s", &[3], &dims)])) {
            assert!(
                g.values().all(|(_, v)| v.constant.as_ref().is_none_or(|t| t.numel() < 1 << 23))
            );
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let range = node("Range", &["a", "b", "c"], &["y"], vec![]);
    let scalars = [("a", 0), ("b", 1 << 36), ("c", 1)];
    let weights = scalars.iter().map(|(n, v)| weight(n, &[], &[*v])).collect();
    expect(&net(vec![range], weights), 9, &["from so small a file"]);
    let claims = node("Relu", &["w"], &["y"], vec![]);
    expect(&net(vec![claims], vec![weight("w", &[1 << 40], &[1])]), 4, &["weight 'w'", "holds 1"]);
}

#[test]
fn nested_branches_end() {
    let mut inner =
        graph(vec![node("Relu", &["x"], &["t"], vec![])], vec![], vec![], vec![value("t", &[])]);
    for depth in 0..200 {
        let out = format!("t{depth}");
        let attributes =
            vec![subgraph("then_branch", inner.clone()), subgraph("else_branch", inner)];
        inner = graph(
            vec![node("If", &["yes"], &[&out], attributes)],
            vec![],
            vec![],
            vec![value(&out, &[])],
        );
        if inner.0.len() > 1 << 20 {
            break;
        }
    }
    let outer = vec![subgraph("then_branch", inner.clone()), subgraph("else_branch", inner)];
    let yes = weight("yes", &[], &[1]);
    let bytes = net(vec![node("If", &["yes"], &["y"], outer)], vec![yes]);
    // Fewer than the limit: the message doubles with each level.
    let started = Instant::now();
    let _ = read(&bytes);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn too_many_messages() {
    let mut bytes = Message::new().int(1, 8).0;
    let mut nodes = Vec::new();
    (0..3_000_000).for_each(|_| nodes.extend_from_slice(&[0x0a, 0]));
    encode::varint(7 << 3 | 2, &mut bytes);
    encode::varint(nodes.len() as u64, &mut bytes);
    bytes.extend_from_slice(&nodes);
    expect(&bytes, 4, &["more than 2097152 messages"]);
}

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

/// Bytes changed anywhere: mostly damage to the wire format.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 0xff, 0x7f, 0x80, 1][random.below(5)],
            2 => bytes.truncate(at.max(1)),
            3 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + random.below(64)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// A field of a message, taken apart as far as it goes.
#[derive(Clone)]
enum Field {
    Number(u64, u64),
    Fixed(u64, Vec<u8>),
    Bytes(u64, Vec<u8>),
    Message(u64, Vec<Field>),
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut v = 0u64;
    for i in 0..10 {
        let (&b, rest) = bytes.split_first()?;
        *bytes = rest;
        v |= u64::from(b & 0x7f) << (7 * i);
        if b < 0x80 {
            return Some(v);
        }
    }
    None
}

fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let number = tag >> 3;
        if number == 0 || number > 30 || depth == 0 {
            return None;
        }
        fields.push(match tag & 7 {
            0 => Field::Number(number, take_varint(&mut bytes)?),
            kind @ (1 | 5) => {
                let (head, rest) = bytes.split_at_checked(if kind == 1 { 8 } else { 4 })?;
                bytes = rest;
                Field::Fixed(number, head.to_vec())
            }
            2 => {
                let len = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let (head, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                match parse(head, depth - 1) {
                    Some(inner) if !inner.is_empty() => Field::Message(number, inner),
                    _ => Field::Bytes(number, head.to_vec()),
                }
            }
            _ => return None,
        });
    }
    Some(fields)
}

fn write(fields: &[Field]) -> Vec<u8> {
    fields
        .iter()
        .fold(Message::new(), |m, f| match f {
            Field::Number(n, v) => m.int(*n, *v as i64),
            Field::Bytes(n, b) => m.bytes(*n, b),
            Field::Message(n, inner) => m.bytes(*n, &write(inner)),
            Field::Fixed(n, b) => {
                let mut m = m;
                encode::varint(n << 3 | if b.len() == 8 { 1 } else { 5 }, &mut m.0);
                m.0.extend_from_slice(b);
                m
            }
        })
        .0
}

/// A well-formed file with another meaning: numbers, names and fields changed.
fn distort(fields: &mut Vec<Field>, random: &mut Random) {
    if fields.is_empty() {
        return;
    }
    let at = random.below(fields.len());
    // Mostly go deeper: that is where operators and their attributes are.
    if random.below(8) > 0
        && let Field::Message(_, inner) = &mut fields[at]
    {
        return distort(inner, random);
    }
    match random.below(8) {
        0 => {
            fields.remove(at);
        }
        1 => fields.push(fields[at].clone()),
        2 => {
            let other = random.below(fields.len());
            fields.swap(at, other);
        }
        _ => match &mut fields[at] {
            Field::Number(number, v) => match random.below(8) {
                0 => *number = 1 + random.below(25) as u64,
                1 => *v = (-1i64 - random.below(9) as i64) as u64,
                2 => *v = u64::MAX >> random.below(64),
                3 => *v = i64::MIN as u64,
                4 => *v = 1 << random.below(40),
                _ => *v = random.below(12) as u64,
            },
            Field::Fixed(_, b) => {
                let value = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e30, 2.0, 0.3][random.below(7)];
                b[..4].copy_from_slice(&value.to_le_bytes());
            }
            Field::Bytes(_, b) => match random.below(4) {
                0 => b.clear(),
                1 => b.push(random.below(256) as u8),
                _ if b.is_empty() => b.extend_from_slice(b"x0"),
                _ => {
                    let i = random.below(b.len());
                    b[i] = b[i].wrapping_add(1 + random.below(3) as u8);
                }
            },
            Field::Message(number, _) => *number = 1 + random.below(25) as u64,
        },
    }
}

#[test]
fn mutants_never_panic_or_hang() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx");
    let cases = common::cases(&folder);
    let (mut tried, mut imported, mut ran) = (0, 0, 0);
    for (i, case) in cases.iter().enumerate() {
        let good = std::fs::read(case.join("model.onnx")).unwrap();
        let fields = parse(&good, 12).expect("a golden model is well formed");
        for seed in 0..40u64 {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (i as u64) << 32 ^ (seed + 1));
            let mut bytes = good.clone();
            if seed < 10 {
                damage(&mut bytes, &mut random);
            } else {
                let mut fields = fields.clone();
                (0..=random.below(2)).for_each(|_| distort(&mut fields, &mut random));
                bytes = write(&fields);
            }
            let started = Instant::now();
            let name = case.file_name().unwrap().display();
            let result = std::panic::catch_unwind(|| read(&bytes));
            tried += 1;
            let Ok(result) = result else { panic!("{name}: mutant {seed} panics the importer") };
            if let Ok(graph) = result {
                imported += 1;
                ran += usize::from(run_if_small(&graph, &format!("{name}: mutant {seed}")));
            }
            let took = started.elapsed();
            assert!(took < Duration::from_secs(20), "{name}: mutant {seed} takes {took:?}");
        }
    }
    assert!(tried >= 5_000, "only {tried} mutants");
    assert!(imported > 500 && ran > 500, "{imported} of {tried} imported, {ran} ran");
}

/// A mutant that imports runs, too: what inference lets pass, the kernels can do.
fn run_if_small(graph: &Graph, name: &str) -> bool {
    let elements = graph.values().map(|(_, v)| v.fact.numel()).fold(0, usize::saturating_add);
    if elements > 100_000 {
        return false;
    }
    let inputs: Vec<(&str, Tensor)> = graph
        .inputs
        .iter()
        .map(|&id| {
            let v = graph.value(id);
            (v.name.as_str(), Tensor::zeros(v.fact.dtype, v.fact.shape.clone()))
        })
        .collect();
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let run = std::panic::AssertUnwindSafe(|| interpret::run(graph, &inputs).map(|_| ()));
    match std::panic::catch_unwind(run) {
        Ok(_) => true,
        Err(_) => panic!("{name} imports and then panics a kernel: {:?}", graph.nodes),
    }
}

/// Files may claim any shape: what would make up a constant of it is refused.
#[test]
fn shapes_that_would_need_huge_constants() {
    let i64s = |name: &str, dims: &[i64]| {
        let dim = |&d: &i64| Message::new().int(1, d);
        let shape = Message::new().all(1, dims.iter().map(dim));
        let tensor = Message::new().int(1, 7).message(2, shape);
        Message::new().str(1, name).message(2, Message::new().message(1, tensor))
    };
    let places = encode::weight("i", &[1, 1], &[0]);
    let depth = encode::weight("d", &[], &[999_999_999]);
    let wide = [4, 1 << 28];
    let cases = [
        (
            node("GatherElements", &["x", "n"], &["y"], vec![encode::int("axis", 0)]),
            vec![value("x", &wide), i64s("n", &wide)],
            vec![],
            "a constant of 268435456 elements",
        ),
        (
            node("ScatterND", &["x", "i", "u"], &["y"], vec![]),
            vec![value("x", &[1 << 30]), value("u", &[1])],
            vec![places],
            "a constant of 1073741824 elements",
        ),
        (
            node("Hardmax", &["x"], &["y"], vec![]),
            vec![value("x", &[1 << 30])],
            vec![],
            "a constant of 1073741824 elements",
        ),
        (
            node("OneHot", &["n", "d", "v"], &["y"], vec![]),
            vec![i64s("n", &[1]), i64s("v", &[2])],
            vec![depth],
            "a constant of 999999999 elements",
        ),
    ];
    for (node, inputs, weights, part) in cases {
        let bytes = model(17, graph(vec![node], weights, inputs, vec![value("y", &[1])]));
        expect(&bytes, 9, &[part]);
    }
}

#[test]
fn scales_are_finite_and_above_0() {
    for (scale, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (0.0, "0"), (-0.5, "-0.5")] {
        let constant = || Message::new().int(2, 1).bytes(9, &scale.to_le_bytes()).str(8, "s");
        let quantize = || node("QuantizeLinear", &["x", "s"], &["q"], vec![]).str(3, "first");
        let bytes = net(
            vec![quantize(), node("DequantizeLinear", &["q", "s"], &["y"], vec![])],
            vec![constant()],
        );
        expect(&bytes, 4, &["first", &format!("its scale is {said};")]);
    }
}
