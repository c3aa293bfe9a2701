//! The README's table of ONNX cases is what the manifest gives, and the manifest what the rules
//! give. (`.ci/onnx` runs the cases.)

mod common;

use common::root;
use conformance::onnx::manifest::{self, Verdict};
use conformance::onnx::scope::{self, Scope};
use conformance::onnx::table;

#[test]
fn the_readme_has_the_manifests_table() {
    let cases = manifest::parse(manifest::CHECKED_IN).expect("a manifest");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let again = table::replaced(&readme, &table::table(&cases)).expect("a place for the table");
    assert!(readme == again, "write it again: onnx-cases DIR --write");
}

#[test]
fn the_manifest_follows_the_rules_and_nearly_all_in_scope_passes() {
    let cases = manifest::parse(manifest::CHECKED_IN).expect("a manifest");
    let scope = Scope::parse(scope::CHECKED_IN).expect("rules");
    let (mut passed, mut inside) = (0, 0);
    for (case, verdict) in &cases {
        let out = scope.out(case).expect("every operator is named");
        assert_eq!(out.is_some(), *verdict == Verdict::Out, "{}: {out:?}", case.name);
        inside += usize::from(*verdict != Verdict::Out);
        passed += usize::from(*verdict == Verdict::Pass);
    }
    assert!(passed * 100 >= inside * 95, "{passed} of {inside}");
    assert_eq!(cases.iter().filter(|(c, _)| c.kind == "pytorch").count(), 82);
}

#[test]
fn every_rule_names_a_case() {
    let cases = manifest::parse(manifest::CHECKED_IN).expect("a manifest");
    let scope = Scope::parse(scope::CHECKED_IN).expect("rules");
    for operator in scope.operators() {
        assert!(cases.iter().any(|(c, _)| c.operators.contains(operator)), "{operator}");
    }
    for pattern in scope.patterns() {
        assert!(cases.iter().any(|(c, _)| scope::matches(pattern, &c.name)), "{pattern}");
    }
}
