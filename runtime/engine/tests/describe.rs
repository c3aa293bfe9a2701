//! What people are shown of an engine.

mod common;

use tobiuo_engine::{Program, describe};

#[test]
fn an_engine_in_words() {
    let text = describe(&common::manifest());
    let expected = "\
model      tiny.onnx (by hand)
hash       0000000000000000000000000000000000000000000000000000000000000000
builder    0.1.0
options    precision=fp32 batch=1,2
device     cpu (any)
precision  fp32
input      image: f32 1x3x8x8
output     boxes: f32 1x6x64
task       detect 2 classes in boxes (score >= 0.25, overlap <= 0.45, at most 100)
frames     letterbox, rgb, mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]
labels     cup, pen
pass       fuse                         12 -> 9 nodes
note       a note with \\\"quotes\\\", a tab\\t and 飛魚

plan for batch 1: 10 steps, arena 10.2 KiB, weights 400 B
#  op              output   MFLOP     bytes  name
0  Conv+Silu       1x4x8x8   0.00   1.8 KiB  conv_a
1  Conv+LeakyRelu  1x4x8x8   0.00   1.8 KiB  conv_b
2  Concat          1x8x8x8   0.00   4.0 KiB  join
3  Abs             1x8x8x8   0.00   4.0 KiB  abs
4  Conv            1x8x8x8   0.01   6.3 KiB  mix
5  Clip            1x8x8x8   0.00   4.0 KiB  clip
6  Sin             1x8x8x8   0.00   4.0 KiB  half
7  Add             1x8x8x8   0.00   6.0 KiB  sum
8  Slice           1x6x8x8   0.00   3.5 KiB  cut
9  Reshape         1x6x64    0.00   3.0 KiB  flatten
   total                     0.01  38.4 KiB
";
    let first_plan = text.split("\n\nplan for batch 2").next().unwrap().to_string() + "\n";
    assert_eq!(first_plan, expected, "\n{text}");
    assert!(text.contains("\n\nplan for batch 2: 10 steps, arena 20.5 KiB"), "{text}");
}

#[test]
fn names_are_escaped_and_cut() {
    let mut manifest = common::manifest();
    let Program::Cpu(steps) = &mut manifest.plans[0].program else { unreachable!() };
    steps[0].name = "\x1b[2J".repeat(100);
    manifest.labels[0] = "two\nlines".into();
    manifest.provenance.model.clear();
    let text = describe(&manifest);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    assert!(text.contains("labels     two\\nlines, pen\n"), "{text}");
    assert!(text.lines().all(|l| l.len() < 1000));
}
