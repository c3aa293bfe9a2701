//! The onnx package's node test cases: imported and run on the CPU reference.
//!
//! The cases are not checked in; tests/golden/export_node_cases.py writes them and says how to
//! run this test. `onnx_node.txt` lists the cases known to pass: each of them must.

#[allow(dead_code)]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Operators of ONNX that Tobiuo takes: every case of theirs is in scope, unless it is about
/// an element type, training or a form that the importer says is not supported.
fn in_scope(reason: &str) -> bool {
    [
        "is not supported",
        "are not supported",
        "element type",
        "is supported",
        "are supported",
        "computed while the network runs",
    ]
    .iter()
    .all(|p| !reason.contains(p))
}

#[test]
#[ignore = "needs the onnx package's cases, see tests/golden/export_node_cases.py"]
fn node_cases_that_are_known_to_pass_do() {
    let folder = PathBuf::from(
        std::env::var("TOBIUO_ONNX_NODE").expect("TOBIUO_ONNX_NODE names the cases' folder"),
    );
    let list = std::fs::read_to_string(folder.join("cases.tsv")).expect("cases.tsv");
    let known_at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_node.txt");
    let known: BTreeSet<String> = std::fs::read_to_string(&known_at)
        .unwrap_or_default()
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_string)
        .collect();
    // By operator: passed, in scope, all.
    let mut table: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut passed = BTreeSet::new();
    let mut failures = Vec::new();
    for line in list.lines() {
        let mut columns = line.split('\t');
        let mut next = || columns.next().unwrap_or_default();
        let (name, op, unwritten) = (next(), next(), next());
        let row = table.entry(op.to_string()).or_default();
        row[2] += 1;
        if !unwritten.is_empty() {
            continue;
        }
        // This case's expected values are written down with four digits.
        let rounded = name == "test_averagepool_2d_ceil_last_window_starts_on_pad";
        match common::run(&folder.join(name), if rounded { 1e-3 } else { 1e-5 }) {
            Ok(()) => {
                row[0] += 1;
                row[1] += 1;
                passed.insert(name.to_string());
            }
            Err(reason) => {
                let counts = in_scope(&reason);
                row[1] += usize::from(counts);
                failures.push(format!("{} {name}: {reason}", if counts { "FAIL" } else { "out " }));
            }
        }
    }
    failures.sort();
    for failure in &failures {
        println!("{}", failure.replace('\n', " "));
    }
    let mut sum = [0; 3];
    println!("{:<28} passed  in scope  all", "operator");
    for (op, row) in &table {
        (0..3).for_each(|i| sum[i] += row[i]);
        if row[1] > 0 {
            println!("{op:<28} {:>6} {:>9} {:>4}", row[0], row[1], row[2]);
        }
    }
    println!("{:<28} {:>6} {:>9} {:>4}", "all", sum[0], sum[1], sum[2]);
    if let Ok(path) = std::env::var("TOBIUO_ONNX_NODE_WRITE") {
        let lines: String = passed.iter().map(|n| format!("{n}\n")).collect();
        std::fs::write(path, lines).expect("the list of passes is written");
    }
    let lost: Vec<&String> = known.difference(&passed).collect();
    assert!(lost.is_empty(), "{} cases no longer pass: {lost:#?}", lost.len());
    assert!(!known.is_empty(), "{} is empty", known_at.display());
}
