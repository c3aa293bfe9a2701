//! The README's table: passed / in scope / all, by operator.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::manifest::{Case, Verdict};

const BEGIN: &str = "<!-- onnx-cases: begin -->\n";
const END: &str = "<!-- onnx-cases: end -->\n";
/// Operators beside one another.
const COLUMNS: usize = 4;

/// Passed, in scope, all.
type Counts = [usize; 3];

fn add(counts: &mut Counts, verdict: Verdict) {
    counts[0] += usize::from(verdict == Verdict::Pass);
    counts[1] += usize::from(verdict != Verdict::Out);
    counts[2] += 1;
}

fn slashed(counts: &Counts) -> String {
    let [passed, in_scope, all] = counts;
    format!("{passed} / {in_scope} / {all}")
}

/// The table as Markdown.
pub fn table(cases: &[(Case, Verdict)]) -> String {
    let mut by_operator: BTreeMap<&str, Counts> = BTreeMap::new();
    let (mut bodies, mut pytorch, mut all) = (Counts::default(), Counts::default(), [0; 3]);
    for (case, verdict) in cases {
        add(&mut all, *verdict);
        let row = if case.kind == "pytorch" {
            &mut pytorch
        } else if case.name.contains("_expanded") {
            &mut bodies
        } else {
            let name = match case.operators.as_slice() {
                [one] => one,
                _ => "several",
            };
            by_operator.entry(name).or_default()
        };
        add(row, *verdict);
    }
    let mut out = format!(
        "**{} of the {} cases in scope pass** ({:.1} %), {} cases in all. Of these, functions \
         spelt out by their bodies: {}; converted PyTorch layers: {}.\n\n",
        all[0],
        all[1],
        100.0 * all[0] as f64 / all[1] as f64,
        all[2],
        slashed(&bodies),
        slashed(&pytorch)
    );
    let shown: Vec<(&str, Counts)> =
        by_operator.into_iter().filter(|(_, counts)| counts[1] > 0).collect();
    let _ = writeln!(out, "{}|", "| operator | passed / in scope / all ".repeat(COLUMNS));
    let _ = writeln!(out, "{}|", "|---|---".repeat(COLUMNS));
    let rows = shown.len().div_ceil(COLUMNS);
    for row in 0..rows {
        for column in 0..COLUMNS {
            match shown.get(column * rows + row) {
                Some((name, counts)) => {
                    let _ = write!(out, "| {name} | {} ", slashed(counts));
                }
                None => out.push_str("| | "),
            }
        }
        out.push_str("|\n");
    }
    out
}

/// A text with the table in its place.
///
/// # Errors
///
/// The text has no place for it.
pub fn replaced(text: &str, table: &str) -> Result<String, String> {
    let missing = || format!("no lines {} and {}", BEGIN.trim(), END.trim());
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}
