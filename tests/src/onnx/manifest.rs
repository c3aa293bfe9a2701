//! Every case of the package and what is expected of it: tests/onnx/cases.tsv.

use std::fmt::Write;

/// The manifest that is checked in.
pub const CHECKED_IN: &str = include_str!("../../onnx/cases.tsv");

/// What is expected of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, on every device.
    Pass,
    /// It is in scope and does not pass.
    Fail,
    /// It is not in scope.
    Out,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Out => "out",
        }
    }
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name, and that of its folder.
    pub name: String,
    /// `node`: the package computes it; `pytorch`: a converted PyTorch layer.
    pub kind: String,
    /// The standard's version that it is written for.
    pub opset: i64,
    /// The operators in it.
    pub operators: Vec<String>,
    /// Element types of inputs, outputs and weights.
    pub types: Vec<String>,
    /// Why it could not be written; empty where it was.
    pub unwritten: String,
}

fn case<'a>(mut next: impl FnMut() -> Option<&'a str>) -> Option<Case> {
    let list = |text: &str| text.split(',').map(str::to_string).collect();
    Some(Case {
        name: next()?.to_string(),
        kind: next()?.to_string(),
        opset: next()?.parse().ok()?,
        operators: list(next()?),
        types: list(next()?),
        unwritten: String::new(),
    })
}

/// The cases that make_cases.py wrote, from its cases.tsv.
///
/// # Errors
///
/// A line that it does not write.
pub fn written(text: &str) -> Result<Vec<Case>, String> {
    let one = |line: &str| {
        let mut columns = line.split('\t');
        let mut case = case(|| columns.next())?;
        case.unwritten = columns.next()?.to_string();
        Some(case)
    };
    text.lines().map(|l| one(l).ok_or_else(|| format!("no case: {l}"))).collect()
}

/// The cases with their verdicts, from a manifest.
///
/// # Errors
///
/// A line that is none of a manifest.
pub fn parse(text: &str) -> Result<Vec<(Case, Verdict)>, String> {
    let one = |line: &str| {
        let mut columns = line.split('\t');
        let case = case(|| columns.next())?;
        let verdict = match columns.next()? {
            "pass" => Verdict::Pass,
            "fail" => Verdict::Fail,
            "out" => Verdict::Out,
            _ => return None,
        };
        Some((case, verdict))
    };
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| one(l).ok_or_else(|| format!("no case with a verdict: {l}"))).collect()
}

/// The manifest's text.
pub fn text(cases: &[(Case, Verdict)]) -> String {
    let mut out = String::from(
        "# Every case of the onnx package's backend test: name, kind, opset, operators, types, and\n\
         # what is expected. Written by `onnx-cases DIR --write`; scope.txt says what is in scope.\n",
    );
    for (case, verdict) in cases {
        let (operators, types) = (case.operators.join(","), case.types.join(","));
        let Case { name, kind, opset, .. } = case;
        let verdict = verdict.text();
        let _ = writeln!(out, "{name}\t{kind}\t{opset}\t{operators}\t{types}\t{verdict}");
    }
    out
}
